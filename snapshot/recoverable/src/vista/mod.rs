//! Vista: transactions on mapped memory with an undo log in memory that survives.
//!
//! Before a range is changed, its content goes to the log. The end of a transaction forgets the log by one store of eight
//! bytes: before it nothing has happened, after it everything has, in all regions at once. What a crash leaves is undone
//! when log and regions are opened again; doing that twice, or half and then once more, gives the same.
//!
//! ```text
//!            begin                 set_range                   end
//!   quiet ───────────▶ running ◀──────────────▶ running ─────────────────▶ quiet    the log is discarded
//!                         │                                                  ▲
//!                         └── abort, or the guard is dropped: images go back ┘
//!   opened with records that count ──▶ waiting: `map` of each region that they name undoes them ──▶ quiet
//! ```
//!
//! Invariants:
//! - a byte of a region differs from the last committed content only if its before-image counts in the log;
//! - a region knows the number of the last transaction that touched it. A log whose records are not of that one is not of
//!   the same moment and is refused;
//! - after an I/O error nothing is committed any more: the object is poisoned.
//!
//! One thread at a time has the memory. Source: Lowell, Chen, "Free transactions with Rio Vista", SOSP 1997.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::Error;
use crate::medium::Survives;
use crate::memory::check_range;
use crate::region::PersistentRegion;
use crate::region_id::RegionId;
use crate::step::{Step, reached};
use log::{ROWS, Record, Refusal, UndoLog};
use pages::Tracking;

mod log;
mod pages;
#[cfg(test)]
mod tests;
mod transaction;

pub use transaction::Transaction;

/// How a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VistaOptions {
    /// Room for before-images of one transaction in a log that is made, in bytes (with up to 103 more for each range).
    pub log_bytes: u64,
    /// What a committed transaction must survive. More is not paid for.
    pub required: Survives,
}

impl Default for VistaOptions {
    fn default() -> Self {
        Self { log_bytes: 4 << 20, required: Survives::ProcessDeath }
    }
}

#[derive(Debug)]
struct Mapped {
    // Before the region: it ends first.
    tracking: Option<Tracking>,
    region: PersistentRegion,
}

/// Recoverable memory with an undo log.
///
/// ```
/// use recoverable::{Vista, VistaOptions};
///
/// # let temporary = tempfile::tempdir_in("/dev/shm")?;
/// # let dir = temporary.path();
/// let mut vista = Vista::open(dir.join("log"), VistaOptions::default())?;
/// let accounts = vista.map(dir.join("accounts"), 4096)?;
///
/// let mut transaction = vista.begin()?;
/// transaction.set_range(accounts, 0..8)?.copy_from_slice(&7u64.to_le_bytes());
/// transaction.end()?;
///
/// let mut transaction = vista.begin()?;
/// transaction.set_range(accounts, 0..8)?.fill(0xff);
/// transaction.abort()?;
/// assert_eq!(vista.bytes(accounts)?[0], 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Vista {
    slots: [Option<Mapped>; ROWS],
    // In a box: handlers of page faults know where it is.
    log: Box<UndoLog>,
    required: Survives,
    is_running: bool,
    /// Whether a commit has bytes to persist; whether a region is tracked. Kept here, so that the regions are not looked at.
    persists: bool,
    has_tracked: bool,
    /// A bit for each region in which the transaction has declared a range.
    touched: u32,
    /// A bit for each region that the log has before-images of and that is not mapped yet.
    waiting: u32,
    poison: Option<String>,
}

impl Vista {
    /// Opens the log, or makes one.
    ///
    /// If it holds an unfinished transaction, that is undone as its regions are mapped; until then [`Self::begin`]
    /// refuses and names them.
    pub fn open(log: impl AsRef<Path>, options: VistaOptions) -> Result<Self, Error> {
        let (log, records) = UndoLog::open(log.as_ref(), options.log_bytes, options.required)?;
        let persists = log.persists();
        let waiting = records.iter().fold(0, |bits, record| bits | 1 << record.slot);
        Ok(Self {
            slots: [const { None }; ROWS],
            log: Box::new(log),
            required: options.required,
            is_running: false,
            persists,
            has_tracked: false,
            touched: 0,
            waiting,
            poison: None,
        })
    }

    /// Maps a region, or makes one of `len` bytes of zeros. Its unfinished changes are undone.
    pub fn map(&mut self, path: impl AsRef<Path>, len: usize) -> Result<RegionId, Error> {
        self.check_quiet()?;
        let region = PersistentRegion::open_any(path.as_ref(), len, self.required)?;
        let slot = self.bind(&region)?;
        let mut mapped = Mapped { tracking: None, region };
        self.recover(slot, &mut mapped.region)?;
        self.persists |= mapped.region.persists();
        self.slots[slot] = Some(mapped);
        Ok(RegionId(slot as u16))
    }

