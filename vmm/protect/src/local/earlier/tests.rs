use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use recoverable::Survives;
use replication::BranchSeed;

use super::super::backing::LocalOptions;
use super::super::tests::identity;
use super::*;
use crate::epoch::capture;
use crate::local::RetainCount;
use crate::local::backing::LocalLog;
use machine::memory::Ram;
use machine::stats::Stats;
use machine::testing::Random;

/// Back to epoch `to`.
fn anew(to: u64) -> Anew {
    let origin = Origin::after(Fork::Mark(identity(to).mark), BranchSeed([8; 16]));
    Anew { branch: Term(2), origin, line: Line::Nothing }
}

const RAM_BYTES: u64 = 2 << 20;
const PAGES: u64 = RAM_BYTES / PAGE_SIZE as u64;
/// The second disk ends in the middle of a block.
const DISKS: [usize; 2] = [256 << 10, (64 << 10) + 512];
const LIMITS: Limits = Limits { count: RetainCount::nearest(4), bytes: 1 << 30 };

/// What a guest would see.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    pages: Vec<u8>,
    disks: Vec<Vec<u8>>,
}

struct Guest {
    dir: tempfile::TempDir,
    store: LocalStore,
    disks: Vec<SharedDisk>,
    ram: Ram,
    seen: Seen,
    was: BTreeMap<u64, Seen>,
    epoch: u64,
}

fn images(dir: &Path) -> Vec<PathBuf> {
    (0..DISKS.len()).map(|disk| dir.join(format!("{disk}.img"))).collect()
}

fn options(log: LocalLog) -> LocalOptions {
    LocalOptions { log, required: Survives::ProcessDeath, images: Survives::PowerLoss }
}

fn record_of(epoch: u64) -> Vec<u8> {
    let mut record = Vec::new();
    record::encode(&identity(epoch), format!("state {epoch}").as_bytes(), [].iter(), &mut record);
    record
}

impl Guest {
    fn new(log: LocalLog) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let mut store = LocalStore::create(&dir.path().join("state"), RAM_BYTES, options(log)).unwrap();
        store.keep_earlier(Some(LIMITS)).unwrap();
        let open = |(path, len): (PathBuf, usize)| {
            std::fs::write(&path, vec![0; len]).unwrap();
            let mut disk = OverlayDisk::open(&path, false).unwrap();
            disk.set_mode(WriteMode::Protected).unwrap();
            SharedDisk::new(disk, &Arc::default())
        };
        let disks = images(dir.path()).into_iter().zip(DISKS).map(open).collect();
        let seen = Seen { pages: vec![0; PAGES as usize], disks: DISKS.map(|len| vec![0; len]).into() };
        Self { dir, store, disks, ram: Ram::new(RAM_BYTES).unwrap(), seen, was: BTreeMap::new(), epoch: 0 }
    }

    fn run_an_epoch(&mut self, random: &mut Random) {
        self.epoch += 1;
        let fill = self.epoch as u8;
        let mut gfns: Vec<u64> = (0..random.below(30)).map(|_| random.below(PAGES)).collect();
        gfns.sort_unstable();
        gfns.dedup();
        for gfn in &gfns {
            assert!(self.ram.write_page(*gfn, &[fill; PAGE_SIZE]));
            self.seen.pages[*gfn as usize] = fill;
        }
        for (disk, seen) in self.disks.iter().zip(&mut self.seen.disks) {
            for _ in 0..random.below(4) {
                let sectors = seen.len() as u64 / 512;
                let from = random.below(sectors);
                let count = 1 + random.below((sectors - from).min(20));
                let range = (from * 512) as usize..((from + count) * 512) as usize;
                disk.lock().write_at(range.start as u64, &vec![fill; range.len()]).unwrap();
                seen[range].fill(fill);
            }
        }
        self.commit(gfns, random);
    }

    fn commit(&mut self, gfns: Vec<u64>, random: &mut Random) {
        let epoch = EpochId(self.epoch);
        let sets: Vec<_> = self.disks.iter().map(|disk| disk.lock().seal(epoch.0)).collect();
        self.store.keep_disks(epoch, &sets, &self.disks).unwrap();
        let record = record_of(epoch.0);
        let pages = capture::stop_and_copy(&Arc::new(Stats::default())).capture(&self.ram, gfns);
        self.store.commit_with(&pages, &record).unwrap();
        self.store.retain(identity(epoch.0).mark, &record).unwrap();
        if self.store.earlier().last().is_some_and(|kept| kept.fork == Fork::Mark(identity(epoch.0).mark)) {
            self.was.insert(epoch.0, self.seen.clone());
        }
        // Images get their writes some time after the commit.
        let applied = self.epoch.saturating_sub(random.below(4));
        self.disks.iter().for_each(|disk| disk.lock().commit(applied).unwrap());
        self.store.ring.as_mut().unwrap().pass_ms(random.below(700));
    }

    /// A copy of all files, as a crash and the log of disk writes leave them.
    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir_all(copy.path().join("state").join("earlier")).unwrap();
        for disk in &self.disks {
            disk.lock().commit(self.epoch).unwrap();
        }
        for from in ["", "state", "state/earlier"] {
            for entry in std::fs::read_dir(self.dir.path().join(from)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    std::fs::copy(entry.path(), copy.path().join(from).join(entry.file_name())).unwrap();
                }
            }
        }
        copy
    }
}

