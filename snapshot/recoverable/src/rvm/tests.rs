use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::*;
use crate::tests_random::Random;

const OPTIONS: RvmOptions = RvmOptions { required: Survives::ProcessDeath, truncation_percent: None };
const LEN: usize = 6000;

struct Place {
    rvm: Rvm,
    a: RegionId,
    b: RegionId,
    dir: TempDir,
}

fn open(dir: &Path) -> Result<(Rvm, RegionId, RegionId), Error> {
    let mut rvm = Rvm::initialize(dir.join("log"), OPTIONS)?;
    let a = rvm.map(dir.join("a"), LEN)?;
    let b = rvm.map(dir.join("b"), LEN)?;
    Ok((rvm, a, b))
}

fn place_with(log_bytes: u64) -> Place {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    Rvm::create_log(dir.path().join("log"), log_bytes).unwrap();
    let (rvm, a, b) = open(dir.path()).unwrap();
    Place { rvm, a, b, dir }
}

impl Place {
    fn set(&mut self, at: usize, bytes: &[u8], mode: CommitMode) -> Result<u64, Error> {
        let (a, b) = (self.a, self.b);
        let mut transaction = self.rvm.begin_transaction(RestoreMode::Restore)?;
        transaction.set_range(a, at..at + bytes.len())?.copy_from_slice(bytes);
        transaction.set_range(b, at..at + bytes.len())?.copy_from_slice(bytes);
        transaction.end(mode)
    }

    fn content(&self) -> [Vec<u8>; 2] {
        content(&self.rvm, self.a, self.b)
    }

    /// What a crash now would leave.
    fn crash(&self) -> TempDir {
        copy(self.dir.path())
    }
}

fn content(rvm: &Rvm, a: RegionId, b: RegionId) -> [Vec<u8>; 2] {
    [a, b].map(|region| rvm.bytes(region).unwrap().to_vec())
}

fn recovered(dir: &Path) -> Result<[Vec<u8>; 2], Error> {
    open(dir).map(|(rvm, a, b)| content(&rvm, a, b))
}

