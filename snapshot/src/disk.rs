//! A raw disk image whose uncommitted writes live beside it in memory.
//!
//! Disk writes are state of the epoch that made them: the guest sees them at once, the image gets them when the epoch
//! commits, and a rollback forgets them. What this is not: a cache or a file format. The image is raw and at every
//! moment holds a prefix of the committed epochs; the writes of an epoch that is being applied are covered by the redo
//! log ([`crate::disklog`]).
//!
//! ```text
//!   write_at ──► running ──seal(e)──► sealed e, e+1, … ──commit(upto)──► image ──sync──► medium
//!   read_at  ◄── running over sealed over image
//! ```
//!
//! Invariants:
//! - sealed epochs ascend, and only the oldest are applied;
//! - in mode [`WriteMode::Protected`] no write reaches the image but through [`OverlayDisk::commit`] and
//!   [`Image::apply`]; in mode [`WriteMode::Direct`] nothing is pending; in mode [`WriteMode::Mirror`] what is pending is in
//!   the image too;
//! - after an I/O error on the image the disk is poisoned: reads go on, writes and commits refuse, sealed sets stay. A write
//!   that finds no room poisons nothing: it is tried again as it was.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

pub use crate::chunk::{CHUNK_BYTES, ZERO_CHUNK, hash_bytes};
pub use crate::writeset::{WriteSet, WriteSetError};
pub use error::DiskError;
pub(crate) use error::is_full;
pub use image::Image;
pub use origin::{Kind, Origin, birth_of};

mod error;
mod image;
mod origin;

/// What an image's length must be a multiple of, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Default for [`OverlayDisk::set_pending_bytes_max`].
pub const PENDING_BYTES_MAX: usize = 256 << 20;

/// Where a guest's writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Into the running epoch's set; the image changes at commit.
    Protected,
    /// Straight into the image, and `flush` makes them durable: for a guest without epochs, and for `solo`.
    Direct,
    /// Both: the image is right for this host alone, and the running set holds all that was written since the mode was
    /// entered, but what was taken of it, for a replica that is being filled meanwhile.
    Mirror,
}

/// A sealed epoch's writes on their way to the image.
#[derive(Debug)]
#[must_use = "what is not written and ended stays pending"]
pub struct Commit {
    epoch: u64,
    set: Arc<WriteSet>,
    image: Arc<Image>,
}

impl Commit {
    /// Writes them. As long as this takes; the disk is not needed for it.
    pub fn write(&self) -> Result<(), DiskError> {
        self.image.apply(&self.set)
    }
}

/// What a disk held when an epoch began: the image under what was sealed before, which commits may put into it meanwhile.
#[derive(Debug)]
pub struct Before {
    image: Arc<Image>,
    sealed: Vec<Arc<WriteSet>>,
}

impl Before {
    /// Reads it; the disk is not needed for that.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.image.read_at(offset, buf)?;
        for set in &self.sealed {
            set.read_over(offset, buf);
        }
        Ok(())
    }
}

/// A raw image and the writes that wait for their commit.
#[derive(Debug)]
pub struct OverlayDisk {
    image: Arc<Image>,
    mode: WriteMode,
    running: WriteSet,
    /// What an epoch without writes is sealed as.
    empty: Arc<WriteSet>,
    sealed: VecDeque<(u64, Arc<WriteSet>)>,
    sealed_cost: usize,
    last_sealed: Option<u64>,
    pending_bytes_max: usize,
    mirror_overflowed: bool,
}

impl OverlayDisk {
    /// Opens and locks an image, exclusively unless read-only. The disk begins in [`WriteMode::Direct`].
    pub fn open(path: impl AsRef<Path>, readonly: bool) -> Result<Self, DiskError> {
        Ok(Self {
            image: Arc::new(Image::open(path.as_ref(), readonly)?),
            mode: WriteMode::Direct,
            running: WriteSet::new(),
            empty: Arc::default(),
            sealed: VecDeque::new(),
            sealed_cost: 0,
            last_sealed: None,
            pending_bytes_max: PENDING_BYTES_MAX,
            mirror_overflowed: false,
        })
    }

    /// What is committed.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The image's path, as it was given.
    pub fn path(&self) -> &Path {
        self.image.path()
    }

