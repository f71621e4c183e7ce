//! The image under a disk: a file that is read and written without the disk, so that slow storage keeps only those
//! waiting who want something from it.
//!
//! Invariants:
//! - after a failed write or sync the image is poisoned: it is still read, nothing is written any more. A write that
//!   finds no room has not failed: it is to be done again, and until then the image may have a part of it. A *sync*
//!   that finds none has failed like any other: what the host had in memory may be gone;
//! - nothing is written past the end that the file has now: an image that somebody cut stays cut, and is not filled up
//!   with a hole that nobody wrote.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{Advice, fadvise};

use super::error::is_full;
use super::origin::{self, Origin};
use super::{DiskError, SECTOR_BYTES, WriteSet};
use crate::chunk::{self, CHUNK_BYTES};
use crate::lock;

/// A raw image, locked for as long as it is open.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    len: u64,
    readonly: bool,
    poison: OnceLock<String>,
    /// Counts writes that began here.
    writes: AtomicU64,
    /// Counts those of them that ended.
    ended: AtomicU64,
    /// What `writes` was, and one more, when the last sync began that ended well; 0: there was none. What the file had
    /// before it was opened may not be durable either.
    synced: AtomicU64,
    /// Held while it is synced: the host tells of a failure once, and nobody may take the image for durable before that
    /// is known to all.
    syncing: Mutex<()>,
}

