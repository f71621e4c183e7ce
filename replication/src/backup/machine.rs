//! The backup's transitions.

use std::sync::Arc;

use super::{
    Backup, BackupAction, BackupConfig, BackupState, Connection, DiscardReason, GuestCopy, Offer, Session, TakeOver,
};
use crate::assembly::{Assembled, AssembledEpoch, check_disk_exists, check_disk_range};
use crate::id::{ClaimResult, EpochId, Gfn, SessionId, Term, Time, VmId};
use crate::lineage::EpochMark;
use crate::page::{Page, PageBatch};
use crate::peer::PeerError;
use crate::pointers::BackupPointers;
use crate::view::{Nonce, Place, Record};
use crate::wire::{
    Ack, DiskWant, EpochBegin, Forsworn, Frame, Goodbye, GoodbyeReason, Heartbeat, Hello, HelloAck, Kind, Link,
    Message, Refuse, RefuseCode, ResyncDisk,
};

/// A copy that is still listed is claimed after so many times `detect`: whoever won has as long to fill or to remove it.
const RECLAIM_DETECTS: u32 = 4;

use BackupState::{Claiming, Ended, Greeting, Keeping, Overriding, Protected, Syncing, TakingOver, TookOver, Waiting};

impl Backup {
    /// A backup that waits for a primary.
    pub fn new(config: BackupConfig) -> Self {
        Backup {
            vm: VmId::of_name(&config.vm_name),
            config,
            state: Waiting,
            pointers: BackupPointers::default(),
            session: None,
            kept: None,
            settled: None,
            term_seen: Term(0),
            connection: Connection::None { since: Time(0) },
            last_heard: Time(0),
            last_sent: Time(0),
            claim_retry_at: None,
            reclaim_at: None,
            peer_errors: 0,
            actions: Default::default(),
            transmits: Default::default(),
        }
    }

    /// A connection from somebody stands.
    ///
    /// # Panics
    /// If another one stands: the driver gives this core one at a time.
    pub fn handle_connected(&mut self, now: Time) {
        assert!(matches!(self.connection, Connection::None { .. }), "one connection at a time");
        self.connection = Connection::Stranger { since: now };
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        self.transmits.clear();
        self.close(now);
    }

    /// A frame arrived. An error means that the connection is to be dropped; it is counted.
    pub fn handle_frame(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        let result = match self.connection {
            Connection::None { .. } => return Ok(()), // left over from a connection that is being closed
            Connection::Stranger { .. } => self.take_first_frame(now, frame),
            // It handed its guest over, and waits to hear that it runs here.
            Connection::Primary if self.session.is_none() => return Ok(()),
            Connection::Primary => self.take_frame(now, frame),
        };
        result.inspect_err(|_| self.handle_broken_stream(now))
    }

    /// The stream of bytes broke: what the decoder found. The same as an error of `handle_frame`.
    pub fn handle_broken_stream(&mut self, now: Time) {
        self.peer_errors += 1;
        self.drop_connection(now);
    }

    /// Bytes arrived, even if no whole frame yet.
    pub fn handle_alive(&mut self, now: Time) {
        if self.connection == Connection::Primary {
            self.last_heard = self.last_heard.max(now);
        }
    }

    /// The machine of the Hello can run here, and the witness knows its primary. `place` and `nonce` are for the
    /// primary; none: there is no witness. A copy that was kept goes: the primary is about to write over it.
    pub fn handle_accept(&mut self, now: Time, place: Option<Place>, nonce: Option<Nonce>) {
        if self.state == Greeting {
            self.state = Syncing;
            // Only now: what a primary that is refused says of its term is not believed.
            self.term_seen = self.session.as_ref().map_or(self.term_seen, |session| session.link.term);
            let kept = self.kept.take();
            if kept.is_some() {
                let reason = DiscardReason::Superseded;
                self.actions.push_back(BackupAction::Discard { session: None, reason });
            }
            let (writer, holds) = (self.config.writer.clone(), kept.map(|kept| kept.over.fork));
            self.send(now, &Message::HelloAck(HelloAck { writer, place, nonce, holds }));
        }
    }

    /// The operator wants the kept copy to run, against the newest record. False: there is none, or a primary is here.
    pub fn handle_override(&mut self) -> bool {
        match &self.kept {
            Some(GuestCopy { over, .. }) if self.state == Waiting => {
                self.state = Overriding;
                self.actions.push_back(BackupAction::Override { session: over.session, fork: over.fork });
                true
            }
            _ => false,
        }
    }

