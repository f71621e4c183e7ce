//! The worker without its thread: each step does what it says, and no more.

use std::path::Path;

use replication::EpochMark;
use replication::wire::{DiskWrite, ResyncDisk};

use snapshot::disklog::{Asked, Owner};

use super::*;
use crate::fault::{IMAGE_SYNC, IMAGE_WRITE, LOG_APPEND, LOG_SYNC, trace};
use crate::log::{self, Setup, Wanted};
use crate::mailbox::Mailbox;

const SESSION: SessionId = SessionId([3; 16]);

struct Place {
    dir: tempfile::TempDir,
    worker: Worker,
    /// Kept, so that the worker has somebody to tell.
    mailbox: Mailbox<Done>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.img"), vec![0; 64 << 10]).unwrap();
        let mailbox = Mailbox::new().unwrap();
        let worker = Self::worker(dir.path(), &mailbox);
        trace::take();
        Self { dir, worker, mailbox }
    }

    fn worker(dir: &Path, mailbox: &Mailbox<Done>) -> Worker {
        let disks = vec![OverlayDisk::open(dir.join("b.img"), false).unwrap()];
        let wanted = Wanted { chosen: None, state_dir: dir, must_survive_power: false };
        let place = log::Place::of([&*dir.join("b.img")].into_iter(), wanted).unwrap();
        let owner = Owner { name: "vm0".into(), life: log::new_life() };
        let log =
            DiskLog::open(&disks, Setup { place, owner, asked: Asked::Start, is_reserved: false, is_filled: true })
                .unwrap();
        Worker { disks, log, sets: VecDeque::new(), done: mailbox.postbox() }
    }

    /// The process is killed, and another one starts.
    fn restart(self) -> Self {
        let Self { dir, worker, mailbox } = self;
        drop(worker);
        let worker = Self::worker(dir.path(), &mailbox);
        Self { dir, worker, mailbox }
    }

    fn perform(&mut self, step: StorageStep) -> StorageDone {
        self.worker.perform(&Order { step, rehearsal: None }).expect("nothing fails")
    }

    fn first_bytes(&self) -> [u8; 3] {
        let image = std::fs::read(self.dir.path().join("b.img")).unwrap();
        [image[0], image[512], image[1024]]
    }
}

/// Epoch `number`, which writes its number to sector `sector`.
fn mark(number: u64) -> EpochMark {
    EpochMark { count: EpochId(number), ..EpochMark::default() }
}

fn epoch(number: u64, sector: u64) -> Arc<AssembledEpoch> {
    let disk_writes = vec![DiskWrite { disk: 0, offset: sector * 512, data: vec![number as u8; 512] }];
    Arc::new(AssembledEpoch { session: SESSION, mark: mark(number), disk_writes, ..AssembledEpoch::default() })
}

#[test]
fn append_is_synced_and_leaves_the_images_alone() {
    let mut place = Place::new();
    assert_eq!(place.perform(StorageStep::Append(epoch(7, 0))), StorageDone::Appended { is_half_full: false });
    assert_eq!((trace::take(), place.first_bytes()), (vec![LOG_APPEND, LOG_SYNC], [0, 0, 0]));
    assert_eq!(place.restart().first_bytes(), [7, 0, 0]);
}

#[test]
fn apply_asks_nothing_of_log_and_medium() {
    let mut place = Place::new();
    place.perform(StorageStep::WriteChunk(Arc::new(ResyncDisk { disk: 0, offset: 0, data: vec![5; 64 << 10] })));
    for (number, sector) in [(7, 0), (8, 1)] {
        assert_eq!(place.perform(StorageStep::Apply(epoch(number, sector))), StorageDone::Done);
    }
    assert_eq!((trace::take(), place.first_bytes()), (vec![IMAGE_WRITE, IMAGE_WRITE], [7, 8, 5]));
    place.perform(StorageStep::SyncImages);
    assert_eq!(trace::take(), [IMAGE_SYNC]);
}

#[test]
fn records_are_in_the_log_until_it_is_truncated() {
    // With a worker of its own the log runs ahead of the images: emptied in between it would lose what was acked.
    let mut place = Place::new();
    let epochs = [epoch(7, 0), epoch(8, 1), epoch(9, 2)];
    for epoch in &epochs {
        place.perform(StorageStep::Append(Arc::clone(epoch)));
    }
    place.perform(StorageStep::Apply(Arc::clone(&epochs[0])));
    assert_eq!(place.first_bytes(), [7, 0, 0]);
    let mut place = place.restart();
    assert_eq!(place.first_bytes(), [7, 8, 9]);
    place.perform(StorageStep::Append(epoch(10, 0)));
    place.perform(StorageStep::TruncateLog);
    assert!(place.worker.sets.is_empty());
    assert_eq!(place.restart().first_bytes(), [7, 8, 9]);
}

#[test]
fn log_with_records_refuses_one_too_many_and_changes_nothing() {
    let mut place = Place::new();
    let large = |number: u64| {
        let disk_writes = vec![DiskWrite { disk: 0, offset: 0, data: vec![number as u8; 33 << 20] }];
        Arc::new(AssembledEpoch { session: SESSION, mark: mark(number), disk_writes, ..AssembledEpoch::default() })
    };
    let first = place.perform(StorageStep::Append(large(7)));
    assert_eq!(first, StorageDone::Appended { is_half_full: true }, "an empty log takes any");
    assert_eq!(place.perform(StorageStep::Append(large(8))), StorageDone::LogFull);
    assert_eq!(place.worker.log.last, EpochId(7));
    place.perform(StorageStep::TruncateLog);
    assert_eq!(place.perform(StorageStep::Append(large(8))), StorageDone::Appended { is_half_full: true });
}

#[test]
fn disks_and_log_are_handed_over_as_they_are() {
    let place = Place::new();
    let Place { dir: _dir, worker, mailbox } = place;
    let (orders, ordered) = channel();
    orders.send(Order { step: StorageStep::HandOver, rehearsal: None }).unwrap();
    worker.run(&ordered);
    assert_eq!(trace::take(), [] as [&str; 0]);
    let Some(Done::HandedOver { disks, log }) = mailbox.take() else { panic!("they are given back") };
    assert_eq!((disks.len(), log.is_half_full()), (1, false));
}

#[test]
fn base_that_cannot_be_read_is_unfit_and_the_worker_goes_on() {
    // It ended the backup: any primary could do that.
    let mut place = Place::new();
    let state = Arc::new(b"no state".to_vec());
    let base = Arc::new(AssembledEpoch { session: SESSION, mark: mark(7), base: true, state, ..Default::default() });
    let machine =
        Shape::new((1 << 20).try_into().expect("whole pages"), 1, vec!["virtio-block".into(), "virtio-rng".into()]);
    let rehearsal = Some(Rehearsal { ram: Ram::new(1 << 20).expect("it fits"), machine });
    let order = Order { step: StorageStep::Rehearse(base), rehearsal };
    let done = place.worker.perform(&order).expect("nothing fails");
    assert!(matches!(&done, StorageDone::Unfit(text) if text.contains("state")), "{done:?}");
    assert_eq!(place.perform(StorageStep::TruncateLog), StorageDone::Done);
}
