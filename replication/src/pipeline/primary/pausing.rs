//! An operator's pause, which is state: it is answered when an epoch that records it is committed and all output before it has left.
//!
//! ```text
//!   stopped ─▶ sealed ─▶ committed, left ─▶ answered          let run ─▶ the running epoch committed, left ─▶ answered
//!      └───────────┴──── not in time ─▶ let run
//! ```
//!
//! From the answer on nobody runs the guest before it is resumed, whichever side dies: a takeover and a resume restore what was
//! committed last. A pause that cannot be committed in time is undone. Whether its epoch will be committed is then not known; the
//! next one says again that the guest runs. That a guest was resumed is answered when it is committed too: otherwise it would
//! stand still after a failure although its operator was told that it runs.
//!
//! A guest without epochs cannot be continued elsewhere, so there is nothing to wait for. A base that is sealed later says what is
//! then so.

use super::{GuestMode, PrimaryPipeline};
use crate::id::{EpochId, Time};

/// What an operator's wish that the guest stands still, or runs, needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseStep {
    /// Seal an epoch of the stopped guest, behind all that was sealed before, and say which with
    /// [`PrimaryPipeline::handle_pause_sealed`]; unless [`PrimaryPipeline::may_seal_pause`] says no at the last moment.
    Seal,
    /// Tell the operator that it is done.
    Answer,
    /// It was not done in time, or the machine has ended: tell the operator, and let a guest run that was to stand still.
    GiveUp,
}

/// A wish that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pausing {
    /// The epoch that records it; none: it is to be sealed.
    epoch: Option<EpochId>,
    until: Time,
}

impl PrimaryPipeline {
    /// The operator wants the guest paused, and it stands still: what is sealed of it from here on says so. The operator waits for
    /// the answer until then.
    pub fn handle_paused(&mut self, until: Time) {
        self.pausing = Some(Pausing { epoch: None, until });
    }

    /// This epoch says that the guest stands still.
    pub fn handle_pause_sealed(&mut self, epoch: EpochId) {
        if let Some(pausing) = &mut self.pausing {
            pausing.epoch = Some(epoch);
        }
    }

    /// The operator wants the guest to run, and it does, in epoch `running`.
    pub fn handle_unpaused(&mut self, running: EpochId, until: Time) {
        self.pausing = Some(Pausing { epoch: Some(running), until });
    }

    /// What the operator's wish needs now; none: it waits, or there is none.
    pub fn poll_pause(&mut self, now: Time) -> Option<PauseStep> {
        let Pausing { epoch, until } = self.pausing?;
        let is_late = now >= until;
        let step = match epoch {
            _ if self.has_ended => PauseStep::GiveUp,
            _ if self.mode != GuestMode::Epochs => PauseStep::Answer,
            Some(epoch) if self.core.left() >= epoch => PauseStep::Answer,
            _ if is_late => PauseStep::GiveUp,
            _ if self.may_seal_pause() => return Some(PauseStep::Seal),
            _ => return None,
        };
        self.pausing = None;
        Some(step)
    }

    /// Whether an epoch that says that the guest stands still is to be sealed. Asked when no other can come before it.
    pub fn may_seal_pause(&self) -> bool {
        self.pausing.is_some_and(|pausing| pausing.epoch.is_none()) && self.core.may_seal()
    }

    /// Until when the operator waits, if something is to be answered.
    pub fn pause_until(&self) -> Option<Time> {
        self.pausing.map(|pausing| pausing.until)
    }
}
