//! A directory that gets its name only when it is whole.
//!
//! Until then it is `.NAME.PID.part` beside its target, locked by its maker. One without a lock is what a process left that was
//! killed; the next checkpoint beside it removes it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{CONFIG, CheckpointError, MANIFEST, MEMORY, STATE};
use crate::private;

/// How the name of a directory ends that is not whole.
const PART: &str = ".part";

/// The place of a checkpoint: a directory under its temporary name, removed when dropped before it is published.
#[derive(Debug)]
pub struct Staging {
    temporary: PathBuf,
    target: PathBuf,
    parent: PathBuf,
    published: bool,
    /// Its lock is what tells that somebody still writes to it; none where the file system has no locks.
    _lock: Option<File>,
}

impl Staging {
    /// Makes the directory beside its target, so that a rename suffices. Nothing may be at the target.
    pub fn create(target: &Path) -> Result<Self, CheckpointError> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(CheckpointError::Exists { dir: target.to_owned() });
        }
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let name = target.file_name().ok_or_else(|| CheckpointError::Io {
            what: "creating",
            path: target.to_owned(),
            source: io::ErrorKind::InvalidFilename.into(),
        })?;
        let temporary = parent.join(format!(".{}.{}{PART}", name.to_string_lossy(), std::process::id()));
        remove_leftovers(&parent);
        let lock = make_locked(&temporary).map_err(CheckpointError::io("creating", &temporary))?;
        Ok(Self { temporary, target: target.to_owned(), parent, published: false, _lock: lock })
    }

    /// A new file in the directory.
    pub(super) fn create_file(&self, name: &str) -> Result<File, CheckpointError> {
        let path = self.temporary.join(name);
        private::create_new(&path).map_err(CheckpointError::io("creating", path))
    }

    /// Syncs the directory, gives it its name, and makes the name durable. Never replaces what is there.
    pub fn publish(mut self) -> Result<(), CheckpointError> {
        sync_dir(&self.temporary)?;
        let renamed = match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_over_own(&self.temporary, &self.target),
            renamed => renamed.map_err(io::Error::from),
        };
        match renamed {
            Ok(()) => self.published = true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CheckpointError::Exists { dir: self.target.clone() });
            }
            Err(error) => return Err(CheckpointError::io("renaming", &self.temporary)(error)),
        }
        sync_dir(&self.parent)
    }
}

/// For a file system whose rename cannot promise to replace nothing (9p, NFS, FUSE): to make a directory is exclusive too, and
/// an empty one is replaced by a rename. It fails if anybody has put something there.
pub(super) fn rename_over_own(temporary: &Path, target: &Path) -> io::Result<()> {
    private::create_dir(target)?;
    fs::rename(temporary, target).inspect_err(|_| {
        // Only if it is empty: then it is the one from above.
        let _ = fs::remove_dir(target);
    })
}

/// Makes the directory and takes its lock, if there are any here.
fn make_locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        private::create_dir(path)?;
        let Some(lock) = open_dir(path).ok().filter(|dir| dir.try_lock().is_ok()) else { return Ok(None) };
        // Between the two calls another process may have taken it for a leftover.
        if fs::metadata(path).is_ok_and(|found| lock.metadata().is_ok_and(|held| held.ino() == found.ino())) {
            return Ok(Some(lock));
        }
    }
}

/// Removes what processes left in `parent` that were killed while they wrote a checkpoint. What cannot be removed stays.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| is_part(&entry.file_name().to_string_lossy())) {
        // Where there are no locks, nothing tells a leftover from one that is being written.
        let path = entry.path();
        let Ok(dir) = open_dir(&path) else { continue };
        match dir.try_lock() {
            Ok(()) => remove_part(&path),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// `.NAME.PID.part`.
fn is_part(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(PART));
    inner
        .and_then(|inner| inner.rsplit_once('.'))
        .is_some_and(|(name, pid)| !name.is_empty() && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes the files of a checkpoint, and the directory if there was nothing else in it.
fn remove_part(path: &Path) {
    let ours = |name: &std::ffi::OsStr| [CONFIG, STATE, MEMORY, MANIFEST].iter().any(|ours| name == *ours);
    let Ok(entries) = fs::read_dir(path) else { return };
    if entries.flatten().all(|entry| ours(&entry.file_name())) {
        // It cannot be helped; its name says what it is.
        let _ = fs::remove_dir_all(path);
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
    File::options().read(true).custom_flags(flags).open(path)
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Nothing more can be done about a directory that cannot be removed; its name says that it is a part.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

fn sync_dir(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(CheckpointError::io("syncing", path))
}
