//! The primary's transitions.

use super::{
    Doubt, Enlisting, EpochMeta, Errand, Filling, GuestEnd, Meeting, Offered, Parting, Primary, PrimaryAction,
    PrimaryConfig, PrimaryState, SoloReason,
};
use crate::commit::{Commit, CommitPlace, InFlightMax};
use crate::id::{ClaimResult, EpochId, IN_FLIGHT_EPOCHS_MAX, SessionId, Time, VmId};
use crate::lineage::{EpochMark, Lineage, Linked, StateDigest};
use crate::peer::PeerError;
use crate::pointers::Pointers;
use crate::view::Greeting as RegisterGreeting;
use crate::wire::{
    Ack, DiskWant, Frame, Goodbye, GoodbyeReason, Heartbeat, Hello, HelloAck, Kind, Link, Message, Refuse, RefuseCode,
};

use PrimaryState::{Arbitrating, Basing, Ended, Fenced, Greeting, Meeting as Met, Protected, Solo, Syncing};

impl Primary {
    /// A primary with no backup, whose guest is about to run epoch `running`.
    ///
    /// # Panics
    /// If the limits of `config` are zero or above [`IN_FLIGHT_EPOCHS_MAX`].
    pub fn new(config: PrimaryConfig, running: EpochId) -> Self {
        let limit = config.in_flight_epochs_max;
        assert!((1..=IN_FLIGHT_EPOCHS_MAX).contains(&limit), "in_flight_epochs_max is {limit}");
        assert!(config.in_flight_bytes_max > 0, "in_flight_bytes_max is 0: no epoch could ever be sealed");
        let max = InFlightMax { epochs: limit, bytes: config.in_flight_bytes_max };
        let places = [(CommitPlace::Log, config.log_counts), (CommitPlace::Store, config.has_store)];
        let counted = places.into_iter().filter(|(_, counts)| *counts).map(|(place, _)| place);
        let commit = Commit::new(running, max, counted);
        Primary {
            vm: VmId::of_name(&config.vm_name),
            state: Solo,
            left: commit.pointers().sealed(),
            commit,
            lineage: Lineage::new(config.term, running, config.origin),
            config,
            link: None,
            last_heard: Time(0),
            last_sent: Time(0),
            told_at: Time(0),
            ack_wanted: None,
            claim_retry_at: None,
            offered: None,
            filling: Filling::begun(Time(0)),
            fill_rest: Default::default(),
            place: None,
            peer_held: None,
            enlisting: Enlisting::NotAsked,
            delisting: Default::default(),
            delist: Errand::Idle,
            doubt: None,
            last_told: None,
            recording_end: Errand::Idle,
            lost_store: None,
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
        self.link = Some(Link { vm: self.vm, session, term: self.config.term });
        self.state = Greeting;
        (self.last_heard, self.last_told) = (now, Some(now));
        self.enlisting = Enlisting::NotAsked;
        self.send(now, &Message::Hello(self.hello(greeting)));
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        if self.state.is_connected() {
            self.lose_backup(now);
        }
    }

    /// A frame arrived. An error means that the peer is lost, as if it had disconnected; it is counted.
    pub fn handle_frame(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        if !self.state.is_connected() {
            return Ok(()); // left over from a connection that is being closed
        }
        self.note_time(now);
        self.last_heard = now;
        self.take_frame(now, frame).inspect_err(|_| {
            self.peer_errors += 1;
            self.actions.push_back(PrimaryAction::Disconnect);
            self.lose_backup(now);
        })
    }

    /// The stream of bytes broke: what the decoder found. The same as an error of `handle_frame`.
    pub fn handle_broken_stream(&mut self, now: Time) {
        self.peer_errors += 1;
        // Also while arbitrating: a session that is to end by our will keeps its connection until then.
        self.actions.push_back(PrimaryAction::Disconnect);
        if self.state.is_connected() {
            self.lose_backup(now);
        }
    }

    /// Bytes arrived, even if no whole frame yet.
    pub fn handle_alive(&mut self, now: Time) {
        self.note_time(now);
        self.last_heard = self.last_heard.max(now);
    }

    /// The running epoch was sealed; the next one runs. If a link comes back, ship the epoch with it; if not, do not.
    ///
    /// A base whose session was lost meanwhile becomes an ordinary epoch. Once fenced or ended, nothing happens.
    ///
    /// # Panics
    /// If the epoch is not the running one, or a base comes while earlier epochs are not committed.
    pub fn handle_sealed(&mut self, meta: EpochMeta) -> Option<Link> {
        if matches!(self.state, Fenced | Ended) {
            return None;
        }
        assert!(self.in_flight().0 < IN_FLIGHT_EPOCHS_MAX as usize, "sealed although may_seal is false");
        let is_base = self.state == Syncing && meta.base.is_some() && meta.base == self.session();
        if is_base {
            assert!(self.may_seal_base(), "a base needs all before it committed; {}", self.pointers());
            self.commit.join(self.peer());
            self.state = Basing;
            self.end_filling();
        }
        self.commit.seal(meta.epoch, meta.ship_bytes);
        self.advance();
        self.link.filter(|_| matches!(self.state, Basing | Protected))
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
        if self.session() == Some(session)
            && matches!(self.state, Basing | Protected)
            && self.acked().is_some_and(|acked| epoch > acked)
        {
            let since = self.ack_wanted.map_or(now, |(_, since)| since);
            self.ack_wanted = Some((epoch, since));
        }
    }

    /// The last byte of all epochs up to `epoch` was given to the socket of `session`.
    pub fn handle_shipped(&mut self, now: Time, session: SessionId, epoch: EpochId) {
        if self.session() != Some(session) || !matches!(self.state, Basing | Protected) {
            return;
        }
        assert!(
            epoch <= self.pointers().sealed(),
            "epoch {epoch} was shipped before it was sealed; {}",
            self.pointers()
        );
        self.last_sent = now;
        self.commit.ship(epoch);
        if self.left == self.pointers().committed() {
            self.told_at = now;
        }
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
        if matches!(self.state, Fenced | Ended) {
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
        if !matches!(self.state, Fenced | Ended) {
            self.begin_doubt(Some(epoch));
        }
    }

    /// The answer to [`PrimaryAction::Look`].
    pub fn handle_looked(&mut self, now: Time, result: ClaimResult) {
        if let ClaimResult::Denied { holder } = result {
            return self.fence(holder);
        }
        let proves = result == ClaimResult::Granted || !self.state.waits_for_backup();
        match &mut self.doubt {
            Some(Doubt { look, .. }) if *look == Errand::Asked && !proves => {
                *look = Errand::Again { at: now.after(self.config.claim_retry) };
            }
            Some(Doubt { look, .. }) if *look == Errand::Asked => self.end_doubt(),
            _ => {}
        }
    }

    /// The register names another primary: this one stops, whatever it was about.
    pub fn handle_deposed(&mut self, holder: &str) {
        self.fence(holder.to_owned());
    }

    /// The answer to [`PrimaryAction::Meet`].
    pub fn handle_met(&mut self, now: Time, session: SessionId, meeting: Meeting) {
        let Some(link) = self.link.filter(|link| self.state == Met && link.session == session) else { return };
        let (reason, text) = match meeting {
            Meeting::Same => return self.start_syncing(now, link),
            Meeting::Other => (SoloReason::OtherWitness, "the two sides do not see the same witness"),
            Meeting::NoAnswer => (SoloReason::WitnessAway, "the primary's witness does not answer"),
        };
        self.part(now, GoodbyeReason::Unprotected, text);
        self.go_solo(reason);
        self.end_if_released(now);
    }

    /// The backup of `session` has all but the base.
    pub fn handle_filled(&mut self, session: SessionId) {
        if self.state == Syncing && self.session() == Some(session) && self.enlisting == Enlisting::NotAsked {
            self.ask_enlist(session);
        }
    }

    /// The answer to [`PrimaryAction::Enlist`]. One about a session that was given up is settled by delisting it.
    pub fn handle_enlisted(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        if let ClaimResult::Denied { holder } = result {
            return self.fence(holder);
        }
        let is_asked = self.enlisting == (Enlisting::Asked { again_at: None });
        if !is_asked || self.session() != Some(session) {
            return;
        }
        self.enlisting = match result {
            ClaimResult::Granted => Enlisting::Listed,
            _ => Enlisting::Asked { again_at: Some(now.after(self.config.claim_retry)) },
        };
    }

    /// The answer to [`PrimaryAction::Delist`].
    pub fn handle_delisted(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        if self.delist != Errand::Asked || self.delisting.front() != Some(&session) {
            return;
        }
        match result {
            ClaimResult::Denied { holder } => self.fence(holder),
            ClaimResult::Unreachable => self.delist = Errand::Again { at: now.after(self.config.claim_retry) },
            ClaimResult::Granted => {
                self.delisting.pop_front();
                self.delist = Errand::Idle;
                self.ask_delist();
            }
        }
    }

    /// The answer to [`PrimaryAction::RecordEnd`].
    pub fn handle_end_recorded(&mut self, now: Time, result: ClaimResult) {
        if self.recording_end != Errand::Asked {
            return;
        }
        match result {
            ClaimResult::Granted => self.finish_end(now),
            ClaimResult::Denied { holder } => self.fence(holder),
            ClaimResult::Unreachable => self.recording_end = Errand::Again { at: now.after(self.config.claim_retry) },
        }
    }

    /// The witness answered, or did not. Answers about another session or a settled one are ignored.
    pub fn handle_claim(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        if self.state != Arbitrating || self.session() != Some(session) {
            return;
        }
        // An answer may come twice: what was to be asked again after the first is answered by the second.
        self.claim_retry_at = None;
        match result {
            ClaimResult::Granted => self.win_claim(now),
            ClaimResult::Denied { holder } => self.fence(holder),
            ClaimResult::Unreachable => self.claim_retry_at = Some(now.after(self.config.claim_retry)),
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.note_time(now);
        self.ask_again(now);
        self.fill_rest.check(now);
        if self.state.is_connected() {
            if now >= self.last_heard.after(self.config.detect) {
                self.actions.push_back(PrimaryAction::Disconnect);
                return self.lose_backup(now);
            }
            if self.ack_deadline().is_some_and(|at| now >= at) {
                return self.give_up_mute_backup(now);
            }
            self.check_filling(now);
        }
        if self.state.is_connected() && now >= self.beat_at() {
            self.send_heartbeat(now);
        }
        if self.claim_retry_at.is_some_and(|at| now >= at) {
            self.claim_retry_at = None;
            self.ask_claim();
        }
    }

    /// An offer of `count` chunks of `disk`, from `first_chunk` on, is about to go out in `session`. The backup may answer
    /// it once; an answer to anything else loses it.
    pub fn handle_disk_offered(&mut self, session: SessionId, disk: u16, first_chunk: u64, count: usize) {
        if self.session() == Some(session) {
            self.offered = Some(Offered { disk, first_chunk, count });
        }
    }

    /// The guest ended: when all its epochs are committed and their output has left, the backup is told and the core ends.
    ///
    /// Seal the last epoch before; none may be sealed after. A backup whose base is still on its way is let go first, and told of
    /// the end when the register does not list it any more: what it has by then may be whole or not.
    pub fn handle_guest_ended(&mut self, now: Time, end: GuestEnd) {
        if matches!(self.state, Fenced | Ended) {
            return;
        }
        let text = end.text.clone();
        self.guest_ended = Some(end);
        match self.state {
            Basing => self.handle_unprotect(now, &text),
            _ => self.end_if_released(now),
        }
    }

    /// The operator wants no backup any more. Where a backup could take over, the session is claimed first.
    pub fn handle_unprotect(&mut self, now: Time, text: &str) {
        match self.state {
            Greeting | Met | Syncing => {
                self.part(now, GoodbyeReason::Unprotected, text);
                self.go_solo(SoloReason::Unprotected);
                self.end_if_released(now);
            }
            Basing | Protected => {
                self.parting = Some(Parting::Unprotect { text: text.to_owned() });
                self.ack_wanted = None;
                self.state = Arbitrating;
                self.ask_claim();
            }
            Solo | Arbitrating | Fenced | Ended => {}
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
        let lost = self.state.is_connected().then(|| self.last_heard.after(self.config.detect));
        let beat = self.state.is_connected().then(|| self.beat_at());
        let look = self.doubt.map_or(Errand::Idle, |doubt| doubt.look);
        let delist_store = self.lost_store.map_or(Errand::Idle, |lost| lost.errand);
        let errands = [self.delist, self.recording_end, look, delist_store];
        let errands = errands.into_iter().filter_map(Errand::again_at).min();
        let enlist = self.enlisting.again_at();
        let fill = self.fill_deadline().or(self.fill_rest.until());
        [lost, beat, fill, self.ack_deadline(), self.claim_retry_at, errands, enlist].into_iter().flatten().min()
    }

    /// Whether the running epoch may be sealed now; if not, the guest waits at the boundary.
    pub fn may_seal(&self) -> bool {
        !matches!(self.state, Fenced | Ended) && self.commit.may_seal()
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
        self.state == Syncing && self.enlisting == Enlisting::Listed
    }

    /// Whether a connection to a backup would be used. Not while it rests from fillings that failed.
    pub fn wants_connection(&self) -> bool {
        self.state == Solo && self.guest_ended.is_none() && self.fill_rest.until().is_none()
    }

    /// What this side's frames carry, from the connection until the session is settled.
    pub fn link(&self) -> Option<Link> {
        self.link
    }

    /// Where it is.
    pub fn state(&self) -> PrimaryState {
        self.state
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
        self.link.and_then(|link| self.commit.has(CommitPlace::Peer(link.session)))
    }

    /// The last epoch that was identified, or where the branch began.
    pub fn last_mark(&self) -> EpochMark {
        self.lineage.last()
    }

    /// The last epoch of the copy that the backup of this session had when it was accepted. It was written over since.
    pub fn peer_held(&self) -> Option<EpochMark> {
        self.peer_held
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

    /// The backup of this session, as a place.
    fn peer(&self) -> CommitPlace {
        CommitPlace::Peer(self.session().expect("there is a session to count"))
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        self.link.map(|link| link.session)
    }

    /// A backup that refuses the Hello closes at once: what it is sent then would take its answer away. One that has to ask
    /// its witness first hears of this side in time.
    fn beat_at(&self) -> Time {
        let interval = if self.state == Greeting { self.config.detect / 2 } else { self.config.heartbeat };
        let silent = self.last_sent.after(interval);
        // Output may wait long to leave, and epochs without any be committed meanwhile: the backup keeps them until it is told.
        let lags = matches!(self.state, Basing | Protected) && self.left < self.pointers().committed();
        if lags { silent.min(self.told_at.after(interval)) } else { silent }
    }

    fn ack_deadline(&self) -> Option<Time> {
        self.ack_wanted.map(|(_, since)| since.after(self.config.ack_wait))
    }

    fn hello(&self, register: Option<RegisterGreeting>) -> Hello {
        let config = &self.config;
        Hello {
            register,
            writer: config.writer.clone(),
            vm_name: config.vm_name.clone(),
            durable: config.backup_durable,
            machine: config.machine.clone(),
        }
    }

    fn take_frame(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        let ours = self.link.expect("connected states have a link");
        let kind = frame.kind;
        // A backup that refuses may not have read our session yet.
        if kind != Kind::Refuse && frame.link.session != ours.session {
            return Err(PeerError::WrongSession { ours: ours.session, theirs: frame.link.session });
        }
        let message = frame.into_message().map_err(|source| PeerError::Body { kind, source })?;
        match (self.state, message) {
            (Greeting, Message::HelloAck(ack)) => self.meet(ours, ack),
            // While syncing: what only the comparison of the disks shows.
            (Greeting | Met | Syncing, Message::Refuse(refuse)) => self.take_refusal(now, refuse),
            (Syncing, Message::DiskWant(want)) => return self.take_want(want),
            (Basing | Protected, Message::Ack(ack)) => return self.take_ack(now, ack),
            (Greeting | Met | Syncing | Basing | Protected, Message::Heartbeat(_)) => {}
            (Greeting | Met | Syncing | Basing | Protected, Message::Goodbye(_)) => {
                self.actions.push_back(PrimaryAction::Disconnect);
                self.lose_backup(now);
            }
            _ => return Err(PeerError::Unexpected { kind, state: self.state.name() }),
        }
        Ok(())
    }

    fn meet(&mut self, link: Link, HelloAck { writer: _, place, nonce, holds }: HelloAck) {
        (self.state, self.was_accepted) = (Met, true);
        (self.place, self.peer_held) = (place.map(Box::new), holds);
        self.actions.push_back(PrimaryAction::Meet { session: link.session, nonce });
    }

    fn start_syncing(&mut self, now: Time, link: Link) {
        self.state = Syncing;
        self.last_sent = now;
        (self.offered, self.filling) = (None, Filling::begun(now));
        self.actions.push_back(PrimaryAction::Resync { link });
    }

    fn take_refusal(&mut self, now: Time, Refuse { code, text }: Refuse) {
        self.actions.push_back(PrimaryAction::Disconnect);
        // With a witness a busy backup is one that has not asked yet, and will be told no.
        let has_another = code == RefuseCode::NotABackup || (code == RefuseCode::Busy && !self.config.is_witnessed);
        if has_another && self.config.begins_afresh && !self.was_accepted {
            self.actions.push_back(PrimaryAction::Conflict { text: text.clone() });
        }
        self.go_solo(SoloReason::Refused { code, text });
        self.end_if_released(now);
    }

    /// One answer for each offer: what is handed to the driver waits there without a bound.
    fn take_want(&mut self, want: DiskWant) -> Result<(), PeerError> {
        let answered = Offered { disk: want.disk, first_chunk: want.first_chunk, count: want.wanted.len() };
        if self.offered.take_if(|offered| *offered == answered).is_none() {
            return Err(PeerError::NotOffered { disk: want.disk, first_chunk: want.first_chunk });
        }
        self.actions.push_back(PrimaryAction::DiskWanted(want));
        Ok(())
    }

    fn take_ack(&mut self, now: Time, Ack { complete, chain }: Ack) -> Result<(), PeerError> {
        let limit = self.last_mark().count;
        if complete > limit {
            return Err(PeerError::Impossible { what: "complete", theirs: complete, limit });
        }
        if let Some(mark) = self.lineage.awaited(complete).filter(|mark| mark.chain != chain) {
            return Err(PeerError::OtherLine { epoch: complete, ours: mark.chain, theirs: chain });
        }
        let before = self.acked().expect("a backup that acks counts");
        // The ack may overtake the report that the last byte was given to the socket.
        self.commit.ship(complete);
        self.commit.handle_has(self.peer(), complete);
        let (is_new, acked) = (complete > before, complete.max(before));
        if is_new {
            let wanted = self.ack_wanted;
            self.ack_wanted = wanted.filter(|(epoch, _)| *epoch > acked).map(|(epoch, _)| (epoch, now));
        }
        if self.doubt.is_some_and(|doubt| complete > doubt.sealed) {
            self.end_doubt();
        }
        if self.state == Basing && is_new {
            self.state = Protected;
            self.fill_rest = Default::default();
            let session = self.session().expect("a basing primary has a session");
            self.actions.push_back(PrimaryAction::Protected { session });
        }
        self.advance();
        self.end_if_released(now);
        Ok(())
    }

    /// Moves `committed` and `released` as far as the rules allow.
    pub(super) fn advance(&mut self) {
        self.commit.freeze(matches!(self.state, Arbitrating | Fenced | Ended));
        let upto = self.commit.advance();
        let is_frozen = matches!(self.state, Arbitrating | Fenced | Ended);
        if self.doubt.is_none() && !is_frozen && self.pointers().released() < upto {
            self.commit.release(upto);
            self.actions.push_back(PrimaryAction::Release { upto });
        }
    }

    pub(super) fn end_if_released(&mut self, now: Time) {
        let Some(GuestEnd { begins_anew, .. }) = self.guest_ended else { return };
        if self.state == Arbitrating || self.left != self.pointers().sealed() {
            return;
        }
        if begins_anew {
            return self.finish_end(now);
        }
        if self.recording_end == Errand::Idle {
            self.recording_end = Errand::Asked;
            self.actions.push_back(PrimaryAction::RecordEnd);
        }
    }

    /// The register knows of the end, or goes on with the guest: the backup may be told.
    fn finish_end(&mut self, now: Time) {
        let Some(GuestEnd { text, .. }) = self.guest_ended.take() else { return };
        if self.state.is_connected() {
            self.part(now, GoodbyeReason::GuestEnded, &text);
        }
        self.state = Ended;
        self.end_filling();
        self.forget_questions();
        self.link = None;
        self.actions.push_back(PrimaryAction::Ended);
    }

    /// Nothing is asked any more: it is settled what becomes of the guest here.
    fn forget_questions(&mut self) {
        (self.ack_wanted, self.claim_retry_at, self.doubt, self.lost_store) = (None, None, None, None);
        (self.delist, self.recording_end, self.enlisting) = (Errand::Idle, Errand::Idle, Enlisting::NotAsked);
        self.delisting.clear();
    }

    /// Looks whether this host stood still for so long that its backup may have taken over. The timers of a connection
    /// that is in use never leave this core without news for so long.
    fn note_time(&mut self, now: Time) {
        let last = self.last_told.map_or(now, |last| last.max(now));
        let stood_still = self.last_told.is_some_and(|last| now.since(last) >= self.config.detect);
        self.last_told = Some(last);
        if stood_still {
            self.filling.excuse(now);
        }
        if stood_still && matches!(self.state, Basing | Protected) {
            self.begin_doubt(None);
        }
    }

    fn begin_doubt(&mut self, late: Option<EpochId>) {
        let sealed = self.pointers().sealed();
        match &mut self.doubt {
            Some(doubt) => doubt.late = doubt.late.max(late),
            None => {
                self.doubt = Some(Doubt { sealed, late, look: Errand::Asked });
                self.actions.push_back(PrimaryAction::Look);
            }
        }
    }

    fn end_doubt(&mut self) {
        if let Some(Doubt { late: Some(upto), .. }) = self.doubt.take() {
            self.actions.push_back(PrimaryAction::Release { upto });
        }
        self.advance();
    }

    /// Asks the witness again what it did not answer, when it is time to.
    fn ask_again(&mut self, now: Time) {
        let is_due = |errand: Errand| errand.again_at().is_some_and(|at| now >= at);
        if is_due(self.delist) {
            self.delist = Errand::Idle;
            self.ask_delist();
        }
        if is_due(self.recording_end) {
            self.recording_end = Errand::Asked;
            self.actions.push_back(PrimaryAction::RecordEnd);
        }
        if let Some(doubt) = &mut self.doubt
            && is_due(doubt.look)
        {
            doubt.look = Errand::Asked;
            self.actions.push_back(PrimaryAction::Look);
        }
        if let Some(lost) = &mut self.lost_store
            && is_due(lost.errand)
        {
            lost.errand = Errand::Asked;
            self.actions.push_back(PrimaryAction::DelistStore);
        }
        if self.enlisting.again_at().is_some_and(|at| now >= at)
            && let Some(session) = self.session()
        {
            self.ask_enlist(session);
        }
    }

    fn ask_enlist(&mut self, session: SessionId) {
        self.enlisting = Enlisting::Asked { again_at: None };
        self.actions.push_back(PrimaryAction::Enlist { session, place: self.place.clone() });
    }

    fn ask_delist(&mut self) {
        if let (Errand::Idle, Some(session)) = (self.delist, self.delisting.front()) {
            self.delist = Errand::Asked;
            self.actions.push_back(PrimaryAction::Delist { session: *session });
        }
    }

    /// Says goodbye and closes.
    fn part(&mut self, now: Time, reason: GoodbyeReason, text: &str) {
        self.send(now, &Message::Goodbye(Goodbye { reason, text: text.to_owned() }));
        self.actions.push_back(PrimaryAction::Disconnect);
    }

    fn lose_backup(&mut self, now: Time) {
        self.transmits.clear();
        // It may have accepted, and its answer be on the way: for a while it is busy with that session.
        self.was_accepted |= self.state == Greeting;
        self.ack_wanted = None;
        if self.state.waits_for_backup() {
            self.state = Arbitrating;
            self.ask_claim();
        } else {
            self.go_solo(SoloReason::LostBeforeBase);
            self.end_if_released(now);
        }
    }

    /// The backup is heard and acks nothing. It is told to discard the session when that is ours, like one that is
    /// unprotected; unless it does not even read.
    fn give_up_mute_backup(&mut self, now: Time) {
        self.peer_errors += 1;
        let reads = self.ack_wanted.take().is_some_and(|(epoch, _)| epoch <= self.pointers().shipped());
        if !reads {
            self.actions.push_back(PrimaryAction::Disconnect);
            return self.lose_backup(now);
        }
        self.parting = Some(Parting::Mute);
        self.state = Arbitrating;
        self.ask_claim();
    }

    fn ask_claim(&mut self) {
        let session = self.session().expect("an arbitrating primary has a session");
        self.actions.push_back(PrimaryAction::Claim { session });
    }

    fn win_claim(&mut self, now: Time) {
        // Also if the guest has ended meanwhile: a backup that is told nothing takes over, if no witness keeps it.
        let reason = match self.parting.take() {
            Some(Parting::Unprotect { text }) => {
                // The record without the backup is there: told of the end it ends too, and nobody continues what it has.
                let ends = self.guest_ended.as_ref().is_some_and(|end| !end.begins_anew);
                let reason = if ends { GoodbyeReason::GuestEnded } else { GoodbyeReason::Unprotected };
                self.part(now, reason, &text);
                SoloReason::Unprotected
            }
            Some(Parting::Mute) => {
                self.part(now, GoodbyeReason::Unprotected, "the backup acked nothing for too long");
                SoloReason::Mute
            }
            None => SoloReason::ClaimGranted,
        };
        // The register does not list it any more.
        self.enlisting = Enlisting::NotAsked;
        self.go_solo(reason);
        self.end_if_released(now);
    }

    pub(super) fn go_solo(&mut self, reason: SoloReason) {
        self.state = Solo;
        self.end_filling();
        // From here on no base can be sealed for this session; that the register lists it may be mended later.
        if let Some(session) = self.session() {
            self.commit.leave(CommitPlace::Peer(session));
        }
        let given_up = self.link.take().filter(|_| self.enlisting != Enlisting::NotAsked);
        self.enlisting = Enlisting::NotAsked;
        self.delisting.extend(given_up.map(|link| link.session));
        self.claim_retry_at = None;
        self.actions.push_back(PrimaryAction::WentSolo { reason });
        self.ask_delist();
        self.end_doubt();
    }

    pub(super) fn fence(&mut self, holder: String) {
        if matches!(self.state, Fenced | Ended) {
            return;
        }
        self.state = Fenced;
        self.end_filling();
        (self.parting, self.guest_ended) = (None, None);
        self.forget_questions();
        self.actions.push_back(PrimaryAction::Disconnect);
        self.actions.push_back(PrimaryAction::Fenced { holder });
    }

    fn send_heartbeat(&mut self, now: Time) {
        let complete = self.acked().unwrap_or(self.pointers().sealed());
        let (released, committed) = (self.left, self.pointers().committed().min(complete));
        self.told_at = now;
        self.send(now, &Message::Heartbeat(Heartbeat { released, complete, committed }));
    }

    fn send(&mut self, now: Time, message: &Message) {
        let link = self.link.expect("frames are sent inside a session");
        self.last_sent = now;
        self.transmits.push_back(message.to_frame(&link, EpochId(0)));
    }
}

impl PrimaryState {
    fn name(self) -> &'static str {
        match self {
            Solo => "solo",
            Greeting => "waiting for an answer to Hello",
            Met => "looking whether the backup sees the same witness",
            Syncing => "syncing",
            Basing => "waiting for the base's ack",
            Protected => "protected",
            Arbitrating => "arbitrating",
            Fenced => "fenced",
            Ended => "ended",
        }
    }
}

impl Errand {
    fn again_at(self) -> Option<Time> {
        match self {
            Errand::Again { at } => Some(at),
            Errand::Idle | Errand::Asked => None,
        }
    }
}

impl Enlisting {
    fn again_at(self) -> Option<Time> {
        match self {
            Enlisting::Asked { again_at } => again_at,
            Enlisting::NotAsked | Enlisting::Listed => None,
        }
    }
}
