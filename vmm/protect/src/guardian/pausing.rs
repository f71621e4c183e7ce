//! An operator's pause: the guest is stopped, and what follows is performed as the pipeline says
//! ([`replication::pipeline::primary::PauseStep`]). It is answered when an epoch that records it is committed.

use std::time::{Duration, Instant};

use replication::Time;
use replication::pipeline::primary::{PauseStep, PrimaryPipeline};
use replication::primary::PrimaryState;

use super::{CONSOLE_LAG_MAX, Guardian};
use machine::gate::NotHeld;
use machine::kvm::KvmError;

/// How long a pause or its end waits for its commit: longer than it takes to find a peer dead and to ask the witness, and shorter than
/// `outlast ctl` waits for its answer.
pub(super) const COMMIT_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a guest was not paused. It runs on, unless its machine has ended.
#[derive(Debug, thiserror::Error)]
pub enum NotPaused {
    /// There is nothing to pause.
    #[error("the machine has ended")]
    Ended,
    /// It was not stopped in time.
    #[error("the guest was not paused and runs on: within {} s it could not be stopped", COMMIT_TIME_MAX.as_secs())]
    NotStopped,
    /// It was, and the epoch that records it was not committed in time.
    #[error("the guest was not paused and runs on: within {} s {}", COMMIT_TIME_MAX.as_secs(), why(*.state))]
    NotCommitted {
        /// How the guest was protected in the end.
        state: PrimaryState,
    },
    /// Its state could not be read.
    #[error("the guest was not paused and runs on: {0}")]
    Kvm(#[from] KvmError),
}

/// What is missing about a guest that was resumed, and runs.
#[derive(Debug, thiserror::Error)]
pub enum NotResumed {
    /// It has ended.
    #[error("the machine has ended")]
    Ended,
    /// No epoch that records it was committed in time.
    #[error("the guest runs on, but stands still again if this host fails now: within {} s {}", COMMIT_TIME_MAX.as_secs(), why(*.state))]
    NotCommitted {
        /// How the guest was protected in the end.
        state: PrimaryState,
    },
}

pub(super) fn why(state: PrimaryState) -> &'static str {
    match state {
        PrimaryState::Arbitrating => "the witness did not say whether the guest may continue here without its backup",
        PrimaryState::Basing | PrimaryState::Protected => "its backup did not confirm it",
        _ => "the state directory took no epoch",
    }
}

impl From<NotHeld> for NotPaused {
    fn from(not_held: NotHeld) -> Self {
        match not_held {
            NotHeld::Ended => Self::Ended,
            NotHeld::TooLate => Self::NotStopped,
        }
    }
}

impl Guardian {
    /// Runs a paused guest on. When this returns without an error, a side that continues the guest later runs it too.
    pub fn unpause(&self) -> Result<(), NotResumed> {
        self.machine.unpause();
        let running = self.machine.epochs().running();
        let until = self.clock.now().after(COMMIT_TIME_MAX);
        self.with_pipeline(|pipeline, _| pipeline.handle_unpaused(running, until));
        self.machine.gate().request_boundary();
        match self.wait_for_pause(until) {
            PauseStep::Answer => Ok(()),
            _ if self.machine.ended().is_some() => Err(NotResumed::Ended),
            _ => Err(NotResumed::NotCommitted { state: self.state() }),
        }
    }

    /// Pauses the guest. When this returns without an error, no epoch is committed, here or at the backup, that would run it
    /// on; and all that it said has left.
    pub fn pause(&self) -> Result<(), NotPaused> {
        if self.machine.is_paused() {
            return Ok(());
        }
        let deadline = Instant::now() + COMMIT_TIME_MAX;
        self.machine.pause(deadline)?;
        self.commit_pause(deadline).inspect_err(|_| self.machine.unpause())?;
        self.machine.egress().drain_console(CONSOLE_LAG_MAX);
        Ok(())
    }

    fn commit_pause(&self, deadline: Instant) -> Result<(), NotPaused> {
        let left = deadline.saturating_duration_since(Instant::now());
        let until = self.clock.now().after(left);
        self.with_pipeline(|pipeline, _| pipeline.handle_paused(until));
        loop {
            match self.wait_for_pause(until) {
                PauseStep::Seal => self.seal_pause(deadline, until)?,
                PauseStep::Answer => return Ok(()),
                PauseStep::GiveUp if self.machine.ended().is_some() => return Err(NotPaused::Ended),
                PauseStep::GiveUp => return Err(NotPaused::NotCommitted { state: self.state() }),
            }
        }
    }

    /// Seals the epoch that says that the guest is paused, unless what was sealed before leaves no room for it.
    fn seal_pause(&self, deadline: Instant, until: Time) -> Result<(), NotPaused> {
        let held = self.machine.gate().hold_until(deadline)?;
        self.machine.hand_over();
        let seen = self.moves();
        let is_protected = self.machine.epochs().is_protected();
        let is_due = is_protected && self.lock().pipeline.may_seal_pause();
        if !is_due {
            drop(held);
            self.wait_for_move(seen, Some(until));
            return Ok(());
        }
        let epoch = self.machine.seal_held(&held)?;
        self.with_pipeline(|pipeline, _| pipeline.handle_pause_sealed(epoch));
        Ok(())
    }

    /// Waits until the pipeline wants something done about the operator's wish, which it gives up at `until`.
    fn wait_for_pause(&self, until: Time) -> PauseStep {
        self.wait_for_answer(until, PrimaryPipeline::poll_pause)
    }
}
