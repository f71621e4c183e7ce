//! What can go wrong with a disk.

use std::io;
use std::path::{Path, PathBuf};

use super::SECTOR_BYTES;

/// What went wrong with a disk, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No such image.
    #[error("disk image {} does not exist: create it, or correct path=", path.display())]
    Missing {
        /// The image.
        path: PathBuf,
    },
    /// The image may not be opened.
    #[error("no permission to open disk image {} for {access}: change its owner or mode{hint}", path.display())]
    Permission {
        /// The image.
        path: PathBuf,
        /// Reading, or reading and writing.
        access: &'static str,
        /// More advice, if there is any.
        hint: &'static str,
    },
    /// Another open file has the lock.
    #[error(
        "disk image {} is in use by {}: stop that one, or give this machine an image of its own",
        path.display(), holder.as_deref().unwrap_or("another process")
    )]
    Locked {
        /// The image.
        path: PathBuf,
        /// The holder's name and process id, where it could be seen.
        holder: Option<String>,
    },
    /// A directory, a pipe, or something else that is no image.
    #[error("{} is neither a file nor a block device: path= must name a raw disk image", path.display())]
    NotAnImage {
        /// What was named.
        path: PathBuf,
    },
    /// Not whole sectors.
    #[error(
        "disk image {} has {len} bytes, which is {}: a raw image is made of {SECTOR_BYTES}-byte sectors \
         (truncate -s %{SECTOR_BYTES} FILE rounds it up)",
        path.display(), if *len == 0 { "empty" } else { "not a whole number of sectors" }
    )]
    Length {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// Somebody changed its length while it was in use.
    #[error(
        "disk image {} had {was} bytes when it was opened and has {now} now: {}", path.display(),
        if now < was { "what was cut off is lost; give it its length back and look at its content" }
        else { "the guest sees the old length until its VM is started anew" }
    )]
    Resized {
        /// The image.
        path: PathBuf,
        /// Its length when it was opened.
        was: u64,
        /// Its length now.
        now: u64,
    },
    /// An access outside the disk. The guest's fault, or a peer's.
    #[error("access to bytes {offset}..{} of a disk of {disk_len} bytes", offset.saturating_add(*len))]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// The disk's length.
        disk_len: u64,
    },
    /// A write to a read-only disk.
    #[error("write to read-only disk {}", path.display())]
    ReadOnly {
        /// The image.
        path: PathBuf,
    },
    /// More uncommitted writes than allowed.
    #[error("disk {} holds {pending} bytes of uncommitted writes, its limit: epochs do not commit", path.display())]
    OverlayFull {
        /// The image.
        path: PathBuf,
        /// Bytes pending.
        pending: usize,
    },
    /// Direct mode asked for while writes are uncommitted.
    #[error("disk {} has {pending} bytes of uncommitted writes: commit or discard them first", path.display())]
    Uncommitted {
        /// The image.
        path: PathBuf,
        /// Bytes pending.
        pending: usize,
    },
    /// An earlier error left the image in an unknown state.
    #[error("disk {} takes no more writes since an earlier error ({cause}): repair the storage, then recover", path.display())]
    Poisoned {
        /// The image.
        path: PathBuf,
        /// The error that poisoned it.
        cause: String,
    },
    /// A write found no room. The image is not poisoned: the same write may be tried again, over what part of it was
    /// written.
    #[error("no room for disk image {}", path.display())]
    NoRoom {
        /// The image.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// The host's storage failed.
    #[error("{what} disk image {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The image.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl DiskError {
    /// The image that has no room for what was to be written, if that is all that is wrong.
    pub fn full(&self) -> Option<&Path> {
        match self {
            Self::NoRoom { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// Whether a write found no room, or no more than its user or its process (`ulimit -f`) may have, or a file system may hold
/// in one file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
