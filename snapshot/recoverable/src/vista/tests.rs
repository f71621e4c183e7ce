use std::cell::{Cell, RefCell};
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::memory::{Declare, RecoverableMemory};
use crate::persist::watch;
use crate::step::set_hook;
use crate::tests_random::Random;

const OPTIONS: VistaOptions = VistaOptions { log_bytes: 4096, required: Survives::ProcessDeath };
const LEN: usize = 9000;

struct Place {
    vista: Vista,
    a: RegionId,
    b: RegionId,
    dir: TempDir,
}

fn open(dir: &Path) -> Result<(Vista, RegionId, RegionId), Error> {
    let mut vista = Vista::open(dir.join("log"), OPTIONS)?;
    let a = vista.map(dir.join("a"), LEN)?;
    let b = vista.map(dir.join("b"), LEN)?;
    Ok((vista, a, b))
}

fn place() -> Place {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (vista, a, b) = open(dir.path()).unwrap();
    Place { vista, a, b, dir }
}

impl Place {
    /// What a crash now would leave: on tmpfs the files are the memory.
    fn crash(&self) -> TempDir {
        copy(self.dir.path())
    }

    fn content(&self) -> [Vec<u8>; 2] {
        content(&self.vista, self.a, self.b)
    }

    /// One committed transaction.
    fn commit(&mut self, at: usize, bytes: &[u8]) {
        let (a, b) = (self.a, self.b);
        let mut transaction = self.vista.begin().unwrap();
        transaction.set_range(a, at..at + bytes.len()).unwrap().copy_from_slice(bytes);
        transaction.set_range(b, at..at + bytes.len()).unwrap().copy_from_slice(bytes);
        transaction.end().unwrap();
    }
}

fn content(vista: &Vista, a: RegionId, b: RegionId) -> [Vec<u8>; 2] {
    [a, b].map(|region| vista.bytes(region).unwrap().to_vec())
}

