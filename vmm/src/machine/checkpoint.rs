//! A whole machine as a directory: written from a held machine, read into a new one.
//!
//! The disks are not in it, only what tells whether they are still the same: a guest that goes on with a disk of
//! another moment damages its file systems. So restoring compares, and refuses.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use snapshot::checkpoint::{self, Checkpoint, CheckpointError, Contents, MemoryRegion};
use snapshot::disk::{DiskError, OverlayDisk};
use vm_memory::{Bytes, GuestAddress};

use super::state::{MachineState, Shape, StateRefused};
use super::{Machine, MachineError};
use crate::kvm::KvmError;
use crate::memory::Ram;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFailure {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] CheckpointError),
    /// KVM refused to give the state.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The state in it was refused.
    #[error(transparent)]
    State(#[from] StateRefused),
    /// The machine could not be made.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A disk could not be synced or looked at.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A protected guest's disks have writes that are not committed.
    #[error(
        "a protected guest with writable disks cannot be snapshotted in this version: its disks are ahead of their images; end the protection first (`outlast ctl unprotect`), or snapshot its backup's host storage"
    )]
    Busy,
    /// The disks are not those of the snapshot's moment.
    #[error(
        "{why}; the guest's file systems would be damaged: restore with the disk images as they were when the snapshot was taken (copies made with `cp -p` while the VM was paused)"
    )]
    OtherDisks {
        /// Which disk, and how it differs.
        why: String,
    },
}

/// What `config.json` of a snapshot says, for people and for the comparison.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    machine: Shape,
    disks: Vec<DiskMark>,
}

/// A disk's length and last change: what changes when anybody writes to it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DiskMark {
    len: u64,
    readonly: bool,
    modified_ns: u128,
}

fn mark_of(disk: &OverlayDisk) -> DiskMark {
    let modified = std::fs::metadata(disk.path()).and_then(|m| m.modified()).ok();
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    DiskMark { len: disk.len_bytes(), readonly: disk.is_readonly(), modified_ns: since.map_or(0, |d| d.as_nanos()) }
}

impl Machine {
    /// Writes the held machine into a new directory; gives the bytes of its memory. Its disks are not part of it.
    pub fn write_checkpoint(&self, dir: &Path) -> Result<u64, CheckpointFailure> {
        if self.epochs().is_protected() && self.disks().iter().any(|disk| !disk.lock().is_readonly()) {
            return Err(CheckpointFailure::Busy);
        }
        let mut disks = Vec::new();
        for disk in self.disks() {
            let disk = disk.lock();
            disk.image().sync()?;
            disks.push(mark_of(&disk));
        }
        // To the end: input that came between the state and the memory would be in one of them only.
        let board = self.board();
        let state = self.save_state(&board)?;
        let config = Config { machine: state.shape.clone(), disks };
        let config = serde_json::to_vec_pretty(&config).expect("the configuration is plain data");
        let contents = Contents { writer: env!("CARGO_PKG_VERSION"), config: &config, state: &state.encode() };
        let memory: Vec<(u64, &[u8])> =
            self.ram().regions().iter().enumerate().map(|(i, r)| (r.base, self.ram().region_bytes(i))).collect();
        checkpoint::write(dir, &contents, &memory)?;
        drop(board);
        Ok(self.ram().bytes())
    }
}

/// Reads a checkpoint directory: the state, and memory with its content. `disks` must be those of its moment.
pub fn read(dir: &Path, disks: &[OverlayDisk]) -> Result<(MachineState, Ram), CheckpointFailure> {
    let checkpoint = Checkpoint::open(dir)?;
    compare_disks(&checkpoint.config()?, disks)?;
    let state = MachineState::decode(&checkpoint.state()?)?;
    let ram = Ram::new(state.shape.memory_bytes).map_err(MachineError::from)?;
    let wanted: Vec<_> = ram.regions().iter().map(|r| MemoryRegion { address: r.base, len: r.bytes }).collect();
    checkpoint.check_layout(&wanted)?;
    checkpoint.load_memory(|address, bytes| {
        ram.memory().write_slice(bytes, GuestAddress(address)).map_err(std::io::Error::other)
    })?;
    Ok((state, ram))
}

fn compare_disks(config: &[u8], disks: &[OverlayDisk]) -> Result<(), CheckpointFailure> {
    let config: Config = serde_json::from_slice(config)
        .map_err(|e| StateRefused::Invalid(format!("the snapshot's config.json: {e}")))?;
    let other = |why| Err(CheckpointFailure::OtherDisks { why });
    if config.disks.len() != disks.len() {
        return other(format!(
            "the snapshot is of a machine with {} disks, and {} were given",
            config.disks.len(),
            disks.len()
        ));
    }
    for (mark, disk) in config.disks.iter().zip(disks) {
        if *mark != mark_of(disk) {
            return other(format!("disk {} was changed since the snapshot was taken", disk.path().display()));
        }
    }
    Ok(())
}