    /// The session that the witness is asked for, and the last epoch that is whole here.
    pub fn claiming(&self) -> Option<(SessionId, EpochMark)> {
        let session = self.session.as_ref().filter(|_| self.state == Claiming)?;
        Some((session.link.session, session.mark_of(self.pointers.assembled())?))
    }

    /// Whether the guest's memory here counts: for a session that was accepted, or for a kept copy.
    pub fn needs_memory(&self) -> bool {
        self.kept.is_some() || !matches!(self.state, Waiting | Greeting | Ended)
    }

    /// The join of the copy that is kept.
    pub fn kept_join(&self) -> Option<SessionId> {
        self.kept.as_ref().map(|kept| kept.over.session)
    }

    /// The epoch that is kept, and who has the guest instead.
    pub fn kept(&self) -> Option<(EpochMark, &str)> {
        self.kept.as_ref().map(|kept| (kept.over.fork, kept.holder.as_str()))
    }

    /// The machine of the Hello cannot run here: found at once, or while its disks were compared.
    pub fn handle_refuse(&mut self, now: Time, code: RefuseCode, text: &str) {
        if matches!(self.state, Greeting | Syncing) {
            let link = self.session.as_ref().expect("greeting and syncing backups have a session").link;
            self.refuse(now, &link, code, text);
        }
    }

    /// The answer to an offer of chunks.
    pub fn handle_disk_compared(&mut self, now: Time, want: DiskWant) {
        if self.state == Syncing {
            self.send(now, &Message::DiskWant(want));
        }
    }

    /// The base of `session` cannot run here: loading it showed so. Nothing of it was acked, and nothing of it is taken
    /// over. Comes instead of `handle_durable` for the base. Reports about a session that is gone are ignored.
    pub fn handle_base_refused(&mut self, now: Time, session: SessionId, text: &str) {
        let is_current = |current: &&Session| current.link.session == session && !current.has_base;
        if self.session.as_ref().filter(is_current).is_none() {
            return;
        }
        match self.state {
            Protected => {
                if self.connection == Connection::Primary {
                    let reason = GoodbyeReason::BackupStops;
                    self.send(now, &Message::Goodbye(Goodbye { reason, text: text.to_owned() }));
                }
                self.discard(DiscardReason::Refused);
                self.drop_connection(now);
            }
            // The guest has ended on the primary: its base is not needed any more.
            Ended => self.finish_ended(),
            _ => {}
        }
    }

    /// The answer to [`BackupAction::ReadMemory`]: `read` gives a page of the guest's memory as it is here now. What epochs before
    /// this one, and it itself, have still to change there is put over it.
    pub fn handle_memory(&mut self, session: SessionId, epoch: EpochId, read: impl FnMut(Gfn, &mut Page)) {
        let Some(current) = self.session.as_mut().filter(|current| current.link.session == session) else { return };
        if let Some(whole) = current.complete(epoch, read) {
            // Before what was wanted of later epochs.
            self.actions.push_front(BackupAction::Persist(whole));
        }
    }

    /// `epoch` of `session` is as durable as asked. In order. Reports about a session that is gone are ignored, also where a
    /// peer uses its number again.
    pub fn handle_durable(&mut self, now: Time, session: SessionId, epoch: EpochId) {
        let Some(current) = self.session.as_mut().filter(|current| current.link.session == session) else { return };
        if current.mark_of(epoch).is_none() || epoch != self.pointers.complete().next() {
            return;
        }
        current.has_base = true;
        self.pointers.complete_one(epoch);
        self.apply_committed();
        self.acknowledge(now);
    }

    /// Has every epoch applied that is complete and known to be committed. What is above could be dropped from the end, and
    /// stays apart. While the next epoch arrives they wait, unless they are many: its ack, for which output waits, comes first.
    fn apply_committed(&mut self) {
        let upto = self.pointers.complete().min(self.pointers.committed());
        if self.is_receiving() && self.unapplied_bytes() <= self.config.ack_bytes_max {
            return;
        }
        let Some(session) = &mut self.session else { return };
        while let Some(epoch) = session.next_to_apply(upto) {
            self.actions.push_back(BackupAction::Apply(epoch));
        }
    }

