//! How others see a [`Vista`]: a transaction as a guard, and the interface that it shares with the other kinds of memory.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::Vista;
use crate::error::Error;
use crate::medium::Survives;
use crate::memory::{Declare, RecoverableMemory};
use crate::region_id::RegionId;

/// A running transaction of a [`Vista`]; aborted when it is dropped.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) vista: &'a mut Vista,
    pub(super) is_open: bool,
}

impl Transaction<'_> {
    /// Declares a range, whose before-image is kept, and gives it to be changed.
    ///
    /// # Errors
    /// [`Error::LogFull`] leaves the transaction as it is.
    #[inline]
    pub fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        self.vista.declare(region, range)
    }

    /// The memory of a tracked region, to be changed anywhere.
    ///
    /// If the log is too short for what is changed, [`Self::end`] says so and aborts.
    pub fn memory(&mut self, region: RegionId) -> Result<&mut [u8], Error> {
        self.vista.memory(region)
    }

    /// The memory of a region.
    pub fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        self.vista.bytes(region)
    }

    /// Commits: what was changed survives what [`Vista::survives`] says. On an error nothing has happened, and it is aborted.
    #[inline]
    pub fn end(self) -> Result<(), Error> {
        self.vista.commit()?;
        // There is nothing left to drop.
        std::mem::forget(self);
        Ok(())
    }

    /// Undoes everything.
    pub fn abort(mut self) -> Result<(), Error> {
        self.is_open = false;
        self.vista.abandon()
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // A failure is kept as poison: the next transaction is refused with its cause.
            let _ = self.vista.abandon();
        }
    }
}

impl Declare for Transaction<'_> {
    fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        Transaction::bytes(self, region)
    }

    #[inline]
    fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        Transaction::set_range(self, region, range)
    }
}

impl Declare for Vista {
    fn bytes(&self, region: RegionId) -> Result<&[u8], Error> {
        Vista::bytes(self, region)
    }

    fn set_range(&mut self, region: RegionId, range: Range<usize>) -> Result<&mut [u8], Error> {
        self.declare(region, range)
    }
}

impl RecoverableMemory for Vista {
    fn map(&mut self, path: &Path, len: usize) -> Result<RegionId, Error> {
        Vista::map(self, path, len)
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.start()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.commit()
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.abandon()
    }

    fn survives(&self) -> Survives {
        Vista::survives(self)
    }

    /// Commits change the files themselves.
    fn settle(&mut self) -> Result<(), Error> {
        if self.is_running { Err(Error::InTransaction) } else { Ok(()) }
    }

    fn file(&self, region: RegionId) -> Result<(&File, u64), Error> {
        Vista::file(self, region)
    }
}
