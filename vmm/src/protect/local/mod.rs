//! Local protection: the last committed epoch, whole, in the state directory.
//!
//! ```text
//!   sealed epoch ──▶ one transaction ──▶ DIR/ram      guest memory, page by page
//!                     (recoverable)      DIR/state    machine, held output, number of the epoch
//!                                        DIR/undo     what they were before, while the transaction runs
//! ```
//!
//! The running guest has its memory for itself: `ram` is a copy that only commits change. A commit writes the pages that
//! changed in the epoch; so its cost grows with them and not with the size of memory. Resuming maps `ram` privately, and
//! reads nothing.
//!
//! What it is not: the disks. Their writes go through their own log ([`super::log`]) before the transaction ends; a resume
//! rolls both to the epoch that is named here.
//!
//! Invariant: between two commits the three files hold exactly one committed epoch; in the middle of one they hold the
//! epoch before it and how to get back there.

pub(crate) mod fault;
pub(crate) mod pairing;
mod record;

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use recoverable::{Declare, RecoverableMemory, RegionId, Survives, Vista, VistaOptions};

pub(crate) use record::LastEpoch;
use record::RecordError;
use replication::EpochId;
use replication::output::Output;

use crate::epoch::SealedEpoch;
use crate::epoch::capture::CapturedPages;
use crate::exit::{Advice, Exit};
use crate::memory::{self, MemoryError, PAGE_SIZE, Ram};

/// Room for the machine's state and the output of one epoch; a guest that holds half of
/// [`crate::machine::egress::HOLD_BYTES_MAX`] is stopped.
const STATE_BYTES: usize = 40 << 20;
/// Before-images of one epoch at most, beside those of the state.
const UNDO_BYTES_MAX: u64 = 1 << 30;
/// What the log needs for each page beside its bytes; the library says up to 103.
const UNDO_RECORD_BYTES: u64 = 128;

const RAM: &str = "ram";
const STATE: &str = "state";
const UNDO: &str = "undo";

