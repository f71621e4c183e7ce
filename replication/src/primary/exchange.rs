//! The exchange of the witness, as the primary leads it. What may be appended where is the register's ([`crate::view::Exchange`]);
//! here is who is asked for what, and when.
//!
//! ```text
//!                 noted, no backup
//!   (nothing) ───────────────────────────────────────────────┐
//!       │ noted, backups follow                               ▼          heir stands, or is called off
//!       └────────────────────────▶ Forswearing ─ all did ─▶ Moving ────────────────────────────────────▶ (nothing)
//!                                       │ one will not: CallOff ▲ no answer: again
//! ```
//!
//! A backup that is lost meanwhile changes nothing here: the claim about it settles the exchange first, whichever way.

use super::errands::Question;
use super::peer::Peer;
use super::session::{Phase, Session};
use super::{Primary, PrimaryAction, PrimaryState};
use crate::id::{ClaimResult, SessionId, Time};
use crate::view::{Nonce, RegisterId, Settlement};
use crate::wire::{Forswear, Forsworn, Message};

/// Why the witness is not exchanged now. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// Another exchange is under way.
    UnderWay,
    /// The guest is being handed over to its backup.
    HandingOver,
    /// A backup is being connected to or filled.
    Filling(PrimaryState),
    /// The backup is lost or being let go, and the witness has not said who goes on.
    Arbitrating,
    /// The backup is connected: nobody is to be named dead.
    Connected,
    /// A place was lost, and whether it still counts is being asked.
    Unsettled,
    /// The guest ends, or another side has it.
    Over,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exchanging {
    /// The backups were asked to forswear: those that have not yet, and what the others left at the new witness.
    Forswearing { heir: RegisterId, awaited: Vec<SessionId>, nonces: Vec<Nonce> },
    /// All have: the heir is to begin.
    Moving(RegisterId),
    /// The backup will not: what was noted is to be undone.
    CallingOff(RegisterId),
    /// There is no witness, and the first record is to be won at one. No backup is connected to meanwhile, which it would not list, and
    /// nothing is asked: who decides is not known.
    Adopting,
}

impl Exchanging {
    fn heir(&self) -> Option<RegisterId> {
        match self {
            Exchanging::Forswearing { heir, .. } | Exchanging::Moving(heir) | Exchanging::CallingOff(heir) => {
                Some(*heir)
            }
            Exchanging::Adopting => None,
        }
    }
}

impl Primary {
    /// Whether the witness may be exchanged now.
    pub fn may_exchange(&self) -> Result<(), NotNow> {
        match self.state() {
            _ if self.exchanging.is_some() => Err(NotNow::UnderWay),
            _ if self.is_handing_over() => Err(NotNow::HandingOver),
            _ if self.guest_ended.is_some() || self.is_over() => Err(NotNow::Over),
            PrimaryState::Arbitrating => Err(NotNow::Arbitrating),
            PrimaryState::Solo => Ok(()),
            // One that is not whole yet is neither a member nor none.
            _ => self
                .peers
                .iter()
                .filter_map(Peer::phase)
                .find(|phase| *phase < Phase::Following)
                .map_or(Ok(()), |phase| Err(NotNow::Filling(phase.into()))),
        }
    }