    /// The same; what a transaction writes is found by page protection instead of being declared ([`Transaction::memory`]).
    ///
    /// The first store to a page costs a page fault, two system calls and a copy of the page. Outside a transaction a store
    /// is a fault like any other.
    pub fn map_tracked(&mut self, path: impl AsRef<Path>, len: usize) -> Result<RegionId, Error> {
        let id = self.map(path, len)?;
        let mapped = self.slots[id.slot()].as_mut().expect("mapped right now");
        let tracking = Tracking::new(&mapped.region, id.slot(), &raw const *self.log);
        match tracking {
            Ok(tracking) => {
                mapped.tracking = Some(tracking);
                self.has_tracked = true;
            }
            Err(error) => {
                let path = mapped.region.path().to_owned();
                self.slots[id.slot()] = None;
                return Err(Error::io("protecting the pages of", &path)(error));
            }
        }
        Ok(id)
    }

    /// Unmaps a region and lets it go: it may then be mapped with another log. Only outside a transaction.
    ///
    /// To close it and leave it to its log, drop the `Vista`.
    pub fn unmap(&mut self, region: RegionId) -> Result<(), Error> {
        self.check_quiet()?;
        if self.waiting != 0 {
            return Err(self.waits());
        }
        let mapped = self.slots.get_mut(region.slot()).and_then(Option::take).ok_or(Error::NoRegion(region))?;
        mapped.region.persist(0..mapped.region.len())?;
        mapped.region.set_log(0)?;
        reached(Step::RegionFreed);
        self.log.clear_row(region.slot())?;
        reached(Step::RegionForgotten);
        Ok(())
    }

    /// What a committed transaction survives: the least of the log and the regions that are mapped.
    pub fn survives(&self) -> Survives {
        let regions = self.slots.iter().flatten().map(|mapped| mapped.region.survives());
        regions.fold(self.log.survives, Survives::min)
    }

