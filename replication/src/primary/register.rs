//! What the witness says, and what becomes of the guest with it.

use super::session::{Listing, Phase, Session};
use super::{Doubt, GuestEnd, Meeting, Parting, PeerId, Primary, PrimaryAction, Question, SoloReason, Standing};
use crate::commit::CommitPlace;
use crate::id::{ClaimResult, EpochId, SessionId, Time};
use crate::wire::GoodbyeReason;

impl Primary {
    /// The answer to [`Question::Look`].
    pub fn handle_looked(&mut self, now: Time, result: ClaimResult) {
        if let ClaimResult::Denied { holder } = result {
            return self.fence(holder);
        }
        if !self.errands.is_asked(&Question::Look) {
            return;
        }
        // Where no backup could have taken over, no answer is as good as one.
        if result == ClaimResult::Granted || !self.state().waits_for_backup() {
            return self.end_doubt();
        }
        self.errands.put_again(&Question::Look, now.after(self.config.claim_retry));
    }

    /// What a look at the register found for which nobody had asked. Only that it names another primary counts: this one stops,
    /// whatever it was about. All else may be older than a doubt that came up meanwhile, and settles nothing.
    pub fn handle_unasked_look(&mut self, result: ClaimResult) {
        if let ClaimResult::Denied { holder } = result {
            self.fence(holder);
        }
    }

    /// The answer to [`Question::Meet`].
    pub fn handle_met(&mut self, now: Time, session: SessionId, meeting: Meeting) {
        let met = self.peers.of_session(session).filter(|peer| self.phase(*peer) == Some(Phase::Meeting));
        let Some(peer) = met else { return };
        let (reason, text) = match meeting {
            Meeting::Same => return self.begin_filling(now, peer),
            Meeting::Other => (SoloReason::OtherWitness, "the two sides do not see the same witness"),
            Meeting::NoAnswer => (SoloReason::WitnessAway, "the primary's witness does not answer"),
        };
        self.part(now, peer, GoodbyeReason::Unprotected, text);
        self.let_go(peer, reason);
        self.end_if_released(now);
    }

    /// The backup of `session` has all but the base.
    pub fn handle_filled(&mut self, session: SessionId) {
        let Some(peer) = self.peers.of_session(session) else { return };
        let Some(current) = &mut self.peers.get_mut(peer).session else { return };
        if current.phase == Phase::Syncing && current.listing == Listing::NotAsked {
            current.listing = Listing::Asked;
            let place = current.place().cloned().map(Box::new);
            let listed = |other: &&Session| other.id() != session && other.listing != Listing::NotAsked;
            let beside = self.peers.sessions().filter(listed).map(Session::id).chain(self.siblings.joins()).collect();
            self.ask(Question::Enlist { session, place, beside });
        }
    }

    /// The answer to [`Question::Enlist`]. One about a session that was given up is settled by delisting it.
    pub fn handle_enlisted(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        if let ClaimResult::Denied { holder } = result {
            return self.fence(holder);
        }
        if self.is_granted(now, &Question::enlist(session), result)
            && let Some(peer) = self.peers.of_session(session)
            && let Some(current) = &mut self.peers.get_mut(peer).session
        {
            current.listing = Listing::Listed;
        }
    }

    /// The answer to [`Question::Delist`].
    pub fn handle_delisted(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        self.is_granted(now, &Question::Delist { session }, result);
    }

    /// The answer to [`Question::RecordEnd`].
    pub fn handle_end_recorded(&mut self, now: Time, result: ClaimResult) {
        if self.is_granted(now, &Question::RecordEnd, result) {
            self.finish_end(now);
        }
    }

