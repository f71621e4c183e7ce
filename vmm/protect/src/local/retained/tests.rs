use std::collections::BTreeMap;

use super::super::tests::identity;
use super::*;
use machine::testing::Random;

const BLOCKS: u64 = 300;

fn fork(epoch: u64) -> Fork {
    Fork::Mark(identity(epoch).mark)
}

fn record_of(epoch: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode(&identity(epoch), b"state", [].iter(), &mut bytes);
    bytes
}

/// What all blocks hold: one byte says it.
type World = BTreeMap<(u16, u64), u8>;

/// Memory (0) and two disks (1, 2), the ring, and what the world was at the end of each epoch.
struct Model {
    dir: tempfile::TempDir,
    ring: Ring,
    world: World,
    was: BTreeMap<u64, World>,
    epoch: u64,
}

fn key(place: Place) -> (u16, u64) {
    match place {
        Place::Page(gfn) => (0, gfn),
        Place::Disk(disk, index) => (disk + 1, index),
    }
}

impl Model {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let ring = Ring::open(dir.path(), limits).unwrap();
        let world = (0..3).flat_map(|space| (0..BLOCKS).map(move |index| ((space, index), 0))).collect();
        Self { dir, ring, world, was: BTreeMap::new(), epoch: 0 }
    }

    fn record(epoch: u64) -> Vec<u8> {
        record_of(epoch)
    }

    /// One epoch that changes some blocks and is committed.
    fn commit(&mut self, random: &mut Random) {
        self.epoch += 1;
        let mut writes = Vec::new();
        for _ in 0..random.below(40) {
            let (space, index) = (random.below(3) as u16, random.below(BLOCKS));
            writes.push(((space, index), random.below(256) as u8));
            let before = [self.world[&(space, index)]; BLOCK];
            match space {
                0 if self.ring.wants_page(index) => self.ring.keep_page(index, &before).unwrap(),
                0 => {}
                disk if self.ring.wants_block(disk - 1, index) => {
                    self.ring.keep_block(disk - 1, index, &before).unwrap();
                }
                _ => {}
            }
        }
        self.ring.flush().unwrap();
        self.world.extend(writes);
        if self.ring.is_due() {
            self.ring.retain(fork(self.epoch), &Self::record(self.epoch)).unwrap();
            self.was.insert(self.epoch, self.world.clone());
        }
    }

    fn world_at(&mut self, epoch: u64) -> World {
        let mut world = self.world.clone();
        let give = |place, block: &[u8]| {
            assert!(block.iter().all(|byte| *byte == block[0]));
            world.insert(key(place), block[0]);
            Ok::<(), io::Error>(())
        };
        self.ring.blocks_of(EpochId(epoch), give).unwrap();
        world
    }

    /// Every epoch that is kept leads back to what was.
    fn check(&mut self, context: &str) {
        self.ring.end_merging(true).unwrap();
        for kept in self.ring.kept() {
            let epoch = kept.fork.count().0;
            assert_eq!(kept.fork, fork(epoch), "{context}");
            assert_eq!(self.ring.record(EpochId(epoch)).unwrap(), Self::record(epoch), "{context}");
            assert!(self.world_at(epoch) == self.was[&epoch], "{context}: epoch {epoch} is not what it was");
        }
    }

    /// As if the process had been killed while it wrote behind the newest file.
    fn reopen(&mut self, random: &mut Random) {
        let limits = self.ring.limits;
        self.ring.end_merging(true).unwrap();
        if let Some(newest) = self.ring.kept().last() {
            let mut batch = Batch::default();
            (0..3).for_each(|index| batch.push(BlockId::page(index), &[0xee; BLOCK]));
            let path = path_of(self.dir.path(), newest.fork.count());
            let mut file = File::options().read(true).write(true).open(path).unwrap();
            batch.write(&mut file, newest.bytes).unwrap();
            file.set_len(newest.bytes + random.below(batch.bytes())).unwrap();
        }
        fs::write(self.dir.path().join(NEXT), "half of a head").unwrap();
        let passed = self.ring.now_ms() - unix_ms();
        self.ring = Ring::open(self.dir.path(), limits).unwrap();
        self.ring.pass_ms(passed);
    }

    fn go_back(&mut self, random: &mut Random) {
        self.ring.end_merging(true).unwrap();
        let kept = self.ring.kept();
        let to = kept[random.below(kept.len() as u64) as usize].fork.count().0;
        self.world = self.world_at(to);
        self.ring.went_back_to(EpochId(to)).unwrap();
        assert_eq!(self.ring.kept().last().map(|kept| kept.fork.count().0), Some(to));
    }
}

#[test]
fn every_kept_epoch_leads_back_to_what_was_whatever_happened_since() {
    for seed in 1..=12 {
        let random = &mut Random(seed * 0x9e37_79b9);
        let mut model = Model::new(Limits { count: RetainCount::nearest(1 + seed % 5), bytes: u64::MAX });
        for step in 0..400 {
            model.commit(random);
            model.ring.pass_ms(random.below(900));
            match random.below(40) {
                0 => model.reopen(random),
                1 => model.go_back(random),
                2..6 => model.check(&format!("seed {seed}, step {step}")),
                _ => {}
            }
        }
        model.check(&format!("seed {seed}"));
        assert!(model.ring.kept().len() <= model.ring.limits.count.get() as usize + SURPLUS_MAX + 1);
        assert_eq!(model.ring.take_news(), None);
    }
}

