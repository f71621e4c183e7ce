//! An operator's pause, which is state: it is answered when an epoch that records it is committed.
//!
//! From then on nobody runs the guest before it is resumed, whichever side dies: a takeover and a resume restore what was
//! committed last. A pause that cannot be committed in time is undone. Whether its epoch will be committed is then not known;
//! the next one says again that the guest runs. That a guest was resumed is answered when it is committed too: otherwise it
//! would stand still after a failure although its operator was told that it runs.

use std::time::{Duration, Instant};

use replication::EpochId;
use replication::primary::PrimaryState;

use super::{CONSOLE_LAG_MAX, Guardian};
use crate::exit::{Advice, Exit};
use machine::gate::NotHeld;
use machine::kvm::KvmError;

/// How long a pause or its end waits for its commit: longer than it takes to find a peer dead and to ask the witness, and shorter than
/// `outlast ctl` waits for its answer.
const COMMIT_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a guest was not paused. It runs on, unless its machine has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotPaused {
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
pub(crate) enum NotResumed {
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

/// Why a commit is not waited for any longer.
enum GivenUp {
    Ended,
    TooLate(PrimaryState),
}

impl From<GivenUp> for NotPaused {
    fn from(given: GivenUp) -> Self {
        match given {
            GivenUp::Ended => Self::Ended,
            GivenUp::TooLate(state) => Self::NotCommitted { state },
        }
    }
}

impl From<GivenUp> for NotResumed {
    fn from(given: GivenUp) -> Self {
        match given {
            GivenUp::Ended => Self::Ended,
            GivenUp::TooLate(state) => Self::NotCommitted { state },
        }
    }
}

fn why(state: PrimaryState) -> &'static str {
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

impl Advice for NotPaused {
    fn exit(&self) -> Exit {
        match self {
            Self::Ended => Exit::Conflict,
            Self::NotStopped | Self::NotCommitted { .. } => Exit::Timeout,
            Self::Kvm(_) => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::Ended | Self::Kvm(_) => return None,
            Self::NotStopped => "look at the storage of its disks",
            Self::NotCommitted { state: PrimaryState::Arbitrating } => {
                "look at the directory of the witness, then pause again"
            }
            Self::NotCommitted { .. } => "`outlast ctl status` shows how it is protected; then pause again",
        };
        Some(remedy.into())
    }
}

impl Advice for NotResumed {
    fn exit(&self) -> Exit {
        match self {
            Self::Ended => Exit::Conflict,
            Self::NotCommitted { .. } => Exit::Timeout,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::NotCommitted { .. }).then(|| "`outlast ctl status` shows how it is protected".into())
    }
}

impl Guardian {
    /// Runs a paused guest on. When this returns without an error, a side that continues the guest later runs it too.
    pub(crate) fn unpause(&self) -> Result<(), NotResumed> {
        self.machine.unpause();
        let (epoch, is_protected) = {
            let epochs = self.machine.epochs();
            (epochs.running(), epochs.is_protected())
        };
        if is_protected {
            self.machine.gate().request_boundary();
            self.wait_for_commit(epoch, Instant::now() + COMMIT_TIME_MAX)?;
        }
        Ok(())
    }

    /// Pauses the guest. When this returns without an error, no epoch is committed, here or at the backup, that would run it
    /// on; and all that it said has left.
    pub(crate) fn pause(&self) -> Result<(), NotPaused> {
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
        match self.seal_pause(deadline)? {
            Some(epoch) => Ok(self.wait_for_commit(epoch, deadline)?),
            None => Ok(()),
        }
    }

    /// Seals an epoch that says that the guest is paused; none if it has no epochs.
    fn seal_pause(&self, deadline: Instant) -> Result<Option<EpochId>, NotPaused> {
        loop {
            // Not while this thread holds the gate: who makes room may have to.
            let gives_up = || Instant::now() >= deadline || self.machine.ended().is_some();
            let has_room = self.wait_for_room_unless(gives_up);
            let held = self.machine.gate().hold_until(deadline)?;
            // Whether there is room depends on what was sealed before.
            self.machine.hand_over();
            if !self.machine.epochs().is_protected() {
                return Ok(None);
            }
            if has_room && self.lock().pipeline.core().may_seal() {
                return Ok(Some(self.machine.seal_held(&held)?));
            }
            drop(held);
            self.check_wait(deadline)?;
        }
    }

    /// Waits until all that epochs up to `epoch` said has left, which comes after their commit.
    fn wait_for_commit(&self, epoch: EpochId, deadline: Instant) -> Result<(), GivenUp> {
        while self.left() < epoch {
            self.check_wait(deadline)?;
            self.wait_for_change();
            self.note_left();
        }
        Ok(())
    }

    /// Whether a commit may still be waited for.
    fn check_wait(&self, deadline: Instant) -> Result<(), GivenUp> {
        if self.machine.ended().is_some() {
            return Err(GivenUp::Ended);
        }
        if Instant::now() >= deadline {
            return Err(GivenUp::TooLate(self.state()));
        }
        Ok(())
    }
}
