//! An operator's switchover: the guest is handed over to its backup.
//!
//! ```text
//!   stopped ─▶ sealed ─▶ acked, all has left ─▶ offered ─▶ answered: it runs there
//!      └──────────┴───── not in time, lost ──▶ let run       └──▶ let run: it goes on here, alone
//! ```
//!
//! The guest stands still from its last boundary until it is settled whose it is, however long the witness takes for that: the operator
//! may be answered before, that it is not settled. A guest that goes on here lost nothing but time.

use super::{GuestMode, PrimaryPipeline};
use crate::id::Time;
use crate::primary::{NoHandover, PrimaryState};

/// What an operator's switchover needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverStep {
    /// Seal the running epoch of the stopped guest, behind all that was sealed before, then say so with
    /// [`PrimaryPipeline::handle_handover_sealed`]; unless [`PrimaryPipeline::may_seal_handover`] says no at the last moment.
    Seal,
    /// The guest runs elsewhere: tell the operator.
    Finish,
    /// The guest goes on here: let it run, and tell the operator.
    LetRun,
}

/// A switchover that is not settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switchover {
    is_sealed: bool,
    /// Until then the backup must have all of the guest.
    until: Time,
}

impl PrimaryPipeline {
    /// Whether the guest may be handed over to its backup now.
    pub fn may_hand_over(&self) -> Result<(), NoHandover> {
        if self.switchover.is_some() {
            return Err(NoHandover::UnderWay);
        }
        self.core.may_hand_over()
    }

    /// The operator hands the guest over, and it stands still. It runs on here if the backup does not have all of it by then.
    pub fn handle_handover(&mut self, until: Time) {
        self.switchover = Some(Switchover { is_sealed: false, until });
    }

    /// The epoch that was asked for is sealed.
    pub fn handle_handover_sealed(&mut self, now: Time) {
        let is_begun = self.switchover.is_some() && self.with(now, |core| core.handle_handover_begun(now));
        if let Some(switchover) = &mut self.switchover {
            switchover.is_sealed = is_begun;
        }
    }

    /// What the switchover needs now; none: it waits, or there is none.
    pub fn poll_handover(&mut self, now: Time) -> Option<HandoverStep> {
        let Switchover { is_sealed, until } = self.switchover?;
        let step = match self.core.state() {
            // An end of this machine that is not the handover's ends that too.
            PrimaryState::Fenced | PrimaryState::Ended => HandoverStep::Finish,
            _ if is_sealed && self.core.is_offered() => return None,
            _ if self.has_ended || now >= until || self.core.state() != PrimaryState::Protected => HandoverStep::LetRun,
            // The backup was lost and another one is whole since.
            _ if is_sealed && !self.core.is_handing_over() => HandoverStep::LetRun,
            _ if is_sealed => return None,
            _ if self.may_seal_handover() => return Some(HandoverStep::Seal),
            _ => return None,
        };
        self.core.handle_handover_called_off();
        self.switchover = None;
        Some(step)
    }

    /// Whether the last epoch of a guest that is handed over is to be sealed. Asked when no other can come before it.
    pub fn may_seal_handover(&self) -> bool {
        let is_due = self.switchover.is_some_and(|switchover| !switchover.is_sealed);
        is_due && self.mode == GuestMode::Epochs && self.core.may_hand_over().is_ok() && self.core.may_seal()
    }

    /// When a switchover that is not offered is given up, if there is one.
    pub fn handover_until(&self) -> Option<Time> {
        self.switchover.filter(|_| !self.core.is_offered()).map(|switchover| switchover.until)
    }
}