fn copy(dir: &Path) -> TempDir {
    let to = tempfile::tempdir_in("/dev/shm").unwrap();
    // The log first: a truncation may be under way, and empties it when the segments have what it had.
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_by_key(|path| !path.ends_with("log"));
    for path in paths {
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

#[test]
fn flushed_transaction_is_recovered_and_unflushed_one_is_not() {
    let mut place = place_with(64 << 10);
    place.set(0, b"flushed", CommitMode::Flush).unwrap();
    let flushed = place.content();
    place.set(3, b"lazy", CommitMode::NoFlush).unwrap();
    assert!(recovered(place.crash().path()).unwrap() == flushed);
    place.rvm.flush().unwrap();
    let crash = place.crash();
    let lazy = place.content();
    assert!(recovered(crash.path()).unwrap() == lazy);
    assert!(recovered(crash.path()).unwrap() == lazy, "recovering again changes nothing");
}

#[test]
fn aborted_transaction_leaves_the_memory_as_it_was() {
    let mut place = place_with(64 << 10);
    place.set(10, b"abc", CommitMode::Flush).unwrap();
    let committed = place.content();
    let a = place.a;
    let mut transaction = place.rvm.begin_transaction(RestoreMode::Restore).unwrap();
    transaction.set_range(a, 10..13).unwrap().fill(1);
    transaction.set_range(a, 12..20).unwrap().fill(2);
    transaction.abort().unwrap();
    assert!(place.content() == committed);
    let mut transaction = place.rvm.begin_transaction(RestoreMode::Restore).unwrap();
    transaction.set_range(a, 0..LEN).unwrap().fill(1);
    drop(transaction);
    assert!(place.content() == committed);
}

#[test]
fn no_restore_transaction_cannot_be_aborted_and_nothing_goes_on_after_that() {
    let mut place = place_with(64 << 10);
    let a = place.a;
    let mut transaction = place.rvm.begin_transaction(RestoreMode::NoRestore).unwrap();
    transaction.set_range(a, 0..4).unwrap().fill(1);
    transaction.end(CommitMode::Flush).unwrap();
    let committed = place.content();
    let mut transaction = place.rvm.begin_transaction(RestoreMode::NoRestore).unwrap();
    transaction.set_range(a, 0..4).unwrap().fill(2);
    assert!(matches!(transaction.abort(), Err(Error::NoRestore)));
    assert!(matches!(place.rvm.begin_transaction(RestoreMode::Restore), Err(Error::NoRestore)));
    assert!(recovered(place.crash().path()).unwrap() == committed);
}

#[test]
fn ring_that_is_full_is_truncated_and_goes_round() {
    let mut place = place_with(1);
    for n in 0..200u32 {
        place.set((n as usize * 37) % 5000, &n.to_le_bytes().repeat(40), CommitMode::Flush).unwrap();
        if n % 17 == 0 {
            assert!(recovered(place.crash().path()).unwrap() == place.content(), "after transaction {n}");
        }
    }
    assert!(place.rvm.query_options().truncations > 10);
}

#[test]
fn transaction_longer_than_the_log_is_refused_and_undone() {
    let mut place = place_with(1);
    place.set(0, b"kept", CommitMode::Flush).unwrap();
    let committed = place.content();
    let error = place.set(0, &[7; 4000], CommitMode::Flush).unwrap_err();
    assert!(matches!(error, Error::LogFull { .. }), "{error}");
    assert!(place.content() == committed);
    place.set(9, b"next", CommitMode::Flush).unwrap();
    assert!(recovered(place.crash().path()).unwrap() == place.content());
}

#[test]
fn thread_truncates_when_the_threshold_is_reached() {
    let mut place = place_with(64 << 10);
    place.rvm.set_options(RvmOptions { truncation_percent: Some(10), ..OPTIONS }).unwrap();
    let mut count = 0u32;
    while place.rvm.query_options().truncations < 3 {
        place.set(0, &count.to_le_bytes().repeat(50), CommitMode::Flush).unwrap();
        count += 1;
        assert!(count < 1_000_000, "nothing was truncated");
    }
    assert!(recovered(place.crash().path()).unwrap() == place.content());
}

#[test]
fn commits_of_several_threads_share_flushes() {
    let place = place_with(1 << 20);
    let (rvm, a) = (std::sync::Mutex::new(place.rvm), place.a);
    let flusher = rvm.lock().unwrap().flusher();
    let done = AtomicU64::new(0);
    #[expect(clippy::disallowed_methods, reason = "the test has threads of its own")]
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (rvm, flusher, done) = (&rvm, flusher.clone(), &done);
            scope.spawn(move || {
                for n in 0..50u64 {
                    let number = {
                        let mut rvm = rvm.lock().unwrap();
                        let mut transaction = rvm.begin_transaction(RestoreMode::Restore).unwrap();
                        let bytes = transaction.set_range(a, thread * 8..thread * 8 + 8).unwrap();
                        bytes.copy_from_slice(&n.to_le_bytes());
                        transaction.end(CommitMode::NoFlush).unwrap()
                    };
                    flusher.wait(number).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let rvm = rvm.into_inner().unwrap();
    let query = rvm.query_options();
    assert_eq!((done.into_inner(), query.unflushed), (400, 0));
    assert!(query.flushes <= 400);
    let crash = copy(place.dir.path());
    assert_eq!(&recovered(crash.path()).unwrap()[0][..8], &49u64.to_le_bytes());
}

#[test]
fn several_transactions_are_made_durable_by_one_flush() {
    let mut place = place_with(64 << 10);
    let before = place.rvm.query_options().flushes;
    for n in 0..10 {
        place.set(n * 10, b"x", CommitMode::NoFlush).unwrap();
    }
    assert_eq!(place.rvm.query_options().unflushed, 10);
    place.set(500, b"y", CommitMode::Flush).unwrap();
    assert_eq!(place.rvm.query_options().flushes, before + 1);
    assert!(recovered(place.crash().path()).unwrap() == place.content());
}

/// A log with some flushed records, and the content after each of them, first before any.
fn logged(log_bytes: u64) -> (TempDir, Vec<[Vec<u8>; 2]>) {
    let mut place = place_with(log_bytes);
    place.set(0, b"truncated", CommitMode::Flush).unwrap();
    place.rvm.truncate().unwrap();
    let mut contents = vec![place.content()];
    for n in 0..4u8 {
        place.set(usize::from(n) * 3, &[n + 1; 20], CommitMode::Flush).unwrap();
        contents.push(place.content());
    }
    (place.crash(), contents)
}

/// The number of records whose content came back, or nothing when it was refused.
fn commits_back(dir: &Path, contents: &[[Vec<u8>; 2]], context: &str) -> Option<usize> {
    match recovered(dir) {
        Ok(found) => {
            let count = contents.iter().rposition(|content| *content == found);
            Some(count.unwrap_or_else(|| panic!("{context}: content of no commit")))
        }
        Err(error) => {
            assert!(!matches!(error, Error::Io { .. } | Error::Locked { .. }), "{context}: {error}");
            None
        }
    }
}

#[test]
fn log_with_any_bit_flipped_gives_a_commit_or_a_refusal() {
    let (crash, contents) = logged(1);
    let log = fs::read(crash.path().join("log")).unwrap();
    let segments = ["a", "b"].map(|name| fs::read(crash.path().join(name)).unwrap());
    let (mut refused, mut shorter) = (0, 0);
    for bit in 0..log.len() * 8 {
        let is_empty = log[bit / 8 / 64 * 64..][..64].iter().all(|&byte| byte == 0);
        if is_empty && bit % 1021 != 0 {
            continue;
        }
        for (name, bytes) in ["a", "b"].iter().zip(&segments) {
            fs::write(crash.path().join(name), bytes).unwrap();
        }
        let mut damaged = log.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(crash.path().join("log"), damaged).unwrap();
        match commits_back(crash.path(), &contents, &format!("bit {bit}")) {
            None => refused += 1,
            Some(4) => {}
            // The last record cannot be told from one that was never synced; every other can.
            Some(count) => {
                assert_eq!(count, 3, "bit {bit}: {count} commits came back");
                shorter += 1;
            }
        }
    }
    assert!(refused > 3000 && shorter > 500, "{refused} refused, {shorter} without the last commit");
}

#[test]
fn record_torn_at_every_length_leaves_the_commits_before_it() {
    let mut place = place_with(1);
    place.set(0, b"first", CommitMode::Flush).unwrap();
    let first = place.content();
    let before = fs::read(place.dir.path().join("log")).unwrap();
    place.set(2, &[9; 30], CommitMode::Flush).unwrap();
    let second = place.content();
    let after = fs::read(place.dir.path().join("log")).unwrap();
    let from = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    let to = 1 + before.iter().zip(&after).rposition(|(a, b)| a != b).unwrap();
    assert!(to - from > 100);
    let crash = place.crash();
    for cut in from..=to {
        let torn = [&after[..cut], &before[cut..]].concat();
        fs::write(crash.path().join("log"), torn).unwrap();
        for name in ["a", "b"] {
            fs::copy(place.dir.path().join(name), crash.path().join(name)).unwrap();
        }
        let found = recovered(crash.path()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert!(found == if cut == to { second.clone() } else { first.clone() }, "cut at {cut}");
    }
}

#[test]
fn log_file_cut_at_every_block_is_refused() {
    let (crash, _) = logged(1);
    let path = crash.path().join("log");
    let whole = fs::read(&path).unwrap();
    for len in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..len]).unwrap();
        let error = open(crash.path()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. } | Error::Foreign { .. }), "{len}: {error}");
    }
}

#[test]
fn records_of_an_earlier_round_of_the_ring_are_not_taken_for_new_ones() {
    let mut place = place_with(1);
    for n in 0..60u8 {
        place.set(5, &[n; 64], CommitMode::Flush).unwrap();
        // Wipe what the last record wrote: what was there a round before must not count.
        let crash = place.crash();
        let (rvm, a, b) = open(crash.path()).unwrap();
        assert!(content(&rvm, a, b) == place.content(), "round with {n}");
        drop(rvm);
        assert!(recovered(crash.path()).unwrap() == place.content());
    }
}

/// Two records were written together and only the second reached the disk. Neither counts; and when a new record takes the
/// place of the first, the second must not follow it.
#[test]
fn record_behind_a_lost_one_never_counts_even_when_the_gap_is_filled() {
    let mut place = place_with(64 << 10);
    let before = place.content();
    place.set(0, b"lost", CommitMode::NoFlush).unwrap();
    place.set(100, b"left", CommitMode::NoFlush).unwrap();
    place.rvm.flush().unwrap();
    let crash = place.crash();
    let file = fs::OpenOptions::new().write(true).open(crash.path().join("log")).unwrap();
    file.write_all_at(&[0; 64], 12_288).unwrap();
    drop(file);
    let (rvm, a, b) = open(crash.path()).unwrap();
    assert!(content(&rvm, a, b) == before);
    let mut next = Place { rvm, a, b, dir: crash };
    next.set(0, b"anew", CommitMode::Flush).unwrap();
    let expected = next.content();
    assert!(recovered(next.crash().path()).unwrap() == expected);
}

#[test]
fn old_log_beside_newer_segments_is_refused() {
    let mut place = place_with(64 << 10);
    place.set(0, b"one", CommitMode::Flush).unwrap();
    let old = fs::read(place.dir.path().join("log")).unwrap();
    place.set(0, b"two", CommitMode::Flush).unwrap();
    place.rvm.truncate().unwrap();
    let crash = place.crash();
    fs::write(crash.path().join("log"), old).unwrap();
    let error = open(crash.path()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Stale { what: "the log is older than the segment", .. }), "{error}");
}

