//! The guest is handed over to its backup by an operator's will: a takeover for which the primary stands aside.
//!
//! ```text
//!               begun: the guest stands still, and its last epoch is sealed
//!                   │                          ╲ the backup is lost, or the operator waits no longer
//!   all acked, all  │                           ▶ called off: nothing was said to the backup
//!   output has left ▼
//!               Offered ── the backup asks the witness when it has the guest restored
//!                   │ it says that the guest runs there, is lost, or is silent for too long: this side asks to remove it
//!         ┌─────────┴──────────┐
//!      lost: HandedOver     won: the guest goes on here, alone
//! ```
//!
//! - Once it was offered, nothing here runs the guest, whatever is heard or not heard, before the witness has said whose it is.
//! - Before it is offered nothing has changed: it can be called off.
//! - So there is no new right and no new record: the backup claims the guest as it would after a loss, this side removes the backup as
//!   it would, and of the two appends one wins. What is new is the order: the backup has all, and none of it is to be emitted again.

use super::session::Phase;
use super::{PeerId, Primary, PrimaryAction, PrimaryState};
use crate::id::Time;
use crate::wire::{Handover, Message};

/// Why a guest is not handed over now. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHandover {
    /// Nothing could decide whose the guest is: there is no witness.
    Unwitnessed,
    /// No backup has the guest: this is how the primary stands.
    Unprotected(PrimaryState),
    /// It has other backups too, connected or being so: which of them could follow the new primary is not known to it.
    Several,
    /// Another handover is under way.
    UnderWay,
    /// The witness is being exchanged.
    Exchanging,
    /// The state directory is being removed from the register.
    StoreLost,
    /// The guest ends, or another side has it.
    Over,
}

/// How far it is, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandoverPhase {
    /// The guest stands still; its last epochs are on their way to the backup, and out.
    Draining(PeerId),
    /// The backup was told, or may have been, at that time.
    Offered(PeerId, Time),
}

impl HandoverPhase {
    fn peer(self) -> PeerId {
        match self {
            HandoverPhase::Draining(peer) | HandoverPhase::Offered(peer, _) => peer,
        }
    }
}

impl Primary {
    /// Whether the guest may be handed over to its backup now.
    pub fn may_hand_over(&self) -> Result<(), NoHandover> {
        match self.state() {
            _ if self.guest_ended.is_some() || self.is_over() => Err(NoHandover::Over),
            _ if !self.config.is_witnessed => Err(NoHandover::Unwitnessed),
            _ if self.handover.is_some() => Err(NoHandover::UnderWay),
            _ if self.is_exchanging() => Err(NoHandover::Exchanging),
            _ if self.is_removing_store() => Err(NoHandover::StoreLost),
            PrimaryState::Protected if self.peers.sessions().count() > 1 => Err(NoHandover::Several),
            PrimaryState::Protected => Ok(()),
            state => Err(NoHandover::Unprotected(state)),
        }
    }

    /// The guest stands still and all of it is sealed: it is to be handed over. Until that is settled nothing may be sealed.
    /// Whether it could be begun.
    pub fn handle_handover_begun(&mut self, now: Time) -> bool {
        let only = self.peers.ids().into_iter().find(|peer| self.phase(*peer) == Some(Phase::Following));
        let target = only.filter(|_| self.may_hand_over().is_ok());
        self.handover = self.handover.or(target.map(HandoverPhase::Draining));
        self.offer_if_due(now);
        target.is_some()
    }

    /// The operator waits no longer. Whether it was called off: not once it was offered.
    pub fn handle_handover_called_off(&mut self) -> bool {
        self.handover.take_if(|phase| matches!(phase, HandoverPhase::Draining(_))).is_some()
    }

    /// Whether the guest stands still to be handed over, and it is not settled whose it is.
    pub fn is_handing_over(&self) -> bool {
        self.handover.is_some()
    }

    /// Whether the backup was told, or may have been: only the witness says whose the guest is.
    pub fn is_offered(&self) -> bool {
        matches!(self.handover, Some(HandoverPhase::Offered(..)))
    }

    /// All of the guest is at the backup, and all of its output has left.
    pub(super) fn offer_if_due(&mut self, now: Time) {
        let Some(HandoverPhase::Draining(peer)) = self.handover else { return };
        let (last, mark) = (self.pointers().sealed(), self.last_mark());
        let is_whole = self.left == last && self.acked(peer) == Some(last) && mark.count == last;
        if is_whole && self.doubt.is_none() && self.phase(peer) == Some(Phase::Following) {
            self.handover = Some(HandoverPhase::Offered(peer, now));
            self.send(now, peer, &Message::Handover(Handover { last, chain: mark.chain }));
        }
    }

    /// The backup at `peer` is out of the view, and the guest goes on.
    pub(super) fn end_handover_to(&mut self, peer: PeerId) {
        self.handover.take_if(|phase| phase.peer() == peer);
    }

    /// What ends a handover that was not offered: the backup is lost or let go.
    pub(super) fn end_unoffered(&mut self) {
        self.handle_handover_called_off();
    }

    /// What is to be told when another side has the guest.
    pub(super) fn parting_word(&mut self, holder: String) -> PrimaryAction {
        match self.handover.take() {
            Some(HandoverPhase::Offered(..)) => PrimaryAction::HandedOver { holder },
            Some(HandoverPhase::Draining(_)) | None => PrimaryAction::Fenced { holder },
        }
    }

    /// When the backup at `peer` has had the offered guest for so long that it is let go, whatever is heard of it: its disk may take nothing.
    /// Until then it may be silent, since one that restores a guest says nothing.
    pub(super) fn offer_ends_at(&self, peer: PeerId) -> Option<Time> {
        match self.handover {
            Some(HandoverPhase::Offered(to, since)) if to == peer => Some(since.after(self.config.ack_wait)),
            _ => None,
        }
    }
}