fn copy(dir: &Path) -> TempDir {
    let to = tempfile::tempdir_in("/dev/shm").unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// A transaction in the middle: the files as a crash leaves them, and the content that must come back.
fn unfinished() -> (TempDir, [Vec<u8>; 2]) {
    let mut place = place();
    place.commit(5, b"committed");
    let expected = place.content();
    let (a, b) = (place.a, place.b);
    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(a, 0..20).unwrap().fill(1);
    transaction.set_range(b, 4090..4100).unwrap().fill(2);
    transaction.set_range(a, 10..30).unwrap().fill(3);
    let crash = copy(place.dir.path());
    drop(transaction);
    (crash, expected)
}

#[test]
fn ended_transaction_is_there_and_aborted_one_is_not() {
    let mut place = place();
    place.commit(100, b"abc");
    let committed = place.content();
    let a = place.a;
    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(a, 100..103).unwrap().copy_from_slice(b"xyz");
    transaction.set_range(a, 101..110).unwrap().fill(7);
    transaction.abort().unwrap();
    assert!(place.content() == committed);

    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(a, 0..LEN / 4).unwrap().fill(9);
    drop(transaction);
    assert!(place.content() == committed, "a dropped transaction is aborted");
    assert_eq!(&committed[0][100..103], b"abc");
}

#[test]
fn crash_in_a_transaction_leaves_nothing_of_it_in_any_region() {
    let (crash, expected) = unfinished();
    assert!(
        fs::read(crash.path().join("a")).unwrap()[4096..4116]
            == [1; 20][..10].iter().chain(&[3; 10]).copied().collect::<Vec<u8>>()[..]
    );
    let (vista, a, b) = open(crash.path()).unwrap();
    assert!(content(&vista, a, b) == expected);
}

#[test]
fn transaction_waits_until_all_regions_of_the_log_are_mapped() {
    let (crash, expected) = unfinished();
    let mut vista = Vista::open(crash.path().join("log"), OPTIONS).unwrap();
    let a = vista.map(crash.path().join("a"), LEN).unwrap();
    let error = vista.begin().unwrap_err();
    assert!(matches!(&error, Error::Waiting { missing, .. } if missing.ends_with("/b")), "{error}");
    drop(vista);
    // Half a recovery, and then a whole one.
    let (vista, a2, b) = open(crash.path()).unwrap();
    assert_eq!(a, a2);
    assert!(content(&vista, a2, b) == expected);
}

#[test]
fn full_log_is_an_error_and_the_transaction_can_be_aborted() {
    let mut place = place();
    place.commit(0, b"before");
    let committed = place.content();
    let a = place.a;
    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(a, 0..2000).unwrap().fill(1);
    let error = transaction.set_range(a, 2000..6000).unwrap_err();
    assert!(matches!(error, Error::LogFull { free: 2048, .. }), "{error}");
    transaction.set_range(a, 2000..2010).unwrap().fill(2);
    transaction.abort().unwrap();
    assert!(place.content() == committed);
}

#[test]
fn wrong_use_is_refused() {
    let mut place = place();
    let a = place.a;
    assert!(matches!(Declare::set_range(&mut place.vista, a, 0..1), Err(Error::NoTransaction)));
    let mut transaction = place.vista.begin().unwrap();
    assert!(matches!(transaction.set_range(a, 0..LEN + 1), Err(Error::Range { .. })));
    assert!(matches!(transaction.set_range(RegionId::new(9), 0..1), Err(Error::NoRegion(_))));
    assert!(matches!(transaction.memory(a), Err(Error::Mode { .. })));
    drop(transaction);
    RecoverableMemory::begin(&mut place.vista).unwrap();
    assert!(matches!(place.vista.begin(), Err(Error::InTransaction)));
    assert!(matches!(place.vista.unmap(a), Err(Error::InTransaction)));
    assert!(matches!(place.vista.map(place.dir.path().join("c"), 10), Err(Error::InTransaction)));
}

#[test]
fn region_of_another_log_is_refused_until_it_is_unmapped_there() {
    let mut place = place();
    let path = place.dir.path().join("a");
    let other = place.dir.path().join("other");
    place.commit(0, b"x");
    let (a, dir) = (place.a, place.dir);
    drop(place.vista);
    let mut second = Vista::open(&other, OPTIONS).unwrap();
    assert!(matches!(second.map(&path, LEN), Err(Error::OtherLog { .. })));
    assert!(matches!(PersistentRegion::open(&path, LEN, Survives::ProcessDeath), Err(Error::Bound { .. })));

    let (mut vista, a2, _) = open(dir.path()).unwrap();
    assert_eq!(a, a2);
    vista.unmap(a2).unwrap();
    let moved = second.map(&path, LEN).unwrap();
    assert_eq!(second.bytes(moved).unwrap()[0], b'x');
    assert!(matches!(vista.map(&path, LEN), Err(Error::Locked { .. })));
}

#[test]
fn regions_come_and_go_without_using_the_table_up() {
    let mut place = place();
    for n in 0..40 {
        let region = place.vista.map(place.dir.path().join(format!("r{n}")), 100).unwrap();
        place.vista.unmap(region).unwrap();
    }
    for n in 0..ROWS - 2 {
        place.vista.map(place.dir.path().join(format!("r{n}")), 100).unwrap();
    }
    assert!(matches!(place.vista.map(place.dir.path().join("r39"), 100), Err(Error::RegionCount { .. })));
}

/// Opens what is left in `dir`: the expected content, or a refusal.
fn right_or_refused(dir: &Path, expected: &[Vec<u8>; 2], context: &str) -> bool {
    match open(dir) {
        Ok((vista, a, b)) => {
            assert!(content(&vista, a, b) == *expected, "{context}: wrong content");
            true
        }
        Err(error) => {
            assert!(!matches!(error, Error::Io { .. } | Error::Locked { .. }), "{context}: {error}");
            assert!(error.to_string().len() > 20, "{context}: {error}");
            false
        }
    }
}

#[test]
fn log_with_any_bit_flipped_gives_the_last_commit_or_a_refusal() {
    let (crash, expected) = unfinished();
    let files: Vec<(PathBuf, Vec<u8>)> = ["log", "a", "b"]
        .map(|name| crash.path().join(name))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .into();
    let mut refused = 0;
    let log = &files[0].1;
    for bit in 0..log.len() * 8 {
        // Most of the file is never written; a sample of that will do.
        let is_empty = log[bit / 8 / 64 * 64..][..64].iter().all(|&byte| byte == 0);
        if is_empty && bit % 509 != 0 {
            continue;
        }
        files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        let mut damaged = log.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&files[0].0, damaged).unwrap();
        refused += usize::from(!right_or_refused(crash.path(), &expected, &format!("bit {bit}")));
    }
    assert!(refused > 2000, "{refused} refusals: records and words alone have more bits than that");
}

