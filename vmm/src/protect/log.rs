//! The synced log of disk writes, on one side: what `--commit-durability disk` rests on.
//!
//! It lies beside the first writable image, because it must survive what the images survive. Records are dropped when
//! the images they were applied to have been synced.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use replication::EpochId;
use snapshot::disk::OverlayDisk;
use snapshot::disklog::{DiskIdentity, EpochLog, LogError};
use snapshot::writeset::WriteSet;

use crate::exit::{Advice, Failure};
use crate::machine::disk::SharedDisk;

/// Largest log, in bytes. Full, it waits for the images to be synced.
const LOG_BYTES_MAX: u64 = 256 << 20;
/// Disk writes of a base at most, all disks together: they are one record, which must leave room for its table.
pub(super) const BASE_BYTES_MAX: usize = (LOG_BYTES_MAX - (1 << 20)) as usize;

impl Advice for LogError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { path, source, .. } if source.kind() == ErrorKind::StorageFull => Some(format!(
                "make room on the file system of {} (a log takes up to {} MiB), or move the image to a larger one",
                path.display(),
                LOG_BYTES_MAX >> 20
            )),
            _ => None,
        }
    }
}

/// Disk writes of epochs that the images may not have yet. Without a writable disk there is nothing to log.
#[derive(Debug, Default)]
pub(crate) struct DiskLog {
    log: Option<EpochLog>,
    last: EpochId,
}

/// Where the log of a machine with these images lies.
pub(super) fn path_beside(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".epochs");
    name.into()
}

/// A log beside an image that is not the first one now was written when it was: left alone, its writes would be missing,
/// and some later start would put them over newer ones.
fn refuse_log_of_another_order(disks: &[OverlayDisk]) -> Result<(), Failure> {
    for disk in disks.iter().filter(|d| !d.is_readonly()).skip(1) {
        let path = path_beside(disk.path());
        if path.exists() && EpochLog::open(&path, LOG_BYTES_MAX)?.holds_records()? {
            return Err(LogError::OfAnotherOrder { path, image: disk.path().to_owned() }.into());
        }
    }
    Ok(())
}

impl DiskLog {
    /// Opens the log beside the first writable of `disks`, and applies what a crash left in it to the images.
    pub(crate) fn open(disks: &[OverlayDisk]) -> Result<Self, Failure> {
        Self::open_upto(disks, EpochId(u64::MAX))
    }

    /// The same, but no epoch after `upto` is applied, and those are forgotten: the guest goes on from the end of that one.
    pub(crate) fn open_upto(disks: &[OverlayDisk], upto: EpochId) -> Result<Self, Failure> {
        let Some(path) = disks.iter().find(|d| !d.is_readonly()).map(|d| path_beside(d.path())) else {
            return Ok(Self { log: None, last: EpochId(0) });
        };
        refuse_log_of_another_order(disks)?;
        let mut log = EpochLog::open(&path, LOG_BYTES_MAX)?;
        let recovery = log.recover(disks, upto.0)?;
        if recovery.records > 0 {
            tracing::info!(log = %path.display(), epochs = recovery.records, "disk writes of committed epochs were recovered");
            disks.iter().try_for_each(|disk| disk.image().sync())?;
        }
        log.truncate()?;
        Ok(Self { log: Some(log), last: EpochId(0) })
    }

    /// Puts the writes of `epoch` into the log and syncs it. Nothing to do if there are none.
    pub(super) fn append(&mut self, epoch: EpochId, sets: &[(u16, &WriteSet)]) -> Result<(), LogError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if sets.iter().all(|(_, set)| set.is_empty()) {
            return Ok(());
        }
        log.append(epoch.0, sets)?;
        log.sync()?;
        self.last = epoch;
        Ok(())
    }

    /// Puts an empty log in the place of one that took no more. All that it had was applied to the images, which are synced
    /// first: a start after this one must not put its older writes over them.
    pub(super) fn begin_anew(&mut self, disks: &[SharedDisk]) -> Result<(), Failure> {
        let Some(log) = self.log.take() else { return Ok(()) };
        for disk in disks {
            disk.image().sync()?;
        }
        let path = log.path().to_owned();
        let failed = |source| LogError::Io { what: "removing", path: path.clone(), source };
        std::fs::remove_file(&path).map_err(failed)?;
        drop(log);
        // Making it syncs the directory, so that the old one does not come back after a loss of power.
        let mut log = EpochLog::open(&path, LOG_BYTES_MAX)?;
        let identities = disks.iter().map(|disk| DiskIdentity::of(&disk.lock())).collect::<Result<_, _>>();
        log.set_disks(identities.map_err(failed)?);
        log.truncate()?;
        self.log = Some(log);
        Ok(())
    }

    /// Whether a record for `sets` would fit now.
    pub(super) fn has_room(&self, sets: &[(u16, &WriteSet)]) -> bool {
        self.log.as_ref().is_none_or(|log| log.free_bytes() >= EpochLog::record_bytes(sets))
    }

    /// Whether it is time to sync the images and begin the log anew.
    pub(super) fn is_half_full(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.used_bytes() > LOG_BYTES_MAX / 2)
    }

    /// The last epoch logged.
    pub(super) fn last(&self) -> EpochId {
        self.last
    }

    /// Forgets everything logged: it is void, or the images have it and were synced.
    pub(super) fn truncate(&mut self) -> Result<(), LogError> {
        self.log.as_mut().map_or(Ok(()), EpochLog::truncate)
    }

    /// Syncs the images, to which everything logged was applied, and empties the log.
    pub(super) fn checkpoint(&mut self, disks: &[SharedDisk]) -> Result<(), Failure> {
        let Some(log) = &mut self.log else { return Ok(()) };
        for disk in disks {
            disk.image().sync()?;
        }
        Ok(log.truncate()?)
    }
}