#[test]
fn bytes_are_bounded_the_oldest_go_first_and_it_is_told_once() {
    let random = &mut Random(7);
    let bytes = 100 * BLOCK as u64;
    let mut model = Model::new(Limits { count: RetainCount::nearest(4), bytes });
    let mut told = 0;
    for _ in 0..200 {
        model.commit(random);
        model.ring.pass_ms(300);
        told += usize::from(model.ring.take_news().is_some());
        let taken: u64 =
            fs::read_dir(model.dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(taken <= bytes, "{taken}");
        model.check("bounded");
    }
    // A minute of the model's time in which more was wanted all the time.
    assert!((1..=2).contains(&told), "{told}");
}

#[test]
fn epoch_that_changes_more_than_the_bound_leaves_none_and_a_rest_later_one_is_kept_again() {
    let random = &mut Random(7);
    let mut model = Model::new(Limits { count: RetainCount::nearest(4), bytes: 5 * BLOCK as u64 });
    model.commit(random);
    assert_eq!(model.ring.kept().len(), 1);
    (0..BLOCKS).for_each(|gfn| {
        if model.ring.wants_page(gfn) {
            model.ring.keep_page(gfn, &[0; BLOCK]).unwrap();
        }
    });
    model.ring.flush().unwrap();
    assert!(model.ring.kept().is_empty());
    assert!(model.ring.take_news().is_some_and(|news| news.left == 0));
    assert!(!model.ring.is_due(), "it rests");
    model.ring.pass_ms(REST_MS);
    assert!(model.ring.is_due());
    model.was.clear();
    model.commit(random);
    model.check("again");
    assert_eq!(model.ring.kept().len(), 1);
}

#[test]
fn damaged_file_takes_the_older_ones_with_it_and_none_is_used() {
    let random = &mut Random(3);
    let mut model = Model::new(Limits { count: RetainCount::nearest(5), bytes: u64::MAX });
    while model.ring.kept().len() < 4 {
        model.commit(random);
        model.ring.pass_ms(400);
    }
    model.ring.end_merging(true).unwrap();
    let kept = model.ring.kept();
    let path = path_of(model.dir.path(), kept[1].fork.count());
    let whole = fs::read(&path).unwrap();
    // In the record: found when it is opened.
    let mut bytes = whole.clone();
    bytes[42] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut ring = Ring::open(model.dir.path(), model.ring.limits).unwrap();
    assert_eq!(ring.kept().iter().map(|kept| kept.fork).collect::<Vec<_>>(), [kept[2].fork, kept[3].fork]);
    assert!(ring.take_news().is_some_and(|news| news.why.contains("checksum")));
    // In a block: found before it is used.
    let path = path_of(model.dir.path(), kept[2].fork.count());
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut ring = Ring::open(model.dir.path(), model.ring.limits).unwrap();
    let used = ring.blocks_of(kept[2].fork.count(), |_, _| Ok::<(), io::Error>(()));
    assert_eq!(used.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn files_of_another_run_of_the_host_are_not_used() {
    let random = &mut Random(3);
    let mut model = Model::new(Limits { count: RetainCount::nearest(5), bytes: u64::MAX });
    model.commit(random);
    assert_eq!(Ring::open(model.dir.path(), model.ring.limits).unwrap().kept().len(), 1);
    fs::write(model.dir.path().join(BOOT), "another").unwrap();
    let mut ring = Ring::open(model.dir.path(), model.ring.limits).unwrap();
    assert!(ring.kept().is_empty());
    assert!(ring.take_news().is_some_and(|news| news.why.contains("started anew")));
}

#[test]
fn epoch_or_time_that_cannot_be_is_not_used_and_what_is_left_goes_on() {
    // Their checksums are right: of a time near the end of the numbers the clock of the ring overflowed.
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { count: RetainCount::nearest(4), bytes: u64::MAX };
    let write = |epoch: u64, at_ms: u64| {
        let path = path_of(dir.path(), EpochId(epoch));
        let record = record_of(epoch);
        delta::create(&path, EpochId(epoch), UnixMs::nearest(0), &record).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[16..24].copy_from_slice(&at_ms.to_le_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&[&bytes[..32], &record].concat());
        bytes[32..40].copy_from_slice(&sum.to_le_bytes());
        fs::write(path, bytes).unwrap();
        fs::write(dir.path().join(BOOT), boot_id()).unwrap();
    };
    for (epoch, at_ms) in [(7, u64::MAX), (7, u64::MAX - 999), (u64::MAX, 1), (1 << 63, 1)] {
        write(epoch, at_ms);
        let mut ring = Ring::open(dir.path(), limits).unwrap();
        assert!(ring.kept().is_empty(), "{epoch} {at_ms}");
        assert!(ring.is_due() && ring.now_ms() > 0);
        ring.rest(Duration::MAX);
        assert!(!ring.is_due());
    }
    write(7, 253_402_300_800_000);
    let ring = Ring::open(dir.path(), limits).unwrap();
    assert_eq!((ring.kept().len(), ring.is_due()), (1, false), "the latest that is allowed");
}

/// Somebody put a directory of another moment in its place: what came later there is no ancestor of what is kept now.
#[test]
fn epochs_of_another_line_go_when_one_is_kept_that_does_not_continue_them() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut ring = Ring::open(dir.path(), Limits { count: RetainCount::nearest(4), bytes: u64::MAX }).unwrap();
    for epoch in [5, 7] {
        ring.retain(fork(epoch), &record_of(epoch)).unwrap();
    }
    ring.retain(fork(6), &record_of(6)).unwrap();
    assert_eq!(ring.kept().iter().map(|kept| kept.fork).collect::<Vec<_>>(), [fork(6)]);
    assert!(ring.take_news().is_some_and(|news| news.why.contains("another line")));
}
