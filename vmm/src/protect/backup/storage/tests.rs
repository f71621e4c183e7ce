//! The worker without its thread: what it does, and in which order.

use std::path::Path;

use replication::wire::DiskWrite;

use snapshot::disklog::{Asked, Owner};

use super::*;
use crate::protect::backup::mailbox::Mailbox;
use crate::protect::local::fault::{IMAGE_SYNC, IMAGE_WRITE, LOG_APPEND, LOG_SYNC, trace};
use crate::protect::log::{self, Setup, Wanted};

const SESSION: SessionId = SessionId([3; 16]);

struct Place {
    dir: tempfile::TempDir,
    worker: Worker,
    /// Kept, so that the worker has somebody to tell.
    _mailbox: Mailbox<Done>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.img"), vec![0; 64 << 10]).unwrap();
        let mailbox = Mailbox::new().unwrap();
        let worker = Self::worker(dir.path(), &mailbox);
        trace::take();
        Self { dir, worker, _mailbox: mailbox }
    }

    fn worker(dir: &Path, mailbox: &Mailbox<Done>) -> Worker {
        let disks = vec![OverlayDisk::open(dir.join("b.img"), false).unwrap()];
        let wanted = Wanted { chosen: None, state_dir: dir, must_survive_power: false };
        let place = log::Place::of([&*dir.join("b.img")].into_iter(), wanted).unwrap();
        let owner = Owner { name: "vm0".into(), life: log::new_life() };
        let log = DiskLog::open(&disks, Setup { place, owner, asked: Asked::Start, is_reserved: false }).unwrap();
        Worker { disks, log, logged: VecDeque::new(), unsynced_bytes: 0, done: mailbox.postbox(), stop: Arc::default() }
    }

    fn obey(&mut self, order: Order) -> Done {
        self.worker.obey(order).expect("nothing fails").expect("nobody ended it")
    }

    fn persist(&mut self, epoch: &Arc<AssembledEpoch>, durable: bool) {
        let done = self.obey(Order::Persist { epoch: Arc::clone(epoch), durable, rehearsal: None });
        assert!(matches!(done, Done::Durable { session: SESSION, epoch: of } if of == epoch.epoch), "{done:?}");
    }

    fn apply(&mut self, epoch: &Arc<AssembledEpoch>) {
        let done = self.obey(Order::Apply(Arc::clone(epoch)));
        assert!(matches!(done, Done::Applied { epoch: of, .. } if of == epoch.epoch), "{done:?}");
    }

    fn first_bytes(&self) -> [u8; 3] {
        let image = std::fs::read(self.dir.path().join("b.img")).unwrap();
        [image[0], image[512], image[1024]]
    }
}

/// Epoch `number`, which writes its number to sector `sector`.
fn epoch(number: u64, sector: u64, base: bool) -> Arc<AssembledEpoch> {
    let disk_writes = vec![DiskWrite { disk: 0, offset: sector * 512, data: vec![number as u8; 512] }];
    Arc::new(AssembledEpoch {
        session: SESSION,
        epoch: EpochId(number),
        base,
        disk_writes,
        ..AssembledEpoch::default()
    })
}

fn chunk(byte: u8) -> ResyncDisk {
    ResyncDisk { disk: 0, offset: 0, data: vec![byte; 64 << 10] }
}

#[test]
fn base_counts_when_what_was_filled_in_before_it_is_synced() {
    // It was acked while the chunks were in the host's memory only: a power cut of both hosts left neither image whole.
    let mut place = Place::new();
    place.obey(Order::WriteChunk { chunk: chunk(9), durable: true });
    let base = epoch(7, 1, true);
    place.persist(&base, true);
    assert_eq!(trace::take(), [IMAGE_SYNC, LOG_APPEND, LOG_SYNC]);
    place.apply(&base);
    place.persist(&epoch(8, 2, false), true);
    assert_eq!(trace::take(), [IMAGE_WRITE, LOG_APPEND, LOG_SYNC]);
    assert_eq!(place.first_bytes(), [9, 7, 9]);
}

