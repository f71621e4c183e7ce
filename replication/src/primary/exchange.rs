//! The exchange of the witness, as the primary leads it. What may be appended where is the register's ([`crate::view::Exchange`]);
//! here is who is asked for what, and when.
//!
//! ```text
//!                 noted, no backup
//!   (nothing) ───────────────────────────────────────────────┐
//!       │ noted, a backup follows                             ▼          heir stands, or is called off
//!       └────────────────────────▶ Forswearing ─ it did ──▶ Moving ────────────────────────────────────▶ (nothing)
//!                                       │ it will not: CallOff  ▲ no answer: again
//! ```
//!
//! A backup that is lost meanwhile changes nothing here: the claim about it settles the exchange first, whichever way.

use super::errands::Question;
use super::session::Phase;
use super::{Primary, PrimaryAction, PrimaryState, Standing};
use crate::id::{ClaimResult, Time};
use crate::view::{Nonce, RegisterId, Settlement};
use crate::wire::{Forswear, Forsworn, Message};

/// Why the witness is not exchanged now. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// Another exchange is under way.
    UnderWay,
    /// A backup is being connected to or filled.
    Filling(PrimaryState),
    /// The backup is lost or being let go, and the witness has not said who goes on.
    Arbitrating,
    /// The backup is connected: nobody is to be named dead.
    Connected,
    /// The guest ends, or another side has it.
    Over,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchanging {
    /// The backup was asked to forswear.
    Forswearing(RegisterId),
    /// All have: the heir is to begin.
    Moving(RegisterId),
    /// The backup will not: what was noted is to be undone.
    CallingOff(RegisterId),
}

impl Exchanging {
    fn heir(self) -> RegisterId {
        match self {
            Exchanging::Forswearing(heir) | Exchanging::Moving(heir) | Exchanging::CallingOff(heir) => heir,
        }
    }
}

impl Primary {
    /// Whether the witness may be exchanged now.
    pub fn may_exchange(&self) -> Result<(), NotNow> {
        match self.state() {
            _ if self.exchanging.is_some() => Err(NotNow::UnderWay),
            _ if self.guest_ended.is_some() || self.is_over() => Err(NotNow::Over),
            PrimaryState::Arbitrating => Err(NotNow::Arbitrating),
            PrimaryState::Solo | PrimaryState::Protected => Ok(()),
            state => Err(NotNow::Filling(state)),
        }
    }

    /// Whether an operator may name the others as dead now: a claim that waits, or an exchange that does not come to its end, is what
    /// that is for.
    pub fn may_override(&self) -> Result<(), NotNow> {
        match self.state() {
            _ if self.guest_ended.is_some() || self.is_over() => Err(NotNow::Over),
            PrimaryState::Protected => Err(NotNow::Connected),
            PrimaryState::Solo | PrimaryState::Arbitrating => Ok(()),
            state => Err(NotNow::Filling(state)),
        }
    }

    /// The heir that is to continue the register is noted, durably, and `nonce` left at its witness. `proposal` tells the backup of it.
    /// A state that has changed since `may_exchange` said yes settles the exchange by itself.
    pub fn handle_exchange_opened(&mut self, now: Time, heir: RegisterId, proposal: Vec<u8>, nonce: Nonce) {
        if self.is_over() {
            return;
        }
        match self.phase() {
            Some(Phase::Following) => {
                self.exchanging = Some(Exchanging::Forswearing(heir));
                self.send(now, &Message::Forswear(Forswear { heir, proposal, nonce }));
            }
            None if self.standing == Standing::Running => self.move_to(heir, None),
            // It may have been asked about, or be about to be: no backup is listed that has not forsworn.
            _ => self.call_off(heir),
        }
    }

    /// The same, where an operator named the others as dead: nobody is asked, and a claim that waits settles it too.
    pub fn handle_override_opened(&mut self, heir: RegisterId) {
        if !self.is_over() {
            self.move_to(heir, None);
        }
    }

    /// A guest that had no witness has one from here on.
    pub(crate) fn handle_witnessed(&mut self) {
        self.config.is_witnessed = true;
    }

    /// The backup did, or will not.
    pub(super) fn take_forsworn(&mut self, Forsworn { heir, result }: Forsworn) {
        if self.exchanging != Some(Exchanging::Forswearing(heir)) {
            return;
        }
        match result {
            Ok(nonce) => self.move_to(heir, Some(nonce)),
            Err(text) => {
                self.actions.push_back(PrimaryAction::ExchangeRefused { text });
                self.call_off(heir);
            }
        }
    }

    fn move_to(&mut self, heir: RegisterId, nonce: Option<Nonce>) {
        self.forget_exchange();
        self.exchanging = Some(Exchanging::Moving(heir));
        self.ask(Question::Move { heir, nonce });
    }

    fn call_off(&mut self, heir: RegisterId) {
        self.exchanging = Some(Exchanging::CallingOff(heir));
        self.ask(Question::CallOff { heir });
    }

    /// The answer to [`Question::Move`] or [`Question::CallOff`]. What became of the exchange says `handle_exchange_settled`, before it.
    pub fn handle_move_answered(&mut self, now: Time, question: &Question, result: ClaimResult) {
        self.is_granted(now, question, result);
    }

    /// The heir of `settlement` stands, or never will: whatever question showed it. An exchange to another heir goes on.
    pub fn handle_exchange_settled(&mut self, settlement: Settlement) {
        if self.exchanging.is_some_and(|exchanging| exchanging.heir() == settlement.heir) {
            self.forget_exchange();
        }
        if !self.is_over() {
            self.actions.push_back(PrimaryAction::ExchangeSettled(settlement));
        }
    }

    fn forget_exchange(&mut self) {
        if let Some(exchanging) = self.exchanging.take() {
            self.errands.settle(&Question::Move { heir: exchanging.heir(), nonce: None });
            self.errands.settle(&Question::CallOff { heir: exchanging.heir() });
        }
    }

    /// Whether a new witness was asked for, and it is not settled which one counts.
    pub fn is_exchanging(&self) -> bool {
        self.exchanging.is_some()
    }
}
