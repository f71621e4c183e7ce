//! Races, directories that are exchanged, records that are damaged, storage that hangs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;

use replication::SessionId;
use replication::view::evidence::Statement;
use replication::view::{
    Attempt, Entry, Incarnation, Location, Outcome, Place, PlaceKind, Record, Register, RegisterId, Wish,
};

use super::file::{self, FileWitness};
use super::*;

const VM: &str = "vm0.x";

fn witness() -> (tempfile::TempDir, FileWitness) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let witness = file::open(dir.path()).expect("writable");
    (dir, witness)
}

fn place(id: u8) -> Place {
    Place { id: Incarnation([id; 16]), kind: PlaceKind::Process, location: Location::default() }
}

/// A record of the place `id`.
pub(super) fn record(number: u64, id: u8) -> Record {
    Record { number, ..Record::first(RegisterId([1; 16]), Attempt(random()), place(id)) }
}

fn entries(witness: &FileWitness, vm: &str, ask: Ask) -> Vec<Entry> {
    let found = perform(witness, vm, ask).expect("it answers");
    assert_eq!(found.by, None, "a directory does not know which one it is");
    found.entries
}

fn append(witness: &FileWitness, record: Record) -> Vec<Entry> {
    let from = record.number;
    entries(witness, VM, Ask::Append { record: Box::new(record), from })
}

fn begin() -> Wish {
    Wish::Begin {
        store: None,
        durability: None,
        dead: Default::default(),
        here: Default::default(),
        named_dead: Default::default(),
    }
}

fn wish(witness: &FileWitness, register: &mut Register, wish: Wish) -> Outcome {
    register.handle_wish(wish, Attempt(random()));
    loop {
        let (_, ask) = register.poll_ask().expect("it is not decided");
        let outcome = match perform(witness, VM, ask) {
            Ok(found) => register.handle_found(found),
            Err(_) => register.handle_no_answer(),
        };
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

#[test]
fn appended_record_is_read_back_and_the_second_of_its_number_is_not() {
    let (dir, witness) = witness();
    let ours = record(1, 1);
    assert_eq!(append(&witness, ours.clone())[0].record, ours);
    assert_eq!(append(&witness, record(1, 2))[0].record, ours);
    let files: Vec<_> = fs::read_dir(dir.path()).expect("there").map(|f| f.expect("readable").file_name()).collect();
    assert_eq!(files, ["vm0.x.view-1"], "no draft is left");
}

#[test]
fn newest_of_any_count_is_found() {
    let (_dir, witness) = witness();
    assert!(entries(&witness, VM, Ask::Newest).is_empty());
    for number in 1..=19 {
        append(&witness, record(number, number as u8));
        let newest = entries(&witness, VM, Ask::Newest);
        assert_eq!(newest.iter().map(|entry| entry.record.number).collect::<Vec<_>>(), [number]);
    }
    let from: Vec<u64> = entries(&witness, VM, Ask::From(17)).iter().map(|e| e.record.number).collect();
    assert_eq!(from, [17, 18, 19]);
    assert!(entries(&witness, "vm0", Ask::Newest).is_empty(), "another VM");
}

#[test]
fn start_raced_by_many_threads_has_exactly_one_winner() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    const RACERS: u8 = 16;
    for round in 0..50 {
        let dir = dir.path().join(round.to_string());
        fs::create_dir(&dir).expect("made");
        let barrier = Barrier::new(RACERS.into());
        let race = |id: u8| {
            let witness = file::open(&dir).expect("writable");
            barrier.wait();
            wish(&witness, &mut Register::new(place(id), None), begin())
        };
        let outcomes = thread::scope(|scope| {
            let racers: Vec<_> = (1..=RACERS).map(|id| scope.spawn(move || race(id))).collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect::<Vec<_>>()
        });
        let won = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Won(_))).count();
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused(_))).count();
        assert_eq!((won, refused), (1, usize::from(RACERS) - 1), "round {round}: {outcomes:?}");
    }
}

const ROUNDS: u64 = 40;

/// The racing side of the next test: not a test of its own, it does nothing unless that one starts it. Started by hand on
/// two hosts with one shared directory, it tests that storage.
#[test]
#[expect(clippy::disallowed_methods, reason = "this test is started again as another process")]
fn racing_process() {
    let Ok(dir) = std::env::var("OUTLAST_TEST_WITNESS") else {
        return;
    };
    let witness = file::open(Path::new(&dir)).expect("writable");
    while !Path::new(&dir).join("go").exists() {
        thread::yield_now();
    }
    for round in 1..=ROUNDS {
        let ours = record(round, 1);
        if append(&witness, ours.clone())[0].record == ours {
            println!("won {round}");
        }
    }
}

