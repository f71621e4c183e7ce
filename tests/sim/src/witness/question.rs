//! What hosts ask of the witness, and what they learn.

use replication::pipeline::{backup, primary};
use replication::primary::Meeting;
use replication::view::{Greeting, Incarnation, Nonce, Place, Record, RegisterId};
use replication::wire::Forsworn;
use replication::{ClaimResult, EpochMark, Fork, SessionId};

use crate::env::{Crashed, Env, HostId};
use crate::fault::Step;
use crate::plan::Break;

/// Which of the listed places an operator names as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// None.
    Nobody,
    /// The primary, as it is. That the original of a copy is gone too, nobody says: the copy may lack what was seen.
    Primary,
    /// All, by who knows that this is the original and nobody else could continue the guest.
    Everybody,
}

/// Something that a host wants to know of the witness.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the same words as in the register's wishes")]
pub enum Question {
    /// May a fresh guest be booted here? `has_epoch`: the state directory could be resumed from. `is_named`: an operator
    /// names every listed place as dead.
    Begin {
        store: Option<Incarnation>,
        has_epoch: bool,
        is_named: bool,
    },
    Resume {
        store: Incarnation,
        fork: Fork,
        named: Named,
    },
    /// `is_named`: an operator names every listed place as dead.
    TakeOver {
        session: SessionId,
        fork: EpochMark,
        is_named: bool,
    },
    Claim {
        session: SessionId,
    },
    Delist {
        session: SessionId,
    },
    Enlist {
        session: SessionId,
        place: Option<Box<Place>>,
        beside: Vec<SessionId>,
    },
    /// Does this backup forswear its register? `reaches`: the host reaches witnesses.
    Forswear {
        session: SessionId,
        heir: RegisterId,
        nonce: Nonce,
        reaches: bool,
    },
    Move {
        heir: RegisterId,
        reaches: bool,
    },
    CallOff {
        heir: RegisterId,
    },
    Look,
    /// A primary looks by itself, now and then.
    UnaskedLook,
    DelistStore,
    /// `is_kept`: it has stopped, and its state directory keeps it.
    RecordEnd {
        is_kept: bool,
    },
    /// Does the peer see the same witness?
    Meet {
        session: SessionId,
        nonce: Option<Nonce>,
    },
    /// May this primary be followed?
    Introduce(Option<Greeting>),
}

impl Question {
    /// What a primary asks; of one whose last epoch is kept for its operator or not.
    pub fn of_primary(wants: primary::Question, is_kept: bool) -> Question {
        match wants {
            primary::Question::Meet { session, nonce } => Question::Meet { session, nonce },
            primary::Question::Enlist { session, place, beside } => Question::Enlist { session, place, beside },
            primary::Question::Delist { session } => Question::Delist { session },
            primary::Question::Claim { session } => Question::Claim { session },
            primary::Question::DelistStore => Question::DelistStore,
            primary::Question::Look => Question::Look,
            primary::Question::RecordEnd => Question::RecordEnd { is_kept },
            primary::Question::Move { heir, .. } => Question::Move { heir, reaches: true },
            primary::Question::CallOff { heir } => Question::CallOff { heir },
        }
    }
}

impl From<backup::Question> for Question {
    fn from(wants: backup::Question) -> Question {
        match wants {
            backup::Question::Introduce { hello, .. } => Question::Introduce(hello.register),
            backup::Question::TakeOver { session, fork } => Question::TakeOver { session, fork, is_named: false },
            backup::Question::Forswear { session, forswear } => {
                Question::Forswear { session, heir: forswear.heir, nonce: forswear.nonce, reaches: true }
            }
            backup::Question::Override { session, fork } => Question::TakeOver { session, fork, is_named: true },
        }
    }
}

impl Question {
    /// The rule that is broken if it is not asked. `is_anew`: of a guest that crashed, and is to begin anew.
    fn unasked(&self, is_anew: bool) -> Option<Break> {
        match self {
            Question::Meet { .. } | Question::Introduce(_) => Some(Break::MeetUnasked),
            Question::Enlist { .. } => Some(Break::EnlistUnasked),
            Question::Claim { .. } if is_anew => Some(Break::AnewWithoutClaim),
            Question::Claim { .. } => Some(Break::SoloWithoutClaim),
            Question::DelistStore => Some(Break::StoreUndelisted),
            Question::RecordEnd { .. } => Some(Break::EndUnrecorded),
            Question::TakeOver { is_named: true, .. } => Some(Break::OverrideUnasked),
            Question::TakeOver { .. } => Some(Break::RunWithoutClaim),
            Question::Resume { .. } => Some(Break::ResumeWithoutClaim),
            Question::Begin { .. } => Some(Break::BeginUnasked),
            Question::Delist { .. } | Question::Look | Question::UnaskedLook => None,
            Question::Forswear { .. } | Question::Move { .. } | Question::CallOff { .. } => None,
        }
    }
}

impl Env {
    /// A host that runs the guest, or follows, asks; unless that rule is broken.
    pub fn put(&mut self, by: HostId, question: Question, is_anew: bool) -> Result<(), Crashed> {
        let is_step = !matches!(
            question,
            Question::Introduce(_) | Question::Delist { .. } | Question::Look | Question::UnaskedLook
        );
        if is_step {
            self.step(by.host, Step::Claim, false)?;
        }
        match self.plan.broken {
            Some(Break::RemovalUnasked) if matches!(question, Question::Claim { .. }) => {
                self.learn_unasked(by, question)
            }
            Some(broken) if question.unasked(is_anew) == Some(broken) => self.learn_unasked(by, question),
            _ => self.ask(by, question),
        }
        if is_step { self.step(by.host, Step::Claim, true) } else { Ok(()) }
    }
}

/// What a host learns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Answer {
    Claim(ClaimResult),
    /// By right of the record of this number.
    Won(Box<Record>),
    /// A listed place may have the guest.
    MayBeWhole,
    Met(Meeting),
    Forsworn(Forsworn),
}

impl Answer {
    /// As an answer to a claim.
    pub fn claim(&self) -> ClaimResult {
        match self {
            Answer::Claim(result) => result.clone(),
            Answer::Won(_) => ClaimResult::Granted,
            Answer::MayBeWhole => ClaimResult::Denied { holder: "a place that may be whole".to_owned() },
            Answer::Met(_) | Answer::Forsworn(_) => ClaimResult::Unreachable,
        }
    }
}
