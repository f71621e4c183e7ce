//! The primary's transitions: epochs, time, and what the operator wants.

use super::few::Few;
use super::peer::{Peer, PeerId, Peers};
use super::session::{Listing, Phase, Session};
use super::siblings::Siblings;
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
        let siblings = config.members.iter().map(|join| CommitPlace::Peer(*join));
        let counted = places.into_iter().filter(|(_, counts)| *counts).map(|(place, _)| place).chain(siblings);
        let commit = Commit::new(config.origin.first(), max, counted);
        Primary {
            vm: VmId::of_name(&config.vm_name),
            standing: Standing::Running,
            left: commit.pointers().sealed(),
            commit,
            lineage: Lineage::new(config.term, config.origin),
            peers: Peers::default(),
            siblings: Siblings::of(&config.members),
            config,
            errands: Errands::default(),
            doubt: None,
            last_told: None,
            lost_store: None,
            exchanging: None,
            handover: None,
            was_accepted: false,
            guest_ended: None,
            peer_errors: 0,
            actions: Default::default(),
        }
    }

    /// A connection to the backup at `peer` stands. `session` is fresh and random; `greeting` says what this side knows of the
    /// register, if there is a witness. The connection is refused unless `wants_connection`.
    pub fn handle_connected(
        &mut self,
        now: Time,
        peer: PeerId,
        session: SessionId,
        greeting: Option<RegisterGreeting>,
    ) {
        if !self.wants_connection(peer) {
            return self.actions.push_back(PrimaryAction::Disconnect { peer });
        }
        let link = Link { vm: self.vm, session, term: self.config.term };
        self.peers.get_mut(peer).session = Some(Session::begin(now, link));
        self.note_time(now);
        self.send(now, peer, &Message::Hello(self.hello(greeting)));
    }

    /// The running epoch was sealed; the next one runs. Ship the epoch with each of the links that come back, and to nobody else.
    ///
    /// A base whose session was lost meanwhile becomes an ordinary epoch. Once fenced or ended, nothing happens. The base of one
    /// backup is an ordinary epoch for the others.
    ///
    /// # Panics
    /// If the epoch is not the running one, or a base comes while earlier epochs are not committed.
    pub fn handle_sealed(&mut self, meta: EpochMeta) -> Few<Link> {
        if self.is_over() {
            return Few::default();
        }
        let is_due = self.handover.is_none() && self.in_flight().0 < IN_FLIGHT_EPOCHS_MAX as usize;
        assert!(is_due, "epoch {} was sealed although may_seal is false", meta.epoch);
        if let Some(session) = meta.base
            && let Some(peer) = self.filling_peer(session)
        {
            self.begin_base(peer, session);
        }
        self.commit.seal(meta.epoch, meta.ship_bytes);
        self.advance();
        self.peers.iter().filter_map(Peer::shipped_to).map(|session| session.link).collect()
    }

    /// From here on the backup could take over.
    fn begin_base(&mut self, peer: PeerId, session: SessionId) {
        assert!(self.may_seal_base(session), "a base needs all before it committed; {}", self.pointers());
        self.commit.join(CommitPlace::Peer(session));
        if let Some(session) = &mut self.peers.get_mut(peer).session {
            session.phase = Phase::Basing;
        }
        self.end_filling(peer);
    }

    /// `epoch` is the next one that was sealed, with this state; none: it was ended and not captured. Gives its identity.
    ///
    /// # Panics
    /// If it is not the next one, or was not sealed.
    pub fn handle_identified(&mut self, epoch: EpochId, digest: Option<StateDigest>) -> Linked {
        // Without a backup nobody acks it.
        self.lineage.extend(epoch, digest, self.commit.every_peer_has().unwrap_or(epoch))
    }

    /// The first byte of `epoch` is about to be given to the socket of `session`.
    pub fn handle_shipping(&mut self, now: Time, session: SessionId, epoch: EpochId) {
        let acked = self.commit.has(CommitPlace::Peer(session));
        let is_unacked = acked.is_some_and(|acked| epoch > acked);
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
        self.commit.handle_shipped(session, epoch);
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
        self.check_siblings(now);
        self.offer_if_due(now);
        for peer in self.peers.ids() {
            self.peers.get_mut(peer).fill_rest.check(now);
            if !self.is_over() {
                self.check_peer(now, peer);
            }
        }
    }

    fn check_peer(&mut self, now: Time, peer: PeerId) {
        let offer_ends_at = self.offer_ends_at(peer);
        let Some(session) = self.peers.get(peer).and_then(Peer::staying) else { return };
        if now >= offer_ends_at.unwrap_or(session.lost_at(self.config.detect)) {
            self.actions.push_back(PrimaryAction::Disconnect { peer });
            return self.lose_backup(now, peer);
        }
        if session.mute_at(self.config.ack_wait).is_some_and(|at| now >= at) {
            return self.give_up_mute_backup(now, peer);
        }
        self.check_filling(now, peer);
        if self.beat_at(peer).is_some_and(|at| now >= at) {
            self.send_heartbeat(now, peer);
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
        for peer in self.peers.ids() {
            if self.phase(peer) == Some(Phase::Basing) {
                self.handle_peer_unwanted(now, peer, &text);
            }
        }
        self.end_if_released(now);
    }

    /// The operator wants no backup any more.
    pub fn handle_unprotect(&mut self, now: Time, text: &str) {
        for peer in self.peers.ids() {
            self.handle_peer_unwanted(now, peer, text);
        }
    }

    /// The operator does not want the backup at `peer` any more. Where it could take over, the session is claimed first.
    pub fn handle_peer_unwanted(&mut self, now: Time, peer: PeerId, text: &str) {
        match self.phase(peer) {
            Some(Phase::Greeting | Phase::Meeting | Phase::Syncing) => {
                self.part(now, peer, GoodbyeReason::Unprotected, text);
                self.let_go(peer, SoloReason::Unprotected);
                self.end_if_released(now);
            }
            Some(Phase::Basing | Phase::Following) => {
                let leaving = self.peers.get_mut(peer);
                leaving.parting = Some(Parting::Unprotect { text: text.to_owned() });
                leaving.session.as_mut().and_then(Session::take_ack_wanted);
                self.arbitrate(peer);
            }
            None => {}
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<PrimaryAction> {
        self.actions.pop_front()
    }

    /// The next control frame to send (Hello, heartbeat, Goodbye), and to whom, between frames of the driver's own.
    pub fn poll_transmit(&mut self) -> Option<(PeerId, Vec<u8>)> {
        self.peers.iter_mut().find_map(|(id, peer)| Some((id, peer.transmits.pop_front()?)))
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let of_peers = self.peers.ids().into_iter().filter_map(|peer| self.peer_timeout(peer));
        of_peers.chain(self.errands.poll_timeout()).chain(self.siblings_due()).min()
    }

    fn peer_timeout(&self, id: PeerId) -> Option<Time> {
        let peer = self.peers.get(id)?;
        let session = peer.staying().filter(|_| !self.is_over());
        let lost = session.map(|session| self.offer_ends_at(id).unwrap_or(session.lost_at(self.config.detect)));
        let mute = session.and_then(|session| session.mute_at(self.config.ack_wait));
        let fill = self.fill_deadline(id).or(peer.fill_rest.until());
        [lost, mute, self.beat_at(id), fill].into_iter().flatten().min()
    }

    /// Whether the running epoch may be sealed now; if not, the guest waits at the boundary.
    pub fn may_seal(&self) -> bool {
        let waits = self.handover.is_some() || !self.siblings.is_empty();
        !self.is_over() && !waits && self.commit.may_seal()
    }

    /// Whether the running epoch may be sealed as the base of `session`: syncing, so little left that the base takes it, and all
    /// before it committed.
    ///
    /// The register must list the backup, because it could take over as soon as it has the base.
    /// All before it must have been released because the backup gets the output of the base and later, and no other.
    pub fn may_seal_base(&self, session: SessionId) -> bool {
        let is_sent = self.filling_peer(session).and_then(|id| self.peers.get(id)).is_some_and(|p| p.filling.is_sent());
        self.is_enlisted(session) && is_sent && self.guest_ended.is_none() && self.left == self.pointers().sealed()
    }

    /// Whether the register lists the backup of `session`, which is being filled.
    pub fn is_enlisted(&self, session: SessionId) -> bool {
        let peer = self.filling_peer(session).and_then(|id| self.peers.get(id));
        peer.and_then(Peer::staying).is_some_and(|session| session.listing == Listing::Listed)
    }

    /// Whether a connection to the backup at `peer` would be used. Not while it rests from fillings that failed, nor before
    /// another one that is being connected to or filled follows: one is filled at a time; nor during an exchange of the witness, in which
    /// a newcomer takes no part: it would go on asking the one that is left.
    pub fn wants_connection(&self, peer: PeerId) -> bool {
        let is_settled = |other: &Peer| other.session.is_none() || other.phase() == Some(Phase::Following);
        let (is_free, rests) = self
            .peers
            .get(peer)
            .map_or((true, false), |peer| (peer.session.is_none(), peer.fill_rest.until().is_some()));
        let is_stable =
            !self.is_over() && self.guest_ended.is_none() && self.handover.is_none() && !self.is_exchanging();
        is_stable && self.siblings.is_empty() && is_free && !rests && self.peers.iter().all(is_settled)
    }

    /// What this side's frames to `peer` carry, from the connection until the session is settled.
    pub fn link(&self, peer: PeerId) -> Option<Link> {
        self.peers.get(peer).and_then(|peer| peer.session.as_ref()).map(|session| session.link)
    }

    /// Whether that session is not settled.
    pub fn is_current(&self, session: SessionId) -> bool {
        self.peers.of_session(session).is_some()
    }

    /// Which peer has that session, until it is settled.
    pub fn peer_of(&self, session: SessionId) -> Option<PeerId> {
        self.peers.of_session(session)
    }

    /// Whether there is no backup, connected to, leaving, or left of a takeover.
    pub fn is_alone(&self) -> bool {
        self.peers.sessions().next().is_none() && self.siblings.is_empty()
    }

    /// Where the guest is: as far as the farthest of its backups, or arbitrated about as long as one is leaving or a sibling is not out.
    pub fn state(&self) -> PrimaryState {
        match self.standing {
            Standing::Running if self.is_frozen() => PrimaryState::Arbitrating,
            Standing::Running => self.peers.farthest().map_or(PrimaryState::Solo, PrimaryState::from),
            Standing::Fenced => PrimaryState::Fenced,
            Standing::Ended => PrimaryState::Ended,
        }
    }

    /// Where it is with one backup.
    pub fn peer_state(&self, peer: PeerId) -> PrimaryState {
        let is_leaving = self.peers.get(peer).is_some_and(|peer| peer.is_leaving);
        match self.standing {
            Standing::Running if is_leaving => PrimaryState::Arbitrating,
            Standing::Running => self.phase(peer).map_or(PrimaryState::Solo, PrimaryState::from),
            Standing::Fenced => PrimaryState::Fenced,
            Standing::Ended => PrimaryState::Ended,
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

    /// The last epoch that the backup at `peer` acked in its session; none: it does not count yet.
    pub fn acked(&self, peer: PeerId) -> Option<EpochId> {
        let session = self.peers.get(peer).and_then(Peer::session_id)?;
        self.commit.has(CommitPlace::Peer(session))
    }

    /// The last epoch that every backup that counts has acked; none: no backup counts.
    pub fn slowest_acked(&self) -> Option<EpochId> {
        self.commit.every_peer_has()
    }

    /// The last epoch that was identified, or where the branch began.
    pub fn last_mark(&self) -> EpochMark {
        self.lineage.last()
    }

    /// The last epoch of the copy that the backup at `peer` had when it was accepted. It was written over since.
    pub fn peer_held(&self, peer: PeerId) -> Option<EpochMark> {
        self.peers.get(peer)?.session.as_ref().and_then(Session::held)
    }

    /// Epochs and bytes that are sealed and not committed.
    pub fn in_flight(&self) -> (usize, u64) {
        self.commit.in_flight()
    }

    /// Whether it parts from the backup of `session` by its own will: the witness is asked, and nothing was lost.
    pub fn is_parting(&self, session: SessionId) -> bool {
        let peer = self.peers.of_session(session).and_then(|id| self.peers.get(id));
        peer.is_some_and(|peer| matches!(peer.parting, Some(Parting::Unprotect { .. })))
    }

    /// Errors of peers so far.
    pub fn peer_errors(&self) -> u64 {
        self.peer_errors
    }

    /// How far the session of `peer` is; none: there is none, or what becomes of the guest does not depend on it any more.
    pub(super) fn phase(&self, peer: PeerId) -> Option<Phase> {
        self.peers.get(peer).filter(|_| !self.is_over()).and_then(Peer::phase)
    }

    fn ships_to(&mut self, session: SessionId) -> Option<&mut Session> {
        let (id, is_over) = (self.peers.of_session(session)?, self.is_over());
        let peer = self.peers.get_mut(id);
        let ships = !is_over && peer.shipped_to().is_some();
        peer.session.as_mut().filter(|_| ships)
    }

    /// It is settled what becomes of the guest here: nothing more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Fenced | Standing::Ended)
    }

    fn beat_at(&self, peer: PeerId) -> Option<Time> {
        let lags = self.left < self.pointers().committed();
        self.peers.get(peer).filter(|_| !self.is_over())?.beat_at(&self.config, lags)
    }

    /// Whether it waits for the witness, or for backups of before, what becomes of the guest.
    pub(super) fn is_frozen(&self) -> bool {
        self.peers.is_any_leaving() || !self.siblings.is_empty()
    }

    /// Moves `committed` and `released` as far as the rules allow.
    pub(super) fn advance(&mut self) {
        let is_frozen = self.is_over() || self.is_frozen();
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
