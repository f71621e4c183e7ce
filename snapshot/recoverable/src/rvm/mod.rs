//! RVM: transactions on memory whose committed content is on ordinary disks.
//!
//! A region is a copy of its segment's file in memory of this process. The end of a transaction writes the new content of
//! its ranges to a redo log; truncation brings what the log has to the segments, in the background. A crash loses the memory:
//! the next start applies the log to the segments and loads them again.
//!
//! | RVM, 1993 | here |
//! |---|---|
//! | `create_log` | [`Rvm::create_log`] |
//! | `initialize`, `terminate` | [`Rvm::initialize`], [`Rvm::terminate`] |
//! | `map`, `unmap` | [`Rvm::map`], [`Rvm::unmap`]; a region is a whole segment |
//! | `begin_transaction(restore \| no_restore)` | [`Rvm::begin_transaction`] with [`RestoreMode`] |
//! | `set_range` | [`RvmTransaction::set_range`], which gives the range to be changed |
//! | `end_transaction(flush \| no_flush)` | [`RvmTransaction::end`] with [`CommitMode`] |
//! | `abort_transaction` | [`RvmTransaction::abort`] |
//! | `flush`, `truncate` | [`Rvm::flush`], [`Rvm::truncate`] |
//! | `query_options`, `set_options` | [`Rvm::query_options`], [`Rvm::set_options`] |
//!
//! One thread at a time has the memory. Several may wait together for their commits: each ends its transaction with
//! [`CommitMode::NoFlush`], lets the `Rvm` go, and calls [`Flusher::wait`]; one write and one sync serve all of them.
//!
//! Source: Satyanarayanan, Mashburn, Kumar, Steere, Kistler, "Lightweight recoverable virtual memory", SOSP 1993.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::container::{Container, Kind};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::medium::Survives;
use crate::memory::{Declare, RecoverableMemory, check_range};
use crate::region_id::RegionId;
use crate::step::{Step, reached};
use log::{LOG_BYTES_MIN, Log};
use record::{PATH_BYTES_MAX, ROWS, Row};
use segment::Segment;
use truncator::Truncator;

mod log;
mod record;
mod segment;
#[cfg(test)]
mod tests;
mod truncator;

/// Whether a transaction can be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreMode {
    /// The old content of ranges is kept in memory until the end.
    Restore,
    /// It is not: the program promises not to abort.
    NoRestore,
}

/// When a transaction is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// When the end returns.
    Flush,
    /// After the next flush. A crash before it loses the transaction, and all after it, wholly.
    NoFlush,
}

/// What can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RvmOptions {
    /// What a flushed transaction must survive. More is not paid for.
    pub required: Survives,
    /// Truncate in the background when so much of the log is in use, 1 to 100; nothing: only when it is full.
    pub truncation_percent: Option<u8>,
}

impl Default for RvmOptions {
    fn default() -> Self {
        Self { required: Survives::PowerLoss, truncation_percent: Some(50) }
    }
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RvmQuery {
    /// The options.
    pub options: RvmOptions,
    /// What a flushed transaction survives.
    pub survives: Survives,
    /// Bytes of the log for records, and how many of them are in use.
    pub log_bytes: u64,
    /// Bytes that records take.
    pub used_bytes: u64,
    /// Transactions that have ended and are not durable.
    pub unflushed: usize,
    /// Writes of records so far: several transactions may share one.
    pub flushes: u64,
    /// Truncations so far.
    pub truncations: u64,
    /// Why the last truncation in the background failed.
    pub truncation_failure: Option<String>,
}

#[derive(Debug)]
struct Mapped {
    segment: Arc<Segment>,
    memory: Mapping,
}

/// A declared range, and where its old content is kept.
#[derive(Clone, Copy, Debug)]
struct Declared {
    slot: usize,
    start: usize,
    end: usize,
    image_at: usize,
}

/// Recoverable memory with a redo log.
#[derive(Debug)]
pub struct Rvm {
    // Before the log: the thread ends first.
    truncator: Truncator,
    log: Arc<Log>,
    slots: [Option<Mapped>; ROWS],
    options: RvmOptions,
    running: Option<RestoreMode>,
    declared: Vec<Declared>,
    images: Vec<u8>,
    /// Memory has changes of a transaction that can be neither committed nor undone.
    is_torn: bool,
}

impl Rvm {
    /// Makes a log with room for `bytes` bytes of records.
    ///
    /// # Errors
    /// When there is a file of that name, or no space: nothing is left behind.
    pub fn create_log(path: impl AsRef<Path>, bytes: u64) -> Result<(), Error> {
        let path = path.as_ref();
        if path.exists() {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(Error::io("creating", path)(exists));
        }
        Container::open_or_create(path, Kind::RedoLog, bytes.max(1) + LOG_BYTES_MIN).map(drop)
    }

