//! The primary's transitions: epochs, time, and what the operator wants.

use super::filling::Filling;
use super::session::{Listing, Phase, Session};
use super::{
    EpochMeta, Errands, GuestEnd, Parting, Primary, PrimaryAction, PrimaryConfig, PrimaryState, SoloReason, Standing,
};
use crate::commit::{Commit, CommitPlace, InFlightMax};
use crate::id::{EpochId, IN_FLIGHT_EPOCHS_MAX, SessionId, Time, VmId};
use crate::lineage::{EpochMark, Lineage, Linked, StateDigest};
use crate::pointers::Pointers;
use crate::view::Greeting as RegisterGreeting;
use crate::wire::{GoodbyeReason, Link, Message};

impl Primary {
    /// A primary with no backup, whose guest is about to run the first epoch of its branch.
    ///
    /// # Panics
    /// If the limits of `config` are zero or above [`IN_FLIGHT_EPOCHS_MAX`].
    pub fn new(config: PrimaryConfig) -> Self {
        let limit = config.in_flight_epochs_max;
        assert!((1..=IN_FLIGHT_EPOCHS_MAX).contains(&limit), "in_flight_epochs_max is {limit}");
        assert!(config.in_flight_bytes_max > 0, "in_flight_bytes_max is 0: no epoch could ever be sealed");
        let max = InFlightMax { epochs: limit, bytes: config.in_flight_bytes_max };
        let places = [(CommitPlace::Log, config.log_counts), (CommitPlace::Store, config.has_store)];
        let counted = places.into_iter().filter(|(_, counts)| *counts).map(|(place, _)| place);
        let commit = Commit::new(config.origin.first(), max, counted);
        Primary {
            vm: VmId::of_name(&config.vm_name),
            standing: Standing::Running,
            left: commit.pointers().sealed(),
            commit,
            lineage: Lineage::new(config.term, config.origin),
            config,
            session: None,
            filling: Filling::begun(Time(0)),
            fill_rest: Default::default(),
            errands: Errands::default(),
            doubt: None,
            last_told: None,
            lost_store: None,
            exchanging: None,
            was_accepted: false,
            parting: None,
            guest_ended: None,
            peer_errors: 0,
            actions: Default::default(),
            transmits: Default::default(),
        }
    }

    /// A connection to a backup stands. `session` is fresh and random; `greeting` says what this side knows of the
    /// register, if there is a witness. The connection is refused unless `wants_connection`.
    pub fn handle_connected(&mut self, now: Time, session: SessionId, greeting: Option<RegisterGreeting>) {
        if !self.wants_connection() {
            return self.actions.push_back(PrimaryAction::Disconnect);
        }
        self.session = Some(Session::begin(now, Link { vm: self.vm, session, term: self.config.term }));
        self.last_told = Some(now);
        self.send(now, &Message::Hello(self.hello(greeting)));
    }

    /// The running epoch was sealed; the next one runs. If a link comes back, ship the epoch with it; if not, do not.
    ///
    /// A base whose session was lost meanwhile becomes an ordinary epoch. Once fenced or ended, nothing happens.
    ///
    /// # Panics
    /// If the epoch is not the running one, or a base comes while earlier epochs are not committed.
    pub fn handle_sealed(&mut self, meta: EpochMeta) -> Option<Link> {
        if self.is_over() {
            return None;
        }
        assert!(self.in_flight().0 < IN_FLIGHT_EPOCHS_MAX as usize, "sealed although may_seal is false");
        if meta.base.is_some_and(|session| self.session_id() == Some(session)) && self.phase() == Some(Phase::Syncing) {
            self.begin_base();
        }
        self.commit.seal(meta.epoch, meta.ship_bytes);
        self.advance();
        self.ships().map(|session| session.link)
    }

    /// From here on the backup could take over.
    fn begin_base(&mut self) {
        assert!(self.may_seal_base(), "a base needs all before it committed; {}", self.pointers());
        if let Some(session) = &mut self.session {
            self.commit.join(CommitPlace::Peer(session.id()));
            session.phase = Phase::Basing;
        }
        self.end_filling();
    }

    /// `epoch` is the next one that was sealed, with this state; none: it was ended and not captured. Gives its identity.
    ///
    /// # Panics
    /// If it is not the next one, or was not sealed.
    pub fn handle_identified(&mut self, epoch: EpochId, digest: Option<StateDigest>) -> Linked {
        // Without a backup nobody acks it.
        self.lineage.extend(epoch, digest, self.acked().unwrap_or(epoch))
    }

    /// The first byte of `epoch` is about to be given to the socket of `session`.
    pub fn handle_shipping(&mut self, now: Time, session: SessionId, epoch: EpochId) {
        let is_unacked = self.acked().is_some_and(|acked| epoch > acked);
        if let Some(current) = self.ships_to(session).filter(|_| is_unacked) {
            current.handle_shipping(now, epoch);
        }
    }