#[test]
fn chunks_are_synced_while_they_come_so_that_the_base_waits_for_few() {
    let mut place = Place::new();
    let per_sync = UNSYNCED_BYTES_MAX / (64 << 10);
    for n in 0..=per_sync {
        assert_eq!(trace::take(), [] as [&str; 0], "{n}");
        place.obey(Order::WriteChunk { chunk: chunk(1), durable: true });
    }
    assert_eq!((trace::take(), place.worker.unsynced_bytes), (vec![IMAGE_SYNC], 0));
}

#[test]
fn durability_memory_asks_nothing_of_log_and_medium() {
    let mut place = Place::new();
    place.obey(Order::WriteChunk { chunk: chunk(5), durable: false });
    let epochs = [epoch(7, 0, true), epoch(8, 1, false)];
    epochs.iter().for_each(|epoch| place.persist(epoch, false));
    epochs.iter().for_each(|epoch| place.apply(epoch));
    assert_eq!(trace::take(), [IMAGE_WRITE, IMAGE_WRITE]);
    // One that was durable as it was.
    place.apply(&epoch(9, 2, false));
    assert_eq!(place.first_bytes(), [7, 8, 9]);
    assert_eq!(trace::take(), [IMAGE_WRITE]);
}

#[test]
fn epochs_persisted_ahead_are_in_the_log_until_the_images_have_them() {
    // With a worker of its own the log runs ahead of the images: emptied in between it would lose what was acked.
    let mut place = Place::new();
    let epochs = [epoch(7, 0, true), epoch(8, 1, false), epoch(9, 2, false)];
    epochs.iter().for_each(|epoch| place.persist(epoch, true));
    place.apply(&epochs[0]);
    assert_eq!(place.first_bytes(), [7, 0, 0]);
    // The process is killed here; the next one finds all three.
    let Place { dir, worker, _mailbox: mailbox } = place;
    drop(worker);
    let worker = Place::worker(dir.path(), &mailbox);
    let place = Place { dir, worker, _mailbox: mailbox };
    assert_eq!(place.first_bytes(), [7, 8, 9]);
}

#[test]
fn nothing_of_a_discarded_session_is_applied_or_recovered() {
    let mut place = Place::new();
    place.persist(&epoch(7, 0, true), true);
    place.persist(&epoch(8, 1, false), true);
    assert!(matches!(place.obey(Order::Discard), Done::Discarded));
    assert!(place.worker.logged.is_empty());
    let Place { dir, worker, _mailbox: mailbox } = place;
    drop(worker);
    let worker = Place::worker(dir.path(), &mailbox);
    assert_eq!(Place { dir, worker, _mailbox: mailbox }.first_bytes(), [0, 0, 0]);
}

#[test]
fn disks_that_are_handed_over_are_synced_and_their_log_is_empty() {
    let mut place = Place::new();
    let base = epoch(7, 0, true);
    place.persist(&base, true);
    place.apply(&base);
    trace::take();
    place.worker.hand_over();
    assert_eq!(trace::take(), [IMAGE_SYNC]);
    let Some(Done::HandedOver { disks, log }) = place._mailbox.take() else { panic!("they are given back") };
    assert_eq!((disks.len(), log.is_half_full()), (1, false));
}

#[test]
fn base_that_cannot_be_read_is_refused_and_the_worker_goes_on() {
    // It ended the backup: any primary could do that.
    let mut place = Place::new();
    let base = Arc::new(AssembledEpoch {
        session: SESSION,
        epoch: EpochId(7),
        base: true,
        state: Arc::new(b"no state".to_vec()),
        ..AssembledEpoch::default()
    });
    let machine = Shape { memory_bytes: (1 << 20).try_into().expect("whole pages"), vcpus: 1, disks: 1, nets: 0 };
    let rehearsal = Some(Rehearsal { ram: Ram::new(1 << 20).expect("it fits"), machine });
    let done = place.obey(Order::Persist { epoch: base, durable: true, rehearsal });
    assert!(
        matches!(&done, Done::BaseRefused { session: SESSION, failure } if failure.message.contains("state")),
        "{done:?}"
    );
    assert!(matches!(place.obey(Order::Discard), Done::Discarded));
}
