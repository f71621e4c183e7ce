//! A state directory: what a VM keeps on its host beside its images, in one place.
//!
//! | name | who writes it | format | replaced | survives |
//! |---|---|---|---|---|
//! | `lock` | whoever has the directory open | JSON in whole blocks | in place, synced before a record names its life | the medium |
//! | `vm.json` | each start, resume and backup, once the VM is sure to run | JSON, fields by name | whole, synced | the medium |
//! | `disks` | a start, before the first epoch | sealed line | whole, synced | the medium |
//! | `undo`, `redo` | a start makes it; every commit writes to it | container 1 of `recoverable` | in place | what its kind promises |
//! | `ram` | a start makes it; commits, or the truncation of `redo` | container 1 | in place | the same |
//! | `state` | the same | container 1, in it a record of version 1 to 3 | in place | the same |
//! | `pairing` | a start, a resume, and when a backup becomes whole or is let go | sealed line | whole, synced | the medium |
//! | `view` | who wins a record of a register that has a state directory, or was exchanged | sealed line | whole, synced | the medium |
//! | `earlier/` | with `--on-guest-panic rollback`, commits | batches of before-images | appended, not synced | the process, within one boot |
//! | `crash.json` | when the guest crashed, and what is tried after that | JSON, fields by name | whole, synced | the medium |
//! | `crash/` | when a guest without epochs is stopped after a crash | a checkpoint directory | removed and made again | the medium |
//! | `reset` | when a guest that crashed is to boot again | sealed line, version in it | whole, synced | the medium |
//!
//! Beside them there may be the control socket, the log of a block device's writes, and drafts: `NAME.next` of what is replaced
//! whole, `NAME.new` of a container. A draft never counts. *Sealed line*: one line of JSON, and its checksum ([`sealed`]).
//!
//! ```text
//!   start    lock ─▶ disks log (beside the image) ─▶ undo|redo ─▶ ram ─▶ state ─▶ disks ─▶ vm.json ─▶ pairing ─▶ ✗ reset ─▶ runs
//!   epoch    earlier ─▶ undo|redo ─▶ ram, state                                                          (one transaction)
//!   crash    crash.json ─▶ last epoch ─▶ (rollback) resume │ (boot) ✗ state … pairing ─▶ crash.json ─▶ reset ─▶ start
//!   end      ✗ earlier ─▶ ✗ state ─▶ ✗ ram, undo, redo, disks, pairing ─▶ synced                            ([`forget_guest`])
//! ```
//!
//! `state` is made last and removed first: without it there is no guest. `reset` counts only while it does, and it is gone, durably,
//! before the guest that it asked for runs.
//!
//! Who holds the lock may read and write; nobody else may, with three exceptions: the containers have locks of their own, which the
//! process that mapped them holds until its end; `lock` itself is read by others on this host, who look whether its holder is gone;
//! and `vm.json` may be read by anybody. The lock is open as long as one [`StateDir`] of it is.
//!
//! Not here: what the content means. The right to run is decided in `replication`; what a resume does, in its
//! `pipeline::resuming`.

mod item;
mod lock;
pub mod sealed;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use item::Item;
pub use lock::LockFile;
use sealed::Sealed;

use crate::{durable, private};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// There is no VM in it.
    #[error("cannot read {}: no such file", path.display())]
    Nothing {
        /// What every state directory has.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("the state directory {} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be made, or others could change what is in it.
    #[error("cannot use the state directory {}: {source}", dir.display())]
    Unfit {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its lock is somebody else's file, or cannot be written.
    #[error("cannot take the lock of the state directory {}: {source}", dir.display())]
    Lock {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file in it.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A state directory that this process has for itself, until the last copy of this is dropped.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: Arc<LockFile>,
}

/// What is in a state directory: its small files, read once, and how much there is of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `vm.json`; empty if there is none.
    pub config: Vec<u8>,
    /// `pairing`.
    pub pairing: Sealed,
    /// `disks`.
    pub binding: Sealed,
    /// `reset`.
    pub reset: Sealed,
    /// `crash.json`.
    pub crash: Option<Vec<u8>>,
    /// The guest.
    pub memory: MemoryFiles,
}

/// How much there is of a guest's memory. The files are made in the order log, `ram`, `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFiles {
    /// How far they were made.
    pub stage: Stage,
    /// Which log there is.
    pub log: Option<LogName>,
}

