//! A raw disk image whose uncommitted writes live beside it in memory.
//!
//! Disk writes are state of the epoch that made them: the guest sees them at once, the image gets them when the epoch
//! commits, and a rollback forgets them. What this is not: a cache or a file format. The image is raw and at every
//! moment holds a prefix of the committed epochs; the writes of an epoch that is being applied are covered by the redo
//! log ([`crate::disklog`]).
//!
//! ```text
//!   write_at ──► running ──seal(e)──► sealed e, e+1, … ──commit(upto)──► image ──sync_base──► medium
//!   read_at  ◄── running over sealed over image
//! ```
//!
//! Invariants:
//! - sealed epochs ascend, and only the oldest are applied;
//! - in mode [`Mode::Protected`] no write reaches the image but through [`OverlayDisk::commit`] and
//!   [`OverlayDisk::apply`]; in mode [`Mode::Direct`] nothing is pending; in mode [`Mode::Mirror`] what is pending is in
//!   the image too;
//! - after an I/O error on the image the disk is poisoned: reads go on, writes and commits refuse, sealed sets stay.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::chunk::{CHUNK_BYTES, ZERO_CHUNK, hash_bytes};
pub use crate::writeset::{WriteSet, WriteSetError};
use crate::{chunk, lock};
pub use error::DiskError;

mod error;

/// What an image's length must be a multiple of, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Default for [`OverlayDisk::set_pending_bytes_max`].
pub const PENDING_BYTES_MAX: usize = 256 << 20;

/// Where a guest's writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Into the running epoch's set; the image changes at commit.
    Protected,
    /// Straight into the image, and `flush` makes them durable: for a guest without epochs, and for `solo`.
    Direct,
    /// Both: the image is right for this host alone, and the running set holds all that was written since the mode was
    /// entered, for a replica that is being filled meanwhile.
    Mirror,
}

/// A raw image and the writes that wait for their commit.
#[derive(Debug)]
pub struct OverlayDisk {
    path: PathBuf,
    file: File,
    len: u64,
    readonly: bool,
    mode: Mode,
    running: WriteSet,
    sealed: VecDeque<(u64, Arc<WriteSet>)>,
    sealed_cost: usize,
    last_sealed: Option<u64>,
    pending_bytes_max: usize,
    mirror_overflowed: bool,
    poison: Option<String>,
}

