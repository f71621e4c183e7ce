//! The backup's disk worker: a thread that owns the disks and their log and does what it is told, in order.
//!
//! ```text
//!   loop ──Order──▶ worker: log, images ──Done──▶ mailbox ──▶ loop
//! ```
//!
//! The loop hears the primary, answers it and keeps time; it never waits for storage. What an order costs, the worker
//! waits for: a sync, a full file system. Each order is answered by one [`Done`], in the order of the orders.
//!
//! - An epoch is in the log before any image has a byte of it.
//! - The log is emptied only when the images have all that is in it, and are synced.
//! - A base counts only when the chunks that were filled in before it are durable, if epochs are to be.
//! - When there is no room the order waits, and is tried again until there is. Any other error ends the worker.
//!
//! A second thread, `standby-sync`, syncs the images now and then ([`super::super::upkeep`]): a backup whose images' disk is gone
//! ends while the primary still has the guest, and not when it takes over.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Thread;

use replication::wire::{DiskOffer, DiskWant, Hello, RefuseCode, ResyncDisk};
use replication::{AssembledEpoch, ClaimResult, EpochId, SessionId};
use snapshot::disk::{CHUNK_BYTES, OverlayDisk};
use snapshot::writeset::WriteSet;

use super::filling::{readonly_differs, rehearse};
use super::mailbox::Postbox;
use crate::exit::{Exit, Failure};
use crate::machine::spawn;
use crate::machine::state::Shape;
use crate::memory::Ram;
use crate::protect::courtesy::Courtesy;
use crate::protect::lease::Introduction;
use crate::protect::local::fault;
use crate::protect::log::{DiskLog, Notes};
use crate::protect::room::{ROOM_RETRY, Trouble};
use crate::protect::upkeep::{self, Upkeep};

/// Filled chunks are synced whenever so many bytes came: the base, which the primary's guest waits for, syncs the rest.
const UNSYNCED_BYTES_MAX: usize = 16 << 20;
/// Filled bytes that wait for the worker at most; beyond that the primary is not read.
const FILLING_BYTES_MAX: usize = 32 << 20;

/// What the worker is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Say which of these chunks the replica lacks.
    Compare { session: SessionId, offer: DiskOffer },
    /// Put these bytes into the replica. Whether they are to be durable with the base.
    WriteChunk { chunk: ResyncDisk, durable: bool },
    /// Put an epoch's disk writes into the log, durably if that is asked for; a base is loaded into a VM first.
    Persist { epoch: Arc<AssembledEpoch>, durable: bool, rehearsal: Option<Rehearsal> },
    /// Put them into the images.
    Apply(Arc<AssembledEpoch>),
    /// What is in the log is void.
    Discard,
    /// Sync the images and empty the log: what is here is kept, up to `epoch`.
    Keep { epoch: EpochId, holder: String },
    /// Sync the images, empty the log, give both back. Nothing comes after it.
    HandOver,
}

/// Where a base is to run, to see whether it can.
#[derive(Debug)]
pub(super) struct Rehearsal {
    /// The guest's memory.
    pub(super) ram: Ram,
    /// The machine that the Hello told of.
    pub(super) machine: Shape,
}

/// What was done, or has come up.
#[derive(Debug)]
pub(super) enum Done {
    Compared {
        session: SessionId,
        want: DiskWant,
    },
    /// A read-only disk of the session is another one.
    Differs {
        session: SessionId,
        text: String,
    },
    Written {
        bytes: usize,
    },
    Durable {
        session: SessionId,
        epoch: EpochId,
    },
    /// A base cannot run here. It was not persisted.
    BaseRefused {
        session: SessionId,
        failure: Failure,
    },
    Applied {
        session: SessionId,
        epoch: EpochId,
        base: bool,
    },
    Discarded,
    Kept {
        epoch: EpochId,
        holder: String,
    },
    HandedOver {
        disks: Vec<OverlayDisk>,
        log: Box<DiskLog>,
    },
    /// Answers no order: what is written to has no room; the order waits.
    Full {
        path: PathBuf,
    },
    /// Answers no order: the order that waited is done.
    HasRoom {
        path: PathBuf,
    },
    /// The witness said whether the primary that greeted may be followed.
    Introduced {
        session: SessionId,
        hello: Box<Hello>,
        introduction: Result<Introduction, (RefuseCode, String)>,
    },
    /// The witness answered, or did not.
    Claimed {
        session: SessionId,
        result: ClaimResult,
    },
    /// The worker has ended.
    Failed(Failure),
}

