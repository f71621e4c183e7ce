//! What is at the edges: unmapping that is cut short, faults that are not ours, disks.
#![expect(clippy::disallowed_methods, reason = "a test that starts a process that dies")]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use recoverable::{Error, PersistentRegion, Rvm, Step, Survives, Vista, VistaOptions};

/// One test at a time: a child that was forked and has not begun its own program yet has our open files, and their locks.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const VICTIM: &str = env!("CARGO_BIN_EXE_recoverable-victim");

#[test]
fn region_unmapped_half_when_the_process_died_can_be_mapped_again_and_elsewhere() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let whole = Command::new(VICTIM).args(["vista", "unmap"]).arg(dir.path()).output().unwrap();
    assert!(whole.status.success());
    let steps: Vec<Step> = whole.stdout.iter().map(|&byte| Step::ALL[usize::from(byte)]).collect();
    for step in [Step::RegionFreed, Step::RegionForgotten] {
        let n = 1 + steps.iter().position(|&other| other == step).unwrap();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let status =
            Command::new(VICTIM).args(["vista", "unmap"]).arg(dir.path()).arg(n.to_string()).output().unwrap().status;
        assert_eq!(status.signal(), Some(9));

        let path = dir.path().join("a");
        let mut vista = Vista::open(dir.path().join("log"), VistaOptions::default()).unwrap();
        let region = vista.map(&path, 9000).unwrap();
        assert_eq!(vista.bytes(region).unwrap()[0], 1, "{step:?}");
        vista.unmap(region).unwrap();
        let mut other = Vista::open(dir.path().join("other"), VistaOptions::default()).unwrap();
        other.map(&path, 9000).unwrap();
    }
}

#[test]
fn stores_outside_a_transaction_and_outside_a_region_are_faults_for_the_handler_of_before() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let run = |what| Command::new(VICTIM).args(["vista", what]).arg(dir.path()).output().unwrap().status;
    assert_eq!(run("fault-unhandled").signal(), Some(11));
    assert_eq!(run("fault-handled").code(), Some(77), "the handler that was there before ends with 77");
}

#[test]
fn disk_survives_a_loss_of_power_and_memory_does_not() {
    let _alone = alone();
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = VistaOptions { required: Survives::PowerLoss, ..VistaOptions::default() };
    match Vista::open(disk.path().join("log"), options) {
        Ok(vista) => assert_eq!(vista.survives(), Survives::PowerLoss),
        // Built in tmpfs, or on a file system of which nothing is known: then it must say so.
        Err(error) => assert!(matches!(error, Error::TooWeak { .. }), "{error}"),
    }
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let error = Vista::open(memory.path().join("log"), options).unwrap_err();
    assert!(matches!(error, Error::TooWeak { .. }), "{error}");
}

/// Past the capture of the test runner, for whoever counts.
fn skip(test: &str, why: &str) {
    std::io::stdout().write_all(format!("\nSKIPPED {test}: {why}\n").as_bytes()).expect("standard output takes a line");
}

#[test]
fn transactions_on_a_disk_are_synced_and_there_after_reopening() {
    let _alone = alone();
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for required in [Survives::ProcessDeath, Survives::PowerLoss] {
        let options = VistaOptions { required, ..VistaOptions::default() };
        let Ok(mut vista) = Vista::open(disk.path().join(format!("log{required:?}")), options) else {
            return skip("transactions_on_a_disk_are_synced_and_there_after_reopening", "the build is on no disk");
        };
        let path = disk.path().join(format!("r{required:?}"));
        let region = vista.map(&path, 4096).unwrap();
        let mut transaction = vista.begin().unwrap();
        transaction.set_range(region, 5..9).unwrap().copy_from_slice(b"disk");
        transaction.end().unwrap();
        drop(vista);
        let mut vista = Vista::open(disk.path().join(format!("log{required:?}")), options).unwrap();
        let region = vista.map(&path, 4096).unwrap();
        assert_eq!(&vista.bytes(region).unwrap()[5..9], b"disk");
    }
}

#[test]
fn disk_that_is_full_in_the_middle_of_a_commit_harms_neither_memory_nor_earlier_commits() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let output = Command::new(VICTIM).args(["rvm", "no-space"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn file_that_does_not_fit_is_an_error_and_leaves_nothing_behind() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("r");
    for error in [
        PersistentRegion::open(&path, 1 << 45, Survives::ProcessDeath).map(drop).unwrap_err(),
        Rvm::create_log(&path, 1 << 45).unwrap_err(),
        Vista::open(&path, VistaOptions { log_bytes: 1 << 45, ..VistaOptions::default() }).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Io { what: "creating", .. }), "{error:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