    /// The last byte of all epochs up to `epoch` was given to the socket of `session`.
    pub fn handle_shipped(&mut self, now: Time, session: SessionId, epoch: EpochId) {
        let (pointers, left) = (self.pointers(), self.left);
        let Some(current) = self.ships_to(session) else { return };
        assert!(epoch <= pointers.sealed(), "epoch {epoch} was shipped before it was sealed; {pointers}");
        current.handle_sent(now);
        if left == pointers.committed() {
            current.handle_told(now);
        }
        self.commit.ship(epoch);
    }

    /// Disk writes of all epochs up to `epoch` are in the local log, as durably as was asked for.
    pub fn handle_logged(&mut self, now: Time, epoch: EpochId) {
        self.handle_here(now, CommitPlace::Log, epoch);
    }

    /// The local store has all epochs up to `epoch`.
    pub fn handle_stored(&mut self, now: Time, epoch: EpochId) {
        self.handle_here(now, CommitPlace::Store, epoch);
    }

    fn handle_here(&mut self, now: Time, place: CommitPlace, epoch: EpochId) {
        if self.is_over() {
            return;
        }
        self.note_time(now);
        self.commit.handle_has(place, epoch);
        self.advance();
        self.end_if_released(now);
    }

    /// The output that [`PrimaryAction::Release`] let go has left up to `epoch`. The images may follow: the log has the writes.
    pub fn handle_released(&mut self, now: Time, epoch: EpochId) {
        assert!(epoch <= self.pointers().released(), "epoch {epoch} left before it was released; {}", self.pointers());
        self.left = self.left.max(epoch);
        self.end_if_released(now);
    }