/// What the loop must know of a disk.
#[derive(Debug, Clone)]
pub(super) struct DiskFacts {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) readonly: bool,
}

/// The loop's side of the worker.
#[derive(Debug)]
pub(super) struct Storage {
    orders: Sender<Order>,
    disks: Vec<DiskFacts>,
    /// Orders that are not answered.
    outstanding: usize,
    filling_bytes: usize,
    full: Option<PathBuf>,
    stop: Arc<AtomicBool>,
    /// Epochs are to survive the host: what is in the images is to be on their media.
    is_durable: Arc<AtomicBool>,
    threads: [Thread; 2],
}

impl Storage {
    /// Starts the worker, which posts to `done`.
    pub(super) fn start(disks: Vec<OverlayDisk>, log: DiskLog, done: Postbox<Done>) -> Self {
        let facts = disks.iter().map(|disk| DiskFacts {
            path: disk.path().to_owned(),
            len: disk.len_bytes(),
            readonly: disk.is_readonly(),
        });
        let facts = facts.collect();
        let (orders, received) = channel();
        let (stop, is_durable) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let keeper = Keeper {
            upkeep: Upkeep::of(disks.iter().map(|disk| Arc::clone(disk.image()))),
            notes: log.notes(),
            done: done.clone(),
            stop: Arc::clone(&stop),
            is_durable: Arc::clone(&is_durable),
        };
        let keeper = spawn("standby-sync".into(), move || keeper.run()).thread().clone();
        let worker = Worker { disks, log, logged: VecDeque::new(), unsynced_bytes: 0, done, stop: Arc::clone(&stop) };
        let thread = spawn("standby-disk".into(), move || {
            let _obituary = Obituary(worker.done.clone());
            worker.run(&received);
        });
        let threads = [thread.thread().clone(), keeper];
        Self { orders, disks: facts, outstanding: 0, filling_bytes: 0, full: None, stop, is_durable, threads }
    }

    pub(super) fn disks(&self) -> &[DiskFacts] {
        &self.disks
    }

    /// Gives it an order.
    pub(super) fn order(&mut self, order: Order) {
        self.outstanding += 1;
        match &order {
            Order::WriteChunk { chunk, .. } => self.filling_bytes += chunk.data.len(),
            Order::Persist { durable, .. } => self.is_durable.store(*durable, Ordering::Release),
            _ => {}
        }
        // A worker that has ended said why, in a message that is on its way.
        if self.orders.send(order).is_err() {
            tracing::debug!("the disk worker has ended");
        }
    }

    /// A message of the worker was taken.
    pub(super) fn note(&mut self, done: &Done) {
        match done {
            Done::Full { path } => self.full = Some(path.clone()),
            Done::HasRoom { .. } => self.full = None,
            Done::Introduced { .. } | Done::Claimed { .. } | Done::Failed(_) => {}
            Done::Written { bytes } => {
                self.filling_bytes -= bytes;
                self.outstanding -= 1;
            }
            Done::Compared { .. }
            | Done::Differs { .. }
            | Done::Durable { .. }
            | Done::BaseRefused { .. }
            | Done::Applied { .. }
            | Done::Discarded
            | Done::Kept { .. }
            | Done::HandedOver { .. } => self.outstanding -= 1,
        }
    }

    /// Whether all orders are answered: what needs no storage then comes in its order without the worker.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Whether more of what fills the backup may be read.
    pub(super) fn takes_more(&self) -> bool {
        self.filling_bytes < FILLING_BYTES_MAX
    }

    /// What has no room, if an order waits for it.
    pub(super) fn full(&self) -> Option<&PathBuf> {
        self.full.as_ref()
    }
}

impl Drop for Storage {
    /// The worker ends with its orders; one that waits for room gives up.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
    }
}

struct Worker {
    disks: Vec<OverlayDisk>,
    log: DiskLog,
    /// Disk writes of epochs given here that the images do not have, in order. If they are to be durable they are in the log.
    logged: VecDeque<(EpochId, Vec<WriteSet>)>,
    /// Filled in since the images were synced.
    unsynced_bytes: usize,
    done: Postbox<Done>,
    stop: Arc<AtomicBool>,
}