    /// Opens a log and recovers: what it has goes to the segments.
    pub fn initialize(log: impl AsRef<Path>, options: RvmOptions) -> Result<Self, Error> {
        let log = Arc::new(Log::open(log.as_ref(), options.required)?);
        let mut rvm = Self {
            truncator: Truncator::default(),
            log,
            slots: [const { None }; ROWS],
            options,
            running: None,
            declared: Vec::new(),
            images: Vec::new(),
            is_torn: false,
        };
        rvm.set_options(options)?;
        Ok(rvm)
    }

    /// Makes everything durable, in the segments too, and closes. Dropped instead, transactions without flush are lost.
    pub fn terminate(mut self) -> Result<(), Error> {
        self.check_quiet()?;
        self.truncate()?;
        self.truncator.stop(&self.log);
        Ok(())
    }

    /// Loads a segment, or makes one of `len` bytes of zeros.
    pub fn map(&mut self, path: impl AsRef<Path>, len: usize) -> Result<RegionId, Error> {
        self.check_quiet()?;
        let segment = Segment::open_or_create(path.as_ref(), len, self.options.required)?;
        let slot = self.bind(&segment)?;
        let memory = segment.load()?;
        let segment = Arc::new(segment);
        self.log.state().segments[slot] = Some(Arc::clone(&segment));
        self.slots[slot] = Some(Mapped { segment, memory });
        Ok(RegionId::new(slot as u16))
    }

    /// Brings a region's committed content to its segment and lets the segment go.
    pub fn unmap(&mut self, region: RegionId) -> Result<(), Error> {
        self.check_quiet()?;
        self.mapped(region)?;
        self.truncate()?;
        let slot = region.slot();
        let hold = self.log.hold_status();
        if let Some(mapped) = self.slots[slot].take() {
            mapped.segment.set_log(0)?;
            reached(Step::RegionFreed);
        }
        self.log.state().segments[slot] = None;
        hold.set_row(slot, None)?;
        reached(Step::RegionForgotten);
        Ok(())
    }

    /// The row of the segment in the log's table. Both then name each other.
    fn bind(&self, segment: &Segment) -> Result<usize, Error> {
        let hold = self.log.hold_status();
        let (rows, last) = {
            let state = self.log.state();
            (state.status.rows.clone(), state.status.number - 1)
        };
        let id = segment.container.id;
        let row = rows.iter().position(|row| row.as_ref().is_some_and(|row| row.id == id));
        let owner = segment.log()?;
        let other_log = || Error::OtherLog { path: segment.path().to_owned(), log: self.log.path().to_owned() };
        if owner != 0 {
            let slot = row.ok_or_else(other_log)?;
            let row = rows[slot].as_ref().ok_or_else(other_log)?;
            segment.check(row, (self.log.id(), self.log.path()), last)?;
            self.refresh(&hold, slot, segment, row)?;
            return Ok(slot);
        }
        let free = || rows.iter().position(Option::is_none);
        let full = || Error::RegionCount { path: self.log.path().to_owned(), max: ROWS };
        let slot = row.or_else(free).ok_or_else(full)?;
        segment.set_applied(0)?;
        hold.set_row(slot, Some(Row { id, applied: 0, path: self.path_of(segment)? }))?;
        reached(Step::RegionListed);
        segment.set_log(self.log.id())?;
        reached(Step::RegionBound);
        Ok(slot)
    }

    /// Notes where the segment is now, if it has moved.
    fn refresh(&self, hold: &log::StatusHold<'_>, slot: usize, segment: &Segment, row: &Row) -> Result<(), Error> {
        let path = self.path_of(segment)?;
        if row.path == path { Ok(()) } else { hold.set_row(slot, Some(Row { path, ..row.clone() })) }
    }