    /// The answer to [`Question::Claim`]. Answers about another session or a settled one are ignored.
    pub fn handle_claim(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        if self.siblings.is_leaving(session) && !self.is_over() {
            return self.take_sibling_claim(now, session, result);
        }
        let leaving =
            self.peers.of_session(session).filter(|id| self.peers.get(*id).is_some_and(|peer| peer.is_leaving));
        let Some(peer) = leaving.filter(|_| !self.is_over()) else { return };
        // An answer may come twice: what was to be asked again after the first is answered by the second.
        match result {
            ClaimResult::Granted => self.win_claim(now, peer),
            ClaimResult::Denied { holder } => self.fence(holder),
            ClaimResult::Unreachable => {
                self.errands.put_again(&Question::Claim { session }, now.after(self.config.claim_retry));
            }
        }
    }

    fn take_sibling_claim(&mut self, now: Time, session: SessionId, result: ClaimResult) {
        match result {
            ClaimResult::Granted => self.win_sibling(now, session),
            ClaimResult::Denied { holder } => self.fence(holder),
            ClaimResult::Unreachable => {
                self.errands.put_again(&Question::Claim { session }, now.after(self.config.claim_retry));
            }
        }
    }

    /// Whether the answer to `question` settles it as wished. No answer: it is put again later. One that nobody waits for is
    /// ignored.
    pub(super) fn is_granted(&mut self, now: Time, question: &Question, result: ClaimResult) -> bool {
        if !self.errands.is_asked(question) {
            return false;
        }
        match result {
            ClaimResult::Granted => {
                self.errands.settle(question);
                true
            }
            ClaimResult::Unreachable => {
                self.errands.put_again(question, now.after(self.config.claim_retry));
                false
            }
            ClaimResult::Denied { holder } => {
                self.fence(holder);
                false
            }
        }
    }

    /// Puts a question that is asked until it is settled.
    pub(super) fn ask(&mut self, question: Question) {
        self.errands.open(question.clone());
        if !self.is_adopting() {
            self.actions.push_back(PrimaryAction::Ask(question));
        }
    }

    /// Puts again what the witness did not answer, when it is time to.
    pub(super) fn ask_again(&mut self, now: Time) {
        while let Some(question) = self.errands.poll_due(now) {
            self.actions.push_back(PrimaryAction::Ask(question));
        }
    }

    /// The backup at `peer` is to be out of the view. Output waits until the witness says who goes on with the guest.
    pub(super) fn arbitrate(&mut self, peer: PeerId) {
        self.end_unoffered();
        let leaving = self.peers.get_mut(peer);
        leaving.is_leaving = true;
        let session = leaving.session_id().expect("there is a backup to arbitrate about");
        self.ask(Question::Claim { session });
    }

    fn win_claim(&mut self, now: Time, peer: PeerId) {
        // Also if the guest has ended meanwhile: a backup that is told nothing takes over, if no witness keeps it.
        let reason = match self.peers.get_mut(peer).parting.take() {
            Some(Parting::Unprotect { text }) => {
                // The record without the backup is there: told of the end it ends too, and nobody continues what it has.
                // Another backup may claim the guest before its end is on record.
                let is_last = self.peers.iter().filter(|other| other.session.is_some()).count() == 1;
                let ends = is_last && self.guest_ended.as_ref().is_some_and(|end| !end.begins_anew);
                let reason = if ends { GoodbyeReason::GuestEnded } else { GoodbyeReason::Unprotected };
                self.part(now, peer, reason, &text);
                SoloReason::Unprotected
            }
            Some(Parting::Mute) => {
                self.part(now, peer, GoodbyeReason::Unprotected, "the backup acked nothing for too long");
                SoloReason::Mute
            }
            None => SoloReason::ClaimGranted,
        };
        if let Some(session) = &mut self.peers.get_mut(peer).session {
            // The register does not list it any more.
            session.listing = Listing::NotAsked;
        }
        // Nobody took over before this side's own record; another backup may have since.
        self.let_go(peer, reason);
        self.end_if_released(now);
    }