/// Looks after the images beside the worker.
struct Keeper {
    upkeep: Upkeep,
    notes: Notes,
    done: Postbox<Done>,
    stop: Arc<AtomicBool>,
    is_durable: Arc<AtomicBool>,
}

impl Keeper {
    /// The body of its thread.
    fn run(mut self) {
        loop {
            std::thread::park_timeout(upkeep::PERIOD);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if self.is_durable.load(Ordering::Acquire)
                && let Err(error) = self.upkeep.sync()
            {
                self.notes.doubt(self.upkeep.images());
                let failure = Failure::of(&error).while_doing("disk writes that were logged are not on their disk");
                return self.done.post(Done::Failed(failure));
            }
        }
    }
}

/// A worker that panics takes the backup with it, as if it were one thread.
struct Obituary(Postbox<Done>);

impl Drop for Obituary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.post(Done::Failed(Failure::new(Exit::Error, "the disk worker failed: a bug of this program")));
        }
    }
}

impl Worker {
    /// The body of its thread.
    fn run(mut self, orders: &Receiver<Order>) {
        let mut courtesy = Courtesy::of_this_thread();
        while let Ok(order) = orders.recv() {
            if matches!(order, Order::HandOver) {
                return self.hand_over();
            }
            let is_bulk = matches!(order, Order::Compare { .. } | Order::WriteChunk { .. });
            match self.obey(order) {
                Ok(Some(done)) => {
                    self.done.post(done);
                    if is_bulk {
                        courtesy.rest();
                    }
                }
                Ok(None) => return,
                Err(failure) => return self.fail(failure),
            }
        }
    }

    fn fail(&self, failure: Failure) {
        self.log.notes().doubt(self.disks.iter().map(|disk| &**disk.image()));
        self.done.post(Done::Failed(failure));
    }

    /// Does one thing; gives what was done, or nothing if the loop is gone.
    fn obey(&mut self, order: Order) -> Result<Option<Done>, Failure> {
        match order {
            Order::Compare { session, offer } => self.insist(|worker| worker.compare(session, &offer)),
            Order::WriteChunk { chunk, durable } => {
                let mut set = WriteSet::new();
                set.write(chunk.offset, &chunk.data);
                let bytes = chunk.data.len();
                self.unsynced_bytes += if durable { bytes } else { 0 };
                self.insist(|worker| worker.fill_in(usize::from(chunk.disk), &set).map(|()| Done::Written { bytes }))
            }
            Order::Persist { epoch, durable, rehearsal } => {
                if let Some(Rehearsal { ram, machine }) = rehearsal
                    && let Err(error) = rehearse(&epoch.state, &ram, &machine)
                {
                    return Ok(Some(Done::BaseRefused { session: epoch.session, failure: error.into() }));
                }
                self.insist(|worker| worker.persist(&epoch, durable))
            }
            Order::Apply(epoch) => self.insist(|worker| worker.apply(&epoch)),
            Order::Discard => {
                self.logged.clear();
                self.unsynced_bytes = 0;
                self.insist(|worker| Ok(worker.log.truncate().map(|()| Done::Discarded)?))
            }
            Order::Keep { epoch, holder } => {
                self.insist(|worker| worker.checkpoint().map(|()| Done::Kept { epoch, holder: holder.clone() }))
            }
            Order::HandOver => unreachable!("the caller took it"),
        }
    }

    fn hand_over(mut self) {
        match self.insist(Self::checkpoint) {
            Ok(Some(())) => {
                let Self { disks, log, logged: _, unsynced_bytes: _, done, stop: _ } = self;
                done.post(Done::HandedOver { disks, log: Box::new(log) });
            }
            Ok(None) => {}
            Err(failure) => self.fail(failure),
        }
    }

