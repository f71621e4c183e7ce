//! A whole machine as a directory: written from a held machine, read into a new one.
//!
//! The disks are not in it, only what tells whether they are still the same: a guest that goes on with a disk of
//! another moment damages its file systems. So restoring compares, and refuses. A copy may have its time of change cut off
//! where its file system or the program that copied it keeps no more of it.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use snapshot::checkpoint::{self, Checkpoint, CheckpointError, Contents, MemoryRegion, Staging};
use snapshot::disk::{DiskError, OverlayDisk};
use vm_memory::{Bytes, GuestAddress};

use super::{Machine, MachineError};
use crate::kvm::KvmError;
use crate::memory::Ram;
use crate::shape::{Shape, deserialize_any};
use crate::state::{MachineState, StateRefused};

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
    #[error("{why}; the guest's file systems would be damaged")]
    OtherDisks {
        /// Which disk, and how it differs.
        why: String,
        /// What to do.
        remedy: String,
    },
}

/// What `config.json` of a snapshot says, for people and for the comparison.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    #[serde(deserialize_with = "deserialize_any")]
    machine: Shape,
    disks: Vec<DiskMark>,
}

/// A disk's length and last change: what changes when anybody writes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct DiskMark {
    len: u64,
    readonly: bool,
    modified_ns: u128,
}

/// What is kept of a time of change, in nanoseconds: all of it (`cp -p` on Linux's own file systems), NTFS's and other units, whole
/// seconds (`scp -p`, `tar`, NFS 2, HFS), FAT's two.
const TIME_UNITS_NS: [u128; 6] = [1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000];
/// For a message to an operator.
const AS_THEN: &str = "restore with the disk images as they were when the snapshot was taken, or with copies made while the VM was paused \
                       that keep the time of change: `cp -p`, `scp -p`, `rsync -t`, `tar`";

/// Whether `now` is `then`, or what is left of it in a coarser unit.
fn is_same_time(then_ns: u128, now_ns: u128) -> bool {
    TIME_UNITS_NS.iter().any(|unit_ns| now_ns == then_ns - then_ns % unit_ns)
}

/// How a disk differs from what it was, and what to do; `None` if it does not.
fn difference(then: DiskMark, now: DiskMark, path: &Path) -> Option<(String, String)> {
    let disk = path.display();
    if then.len != now.len {
        return Some((
            format!("disk {disk} has {} bytes, and had {} when the snapshot was taken", now.len, then.len),
            AS_THEN.into(),
        ));
    }
    if then.readonly != now.readonly {
        let name = |readonly| if readonly { "read-only" } else { "writable" };
        let why = format!(
            "disk {disk} is {} here, and was {} when the snapshot was taken",
            name(now.readonly),
            name(then.readonly)
        );
        return Some((why, "give it the option `readonly` as it was".into()));
    }
    (!is_same_time(then.modified_ns, now.modified_ns)).then(|| {
        let (seconds, rest) = (then.modified_ns / 1_000_000_000, then.modified_ns % 1_000_000_000);
        let remedy =
            format!("{AS_THEN}; `touch -d @{seconds}.{rest:09} {disk}` if it is such a copy that lost its time");
        (format!("disk {disk} was changed since the snapshot was taken"), remedy)
    })
}

fn mark_of(disk: &OverlayDisk) -> DiskMark {
    let modified = std::fs::metadata(disk.path()).and_then(|m| m.modified()).ok();
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    DiskMark { len: disk.len_bytes(), readonly: disk.is_readonly(), modified_ns: since.map_or(0, |d| d.as_nanos()) }
}

impl Machine {
    /// Makes the place of a checkpoint in a new directory. What can be known to forbid it is said here, before the guest is held
    /// for it.
    pub fn prepare_checkpoint(&self, dir: &Path) -> Result<Staging, CheckpointFailure> {
        self.check_idle_disks()?;
        Ok(Staging::create(dir)?)
    }

    fn check_idle_disks(&self) -> Result<(), CheckpointFailure> {
        if self.leader().is_protected() && self.disks().iter().any(|disk| !disk.lock().is_readonly()) {
            return Err(CheckpointFailure::Busy);
        }
        Ok(())
    }