    /// The disk's length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.image.len_bytes()
    }

    /// Whether writes are refused.
    pub fn is_readonly(&self) -> bool {
        self.image.is_readonly()
    }

    /// Where writes go.
    pub fn mode(&self) -> WriteMode {
        self.mode
    }

    /// Sets where writes go. The modes that write to the image are refused while writes are uncommitted.
    ///
    /// Before going direct, truncate the redo log too: its records are older than the writes that now follow.
    /// From mirror to protected the running set goes on: it then begins with what the replica was not sent.
    pub fn set_mode(&mut self, mode: WriteMode) -> Result<(), DiskError> {
        if mode == self.mode {
            return Ok(());
        }
        if mode == WriteMode::Direct && self.mode == WriteMode::Mirror {
            // The image has them already.
            self.running = WriteSet::new();
        }
        if mode != WriteMode::Protected {
            self.mirror_overflowed = false;
        }
        if mode != WriteMode::Protected && self.has_pending() {
            return Err(DiskError::Uncommitted { path: self.path().to_owned(), pending: self.pending_bytes() });
        }
        self.mode = mode;
        Ok(())
    }

    /// Memory that uncommitted writes take, in bytes, their bookkeeping included.
    pub fn pending_bytes(&self) -> usize {
        self.running.cost_bytes() + self.sealed_cost
    }

    /// The part of them that sealed epochs take, which is not in the image.
    pub fn sealed_bytes(&self) -> usize {
        self.sealed_cost
    }

    /// Bounds [`Self::pending_bytes`]: at half of it [`Self::is_pressed`] asks for a commit, at all of it writes fail.
    pub fn set_pending_bytes_max(&mut self, bytes: usize) {
        self.pending_bytes_max = bytes;
    }

    /// Whether the guest must wait for commits before it writes on.
    pub fn is_pressed(&self) -> bool {
        self.mode == WriteMode::Protected && self.pending_bytes() > self.pending_bytes_max / 2
    }

    /// Reads what the guest sees: the running epoch's writes over the sealed ones over the image.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.image.read_at(offset, buf)?;
        for (_, set) in &self.sealed {
            set.read_over(offset, buf);
        }
        self.running.read_over(offset, buf);
        Ok(())
    }

    /// What the disk held when `epoch` began. No sealed epoch from `epoch` on may be committed while this is read.
    pub fn before(&self, epoch: u64) -> Before {
        let earlier = self.sealed.iter().take_while(|(sealed, _)| *sealed < epoch);
        Before { image: Arc::clone(&self.image), sealed: earlier.map(|(_, set)| Arc::clone(set)).collect() }
    }

    /// Writes for the guest: into the running epoch, or into the image in mode [`WriteMode::Direct`].
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.image.check_writable()?;
        self.image.check_range(offset, data.len())?;
        match self.mode {
            WriteMode::Direct => return self.image.write_at(offset, data),
            WriteMode::Mirror => return self.mirror(offset, data),
            // A write that its commit could not bring to the image must not be promised.
            WriteMode::Protected => self.image.check_present(offset + data.len() as u64)?,
        }
        if self.pending_bytes() + data.len() > self.pending_bytes_max {
            return Err(DiskError::OverlayFull { path: self.path().to_owned(), pending: self.pending_bytes() });
        }
        self.running.write(offset, data);
        Ok(())
    }

    /// Beyond the limit the copies are dropped, not the writes.
    fn mirror(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.image.write_at(offset, data)?;
        if self.pending_bytes() + data.len() > self.pending_bytes_max {
            self.mirror_overflowed = true;
            self.running = WriteSet::new();
        }
        if !self.mirror_overflowed {
            self.running.write(offset, data);
        }
        Ok(())
    }

    /// In [`WriteMode::Mirror`]: what was written since the mode was entered or this was last called. Whoever takes it sends it to the
    /// replica before anything that is written later.
    pub fn take_mirrored(&mut self) -> WriteSet {
        if self.mode == WriteMode::Mirror { std::mem::take(&mut self.running) } else { WriteSet::new() }
    }

    /// Whether the running set lacks writes made in [`WriteMode::Mirror`], because there were more than allowed or they were
    /// discarded. The replica must then be filled anew.
    pub fn mirror_overflowed(&self) -> bool {
        self.mirror_overflowed
    }

    /// The guest's flush. Direct: the image is made durable. Protected: nothing, durability is the epoch's commit.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        if self.needs_sync() { self.image.sync() } else { self.image.check_poison() }
    }

    /// Whether a flush waits for storage. Who cannot, syncs the image beside the disk first ([`Image::sync`]).
    pub fn needs_sync(&self) -> bool {
        self.mode != WriteMode::Protected && self.image.needs_sync()
    }

    /// Ends the running epoch and gives its writes, which stay readable here until [`Self::commit`]. Moves no bytes.
    ///
    /// # Panics
    /// When `epoch` is not after the last one sealed.
    pub fn seal(&mut self, epoch: u64) -> Arc<WriteSet> {
        assert!(self.last_sealed.is_none_or(|last| last < epoch), "epoch {epoch} sealed after {:?}", self.last_sealed);
        self.last_sealed = Some(epoch);
        if self.running.is_empty() {
            return Arc::clone(&self.empty);
        }
        let set = Arc::new(std::mem::take(&mut self.running));
        // What was mirrored is in the image; a later commit would put it over newer writes.
        if self.mode != WriteMode::Mirror {
            self.sealed_cost += set.cost_bytes();
            self.sealed.push_back((epoch, Arc::clone(&set)));
        }
        set
    }

    /// Applies the sealed epochs up to and including `upto` to the image, oldest first, and drops them.
    ///
    /// The image is not synced. After an error the sets not fully applied stay; of all errors but [`DiskError::NoRoom`] the
    /// image is poisoned.
    pub fn commit(&mut self, upto: u64) -> Result<(), DiskError> {
        while let Some(commit) = self.begin_commit(upto) {
            commit.write()?;
            self.end_commit(commit);
        }
        Ok(())
    }

    /// The oldest sealed epoch up to and including `upto`, to be written to the image and given to [`Self::end_commit`]
    /// before the next one is begun. The guest reads and writes on meanwhile: what is under way is still read from here.
    pub fn begin_commit(&self, upto: u64) -> Option<Commit> {
        let (epoch, set) = self.sealed.front().filter(|(epoch, _)| *epoch <= upto)?;
        Some(Commit { epoch: *epoch, set: Arc::clone(set), image: Arc::clone(&self.image) })
    }

    /// Drops a sealed epoch that the image has.
    pub fn end_commit(&mut self, commit: Commit) {
        if self.sealed.pop_front_if(|(epoch, _)| *epoch == commit.epoch).is_some() {
            self.sealed_cost -= commit.set.cost_bytes();
        }
    }

    /// Rollback: forgets the running epoch and every sealed one. The epoch numbers stay used.
    pub fn discard_uncommitted(&mut self) {
        self.mirror_overflowed |= self.mode == WriteMode::Mirror && !self.running.is_empty();
        self.running = WriteSet::new();
        self.sealed.clear();
        self.sealed_cost = 0;
    }

    fn has_pending(&self) -> bool {
        !self.running.is_empty() || !self.sealed.is_empty()
    }
}

#[cfg(test)]
mod tests;