#[test]
fn region_head_with_any_bit_flipped_gives_the_last_commit_or_a_refusal() {
    let (crash, expected) = unfinished();
    let names = ["log", "a", "b"];
    let files = names.map(|name| fs::read(crash.path().join(name)).unwrap());
    for bit in (0..128 * 8).chain((1024..4096 * 8).step_by(301)) {
        for (name, bytes) in names.iter().zip(&files) {
            fs::write(crash.path().join(name), bytes).unwrap();
        }
        let mut damaged = files[1].clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(crash.path().join("a"), damaged).unwrap();
        right_or_refused(crash.path(), &expected, &format!("bit {bit}"));
    }
}

#[test]
fn log_cut_at_every_length_is_refused() {
    let (crash, expected) = unfinished();
    let path = crash.path().join("log");
    let whole = fs::read(&path).unwrap();
    let keep = ["a", "b"].map(|name| fs::read(crash.path().join(name)).unwrap());
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(!right_or_refused(crash.path(), &expected, &format!("cut at {len}")), "cut at {len} was taken");
    }
    fs::write(&path, &whole).unwrap();
    for (name, bytes) in ["a", "b"].iter().zip(&keep) {
        assert!(fs::read(crash.path().join(name)).unwrap() == *bytes, "a refusal changed {name}");
    }
    assert!(right_or_refused(crash.path(), &expected, "whole"));
}

#[test]
fn old_log_beside_newer_regions_is_refused() {
    let mut place = place();
    place.commit(0, b"one");
    let quiet = fs::read(place.dir.path().join("log")).unwrap();
    let (a, b) = (place.a, place.b);
    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(a, 0..3).unwrap().copy_from_slice(b"two");
    transaction.set_range(b, 0..3).unwrap().copy_from_slice(b"two");
    let running = fs::read(place.dir.path().join("log")).unwrap();
    transaction.end().unwrap();
    let finished = fs::read(place.dir.path().join("log")).unwrap();
    for (old, name) in [(&running, "of the transaction that was committed after"), (&quiet, "of before it")] {
        let crash = place.crash();
        fs::write(crash.path().join("log"), old).unwrap();
        let error = open(crash.path()).unwrap_err();
        assert!(matches!(error, Error::Stale { .. }), "a log {name}: {error}");
    }
    place.commit(0, b"six");
    for old in [&running, &finished, &quiet] {
        let crash = place.crash();
        fs::write(crash.path().join("log"), old).unwrap();
        assert!(matches!(open(crash.path()), Err(Error::Stale { .. })));
    }
}

#[test]
fn old_region_beside_a_newer_unfinished_log_is_refused() {
    let mut place = place();
    place.commit(0, b"one");
    let old = fs::read(place.dir.path().join("a")).unwrap();
    let a = place.a;
    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(a, 0..3).unwrap().copy_from_slice(b"two");
    let crash = copy(place.dir.path());
    drop(transaction);
    fs::write(crash.path().join("a"), old).unwrap();
    assert!(matches!(open(crash.path()), Err(Error::Stale { what: "the region is older than the log", .. })));
}

