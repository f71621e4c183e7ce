//! What a host does about a guest that it followed and is to run: in which order, and by what right.
//!
//! ```text
//!   the primary is lost, the claim was won:   Restore ─▶ Run
//!   the primary hands the guest over:         Restore ─▶ Claim ─┬─ won ──▶ Run, and the primary is told
//!                                                       ▲    │  └─ lost ─▶ Leave: the primary, or another side, has the guest
//!                                                       └────┘ no answer: again
//! ```
//!
//! - Nobody runs the guest, and nothing of it leaves, before the claim is won: not the word of a primary that lives, nor its silence.
//! - A claim that is lost by nobody's death is asked for as late as can be. The primary has the guest, stopped, until the claim is won:
//!   whatever fails before that (memory, KVM, a disk, this process) leaves it there, whole. After it nothing is left to do but to run.
//! - The executor does one step at a time and answers each once; `Run` and `Leave` are the last.

use std::time::Duration;

use crate::backup::TakeOver;
use crate::id::{ClaimResult, SessionId, Time};
use crate::lineage::EpochMark;

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InheritanceStep {
    /// Make the machine from its last epoch. It does not run, and nothing of it is seen; `handle_restored`.
    Restore,
    /// Ask the witness for the guest; `handle_claim`.
    Claim {
        /// The session.
        session: SessionId,
        /// The last epoch.
        fork: EpochMark,
    },
    /// Run it.
    Run,
    /// Another side has it.
    Leave {
        /// Which.
        holder: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Restore,
    Restoring,
    Claim,
    Claiming,
    Resting { until: Time },
    Won,
    Lost { holder: String },
    Over,
}

/// A guest that is to be continued here.
#[derive(Debug)]
pub struct Inheritance {
    stage: Stage,
    session: SessionId,
    fork: EpochMark,
    /// The right is still to be won.
    is_offered: bool,
    claim_retry: Duration,
}

impl Inheritance {
    /// From what a backup ends with. `claim_retry`: between two claims while the witness does not answer.
    pub fn of(over: &TakeOver, claim_retry: Duration) -> Self {
        let TakeOver { session, fork, handover, .. } = over;
        Self { stage: Stage::Restore, session: *session, fork: *fork, is_offered: handover.is_some(), claim_retry }
    }

    /// What is done next; none: the last step is not answered, or there is a rest before the next one.
    pub fn poll_step(&mut self, now: Time) -> Option<InheritanceStep> {
        let (next, step) = match &self.stage {
            Stage::Restore => (Stage::Restoring, InheritanceStep::Restore),
            Stage::Resting { until } if now < *until => return None,
            Stage::Claim | Stage::Resting { .. } => {
                (Stage::Claiming, InheritanceStep::Claim { session: self.session, fork: self.fork })
            }
            Stage::Won => (Stage::Over, InheritanceStep::Run),
            Stage::Lost { holder } => (Stage::Over, InheritanceStep::Leave { holder: holder.clone() }),
            Stage::Restoring | Stage::Claiming | Stage::Over => return None,
        };
        self.stage = next;
        Some(step)
    }

    /// The machine is made.
    ///
    /// # Panics
    /// If it was not to be made.
    pub fn handle_restored(&mut self) {
        assert_eq!(self.stage, Stage::Restoring, "a step is answered once");
        self.stage = if self.is_offered { Stage::Claim } else { Stage::Won };
    }

    /// The witness answered, or did not.
    ///
    /// # Panics
    /// If it was not to be asked.
    pub fn handle_claim(&mut self, now: Time, result: ClaimResult) {
        assert_eq!(self.stage, Stage::Claiming, "a step is answered once");
        self.stage = match result {
            ClaimResult::Granted => Stage::Won,
            ClaimResult::Denied { holder } => Stage::Lost { holder },
            ClaimResult::Unreachable => Stage::Resting { until: now.after(self.claim_retry) },
        };
    }

    /// Whether the witness is asked.
    pub fn is_claiming(&self) -> bool {
        self.stage == Stage::Claiming
    }

    /// When `poll_step` has the next step although nothing has happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.stage {
            Stage::Resting { until } => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Offer;
    use crate::id::Term;

    const RETRY: Duration = Duration::from_nanos(20);

    fn inheritance(handover: Option<Offer>) -> Inheritance {
        let over = TakeOver {
            session: SessionId([1; 16]),
            fork: EpochMark::default(),
            term: Term(2),
            state: Default::default(),
            reemit: Vec::new(),
            redeliver: Vec::new(),
            handover,
        };
        Inheritance::of(&over, RETRY)
    }

    /// One whose guest is restored, and for which the witness is asked.
    fn asking() -> Inheritance {
        let mut inheritance = inheritance(Some(Offer { farewell: Vec::new() }));
        assert_eq!(inheritance.poll_step(Time(0)), Some(InheritanceStep::Restore));
        assert_eq!(inheritance.poll_step(Time(0)), None, "it is not restored yet");
        inheritance.handle_restored();
        assert!(matches!(inheritance.poll_step(Time(0)), Some(InheritanceStep::Claim { .. })));
        inheritance
    }

    #[test]
    fn guest_whose_claim_was_won_runs_when_it_is_restored() {
        let mut inheritance = inheritance(None);
        assert_eq!(inheritance.poll_step(Time(0)), Some(InheritanceStep::Restore));
        inheritance.handle_restored();
        let steps = [inheritance.poll_step(Time(0)), inheritance.poll_step(Time(0))];
        assert_eq!(steps, [Some(InheritanceStep::Run), None]);
    }

    #[test]
    fn guest_that_was_handed_over_runs_when_the_claim_is_won_and_not_before() {
        let mut inheritance = asking();
        inheritance.handle_claim(Time(5), ClaimResult::Unreachable);
        assert_eq!((inheritance.poll_step(Time(24)), inheritance.poll_timeout()), (None, Some(Time(25))));
        assert!(matches!(inheritance.poll_step(Time(25)), Some(InheritanceStep::Claim { .. })));
        inheritance.handle_claim(Time(26), ClaimResult::Granted);
        assert_eq!(inheritance.poll_step(Time(26)), Some(InheritanceStep::Run));
    }

    #[test]
    fn guest_whose_claim_is_lost_is_left() {
        let mut inheritance = asking();
        inheritance.handle_claim(Time(5), ClaimResult::Denied { holder: "a".into() });
        let steps = [inheritance.poll_step(Time(5)), inheritance.poll_step(Time(5))];
        assert_eq!(steps, [Some(InheritanceStep::Leave { holder: "a".into() }), None]);
    }
}