/// Why local protection is not possible, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    /// There is a guest already that could go on.
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
    #[error("state and output of an epoch take {bytes} bytes, more than the {STATE_BYTES} that are kept for them")]
    TooMuchState {
        /// What they take.
        bytes: usize,
    },
    /// The recoverable memory.
    #[error(transparent)]
    Memory(#[from] recoverable::Error),
    /// Guest memory could not be mapped.
    #[error(transparent)]
    Map(#[from] MemoryError),
    /// A file could not be removed.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Advice for LocalError {
    fn exit(&self) -> Exit {
        match self {
            Self::Occupied { .. } => Exit::Conflict,
            Self::Memory(recoverable::Error::Locked { .. }) => Exit::Conflict,
            Self::Nothing { .. } => Exit::NotFound,
            Self::Record { .. } => Exit::Incompatible,
            _ => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Occupied { dir } => Some(format!(
                "`outlast resume --state-dir {0}` lets it go on; to give it up, remove {0}/{RAM}, {0}/{STATE} and {0}/{UNDO}",
                dir.display()
            )),
            Self::Nothing { .. } => {
                Some("only a guest that ran with `--protect local` and did not end can be resumed".into())
            }
            Self::Memory(recoverable::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {
                Some(
                    "the state directory takes up to three times the guest's memory: give --state-dir a larger one"
                        .into(),
                )
            }
            _ => None,
        }
    }
}

/// The last committed epoch of one machine.
#[derive(Debug)]
pub(crate) struct LocalStore {
    dir: PathBuf,
    memory: Vista,
    ram: RegionId,
    state: RegionId,
    layout: Vec<(u64, u64)>,
    /// Output of committed epochs that may not have left.
    held: VecDeque<(EpochId, Output)>,
    buffer: Vec<u8>,
}

fn undo_bytes(ram_bytes: u64) -> u64 {
    let pages = ram_bytes.min(UNDO_BYTES_MAX);
    pages + pages / PAGE_SIZE as u64 * UNDO_RECORD_BYTES + STATE_BYTES as u64 + (1 << 20)
}

impl LocalStore {
    /// Files for a guest of `ram_bytes` that is about to start, all zero; room for them is reserved.
    pub(crate) fn create(dir: &Path, ram_bytes: u64) -> Result<Self, LocalError> {
        match Self::open(dir, ram_bytes) {
            // What never committed anything is nobody's guest.
            Err(LocalError::Record { source: RecordError::Empty, .. } | LocalError::Nothing { .. }) => remove(dir)?,
            Err(LocalError::Memory(error @ recoverable::Error::Locked { .. })) => return Err(error.into()),
            Ok(_) | Err(_) => return Err(LocalError::Occupied { dir: dir.to_owned() }),
        }
        Self::map(dir, ram_bytes)
    }

    /// The guest that was running when its VMM ended, with `ram_bytes` of memory if it was not started from a snapshot that
    /// has another size. A commit that had begun is undone.
    pub(crate) fn open(dir: &Path, ram_bytes: u64) -> Result<(Self, LastEpoch), LocalError> {
        if !dir.join(STATE).exists() {
            // Files are made in the order of `map`: without the last one nothing was committed.
            return if dir.join(RAM).exists() {
                Err(empty(dir))
            } else {
                Err(LocalError::Nothing { dir: dir.to_owned() })
            };
        }
        let store = match Self::map(dir, ram_bytes) {
            Err(LocalError::Memory(recoverable::Error::Length { found, .. })) => Self::map(dir, found)?,
            result => result?,
        };
        let bytes = store.memory.bytes(store.state)?;
        let last = record::decode(bytes).map_err(|source| LocalError::Record { path: dir.join(STATE), source })?;
        Ok((store, last))
    }

    fn map(dir: &Path, ram_bytes: u64) -> Result<Self, LocalError> {
        let options = VistaOptions { log_bytes: undo_bytes(ram_bytes), required: Survives::ProcessDeath };
        let mut memory = Vista::open(dir.join(UNDO), options)?;
        let ram = memory.map(dir.join(RAM), ram_bytes as usize)?;
        let state = memory.map(dir.join(STATE), STATE_BYTES)?;
        let layout = memory::layout(ram_bytes);
        Ok(Self { dir: dir.to_owned(), memory, ram, state, layout, held: VecDeque::new(), buffer: Vec::new() })
    }

    /// The state directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a committed epoch survives.
    pub(crate) fn survives(&self) -> Survives {
        self.memory.survives()
    }

    /// Guest memory as the last committed epoch left it: mapped, not read. What the guest writes there stays its own.
    pub(crate) fn map_ram(&self) -> Result<Ram, LocalError> {
        let (file, offset) = self.memory.file(self.ram)?;
        let bytes = self.layout.iter().map(|(_, len)| len).sum();
        Ok(Ram::private_copy_of(file, offset, bytes)?)
    }

    /// Commits an epoch; gives the pages that turned out unchanged. On an error the epoch before is still the last one.
    ///
    /// An epoch that wrote more than the log can undo is committed in pieces, with no epoch to go back to meanwhile; that is
    /// said in the result.
    ///
    /// Kept with it is the output of all epochs after `left`.
    pub(crate) fn commit(&mut self, sealed: &SealedEpoch, left: EpochId) -> Result<Committed, LocalError> {
        while self.held.pop_front_if(|(epoch, _)| *epoch <= left).is_some() {}
        self.held.extend(sealed.outputs.iter().map(|output| (sealed.epoch, output.clone())));
        let mut buffer = std::mem::take(&mut self.buffer);
        record::encode(sealed.epoch, &sealed.state.encode(), self.held.iter().map(|(_, output)| output), &mut buffer);
        let result = self.commit_with(&sealed.pages, &buffer);
        self.buffer = buffer;
        result
    }

    fn commit_with(&mut self, pages: &CapturedPages, record: &[u8]) -> Result<Committed, LocalError> {
        if record.len() > STATE_BYTES {
            return Err(LocalError::TooMuchState { bytes: record.len() });
        }
        RecoverableMemory::begin(&mut self.memory)?;
        match self.write(pages, record, false) {
            Err(LocalError::Memory(recoverable::Error::LogFull { .. })) => {
                RecoverableMemory::abort(&mut self.memory)?;
                self.commit_in_pieces(pages, record)
            }
            Err(error) => {
                RecoverableMemory::abort(&mut self.memory)?;
                Err(error)
            }
            Ok(unchanged) => {
                if let Err(error) = self.end() {
                    RecoverableMemory::abort(&mut self.memory)?;
                    return Err(error);
                }
                Ok(Committed { unchanged, in_pieces: false })
            }
        }
    }

    fn end(&mut self) -> Result<(), LocalError> {
        let failed = |source| recoverable::Error::Io { what: "committing to", path: self.dir.join(RAM), source };
        fault::fails(fault::LOCAL_COMMIT).map_err(failed)?;
        Ok(RecoverableMemory::end(&mut self.memory)?)
    }

    /// First there is no epoch at all, then the pages come, then the new one is there.
    fn commit_in_pieces(&mut self, pages: &CapturedPages, record: &[u8]) -> Result<Committed, LocalError> {
        RecoverableMemory::begin(&mut self.memory)?;
        self.memory.set_range(self.state, 0..record::HEAD)?.fill(0);
        RecoverableMemory::end(&mut self.memory)?;
        RecoverableMemory::begin(&mut self.memory)?;
        let unchanged = self.write(pages, record, true)?;
        RecoverableMemory::end(&mut self.memory)?;
        Ok(Committed { unchanged, in_pieces: true })
    }

    /// Writes the pages and the record into the running transaction; in pieces, into as many as it takes.
    fn write(&mut self, pages: &CapturedPages, record: &[u8], in_pieces: bool) -> Result<Vec<u64>, LocalError> {
        let mut unchanged = Vec::new();
        for (gfn, page) in pages.iter() {
            let at = self.offset_of(gfn);
            let range = at..at + PAGE_SIZE;
            if self.memory.bytes(self.ram)?[range.clone()] == *page {
                unchanged.push(gfn);
                continue;
            }
            self.set(self.ram, range, page, in_pieces)?;
        }
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
        match self.memory.set_range(region, range.clone()) {
            Err(recoverable::Error::LogFull { .. }) if in_pieces => {
                RecoverableMemory::end(&mut self.memory)?;
                RecoverableMemory::begin(&mut self.memory)?;
                self.memory.set_range(region, range)?.copy_from_slice(content);
            }
            memory => memory?.copy_from_slice(content),
        }
        Ok(())
    }

    /// Where page `gfn` lies in `ram`: the regions one after the other, without the hole.
    fn offset_of(&self, gfn: u64) -> usize {
        let address = gfn * PAGE_SIZE as u64;
        let mut offset = 0;
        for (base, len) in &self.layout {
            if (*base..base + len).contains(&address) {
                return (offset + address - base) as usize;
            }
            offset += len;
        }
        panic!("page {gfn:#x} of a sealed epoch is not in RAM")
    }

    /// The guest has ended: nothing is to be resumed.
    pub(crate) fn remove(self) -> Result<(), LocalError> {
        let dir = self.dir.clone();
        drop(self);
        remove(&dir)
    }
}

/// What a commit did.
#[derive(Debug)]
pub(crate) struct Committed {
    /// Pages that had been what they are.
    pub(crate) unchanged: Vec<u64>,
    /// For a moment there was no epoch to go back to.
    pub(crate) in_pieces: bool,
}

fn empty(dir: &Path) -> LocalError {
    LocalError::Record { path: dir.join(STATE), source: RecordError::Empty }
}

/// In the order that leaves no half of a guest: without its state there is nothing to resume. Durably: after a loss of power
/// it must not be there again, the guest may have gone on without.
fn remove(dir: &Path) -> Result<(), LocalError> {
    for name in [STATE, RAM, UNDO, pairing::PAIRING] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(LocalError::Remove { path, source });
            }
            _ => {}
        }
    }
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| LocalError::Remove { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests;
