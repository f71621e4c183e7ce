//! What hosts ask of the witness, and what they learn.

use replication::primary::Meeting;
use replication::view::{Greeting, Incarnation, Nonce, Place, Record};
use replication::{ClaimResult, EpochMark, Fork, SessionId};

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
    TakeOver {
        session: SessionId,
        fork: EpochMark,
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
    },
    Look,
    DelistStore,
    RecordEnd,
    /// Does the peer see the same witness?
    Meet {
        session: SessionId,
        nonce: Option<Nonce>,
    },
    /// May this primary be followed?
    Introduce(Option<Greeting>),
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
}

impl Answer {
    /// As an answer to a claim.
    pub fn claim(&self) -> ClaimResult {
        match self {
            Answer::Claim(result) => result.clone(),
            Answer::Won(_) => ClaimResult::Granted,
            Answer::MayBeWhole => ClaimResult::Denied { holder: "a place that may be whole".to_owned() },
            Answer::Met(_) => ClaimResult::Unreachable,
        }
    }
}