    /// The primary is there, and an epoch of it is not whole yet.
    fn is_receiving(&self) -> bool {
        let is_open = self.session.as_ref().is_some_and(|session| session.assembly.is_open());
        is_open && self.state == Protected && self.connection == Connection::Primary
    }

    /// Bytes that could be applied and are not.
    fn unapplied_bytes(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.unapplied_bytes(self.pointers.committed()))
    }

    /// It is settled who goes on with the guest: all that is whole here counts.
    pub(super) fn commit_all(&mut self) {
        self.pointers.commit_all();
        self.apply_committed();
        self.settle();
    }

    /// `epoch` of `session` was applied. In order. Reports about a session that is gone are ignored, as above.
    pub fn handle_applied(&mut self, now: Time, session: SessionId, epoch: EpochId) {
        let Some(current) = self.session.as_mut().filter(|current| current.link.session == session) else { return };
        if epoch > current.applying || !current.is_next(epoch) {
            return;
        }
        current.applied(epoch);
        self.pointers.apply_one(epoch);
        self.acknowledge(now);
        self.settle();
    }

    /// The newest record, as it was read after a claim that was lost, and at each look. If it lists the kept copy still, whoever won fills
    /// this backup, removes it, or dies before it did: then the copy is claimed again.
    pub fn handle_newest(&mut self, now: Time, newest: &Record) {
        let join = match (self.state, &self.session, &self.kept) {
            (Keeping, Some(session), _) => session.link.session,
            (Waiting, _, Some(kept)) => kept.over.session,
            _ => return,
        };
        if newest.backups.iter().any(|member| member.join == join) {
            self.reclaim_at.get_or_insert(now.after(self.config.detect * RECLAIM_DETECTS));
        }
    }

    /// The witness answered, or did not. Answers about another session or a settled one are ignored.
    pub fn handle_claim(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        let is_of_kept = self.state == Claiming && self.session.is_none();
        match result {
            ClaimResult::Unreachable if is_of_kept => {
                self.claim_retry_at = Some(now.after(self.config.claim_retry));
                return;
            }
            ref result if is_of_kept || self.state == Overriding => return self.take_kept(session, result),
            _ => {}
        }
        if self.state != Claiming || self.session_id() != Some(session) {
            return;
        }
        // An answer may come twice: what was to be asked again after the first is answered by the second.
        self.claim_retry_at = None;
        match result {
            ClaimResult::Granted => {
                self.state = TakingOver;
                self.commit_all();
            }
            ClaimResult::Denied { holder } => {
                self.state = Keeping;
                self.session.as_mut().expect("a claiming backup has a session").holder = Some(holder);
                self.commit_all();
            }
            ClaimResult::Unreachable => self.claim_retry_at = Some(now.after(self.config.claim_retry)),
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.silent_at().is_some_and(|at| now >= at) {
            self.drop_connection(now);
        }
        if self.beat_at().is_some_and(|at| now >= at) {
            let (released, complete) = (self.pointers.released(), self.pointers.complete());
            let committed = self.pointers.committed();
            self.send(now, &Message::Heartbeat(Heartbeat { released, complete, committed }));
        }
        if self.lost_at().is_some_and(|at| now >= at) {
            self.state = Claiming;
            self.ask_claim();
        }
        if self.claim_retry_at.is_some_and(|at| now >= at) {
            self.ask_claim();
        }
        if self.reclaim_due().is_some_and(|at| now >= at) {
            self.state = Claiming;
            self.reclaim_at = None;
            self.ask_claim();
        }
    }

    /// The operator stops the backup: it tells the primary, which must still claim the session. False: it must not stop
    /// now. It asks for the right to the guest or has it, so that its end may be the guest's.
    pub fn handle_stop(&mut self, now: Time, text: &str) -> bool {
        if matches!(self.state, Claiming | Overriding | TakingOver | TookOver) {
            return false;
        }
        if self.connection == Connection::Primary {
            let reason = GoodbyeReason::BackupStops;
            self.send(now, &Message::Goodbye(Goodbye { reason, text: text.to_owned() }));
        }
        true
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<BackupAction> {
        self.actions.pop_front()
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let claim = [self.claim_retry_at, self.reclaim_due()];
        [self.silent_at(), self.lost_at(), self.beat_at()].into_iter().chain(claim).flatten().min()
    }

    /// A frame for a connection that this core is not given: no, and why.
    pub fn refusal(&self, code: RefuseCode, text: &str) -> Vec<u8> {
        let link = Link { vm: self.vm, session: SessionId::default(), term: self.term_seen };
        Message::Refuse(Refuse { code, text: text.to_owned() }).to_frame(&link, EpochId(0))
    }

    /// Where it is.
    pub fn state(&self) -> BackupState {
        self.state
    }

    /// The pointers. Meaningless while waiting and before a base began.
    pub fn pointers(&self) -> BackupPointers {
        self.pointers
    }

    /// The branch of the session that is not settled: of that its pointers are.
    pub fn branch(&self) -> Option<Term> {
        self.session.as_ref().map(|session| session.link.term)
    }

    /// The session that is not settled.
    pub fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.link.session)
    }

    /// Bytes that wait to be applied or released.
    pub fn waiting_bytes(&self) -> usize {
        self.session.as_ref().map_or(0, Session::waiting_bytes)
    }

    /// Errors of peers so far.
    pub fn peer_errors(&self) -> u64 {
        self.peer_errors
    }

    fn take_first_frame(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        let (kind, link) = (frame.kind, frame.link);
        if kind == Kind::Heartbeat {
            // Of a primary that has nothing to say yet, or nothing more: it overtakes what waits to be sent. It proves
            // nothing.
            return Ok(());
        }
        let message = frame.into_message().map_err(|source| PeerError::Body { kind, source })?;
        let Message::Hello(hello) = message else {
            return Err(PeerError::Unexpected { kind, state: "waiting for Hello" });
        };
        if hello.vm_name != self.config.vm_name {
            return Err(PeerError::WrongName { ours: self.config.vm_name.clone(), theirs: hello.vm_name });
        }
        match self.objection(&link) {
            Some((code, text)) => self.refuse(now, &link, code, text),
            None => self.greet(now, link, hello),
        }
        Ok(())
    }

    /// Why a Hello cannot be accepted whatever its machine.
    fn objection(&self, link: &Link) -> Option<(RefuseCode, &'static str)> {
        match self.state {
            TakingOver | TookOver => Some((RefuseCode::NotABackup, "the guest runs here")),
            Ended => Some((RefuseCode::Other, "the guest has ended, and this backup ends with it")),
            Overriding => Some((RefuseCode::Busy, "an operator has the guest continue here")),
            Claiming => Some((RefuseCode::Busy, "the witness is asked for the guest")),
            _ if self.session.is_some() => Some((RefuseCode::Busy, "an earlier session is not settled yet")),
            _ if link.term < self.term_seen => Some((RefuseCode::StaleTerm, "a newer primary was here")),
            _ if self.settled == Some(link.session) => Some((RefuseCode::Other, "this session is over")),
            _ => None,
        }
    }

    fn greet(&mut self, now: Time, link: Link, hello: Hello) {
        self.connection = Connection::Primary;
        self.state = Greeting;
        // Who won removes this place from the record before it greets. If this is another one, the next look says that it is listed still.
        self.reclaim_at = None;
        (self.last_heard, self.last_sent) = (now, now);
        self.session = Some(Session::new(link, &hello, self.config.staged_bytes_beyond_ram));
        self.actions.push_back(BackupAction::Greeted(Box::new(hello)));
    }

    fn refuse(&mut self, now: Time, link: &Link, code: RefuseCode, text: &str) {
        self.transmits.push_back(Message::Refuse(Refuse { code, text: text.to_owned() }).to_frame(link, EpochId(0)));
        self.actions.push_back(BackupAction::Disconnect);
        self.connection = Connection::None { since: now };
        if matches!(self.state, Greeting | Syncing) {
            self.discard(DiscardReason::Refused);
        }
    }

    fn take_frame(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        self.check_link(&frame.link)?;
        self.last_heard = now;
        let kind = frame.kind;
        match (self.state, kind) {
            (state, Kind::Heartbeat | Kind::Goodbye) if state != TakingOver => self.take_anytime(now, frame),
            (Protected, Kind::Forswear) => self.take_forswear(frame),
            (Protected, Kind::Handover) => self.take_handover(frame),
            // It handed its guest over: what it says now is that it lives.
            (TakingOver, _) => Ok(()),
            (Syncing, Kind::ResyncPages | Kind::ResyncDisk | Kind::DiskOffer) => self.take_resync(frame),
            (
                Syncing | Protected,
                Kind::EpochBegin
                | Kind::EventLog
                | Kind::Pages
                | Kind::State
                | Kind::StateDelta
                | Kind::DiskWrites
                | Kind::DiskCopies
                | Kind::Outputs
                | Kind::EpochEnd,
            ) => self.take_epoch(frame),
            _ => Err(PeerError::Unexpected { kind, state: self.state.name() }),
        }
    }

    fn check_link(&self, theirs: &Link) -> Result<(), PeerError> {
        let ours = self.session.as_ref().expect("a primary at the other end means a session").link;
        if theirs.session != ours.session {
            return Err(PeerError::WrongSession { ours: ours.session, theirs: theirs.session });
        }
        if theirs.term != ours.term {
            return Err(PeerError::WrongTerm { ours: ours.term, theirs: theirs.term });
        }
        Ok(())
    }

    fn take_forswear(&mut self, frame: Frame) -> Result<(), PeerError> {
        let (kind, session) = (frame.kind, frame.link.session);
        if let Message::Forswear(forswear) = frame.into_message().map_err(|source| PeerError::Body { kind, source })? {
            self.actions.push_back(BackupAction::Forswear { session, forswear: Box::new(forswear) });
        }
        Ok(())
    }

    /// The answer to [`BackupAction::Forswear`]. It holds whether or not the primary can still be told.
    pub fn handle_forsworn(&mut self, now: Time, session: SessionId, forsworn: Forsworn) {
        let is_there = self.connection == Connection::Primary && self.session_id() == Some(session);
        if self.state == Protected && is_there {
            self.send(now, &Message::Forsworn(forsworn));
        }
    }

    fn take_anytime(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        let kind = frame.kind;
        match frame.into_message().map_err(|source| PeerError::Body { kind, source })? {
            Message::Heartbeat(beat) if self.state == Protected => {
                self.take_released(beat.released)?;
                self.take_committed(beat.committed)
            }
            Message::Heartbeat(_) => Ok(()),
            Message::Goodbye(goodbye) => {
                self.take_goodbye(now, goodbye);
                Ok(())
            }
            _ => unreachable!("the caller passes heartbeats and goodbyes"),
        }
    }

    fn take_committed(&mut self, upto: EpochId) -> Result<(), PeerError> {
        let limit = self.pointers.acked();
        if upto > limit {
            return Err(PeerError::Impossible { what: "committed", theirs: upto, limit });
        }
        self.pointers.committed_by_peer(upto);
        self.apply_committed();
        Ok(())
    }

    pub(super) fn take_released(&mut self, upto: EpochId) -> Result<(), PeerError> {
        let limit = self.pointers.acked();
        if upto > limit {
            return Err(PeerError::Impossible { what: "released", theirs: upto, limit });
        }
        self.pointers.released_by_peer(upto);
        self.session.as_mut().expect("a protected backup has a session").released(upto);
        self.apply_committed();
        Ok(())
    }

    fn take_goodbye(&mut self, now: Time, Goodbye { reason, text }: Goodbye) {
        match reason {
            GoodbyeReason::GuestEnded if self.state == Protected => {
                self.state = Ended;
                self.actions.push_back(BackupAction::Disconnect);
                self.close(now);
                self.session.as_mut().expect("a protected backup has a session").end_text = Some(text);
                self.commit_all();
            }
            GoodbyeReason::GuestEnded => {
                self.discard(DiscardReason::LostBeforeBase);
                self.drop_connection(now);
                self.state = Ended;
                self.actions.push_back(BackupAction::Ended { text });
            }
            GoodbyeReason::Unprotected | GoodbyeReason::BackupStops | GoodbyeReason::Continued => {
                self.discard(DiscardReason::Unprotected);
                self.drop_connection(now);
            }
        }
    }

    fn take_resync(&mut self, frame: Frame) -> Result<(), PeerError> {
        let kind = frame.kind;
        let assembly = &self.session.as_ref().expect("a syncing backup has a session").assembly;
        if assembly.is_open() {
            return Err(PeerError::Unexpected { kind, state: "an epoch is open" });
        }
        let machine = assembly.machine();
        let action = match frame.into_message().map_err(|source| PeerError::Body { kind, source })? {
            Message::ResyncPages(body) => BackupAction::ResyncPages(PageBatch::validate(body, machine, false)?),
            Message::ResyncDisk(ResyncDisk { disk, offset, data }) => {
                check_disk_range(machine, disk, offset, data.len())?;
                BackupAction::ResyncDisk(ResyncDisk { disk, offset, data })
            }
            Message::DiskOffer(offer) => {
                let start = offer.first_chunk.saturating_mul(u64::from(offer.chunk_bytes));
                // The last chunk may be cut by the disk's end, but it begins before that.
                let before_last = offer.hashes.len().saturating_sub(1).saturating_mul(offer.chunk_bytes as usize);
                // Disks that the guest cannot write are compared too.
                check_disk_exists(machine, offer.disk, start, before_last.saturating_add(1))?;
                BackupAction::DiskOffered(offer)
            }
            _ => unreachable!("the caller passes resync frames"),
        };
        self.actions.push_back(action);
        Ok(())
    }

    fn take_epoch(&mut self, frame: Frame) -> Result<(), PeerError> {
        let session = self.session.as_mut().expect("syncing and protected backups have a session");
        let waiting = session.waiting_bytes();
        match session.assembly.handle_frame(frame, waiting)? {
            Assembled::Begun(epoch, begin) => self.begin_epoch(epoch, begin),
            Assembled::Part => Ok(()),
            Assembled::Whole(epoch) => {
                self.finish_epoch(Arc::new(*epoch));
                Ok(())
            }
        }
    }

    fn begin_epoch(&mut self, epoch: EpochId, EpochBegin { base, released }: EpochBegin) -> Result<(), PeerError> {
        if base.is_none() {
            return self.take_released(released);
        }
        // Output before the base is nowhere but on the primary; it must have left.
        if released != epoch.prev() {
            return Err(PeerError::Impossible { what: "released", theirs: released, limit: epoch.prev() });
        }
        self.pointers.rebase(epoch);
        Ok(())
    }

    fn finish_epoch(&mut self, epoch: Arc<AssembledEpoch>) {
        self.pointers.assemble(epoch.mark.count);
        self.state = Protected;
        let session = self.session.as_mut().expect("an epoch was assembled in it");
        session.push(&epoch);
        self.actions.push_back(match epoch.disk_copies.is_empty() {
            true => BackupAction::Persist(epoch),
            false => BackupAction::ReadMemory { session: session.link.session, epoch: epoch.mark.count },
        });
        self.apply_committed();
    }

    /// Acks what is complete, unless the primary is lost or too much waits to be applied.
    fn acknowledge(&mut self, now: Time) {
        let complete = self.pointers.complete();
        let is_due = complete > self.pointers.acked() && self.unapplied_bytes() <= self.config.ack_bytes_max;
        if self.state == Protected && self.connection == Connection::Primary && is_due {
            let mark = self.session.as_ref().and_then(|session| session.mark_of(complete));
            let chain = mark.expect("what is complete waits here, or was applied last").chain;
            self.pointers.ack(complete);
            self.send(now, &Message::Ack(Ack { complete, chain }));
        }
    }

    /// Finishes a takeover or an end once all that was assembled is applied.
    fn settle(&mut self) {
        if self.pointers.applied() != self.pointers.assembled() {
            return;
        }
        match self.state {
            TakingOver => self.take_over(),
            Keeping => self.keep(),
            Ended => self.finish_ended(),
            _ => {}
        }
    }

    fn take_over(&mut self) {
        let over = self.close_session();
        self.state = TookOver;
        self.term_seen = over.term;
        self.actions.push_back(BackupAction::TakeOver(Box::new(over)));
    }

    fn keep(&mut self) {
        let holder = self.session.as_mut().and_then(|session| session.holder.take()).unwrap_or_default();
        let over = self.close_session();
        self.state = Waiting;
        self.actions.push_back(BackupAction::Keep { epoch: over.fork, holder: holder.clone() });
        self.kept = Some(GuestCopy { holder, over });
    }

    fn take_kept(&mut self, session: SessionId, result: &ClaimResult) {
        let Some(GuestCopy { holder, over }) = self.kept.take_if(|kept| kept.over.session == session) else { return };
        self.claim_retry_at = None;
        let was_claiming = self.state == Claiming;
        if *result == ClaimResult::Granted {
            (self.state, self.term_seen) = (TookOver, over.term);
            return self.actions.push_back(BackupAction::TakeOver(Box::new(over)));
        }
        self.state = Waiting;
        let holder = match result {
            ClaimResult::Denied { holder } if was_claiming => holder.clone(),
            _ => holder,
        };
        self.kept = Some(GuestCopy { holder, over });
    }

    /// When the kept copy is claimed again: not while somebody is here.
    fn reclaim_due(&self) -> Option<Time> {
        self.reclaim_at.filter(|_| self.state == Waiting && self.kept.is_some())
    }

    /// Ends the session with all that a guest can continue from. Everything assembled was applied.
    fn close_session(&mut self) -> TakeOver {
        let mut session = self.session.take().expect("the session is not settled");
        let fork = session.mark_of(self.pointers.applied()).expect("a session that is settled so has a whole base");
        self.settled = Some(session.link.session);
        self.claim_retry_at = None;
        TakeOver {
            handover: session.is_handed_over.then(|| Offer::of(&session.link)),
            session: session.link.session,
            fork,
            term: session.link.term.next(),
            reemit: session.take_held(),
            redeliver: session.assembly.inputs_of_open(),
            state: session.state,
        }
    }

    fn finish_ended(&mut self) {
        if let Some(session) = self.session.take() {
            let text = session.end_text.unwrap_or_default();
            self.settled = Some(session.link.session);
            self.actions.push_back(BackupAction::Ended { text });
        }
    }

    /// Forgets the session; another primary may come.
    fn discard(&mut self, reason: DiscardReason) {
        let session = self.session.take().map(|session| session.link.session);
        self.settled = session.or(self.settled);
        // One whose Hello was not accepted is not listed.
        let session = session.filter(|_| self.state != Greeting);
        self.state = Waiting;
        self.claim_retry_at = None;
        self.actions.push_back(BackupAction::Discard { session, reason });
    }

    fn drop_connection(&mut self, now: Time) {
        if !matches!(self.connection, Connection::None { .. }) {
            self.actions.push_back(BackupAction::Disconnect);
            self.close(now);
        }
    }

    fn close(&mut self, now: Time) {
        let was = std::mem::replace(&mut self.connection, Connection::None { since: now });
        if was == Connection::Primary && matches!(self.state, Greeting | Syncing) {
            self.discard(DiscardReason::LostBeforeBase);
        }
    }

    /// When a connection on which nothing comes is dropped.
    fn silent_at(&self) -> Option<Time> {
        match self.connection {
            Connection::None { .. } => None,
            Connection::Stranger { since } => Some(since.after(self.config.detect)),
            Connection::Primary => Some(self.last_heard.after(self.config.detect)),
        }
    }

    /// When a heartbeat is due. A primary that handed its guest over is still connected when its session is settled here.
    fn beat_at(&self) -> Option<Time> {
        let beats = self.connection == Connection::Primary && self.session.is_some();
        beats.then(|| self.last_sent.after(self.config.heartbeat))
    }

    /// When the primary counts as lost, if it could be replaced.
    fn lost_at(&self) -> Option<Time> {
        let silent = self.last_heard.after(self.config.detect);
        match self.connection {
            _ if self.state != Protected || !self.has_base() => None,
            Connection::Primary => Some(silent),
            Connection::None { since } => Some(silent.min(since.after(self.config.disconnect_grace))),
            Connection::Stranger { .. } => Some(silent),
        }
    }

    /// Whether the base was found to run here: before that the session is not asked for.
    fn has_base(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.has_base)
    }

    fn ask_claim(&mut self) {
        self.claim_retry_at = None;
        let (session, fork) = match (&self.session, &self.kept) {
            (None, Some(GuestCopy { over, .. })) => (over.session, over.fork),
            (session, _) => {
                let session = session.as_ref().expect("a claiming backup has a session, or a copy");
                let fork = session.mark_of(self.pointers.assembled()).expect("a claiming backup has a whole base");
                (session.link.session, fork)
            }
        };
        self.actions.push_back(BackupAction::Claim { session, fork });
    }

    fn send(&mut self, now: Time, message: &Message) {
        let link = self.session.as_ref().expect("frames are sent inside a session").link;
        self.last_sent = now;
        self.transmits.push_back(message.to_frame(&link, EpochId(0)));
    }
}

impl BackupState {
    fn name(self) -> &'static str {
        match self {
            Waiting => "waiting",
            Greeting => "checking the machine",
            Syncing => "syncing",
            Protected => "protected",
            Claiming => "claiming",
            Keeping => "keeping what it has",
            Overriding => "being told to go on against the witness",
            TakingOver => "taking over",
            TookOver => "running the guest",
            Ended => "ended",
        }
    }
}
