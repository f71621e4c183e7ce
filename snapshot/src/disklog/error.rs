//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};

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
    /// A head says a number that no generation has.
    #[error("disk log {} is damaged: no generation has the number {generation}; restore the log and the images from the other host or a checkpoint", path.display())]
    Generation {
        /// The log.
        path: PathBuf,
        /// The number.
        generation: u64,
    },
    /// The file is longer than any log.
    #[error("{} has {len} bytes, a disk log at most {}: it is another file, or was made longer", path.display(), super::LOG_LEN_MAX)]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
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
    #[error("disk log {} holds writes for disk {disk}, which was {was}, and now is {now}", path.display())]
    OtherDisk {
        /// The log.
        path: PathBuf,
        /// The disk's number.
        disk: u16,
        /// What it was when the log was written.
        was: String,
        /// What it is now.
        now: String,
    },
    /// A disk has another length than when the log was written.
    #[error("disk log {} belongs to image {} of {was} bytes, which has {now} now", path.display(), image.display())]
    Resized {
        /// The log.
        path: PathBuf,
        /// The image.
        image: PathBuf,
        /// Its length when the log was written.
        was: u64,
        /// Its length now.
        now: u64,
    },
    /// Somebody else has written to a disk since the log was written.
    #[error("image {} was written by somebody else since disk log {} was: {how}", image.display(), path.display())]
    Changed {
        /// The log.
        path: PathBuf,
        /// The image.
        image: PathBuf,
        /// What tells so.
        how: &'static str,
    },
    /// The disks changed without the guest whose state is to continue.
    #[error("the disks went on without this guest: disk log {} was last begun by VM '{owner}'", path.display())]
    WentOn {
        /// The log.
        path: PathBuf,
        /// The VM that used them since.
        owner: String,
    },
    /// The log is another than the one that the guest's state belongs to.
    #[error("{} is not the disk log that the guest's state belongs to", path.display())]
    OtherLog {
        /// The log.
        path: PathBuf,
    },
    /// The log is not where the guest's state left it in its history.
    #[error(
        "disk log {} holds another history than the guest's state: at the guest's last epoch the two have other chain hashes; one \
         of them was put back, or copied, from another moment", path.display()
    )]
    OtherLine {
        /// The log.
        path: PathBuf,
    },
    /// The guest's state is of an earlier epoch than the disks.
    #[error("the disks have epochs after the guest's last one, which disk log {} holds: its state is of an earlier moment", path.display())]
    Ahead {
        /// The log.
        path: PathBuf,
    },
    /// The log that the guest's state belongs to is not there.
    #[error("disk log {}, which the guest's state belongs to, is not there", path.display())]
    Missing {
        /// The log.
        path: PathBuf,
    },
    /// An epoch that does not follow the last one logged. A peer's fault.
    #[error("epoch {epoch} cannot follow epoch {last} in disk log {}", path.display())]
    OutOfOrder {
        /// The log.
        path: PathBuf,
        /// The epoch.
        epoch: u64,
        /// The last one logged.
        last: u64,
    },
    /// A log elsewhere holds writes for an image that is to be used without it.
    #[error(
        "disk log {} holds writes of VM '{owner}' for image {} that are not in it yet, and this VM's log is {}",
        path.display(), image.display(), expected.display()
    )]
    Elsewhere {
        /// The log.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// The image.
        image: PathBuf,
        /// Where this VM has its log.
        expected: PathBuf,
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
    /// An append found no room. The log is as it was before; the same record may be appended again.
    #[error("no room for disk log {}", path.display())]
    NoRoom {
        /// The log.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
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
    /// A disk could not be looked at, or refused what was applied to it.
    #[error("disk log {} and its disks", path.display())]
    Disk {
        /// The log.
        path: PathBuf,
        /// The disk's reason.
        source: DiskError,
    },
}

impl LogError {
    /// The log that has no room for a record, if that is all that is wrong.
    pub fn full(&self) -> Option<&Path> {
        match self {
            Self::NoRoom { path, .. } => Some(path),
            _ => None,
        }
    }
}
