//! One backup, from the connection until it is settled who continues the guest: where it stands, and what was said and
//! heard when.
//!
//! ```text
//!   Greeting ──▶ Meeting ──▶ Syncing ──▶ Basing ──▶ Following
//!   Hello sent   accepted    is filled   base sealed  base acked
//! ```
//!
//! A session does not decide what its loss means: that is the primary's ([`super::Primary`]). What it has of each epoch is the
//! commit rule's ([`crate::commit`]).

use std::time::Duration;

use super::{PrimaryConfig, PrimaryState};
use crate::id::{EpochId, SessionId, Time};
use crate::lineage::EpochMark;
use crate::view::Place;
use crate::wire::{HelloAck, Link};

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// A Hello was sent.
    Greeting,
    /// The backup accepted; whether it sees the same witness is being looked at.
    Meeting,
    /// Everything is being sent.
    Syncing,
    /// The base is sealed but not acked.
    Basing,
    /// The backup is whole and follows.
    Following,
}

impl From<Phase> for PrimaryState {
    fn from(phase: Phase) -> PrimaryState {
        match phase {
            Phase::Greeting => PrimaryState::Greeting,
            Phase::Meeting => PrimaryState::Meeting,
            Phase::Syncing => PrimaryState::Syncing,
            Phase::Basing => PrimaryState::Basing,
            Phase::Following => PrimaryState::Protected,
        }
    }
}

/// Whether the register lists the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    /// It was not asked to.
    NotAsked,
    /// It was asked to, and may.
    Asked,
    /// It does.
    Listed,
}

/// One backup.
#[derive(Debug)]
pub(super) struct Session {
    /// What this side's frames carry.
    pub(super) link: Link,
    pub(super) phase: Phase,
    pub(super) listing: Listing,
    /// Where the backup is.
    place: Option<Box<Place>>,
    /// The copy of the guest that it said it has.
    held: Option<EpochMark>,
    last_heard: Time,
    last_sent: Time,
    /// Since then the backup may not know what is committed: what it is told with each epoch is what has left.
    told_at: Time,
    /// The last epoch that began to go out and is not acked, and since when no ack came.
    ack_wanted: Option<(EpochId, Time)>,
}

impl Session {
    /// A connection stands.
    pub(super) fn begin(now: Time, link: Link) -> Self {
        Self {
            link,
            phase: Phase::Greeting,
            listing: Listing::NotAsked,
            place: None,
            held: None,
            last_heard: now,
            last_sent: now,
            told_at: now,
            ack_wanted: None,
        }
    }

    /// Its join id.
    pub(super) fn id(&self) -> SessionId {
        self.link.session
    }

    /// Epochs are shipped to it: a backup that has its base, or will.
    pub(super) fn is_shipped_to(&self) -> bool {
        self.phase >= Phase::Basing
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_deref()
    }

    pub(super) fn held(&self) -> Option<EpochMark> {
        self.held
    }

    pub(super) fn handle_heard(&mut self, now: Time) {
        self.last_heard = self.last_heard.max(now);
    }

    pub(super) fn handle_sent(&mut self, now: Time) {
        self.last_sent = now;
    }

    /// The backup was told of all that is committed.
    pub(super) fn handle_told(&mut self, now: Time) {
        self.told_at = now;
    }

    /// The backup accepted.
    pub(super) fn handle_accepted(&mut self, ack: HelloAck) {
        let HelloAck { writer: _, place, nonce: _, holds } = ack;
        self.phase = Phase::Meeting;
        (self.place, self.held) = (place.map(Box::new), holds);
    }

    /// The first byte of `epoch`, which is not acked, is about to go out.
    pub(super) fn handle_shipping(&mut self, now: Time, epoch: EpochId) {
        let since = self.ack_wanted.map_or(now, |(_, since)| since);
        self.ack_wanted = Some((epoch, since));
    }

    /// A new ack: everything up to `acked` is there.
    pub(super) fn handle_acked(&mut self, now: Time, acked: EpochId) {
        let wanted = self.ack_wanted;
        self.ack_wanted = wanted.filter(|(epoch, _)| *epoch > acked).map(|(epoch, _)| (epoch, now));
    }

    /// No ack is waited for any more; the epoch for which one was.
    pub(super) fn take_ack_wanted(&mut self) -> Option<EpochId> {
        self.ack_wanted.take().map(|(epoch, _)| epoch)
    }

    /// Heard of no more by then, it is lost.
    pub(super) fn lost_at(&self, detect: Duration) -> Time {
        self.last_heard.after(detect)
    }

    /// Without an ack by then it is mute.
    pub(super) fn mute_at(&self, ack_wait: Duration) -> Option<Time> {
        self.ack_wanted.map(|(_, since)| since.after(ack_wait))
    }

    /// When a heartbeat is due. `lags`: more is committed than has left. A backup that refuses the Hello closes at once: what it
    /// is sent then would take its answer away. One that has to ask its witness first hears of this side in time.
    pub(super) fn beat_at(&self, config: &PrimaryConfig, lags: bool) -> Time {
        let interval = if self.phase == Phase::Greeting { config.detect / 2 } else { config.heartbeat };
        let silent = self.last_sent.after(interval);
        // Output may wait long to leave, and epochs without any be committed meanwhile: the backup keeps them until it is told.
        if lags && self.is_shipped_to() { silent.min(self.told_at.after(interval)) } else { silent }
    }
}