impl OverlayDisk {
    /// Opens and locks an image, exclusively unless read-only. The disk begins in [`Mode::Direct`].
    pub fn open(path: impl AsRef<Path>, readonly: bool) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let file = open_image(path, readonly)?;
        let len = image_len(path, &file)?;
        take_lock(path, &file, !readonly)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
            readonly,
            mode: Mode::Direct,
            running: WriteSet::new(),
            sealed: VecDeque::new(),
            sealed_cost: 0,
            last_sealed: None,
            pending_bytes_max: PENDING_BYTES_MAX,
            mirror_overflowed: false,
            poison: None,
        })
    }

    /// The image's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk's length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Whether writes are refused.
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Where writes go.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Sets where writes go. The modes that write to the image are refused while writes are uncommitted.
    ///
    /// Before going direct, truncate the redo log too: its records are older than the writes that now follow.
    /// From mirror to protected the running set goes on: it then begins with what the replica was not sent.
    pub fn set_mode(&mut self, mode: Mode) -> Result<(), DiskError> {
        if mode == self.mode {
            return Ok(());
        }
        if mode == Mode::Direct && self.mode == Mode::Mirror {
            // The image has them already.
            self.running = WriteSet::new();
        }
        if mode != Mode::Protected {
            self.mirror_overflowed = false;
        }
        if mode != Mode::Protected && self.has_pending() {
            return Err(DiskError::Uncommitted { path: self.path.clone(), pending: self.pending_bytes() });
        }
        self.mode = mode;
        Ok(())
    }

    /// Memory that uncommitted writes take, in bytes, their bookkeeping included.
    pub fn pending_bytes(&self) -> usize {
        self.running.cost_bytes() + self.sealed_cost
    }

    /// Bounds [`Self::pending_bytes`]: at half of it [`Self::is_pressed`] asks for a commit, at all of it writes fail.
    pub fn set_pending_bytes_max(&mut self, bytes: usize) {
        self.pending_bytes_max = bytes;
    }

    /// Whether the guest must wait for commits before it writes on.
    pub fn is_pressed(&self) -> bool {
        self.mode == Mode::Protected && self.pending_bytes() > self.pending_bytes_max / 2
    }

    /// Reads what the guest sees: the running epoch's writes over the sealed ones over the image.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check_range(offset, buf.len())?;
        self.read_base(offset, buf)?;
        for (_, set) in &self.sealed {
            set.read_over(offset, buf);
        }
        self.running.read_over(offset, buf);
        Ok(())
    }

    /// Reads the image alone: what is committed.
    pub fn read_committed_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check_range(offset, buf.len())?;
        self.read_base(offset, buf)
    }

    /// Reads what the disk held when `epoch` began: the image under what was sealed before it. No sealed epoch from `epoch`
    /// on may be committed yet.
    pub fn read_before(&self, epoch: u64, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check_range(offset, buf.len())?;
        self.read_base(offset, buf)?;
        for (_, set) in self.sealed.iter().take_while(|(sealed, _)| *sealed < epoch) {
            set.read_over(offset, buf);
        }
        Ok(())
    }

    /// Writes for the guest: into the running epoch, or into the image in mode [`Mode::Direct`].
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check_writable()?;
        self.check_range(offset, data.len())?;
        match self.mode {
            Mode::Direct => return self.write_base(offset, data),
            Mode::Mirror => return self.mirror(offset, data),
            Mode::Protected => {}
        }
        if self.pending_bytes() + data.len() > self.pending_bytes_max {
            return Err(DiskError::OverlayFull { path: self.path.clone(), pending: self.pending_bytes() });
        }
        self.running.write(offset, data);
        Ok(())
    }

    /// Beyond the limit the copies are dropped, not the writes.
    fn mirror(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.write_base(offset, data)?;
        if self.pending_bytes() + data.len() > self.pending_bytes_max {
            self.mirror_overflowed = true;
            self.running = WriteSet::new();
        }
        if !self.mirror_overflowed {
            self.running.write(offset, data);
        }
        Ok(())
    }

    /// Whether the running set lacks writes made in [`Mode::Mirror`], because there were more than allowed or they were
    /// discarded. The replica must then be filled anew.
    pub fn mirror_overflowed(&self) -> bool {
        self.mirror_overflowed
    }

    /// The guest's flush. Direct: the image is made durable. Protected: nothing, durability is the epoch's commit.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        match self.mode {
            Mode::Direct | Mode::Mirror => self.sync_base(),
            Mode::Protected => self.check_poison(),
        }
    }

    /// Ends the running epoch and gives its writes, which stay readable here until [`Self::commit`]. Moves no bytes.
    ///
    /// # Panics
    /// When `epoch` is not after the last one sealed.
    pub fn seal(&mut self, epoch: u64) -> Arc<WriteSet> {
        assert!(self.last_sealed.is_none_or(|last| last < epoch), "epoch {epoch} sealed after {:?}", self.last_sealed);
        self.last_sealed = Some(epoch);
        let set = Arc::new(std::mem::take(&mut self.running));
        // What was mirrored is in the image; a later commit would put it over newer writes.
        if !set.is_empty() && self.mode != Mode::Mirror {
            self.sealed_cost += set.cost_bytes();
            self.sealed.push_back((epoch, Arc::clone(&set)));
        }
        set
    }

    /// Applies the sealed epochs up to and including `upto` to the image, oldest first, and drops them.
    ///
    /// The image is not synced. After an error the disk is poisoned and the sets not fully applied stay.
    pub fn commit(&mut self, upto: u64) -> Result<(), DiskError> {
        while let Some((epoch, set)) = self.sealed.front() {
            if *epoch > upto {
                break;
            }
            let set = Arc::clone(set);
            self.apply(&set)?;
            self.sealed_cost -= set.cost_bytes();
            self.sealed.pop_front();
        }
        Ok(())
    }

    /// Applies a committed set to the image, whatever the mode: a backup's commit, a resync, a recovery.
    ///
    /// The whole set is checked against the disk's length before the first byte is written.
    pub fn apply(&mut self, set: &WriteSet) -> Result<(), DiskError> {
        self.check_writable()?;
        if set.end() > self.len {
            return Err(DiskError::OutOfRange { offset: 0, len: set.end(), disk_len: self.len });
        }
        for (offset, bytes) in set.iter() {
            self.write_base(offset, bytes)?;
        }
        Ok(())
    }

    /// Makes the image durable (`fdatasync`). After this the redo log's records of committed epochs are not needed.
    pub fn sync_base(&mut self) -> Result<(), DiskError> {
        self.check_poison()?;
        if self.readonly {
            return Ok(());
        }
        let result = self.file.sync_data();
        self.poison_on_error("syncing", result)
    }

    /// Rollback: forgets the running epoch and every sealed one. The epoch numbers stay used.
    pub fn discard_uncommitted(&mut self) {
        self.mirror_overflowed |= self.mode == Mode::Mirror && !self.running.is_empty();
        self.running = WriteSet::new();
        self.sealed.clear();
        self.sealed_cost = 0;
    }

    /// Number of chunks that [`Self::chunk_hash`] counts.
    pub fn chunk_count(&self) -> u64 {
        self.len.div_ceil(CHUNK_BYTES)
    }

    /// Hash of chunk `index` of the image: of what is committed, not of what the guest sees.
    pub fn chunk_hash(&self, index: u64) -> Result<u128, DiskError> {
        let offset = index.saturating_mul(CHUNK_BYTES);
        let len = self.len.saturating_sub(offset).min(CHUNK_BYTES) as usize;
        if len == 0 {
            return Err(DiskError::OutOfRange { offset, len: CHUNK_BYTES, disk_len: self.len });
        }
        chunk::hash(&self.file, offset, len).map_err(|source| self.io_error("reading", source))
    }

    fn has_pending(&self) -> bool {
        !self.running.is_empty() || !self.sealed.is_empty()
    }

    fn read_base(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(buf, offset).map_err(|source| self.io_error("reading", source))
    }

    fn write_base(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let result = self.file.write_all_at(data, offset);
        self.poison_on_error("writing", result)
    }

    fn poison_on_error(&mut self, what: &'static str, result: io::Result<()>) -> Result<(), DiskError> {
        result.map_err(|source| {
            self.poison = Some(format!("{what}: {source}"));
            self.io_error(what, source)
        })
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> DiskError {
        DiskError::Io { what, path: self.path.clone(), source }
    }

    fn check_poison(&self) -> Result<(), DiskError> {
        match &self.poison {
            Some(cause) => Err(DiskError::Poisoned { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn check_writable(&self) -> Result<(), DiskError> {
        if self.readonly {
            return Err(DiskError::ReadOnly { path: self.path.clone() });
        }
        self.check_poison()
    }

    fn check_range(&self, offset: u64, len: usize) -> Result<(), DiskError> {
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
    // A block device has no length in its metadata; where seeking to the end leads holds for both.
    let len = (&*file).seek(io::SeekFrom::End(0)).map_err(failed)?;
    if len == 0 || !len.is_multiple_of(SECTOR_BYTES) {
        return Err(DiskError::Length { path: path.to_owned(), len });
    }
    Ok(len)
}

fn take_lock(path: &Path, file: &File, exclusive: bool) -> Result<(), DiskError> {
    match lock::try_lock(file, exclusive) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DiskError::Locked { path: path.to_owned(), holder: lock::holder(file) }),
        Err(source) => Err(DiskError::Io { what: "locking", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
