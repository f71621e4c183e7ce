//! What fails while a guest is protected.
//!
//! Here is what was tried, on what, and why it failed. What an operator does about it, and how a program ends, says the front. It gives
//! its [`Words`] to those who put a failure into a status or an event.

use std::io;

use machine::MachineError;
use snapshot::disk::DiskError;
use snapshot::disklog::LogError;

use crate::local::LocalError;
use crate::log::{DiskLogError, PlaceError};
use crate::preflight::Misfit;
use crate::registrant::RightError;
use crate::transport::Endpoint;

/// Why a guest is not protected, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log of disk writes.
    #[error(transparent)]
    DiskLog(#[from] DiskLogError),
    /// Where that log would lie.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The state directory.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The right to run.
    #[error(transparent)]
    Right(#[from] RightError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What the backup has, for a guest that it is to take.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// Something went wrong in the course of something larger.
    #[error("{doing}")]
    During {
        /// What is not done.
        doing: &'static str,
        /// What went wrong.
        source: Box<ProtectError>,
    },
    /// A backup cannot be reached where it was to be.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// Where.
        listen: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave no event counter.
    #[error("cannot make an event counter: {0}")]
    EventCounter(#[source] io::Error),
    /// A thread of ours panicked.
    #[error("the disk worker failed: a bug of this program")]
    DiskWorker,
    /// The state directory failed, and the guest is not to run without it.
    #[error("the state directory takes no more epochs: {text}")]
    StoreFailed {
        /// Why, in the front's words.
        text: String,
    },
    /// The state directory failed, and what it has of the guest could not be removed.
    #[error("an old epoch could be resumed beside the guest: {text}")]
    StoreStays {
        /// Why, in the front's words.
        text: String,
    },
}

impl From<LogError> for ProtectError {
    fn from(error: LogError) -> Self {
        Self::DiskLog(error.into())
    }
}

impl ProtectError {
    /// The same failure, with what is not done because of it.
    #[must_use]
    pub(crate) fn during(self, doing: &'static str) -> Self {
        Self::During { doing, source: Box::new(self) }
    }
}

/// What the front says of a failure: what failed, and what to do about it.
pub type Words = fn(&ProtectError) -> String;
