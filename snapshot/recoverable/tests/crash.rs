//! A process is killed at every step, at every step of the recovery from that, and at a thousand random moments.
//!
//! The oracle is outside: this process keeps what every committed transaction made, in memory of its own. The victim says
//! by one byte for each step how far it came, so that there is exactly one right content after each kill.
#![expect(clippy::disallowed_methods, reason = "a test that starts, kills and waits for processes")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recoverable::{Declare, Error, RecoverableMemory, RegionId, Step, Survives};

#[path = "../victim/bank.rs"]
#[allow(dead_code, reason = "the victim uses more of it")]
mod bank;
#[path = "../victim/work.rs"]
mod work;

/// One test at a time: a child that was forked and has not begun its own program yet has our open files, and their locks.
static ALONE: Mutex<()> = Mutex::new(());

const VICTIM: &str = env!("CARGO_BIN_EXE_recoverable-victim");

/// Where a kind of recoverable memory does a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Both kinds, at work.
    Both,
    /// `Vista` at work.
    Vista,
    /// `Vista` when it is opened after a crash.
    VistaRecovery,
    /// `Rvm` at work.
    Rvm,
    /// `Rvm` when it is opened after a crash.
    RvmRecovery,
    /// Neither in this work: tested where it is named.
    Elsewhere,
}

/// Written out, so that a new step does not compile before somebody says where it is tested.
fn place(step: Step) -> Place {
    use Step::*;
    match step {
        FileReserved | FileWritten | FileNamed | RegionListed | RegionBound => Place::Both,
        HeapFormatting | HeapTaken | HeapCut | HeapMarked | HeapUnmarked | HeapListed | HeapRooted => Place::Both,
        NumberStored | RegionMarked | ImageWritten | ImagePublished | EndBegun | DataPersisted | Committed
        | RegionsReleased | AbortBegun | AbortRestored | AbortPersisted | AbortDiscarded => Place::Vista,
        RecoveryBegun | RecoveryRestored | RecoveryPersisted | RecoveryDiscarded => Place::VistaRecovery,
        // tests/edges.rs
        RegionFreed | RegionForgotten => Place::Elsewhere,
        RecordSpooled | FlushBegun | FlushTorn | FlushWritten | FlushSynced | TruncationBegun | TruncationApplied
        | TruncationSynced | StatusWritten | StatusSynced => Place::Rvm,
        ReplayBegun | ReplayEnded => Place::RvmRecovery,
    }
}

/// Ordinary memory with transactions: what the others are compared with.
#[derive(Debug, Default)]
struct Model {
    regions: Vec<Vec<u8>>,
    /// The regions after each committed transaction; first before any.
    commits: Vec<Vec<Vec<u8>>>,
}

impl Declare for Model {
    fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        Ok(&self.regions[usize::from(region.number())])
    }

    fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        Ok(&mut self.regions[usize::from(region.number())][range])
    }
}

impl RecoverableMemory for Model {
    fn map(&mut self, _: &Path, len: usize) -> Result<RegionId, Error> {
        self.regions.push(vec![0; len]);
        self.commits = vec![self.regions.clone()];
        Ok(RegionId::new(self.regions.len() as u16 - 1))
    }

    fn begin(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.commits.push(self.regions.clone());
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.regions = self.commits.last().expect("something was mapped").clone();
        Ok(())
    }

    fn survives(&self) -> Survives {
        Survives::ProcessDeath
    }

    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn file(&self, region: RegionId) -> Result<(&File, u64), Error> {
        Err(Error::NoRegion(region))
    }
}

/// What a victim said, and how it ended.
struct Victim {
    steps: Vec<Step>,
    was_killed: bool,
}

impl Victim {
    fn run(kind: &str, what: &str, dir: &Path, kill_at: Option<usize>) -> Self {
        let n = kill_at.map_or("none".to_owned(), |n| n.to_string());
        let output = Command::new(VICTIM).args([kind, what]).arg(dir).arg(n).output().expect("the victim starts");
        let was_killed = output.status.signal() == Some(9);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(was_killed == kill_at.is_some(), "{kind} {what} {kill_at:?}: {}: {error}", output.status);
        assert!(was_killed || output.status.success(), "{kind} {what}: {}: {error}", output.status);
        Self { steps: output.stdout.iter().map(|&byte| Step::ALL[usize::from(byte)]).collect(), was_killed }
    }

    /// How many transactions have happened.
    fn commits(&self, kind: &str) -> usize {
        // What RVM has written outlasts a process; that it is synced too concerns the disk.
        let commit = if kind == "vista" { Step::Committed } else { Step::FlushWritten };
        self.steps.iter().filter(|&&step| step == commit).count()
    }
}

/// The files of a directory, to be put back.
struct Saved(Vec<(PathBuf, Vec<u8>)>);

impl Saved {
    fn of(dir: &Path) -> Self {
        let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        Self(paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect())
    }

