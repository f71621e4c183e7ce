//! Races, lost answers, restarts and hanging storage.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;

use super::*;

const SESSION: [u8; 16] = [0xab; 16];
const OTHER: [u8; 16] = [0xcd; 16];

fn witness() -> (tempfile::TempDir, FileWitness) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let witness = FileWitness::open(dir.path()).expect("writable");
    (dir, witness)
}

fn holder(role: Role) -> Holder {
    Holder::this_process(role).expect("/proc is there")
}

/// A process of a host that we know nothing about.
fn elsewhere(role: Role) -> Holder {
    Holder { boot_id: "another boot".into(), host: "b".into(), ..holder(role) }
}

fn is_granted(result: &ClaimResult) -> bool {
    matches!(result, ClaimResult::Granted)
}

#[test]
fn claim_twice_by_one_side_is_granted_twice_and_denied_to_the_other() {
    let (_dir, witness) = witness();
    let (primary, backup) = (holder(Role::Primary), holder(Role::Backup));
    assert!(is_granted(&witness.claim("vm0", SESSION, &backup)));
    assert!(is_granted(&witness.claim("vm0", SESSION, &backup)));
    match witness.claim("vm0", SESSION, &primary) {
        ClaimResult::Denied { holder } => assert!(holder.is(&backup)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn claim_of_another_session_or_vm_is_free() {
    let (_dir, witness) = witness();
    assert!(is_granted(&witness.claim("vm0", SESSION, &holder(Role::Backup))));
    assert!(is_granted(&witness.claim("vm0", OTHER, &holder(Role::Primary))));
    assert!(is_granted(&witness.claim("vm0.x", SESSION, &holder(Role::Primary))));
}

#[test]
fn claim_raced_by_many_threads_has_exactly_one_winner() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    const RACERS: usize = 16;
    for round in 0..50_u8 {
        let barrier = Barrier::new(RACERS);
        let race = || {
            let (witness, me) = (FileWitness::open(dir.path()).expect("writable"), holder(Role::Backup));
            barrier.wait();
            witness.claim("vm0", [round; 16], &me)
        };
        let granted = thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
            let results: Vec<ClaimResult> = racers.into_iter().map(|racer| racer.join().expect("no panic")).collect();
            assert!(results.iter().all(|r| !matches!(r, ClaimResult::Unreachable(_))), "{results:?}");
            results.iter().filter(|result| is_granted(result)).count()
        });
        assert_eq!(granted, 1, "round {round}");
    }
}

const ROUNDS: u8 = 40;

/// The racing side of the next test: not a test of its own, it does nothing unless that one starts it. Started by hand on
/// two hosts with one shared directory, it tests that storage.
#[test]
fn racing_process() {
    let Ok(dir) = std::env::var("OUTLAST_TEST_WITNESS") else {
        return;
    };
    let witness = FileWitness::open(Path::new(&dir)).expect("writable");
    while !Path::new(&dir).join("go").exists() {
        thread::yield_now();
    }
    for round in 0..ROUNDS {
        if is_granted(&witness.claim("vm0", [round; 16], &holder(Role::Primary))) {
            println!("granted {round}");
        }
    }
}

#[test]
fn claim_raced_by_many_processes_has_exactly_one_winner_each() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = |_| {
        Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "witness::tests::racing_process", "--nocapture"])
            .env("OUTLAST_TEST_WITNESS", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started")
    };
    let racers: Vec<_> = (0..6).map(start).collect();
    fs::write(dir.path().join("go"), "").expect("written");
    let mut rounds = Vec::new();
    for racer in racers {
        let output = racer.wait_with_output().expect("ended");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        rounds.extend(text.lines().filter_map(|line| line.strip_prefix("granted ")?.parse::<u8>().ok()));
    }
    rounds.sort_unstable();
    assert_eq!(rounds, (0..ROUNDS).collect::<Vec<u8>>());
}

#[test]
fn claim_with_a_leftover_draft_is_granted_and_leaves_one_file() {
    let (dir, witness) = witness();
    let me = holder(Role::Backup);
    fs::write(dir.path().join(format!(".vm0.{}.{}", "ab".repeat(16), me.id)), "half").expect("written");
    assert!(is_granted(&witness.claim("vm0", SESSION, &me)));
    let files: Vec<_> = fs::read_dir(dir.path()).expect("there").map(|f| f.expect("readable").file_name()).collect();
    assert_eq!(files, [format!("vm0.{}.claim", "ab".repeat(16)).as_str()]);
}

