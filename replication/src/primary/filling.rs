//! A filling without progress: first it is reported, then it is given up, and tried again on a new connection.
//!
//! A primary that fills a backup is heard and hears, however the filling stands: heartbeats are another thread's. So neither
//! side would ever find out that it makes no progress. The driver says where it is and whenever it has done something
//! ([`Primary::handle_filling`]); what is decided from that is decided here.

use std::fmt;

use super::{Primary, PrimaryAction, PrimaryConfig, PrimaryState, SoloReason};
use crate::id::{SessionId, Time};

/// What a filling is about, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FillPhase {
    /// It has not begun: who does it is not free yet.
    #[default]
    Begin,
    /// What earlier epochs wrote comes to this host's images.
    Images,
    /// Disks are compared, and what differs is sent.
    Disks,
    /// Memory is sent, round after round.
    Memory,
    /// This host's images are synced.
    Sync,
    /// The register is asked to list the backup.
    Enlist,
    /// The guest is being stopped.
    Gate,
    /// It is stopped, and the base is sealed.
    Base,
}

impl FillPhase {
    /// In a word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Images => "images",
            Self::Disks => "disks",
            Self::Memory => "memory",
            Self::Sync => "sync",
            Self::Enlist => "enlist",
            Self::Gate => "gate",
            Self::Base => "base",
        }
    }

    /// What is waited for, for people.
    fn waits_for(self) -> &'static str {
        match self {
            Self::Begin => "this host is still busy with what came before",
            Self::Images => "committed disk writes do not reach this host's images",
            Self::Disks => "the disks are not compared: the backup does not answer, or a disk does not",
            Self::Memory => "the backup takes no memory",
            Self::Sync => "this host's images are not synced",
            Self::Enlist => "the witness does not list the backup",
            Self::Gate => "a processor of the guest does not stop",
            Self::Base => "the guest's state is not sealed",
        }
    }
}

impl fmt::Display for FillPhase {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.as_str(), self.waits_for())
    }
}

/// Where a filling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    phase: FillPhase,
    /// When it last made progress.
    since: Time,
    /// That it does not was told.
    is_told: bool,
}

impl Filling {
    pub(super) fn begun(now: Time) -> Self {
        Self { phase: FillPhase::Begin, since: now, is_told: false }
    }

    /// This host stood still: that is no fault of the filling.
    pub(super) fn excuse(&mut self, now: Time) {
        self.since = self.since.max(now);
    }

    fn due(&self, config: &PrimaryConfig) -> Time {
        self.since.after(if self.is_told { config.fill_wait } else { config.fill_notice })
    }
}

impl Primary {
    /// The filling of `session` has done something, and is in `phase` now.
    pub fn handle_filling(&mut self, now: Time, session: SessionId, phase: FillPhase) {
        if self.state == PrimaryState::Syncing && self.session() == Some(session) {
            self.filling = Filling { phase, ..Filling::begun(now) };
        }
    }

    /// Where the filling is, and when it last made progress; none: there is none.
    pub fn filling(&self) -> Option<(FillPhase, Time)> {
        (self.state == PrimaryState::Syncing).then_some((self.filling.phase, self.filling.since))
    }

    pub(super) fn fill_deadline(&self) -> Option<Time> {
        (self.state == PrimaryState::Syncing).then(|| self.filling.due(&self.config))
    }

    /// Reports a filling without progress, or gives it up. What the driver still does for it ends with its session.
    pub(super) fn check_filling(&mut self, now: Time) {
        if self.fill_deadline().is_none_or(|due| now < due) {
            return;
        }
        let (phase, session) = (self.filling.phase, self.session().expect("a syncing primary has a session"));
        if !self.filling.is_told {
            self.filling.is_told = true;
            return self.actions.push_back(PrimaryAction::FillingStalls { phase });
        }
        // No goodbye: its sender may be the one that is stuck. The backup finds the end of the connection.
        self.actions.push_back(PrimaryAction::Disconnect);
        self.transmits.clear();
        self.go_solo(SoloReason::FillingStalled { session, phase });
        self.end_if_released(now);
    }
}