#[test]
fn append_raced_by_many_processes_has_exactly_one_winner_each() {
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
        rounds.extend(text.lines().filter_map(|line| line.strip_prefix("won ")?.parse::<u64>().ok()));
    }
    rounds.sort_unstable();
    assert_eq!(rounds, (1..=ROUNDS).collect::<Vec<u64>>());
}

#[test]
fn record_that_is_garbage_or_of_another_number_is_no_answer() {
    let (dir, witness) = witness();
    append(&witness, record(1, 1));
    for content in [&b"garbage"[..], b"", &fs::read(dir.path().join("vm0.x.view-1")).expect("there")] {
        fs::write(dir.path().join("vm0.x.view-2"), content).expect("written");
        let error = perform(&witness, VM, Ask::Newest).expect_err("not a record");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn directory_that_is_exchanged_under_its_path_gets_nothing() {
    let (dir, parent) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let path = parent.path().join("mount");
    fs::rename(dir.path(), &path).expect("moved");
    let witness = file::open(&path).expect("writable");
    let mut register = Register::new(place(1), None);
    assert!(matches!(wish(&witness, &mut register, begin()), Outcome::Won(_)));
    fs::rename(&path, parent.path().join("gone")).expect("moved");
    assert_eq!(wish(&witness, &mut register, Wish::End), Outcome::NoAnswer);
    fs::create_dir(&path).expect("made");
    assert_eq!(wish(&witness, &mut register, Wish::End), Outcome::NoAnswer);
    assert_eq!(fs::read_dir(&path).expect("there").count(), 0);
    fs::remove_dir(&path).expect("empty");
    fs::rename(parent.path().join("gone"), &path).expect("moved");
    assert!(matches!(wish(&witness, &mut register, Wish::End), Outcome::Won(_)));
    fs::rename(&path, dir.path()).expect("moved back, to be removed");
}

#[test]
fn peers_of_one_directory_find_what_they_left_and_those_of_a_copy_do_not() {
    let (dir, a) = witness();
    let b = file::open(dir.path()).expect("writable");
    let (_other_dir, other) = self::witness();
    let nonce = a.leave(VM).expect("written");
    assert!(b.finds(VM, nonce).expect("it answers"));
    assert!(!other.finds(VM, nonce).expect("it answers"));
    assert!(!b.finds("vm1", nonce).expect("it answers"));
    let next = a.leave(VM).expect("written");
    assert!(!b.finds(VM, nonce).expect("it answers"), "taken away");
    assert!(b.finds(VM, next).expect("it answers"));
    drop((a, b));
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
}

#[test]
fn statement_is_made_once_and_for_one_thing() {
    let (_dir, witness) = witness();
    let dead = Statement::Dead(Incarnation([3; 16]));
    assert!(!witness.is_stated(VM, dead).expect("it answers"));
    witness.state(VM, dead).expect("written");
    witness.state(VM, dead).expect("twice is fine");
    assert!(witness.is_stated(VM, dead).expect("it answers"));
    for other in [Statement::Dead(Incarnation([4; 16])), Statement::Void(SessionId([3; 16]))] {
        assert!(!witness.is_stated(VM, other).expect("it answers"));
    }
}

#[test]
fn statement_that_is_withdrawn_stands_no_more_and_no_other_goes() {
    let (_dir, witness) = witness();
    let void = |id: u8| Statement::Void(SessionId([id; 16]));
    witness.withdraw(VM, void(3)).expect("it was not there");
    for id in [3, 4] {
        witness.state(VM, void(id)).expect("written");
    }
    witness.withdraw(VM, void(3)).expect("removed");
    assert!(!witness.is_stated(VM, void(3)).expect("it answers"));
    assert!(witness.is_stated(VM, void(4)).expect("it answers"));
}

#[test]
fn storage_that_is_gone_is_no_answer() {
    let (dir, witness) = witness();
    drop(dir);
    assert!(perform(&witness, VM, Ask::Newest).is_err());
}

#[test]
fn open_missing_directory_is_not_found_and_is_not_made() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("mount");
    let error = file::open(&missing).expect_err("missing");
    let WitnessError::Open { dir: named, source } = error else { panic!("{error}") };
    assert_eq!((&named, source.kind()), (&missing, io::ErrorKind::NotFound));
    assert!(!missing.exists());
}
