//! Local protection: the last committed epoch, whole, in the state directory.
//!
//! ```text
//!   sealed epoch ──▶ one transaction ──▶ DIR/ram      guest memory, page by page
//!                     (recoverable)      DIR/state    machine, held output, number of the epoch
//!                                        DIR/undo     what they were before, while the transaction runs
//!                                     or DIR/redo     what they become, on an ordinary file system ([`backing`])
//! ```
//!
//! The running guest has its memory for itself: `ram` is a copy that only commits change. A commit writes what changed
//! in the epoch ([`changed`]); so its cost grows with that and not with the size of memory. Resuming maps `ram`
//! privately, and reads nothing.
//!
//! What it is not: the disks. Their writes go through their own log ([`super::log`]) before the transaction ends; a
//! resume rolls both to the epoch that is named here.
//!
//! Invariant: between two commits the three files together hold exactly one committed epoch; in the middle of one they
//! hold the epoch before it and how to get back there.

pub mod backing;
mod binding;
mod changed;
mod earlier;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod line;
pub mod pairing;
mod record;
pub mod reset;
mod retained;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use recoverable::{RecoverableMemory, RegionId, Survives};

use backing::{Backing, LocalOptions, StoreDurability};
pub use binding::{Binding, BindingError};
pub use earlier::{Anew, RetentionNews};
use record::Identity;
pub use record::LastEpoch;
pub use record::RecordError;
use replication::output::Output;
use replication::{EpochId, EpochMark};
pub use retained::{KeptEpoch, Limits, RETAIN_MAX, RetainCount, Shortened};
use snapshot::disklog::{LifeId, Line};
use snapshot::statedir::sealed::Sealed;
use snapshot::statedir::{self, Item, MemoryFiles, Stage};

use crate::epoch::SealedEpoch;
use crate::epoch::capture::CapturedPages;
use crate::fault;
use machine::memory::{MemoryError, PAGE_SIZE, Ram, RamBytes};

/// Room for the machine's state and the output of one epoch; a guest that holds half of
/// [`machine::egress::HOLD_BYTES_MAX`] is stopped.
const STATE_BYTES: usize = 40 << 20;
/// Without these files in its state directory a guest is given up: its disks keep what it had committed to them.
pub const FILES: [&str; 5] =
    [Item::State.name(), Item::Ram.name(), Item::Undo.name(), Item::Redo.name(), Item::Binding.name()];