#[test]
fn claim_file_that_is_garbage_is_no_proof_for_anybody() {
    let (dir, witness) = witness();
    fs::write(dir.path().join(format!("vm0.{}.claim", "ab".repeat(16))), "garbage").expect("written");
    let result = witness.claim("vm0", SESSION, &holder(Role::Backup));
    assert!(matches!(result, ClaimResult::Unreachable(ref error) if error.kind() == io::ErrorKind::InvalidData));
    assert_eq!(witness.check_start("vm0", &holder(Role::Primary)).expect_err("unknown").exit(), Exit::Timeout);
}

#[test]
fn claim_when_the_storage_is_gone_is_unreachable() {
    let (dir, witness) = witness();
    drop(dir);
    assert!(matches!(witness.claim("vm0", SESSION, &holder(Role::Backup)), ClaimResult::Unreachable(_)));
}

#[test]
fn open_missing_directory_is_not_found_and_is_not_made() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("mount");
    let error = FileWitness::open(&missing).expect_err("missing");
    assert_eq!(error.exit(), Exit::NotFound);
    assert!(!missing.exists());
}

#[test]
fn check_start_after_a_takeover_elsewhere_is_refused_until_it_is_ended() {
    let (_dir, witness) = witness();
    let backup = elsewhere(Role::Backup);
    witness.check_start("vm0", &holder(Role::Primary)).expect("never run");
    assert!(is_granted(&witness.claim("vm0", SESSION, &backup)));
    let error = witness.check_start("vm0", &holder(Role::Primary)).expect_err("it runs there");
    assert_eq!(error.exit(), Exit::SplitBrain);
    assert!(error.to_string().contains("the backup on host b"), "{error}");
    witness.check_start("vm1", &holder(Role::Primary)).expect("another VM");
    witness.end("vm0", &backup).expect("written");
    witness.end("vm0", &backup).expect("twice is fine");
    witness.check_start("vm0", &holder(Role::Primary)).expect("it has ended");
}

#[test]
fn claim_of_an_earlier_life_of_this_side_is_granted_again_and_does_not_forbid_a_start() {
    // The host was started anew since: that the claimant is gone cannot be seen.
    let (_dir, witness) = witness();
    let before = elsewhere(Role::Primary);
    assert!(is_granted(&witness.claim("vm0", SESSION, &before)));
    let stranger = holder(Role::Primary);
    assert_eq!(witness.check_start("vm0", &stranger).expect_err("another side").exit(), Exit::SplitBrain);
    assert!(!is_granted(&witness.claim("vm0", SESSION, &stranger)));
    let now = Holder { id: before.id.clone(), ..stranger };
    witness.check_start("vm0", &now).expect("it is this side's own");
    assert!(is_granted(&witness.claim("vm0", SESSION, &now)));
}

#[test]
fn check_start_hint_names_the_file_that_ends_the_claim() {
    let (_dir, witness) = witness();
    assert!(is_granted(&witness.claim("vm0", SESSION, &elsewhere(Role::Backup))));
    let hint = witness.check_start("vm0", &holder(Role::Primary)).expect_err("it runs there").hint().expect("a hint");
    let path = hint.split('`').rfind(|part| part.starts_with("touch ")).expect("a command");
    fs::write(path.trim_start_matches("touch "), "").expect("touched");
    witness.check_start("vm0", &holder(Role::Primary)).expect("ended by hand");
}

#[test]
fn check_start_after_a_dead_process_of_this_boot_is_allowed() {
    let (_dir, witness) = witness();
    let dead = Holder { pid: u32::MAX, ..holder(Role::Primary) };
    assert!(is_granted(&witness.claim("vm0", SESSION, &dead)));
    witness.check_start("vm0", &holder(Role::Primary)).expect("it died");
    assert!(is_granted(&witness.claim("vm0", OTHER, &holder(Role::Primary))));
    assert_eq!(witness.check_start("vm0", &holder(Role::Primary)).expect_err("alive").exit(), Exit::SplitBrain);
}

#[test]
fn end_keeps_the_claim_so_that_a_thawed_primary_is_still_denied() {
    let (_dir, witness) = witness();
    let backup = holder(Role::Backup);
    assert!(is_granted(&witness.claim("vm0", SESSION, &backup)));
    witness.end("vm0", &backup).expect("written");
    assert!(matches!(witness.claim("vm0", SESSION, &holder(Role::Primary)), ClaimResult::Denied { .. }));
}
