//! An operator's switchover: the guest is stopped, and what follows is performed as the pipeline says
//! ([`replication::pipeline::primary::HandoverStep`]).
//!
//! The guest stands still until it is settled whose it is, which the witness may take long to say; whoever asked for it does not wait for
//! that. So a thread of its own keeps the guest stopped.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use outlast_api::Occurrence;
use replication::ClaimResult;
use replication::pipeline::primary::{HandoverStep, PrimaryPipeline};
use replication::primary::{NoHandover, PrimaryState};

use super::Guardian;
use machine::gate::NotHeld;
use machine::kvm::KvmError;
use machine::{End, spawn};

/// How long the guest may take to stop, and how long its backup then to have all of it.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// How long an operator waits: shorter than `outlast ctl` waits for its answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// A guest that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Who has it.
    pub holder: String,
    /// How long it stood still, at most: until this side heard that it runs there, and found it so at the witness.
    pub stood: Duration,
}

/// Why a guest was not handed over. Unless it says otherwise, it runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum NotHandedOver {
    /// It was not begun.
    #[error("the guest was not handed over and runs on: {}", why(*.0))]
    NotNow(NoHandover),
    /// It was not begun: a guest that stands still by its operator's will.
    #[error("the guest was not handed over: it is paused")]
    Paused,
    /// It was not begun: nothing could say whose the guest is.
    #[error("the guest was not handed over and runs on: the witness does not answer, or not as it should")]
    NoWitness,
    /// It was not begun: this side has no right to the guest any more.
    #[error("the guest was not handed over and ends here: by the newest record of the witness, who has it is {holder}")]
    Elsewhere {
        /// Who has it.
        holder: String,
    },
    /// The last backup is not on the host where the guest ran before.
    #[error("the guest was not handed over and runs on: {reason}")]
    NoWayBack {
        /// Why it is no way back.
        reason: String,
    },
    /// The guest could not be stopped.
    #[error("the guest was not handed over and runs on: within {} s it could not be stopped", DRAIN_TIME_MAX.as_secs())]
    NotStopped,
    /// Its state could not be read.
    #[error("the guest was not handed over and runs on: {0}")]
    Kvm(#[from] KvmError),
    /// The backup did not have all of it in time, or was lost.
    #[error("the guest was not handed over and goes on here: {}", drained(*.state))]
    GoesOn {
        /// How it is protected now.
        state: PrimaryState,
    },
    /// It has ended instead, or another side has it.
    #[error("the guest was not handed over: it has ended here")]
    Ended,
    /// The backup was told, and it is not settled whose the guest is.
    #[error("whether the guest runs at its backup is not settled within {} s: it stands still here until the witness says so", ANSWER_TIME_MAX.as_secs())]
    Unsettled,
}

fn why(no_handover: NoHandover) -> &'static str {
    match no_handover {
        NoHandover::Unwitnessed => "it has no witness, and nothing else can say on which side it runs",
        NoHandover::Unprotected(PrimaryState::Solo) => "it has no backup",
        NoHandover::Unprotected(PrimaryState::Arbitrating) => {
            "its backup is lost, and the witness has not said which side goes on"
        }
        NoHandover::Unprotected(_) => "its backup is being filled and does not have it yet",
        NoHandover::Several => "it has, or is getting, more than one backup",
        NoHandover::UnderWay => "it is being handed over already",
        NoHandover::Exchanging => "its witness is being exchanged",
        NoHandover::StoreLost => "its state directory takes no more epochs, and the witness has not recorded that",
        NoHandover::Over => "it has ended here",
    }
}

fn drained(state: PrimaryState) -> &'static str {
    match state {
        PrimaryState::Protected => "its backup did not have all of it in time",
        PrimaryState::Arbitrating => "its backup was lost, and the witness has not said which side goes on",
        _ => "its backup was lost, or did not take it",
    }
}