/// Why local protection is not possible, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There is a guest already that could continue.
    #[error("{} holds a guest that was running when its VMM ended", dir.display())]
    Occupied {
        /// The state directory.
        dir: PathBuf,
    },
    /// There is none.
    #[error("{} holds no guest to resume", dir.display())]
    Nothing {
        /// The state directory.
        dir: PathBuf,
    },
    /// The record of the last epoch.
    #[error("{}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// An epoch's state and output do not fit.
    #[error("state and output of an epoch take {bytes} bytes, more than the {STATE_BYTES} that are reserved for them")]
    TooMuchState {
        /// What they take.
        bytes: usize,
    },
    /// It survives less than was asked for.
    #[error("epochs in {} would survive {} only ({} log), and the disk images {images}; {required} is required", dir.display(), kept.survives, kept.log.name())]
    TooWeak {
        /// The state directory.
        dir: PathBuf,
        /// What it gives.
        kept: StoreDurability,
        /// What the images give.
        images: Survives,
        /// What was asked for.
        required: Survives,
    },
    /// What a file lies on could not be determined.
    #[error("cannot tell what {} lies on: {source}", path.display())]
    Examine {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The recoverable memory.
    #[error(transparent)]
    Memory(#[from] recoverable::Error),
    /// Guest memory could not be mapped.
    #[error(transparent)]
    Map(#[from] MemoryError),
    /// Earlier epochs.
    #[error("earlier epochs in {}: {source}", dir.display())]
    Earlier {
        /// Where they are.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the guest is bound to.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// A disk could not be put back.
    #[error(transparent)]
    Disk(#[from] snapshot::disk::DiskError),
    /// A file could not be removed.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The last committed epoch of one machine.
#[derive(Debug)]
pub struct LocalStore {
    dir: PathBuf,
    memory: Box<dyn RecoverableMemory + Send>,
    kept: StoreDurability,
    /// Of an epoch that is committed in pieces: bytes of one, and of the one that is being written.
    piece_bytes: usize,
    piece_used: usize,
    ram: RegionId,
    state: RegionId,
    ram_bytes: RamBytes,
    layout: Vec<(u64, u64)>,
    /// Output of committed epochs that may not have left.
    held: VecDeque<(EpochId, Arc<Output>)>,
    buffer: Vec<u8>,
    /// Earlier epochs, if they are kept.
    ring: Option<retained::Ring>,
    tidings_due: bool,
    /// The guest's, in each record.
    life: LifeId,
}

impl LocalStore {
    /// Files for a guest of `ram_bytes` that is about to start, all zero; room for them is reserved.
    pub fn create(dir: &Path, ram_bytes: u64, options: LocalOptions) -> Result<Self, LocalError> {
        match Self::open(dir, ram_bytes, options) {
            // What never committed anything is nobody's guest.
            Err(LocalError::Record { source: RecordError::Empty, .. } | LocalError::Nothing { .. }) => remove(dir)?,
            Err(LocalError::Memory(error @ recoverable::Error::Locked { .. })) => return Err(error.into()),
            Ok(_) | Err(_) => return Err(LocalError::Occupied { dir: dir.to_owned() }),
        }
        let store = Self::map(dir, ram_bytes, options)?;
        match store.check(options) {
            Ok(()) => Ok(store),
            Err(error) => {
                store.remove()?;
                Err(error)
            }
        }
    }

    /// The guest that was running when its VMM ended, with `ram_bytes` of memory if it was not started from a snapshot
    /// that has another size. A commit that had begun is undone.
    pub fn open(dir: &Path, ram_bytes: u64, options: LocalOptions) -> Result<(Self, LastEpoch), LocalError> {
        match MemoryFiles::look(dir).stage {
            Stage::Nothing => return Err(LocalError::Nothing { dir: dir.to_owned() }),
            Stage::Begun => return Err(record_error(dir, RecordError::Empty)),
            Stage::Made => {}
        }
        let store = Self::map(dir, ram_bytes, options)?;
        let bytes = store.memory.bytes(store.state)?;
        let last = record::decode(bytes).map_err(|source| record_error(dir, source))?;
        store.check(options)?;
        let life = last.life.unwrap_or_default();
        Ok((Self { life, ..store }, last))
    }

    /// Refuses if a guest that could continue is in `dir`, or one that runs: whatever else were started there would
    /// overwrite its configuration, and change its disks.
    pub fn refuse_guest(dir: &Path, options: LocalOptions) -> Result<(), LocalError> {
        if !Self::is_in(dir) {
            return Ok(());
        }
        match Self::open(dir, PAGE_SIZE as u64, options) {
            Err(LocalError::Record { source: RecordError::Empty, .. } | LocalError::Nothing { .. }) => Ok(()),
            Err(LocalError::Memory(error @ recoverable::Error::Locked { .. })) => Err(error.into()),
            Ok(_) | Err(_) => Err(LocalError::Occupied { dir: dir.to_owned() }),
        }
    }

    /// What the guest of this directory is bound to, by what was `found` there; none: it is from before that was kept.
    pub fn binding(&self, found: &Sealed) -> Result<Option<Binding>, LocalError> {
        if self.life == LifeId::default() {
            return Ok(None);
        }
        let binding = Binding::of(found, &self.dir)?;
        if binding.life != self.life {
            let (path, what) = (Item::Binding.path_in(&self.dir), "is another guest's");
            return Err(BindingError::Damaged { path, what }.into());
        }
        Ok(Some(binding))
    }

    /// Binds the guest, durably: from the next epoch on its records name the binding.
    pub fn bind(&mut self, binding: &Binding) -> Result<(), LocalError> {
        binding.write(&self.dir)?;
        self.life = binding.life;
        Ok(())
    }

    /// Binds a guest that is from before that was done.
    pub fn bind_if_new(&mut self, binding: impl FnOnce() -> Result<Binding, BindingError>) -> Result<(), LocalError> {
        if self.life == LifeId::default() { self.bind(&binding()?) } else { Ok(()) }
    }

    /// Whether a guest may be in `dir`.
    pub fn is_in(dir: &Path) -> bool {
        MemoryFiles::look(dir).stage == Stage::Made
    }

    fn map(dir: &Path, ram_bytes: u64, options: LocalOptions) -> Result<Self, LocalError> {
        let mut size = RamBytes::try_from(ram_bytes)?;
        let Backing { mut memory, log } = Backing::open(dir, ram_bytes, options.log)?;
        let path = Item::Ram.path_in(dir);
        let ram = match memory.map(&path, size.get() as usize) {
            // The file knows better how much memory its guest has.
            Err(recoverable::Error::Length { found, .. }) => {
                size = RamBytes::try_from(found)?;
                memory.map(&path, size.get() as usize)?
            }
            ram => ram?,
        };
        let piece_bytes = backing::piece_bytes(log, size.get());
        let state = memory.map(&Item::State.path_in(dir), STATE_BYTES)?;
        let kept = StoreDurability { log, survives: memory.survives().min(options.images) };
        let dir = dir.to_owned();
        let (held, buffer) = (VecDeque::new(), Vec::new());
        let (ring, tidings_due, life) = (None, false, LifeId::default());
        Ok(Self {
            dir,
            memory,
            kept,
            piece_bytes,
            piece_used: 0,
            ram,
            state,
            ram_bytes: size,
            layout: size.layout(),
            held,
            buffer,
            ring,
            tidings_due,
            life,
        })
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn check(&self, LocalOptions { required, images, .. }: LocalOptions) -> Result<(), LocalError> {
        if self.kept.survives >= required {
            return Ok(());
        }
        Err(LocalError::TooWeak { dir: self.dir.clone(), kept: self.kept, images, required })
    }

    /// How a committed epoch is kept.
    pub fn kept(&self) -> StoreDurability {
        self.kept
    }

    /// Guest memory as the last committed epoch left it: mapped, not read. What the guest writes there stays its own.
    pub fn map_ram(&self) -> Result<Ram, LocalError> {
        let (file, offset) = self.memory.file(self.ram)?;
        Ok(Ram::private_copy_of(file, offset, self.ram_bytes)?)
    }

    /// Commits an epoch; gives the pages that turned out unchanged. On an error the epoch before is still the last one.
    ///
    /// An epoch that wrote more than the log can undo is committed in pieces, with no epoch to go back to meanwhile;
    /// that is said in the result.
    ///
    /// Kept with it is the output of all epochs after `left`.
    pub fn commit(&mut self, sealed: &SealedEpoch, commit: &Commit<'_>) -> Result<Committed, LocalError> {
        let Commit { mark, line, state, left } = *commit;
        while self.held.pop_front_if(|(epoch, _)| *epoch <= left).is_some() {}
        self.held.extend(sealed.outputs.iter().map(|output| (sealed.epoch, Arc::clone(output))));
        let mut buffer = std::mem::take(&mut self.buffer);
        let identity = Identity { mark, life: self.life, line };
        record::encode(&identity, state, self.held.iter().map(|(_, output)| &**output), &mut buffer);
        let result = self.commit_with(&sealed.pages, &buffer);
        let result = result.and_then(|committed| self.retain(mark, &buffer).map(|()| committed));
        self.buffer = buffer;
        result
    }

    fn commit_with(&mut self, pages: &CapturedPages, record: &[u8]) -> Result<Committed, LocalError> {
        if record.len() > STATE_BYTES {
            return Err(LocalError::TooMuchState { bytes: record.len() });
        }
        self.memory.begin()?;
        let result = self.write(pages, record, false).and_then(|unchanged| self.end().map(|()| unchanged));
        match result {
            Err(LocalError::Memory(recoverable::Error::LogFull { .. })) => {
                self.memory.abort()?;
                self.commit_in_pieces(pages, record)
            }
            Err(error) => {
                self.memory.abort()?;
                Err(error)
            }
            Ok(unchanged) => Ok(Committed { unchanged, in_pieces: false }),
        }
    }

    fn end(&mut self) -> Result<(), LocalError> {
        let failed =
            |source| recoverable::Error::Io { what: "committing to", path: Item::Ram.path_in(&self.dir), source };
        fault::fails(fault::LOCAL_COMMIT).map_err(failed)?;
        Ok(self.memory.end()?)
    }

    /// First there is no epoch at all, then the pages come, then the new one is there.
    fn commit_in_pieces(&mut self, pages: &CapturedPages, record: &[u8]) -> Result<Committed, LocalError> {
        self.memory.begin()?;
        self.memory.set_range(self.state, 0..record::HEAD)?.fill(0);
        self.next_piece()?;
        let unchanged = self.write(pages, record, true)?;
        self.memory.end()?;
        Ok(Committed { unchanged, in_pieces: true })
    }

    fn next_piece(&mut self) -> Result<(), LocalError> {
        self.memory.end()?;
        self.piece_used = 0;
        Ok(self.memory.begin()?)
    }

    /// Writes the pages and the record into the running transaction; in pieces, into as many as it takes.
    fn write(&mut self, pages: &CapturedPages, record: &[u8], in_pieces: bool) -> Result<Vec<u64>, LocalError> {
        let (mut unchanged, mut runs) = (Vec::new(), Vec::new());
        for (gfn, page) in pages.iter() {
            let at = self.offset_of(gfn);
            let last = &self.memory.bytes(self.ram)?[at..at + PAGE_SIZE];
            runs.clear();
            runs.extend(changed::runs(last, page));
            if runs.is_empty() {
                unchanged.push(gfn);
                continue;
            }
            self.keep_page(gfn, at)?;
            if in_pieces {
                self.flush_earlier()?;
            }
            for run in runs.drain(..) {
                self.set(self.ram, at + run.start..at + run.end, &page[run], in_pieces)?;
            }
        }
        self.flush_earlier()?;
        self.set(self.state, 0..record.len(), record, in_pieces)?;
        Ok(unchanged)
    }

    fn set(
        &mut self,
        region: RegionId,
        range: std::ops::Range<usize>,
        content: &[u8],
        in_pieces: bool,
    ) -> Result<(), LocalError> {
        self.piece_used += content.len();
        if in_pieces && self.piece_used > self.piece_bytes {
            self.next_piece()?;
            self.piece_used = content.len();
        }
        match self.memory.set_range(region, range.clone()) {
            Err(recoverable::Error::LogFull { .. }) if in_pieces => {
                self.next_piece()?;
                self.memory.set_range(region, range)?.copy_from_slice(content);
            }
            memory => memory?.copy_from_slice(content),
        }
        Ok(())
    }

    /// Where page `gfn` of a sealed epoch lies in `ram`.
    fn offset_of(&self, gfn: u64) -> usize {
        self.place_of(gfn).unwrap_or_else(|| panic!("page {gfn:#x} of a sealed epoch is not in RAM"))
    }

    /// Where page `gfn` lies in `ram`, if it is guest memory: the regions one after the other, without the hole.
    fn place_of(&self, gfn: u64) -> Option<usize> {
        let address = gfn.checked_mul(PAGE_SIZE as u64)?;
        let mut offset = 0;
        for (base, len) in &self.layout {
            if (*base..base + len).contains(&address) {
                return Some((offset + address - base) as usize);
            }
            offset += len;
        }
        None
    }

    /// The guest has ended: nothing is to be resumed.
    pub fn remove(self) -> Result<(), LocalError> {
        let dir = self.dir.clone();
        drop(self);
        remove(&dir)
    }
}

/// What is committed of an epoch beside what was sealed.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// The epoch.
    pub mark: EpochMark,
    /// Where the log of its disk writes is.
    pub line: Line,
    /// The machine's state.
    pub state: &'a [u8],
    /// The last epoch of which all output has left.
    pub left: EpochId,
}

/// What a commit did.
#[derive(Debug)]
pub struct Committed {
    /// Pages that had been what they are.
    pub unchanged: Vec<u64>,
    /// For a moment there was no epoch to go back to.
    pub in_pieces: bool,
}

fn record_error(dir: &Path, source: RecordError) -> LocalError {
    LocalError::Record { path: Item::State.path_in(dir), source }
}

fn remove(dir: &Path) -> Result<(), LocalError> {
    statedir::forget_guest(dir).map_err(|(path, source)| LocalError::Remove { path, source })
}

#[cfg(test)]
mod tests;