#[test]
fn old_segment_beside_a_newer_log_is_refused() {
    let mut place = place_with(64 << 10);
    place.set(0, b"one", CommitMode::Flush).unwrap();
    let old = fs::read(place.dir.path().join("a")).unwrap();
    place.rvm.truncate().unwrap();
    let crash = place.crash();
    fs::write(crash.path().join("a"), old).unwrap();
    let error = open(crash.path()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Stale { what: "the segment is older than the log", .. }), "{error}");
}

#[test]
fn newest_status_lost_is_refused_when_records_were_written_under_it() {
    let mut place = place_with(1);
    for n in 0..20u8 {
        place.set(5, &[n; 64], CommitMode::Flush).unwrap();
    }
    let generation = place.rvm.log.state().status.generation;
    let crash = place.crash();
    let file = fs::OpenOptions::new().write(true).open(crash.path().join("log")).unwrap();
    file.write_all_at(&[0xff; 4], 4096 + generation % 2 * 4096 + 100).unwrap();
    assert!(matches!(open(crash.path()).map(drop), Err(Error::Damaged { .. })));
}

#[test]
fn missing_log_and_second_opener_are_refused() {
    let place = place_with(1);
    let path = place.dir.path().join("log");
    assert!(matches!(Rvm::initialize(&path, OPTIONS), Err(Error::Locked { .. })));
    assert!(matches!(Rvm::initialize(place.dir.path().join("none"), OPTIONS), Err(Error::Io { .. })));
    assert!(matches!(Rvm::create_log(&path, 1), Err(Error::Io { .. })));
}