#[test]
fn tracked_region_rolls_back_what_was_stored_without_being_declared() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = VistaOptions { log_bytes: 64 << 10, ..OPTIONS };
    let mut vista = Vista::open(dir.path().join("log"), options).unwrap();
    let region = vista.map_tracked(dir.path().join("r"), 10 * 4096 + 100).unwrap();
    let mut transaction = vista.begin().unwrap();
    let memory = transaction.memory(region).unwrap();
    for page in 0..=10 {
        memory[page * 4096 + 50] = page as u8 + 1;
    }
    transaction.end().unwrap();
    let committed = vista.bytes(region).unwrap().to_vec();
    assert_eq!(committed[10 * 4096 + 50], 11);

    let mut transaction = vista.begin().unwrap();
    transaction.memory(region).unwrap()[3 * 4096..7 * 4096].fill(0xee);
    let crash = copy(dir.path());
    transaction.abort().unwrap();
    assert!(vista.bytes(region).unwrap() == committed);

    let mut recovered = Vista::open(crash.path().join("log"), options).unwrap();
    let region = recovered.map_tracked(crash.path().join("r"), 10 * 4096 + 100).unwrap();
    assert!(recovered.bytes(region).unwrap() == committed);
}

#[test]
fn tracked_transaction_that_outgrows_the_log_is_refused_at_its_end_and_rolled_back() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = VistaOptions { log_bytes: 3 * 4200, ..OPTIONS };
    let mut vista = Vista::open(dir.path().join("log"), options).unwrap();
    let region = vista.map_tracked(dir.path().join("r"), 8 * 4096).unwrap();
    let mut transaction = vista.begin().unwrap();
    transaction.memory(region).unwrap()[..4096].fill(1);
    transaction.end().unwrap();
    let committed = vista.bytes(region).unwrap().to_vec();
    for _ in 0..2 {
        let mut transaction = vista.begin().unwrap();
        transaction.memory(region).unwrap().fill(2);
        assert!(transaction.bytes(region).unwrap().iter().all(|&byte| byte == 2), "it goes on in copies");
        let crash = copy(dir.path());
        assert!(matches!(transaction.end(), Err(Error::LogFull { .. })));
        assert!(vista.bytes(region).unwrap() == committed);
        let mut recovered = Vista::open(crash.path().join("log"), options).unwrap();
        let region = recovered.map(crash.path().join("r"), 8 * 4096).unwrap();
        assert!(recovered.bytes(region).unwrap() == committed);
    }
    let mut transaction = vista.begin().unwrap();
    transaction.memory(region).unwrap()[5 * 4096] = 5;
    transaction.end().unwrap();
    assert_eq!(vista.bytes(region).unwrap()[5 * 4096], 5);
}

#[test]
fn tracked_stores_of_several_threads_are_all_found() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = VistaOptions { log_bytes: 1 << 20, ..OPTIONS };
    let mut vista = Vista::open(dir.path().join("log"), options).unwrap();
    let region = vista.map_tracked(dir.path().join("r"), 64 * 4096).unwrap();
    let mut transaction = vista.begin().unwrap();
    let memory = transaction.memory(region).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test has threads; the library has none here")]
    std::thread::scope(|scope| {
        // Odd lengths: neighbours fault on the same pages.
        for (index, part) in memory.chunks_mut(17 * 4096 + 123).enumerate() {
            scope.spawn(move || part.fill(index as u8 + 1));
        }
    });
    let crash = copy(dir.path());
    transaction.abort().unwrap();
    assert!(vista.bytes(region).unwrap().iter().all(|&byte| byte == 0));
    let mut recovered = Vista::open(crash.path().join("log"), options).unwrap();
    let region = recovered.map(crash.path().join("r"), 64 * 4096).unwrap();
    assert!(recovered.bytes(region).unwrap().iter().all(|&byte| byte == 0));
}