    /// The guest goes on without the backup at `peer`. No base can be sealed for its session any more; that the register may list
    /// it is mended later.
    pub(super) fn let_go(&mut self, peer: PeerId, reason: SoloReason) {
        self.end_filling(peer);
        self.end_handover_to(peer);
        let gone = self.peers.get_mut(peer);
        gone.is_leaving = false;
        if let Some(session) = gone.session.take() {
            let (session, listing) = (session.id(), session.listing);
            self.commit.leave(CommitPlace::Peer(session));
            self.errands.settle(&Question::enlist(session));
            self.errands.settle(&Question::Claim { session });
            self.actions.push_back(PrimaryAction::WentSolo { peer, reason });
            if listing != Listing::NotAsked {
                self.ask(Question::Delist { session });
            }
        }
        // Where no backup is left that could have taken over, there is nothing to doubt.
        if !self.peers.is_any_shipped_to() && !self.is_frozen() {
            self.end_doubt();
        }
        self.advance();
    }

    /// Another side has the guest. Nothing leaves any more.
    pub(super) fn fence(&mut self, holder: String) {
        if self.is_over() {
            return;
        }
        self.standing = Standing::Fenced;
        for peer in self.peers.ids() {
            self.end_filling(peer);
            self.peers.get_mut(peer).parting = None;
            self.actions.push_back(PrimaryAction::Disconnect { peer });
        }
        self.guest_ended = None;
        self.exchanging = None;
        self.forget_questions();
        let word = self.parting_word(holder);
        self.actions.push_back(word);
    }

    /// Output has left, or an ack came: what waits for that may be due.
    pub(super) fn end_if_released(&mut self, now: Time) {
        self.offer_if_due(now);
        let Some(GuestEnd { begins_anew, .. }) = self.guest_ended else { return };
        if self.is_frozen() || self.left != self.pointers().sealed() {
            return;
        }
        if begins_anew {
            return self.finish_end(now);
        }
        if !self.errands.is_open(&Question::RecordEnd) {
            self.ask(Question::RecordEnd);
        }
    }

    /// The register knows of the end, or goes on with the guest: the backup may be told.
    fn finish_end(&mut self, now: Time) {
        let Some(GuestEnd { text, .. }) = self.guest_ended.take() else { return };
        for peer in self.peers.ids() {
            if self.peer_state(peer).is_connected() {
                self.part(now, peer, GoodbyeReason::GuestEnded, &text);
            }
            self.end_filling(peer);
            self.peers.get_mut(peer).session = None;
        }
        self.standing = Standing::Ended;
        self.handover = None;
        self.forget_questions();
        self.actions.push_back(PrimaryAction::Ended);
    }

    /// Nothing is asked any more: it is settled what becomes of the guest here.
    fn forget_questions(&mut self) {
        (self.doubt, self.lost_store) = (None, None);
        self.errands.clear();
    }

    /// Looks whether this host stood still for so long that its backup may have taken over. The timers of a connection
    /// that is in use never leave this core without news for so long.
    pub(super) fn note_time(&mut self, now: Time) {
        let last = self.last_told.map_or(now, |last| last.max(now));
        let stood_still = self.last_told.is_some_and(|last| now.since(last) >= self.config.detect);
        self.last_told = Some(last);
        if stood_still {
            self.peers.iter_mut().for_each(|(_, peer)| peer.filling.excuse(now));
        }
        if stood_still && !self.is_over() && self.peers.is_any_shipped_to() {
            self.begin_doubt(None);
        }
    }

    pub(super) fn begin_doubt(&mut self, late: Option<EpochId>) {
        let sealed = self.pointers().sealed();
        match &mut self.doubt {
            Some(doubt) => doubt.late = doubt.late.max(late),
            None => {
                self.doubt = Some(Doubt { sealed, late });
                self.ask(Question::Look);
            }
        }
    }

    pub(super) fn end_doubt(&mut self) {
        self.errands.settle(&Question::Look);
        if let Some(Doubt { late: Some(upto), .. }) = self.doubt.take() {
            self.actions.push_back(PrimaryAction::Release { upto });
        }
        self.advance();
    }
}