    /// Tries until there is room. Nothing comes back if the loop ends meanwhile.
    fn insist<T>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T, Trouble>) -> Result<Option<T>, Failure> {
        let mut full = None;
        loop {
            match attempt(self) {
                Ok(result) => {
                    if let Some(path) = full {
                        self.done.post(Done::HasRoom { path });
                    }
                    return Ok(Some(result));
                }
                Err(Trouble::Full { path }) if full.is_none() => {
                    full = Some(path.clone());
                    self.done.post(Done::Full { path });
                }
                Err(Trouble::Full { .. }) => {}
                Err(Trouble::Other(failure)) => return Err(failure),
            }
            std::thread::park_timeout(ROOM_RETRY);
            if self.stop.load(Ordering::Acquire) {
                return Ok(None);
            }
        }
    }

    fn compare(&mut self, session: SessionId, offer: &DiskOffer) -> Result<Done, Trouble> {
        let disk = &self.disks[usize::from(offer.disk)];
        let mut wanted = Vec::with_capacity(offer.hashes.len());
        for (i, theirs) in offer.hashes.iter().enumerate() {
            let chunk = offer.first_chunk + i as u64;
            let same =
                u64::from(offer.chunk_bytes) == CHUNK_BYTES && disk.image().chunk_hash(chunk)?.to_le_bytes() == *theirs;
            if !same && disk.is_readonly() {
                return Ok(Done::Differs { session, text: readonly_differs(offer.disk, disk.path(), chunk) });
            }
            wanted.push(!same);
        }
        Ok(Done::Compared { session, want: DiskWant { disk: offer.disk, first_chunk: offer.first_chunk, wanted } })
    }

    fn fill_in(&mut self, disk: usize, set: &WriteSet) -> Result<(), Trouble> {
        self.disks[disk].image().apply(set)?;
        if self.unsynced_bytes > UNSYNCED_BYTES_MAX {
            self.sync_images()?;
        }
        Ok(())
    }

    fn persist(&mut self, epoch: &Arc<AssembledEpoch>, durable: bool) -> Result<Done, Trouble> {
        if durable && epoch.base {
            self.sync_images()?;
        }
        let writes = write_sets(epoch, self.disks.len());
        if durable {
            let sets: Vec<(u16, &WriteSet)> = writes.iter().enumerate().map(|(disk, set)| (disk as u16, set)).collect();
            if !self.log.has_room(&sets) {
                self.apply_logged(EpochId(u64::MAX))?;
                self.checkpoint()?;
            }
            self.log.append(epoch.epoch, &sets)?;
        }
        if !epoch.disk_writes.is_empty() {
            self.logged.push_back((epoch.epoch, writes));
        }
        Ok(Done::Durable { session: epoch.session, epoch: epoch.epoch })
    }

    fn apply(&mut self, epoch: &Arc<AssembledEpoch>) -> Result<Done, Trouble> {
        // One that needs no log comes here first.
        let at = self.logged.partition_point(|(logged, _)| *logged < epoch.epoch);
        if self.logged.get(at).is_none_or(|(logged, _)| *logged != epoch.epoch) && !epoch.disk_writes.is_empty() {
            self.logged.insert(at, (epoch.epoch, write_sets(epoch, self.disks.len())));
        }
        self.apply_logged(epoch.epoch)?;
        if self.log.is_half_full() && self.logged.is_empty() {
            self.checkpoint()?;
        }
        self.log.note_applied(epoch.epoch);
        Ok(Done::Applied { session: epoch.session, epoch: epoch.epoch, base: epoch.base })
    }

    /// Puts the epochs up to `upto` into the images. One that was put there in part is put there again.
    fn apply_logged(&mut self, upto: EpochId) -> Result<(), Trouble> {
        while let Some((_, sets)) = self.logged.front().filter(|(epoch, _)| *epoch <= upto) {
            fault::lasts(fault::IMAGE_WRITE);
            for (disk, set) in self.disks.iter().zip(sets) {
                if !set.is_empty() {
                    fault::fails_image(disk.path())?;
                    disk.image().apply(set)?;
                }
            }
            self.logged.pop_front();
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), Trouble> {
        assert!(self.logged.is_empty(), "the images do not have what is in the log");
        self.sync_images()?;
        Ok(self.log.truncate()?)
    }

    fn sync_images(&mut self) -> Result<(), Trouble> {
        fault::lasts(fault::IMAGE_SYNC);
        self.disks.iter().try_for_each(|disk| disk.image().sync())?;
        self.unsynced_bytes = 0;
        Ok(())
    }
}

/// The epoch's disk writes, by disk; later writes over earlier ones.
fn write_sets(epoch: &AssembledEpoch, disks: usize) -> Vec<WriteSet> {
    let used = epoch.disk_writes.iter().map(|w| usize::from(w.disk) + 1).max().unwrap_or(0);
    let mut sets: Vec<WriteSet> = (0..used.min(disks)).map(|_| WriteSet::new()).collect();
    for write in &epoch.disk_writes {
        if let Some(set) = sets.get_mut(usize::from(write.disk)) {
            set.write(write.offset, &write.data);
        }
    }
    sets
}

#[cfg(test)]
mod tests;
