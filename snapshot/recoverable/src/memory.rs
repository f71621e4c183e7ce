//! What both kinds of recoverable memory have in common: all that a checkpoint needs to know of it.

use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::Error;
use crate::medium::Survives;
use crate::region_id::RegionId;

/// Memory in which changes are declared: a running transaction, or the memory while one runs.
pub trait Declare {
    /// The memory of a region.
    fn bytes(&self, region: RegionId) -> Result<&[u8], Error>;

    /// Declares a range and gives it to be changed. [`Error::LogFull`] leaves the transaction as it is.
    fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error>;
}

/// Memory with transactions that outlasts the process: [`crate::Vista`] or `Rvm`.
///
/// A transaction belongs to the object, not to a guard, so that the trait can be used as `dyn RecoverableMemory`.
pub trait RecoverableMemory: Declare + Debug {
    /// Maps a file, or makes one of `len` bytes of zeros, with its last committed content.
    fn map(&mut self, path: &Path, len: usize) -> Result<RegionId, Error>;

    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), Error>;

    /// Commits it: it survives what [`Self::survives`] says. On an error it is still running; abort it.
    fn end(&mut self) -> Result<(), Error>;

    /// Undoes it.
    fn abort(&mut self) -> Result<(), Error>;

    /// What a committed transaction survives.
    fn survives(&self) -> Survives;

    /// Brings all that was committed to the files of the regions.
    ///
    /// # Errors
    /// While a transaction runs, and where the files cannot be written. What was committed stays so.
    fn settle(&mut self) -> Result<(), Error>;

    /// The file of a region, and where in it the region's bytes begin. Right after [`Self::map`] and [`Self::settle`] it has
    /// the last committed content: a private mapping of it starts from there.
    fn file(&self, region: RegionId) -> Result<(&File, u64), Error>;
}

#[inline]
pub(crate) fn check_range(region: RegionId, range: &Range<usize>, len: usize) -> Result<(), Error> {
    if range.start > range.end || range.end > len {
        return Err(Error::Range { region, start: range.start, end: range.end, len });
    }
    Ok(())
}