/// Random transactions against plain vectors, with a crash image taken at random moments.
#[test]
fn random_transactions_give_what_vectors_give_also_after_crashes() {
    for seed in 1..=40 {
        let mut random = Random::new(seed);
        let mut place = place();
        let mut committed = place.content();
        for _ in 0..30 {
            let regions = [place.a, place.b];
            let mut model = committed.clone();
            let mut transaction = place.vista.begin().unwrap();
            for _ in 0..random.below(6) {
                let which = random.below(2) as usize;
                let from = random.below(LEN as u64) as usize;
                let to = LEN.min(from + random.below(700) as usize);
                let value = random.below(256) as u8;
                let Ok(bytes) = transaction.set_range(regions[which], from..to) else { break };
                bytes.fill(value);
                model[which][from..to].fill(value);
                if random.below(20) == 0 {
                    let crash = copy(place.dir.path());
                    let (vista, a, b) = open(crash.path()).unwrap();
                    assert!(content(&vista, a, b) == committed, "seed {seed}: crash");
                }
            }
            if random.below(4) == 0 {
                transaction.abort().unwrap();
            } else {
                transaction.end().unwrap();
                committed = model;
            }
            assert!(place.content() == committed, "seed {seed}");
        }
    }
}

/// For each file, what the medium has and what memory has; and how many transactions have been committed.
type Moment = (Vec<(Vec<u8>, Vec<u8>)>, usize);

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static COMMITS: Cell<usize> = const { Cell::new(0) };
    static MOMENTS: RefCell<Vec<Moment>> = const { RefCell::new(Vec::new()) };
}

fn on_step(step: Step) {
    if !IS_WATCHED.get() {
        return;
    }
    if step == Step::Committed {
        COMMITS.set(COMMITS.get() + 1);
    }
    MOMENTS.with_borrow_mut(|all| all.push((watch::contents(), COMMITS.get())));
}

/// A medium whose cache loses, at a power cut, any words that were not persisted: at every step, whichever are lost, the
/// last commit comes back. This is what is asked of cache-line flushes and of msync alike.
#[test]
fn power_cut_at_every_step_with_any_unpersisted_words_lost_leaves_the_last_commit() {
    let mut place = place();
    place.commit(3, b"committed before");
    place.vista.log.watch();
    for slot in [place.a.slot(), place.b.slot()] {
        place.vista.slots[slot].as_mut().unwrap().region.watch();
    }
    place.vista.persists = true;
    let mut commits = vec![place.content()];
    set_hook(Some(on_step));
    IS_WATCHED.set(true);
    let (a, b) = (place.a, place.b);
    for number in 0..4u8 {
        let mut transaction = place.vista.begin().unwrap();
        transaction.set_range(a, 0..100).unwrap().fill(number + 1);
        transaction.set_range(b, 50..90).unwrap().fill(number + 10);
        transaction.set_range(a, 90..140).unwrap().fill(number + 20);
        if number == 2 {
            transaction.abort().unwrap();
        } else {
            transaction.end().unwrap();
            commits.push(place.content());
        }
    }
    IS_WATCHED.set(false);
    set_hook(None);
    watch::forget();
    let moments = MOMENTS.take();
    assert!(moments.len() > 40, "{} steps", moments.len());
    let mut random = Random::new(1);
    for (index, (contents, count)) in moments.iter().enumerate() {
        for round in 0..12 {
            let parts: Vec<Vec<u8>> = contents.iter().map(|content| cut_power(content, round, &mut random)).collect();
            let crash = copy(place.dir.path());
            for (name, parts) in ["log", "a", "b"].iter().zip(parts.chunks(2)) {
                fs::write(crash.path().join(name), pad(parts.concat())).unwrap();
            }
            let (vista, a, b) = open(crash.path()).unwrap_or_else(|error| panic!("step {index}, {round}: {error}"));
            assert!(content(&vista, a, b) == commits[*count], "step {index}, round {round}: wrong content");
        }
    }
}

/// Each word of what was not persisted is there or not; in the first two rounds none, then all.
fn cut_power((durable, now): &(Vec<u8>, Vec<u8>), round: u32, random: &mut Random) -> Vec<u8> {
    let words = durable.chunks(8).zip(now.chunks(8));
    words
        .flat_map(|(old, new)| if round == 1 || round > 1 && random.below(2) == 0 { new } else { old })
        .copied()
        .collect()
}

fn pad(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes
}