    fn path_of(&self, segment: &Segment) -> Result<std::path::PathBuf, Error> {
        let path = self.log.relative(segment.path()).map_err(Error::io("finding", segment.path()))?;
        if path.as_os_str().len() > PATH_BYTES_MAX {
            let long = std::io::Error::other(format!("its path has more than {PATH_BYTES_MAX} bytes"));
            return Err(Error::io("listing", segment.path())(long));
        }
        Ok(path)
    }

    /// The memory of a region.
    pub fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        Ok(self.mapped(region)?.memory.bytes())
    }

    /// What a flushed transaction survives: the least of the log and the segments that are mapped.
    pub fn survives(&self) -> Survives {
        let segments = self.slots.iter().flatten().map(|mapped| mapped.segment.survives);
        segments.fold(self.log.survives, Survives::min)
    }

    /// Begins a transaction. Dropped without [`RvmTransaction::end`], it is aborted.
    pub fn begin_transaction(&mut self, mode: RestoreMode) -> Result<RvmTransaction<'_>, Error> {
        self.start(mode)?;
        Ok(RvmTransaction { rvm: self, is_open: true })
    }

    /// Returns when all transactions that have ended are durable.
    pub fn flush(&self) -> Result<(), Error> {
        self.log.flush(u64::MAX)
    }

    /// Flushes, brings everything to the segments, and empties the log.
    pub fn truncate(&self) -> Result<(), Error> {
        self.flush()?;
        self.log.truncate()
    }

    /// Waits for flushes from any thread.
    pub fn flusher(&self) -> Flusher {
        Flusher { log: Arc::clone(&self.log) }
    }

    /// How it stands.
    pub fn query_options(&self) -> RvmQuery {
        let state = self.log.state();
        let (used_bytes, unflushed) = (state.used(), state.spooled());
        let (flushes, truncations) = (state.flushes, state.truncations);
        let truncation_failure = state.failure.clone();
        drop(state);
        RvmQuery {
            options: self.options,
            survives: self.survives(),
            log_bytes: self.log.ring,
            used_bytes,
            unflushed,
            flushes,
            truncations,
            truncation_failure,
        }
    }

    /// Changes when the log is truncated. What must be survived is chosen by [`Self::initialize`] and stays.
    ///
    /// # Errors
    /// When the thread that truncates cannot be started.
    pub fn set_options(&mut self, options: RvmOptions) -> Result<(), Error> {
        self.options.truncation_percent = options.truncation_percent.map(|percent| percent.clamp(1, 100));
        self.log.state().threshold_percent = self.options.truncation_percent;
        self.log.changed.notify_all();
        if self.options.truncation_percent.is_some() {
            self.truncator.start(&self.log).map_err(Error::io("starting the truncation of", self.log.path()))?;
        }
        Ok(())
    }

    fn start(&mut self, mode: RestoreMode) -> Result<(), Error> {
        self.check_quiet()?;
        self.log.check_poison(&self.log.state())?;
        self.running = Some(mode);
        Ok(())
    }

    fn declare(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        let mode = self.running.ok_or(Error::NoTransaction)?;
        let slot = region.slot();
        let mapped = self.slots.get_mut(slot).and_then(Option::as_mut).ok_or(Error::NoRegion(region))?;
        check_range(region, &range, mapped.memory.len())?;
        let image_at = self.images.len();
        let bytes = &mut mapped.memory.bytes_mut()[range.clone()];
        if mode == RestoreMode::Restore {
            self.images.extend_from_slice(bytes);
        }
        self.declared.push(Declared { slot, start: range.start, end: range.end, image_at });
        Ok(bytes)
    }

    /// The record of the new content of all ranges, each byte once.
    fn record(&self) -> Option<Vec<u8>> {
        let mut ranges: Vec<(usize, usize, usize)> =
            self.declared.iter().filter(|d| d.start < d.end).map(|d| (d.slot, d.start, d.end)).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|later, earlier| {
            let joins = later.0 == earlier.0 && later.1 <= earlier.2;
            if joins {
                earlier.2 = earlier.2.max(later.2);
            }
            joins
        });
        let bytes = |&(slot, start, end): &(usize, usize, usize)| {
            let mapped = self.slots[slot].as_ref()?;
            Some((slot, start as u64, &mapped.memory.bytes()[start..end]))
        };
        let ranges: Vec<_> = ranges.iter().filter_map(bytes).collect();
        (!ranges.is_empty()).then(|| record::encode(&ranges))
    }

    /// Ends the transaction; gives the number that [`Flusher::wait`] takes.
    fn commit(&mut self, mode: CommitMode) -> Result<u64, Error> {
        self.running.ok_or(Error::NoTransaction)?;
        let number = match self.record() {
            Some(record) => self.log.spool(record)?,
            None => 0,
        };
        if mode == CommitMode::Flush
            && let Err(error) = self.log.flush(number + 1)
            && !self.log.withdraw(number)
        {
            return Err(error);
        }
        self.finish();
        Ok(number)
    }

    fn finish(&mut self) {
        self.running = None;
        self.declared.clear();
        self.images.clear();
    }

    fn roll_back(&mut self) -> Result<(), Error> {
        match self.running.ok_or(Error::NoTransaction)? {
            RestoreMode::NoRestore if !self.declared.is_empty() => {
                self.is_torn = true;
                self.finish();
                return Err(Error::NoRestore);
            }
            _ => {}
        }
        for declared in self.declared.iter().rev() {
            let Some(mapped) = &mut self.slots[declared.slot] else { continue };
            let len = declared.end - declared.start;
            mapped.memory.bytes_mut()[declared.start..declared.end]
                .copy_from_slice(&self.images[declared.image_at..declared.image_at + len]);
        }
        self.finish();
        Ok(())
    }

    fn check_quiet(&self) -> Result<(), Error> {
        match self.running {
            Some(_) => Err(Error::InTransaction),
            None if self.is_torn => Err(Error::NoRestore),
            None => Ok(()),
        }
    }

    fn mapped(&self, region: RegionId) -> Result<&Mapped, Error> {
        self.slots.get(region.slot()).and_then(Option::as_ref).ok_or(Error::NoRegion(region))
    }
}

