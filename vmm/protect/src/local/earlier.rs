//! The last committed epoch together with earlier ones: keeping them, and going back to one.

use std::sync::Arc;
use std::time::Duration;

use replication::output::{Output, still_held};
use replication::{EpochId, EpochMark, Fork, Origin, StateDigest, Term};
use snapshot::disk::{DiskError, OverlayDisk, WriteMode, WriteSet};
use snapshot::disklog::Line;
use snapshot::statedir::Item;

use super::record::{self, Identity};
use super::retained::{self, BLOCK, Limits, Place, Ring, Shortened};
use super::{KeptEpoch, LastEpoch, LocalError, LocalStore};
use crate::fault;
use machine::disk::SharedDisk;
use machine::memory::PAGE_SIZE;

/// What there is to tell of earlier epochs.
#[derive(Debug)]
pub struct RetentionNews {
    /// All that are kept, oldest first.
    pub kept: Vec<KeptEpoch>,
    /// Fewer than were asked for.
    pub shortened: Option<Shortened>,
}

/// The branch of a guest that went back: its first epoch is what the guest was at the end of the earlier one.
#[derive(Debug, Clone, Copy)]
pub struct Anew {
    /// The branch.
    pub branch: Term,
    /// What it begins with: the earlier epoch.
    pub origin: Origin,
    /// Where the log of disk writes is.
    pub line: Line,
}

impl LocalStore {
    /// Keeps earlier epochs from now on, and finds those that were kept. Without limits, none: those that are there go, for
    /// what changes is not followed.
    pub fn keep_earlier(&mut self, limits: Option<Limits>) -> Result<(), LocalError> {
        let dir = Item::Earlier.path_in(&self.dir);
        let failed = |source| LocalError::Earlier { dir: dir.clone(), source };
        self.ring = match limits {
            Some(limits) => Some(Ring::open(&dir, limits).map_err(failed)?),
            None => {
                retained::remove(&dir).map_err(failed)?;
                None
            }
        };
        Ok(())
    }

    pub(super) fn earlier_failed(&self) -> impl Fn(std::io::Error) -> LocalError + use<> {
        let dir = Item::Earlier.path_in(&self.dir);
        move |source| LocalError::Earlier { dir: dir.clone(), source }
    }

    /// Keeps no epoch more for `time`.
    pub fn rest_earlier(&mut self, time: Duration) {
        if let Some(ring) = &mut self.ring {
            ring.rest(time);
        }
    }

    /// The epochs that are kept, oldest first.
    pub fn earlier(&self) -> Vec<KeptEpoch> {
        self.ring.as_ref().map_or_else(Vec::new, Ring::kept)
    }

    /// Page `gfn` is about to change: keeps what it holds, at `at` of the region.
    pub(super) fn keep_page(&mut self, gfn: u64, at: usize) -> Result<(), LocalError> {
        let Some(ring) = self.ring.as_mut().filter(|ring| ring.wants_page(gfn)) else { return Ok(()) };
        let before = &self.memory.bytes(self.ram)?[at..at + PAGE_SIZE];
        // Most pages of most commits do not come here: what an error needs is made only for one.
        ring.keep_page(gfn, before)
            .map_err(|source| LocalError::Earlier { dir: Item::Earlier.path_in(&self.dir), source })
    }