#[test]
fn region_goes_from_vista_to_rvm_and_back() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("region");
    let mut vista = crate::Vista::open(dir.path().join("undo"), crate::VistaOptions::default()).unwrap();
    Rvm::create_log(dir.path().join("redo"), 1).unwrap();
    let mut rvm = Rvm::initialize(dir.path().join("redo"), OPTIONS).unwrap();
    for round in 0..3u8 {
        let region = vista.map(&path, 100).unwrap();
        assert_eq!(vista.bytes(region).unwrap()[0], round * 2);
        write(&mut vista, region, round * 2 + 1);
        assert!(matches!(rvm.map(&path, 100), Err(Error::Locked { .. })));
        vista.unmap(region).unwrap();
        let region = rvm.map(&path, 100).unwrap();
        assert_eq!(rvm.bytes(region).unwrap()[0], round * 2 + 1);
        write(&mut rvm, region, round * 2 + 2);
        rvm.unmap(region).unwrap();
    }
}

/// Does not know to which kind it commits.
fn write(memory: &mut dyn RecoverableMemory, region: RegionId, value: u8) {
    memory.begin().unwrap();
    memory.set_range(region, 0..1).unwrap().fill(value);
    memory.end().unwrap();
}

#[test]
fn segment_is_bound_to_its_log_until_it_is_unmapped() {
    let mut place = place_with(1);
    place.set(0, b"x", CommitMode::Flush).unwrap();
    let dir = place.dir;
    drop(place.rvm);
    Rvm::create_log(dir.path().join("other"), 1).unwrap();
    let mut other = Rvm::initialize(dir.path().join("other"), OPTIONS).unwrap();
    assert!(matches!(other.map(dir.path().join("a"), LEN), Err(Error::OtherLog { .. })));
    let (mut rvm, a, _) = open(dir.path()).unwrap();
    rvm.unmap(a).unwrap();
    other.map(dir.path().join("a"), LEN).unwrap();
}

/// Random transactions against vectors: mode, abort, flush, truncation and crash images at random.
#[test]
fn random_transactions_give_what_vectors_give_also_after_crashes() {
    for seed in 1..=25 {
        let mut random = Random::new(seed);
        let mut place = place_with(if seed % 2 == 0 { 1 } else { 20_000 });
        // The contents that a crash may give: from the last that is durable to the last.
        let mut possible = vec![place.content()];
        for _ in 0..60 {
            let regions = [place.a, place.b];
            let mut model = possible.last().unwrap().clone();
            let mut transaction = place.rvm.begin_transaction(RestoreMode::Restore).unwrap();
            for _ in 0..random.below(5) {
                let which = random.below(2) as usize;
                let from = random.below(LEN as u64) as usize;
                let to = LEN.min(from + random.below(600) as usize);
                let value = random.below(256) as u8;
                transaction.set_range(regions[which], from..to).unwrap().fill(value);
                model[which][from..to].fill(value);
            }
            match random.below(5) {
                0 => transaction.abort().unwrap(),
                1 | 2 => {
                    transaction.end(CommitMode::NoFlush).unwrap();
                    possible.push(model);
                }
                _ => {
                    transaction.end(CommitMode::Flush).unwrap();
                    possible.push(model);
                    place.rvm.flush().unwrap();
                    possible.drain(..possible.len() - 1);
                }
            }
            if random.below(12) == 0 {
                place.rvm.truncate().unwrap();
                possible.drain(..possible.len() - 1);
            }
            assert!(place.content() == *possible.last().unwrap(), "seed {seed}");
            if random.below(6) == 0 {
                let found = recovered(place.crash().path()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                assert!(possible.contains(&found), "seed {seed}: a content that never was");
            }
        }
    }
}
