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
    /// Seal the running epoch of the stopped guest, behind all that was sealed before. Said once; `handle_handover_sealed`.
    Seal,
    /// The guest runs elsewhere, or has ended: tell the operator.
    Finish,
    /// The guest goes on here: let it run, and tell the operator.
    LetRun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The guest stands still, and what was sealed before leaves no room for its last epoch.
    Stopped,
    Sealing,
    /// The session core has the rest in hand.
    Sealed,
}

/// A switchover that is not settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switchover {
    stage: Stage,
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
        self.switchover = Some(Switchover { stage: Stage::Stopped, until });
    }

    /// The epoch that was asked for is sealed; or it could not be, and the guest goes on.
    pub fn handle_handover_sealed(&mut self, now: Time, is_sealed: bool) {
        // What a machine that has ended says last may be on its way to be sealed.
        let is_begun = is_sealed && !self.has_ended && self.with(now, |core| core.handle_handover_begun(now));
        if let Some(switchover) = &mut self.switchover {
            switchover.stage = Stage::Sealed;
            if !is_begun {
                switchover.until = now;
            }
        }
    }

    /// What the switchover needs now; none: it waits, or there is none.
    pub fn poll_handover(&mut self, now: Time) -> Option<HandoverStep> {
        let Switchover { stage, until } = self.switchover?;
        let (state, is_late) = (self.core.state(), now >= until);
        let is_off = is_late || self.has_ended || state != PrimaryState::Protected;
        let step = match stage {
            _ if matches!(state, PrimaryState::Fenced | PrimaryState::Ended) => HandoverStep::Finish,
            Stage::Sealing => return None,
            Stage::Sealed if self.core.is_offered() => return None,
            // Of a backup that was lost nothing is settled here: it is arbitrated about as ever.
            _ if is_off => HandoverStep::LetRun,
            Stage::Sealed if self.core.is_handing_over() => return None,
            Stage::Sealed => HandoverStep::LetRun,
            Stage::Stopped if self.mode == GuestMode::Epochs && self.core.may_seal() => {
                self.switchover = Some(Switchover { stage: Stage::Sealing, until });
                return Some(HandoverStep::Seal);
            }
            Stage::Stopped => return None,
        };
        self.core.handle_handover_called_off();
        self.switchover = None;
        Some(step)
    }

    /// When a switchover that is not offered is given up, if there is one.
    pub fn handover_until(&self) -> Option<Time> {
        self.switchover.filter(|_| !self.core.is_offered()).map(|switchover| switchover.until)
    }

    /// Whether the backup was told of a switchover: only the witness says whose the guest is.
    pub fn is_offered(&self) -> bool {
        self.switchover.is_some() && self.core.is_offered()
    }
}
