//! A filling, from its beginning to its base or its end.
//!
//! A primary that fills a backup is heard and hears, however the filling stands: heartbeats are another thread's. So neither
//! side would ever find out that it makes no progress. The driver says where it is and whenever it has done something
//! ([`Primary::handle_filling`]). A filling without progress is first reported, then given up. One that makes progress is
//! given up when its rounds do not converge ([`super::rounds`]).
//!
//! What was given up is tried again on a new connection, after a rest that doubles with each failure in a row.

use std::fmt;
use std::time::Duration;

use super::rounds::{FillFigures, Left, NextRound, Rounds, Verdict};
use super::session::Phase;
use super::{PeerId, Primary, PrimaryAction, PrimaryConfig, SoloReason};
use crate::id::{SessionId, Time};
use crate::peer::PeerError;
use crate::wire::DiskWant;

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
#[derive(Clone, Debug)]
pub(super) struct Filling {
    phase: FillPhase,
    /// When it last made progress.
    since: Time,
    /// That it does not was told.
    is_told: bool,
    rounds: Rounds,
    /// The offer of disk chunks that the backup has not answered.
    offered: Option<Offered>,
}

/// Chunks of a disk whose hashes went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offered {
    disk: u16,
    first_chunk: u64,
    count: usize,
}

/// The rest after fillings that failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FillRest {
    /// Failures in a row.
    failures: u32,
    /// No backup is connected to before.
    until: Option<Time>,
}

impl FillRest {
    pub(super) fn until(self) -> Option<Time> {
        self.until
    }

    fn begin(&mut self, now: Time, config: &PrimaryConfig) {
        let doubled = config.fill_rest.saturating_mul(1 << self.failures.min(16));
        self.until = Some(now.after(doubled.min(config.fill_rest_max)));
        self.failures += 1;
    }

    pub(super) fn check(&mut self, now: Time) {
        self.until = self.until.filter(|until| now < *until);
    }
}

impl Filling {
    pub(super) fn begun(now: Time) -> Self {
        Self { phase: FillPhase::Begin, since: now, is_told: false, rounds: Rounds::new(), offered: None }
    }

    fn progressed(&mut self, now: Time, phase: FillPhase) {
        (self.phase, self.since, self.is_told) = (phase, now, false);
    }

    /// This host stood still: that is no fault of the filling.
    pub(super) fn excuse(&mut self, now: Time) {
        self.since = self.since.max(now);
    }

    /// What is left goes with the base.
    pub(super) fn is_sent(&self) -> bool {
        self.rounds.figures().end.is_some()
    }

    fn due(&self, config: &PrimaryConfig) -> Time {
        self.since.after(if self.is_told { config.fill_wait } else { config.fill_notice })
    }
}

impl Primary {
    /// The filling of `session` has done something, and is in `phase` now.
    pub fn handle_filling(&mut self, now: Time, session: SessionId, phase: FillPhase) {
        if let Some(filling) = self.filling_of(session) {
            filling.progressed(now, phase);
        }
    }

    /// An offer of `count` chunks of `disk`, from `first_chunk` on, is about to go out in `session`. The backup may answer
    /// it once; an answer to anything else loses it.
    pub fn handle_disk_offered(&mut self, session: SessionId, disk: u16, first_chunk: u64, count: usize) {
        if let Some(filling) = self.filling_of(session) {
            filling.offered = Some(Offered { disk, first_chunk, count });
        }
    }

    /// One answer for each offer: what is handed to the driver waits there without a bound.
    pub(super) fn take_want(&mut self, peer: PeerId, want: DiskWant) -> Result<(), PeerError> {
        let answered = Offered { disk: want.disk, first_chunk: want.first_chunk, count: want.wanted.len() };
        let filling = &mut self.peers.get_mut(peer).filling;
        if filling.offered.take_if(|offered| *offered == answered).is_none() {
            return Err(PeerError::NotOffered { disk: want.disk, first_chunk: want.first_chunk });
        }
        self.actions.push_back(PrimaryAction::DiskWanted(want));
        Ok(())
    }

    /// Of the disks `bytes` more are compared, which took `took`, what was sent of them included; `left_bytes` are not yet.
    pub fn handle_disks_compared(&mut self, session: SessionId, bytes: u64, took: Duration, left_bytes: u64) {
        if let Some(filling) = self.filling_of(session) {
            filling.rounds.handle_compared(bytes, took, left_bytes);
        }
    }

    /// `bytes` of memory or disks were sent, and `skipped_bytes` of what was left need not be.
    pub fn handle_fill_sent(&mut self, session: SessionId, bytes: u64, skipped_bytes: u64) {
        if let Some(filling) = self.filling_of(session) {
            filling.rounds.handle_sent(bytes, skipped_bytes);
        }
    }