impl Image {
    /// Opens and locks an image, exclusively unless read-only.
    pub(super) fn open(path: &Path, readonly: bool) -> Result<Self, DiskError> {
        let file = open_image(path, readonly)?;
        let len = image_len(path, &file)?;
        take_lock(path, &file, !readonly)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
            readonly,
            poison: OnceLock::new(),
            writes: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            syncing: Mutex::new(()),
        })
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes, as it was when it was opened: the disk's.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Whether it still has the length that it was opened with. One system call.
    ///
    /// # Errors
    /// [`DiskError::Resized`] where somebody made it shorter or longer meanwhile.
    pub fn check_len(&self) -> Result<(), DiskError> {
        let now = self.present_len()?;
        if now == self.len {
            return Ok(());
        }
        Err(DiskError::Resized { path: self.path.clone(), was: self.len, now })
    }

    fn present_len(&self) -> Result<u64, DiskError> {
        end_of(&self.file).map_err(|source| self.io_error("measuring", source))
    }

    /// Which file or device it is, whatever it is called.
    pub fn origin(&self) -> Result<Origin, DiskError> {
        origin::of(&self.file).map_err(|source| self.io_error("identifying", source))
    }

    /// When its content was changed last, in nanoseconds since 1970; 0 where nobody tells, as of a block device.
    pub fn modified(&self) -> Result<i64, DiskError> {
        origin::modified(&self.file).map_err(|source| self.io_error("identifying", source))
    }

    /// How many writes were made through this value.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    /// Whether its storage has failed: what was written since it was synced last may be lost.
    pub fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Whether writes are refused.
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Reads what is in the image.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check_range(offset, buf.len())?;
        self.file.read_exact_at(buf, offset).map_err(|source| self.io_error("reading", source))
    }

    /// Number of chunks that [`Self::chunk_hash`] counts.
    pub fn chunk_count(&self) -> u64 {
        self.len.div_ceil(CHUNK_BYTES)
    }

    /// Hash of chunk `index`. Of a chunk that is being written meanwhile it is of no content at all.
    pub fn chunk_hash(&self, index: u64) -> Result<u128, DiskError> {
        let offset = index.saturating_mul(CHUNK_BYTES);
        let len = self.len.saturating_sub(offset).min(CHUNK_BYTES) as usize;
        if len == 0 {
            return Err(DiskError::OutOfRange { offset, len: CHUNK_BYTES, disk_len: self.len });
        }
        chunk::hash(&self.file, offset, len).map_err(|source| self.io_error("reading", source))
    }

    /// Writes a committed set: a commit, a resync, a recovery. The image is not synced.
    ///
    /// The whole set is checked against the image's length, and the one that it has now, before the first byte is
    /// written.
    pub fn apply(&self, set: &WriteSet) -> Result<(), DiskError> {
        self.check_writable()?;
        if set.end() > self.len {
            return Err(DiskError::OutOfRange { offset: 0, len: set.end(), disk_len: self.len });
        }
        if !set.is_empty() {
            self.check_present(set.end())?;
        }
        set.iter().try_for_each(|(offset, bytes)| self.write_at(offset, bytes))
    }

    /// Makes the image durable (`fdatasync`). After this the redo log's records of what was applied are not needed.
    pub fn sync(&self) -> Result<(), DiskError> {
        let _alone = self.syncing.lock().expect("no holder panics");
        self.check_poison()?;
        if self.readonly {
            return Ok(());
        }
        // In this order: a write that is under way now is not among them.
        let (ended, begun) = (self.ended.load(Ordering::SeqCst), self.writes.load(Ordering::SeqCst));
        self.poison_on_error("syncing", self.file.sync_data())?;
        if ended == begun {
            self.synced.fetch_max(begun + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Has the host forget what it holds of the image in memory, so that it is read from its medium. To be called behind
    /// [`Self::sync`]: the host keeps what is not written yet, and what a program has mapped. An image that is only read
    /// stays as it is.
    pub fn read_afresh(&self) -> Result<(), DiskError> {
        if self.readonly {
            return Ok(());
        }
        let forgotten = fadvise(&self.file, 0, None, Advice::DontNeed);
        forgotten.map_err(|errno| self.io_error("dropping from the host's memory", errno.into()))
    }

    /// Whether [`Self::sync`] has something to do: it has not ended well since the last write.
    pub fn needs_sync(&self) -> bool {
        let is_synced = self.synced.load(Ordering::SeqCst) == self.writes.load(Ordering::SeqCst) + 1;
        !self.readonly && !is_synced && self.poison.get().is_none()
    }

    /// The caller checked the range, and that the image may be written.
    pub(super) fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check_present(offset + data.len() as u64)?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let written = self.file.write_all_at(data, offset);
        self.ended.fetch_add(1, Ordering::SeqCst);
        match written {
            Err(source) if is_full(&source) => Err(DiskError::NoRoom { path: self.path.clone(), source }),
            result => self.poison_on_error("writing", result),
        }
    }

    /// Whether the file reaches to `end` now.
    pub(super) fn check_present(&self, end: u64) -> Result<(), DiskError> {
        let now = self.present_len()?;
        if end <= now { Ok(()) } else { Err(DiskError::Resized { path: self.path.clone(), was: self.len, now }) }
    }

    fn poison_on_error(&self, what: &'static str, result: io::Result<()>) -> Result<(), DiskError> {
        result.map_err(|source| {
            self.poison.get_or_init(|| format!("{what}: {source}"));
            self.io_error(what, source)
        })
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> DiskError {
        DiskError::Io { what, path: self.path.clone(), source }
    }

    pub(super) fn check_poison(&self) -> Result<(), DiskError> {
        match self.poison.get() {
            Some(cause) => Err(DiskError::Poisoned { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), DiskError> {
        if self.readonly {
            return Err(DiskError::ReadOnly { path: self.path.clone() });
        }
        self.check_poison()
    }

    pub(super) fn check_range(&self, offset: u64, len: usize) -> Result<(), DiskError> {
        let len = len as u64;
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(DiskError::OutOfRange { offset, len, disk_len: self.len }),
        }
    }
}

fn open_image(path: &Path, readonly: bool) -> Result<File, DiskError> {
    let owned = path.to_owned();
    // Looked at first, because opening a pipe would wait for its other end. A file that is not there fails below.
    if std::fs::metadata(path).is_ok_and(|data| !is_image(data.file_type())) {
        return Err(DiskError::NotAnImage { path: owned });
    }
    OpenOptions::new().read(true).write(!readonly).open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DiskError::Missing { path: owned },
        io::ErrorKind::PermissionDenied if readonly => {
            DiskError::Permission { path: owned, access: "reading", hint: "" }
        }
        io::ErrorKind::PermissionDenied => {
            DiskError::Permission { path: owned, access: "writing", hint: ", or add readonly=on" }
        }
        _ => DiskError::Io { what: "opening", path: owned, source },
    })
}

fn is_image(kind: std::fs::FileType) -> bool {
    kind.is_file() || kind.is_block_device()
}

fn image_len(path: &Path, file: &File) -> Result<u64, DiskError> {
    let failed = |source| DiskError::Io { what: "measuring", path: path.to_owned(), source };
    let len = end_of(file).map_err(failed)?;
    if len == 0 || !len.is_multiple_of(SECTOR_BYTES) {
        return Err(DiskError::Length { path: path.to_owned(), len });
    }
    Ok(len)
}

/// A block device has no length in its metadata; where seeking to the end leads holds for both. Nobody uses the
/// position.
fn end_of(mut file: &File) -> io::Result<u64> {
    file.seek(io::SeekFrom::End(0))
}

fn take_lock(path: &Path, file: &File, exclusive: bool) -> Result<(), DiskError> {
    match lock::try_lock(file, exclusive) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DiskError::Locked { path: path.to_owned(), holder: lock::holder(file) }),
        Err(source) => Err(DiskError::Io { what: "locking", path: path.to_owned(), source }),
    }
}
