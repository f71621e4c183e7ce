//! The state directory of a host whose guest is protected locally: what survives the death of its VMM.

use replication::view::Incarnation;
use replication::{EpochId, Fork, Output};

use crate::guest::Guest;

/// A guest as it was at the end of an epoch.
#[derive(Clone)]
pub struct LocalEpoch {
    /// The epoch, as much as is kept of its identity.
    pub epoch: Fork,
    /// The guest.
    pub guest: Guest,
    /// Its disk: the image, with the log applied up to this epoch.
    pub image: Vec<u8>,
    /// Output that may not have left.
    pub held: Vec<Output>,
}

/// What lies in it.
#[derive(Clone)]
pub struct StateDir {
    /// Which store it is in the register.
    pub store: Incarnation,
    /// It is a copy, and what was committed since is elsewhere.
    pub is_copy: bool,
    /// Epochs below were perhaps used in a life of the guest of which nothing was committed.
    pub unused_from: EpochId,
    /// The last committed epoch.
    pub last: Option<LocalEpoch>,
    /// One that is said to be committed and is not, where that rule is broken.
    pub delayed: Option<LocalEpoch>,
}

impl StateDir {
    /// For a guest that is about to start.
    pub fn new(store: Incarnation) -> StateDir {
        StateDir { store, is_copy: false, unused_from: EpochId(1), last: None, delayed: None }
    }

    /// A copy, as it is now.
    pub fn copy(&self) -> StateDir {
        StateDir { is_copy: true, ..self.clone() }
    }

    /// The epoch from which the next life goes on, which has up to `in_flight` epochs sealed and not committed; those are not
    /// used again, whatever becomes of it.
    pub fn next_life(&mut self, last: EpochId, in_flight: u32) -> EpochId {
        let sealed_max = u64::from(in_flight) + 1;
        let running = EpochId(last.0 + sealed_max).max(self.unused_from);
        self.unused_from = EpochId(running.0 + sealed_max);
        running
    }

    /// Commits an epoch. One that was committed already, or is older, changes nothing.
    pub fn commit(&mut self, epoch: LocalEpoch) {
        if self.last.as_ref().is_none_or(|last| last.epoch.count() < epoch.epoch.count()) {
            self.last = Some(epoch);
        }
    }
}
