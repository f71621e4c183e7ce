//! The backup's disk worker: a thread that owns the disks and their log, does one step at a time and says how it went.
//!
//! ```text
//!   pipeline ──Order──▶ worker: log, images ──Done──▶ mailbox ──▶ pipeline
//! ```
//!
//! It decides nothing: what comes before what is a rule of [`replication::pipeline::backup`]. The loop never waits for
//! storage. What a step costs, the worker waits for: a sync, a slow disk. A second thread, `standby-sync`, syncs the images
//! beside it when the pipeline says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use replication::pipeline::backup::{Answer, StorageDone, StorageStep};
use replication::wire::{DiskOffer, DiskWant};
use replication::{AssembledEpoch, EpochId, SessionId};
use snapshot::disk::{CHUNK_BYTES, OverlayDisk};
use snapshot::writeset::WriteSet;

use super::fitness::{DiskFacts, readonly_differs, rehearse};
use crate::courtesy::Courtesy;
use crate::error::ProtectError;
use crate::fault;
use crate::log::{DiskLog, Notes};
use crate::mailbox::Postbox;
use crate::room::Trouble;
use crate::upkeep::Upkeep;
use machine::causes::with_causes;
use machine::memory::Ram;
use machine::shape::Shape;
use machine::spawn;

/// What the worker is to do.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) step: StorageStep,
    /// Where a base is to run, to see whether it can. None: the session's memory is gone, and nobody waits for the answer.
    pub(super) rehearsal: Option<Rehearsal>,
}

/// Where a base is to run.
#[derive(Debug, Clone)]
pub(super) struct Rehearsal {
    /// The guest's memory.
    pub(super) ram: Ram,
    /// The machine that the Hello told of.
    pub(super) machine: Shape,
}

/// What was done, or has come up.
#[derive(Debug)]
pub(super) enum Done {
    /// A step.
    Storage(StorageDone),
    /// The last one.
    HandedOver { disks: Vec<OverlayDisk>, log: Box<DiskLog> },
    /// A step of the worker failed.
    Failed(ProtectError),
    /// The images were synced beside it, or could not be.
    Upkeep(Result<(), ProtectError>),
    /// The witness answered, or did not.
    Answered(Answer),
}

/// The loop's side of both threads. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Storage {
    orders: Sender<Order>,
    upkeep: Sender<()>,
    disks: Vec<DiskFacts>,
}

impl Storage {
    /// Starts the threads, which post to `done`.
    pub(super) fn start(disks: Vec<OverlayDisk>, log: DiskLog, done: Postbox<Done>) -> Self {
        let facts = disks.iter().map(|disk| DiskFacts {
            path: disk.path().to_owned(),
            len: disk.len_bytes(),
            readonly: disk.is_readonly(),
        });
        let facts = facts.collect();
        let (orders, ordered) = channel();
        let (upkeep, due) = channel();
        let images = disks.iter().map(|disk| Arc::clone(disk.image()));
        let keeper = Keeper { upkeep: Upkeep::of(images), notes: log.notes(), done: done.clone() };
        spawn("standby-sync".into(), move || keeper.run(&due));
        let worker = Worker { disks, log, sets: VecDeque::new(), done };
        spawn("standby-disk".into(), move || {
            let _obituary = Obituary(worker.done.clone());
            worker.run(&ordered);
        });
        Self { orders, upkeep, disks: facts }
    }

    pub(super) fn disks(&self) -> &[DiskFacts] {
        &self.disks
    }

    /// Gives the worker a step.
    pub(super) fn order(&self, order: Order) {
        // A worker that has ended said why, in a message that is on its way.
        if self.orders.send(order).is_err() {
            tracing::debug!("the disk worker has ended");
        }
    }

    /// Has the images synced beside the worker.
    pub(super) fn sync_beside(&self) {
        if self.upkeep.send(()).is_err() {
            tracing::debug!("the thread that syncs images has ended");
        }
    }
}

struct Worker {
    disks: Vec<OverlayDisk>,
    log: DiskLog,
    /// What was made of epochs for the log, for the images.
    sets: VecDeque<(SessionId, EpochId, Vec<WriteSet>)>,
    done: Postbox<Done>,
}

/// Looks after the images beside the worker.
struct Keeper {
    upkeep: Upkeep,
    notes: Notes,
    done: Postbox<Done>,
}

impl Keeper {
    /// The body of its thread.
    fn run(mut self, due: &Receiver<()>) {
        while due.recv().is_ok() {
            let synced = self.upkeep.sync().map_err(|error| {
                self.notes.doubt(self.upkeep.images());
                ProtectError::from(error).during("disk writes that were logged are not on their disk")
            });
            self.done.post(Done::Upkeep(synced));
        }
    }
}

/// A worker that panics takes the backup with it, as if it were one thread.
struct Obituary(Postbox<Done>);

impl Drop for Obituary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.post(Done::Failed(ProtectError::DiskWorker));
        }
    }
}

