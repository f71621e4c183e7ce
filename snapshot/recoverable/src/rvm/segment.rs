//! A segment: a region's file, read and written instead of mapped, so that only committed bytes get into it.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::record::Row;
use crate::container::{Container, Kind};
use crate::error::Error;
use crate::head::{LOG_AT, OVER_AT, TOUCHED_AT};
use crate::mapping::Mapping;
use crate::medium::Survives;
use crate::word::{seal, unseal};

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) container: Container,
    /// Whether it has to be synced, and what it survives then.
    syncs: bool,
    pub(super) survives: Survives,
}

impl Segment {
    /// Opens the file, or makes one of `len` bytes.
    pub(super) fn open_or_create(path: &Path, len: usize, required: Survives) -> Result<Self, Error> {
        let container = Container::open_or_create(path, Kind::Region, len as u64)?;
        if container.body_len != len as u64 {
            return Err(Error::Length { path: path.to_owned(), found: container.body_len, wanted: len as u64 });
        }
        Self::new(container, required)
    }

    /// Opens a file that must be there.
    pub(super) fn open(path: &Path, required: Survives) -> Result<Self, Error> {
        Self::new(Container::open(path, Kind::Region)?, required)
    }

    fn new(container: Container, required: Survives) -> Result<Self, Error> {
        let (persist, survives) = container.persist(required)?;
        Ok(Self { container, syncs: persist != crate::persist::Persist::Nothing, survives })
    }

    pub(super) fn path(&self) -> &Path {
        &self.container.path
    }

    pub(super) fn len(&self) -> usize {
        self.container.body_len as usize
    }

    /// The log that it belongs to; 0: none.
    pub(super) fn log(&self) -> Result<u64, Error> {
        self.word(LOG_AT)
    }

    pub(super) fn set_log(&self, id: u64) -> Result<(), Error> {
        self.set_word(LOG_AT, id)?;
        self.sync()
    }

    /// Number of the last record that was applied.
    pub(super) fn applied(&self) -> Result<u64, Error> {
        let damaged = || Error::damaged(self.path(), "the number of its last transaction is not whole");
        unseal(self.word(TOUCHED_AT)?).ok_or_else(damaged)
    }

    pub(super) fn set_applied(&self, number: u64) -> Result<(), Error> {
        self.set_word(TOUCHED_AT, seal(number))?;
        // A Vista that maps it later finds no transaction of its own unfinished.
        self.set_word(OVER_AT, seal(number))
    }

    /// Checks that it is the segment of this row, in a state that a log whose last record is `last` can have left.
    pub(super) fn check(&self, row: &Row, log: (u64, &Path), last: u64) -> Result<(), Error> {
        if self.container.id != row.id || self.log()? != log.0 {
            return Err(Error::OtherLog { path: self.path().to_owned(), log: log.1.to_owned() });
        }
        let applied = self.applied()?;
        let what = match () {
            () if applied > last => "the log is older than the segment",
            () if applied < row.applied => "the segment is older than the log",
            () => return Ok(()),
        };
        Err(Error::Stale { path: self.path().to_owned(), log: log.1.to_owned(), what })
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.container.body_len) {
            return Err(Error::damaged(self.path(), "a record of its log lies outside it"));
        }
        let at = self.container.granule as u64 + offset;
        self.container.file.write_all_at(bytes, at).map_err(Error::io("writing", self.path()))
    }

    /// Its content, in memory of this process; read when it is needed. Truncation writes only ranges that transactions of
    /// this process have changed in this memory before, so what it has not changed stays what it was.
    pub(super) fn load(&self) -> Result<Mapping, Error> {
        let granule = self.container.granule;
        let mapped = Mapping::private_file(&self.container.file, granule as u64, self.len(), granule);
        mapped.map_err(Error::io("mapping", self.path()))
    }

    pub(super) fn sync(&self) -> Result<(), Error> {
        if !self.syncs {
            return Ok(());
        }
        self.container.file.sync_data().map_err(Error::io("syncing", self.path()))
    }

    fn word(&self, at: usize) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.container.file.read_exact_at(&mut bytes, at as u64).map_err(Error::io("reading", self.path()))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn set_word(&self, at: usize, word: u64) -> Result<(), Error> {
        let written = self.container.file.write_all_at(&word.to_le_bytes(), at as u64);
        written.map_err(Error::io("writing", self.path()))
    }
}