    /// [`PrimaryAction::Release`] up to `epoch` came so late that it was not done: another side may have taken over since.
    pub fn handle_release_late(&mut self, epoch: EpochId) {
        if !self.is_over() {
            self.begin_doubt(Some(epoch));
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.note_time(now);
        self.ask_again(now);
        self.fill_rest.check(now);
        let Some(session) = self.session.as_ref().filter(|_| self.standing == Standing::Running) else { return };
        if now >= session.lost_at(self.config.detect) {
            self.actions.push_back(PrimaryAction::Disconnect);
            return self.lose_backup(now);
        }
        if session.mute_at(self.config.ack_wait).is_some_and(|at| now >= at) {
            return self.give_up_mute_backup(now);
        }
        self.check_filling(now);
        if self.beat_at().is_some_and(|at| now >= at) {
            self.send_heartbeat(now);
        }
    }

    /// The guest ended: when all its epochs are committed and their output has left, the backup is told and the core ends.
    ///
    /// Seal the last epoch before; none may be sealed after. A backup whose base is still on its way is let go first, and told of
    /// the end when the register does not list it any more: what it has by then may be whole or not.
    pub fn handle_guest_ended(&mut self, now: Time, end: GuestEnd) {
        if self.is_over() {
            return;
        }
        let text = end.text.clone();
        self.guest_ended = Some(end);
        match self.phase() {
            Some(Phase::Basing) => self.handle_unprotect(now, &text),
            _ => self.end_if_released(now),
        }
    }

    /// The operator wants no backup any more. Where a backup could take over, the session is claimed first.
    pub fn handle_unprotect(&mut self, now: Time, text: &str) {
        match self.phase() {
            Some(Phase::Greeting | Phase::Meeting | Phase::Syncing) => {
                self.part(now, GoodbyeReason::Unprotected, text);
                self.go_solo(SoloReason::Unprotected);
                self.end_if_released(now);
            }
            Some(Phase::Basing | Phase::Following) => {
                self.parting = Some(Parting::Unprotect { text: text.to_owned() });
                self.session.as_mut().and_then(Session::take_ack_wanted);
                self.arbitrate();
            }
            None => {}
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<PrimaryAction> {
        self.actions.pop_front()
    }

    /// The next control frame to send (Hello, heartbeat, Goodbye), between frames of the driver's own.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let session = self.session.as_ref().filter(|_| self.standing == Standing::Running);
        let lost = session.map(|session| session.lost_at(self.config.detect));
        let mute = session.and_then(|session| session.mute_at(self.config.ack_wait));
        let fill = self.fill_deadline().or(self.fill_rest.until());
        [lost, mute, self.beat_at(), fill, self.errands.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether the running epoch may be sealed now; if not, the guest waits at the boundary.
    pub fn may_seal(&self) -> bool {
        !self.is_over() && self.commit.may_seal()
    }

    /// Whether the running epoch may be sealed as the base of `session`: syncing, so little left that the base takes it, and all
    /// before it committed.
    ///
    /// The register must list the backup, because it could take over as soon as it has the base.
    /// All before it must have been released because the backup gets the output of the base and later, and no other.
    pub fn may_seal_base(&self) -> bool {
        self.is_enlisted()
            && self.filling.is_sent()
            && self.guest_ended.is_none()
            && self.left == self.pointers().sealed()
    }

    /// Whether the register lists the backup that is being filled.
    pub fn is_enlisted(&self) -> bool {
        let listing = self.session.as_ref().map(|session| session.listing);
        self.phase() == Some(Phase::Syncing) && listing == Some(Listing::Listed)
    }

    /// Whether a connection to a backup would be used. Not while it rests from fillings that failed; nor during an exchange, in which a
    /// newcomer takes no part: it would go on asking the witness that is left.
    pub fn wants_connection(&self) -> bool {
        let is_free = self.guest_ended.is_none() && !self.is_exchanging() && self.fill_rest.until().is_none();
        self.state() == PrimaryState::Solo && is_free
    }

    /// What this side's frames carry, from the connection until the session is settled.
    pub fn link(&self) -> Option<Link> {
        self.session.as_ref().map(|session| session.link)
    }

    /// Where it is.
    pub fn state(&self) -> PrimaryState {
        match (self.standing, &self.session) {
            (Standing::Running, None) => PrimaryState::Solo,
            (Standing::Running, Some(session)) => session.phase.into(),
            (Standing::Arbitrating, _) => PrimaryState::Arbitrating,
            (Standing::Fenced, _) => PrimaryState::Fenced,
            (Standing::Ended, _) => PrimaryState::Ended,
        }
    }

    /// The pointers.
    pub fn pointers(&self) -> Pointers {
        self.commit.pointers()
    }

    /// The last epoch whose output has left, as `handle_released` was told.
    pub fn left(&self) -> EpochId {
        self.left
    }

    /// The last epoch the backup acked in this session.
    pub fn acked(&self) -> Option<EpochId> {
        self.session_id().and_then(|session| self.commit.has(CommitPlace::Peer(session)))
    }

    /// The last epoch that was identified, or where the branch began.
    pub fn last_mark(&self) -> EpochMark {
        self.lineage.last()
    }

    /// The last epoch of the copy that the backup of this session had when it was accepted. It was written over since.
    pub fn peer_held(&self) -> Option<EpochMark> {
        self.session.as_ref().and_then(Session::held)
    }

    /// Epochs and bytes that are sealed and not committed.
    pub fn in_flight(&self) -> (usize, u64) {
        self.commit.in_flight()
    }

    /// Whether it parts from a backup by its own will: the witness is asked, and nothing was lost.
    pub fn is_parting(&self) -> bool {
        matches!(self.parting, Some(Parting::Unprotect { .. }))
    }

    /// Errors of peers so far.
    pub fn peer_errors(&self) -> u64 {
        self.peer_errors
    }

    pub(super) fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(Session::id)
    }

    /// How far the session is; none: there is none, or what becomes of the guest does not depend on it any more.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.session.as_ref().filter(|_| self.standing == Standing::Running).map(|session| session.phase)
    }

    /// The session whose backup epochs are shipped to.
    pub(super) fn ships(&self) -> Option<&Session> {
        self.session.as_ref().filter(|session| self.standing == Standing::Running && session.is_shipped_to())
    }

    fn ships_to(&mut self, session: SessionId) -> Option<&mut Session> {
        let is_running = self.standing == Standing::Running;
        self.session.as_mut().filter(|current| is_running && current.is_shipped_to() && current.id() == session)
    }

    /// It is settled what becomes of the guest here: nothing more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Fenced | Standing::Ended)
    }

    fn beat_at(&self) -> Option<Time> {
        let lags = self.left < self.pointers().committed();
        let session = self.session.as_ref().filter(|_| self.standing == Standing::Running);
        session.map(|session| session.beat_at(&self.config, lags))
    }

    /// Moves `committed` and `released` as far as the rules allow.
    pub(super) fn advance(&mut self) {
        let is_frozen = self.standing != Standing::Running;
        self.commit.freeze(is_frozen);
        let upto = self.commit.advance();
        if self.doubt.is_none() && !is_frozen && self.pointers().released() < upto {
            self.commit.release(upto);
            self.actions.push_back(PrimaryAction::Release { upto });
        }
    }
}

impl PrimaryState {
    pub(super) fn name(self) -> &'static str {
        match self {
            PrimaryState::Solo => "solo",
            PrimaryState::Greeting => "waiting for an answer to Hello",
            PrimaryState::Meeting => "looking whether the backup sees the same witness",
            PrimaryState::Syncing => "syncing",
            PrimaryState::Basing => "waiting for the base's ack",
            PrimaryState::Protected => "protected",
            PrimaryState::Arbitrating => "arbitrating",
            PrimaryState::Fenced => "fenced",
            PrimaryState::Ended => "ended",
        }
    }
}