impl From<NoHandover> for NotHandedOver {
    fn from(no_handover: NoHandover) -> Self {
        match no_handover {
            NoHandover::Over => Self::Ended,
            other => Self::NotNow(other),
        }
    }
}

impl From<NotHeld> for NotHandedOver {
    fn from(not_held: NotHeld) -> Self {
        match not_held {
            NotHeld::Ended => Self::Ended,
            NotHeld::TooLate => Self::NotStopped,
        }
    }
}

impl Guardian {
    /// Hands the guest over to its backup. `is_back`: only if that is on the host where it ran before. When this returns without an
    /// error, the guest runs there, and this machine has ended.
    pub fn hand_over(self: &Arc<Self>, is_back: bool) -> Result<HandedOver, NotHandedOver> {
        self.lock().pipeline.may_hand_over()?;
        if self.machine.is_paused() {
            return Err(NotHandedOver::Paused);
        }
        if is_back {
            self.registrant.check_way_back().map_err(|reason| NotHandedOver::NoWayBack { reason })?;
        }
        // A guest that is offered stands still until the witness answers: one that is away is found before.
        self.look_before_handover()?;
        let (told, answer) = sync_channel(1);
        let guardian = Arc::clone(self);
        spawn("ft-handover".into(), move || {
            let result = guardian.stop_and_hand_over();
            guardian.note(match &result {
                Ok(HandedOver { holder, stood }) => {
                    Occurrence::SwitchoverFinished { holder: holder.clone(), stood_ms: stood.as_secs_f64() * 1e3 }
                }
                Err(error) => Occurrence::SwitchoverCalledOff { reason: error.to_string() },
            });
            // Whoever asked may have given up.
            let _ = told.try_send(result);
        });
        answer.recv_timeout(ANSWER_TIME_MAX).unwrap_or(Err(NotHandedOver::Unsettled))
    }

    fn look_before_handover(&self) -> Result<(), NotHandedOver> {
        let result = self.registrant.look();
        self.note_settlement();
        let answer = match &result {
            ClaimResult::Granted => Ok(()),
            ClaimResult::Denied { holder } => Err(NotHandedOver::Elsewhere { holder: holder.clone() }),
            ClaimResult::Unreachable => Err(NotHandedOver::NoWitness),
        };
        self.with_core(|core, _| core.handle_unasked_look(result));
        answer
    }

    fn stop_and_hand_over(&self) -> Result<HandedOver, NotHandedOver> {
        let held = self.machine.gate().hold_until(Instant::now() + DRAIN_TIME_MAX)?;
        // Whoever paused it may have been first.
        if self.machine.is_paused() {
            return Err(NotHandedOver::Paused);
        }
        let stopped = Instant::now();
        self.note(Occurrence::SwitchoverStarted {});
        self.machine.hand_over();
        let until = self.clock.now().after(DRAIN_TIME_MAX);
        // It may have changed since it was looked at.
        self.with_pipeline(|pipeline, _| pipeline.may_hand_over().map(|()| pipeline.handle_handover(until)))?;
        let mut failure = None;
        loop {
            match self.wait_for_answer(until, PrimaryPipeline::poll_handover) {
                HandoverStep::Seal => {
                    failure = self.machine.seal_held(&held).err();
                    self.with_pipeline(|pipeline, now| pipeline.handle_handover_sealed(now, failure.is_none()));
                }
                // What has ended goes on nowhere.
                HandoverStep::LetRun if self.machine.ended().is_some() => return Err(NotHandedOver::Ended),
                HandoverStep::LetRun => {
                    return Err(failure.map_or(NotHandedOver::GoesOn { state: self.state() }, NotHandedOver::Kvm));
                }
                HandoverStep::Finish => break,
            }
        }
        // Whoever heard it from the witness is about to end the machine; until then the guest stands still.
        match self.machine.wait() {
            End::HandedOver { holder } => Ok(HandedOver { holder, stood: stopped.elapsed() }),
            _ => Err(NotHandedOver::Ended),
        }
    }
}