fn open(dir: &Path) -> (LocalStore, LastEpoch, Vec<OverlayDisk>) {
    let (mut store, last) = LocalStore::open(&dir.join("state"), RAM_BYTES, options(LocalLog::Auto)).unwrap();
    store.keep_earlier(Some(LIMITS)).unwrap();
    let disks = images(dir).iter().map(|path| OverlayDisk::open(path, false).unwrap()).collect();
    (store, last, disks)
}

fn seen_in(dir: &Path, store: &LocalStore) -> Seen {
    let ram = store.map_ram().unwrap();
    let page_of = |gfn| {
        let mut page = [0; PAGE_SIZE];
        assert!(ram.read_page(gfn, &mut page));
        assert!(page.iter().all(|byte| *byte == page[0]));
        page[0]
    };
    let disks = images(dir).iter().map(|path| std::fs::read(path).unwrap()).collect();
    Seen { pages: (0..PAGES).map(page_of).collect(), disks }
}

#[test]
fn memory_and_disks_go_back_together_to_every_kept_epoch() {
    for (seed, log) in [(5, LocalLog::Undo), (77, LocalLog::Undo), (901, LocalLog::Redo)] {
        let (mut guest, random) = (Guest::new(log), &mut Random(seed));
        (0..60).for_each(|_| guest.run_an_epoch(random));
        guest.store.ring.as_mut().unwrap().end_merging(true).unwrap();
        let kept = guest.store.earlier();
        assert!(kept.len() >= 3, "{kept:?}");
        for to in kept.iter().map(|kept| kept.fork.count().0) {
            let copy = guest.copy();
            let (mut store, last, disks) = open(copy.path());
            assert_eq!(last.epoch(), EpochId(60));
            let anew = anew(to);
            let went_back = store.go_back(anew, &[], &disks).unwrap();
            let first = EpochMark::root(anew.branch, anew.origin).next(Some(StateDigest::of(&went_back.state)));
            assert_eq!(went_back.fork, Fork::Mark(first), "it continues the earlier epoch");
            assert_eq!(went_back.fork.name().to_string(), format!("2/{}", to + 1));
            assert_eq!(went_back.state, format!("state {to}").into_bytes());
            assert_eq!(store.earlier().last().map(|kept| kept.fork.count().0), Some(to));
            assert!(
                seen_in(copy.path(), &store) == guest.was[&to],
                "seed {seed}: what is mapped now is not epoch {to}"
            );
            drop((store, disks));
            let (mut store, last, disks) = open(copy.path());
            assert_eq!((last.fork, last.line), (went_back.fork, Line::Nothing));
            assert_eq!((last.epoch(), last.state), (EpochId(to + 1), format!("state {to}").into_bytes()));
            assert!(seen_in(copy.path(), &store) == guest.was[&to], "seed {seed}: epoch {to} is not what it was");
            // Once more, from a start that was broken off: nothing changes.
            store.go_back(anew, &[], &disks).unwrap();
            drop((store, disks));
            let (store, _, _) = open(copy.path());
            assert!(seen_in(copy.path(), &store) == guest.was[&to]);
        }
    }
}

#[test]
fn damaged_block_is_found_before_anything_is_changed() {
    let (mut guest, random) = (Guest::new(LocalLog::Auto), &mut Random(3));
    (0..20).for_each(|_| guest.run_an_epoch(random));
    let copy = guest.copy();
    let oldest = guest.store.earlier()[0].fork.count().0;
    let path = copy.path().join("state").join("earlier").join(format!("{oldest:016x}"));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (mut store, _, disks) = open(copy.path());
    let error = store.go_back(anew(oldest), &[], &disks).unwrap_err();
    assert!(matches!(error, LocalError::Earlier { .. }), "{error}");
    assert!(seen_in(copy.path(), &store) == guest.seen);
}

#[test]
fn what_is_kept_goes_with_the_guest_and_where_nothing_is_to_be_kept() {
    let (mut guest, random) = (Guest::new(LocalLog::Auto), &mut Random(3));
    (0..5).for_each(|_| guest.run_an_epoch(random));
    let copy = guest.copy();
    let dir = copy.path().join("state");
    let (mut store, _, disks) = open(copy.path());
    store.keep_earlier(None).unwrap();
    assert!(!dir.join("earlier").exists());
    drop((store, disks));
    let dir = guest.dir.path().join("state");
    guest.store.remove().unwrap();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

#[test]
fn block_that_the_machine_does_not_have_is_found_before_anything_is_changed() {
    // Its checksum is right: the page was looked for in memory, and the assertion that it is there ended the program.
    let disk = |disk: u64, index: u64| (disk + 1) << 48 | index;
    let beyond =
        [PAGES, 1 << 47, (1 << 48) - 1, disk(0, 64), disk(1, 17), disk(2, 0), disk(0, (1 << 48) - 1), u64::MAX];
    for id in beyond {
        let (mut guest, random) = (Guest::new(LocalLog::Auto), &mut Random(3));
        (0..20).for_each(|_| guest.run_an_epoch(random));
        let copy = guest.copy();
        let oldest = guest.store.earlier()[0].fork.count().0;
        retained::append_block(&copy.path().join("state").join("earlier"), EpochId(oldest), id);
        let (mut store, _, disks) = open(copy.path());
        let error = store.go_back(anew(oldest), &[], &disks).unwrap_err();
        assert!(error.to_string().contains("this machine does not have"), "{id:#x}: {error}");
        assert!(seen_in(copy.path(), &store) == guest.seen, "{id:#x}");
    }
}
