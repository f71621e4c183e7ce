//! What can go wrong with the log.

use std::io;
use std::path::PathBuf;

use super::DiskIdentity;
use crate::disk::DiskError;

/// What went wrong with the log, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The record does not fit. Nothing was written: commit, sync the images, truncate, then append again.
    #[error("disk log {} is full: the record needs {needs} bytes, {free} are free: commit, sync the images and truncate it", path.display())]
    Full {
        /// The log.
        path: PathBuf,
        /// Bytes that the record needs.
        needs: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Not even an empty log has room for the record.
    #[error("disk log {} can never hold a record of {needs} bytes: make it larger than {bytes_max} bytes", path.display())]
    RecordTooLong {
        /// The log.
        path: PathBuf,
        /// Bytes that the record needs.
        needs: u64,
        /// The log's bound.
        bytes_max: u64,
    },
    /// The file is something else.
    #[error("{} is not a disk log: name another file, or remove it if its writes are not needed", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// A log of another format.
    #[error("disk log {} has format {found}; this binary reads format {reads}: recover with the version of outlast that wrote it", path.display())]
    Format {
        /// The log.
        path: PathBuf,
        /// The format found.
        found: u16,
        /// The format this binary reads.
        reads: u16,
    },
    /// A record that had been synced is not whole any more.
    #[error(
        "disk log {} is damaged at byte {at}: a record that was durable cannot be read; \
         restore the images from the other host or a checkpoint", path.display()
    )]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where the record begins.
        at: u64,
    },
    /// A record names a disk that this machine does not have.
    #[error("disk log {} has writes for disk {disk}, this machine has {count}: give it the disks that it ran with", path.display())]
    NoSuchDisk {
        /// The log.
        path: PathBuf,
        /// The disk named.
        disk: u16,
        /// How many there are.
        count: usize,
    },
    /// A record is for a disk that is not the one of its number now.
    #[error(
        "disk log {} has writes for disk {disk}, which was {was}, and now is {now}: give the disks in the order and with \
         the names that they had", path.display()
    )]
    OtherDisk {
        /// The log.
        path: PathBuf,
        /// The disk's number.
        disk: u16,
        /// What it was when the log was written.
        was: Box<DiskIdentity>,
        /// What it is now.
        now: Box<DiskIdentity>,
    },
    /// Records in the log beside an image that is not the first one.
    #[error(
        "disk log {} holds writes that are not in the images, of a run in which {} was the first writable disk: give the \
         disks in the order that they had", path.display(), image.display()
    )]
    OfAnotherOrder {
        /// The log.
        path: PathBuf,
        /// The image beside it.
        image: PathBuf,
    },
    /// Another process has the log open.
    #[error("disk log {} is in use by {}: stop that one first", path.display(), holder.as_deref().unwrap_or("another process"))]
    Locked {
        /// The log.
        path: PathBuf,
        /// The holder's name and process id, where it could be seen.
        holder: Option<String>,
    },
    /// An earlier error left the log in an unknown state.
    #[error("disk log {} takes no more records since an earlier error ({cause}): repair the storage, then recover", path.display())]
    Poisoned {
        /// The log.
        path: PathBuf,
        /// The error that poisoned it.
        cause: String,
    },
    /// The host's storage failed.
    #[error("{what} disk log {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The log.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A disk refused what recovery applied.
    #[error("recovering from disk log {}", path.display())]
    Disk {
        /// The log.
        path: PathBuf,
        /// The disk's reason.
        source: DiskError,
    },
}
