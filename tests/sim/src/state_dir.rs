//! The state directory of a host whose guest is protected locally: what survives the death of its VMM.

use replication::view::Incarnation;
use replication::{EpochId, Fork, Output};

use crate::guest::Guest;

/// A guest as it was at the end of an epoch.
#[derive(Clone)]
pub struct LocalEpoch {
    /// The epoch, as much as is kept of its identity.
    pub epoch: Fork,
    /// The guest. Its disk is the image, with the log applied up to this epoch.
    pub guest: Guest,
    /// Output that may not have left.
    pub held: Vec<Output>,
}

/// What lies in it.
#[derive(Clone)]
pub struct StateDir {
    /// Which store it is in the register.
    pub store: Incarnation,
    /// Of a copy, the disk as it was; what was committed since is elsewhere.
    pub copied: Option<Vec<u8>>,
    /// The last committed epoch.
    pub last: Option<LocalEpoch>,
    /// One that is said to be committed and is not, where that rule is broken.
    pub delayed: Option<LocalEpoch>,
}

impl StateDir {
    /// For a guest that is about to start.
    pub fn new(store: Incarnation) -> StateDir {
        StateDir { store, copied: None, last: None, delayed: None }
    }

    /// A copy, as it is now, with that disk.
    pub fn copy(&self, disk: Vec<u8>) -> StateDir {
        StateDir { copied: Some(disk), ..self.clone() }
    }

    /// Whether it is one.
    pub fn is_copy(&self) -> bool {
        self.copied.is_some()
    }

    /// The number of the last epoch that is in it; before the first one, none.
    pub fn last_epoch(&self) -> EpochId {
        self.last.as_ref().map_or(EpochId(0), |last| last.epoch.count())
    }

    /// Commits an epoch of the line that is here. One that was committed already, or is older, changes nothing.
    pub fn commit(&mut self, epoch: LocalEpoch) {
        if self.last.as_ref().is_none_or(|last| last.epoch.is_before(epoch.epoch)) {
            self.last = Some(epoch);
        }
    }
}