    /// The memory of a region.
    pub fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        Ok(self.mapped(region)?.region.bytes())
    }

    /// The file of a region, and where in it the region's bytes begin: for a mapping of the caller's, such as a private
    /// one that starts from the committed content.
    pub fn file(&self, region: RegionId) -> Result<(&File, u64), Error> {
        let container = self.mapped(region)?.region.container();
        Ok((&container.file, container.granule as u64))
    }

    /// Bytes of before-images that a transaction may have, heads of records included.
    pub fn log_capacity(&self) -> usize {
        self.log.capacity()
    }

    /// Begins a transaction. Dropped without [`Transaction::end`], it is aborted.
    #[inline]
    pub fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        self.start()?;
        Ok(Transaction { vista: self, is_open: true })
    }

    #[inline]
    fn start(&mut self) -> Result<(), Error> {
        if self.is_running || self.waiting != 0 || self.poison.is_some() {
            self.check_quiet()?;
            return Err(self.waits());
        }
        if self.has_tracked {
            self.start_tracked()?;
        }
        self.is_running = true;
        Ok(())
    }

    /// A handler cannot give a transaction its number; so where pages are tracked, it gets one now.
    #[cold]
    fn start_tracked(&mut self) -> Result<(), Error> {
        let tracked = |slot: &usize| self.slots[*slot].as_ref().is_some_and(|mapped| mapped.tracking.is_some());
        let tracked: Vec<usize> = (0..ROWS).filter(tracked).collect();
        for slot in tracked {
            self.touch(slot)?;
            if let Some(tracking) = self.slots[slot].as_ref().and_then(|mapped| mapped.tracking.as_ref()) {
                tracking.begin();
            }
        }
        Ok(())
    }

    #[inline]
    fn declare(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        if !self.is_running {
            return Err(Error::NoTransaction);
        }
        let slot = region.slot();
        let Some(Some(mapped)) = self.slots.get(slot) else { return Err(Error::NoRegion(region)) };
        check_range(region, &range, mapped.region.len())?;
        if mapped.tracking.is_some() {
            // The page fault that the store raises declares it.
            return Ok(&mut self.mapped_mut(region)?.region.bytes_mut()[range]);
        }
        if range.is_empty() {
            return Ok(&mut []);
        }
        if self.touched & 1 << slot == 0 {
            self.touch(slot)?;
        }
        let Some(Some(mapped)) = self.slots.get_mut(slot) else { return Err(Error::NoRegion(region)) };
        let target = &mut mapped.region.bytes_mut()[range.clone()];
        if let Err(refusal) = self.log.append_slice(slot, range.start, target) {
            return Err(refused(&mut self.poison, &self.log, refusal));
        }
        Ok(target)
    }

    /// Notes in the region which transaction touches it.
    #[inline]
    fn touch(&mut self, slot: usize) -> Result<(), Error> {
        if self.touched == 0 {
            self.log.start()?;
        }
        if let Some(mapped) = &self.slots[slot] {
            mapped.region.set_touched(self.log.number())?;
            reached(Step::RegionMarked);
        }
        self.touched |= 1 << slot;
        Ok(())
    }

    #[inline]
    fn commit(&mut self) -> Result<(), Error> {
        if !self.is_running {
            return Err(Error::NoTransaction);
        }
        if self.touched == 0 {
            self.is_running = false;
            return Ok(());
        }
        if let Some(poison) = &self.poison {
            return Err(Error::Poisoned { path: self.log.path().to_owned(), cause: poison.clone() });
        }
        reached(Step::EndBegun);
        if self.has_tracked {
            self.check_overflow()?;
        }
        if self.persists {
            self.persist_ranges(&self.log.records())?;
        }
        reached(Step::DataPersisted);
        let result = self.log.discard();
        if result.is_err() {
            return self.poison_on("committing to", result);
        }
        reached(Step::Committed);
        self.release()
    }

    #[cold]
    fn check_overflow(&mut self) -> Result<(), Error> {
        let tracked = || self.slots.iter().flatten().filter_map(|mapped| mapped.tracking.as_ref());
        let has_failed = tracked().any(Tracking::has_failed);
        let has_overflowed = tracked().any(Tracking::has_overflowed);
        if has_failed {
            let failed = Err(std::io::Error::other("a before-image could not be persisted"));
            self.poison_on("logging to", failed)?;
        }
        if has_overflowed {
            let free = (self.log.capacity() - self.log.tail()) as u64;
            return Err(Error::LogFull { path: self.log.path().to_owned(), needs: free + 1, free });
        }
        Ok(())
    }

    /// Brings the new content of all declared ranges to where it survives.
    fn persist_ranges(&mut self, records: &[Record]) -> Result<(), Error> {
        for record in records {
            let Some(mapped) = &self.slots[record.slot] else { continue };
            if let Err(error) = mapped.region.persist(record.offset..record.offset + record.len) {
                self.poison = Some(describe(&error));
                return Err(error);
            }
        }
        Ok(())
    }

    /// The transaction is over, whichever way.
    #[inline]
    fn release(&mut self) -> Result<(), Error> {
        let number = self.log.number();
        let mut bits = std::mem::take(&mut self.touched);
        self.is_running = false;
        while bits != 0 {
            let slot = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let Some(mapped) = &self.slots[slot] else { continue };
            mapped.region.set_over(number);
            if let Some(tracking) = &mapped.tracking {
                tracking.end().map_err(Error::io("protecting the pages of", mapped.region.path()))?;
            }
        }
        reached(Step::RegionsReleased);
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), Error> {
        if !self.is_running {
            return Err(Error::NoTransaction);
        }
        if self.touched == 0 {
            self.is_running = false;
            return Ok(());
        }
        reached(Step::AbortBegun);
        for mapped in self.slots.iter().flatten() {
            let Some(tracking) = &mapped.tracking else { continue };
            let opened = tracking.drop_copies().and_then(|()| tracking.open_all());
            opened.map_err(Error::io("opening the pages of", mapped.region.path()))?;
        }
        let records = self.log.records();
        for &record in records.iter().rev() {
            let Some(mapped) = &mut self.slots[record.slot] else { continue };
            restore(&self.log, record, &mut mapped.region);
            reached(Step::AbortRestored);
        }
        self.persist_ranges(&records)?;
        reached(Step::AbortPersisted);
        let result = self.log.discard();
        self.poison_on("aborting in", result)?;
        reached(Step::AbortDiscarded);
        self.release()
    }

    /// Finds the region's row in the log's table, or gives it one. Both then name each other.
    fn bind(&mut self, region: &PersistentRegion) -> Result<usize, Error> {
        let other_log = || Error::OtherLog { path: region.path().to_owned(), log: self.log.path().to_owned() };
        let row = (0..ROWS).find(|&slot| self.log.row(slot).is_some_and(|(id, _)| id == region.id()));
        let owner = region.log();
        if owner != 0 && owner != self.log.id() {
            return Err(other_log());
        }
        match row {
            Some(slot) if owner != 0 => return Ok(slot),
            // It names us and we do not know it: one of the two was exchanged.
            None if owner != 0 => return Err(other_log()),
            // We have its before-images and it says that it is nobody's.
            Some(slot) if self.waiting & 1 << slot != 0 => return Err(other_log()),
            _ => {}
        }
        let slot = match row {
            Some(slot) => slot,
            None => {
                let free = (0..ROWS).find(|&slot| self.log.row(slot).is_none());
                let slot = free.ok_or_else(|| Error::RegionCount { path: self.log.path().to_owned(), max: ROWS })?;
                self.log.set_row(slot, region.id(), region.path())?;
                reached(Step::RegionListed);
                slot
            }
        };
        region.reset_numbers()?;
        region.set_log(self.log.id())?;
        reached(Step::RegionBound);
        Ok(slot)
    }

    /// Undoes the unfinished transaction in one region; with the last one, forgets the log.
    fn recover(&mut self, slot: usize, region: &mut PersistentRegion) -> Result<(), Error> {
        let is_waiting = self.waiting & 1 << slot != 0;
        self.check_moment(region, is_waiting)?;
        if !is_waiting {
            if self.waiting == 0 {
                // The crash may have come after the commit and before this was noted.
                region.set_over(region.numbers()?.0);
            }
            return Ok(());
        }
        reached(Step::RecoveryBegun);
        let mut records = self.log.records();
        records.retain(|record| record.slot == slot);
        if records.iter().any(|record| record.offset.checked_add(record.len).is_none_or(|end| end > region.len())) {
            return Err(Error::damaged(self.log.path(), "a before-image lies outside its region"));
        }
        for &record in records.iter().rev() {
            restore(&self.log, record, region);
            reached(Step::RecoveryRestored);
        }
        for record in &records {
            region.persist(record.offset..record.offset + record.len)?;
        }
        reached(Step::RecoveryPersisted);
        self.waiting &= !(1 << slot);
        if self.waiting == 0 {
            self.log.discard().map_err(Error::io("recovering", self.log.path()))?;
            reached(Step::RecoveryDiscarded);
        }
        Ok(())
    }

    /// Whether log and region are of the same moment.
    fn check_moment(&self, region: &PersistentRegion, is_waiting: bool) -> Result<(), Error> {
        let (touched, over) = region.numbers()?;
        let number = self.log.number();
        let what = match () {
            () if touched > number || over > touched => "the log is older than the region",
            () if is_waiting && touched < number => "the region is older than the log",
            () if is_waiting && over >= number => {
                "the log is older than the region, which has finished that transaction"
            }
            () => return Ok(()),
        };
        Err(Error::Stale { path: region.path().to_owned(), log: self.log.path().to_owned(), what })
    }

    fn waits(&self) -> Error {
        let missing = (0..ROWS).filter(|slot| self.waiting & 1 << slot != 0);
        let missing: Vec<String> =
            missing.filter_map(|slot| Some(self.log.row(slot)?.1.display().to_string())).collect();
        Error::Waiting { log: self.log.path().to_owned(), missing: missing.join(", ") }
    }

    fn check_quiet(&self) -> Result<(), Error> {
        if self.is_running {
            return Err(Error::InTransaction);
        }
        match &self.poison {
            Some(cause) => Err(Error::Poisoned { path: self.log.path().to_owned(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn mapped(&self, region: RegionId) -> Result<&Mapped, Error> {
        self.slots.get(region.slot()).and_then(Option::as_ref).ok_or(Error::NoRegion(region))
    }

    fn mapped_mut(&mut self, region: RegionId) -> Result<&mut Mapped, Error> {
        self.slots.get_mut(region.slot()).and_then(Option::as_mut).ok_or(Error::NoRegion(region))
    }

    fn memory(&mut self, region: RegionId) -> Result<&mut [u8], Error> {
        if !self.is_running {
            return Err(Error::NoTransaction);
        }
        let mapped = self.mapped_mut(region)?;
        if mapped.tracking.is_none() {
            return Err(Error::Mode { region, is: "not tracked: declare ranges, or map it with map_tracked" });
        }
        Ok(mapped.region.bytes_mut())
    }

    #[cold]
    fn poison_on(&mut self, what: &'static str, result: std::io::Result<()>) -> Result<(), Error> {
        result.map_err(|error| {
            self.poison = Some(error.to_string());
            Error::io(what, self.log.path())(error)
        })
    }
}

/// Puts a before-image back.
fn restore(log: &UndoLog, record: Record, region: &mut PersistentRegion) {
    region.bytes_mut()[record.offset..record.offset + record.len].copy_from_slice(log.image(record));
}

#[cold]
fn refused(poison: &mut Option<String>, log: &UndoLog, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Full(full) => full.error(log.path()),
        Refusal::Io(error) => {
            *poison = Some(error.to_string());
            Error::io("logging to", log.path())(error)
        }
    }
}

fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Vista {
    /// Aborts; if that fails, nothing is begun any more, and the next opener undoes it.
    fn abandon(&mut self) -> Result<(), Error> {
        let result = self.roll_back();
        if let Err(error) = &result
            && !matches!(error, Error::NoTransaction)
        {
            self.poison.get_or_insert_with(|| describe(error));
            self.is_running = false;
        }
        result
    }
}
