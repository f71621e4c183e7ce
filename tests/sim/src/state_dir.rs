//! The state directory of a host whose guest is protected locally: what survives the death of its VMM.

use replication::pipeline::resuming::{Attempts, CrashStanding};
use replication::view::Incarnation;
use replication::{EpochId, Fork, Output};

use crate::guest::Guest;

/// Between two epochs that are kept, and how many are.
const KEPT_EVERY: u64 = 3;
const KEPT_MAX: usize = 3;

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

/// A crash of the guest, and what was tried.
#[derive(Clone)]
pub struct Incident {
    /// The number of the epoch that ran.
    pub running: EpochId,
    /// Epochs that the guest went back to.
    pub tried: Vec<Fork>,
    /// What is to be done, or was done.
    pub standing: CrashStanding,
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
    /// Its ancestors that the guest can go back to, oldest first. They do not outlast a loss of power.
    pub earlier: Vec<LocalEpoch>,
    /// A crash of the guest.
    pub incident: Option<Incident>,
    /// One that is said to be committed and is not, where that rule is broken.
    pub delayed: Option<LocalEpoch>,
}

impl StateDir {
    /// For a guest that is about to start.
    pub fn new(store: Incarnation) -> StateDir {
        StateDir { store, copied: None, last: None, earlier: Vec::new(), incident: None, delayed: None }
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

    /// Commits an epoch of the line that is here. One that was committed already, or is older, changes nothing. `keeps`: now and then
    /// it is kept beside the last one.
    pub fn commit(&mut self, epoch: LocalEpoch, keeps: bool) {
        if self.last.as_ref().is_some_and(|last| !last.epoch.is_before(epoch.epoch)) {
            return;
        }
        if keeps && epoch.epoch.count().0.is_multiple_of(KEPT_EVERY) {
            self.earlier.push(epoch.clone());
            let surplus = self.earlier.len().saturating_sub(KEPT_MAX);
            self.earlier.drain(..surplus);
        }
        self.last = Some(epoch);
    }

    /// The guest crashed in epoch `running`.
    pub fn note_crash(&mut self, running: EpochId) {
        let before = self.incident.take().filter(|before| before.standing == CrashStanding::Tried);
        let tried = before.map_or_else(Vec::new, |before| before.tried);
        self.incident = Some(Incident { running, tried, standing: CrashStanding::Open });
    }

    /// How its crash stands.
    pub fn crash(&self) -> CrashStanding {
        self.incident.as_ref().map_or(CrashStanding::None, |incident| incident.standing)
    }

    /// That of the crash is so now.
    pub fn stand(&mut self, standing: CrashStanding) {
        if let Some(incident) = &mut self.incident {
            incident.standing = standing;
        }
    }

    /// The epoch that the guest goes back to after its crash, or is on its way to.
    pub fn older(&self) -> Option<&LocalEpoch> {
        let Incident { running, tried, standing } = self.incident.as_ref()?;
        let kept: Vec<Fork> = self.earlier.iter().map(|kept| kept.epoch).collect();
        let to = Attempts { standing: *standing, crashed: *running, tried }.older(&kept)?;
        self.earlier.iter().find(|kept| kept.epoch == to)
    }

    /// Notes that the guest goes back to that one.
    pub fn note_attempt(&mut self) {
        let to = self.older().map(|kept| kept.epoch);
        if let (Some(to), Some(incident)) = (to, &mut self.incident)
            && incident.standing == CrashStanding::Open
        {
            incident.tried.push(to);
            incident.standing = CrashStanding::GoingBack;
        }
    }

    /// The guest is at the end of `to` again, which is committed as `first`: what came later has never been.
    pub fn go_back(&mut self, to: Fork, first: LocalEpoch) {
        self.earlier.retain(|kept| !to.is_before(kept.epoch));
        self.last = Some(first);
    }
}