    /// What `session` lacks before the first round, after each, and after whatever came between the last round and the base.
    /// Gives what is done about it. What is left when [`NextRound::Seal`] is given goes with the base.
    pub fn handle_fill_left(&mut self, now: Time, session: SessionId, left: Left) -> NextRound {
        let Some(peer) = self.filling_peer(session) else { return NextRound::Over };
        let filling = &mut self.peers.get_mut(peer).filling;
        filling.progressed(now, FillPhase::Memory);
        let share = filling.rounds.share();
        let verdict = filling.rounds.handle_left(now, left, &self.config.rounds);
        if filling.rounds.share() != share {
            let figures = filling.rounds.figures();
            self.actions.push_back(PrimaryAction::FillingDiverges { figures });
            self.actions.push_back(PrimaryAction::GuestShare { percent: figures.share });
        }
        match verdict {
            Verdict::Send => NextRound::Send,
            Verdict::Seal => NextRound::Seal,
            Verdict::GiveUp(why) => {
                self.give_up_filling(now, peer, SoloReason::NotConverging { session, why });
                NextRound::Over
            }
        }
    }

    /// The driver could not fill the backup of `session`, for a reason of its own.
    pub fn handle_fill_failed(&mut self, now: Time, session: SessionId) {
        if let Some(peer) = self.filling_peer(session) {
            self.give_up_filling(now, peer, SoloReason::FillingFailed { session });
        }
    }

    /// The operator asks for a backup: no rest of earlier fillings is kept.
    pub fn handle_backup_wanted(&mut self) {
        self.peers.iter_mut().for_each(|(_, peer)| peer.fill_rest = FillRest::default());
    }

    /// Which peer is filled in `session`; none: nobody is any more.
    pub(super) fn filling_peer(&self, session: SessionId) -> Option<PeerId> {
        self.peers.of_session(session).filter(|id| self.phase(*id) == Some(Phase::Syncing))
    }

    fn filling_of(&mut self, session: SessionId) -> Option<&mut Filling> {
        let peer = self.filling_peer(session)?;
        Some(&mut self.peers.get_mut(peer).filling)
    }

    /// Where the filling of `peer` is, and when it last made progress; none: there is none.
    pub fn filling(&self, peer: PeerId) -> Option<(FillPhase, Time)> {
        let peer = self.peers.get(peer).filter(|_| self.phase(peer) == Some(Phase::Syncing))?;
        Some((peer.filling.phase, peer.filling.since))
    }

    /// The figures of the filling of `peer`, or of the last one there.
    pub fn fill_figures(&self, peer: PeerId) -> FillFigures {
        self.peers.get(peer).map_or_else(|| Rounds::new().figures(), |peer| peer.filling.rounds.figures())
    }

    /// When `peer` is connected to again after fillings that failed; none: at once.
    pub fn fill_rest_until(&self, peer: PeerId) -> Option<Time> {
        self.peers.get(peer)?.fill_rest.until()
    }

    pub(super) fn fill_deadline(&self, peer: PeerId) -> Option<Time> {
        let filled = self.peers.get(peer).filter(|_| self.phase(peer) == Some(Phase::Syncing))?;
        Some(filled.filling.due(&self.config))
    }

    /// Reports a filling without progress, or gives it up. What the driver still does for it ends with its session.
    pub(super) fn check_filling(&mut self, now: Time, id: PeerId) {
        if self.fill_deadline(id).is_none_or(|due| now < due) {
            return;
        }
        let peer = self.peers.get_mut(id);
        let (phase, session) = (peer.filling.phase, peer.session_id().expect("a syncing primary has a session"));
        if !peer.filling.is_told {
            peer.filling.is_told = true;
            return self.actions.push_back(PrimaryAction::FillingStalls { phase });
        }
        self.give_up_filling(now, id, SoloReason::FillingStalled { session, phase });
    }

    /// No goodbye: its sender may be the one that is stuck. The backup finds the end of the connection.
    fn give_up_filling(&mut self, now: Time, id: PeerId, reason: SoloReason) {
        let peer = self.peers.get_mut(id);
        peer.fill_rest.begin(now, &self.config);
        peer.transmits.clear();
        self.actions.push_back(PrimaryAction::Disconnect { peer: id });
        self.let_go(id, reason);
        self.end_if_released(now);
    }

    /// The filling is over, one way or another: the guest has its processors again.
    pub(super) fn end_filling(&mut self, peer: PeerId) {
        if self.peers.get_mut(peer).filling.rounds.end_slowing() {
            self.actions.push_back(PrimaryAction::GuestShare { percent: 100 });
        }
    }
}