/// Waits for commits, from any thread, while another has the [`Rvm`].
#[derive(Clone, Debug)]
pub struct Flusher {
    log: Arc<Log>,
}

impl Flusher {
    /// Returns when the transaction of this number ([`RvmTransaction::end`]) is durable.
    ///
    /// # Errors
    /// It is not durable, and stays in memory for the next flush, unless the log is poisoned.
    pub fn wait(&self, number: u64) -> Result<(), Error> {
        self.log.flush(number.saturating_add(1))
    }
}

/// A running transaction of an [`Rvm`]; aborted when it is dropped.
#[derive(Debug)]
pub struct RvmTransaction<'a> {
    rvm: &'a mut Rvm,
    is_open: bool,
}

impl RvmTransaction<'_> {
    /// Declares a range and gives it to be changed.
    pub fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        self.rvm.declare(region, range)
    }

    /// The memory of a region.
    pub fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        self.rvm.bytes(region)
    }

    /// Commits; gives the number that [`Flusher::wait`] takes. On an error it is aborted, and earlier commits are whole.
    pub fn end(mut self, mode: CommitMode) -> Result<u64, Error> {
        let number = self.rvm.commit(mode)?;
        self.is_open = false;
        Ok(number)
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// [`Error::NoRestore`] when it was begun so: the memory must be loaded again, which the next start does.
    pub fn abort(mut self) -> Result<(), Error> {
        self.is_open = false;
        self.rvm.roll_back()
    }
}

impl Drop for RvmTransaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // A no-restore transaction leaves the memory torn, and everything after it is refused.
            let _ = self.rvm.roll_back();
        }
    }
}

impl Declare for RvmTransaction<'_> {
    fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        self.rvm.bytes(region)
    }

    fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        self.rvm.declare(region, range)
    }
}

impl Declare for Rvm {
    fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        Rvm::bytes(self, region)
    }

    fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        self.declare(region, range)
    }
}

impl RecoverableMemory for Rvm {
    fn map(&mut self, path: &Path, len: usize) -> Result<RegionId, Error> {
        Rvm::map(self, path, len)
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.start(RestoreMode::Restore)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.commit(CommitMode::Flush).map(drop)
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.roll_back()
    }

    fn survives(&self) -> Survives {
        Rvm::survives(self)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.check_quiet()?;
        self.truncate()
    }

    fn file(&self, region: RegionId) -> Result<(&File, u64), Error> {
        let container = &self.mapped(region)?.segment.container;
        Ok((&container.file, container.granule as u64))
    }
}

impl Drop for Rvm {
    fn drop(&mut self) {
        self.truncator.stop(&self.log);
    }
}