/// How far the files of a guest's memory were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not begun: there is neither `ram` nor `state`.
    Nothing,
    /// There is no `state`: nothing was ever committed.
    Begun,
    /// All are there. Whether an epoch was committed, `state` says.
    Made,
}

/// Which of the two logs a guest's memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogName {
    /// `undo`.
    Undo,
    /// `redo`; it is the one that counts where both are.
    Redo,
}

impl MemoryFiles {
    /// Those in `dir`.
    pub fn look(dir: &Path) -> Self {
        let has = |item: Item| item.path_in(dir).exists();
        let stage = match (has(Item::State), has(Item::Ram)) {
            (true, _) => Stage::Made,
            (false, true) => Stage::Begun,
            (false, false) => Stage::Nothing,
        };
        let log = match (has(Item::Undo), has(Item::Redo)) {
            (_, true) => Some(LogName::Redo),
            (true, false) => Some(LogName::Undo),
            (false, false) => None,
        };
        Self { stage, log }
    }
}

impl StateDir {
    /// Makes the directory, if it is not there, and takes its lock.
    ///
    /// # Errors
    /// Where others could read or change what is in it, and where another process has it.
    pub fn claim(path: &Path) -> Result<Self, StateDirError> {
        let claimed =
            private::claim_dir(path).and_then(|is_new| if is_new { durable::sync_parent(path) } else { Ok(()) });
        claimed.map_err(|source| StateDirError::Unfit { dir: path.to_owned(), source })?;
        Self::take(path)
    }

    /// The same of one that a VM was configured in. Nothing is made elsewhere.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let config = Item::Config.path_in(path);
        if !config.exists() {
            return Err(StateDirError::Nothing { path: config });
        }
        Self::claim(path)
    }

    fn take(path: &Path) -> Result<Self, StateDirError> {
        let dir = || path.to_owned();
        let lock = LockFile::take(&Item::Lock.path_in(path)).map_err(|source| match source.kind() {
            ErrorKind::WouldBlock => StateDirError::InUse { dir: dir() },
            _ => StateDirError::Lock { dir: dir(), source },
        })?;
        Ok(Self { path: dir(), lock: Arc::new(lock) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its lock, which this process holds.
    pub fn lock(&self) -> &LockFile {
        &self.lock
    }

    /// What is in it. Nothing is changed, and nothing is judged but whether a sealed line is whole.
    ///
    /// # Errors
    /// Where a file is there and cannot be read.
    pub fn find(&self) -> Result<Finding, StateDirError> {
        let sealed = |item: Item| Ok(self.read(item)?.map_or(Sealed::Absent, |bytes| sealed::open(&bytes)));
        Ok(Finding {
            config: self.read(Item::Config)?.unwrap_or_default(),
            pairing: sealed(Item::Pairing)?,
            binding: sealed(Item::Binding)?,
            reset: sealed(Item::Reset)?,
            crash: self.read(Item::Crash)?,
            memory: MemoryFiles::look(&self.path),
        })
    }

    fn read(&self, item: Item) -> Result<Option<Vec<u8>>, StateDirError> {
        read(&self.path, item).map_err(|source| StateDirError::Io {
            what: "read",
            path: item.path_in(&self.path),
            source,
        })
    }
}

/// A small file of the state directory `dir`, if it is there. Of one that is larger than any that was written, the beginning.
pub fn read(dir: &Path, item: Item) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(item.path_in(dir)).and_then(|file| file.take(item.bytes_max()).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a small file of the state directory `dir` as a whole. It is durable when this returns.
pub fn replace(dir: &Path, item: Item, bytes: &[u8]) -> io::Result<()> {
    durable::replace(&item.path_in(dir), bytes)
}

/// Removes a small file, durably: after a loss of power it is not there again.
pub fn remove(dir: &Path, item: Item) -> io::Result<()> {
    match fs::remove_file(item.path_in(dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync(dir)),
    }
}

/// Removes all that there is of a guest, but neither what was configured nor what is known of its crash. In the order that
/// leaves no half of a guest: without its state there is nothing to resume. Durably: after a loss of power it must not be there
/// again, the guest may have gone on without.
///
/// # Errors
/// What could not be removed, and why.
pub fn forget_guest(dir: &Path) -> Result<(), (PathBuf, io::Error)> {
    let earlier = Item::Earlier.path_in(dir);
    match fs::remove_dir_all(&earlier) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err((earlier, error)),
        _ => {}
    }
    for item in Item::OF_A_GUEST {
        let path = item.path_in(dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
    }
    sync(dir).map_err(|error| (dir.to_owned(), error))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
