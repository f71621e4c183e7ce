//! A file system without room: what waits for room and what does not.
//!
//! A write that finds no room is tried again until there is some: whatever part of it was written is written over. A *sync*
//! that fails is never tried again, whatever the reason: what the host had in memory may be gone.

use std::path::PathBuf;
use std::time::Duration;

use snapshot::disk::DiskError;
use snapshot::disklog::LogError;

use crate::error::ProtectError;

/// Before a write that found no room is tried again.
pub(crate) const ROOM_RETRY: Duration = Duration::from_secs(1);

/// Why a disk or a log did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// There is no room where this file lies; the same may be tried again.
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    Other(ProtectError),
}

impl From<DiskError> for Trouble {
    fn from(error: DiskError) -> Self {
        match error.full() {
            Some(path) => Self::Full { path: path.to_owned() },
            None => Self::Other(error.into()),
        }
    }
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        match error.full() {
            Some(path) => Self::Full { path: path.to_owned() },
            None => Self::Other(error.into()),
        }
    }
}
