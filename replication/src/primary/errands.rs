//! What the witness is asked. A question is put once, and again when there was no answer for a while, until one settles it.
//!
//! ```text
//!   open ──▶ asked ──granted──▶ settled
//!              ▲  │ no answer
//!              └──┘ again later
//! ```
//!
//! A question that nobody needs an answer to any more is settled too: an answer that comes late is ignored.

use std::mem::Discriminant;

use crate::id::{SessionId, Time};
use crate::view::{Nonce, Place, RegisterId};

/// A question to the witness. It is answered by the method of [`Primary`](super::Primary) that its doc names; no answer in
/// time is an answer too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does the backup, which left this there, see the same one? `handle_met`.
    Meet {
        /// The session.
        session: SessionId,
        /// What it left; none: the backup has no witness.
        nonce: Option<Nonce>,
    },
    /// Is the backup listed? `handle_enlisted`.
    Enlist {
        /// The session, its join id.
        session: SessionId,
        /// Where it is; none: it has no witness.
        place: Option<Box<Place>>,
        /// The joins that are listed beside it, and stay.
        beside: Vec<SessionId>,
    },
    /// Is the backup, which never was whole, not listed? `handle_delisted`.
    Delist {
        /// The session.
        session: SessionId,
    },
    /// Is the backup, which could take over, out? `handle_claim`.
    Claim {
        /// The session.
        session: SessionId,
    },
    /// Is the state directory, which takes no more epochs, not listed? `handle_store_delisted`.
    DelistStore,
    /// Is this still the primary? `handle_looked`.
    Look,
    /// Is it known that the guest has ended? `handle_end_recorded`.
    RecordEnd,
    /// Is the register continued by this heir? Everybody has forsworn the old one. `handle_move_answered`.
    Move {
        /// The heir.
        heir: RegisterId,
        /// What each backup left at the new witness: whether that is there decides whether all see the same.
        nonces: Vec<Nonce>,
    },
    /// Is this heir never to be? `handle_move_answered`.
    CallOff {
        /// The heir.
        heir: RegisterId,
    },
}

impl Question {
    /// That which is open for this session.
    pub(super) fn enlist(session: SessionId) -> Question {
        Question::Enlist { session, place: None, beside: Vec::new() }
    }

    /// What makes it another question than one of the same kind: a session or an heir.
    fn key(&self) -> (Discriminant<Question>, Option<[u8; 16]>) {
        let id = match self {
            Question::Meet { session, .. }
            | Question::Enlist { session, .. }
            | Question::Delist { session }
            | Question::Claim { session } => Some(session.0),
            Question::Move { heir, .. } | Question::CallOff { heir } => Some(heir.0),
            Question::DelistStore | Question::Look | Question::RecordEnd => None,
        };
        (std::mem::discriminant(self), id)
    }
}

/// Questions that are not settled.
#[derive(Debug, Default)]
pub(super) struct Errands {
    open: Vec<Errand>,
}

#[derive(Debug)]
struct Errand {
    question: Question,
    /// When it is put again; none: an answer is waited for.
    again_at: Option<Time>,
}

impl Errands {
    /// It is put now.
    pub(super) fn open(&mut self, question: Question) {
        self.settle(&question);
        self.open.push(Errand { question, again_at: None });
    }

    /// Whether an answer to it is waited for.
    pub(super) fn is_asked(&self, question: &Question) -> bool {
        self.find(question).is_some_and(|errand| errand.again_at.is_none())
    }

    /// Whether it is not settled.
    pub(super) fn is_open(&self, question: &Question) -> bool {
        self.find(question).is_some()
    }

    /// Whether any is not settled.
    pub(super) fn is_any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Those whose answers are waited for.
    pub(super) fn asked(&self) -> impl Iterator<Item = Question> {
        self.open.iter().filter(|errand| errand.again_at.is_none()).map(|errand| errand.question.clone())
    }

    fn find(&self, question: &Question) -> Option<&Errand> {
        self.open.iter().find(|errand| errand.question.key() == question.key())
    }

    /// Nobody waits for its answer any more.
    pub(super) fn settle(&mut self, question: &Question) {
        self.open.retain(|errand| errand.question.key() != question.key());
    }

    /// There was no answer.
    pub(super) fn put_again(&mut self, question: &Question, at: Time) {
        if let Some(errand) = self.open.iter_mut().find(|errand| errand.question.key() == question.key()) {
            errand.again_at = Some(at);
        }
    }

    /// One that is to be put again by now. It counts as asked.
    pub(super) fn poll_due(&mut self, now: Time) -> Option<Question> {
        let errand = self.open.iter_mut().find(|errand| errand.again_at.is_some_and(|at| now >= at))?;
        errand.again_at = None;
        Some(errand.question.clone())
    }

    /// When `poll_due` has the next one.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.open.iter().filter_map(|errand| errand.again_at).min()
    }

    /// Nothing is asked any more.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);

    #[test]
    fn question_without_an_answer_is_put_again_once_and_only_when_it_is_time() {
        let mut errands = Errands::default();
        errands.open(Question::Look);
        assert!(errands.is_asked(&Question::Look));
        assert_eq!((errands.poll_timeout(), errands.poll_due(Time(9))), (None, None));
        errands.put_again(&Question::Look, Time(5));
        assert!(errands.is_open(&Question::Look) && !errands.is_asked(&Question::Look));
        assert_eq!((errands.poll_timeout(), errands.poll_due(Time(4))), (Some(Time(5)), None));
        assert_eq!((errands.poll_due(Time(5)), errands.poll_due(Time(5))), (Some(Question::Look), None));
    }

    #[test]
    fn settled_question_is_put_no_more_and_others_are() {
        let mut errands = Errands::default();
        let other = SessionId([2; 16]);
        for session in [SESSION, other] {
            errands.open(Question::Delist { session });
            errands.put_again(&Question::Delist { session }, Time(5));
        }
        errands.settle(&Question::Delist { session: SESSION });
        assert_eq!(errands.poll_due(Time(5)), Some(Question::Delist { session: other }));
        errands.put_again(&Question::Delist { session: SESSION }, Time(6));
        assert_eq!(errands.poll_due(Time(6)), None, "nobody asked it");
    }

    #[test]
    fn place_makes_no_other_question() {
        let mut errands = Errands::default();
        let place =
            Place { id: Default::default(), kind: crate::view::PlaceKind::Process, location: Default::default() };
        errands.open(Question::Enlist { session: SESSION, place: Some(Box::new(place)), beside: Vec::new() });
        assert!(errands.is_asked(&Question::enlist(SESSION)));
    }
}
