//! A file as memory, and what it survives.
//!
//! The head of the file is mapped apart from the bytes of the user: a stray store runs into a page that nobody may touch.
//!
//! ```text
//! words of a region's head (sealed: see `word.rs`)
//!   64  id of the log that it belongs to; 0: of none
//!   72  number of the last transaction that declared a range here, sealed; RVM: of the last one applied
//!   80  number of the last one known to be over, sealed
//! ```

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::container::{Container, Kind};
use crate::error::Error;
use crate::head::{LOG_AT, OVER_AT, TOUCHED_AT};
use crate::mapping::Mapping;
use crate::medium::{Medium, Survives};
use crate::persist::Persist;
use crate::word::{seal, unseal};

/// Memory that is a file: on tmpfs, hugetlbfs, persistent memory with DAX, or an ordinary file system.
///
/// It has no transactions: [`crate::Vista`] and `Rvm` add them. Bytes are zero in a new region. It is locked
/// against a second opener for as long as it lives.
#[derive(Debug)]
pub struct PersistentRegion {
    container: Container,
    head: Mapping,
    data: Mapping,
    persist: Persist,
    survives: Survives,
}

impl PersistentRegion {
    /// Opens the region, or makes one of `len` bytes, that survives at least `required` once it is persisted.
    ///
    /// # Errors
    /// [`Error::TooWeak`] when the medium does not give that, [`Error::Length`] when the region is there with another
    /// length, [`Error::Bound`] when it belongs to a log, and what may be wrong with the file.
    pub fn open(path: impl AsRef<Path>, len: usize, required: Survives) -> Result<Self, Error> {
        let region = Self::open_any(path.as_ref(), len, required)?;
        if region.log() != 0 {
            return Err(Error::Bound { path: region.path().to_owned() });
        }
        Ok(region)
    }

    /// The same, also when it belongs to a log.
    pub(crate) fn open_any(path: &Path, len: usize, required: Survives) -> Result<Self, Error> {
        let container = Container::open_or_create(path, Kind::Region, len as u64)?;
        if container.body_len != len as u64 {
            return Err(Error::Length { path: path.to_owned(), found: container.body_len, wanted: len as u64 });
        }
        let (persist, survives) = container.persist(required)?;
        let (granule, is_sync) = (container.granule, container.maps_sync());
        let failed = Error::io("mapping", path);
        let map = |at, len| Mapping::file(&container.file, at, len, granule, is_sync);
        let maps = map(0, granule).and_then(|head| Ok((head, map(granule as u64, len)?)));
        let (head, data) = maps.map_err(failed)?;
        Ok(Self { container, head, data, persist, survives })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.container.path
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What bytes survive that were given to [`Self::persist`].
    pub fn survives(&self) -> Survives {
        self.survives
    }

    /// What the file lies on.
    pub fn medium(&self) -> Medium {
        self.container.medium
    }

    /// The memory.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The memory, to be changed. What it survives is said by [`Self::survives`] only after [`Self::persist`].
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.bytes_mut()
    }

    /// Brings a range to where it survives: nothing to do on tmpfs and hugetlbfs, cache lines on persistent memory,
    /// a synchronous write elsewhere.
    ///
    /// # Panics
    /// When the range is not in the region.
    pub fn persist(&self, range: Range<usize>) -> Result<(), Error> {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} is not in a region of {}", self.len());
        self.persist
            .range(&self.data, range.start, range.len())
            .map_err(|error| Error::io("persisting", self.path())(error))
    }

    pub(crate) fn data(&self) -> &Mapping {
        &self.data
    }

    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    #[cfg(test)]
    pub(crate) fn watch(&mut self) {
        self.persist = Persist::Watched;
        crate::persist::watch::begin(&self.head);
        crate::persist::watch::begin(&self.data);
    }

    pub(crate) fn persists(&self) -> bool {
        self.persist != Persist::Nothing
    }

    pub(crate) fn id(&self) -> u64 {
        self.container.id
    }

    /// The log that it belongs to; 0: none.
    pub(crate) fn log(&self) -> u64 {
        self.head.word(LOG_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_log(&self, id: u64) -> Result<(), Error> {
        self.store(LOG_AT, id)
    }

    /// Numbers of the last transaction that touched it, and of the last that is known to be over.
    pub(crate) fn numbers(&self) -> Result<(u64, u64), Error> {
        let read = |at| unseal(self.head.word(at).load(Ordering::Acquire));
        let damaged = || Error::damaged(self.path(), "the number of its last transaction is not whole");
        Ok((read(TOUCHED_AT).ok_or_else(damaged)?, read(OVER_AT).ok_or_else(damaged)?))
    }

    /// Forgets the numbers, which were those of another log.
    pub(crate) fn reset_numbers(&self) -> Result<(), Error> {
        self.store(OVER_AT, seal(0))?;
        self.store(TOUCHED_AT, seal(0))
    }

    #[inline]
    pub(crate) fn set_touched(&self, number: u64) -> Result<(), Error> {
        self.store(TOUCHED_AT, seal(number))
    }

    /// Not persisted by itself: it only helps to tell an old log from a new one.
    #[inline]
    pub(crate) fn set_over(&self, number: u64) {
        self.head.word(OVER_AT).store(seal(number), Ordering::Release);
    }

    #[inline]
    fn store(&self, at: usize, word: u64) -> Result<(), Error> {
        self.head.word(at).store(word, Ordering::Release);
        self.persist.range(&self.head, at, 8).map_err(|error| Error::io("persisting", self.path())(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_reopened_has_its_bytes() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("r");
        let mut region = PersistentRegion::open(&path, 10_000, Survives::ProcessDeath).unwrap();
        assert_eq!((region.medium(), region.survives()), (Medium::Tmpfs, Survives::ProcessDeath));
        region.bytes_mut()[9_999] = 5;
        region.persist(0..10_000).unwrap();
        drop(region);
        let region = PersistentRegion::open(&path, 10_000, Survives::ProcessDeath).unwrap();
        assert_eq!(region.bytes()[9_999], 5);
    }

    #[test]
    fn region_on_tmpfs_does_not_promise_to_survive_a_kernel_crash() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let error = PersistentRegion::open(dir.path().join("r"), 100, Survives::KernelCrash).unwrap_err();
        assert!(matches!(error, Error::TooWeak { has: Survives::ProcessDeath, .. }), "{error}");
    }

    #[test]
    fn region_of_another_length_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("r");
        drop(PersistentRegion::open(&path, 100, Survives::ProcessDeath).unwrap());
        let error = PersistentRegion::open(&path, 200, Survives::ProcessDeath).unwrap_err();
        assert!(matches!(error, Error::Length { found: 100, wanted: 200, .. }), "{error}");
    }
}