    fn put_back(&self, dir: &Path) {
        fs::read_dir(dir).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        self.0.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

fn check(kind: &str, dir: &Path, expected: &[Vec<u8>], context: &str) {
    let mut memory = work::open(kind, dir).unwrap_or_else(|error| panic!("{context}: {error}"));
    let regions = work::map(&mut *memory, dir).unwrap_or_else(|error| panic!("{context}: {error}"));
    for (region, expected) in regions.into_iter().zip(expected) {
        let found = memory.bytes(region).unwrap();
        let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
        assert!(at.is_none(), "{context}: {region:?} differs at byte {at:?}");
    }
    memory.begin().and_then(|()| memory.end()).unwrap_or_else(|error| panic!("{context}: {error}"));
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills at every step of the work, and for each at every step of the recovery; gives the steps at which it killed.
fn kill_everywhere(kind: &str) -> BTreeSet<Step> {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut model = Model::default();
    work::work(&mut model, dir.path()).unwrap();
    let whole = Victim::run(kind, "work", dir.path(), None);
    assert_eq!(whole.commits(kind), model.commits.len() - 1, "{:?}", whole.steps);
    check(kind, dir.path(), model.commits.last().unwrap(), "not killed");

    let mut killed_at = BTreeSet::new();
    for n in 1..=whole.steps.len() {
        Saved(Vec::new()).put_back(dir.path());
        let victim = Victim::run(kind, "work", dir.path(), Some(n));
        assert!(victim.was_killed && victim.steps.len() == n);
        killed_at.insert(victim.steps[n - 1]);
        let expected = &model.commits[victim.commits(kind)];
        let left = Saved::of(dir.path());
        let context = format!("killed at step {n}, {:?}", victim.steps[n - 1]);
        let recovery = Victim::run(kind, "recover", dir.path(), None);
        check(kind, dir.path(), expected, &context);
        for m in 1..=recovery.steps.len() {
            left.put_back(dir.path());
            let recovery = Victim::run(kind, "recover", dir.path(), Some(m));
            killed_at.insert(recovery.steps[m - 1]);
            let context = format!("{context}, recovery killed at step {m}, {:?}", recovery.steps[m - 1]);
            check(kind, dir.path(), expected, &context);
        }
    }
    killed_at
}

fn all_of(places: &[Place]) -> BTreeSet<Step> {
    Step::ALL.iter().copied().filter(|&step| places.contains(&place(step))).collect()
}

#[test]
fn vista_killed_at_every_step_and_at_every_step_of_recovery_has_the_last_commit() {
    assert_eq!(kill_everywhere("vista"), all_of(&[Place::Both, Place::Vista, Place::VistaRecovery]));
}

#[test]
fn rvm_killed_at_every_step_and_at_every_step_of_recovery_has_the_last_commit() {
    assert_eq!(kill_everywhere("rvm"), all_of(&[Place::Both, Place::Rvm, Place::RvmRecovery]));
}

/// Debit and credit, killed at random moments; the next victim goes on where the last one was.
fn kill_at_random(kind: &str, kills: u64, longest_us: u64) {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (mut expected, mut count) = (vec![0u8; bank::LEN], 0u64);
    let mut seed = 0x0571_1A57u64;
    for kill in 0..kills {
        let mut victim =
            Command::new(VICTIM).args([kind, "bank"]).arg(dir.path()).stdout(Stdio::null()).spawn().unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros((seed >> 33) % longest_us));
        victim.kill().unwrap();
        let status = victim.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "kill {kill}: {status}");

        let noted = fs::read(dir.path().join(bank::NOTED)).unwrap_or_default();
        let noted = noted.try_into().map_or(0, u64::from_le_bytes);
        let mut memory = work::open(kind, dir.path()).unwrap();
        let region = memory.map(&dir.path().join("bank"), bank::LEN).unwrap();
        let found = memory.bytes(region).unwrap();
        let committed = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert!(committed == noted || committed == noted + 1, "kill {kill}: {committed} committed, {noted} noted");
        while count < committed {
            for (at, amount) in bank::changes(count) {
                let bytes = expected[at..at + 8].first_chunk_mut::<8>().unwrap();
                *bytes = u64::from_le_bytes(*bytes).wrapping_add(amount).to_le_bytes();
            }
            count += 1;
        }
        assert!(found == expected, "kill {kill}: after {count} transactions the bytes differ");
    }
    assert!(count > kills, "the victims did {count} transactions in {kills} lives");
    println!("{kind}: {kills} kills, {count} transactions");
}

#[test]
fn vista_killed_a_thousand_times_at_random_loses_nothing_and_makes_nothing_up() {
    kill_at_random("vista", 1000, 8000);
}

#[test]
fn rvm_killed_at_random_while_its_thread_truncates_loses_nothing_and_makes_nothing_up() {
    kill_at_random("rvm-background", 300, 12_000);
}