impl Worker {
    /// The body of its thread.
    fn run(mut self, orders: &Receiver<Order>) {
        let mut courtesy = Courtesy::of_this_thread();
        while let Ok(order) = orders.recv() {
            if order.step == StorageStep::HandOver {
                let Self { disks, log, sets: _, done } = self;
                return done.post(Done::HandedOver { disks, log: Box::new(log) });
            }
            let is_bulk = matches!(order.step, StorageStep::Compare(_) | StorageStep::WriteChunk(_));
            match self.perform(&order) {
                Ok(done) => self.done.post(Done::Storage(done)),
                Err(Trouble::Full { path }) => self.done.post(Done::Storage(StorageDone::NoRoom(path))),
                Err(Trouble::Other(error)) => return self.fail(error),
            }
            if is_bulk {
                courtesy.rest();
            }
        }
    }

    fn fail(&self, error: ProtectError) {
        self.log.notes().doubt(self.disks.iter().map(|disk| &**disk.image()));
        self.done.post(Done::Failed(error));
    }

    /// Does one thing.
    fn perform(&mut self, Order { step, rehearsal }: &Order) -> Result<StorageDone, Trouble> {
        match step {
            StorageStep::Compare(offer) => return self.compare(offer),
            StorageStep::BeginFilling => self.log.begin_filling()?,
            StorageStep::EndFilling => self.log.end_filling()?,
            StorageStep::WriteChunk(chunk) => {
                let mut set = WriteSet::new();
                set.write(chunk.offset, &chunk.data);
                self.disks[usize::from(chunk.disk)].image().apply(&set)?;
            }
            StorageStep::Rehearse(epoch) => {
                if let Some(Rehearsal { ram, machine }) = rehearsal
                    && let Err(error) = rehearse(&epoch.state, ram, machine)
                {
                    return Ok(StorageDone::Unfit(with_causes(&error)));
                }
            }
            StorageStep::Append(epoch) => return self.append(epoch),
            StorageStep::Apply(epoch) => self.apply(epoch)?,
            StorageStep::SyncImages => self.sync_images()?,
            StorageStep::TruncateLog => {
                self.sets.clear();
                self.log.truncate()?;
            }
            StorageStep::HandOver => unreachable!("the caller took it"),
        }
        Ok(StorageDone::Done)
    }

    fn compare(&mut self, offer: &DiskOffer) -> Result<StorageDone, Trouble> {
        let disk = &self.disks[usize::from(offer.disk)];
        let mut wanted = Vec::with_capacity(offer.hashes.len());
        for (i, theirs) in offer.hashes.iter().enumerate() {
            let chunk = offer.first_chunk + i as u64;
            let same =
                u64::from(offer.chunk_bytes) == CHUNK_BYTES && disk.image().chunk_hash(chunk)?.to_le_bytes() == *theirs;
            if !same && disk.is_readonly() {
                return Ok(StorageDone::Differs(readonly_differs(offer.disk, disk.path(), chunk)));
            }
            wanted.push(!same);
        }
        Ok(StorageDone::Compared(DiskWant { disk: offer.disk, first_chunk: offer.first_chunk, wanted }))
    }

    fn append(&mut self, epoch: &AssembledEpoch) -> Result<StorageDone, Trouble> {
        let writes = self.take_sets(epoch);
        let sets: Vec<(u16, &WriteSet)> = writes.iter().enumerate().map(|(disk, set)| (disk as u16, set)).collect();
        let has_room = self.log.has_room(&sets);
        let appended = if has_room { self.log.append(epoch.mark, &sets) } else { Ok(()) };
        self.sets.push_back((epoch.session, epoch.mark.count, writes));
        appended?;
        Ok(match has_room {
            true => StorageDone::Appended { is_half_full: self.log.is_half_full() },
            false => StorageDone::LogFull,
        })
    }

    fn apply(&mut self, epoch: &AssembledEpoch) -> Result<(), Trouble> {
        fault::lasts(fault::IMAGE_WRITE);
        let sets = self.take_sets(epoch);
        let applied = self.disks.iter().zip(&sets).filter(|(_, set)| !set.is_empty()).try_for_each(|(disk, set)| {
            fault::fails_image(disk.path())?;
            disk.image().apply(set)
        });
        if applied.is_err() {
            self.sets.push_back((epoch.session, epoch.mark.count, sets));
        }
        applied?;
        self.log.note_applied(epoch.mark.count);
        Ok(())
    }

    /// What was made of the epoch's disk writes, or what is made of them now.
    fn take_sets(&mut self, epoch: &AssembledEpoch) -> Vec<WriteSet> {
        let is_of =
            |(session, number, _): &(SessionId, EpochId, _)| (*session, *number) == (epoch.session, epoch.mark.count);
        let known = self.sets.iter().position(is_of).and_then(|at| self.sets.remove(at));
        known.map_or_else(|| write_sets(epoch, self.disks.len()), |(_, _, sets)| sets)
    }

    fn sync_images(&mut self) -> Result<(), Trouble> {
        fault::lasts(fault::IMAGE_SYNC);
        Ok(self.disks.iter().try_for_each(|disk| disk.image().sync())?)
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