    /// What was kept is where it must be before the change counts.
    pub(super) fn flush_earlier(&mut self) -> Result<(), LocalError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        ring.flush().map_err(|source| LocalError::Earlier { dir: Item::Earlier.path_in(&self.dir), source })
    }

    /// The writes of `epoch` to each disk are about to be committed: keeps what they replace.
    pub fn keep_disks(
        &mut self,
        epoch: EpochId,
        writes: &[Arc<WriteSet>],
        disks: &[SharedDisk],
    ) -> Result<(), LocalError> {
        if self.ring.is_none() {
            return Ok(());
        }
        let failed = self.earlier_failed();
        let Some(ring) = &mut self.ring else { return Ok(()) };
        for (number, (disk, set)) in disks.iter().zip(writes).enumerate() {
            if set.is_empty() {
                continue;
            }
            if disk.lock().mode() != WriteMode::Protected {
                // Its image has the writes already.
                return ring.give_up("a disk is written directly while a backup is filled").map_err(failed);
            }
            match keep_disk(ring, number as u16, set, disk, epoch) {
                Ok(()) => {}
                Err(Trouble::Ring(error)) => return Err(failed(error)),
                Err(Trouble::Disk(error)) => {
                    ring.give_up(&format!("what a disk held could not be read: {error}")).map_err(&failed)?;
                }
            }
        }
        Ok(())
    }

    /// `mark` was committed with `record`: keeps it if it is time for that.
    pub(super) fn retain(&mut self, mark: EpochMark, record: &[u8]) -> Result<(), LocalError> {
        let Some(ring) = self.ring.as_mut().filter(|ring| ring.is_due()) else { return Ok(()) };
        self.tidings_due = true;
        ring.retain(Fork::Mark(mark), record)
            .map_err(|source| LocalError::Earlier { dir: Item::Earlier.path_in(&self.dir), source })
    }

    /// What has changed since the last call.
    pub fn take_news(&mut self) -> Option<RetentionNews> {
        let shortened = self.ring.as_mut().and_then(Ring::take_news);
        let is_due = std::mem::take(&mut self.tidings_due) || shortened.is_some();
        is_due.then(|| RetentionNews { kept: self.earlier(), shortened })
    }

    /// Puts memory and disks back to the end of the earlier epoch from which `anew` begins, and commits that as its first epoch. Of the
    /// output of the earlier one that is kept with it which the `last` epoch still held; mostly that left long ago.
    ///
    /// Broken off at any moment, it can be done again, and must be: until it is done nothing here is of one moment. It looks
    /// at every checksum before it changes anything.
    ///
    /// # Panics
    /// If `anew` begins from no epoch.
    pub fn go_back(&mut self, anew: Anew, last: &[Output], disks: &[OverlayDisk]) -> Result<LastEpoch, LocalError> {
        let Anew { branch, origin, line } = anew;
        let to = origin.fork().expect("who goes back goes to an epoch").count();
        let failed = self.earlier_failed();
        let mut ring = self.ring.take().expect("earlier epochs are kept where one is gone back to");
        let old = ring.record(to).map_err(&failed)?;
        let path = Item::Earlier.path_in(&self.dir);
        let old = record::decode(&old).map_err(|source| LocalError::Record { path: path.clone(), source })?;
        // Every block is looked at before one is put back.
        ring.blocks_of(to, |place, _| self.check_place(place, disks)).map_err(|undo| undo.into_error(&failed))?;

        self.memory.begin()?;
        ring.blocks_of(to, |place, block| match place {
            Place::Page(gfn) => self.put_page(gfn, block),
            Place::Disk(disk, index) => put_block(disks, disk, index, block),
        })
        .map_err(|undo| undo.into_error(&failed))?;
        fault::reached(fault::WENT_BACK_IN_PART);
        for disk in disks {
            disk.image().sync()?;
        }
        let mut buffer = Vec::new();
        let mark = EpochMark::root(branch, origin).next(Some(StateDigest::of(&old.state)));
        let outputs = still_held(&old.outputs, last).to_vec();
        record::encode(&Identity { mark, life: self.life, line }, &old.state, outputs.iter(), &mut buffer);
        self.set(self.state, 0..buffer.len(), &buffer, true)?;
        self.memory.end()?;
        // Whoever maps it now starts from there.
        self.memory.settle()?;
        fault::reached(fault::WENT_BACK);
        ring.went_back_to(to).map_err(&failed)?;
        self.ring = Some(ring);
        Ok(LastEpoch { fork: Fork::Mark(mark), life: Some(self.life), line, state: old.state, outputs })
    }

    /// Whether this machine has the place of a block.
    fn check_place(&self, place: Place, disks: &[OverlayDisk]) -> Result<(), Undo> {
        let is_here = match place {
            Place::Page(gfn) => self.place_of(gfn).is_some(),
            Place::Disk(disk, index) => {
                let begin = index.checked_mul(BLOCK as u64);
                disks.get(usize::from(disk)).zip(begin).is_some_and(|(disk, begin)| begin < disk.len_bytes())
            }
        };
        if is_here { Ok(()) } else { Err(Undo::NoSuchPlace(place)) }
    }

    fn put_page(&mut self, gfn: u64, page: &[u8]) -> Result<(), Undo> {
        let at = self.place_of(gfn).ok_or(Undo::NoSuchPlace(Place::Page(gfn)))?;
        self.set(self.ram, at..at + PAGE_SIZE, page, true).map_err(Undo::Local)
    }
}

enum Trouble {
    Ring(std::io::Error),
    Disk(DiskError),
}

fn keep_disk(ring: &mut Ring, number: u16, set: &WriteSet, disk: &SharedDisk, epoch: EpochId) -> Result<(), Trouble> {
    let mut block = [0; BLOCK];
    let before = disk.lock().before(epoch.0);
    let len = disk.image().len_bytes();
    for (offset, bytes) in set.iter() {
        let last = (offset + bytes.len() as u64 - 1) / BLOCK as u64;
        for index in offset / BLOCK as u64..=last {
            if !ring.wants_block(number, index) {
                continue;
            }
            let at = index * BLOCK as u64;
            let held = (len - at).min(BLOCK as u64) as usize;
            block[held..].fill(0);
            before.read_at(at, &mut block[..held]).map_err(Trouble::Disk)?;
            ring.keep_block(number, index, &block).map_err(Trouble::Ring)?;
        }
    }
    Ok(())
}

/// The last block of a disk may be shorter than others.
fn put_block(disks: &[OverlayDisk], disk: u16, index: u64, block: &[u8]) -> Result<(), Undo> {
    let disk = disks.get(usize::from(disk)).ok_or(Undo::NoSuchPlace(Place::Disk(disk, index)))?;
    let at = index * BLOCK as u64;
    let held = disk.len_bytes().saturating_sub(at).min(BLOCK as u64) as usize;
    let mut set = WriteSet::new();
    set.write(at, &block[..held]);
    disk.image().apply(&set).map_err(|error| Undo::Local(error.into()))
}

enum Undo {
    Io(std::io::Error),
    Local(LocalError),
    NoSuchPlace(Place),
}

impl From<std::io::Error> for Undo {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Undo {
    fn into_error(self, failed: impl Fn(std::io::Error) -> LocalError) -> LocalError {
        match self {
            Self::Io(error) => failed(error),
            Self::Local(error) => error,
            Self::NoSuchPlace(place) => failed(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("they hold {place}, which this machine does not have"),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