    /// Writes the held machine into `place`, which is left to be published; gives the bytes of its memory. Its disks are not part of it.
    pub fn write_checkpoint(&self, place: &Staging) -> Result<u64, CheckpointFailure> {
        self.check_idle_disks()?;
        let mut disks = Vec::new();
        for disk in self.disks() {
            let disk = disk.lock();
            disk.image().sync()?;
            disks.push(mark_of(&disk));
        }
        // To the end: input that came between the state and the memory would be in one of them only.
        let mut board = self.board();
        let state = self.save_state(&mut board)?;
        let config = Config { machine: state.shape.clone(), disks };
        let config = serde_json::to_vec_pretty(&config).expect("the configuration is plain data");
        let contents = Contents { writer: env!("CARGO_PKG_VERSION"), config: &config, state: &state.encode() };
        let memory: Vec<(u64, &[u8])> =
            self.ram().regions().iter().enumerate().map(|(i, r)| (r.base, self.ram().region_bytes(i))).collect();
        checkpoint::write_in(place, &contents, &memory)?;
        drop(board);
        Ok(self.ram().bytes())
    }
}

/// Reads a checkpoint directory: the state, and memory with its content. `disks` must be those of its moment.
pub fn read(dir: &Path, disks: &[OverlayDisk]) -> Result<(MachineState, Ram), CheckpointFailure> {
    let checkpoint = Checkpoint::open(dir)?;
    compare_disks(&checkpoint.config()?, disks)?;
    let state = MachineState::decode(&checkpoint.state()?)?;
    let layout = state.shape.memory_bytes.layout().into_iter();
    checkpoint.check_layout(&layout.map(|(address, len)| MemoryRegion { address, len }).collect::<Vec<_>>())?;
    let ram = Ram::new(state.shape.memory_bytes.get()).map_err(MachineError::from)?;
    checkpoint.load_memory(|address, bytes| {
        ram.memory().write_slice(bytes, GuestAddress(address)).map_err(std::io::Error::other)
    })?;
    Ok((state, ram))
}

fn compare_disks(config: &[u8], disks: &[OverlayDisk]) -> Result<(), CheckpointFailure> {
    let config: Config = serde_json::from_slice(config)
        .map_err(|e| StateRefused::Invalid(format!("the snapshot's config.json: {e}")))?;
    if config.disks.len() != disks.len() {
        let why =
            format!("the snapshot is of a machine with {} disks, and {} were given", config.disks.len(), disks.len());
        let remedy = "give it the --disk options that it had, in the same order".into();
        return Err(CheckpointFailure::OtherDisks { why, remedy });
    }
    for (mark, disk) in config.disks.iter().zip(disks) {
        if let Some((why, remedy)) = difference(*mark, mark_of(disk), disk.path()) {
            return Err(CheckpointFailure::OtherDisks { why, remedy });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: DiskMark = DiskMark { len: 4096, readonly: false, modified_ns: 1_700_000_001_123_456_789 };

    #[test]
    fn copy_whose_time_of_change_was_cut_off_is_the_same_disk() {
        // As `cp -p`, NTFS, utimes(2), a file system with milliseconds, tar and scp, and FAT keep it.
        for kept in [123_456_789, 123_456_700, 123_456_000, 123_000_000, 0] {
            let now = DiskMark { modified_ns: 1_700_000_001_000_000_000 + kept, ..THEN };
            assert!(difference(THEN, now, Path::new("a.img")).is_none(), "{kept}");
        }
        assert!(is_same_time(THEN.modified_ns, 1_700_000_000_000_000_000), "FAT");
        assert!(is_same_time(0, 0));
    }

    #[test]
    fn other_disk_is_named_with_what_differs_and_what_to_do() {
        let said = |now: DiskMark| difference(THEN, now, Path::new("a.img")).expect("another disk");
        for other in [123_456_788, 123_456_790, 200_000_000, 999_999_999] {
            let (why, remedy) = said(DiskMark { modified_ns: 1_700_000_001_000_000_000 + other, ..THEN });
            assert!(why.contains("a.img was changed"), "{why}");
            assert!(remedy.contains("touch -d @1700000001.123456789 a.img"), "{remedy}");
        }
        assert!(said(DiskMark { len: 8192, ..THEN }).0.contains("8192 bytes, and had 4096"));
        assert!(said(DiskMark { readonly: true, ..THEN }).1.contains("readonly"));
        assert!(said(DiskMark { modified_ns: 0, ..THEN }).0.contains("was changed"));
    }
}