    /// Whether an operator may name the others as dead now: a claim that waits, or an exchange that does not come to its end, is what
    /// that is for.
    pub fn may_override(&self) -> Result<(), NotNow> {
        match self.state() {
            _ if self.guest_ended.is_some() || self.is_over() => Err(NotNow::Over),
            _ if self.peers.is_any_shipped_to() => Err(NotNow::Connected),
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
        match self.may_exchange() {
            Ok(()) if self.is_alone() => self.move_to(heir, Vec::new()),
            Ok(()) => {
                let awaited = self.peers.sessions().map(Session::id).collect();
                self.exchanging = Some(Exchanging::Forswearing { heir, awaited, nonces: Vec::new() });
                for peer in self.peers.ids() {
                    if self.phase(peer).is_some() {
                        let forswear = Forswear { heir, proposal: proposal.clone(), nonce };
                        self.send(now, peer, &Message::Forswear(forswear));
                    }
                }
            }
            // It may have been asked about, or be about to be: no backup is listed that has not forsworn.
            _ => self.call_off(heir),
        }
    }

    /// The same, where an operator named the others as dead: nobody is asked, and a claim that waits settles it too.
    pub fn handle_override_opened(&mut self, heir: RegisterId) {
        if !self.is_over() {
            self.move_to(heir, Vec::new());
        }
    }

    /// A guest that has no witness is to have one, if it may now: from here on things stand still that its first record is about.
    ///
    /// # Errors
    /// Why it may not. Nothing was begun.
    pub fn handle_adoption_opened(&mut self) -> Result<(), NotNow> {
        self.may_exchange()?;
        match self.state() {
            PrimaryState::Solo if self.lost_store.is_some() || self.errands.is_any_open() => Err(NotNow::Unsettled),
            PrimaryState::Solo => {
                self.exchanging = Some(Exchanging::Adopting);
                Ok(())
            }
            _ => Err(NotNow::Connected),
        }
    }

    /// That guest has a witness, or has none as before. What was to be asked meanwhile is asked of whoever decides.
    pub(crate) fn handle_adoption_settled(&mut self, is_witnessed: bool) {
        self.config.is_witnessed |= is_witnessed;
        if self.exchanging.take_if(|exchanging| *exchanging == Exchanging::Adopting).is_some() {
            self.actions.extend(self.errands.asked().map(PrimaryAction::Ask));
        }
    }

    /// Whether it is about to get a witness.
    pub(super) fn is_adopting(&self) -> bool {
        self.exchanging == Some(Exchanging::Adopting)
    }

    /// The backup of `session` did, or will not.
    pub(super) fn take_forsworn(&mut self, session: SessionId, Forsworn { heir, result }: Forsworn) {
        let Some(Exchanging::Forswearing { heir: ours, awaited, nonces }) = &mut self.exchanging else { return };
        if *ours != heir || !awaited.contains(&session) {
            return;
        }
        match result {
            Ok(nonce) => {
                awaited.retain(|other| *other != session);
                nonces.push(nonce);
                if awaited.is_empty() {
                    let nonces = std::mem::take(nonces);
                    self.move_to(heir, nonces);
                }
            }
            Err(text) => {
                self.actions.push_back(PrimaryAction::ExchangeRefused { text });
                self.call_off(heir);
            }
        }
    }

    fn move_to(&mut self, heir: RegisterId, nonces: Vec<Nonce>) {
        self.forget_exchange();
        self.exchanging = Some(Exchanging::Moving(heir));
        self.ask(Question::Move { heir, nonces });
    }

    fn call_off(&mut self, heir: RegisterId) {
        self.exchanging = Some(Exchanging::CallingOff(heir));
        self.ask(Question::CallOff { heir });
    }

    /// The answer to [`Question::Move`] or [`Question::CallOff`]. What became of the exchange says `handle_exchange_settled`, before it.
    pub fn handle_move_answered(&mut self, now: Time, question: &Question, result: ClaimResult) {
        if self.is_granted(now, question, result) {
            // Also where that was said before this core knew of the exchange.
            self.forget_exchange();
        }
    }

    /// The heir of `settlement` stands, or never will: whatever question showed it. An exchange to another heir goes on.
    pub fn handle_exchange_settled(&mut self, settlement: Settlement) {
        if self.exchanging.as_ref().and_then(Exchanging::heir) == Some(settlement.heir) {
            self.forget_exchange();
        }
        if !self.is_over() {
            self.actions.push_back(PrimaryAction::ExchangeSettled(settlement));
        }
    }

    fn forget_exchange(&mut self) {
        if let Some(heir) = self.exchanging.take().and_then(|exchanging| exchanging.heir()) {
            self.errands.settle(&Question::Move { heir, nonces: Vec::new() });
            self.errands.settle(&Question::CallOff { heir });
        }
    }

    /// Whether a new witness was asked for, and it is not settled which one counts.
    pub fn is_exchanging(&self) -> bool {
        self.exchanging.is_some()
    }
}
