//! What can go wrong, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::medium::Survives;
use crate::region_id::RegionId;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's storage failed.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another has the file open.
    #[error("{} is in use by another process, or a second time in this one: close it there first", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not a {wanted}: name another file, or remove it if it is not needed", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// A file of a later version of this library.
    #[error("{} has format {found}, this program reads up to {reads}: use the program that wrote it, or a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The last format that is read.
        reads: u32,
    },
    /// The file is shorter than it says.
    #[error("{} is cut off: it has {found} bytes of {wanted}; restore it from a copy", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that it should have.
        wanted: u64,
    },
    /// The file is there with another length than asked for.
    #[error("{} holds {found} bytes, not {wanted}: ask for what it holds, or name another file", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// Bytes that must be whole are not.
    #[error("{} is damaged ({what}): nothing of it was used; restore it and what belongs to it from a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Log and memory are of different moments.
    #[error("{} does not fit {}: {what}; put back the two files that belong together", path.display(), log.display())]
    Stale {
        /// The memory.
        path: PathBuf,
        /// The log.
        log: PathBuf,
        /// Which of them is older.
        what: &'static str,
    },
    /// The memory belongs to another log, which may hold before-images of it.
    #[error("{} belongs to another log than {}: open it with its own log, and unmap it there first", path.display(), log.display())]
    OtherLog {
        /// The memory.
        path: PathBuf,
        /// The log it was to be used with.
        log: PathBuf,
    },
    /// The memory belongs to a log.
    #[error("{} belongs to a log that may have to repair it: open it through that log", path.display())]
    Bound {
        /// The memory.
        path: PathBuf,
    },
    /// The medium gives less than was required.
    #[error("{} survives {has} only ({medium}), {required} is required: {remedy}", path.display())]
    TooWeak {
        /// The file.
        path: PathBuf,
        /// What it survives.
        has: Survives,
        /// What was required.
        required: Survives,
        /// What it lies on.
        medium: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The log waits for memory that it has to repair.
    #[error("{} holds an unfinished transaction of {missing}: map it first", log.display())]
    Waiting {
        /// The log.
        log: PathBuf,
        /// The files that are missing.
        missing: String,
    },
    /// The log has no room for the transaction, which stays open and can be aborted.
    #[error("{} is full: {needs} bytes are needed, {free} are free; abort, then use smaller transactions or a longer log", path.display())]
    LogFull {
        /// The log.
        path: PathBuf,
        /// Bytes needed.
        needs: u64,
        /// Bytes free.
        free: u64,
    },
    /// Too many regions of one log.
    #[error("{} has {max} regions already: unmap one, or use another log", path.display())]
    RegionCount {
        /// The log.
        path: PathBuf,
        /// Most regions of a log.
        max: usize,
    },
    /// A range that is not in the region.
    #[error("bytes {start}..{end} are not in region {region:?} of {len} bytes")]
    Range {
        /// The region.
        region: RegionId,
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
        /// The region's length.
        len: usize,
    },
    /// There is no such region.
    #[error("region {0:?} is not mapped")]
    NoRegion(RegionId),
    /// The call needs a transaction.
    #[error("no transaction has begun")]
    NoTransaction,
    /// The call is not possible in a transaction.
    #[error("a transaction has begun: end or abort it first")]
    InTransaction,
    /// The call does not fit how the region is mapped.
    #[error("region {region:?} is {is}")]
    Mode {
        /// The region.
        region: RegionId,
        /// How it is mapped, and what to do.
        is: &'static str,
    },
    /// The transaction began with the promise not to abort.
    #[error("a no-restore transaction cannot be aborted: unmap the regions and map them again")]
    NoRestore,
    /// An earlier error left memory or log in an unknown state.
    #[error("{} takes no more transactions since an earlier error ({cause}): repair the storage and open it again", path.display())]
    Poisoned {
        /// The log.
        path: PathBuf,
        /// The error.
        cause: String,
    },
    /// The heap has no block of that size.
    #[error("no room for {needs} bytes in a heap of {len}: free something, or make the region longer")]
    HeapFull {
        /// Bytes asked for.
        needs: usize,
        /// Length of the heap's region.
        len: usize,
    },
    /// Something that is not an allocated block was used as one.
    #[error("{at:#x} is not an allocated block of the heap: it was freed before, or never allocated")]
    NotABlock {
        /// The offset.
        at: u64,
    },
    /// The numbers of transactions are used up.
    #[error("{} has counted 2^48 transactions: unmap its regions and use a new log", path.display())]
    Exhausted {
        /// The log.
        path: PathBuf,
    },
}

impl Error {
    /// Copies the path at once: where nothing may be allocated unless there is an error, call it within a closure.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }
}
