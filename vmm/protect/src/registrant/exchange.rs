//! The exchange of the witness, performed. By whose assent the register is continued, and who may begin it, is decided in
//! [`replication::view`]; here the new witness is opened, notes are made durable, and the two sides look whether they see the same.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use machine::thread::try_spawn;
use replication::view::evidence::{self, Resume};
use replication::view::{
    Assent, Departure, Entry, Exchange, Fate, Heir, Incarnation, Known, Nonce, Outcome, Place, Record, Refusal,
    Register, RegisterId, Settlement, Wish, Word,
};
use replication::wire::{Forswear, Forsworn};
use replication::{ClaimResult, EpochMark, Fork, SessionId, Term};
use snapshot::statedir::StateDir;

use super::right::{RightError, listed, named_of};
use super::{Desks, Registrant};
use crate::witness::{Left, Proposal, ViewNote, Witness, WitnessError, WitnessName, random};

/// What an operator says where nothing proves it.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// Places that are dead, as the beginnings of their ids.
    pub dead: Vec<String>,
    /// The witness from now on: the old one is gone, or has forgotten.
    pub witness: Option<WitnessName>,
    /// Who says so, when and why.
    pub word: Word,
}

/// Why the witness was not exchanged. The old one counts.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// There must be one.
    #[error("a guest is not taken from its witness: without one, a cut of the network makes two guests")]
    ToNone,
    /// The new one cannot be used.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The new one does not answer.
    #[error("the new witness {witness} does not answer: {source}")]
    NoAnswer {
        /// The new witness.
        witness: WitnessName,
        /// Why.
        source: std::io::Error,
    },
    /// What is to be done could not be noted.
    #[error("the state directory takes no note of the exchange: {0}")]
    NoNote(#[source] std::io::Error),
    /// One is under way.
    #[error("an exchange of the witness is under way already")]
    UnderWay,
    /// Something was asked of the old witness, and was not answered.
    #[error("an earlier question to the old witness is not answered, so which record is the newest is not known")]
    InDoubt {
        /// The other places that the newest record lists, or that what is in doubt does.
        listed: Vec<Place>,
    },
    /// The register went on while the new witness was asked.
    #[error("a record was appended at the old witness while the new one was asked")]
    Outdated,
    /// This place has not seen a record of its register.
    #[error("this host has not read the newest record of the register, so nothing can continue it")]
    NothingSeen,
    /// The rules of the register refuse it.
    #[error(transparent)]
    Right(#[from] RightError),
}

/// An exchange that was noted here.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The register that is to continue the old one.
    pub heir: RegisterId,
    /// What a backup is told of it.
    pub proposal: Vec<u8>,
    /// What was left at the new witness for it to find.
    pub nonce: Nonce,
    /// What was noted before, in the place of which this is.
    replaced: Option<Replaced>,
}

/// An exchange that was noted, and the witness that it is to.
type Replaced = (WitnessName, Arc<dyn Witness>, Exchange);

/// Between two attempts to tell the witnesses that were left. More than one of them may take for its answers.
const TELL_EVERY: Duration = Duration::from_secs(20);

impl Registrant {
    /// The witness that counts for the VM in `dir`, which was `configured` with one before it was exchanged.
    pub fn witness_of(dir: &StateDir, configured: &WitnessName) -> Result<WitnessName, RightError> {
        let note = ViewNote::read(dir.path()).map_err(RightError::NoIdentity)?;
        Ok(note.filter(ViewNote::is_exchanged).map_or_else(|| configured.clone(), |note| note.witness))
    }

    /// As a backup that no record lists: it asks `to` from now on.
    pub fn use_witness(&self, to: &WitnessName) -> Result<(), ExchangeError> {
        let witness = to.open()?.ok_or(ExchangeError::ToNone)?;
        let before = {
            let mut register = self.lock();
            if register.exchange().is_some() {
                return Err(ExchangeError::UnderWay);
            }
            register.handle_other_witness();
            let mut desks = self.desks();
            (desks.own.replace(witness), std::mem::replace(&mut desks.name, to.clone()))
        };
        let looked = self.newest();
        if looked.is_err() {
            let mut register = self.lock();
            register.handle_other_witness();
            let mut desks = self.desks();
            (desks.own, desks.name) = before;
        }
        looked.map(|_| ()).map_err(ExchangeError::from)
    }

    pub(super) fn note(&self, register: &Register) -> Option<ViewNote> {
        let desks = self.desks();
        let (Desks { name, heir, .. }, left) = (&*desks, desks.left());
        let exchange = register.exchange().cloned();
        let proposal =
            exchange.zip(heir.as_ref()).map(|(exchange, (to, _))| Proposal { witness: to.clone(), exchange });
        let newest = register.newest().cloned().or_else(|| proposal.as_ref().map(|of| of.exchange.heir.parent.clone()));
        Some(ViewNote { witness: name.clone(), newest: newest?, proposal, left })
    }

    /// What became of an exchange: from here on one witness counts.
    pub(super) fn settle(&self, register: &mut Register) {
        let Some(settlement) = register.poll_settlement() else { return };
        {
            let mut desks = self.desks();
            let heir = desks.heir.take();
            if let (Fate::Moved(parent), Some((name, witness))) = (settlement.fate, heir) {
                let (own, name) = (desks.own.replace(witness), std::mem::replace(&mut desks.name, name));
                desks.left.push((Left { witness: name, kept: parent }, own));
            }
        }
        if let Fate::Moved(_) = settlement.fate
            && let Some(known) = register.known()
        {
            self.life.remember(known);
        }
        if let Some(note) = self.note(register)
            && let Err(error) = self.life.write_note(&note)
        {
            tracing::warn!(%error, "what became of the exchange of the witness is not kept in the state directory");
        }
        tracing::info!(?settlement, witness = %self.witness(), "the exchange of the witness is settled");
        *self.settlement.lock().unwrap_or_else(PoisonError::into_inner) = Some(settlement);
    }

    /// What became of an exchange, once.
    pub fn take_settlement(&self) -> Option<Settlement> {
        self.settlement.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// As the primary: notes that the register is to be continued at the witness `to`. From here on this place appends nothing before
    /// that is settled. What is `named` dead by an operator stands in for a backup that cannot be asked.
    pub(crate) fn open_exchange(
        &self,
        to: &WitnessName,
        named: Option<&Named>,
        store: Option<Incarnation>,
    ) -> Result<Opened, ExchangeError> {
        let parent = self.newest_seen()?;
        let assent = match named {
            None => Assent::Awaited,
            Some(named) => self.override_of(&parent.record, store, named)?,
        };
        self.note_exchange(to, parent, assent, store)
    }

    fn newest_seen(&self) -> Result<Entry, ExchangeError> {
        let seen = self.lock().newest().cloned();
        let noted = || Some(self.life.note().ok()??.newest);
        seen.or_else(noted).ok_or(ExchangeError::NothingSeen)
    }

    fn override_of(&self, parent: &Record, store: Option<Incarnation>, said: &Named) -> Result<Assent, ExchangeError> {
        let others = self.lock().others(parent, store);
        let own: Vec<Place> = listed(parent).into_iter().filter(|place| !others.contains(place)).collect();
        for name in &said.dead {
            let found = evidence::named(&own, std::slice::from_ref(name)).unwrap_or_default();
            if let Some(place) = own.iter().find(|place| found.contains(&place.id)) {
                return Err(RightError::Own { place: Box::new(place.clone()), others }.into());
            }
        }
        Ok(Assent::Override { dead: named_of(others, &said.dead)?, word: said.word.clone() })
    }

    fn note_exchange(
        &self,
        to: &WitnessName,
        parent: Entry,
        assent: Assent,
        store: Option<Incarnation>,
    ) -> Result<Opened, ExchangeError> {
        let witness = to.open()?.ok_or(ExchangeError::ToNone)?;
        let no_answer = |source| ExchangeError::NoAnswer { witness: to.clone(), source };
        let newest = witness.newest(&self.vm_name).map_err(no_answer)?;
        let from = newest.entries.last().and_then(|newest| Heir::looks_from(&parent, newest));
        let found = from.map_or(Ok(newest), |from| witness.from(&self.vm_name, from)).map_err(no_answer)?;
        let heir = Heir::new(RegisterId(random()), parent, found.by, &found.entries)
            .map_err(|refusal| self.refused(refusal))?;
        let other = self.lock().exchange().map(|exchange| exchange.heir.generation);
        let heir = heir.above(other.unwrap_or(0));
        let nonce = witness.leave(&self.vm_name).map_err(no_answer)?;
        let exchange = Exchange { heir, assent };
        let others = self.lock().others(&exchange.heir.parent.record, store);
        if exchange.unnamed(&others).is_some() {
            return Err(RightError::Unnamed { vm: self.vm_name.clone(), listed: others }.into());
        }
        let register_id = exchange.heir.register;
        let told = Proposal { witness: to.clone(), exchange: Exchange { assent: Assent::Awaited, ..exchange.clone() } };
        let proposal = serde_json::to_vec(&told).expect("a proposal has string keys only");
        let replaced = self.take_part(to, witness, exchange)?;
        Ok(Opened { heir: register_id, proposal, nonce, replaced })
    }

    /// The note is durable before it counts.
    fn take_part(
        &self,
        to: &WitnessName,
        witness: Arc<dyn Witness>,
        exchange: Exchange,
    ) -> Result<Option<Replaced>, ExchangeError> {
        let mut register = self.lock();
        // What an operator says of the others is said of an exchange that does not come to its end, too.
        let is_override = matches!(exchange.assent, Assent::Override { .. });
        let is_above = |other: &Exchange| exchange.heir.generation > other.heir.generation;
        if register.exchange().is_some_and(|other| !is_override || !is_above(other)) {
            return Err(ExchangeError::UnderWay);
        }
        // The new witness was asked meanwhile, and a record may have been won at the old one.
        if register.newest().is_some_and(|newest| *newest != exchange.heir.parent) {
            return Err(ExchangeError::Outdated);
        }
        if !register.may_exchange(&exchange.assent) {
            return Err(ExchangeError::InDoubt { listed: register.others(&exchange.heir.parent.record, None) });
        }
        let (witness_now, left) = {
            let desks = self.desks();
            (desks.name.clone(), desks.left())
        };
        let note = ViewNote {
            left,
            witness: witness_now,
            newest: register.newest().cloned().unwrap_or_else(|| exchange.heir.parent.clone()),
            proposal: Some(Proposal { witness: to.clone(), exchange: exchange.clone() }),
        };
        self.life.publish().and_then(|()| self.life.write_note(&note)).map_err(ExchangeError::NoNote)?;
        let before = self.desks().heir.replace((to.clone(), witness));
        let replaced = register.exchange().cloned().zip(before);
        register.handle_exchange(exchange);
        // What became of an earlier one is not about this one.
        *self.settlement.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(replaced.map(|(exchange, (name, witness))| (name, witness, exchange)))
    }

    /// As the primary: the register is continued by `heir`, for which all have forsworn. `nonces`: what each backup left at the
    /// new witness; one that left nothing where this side looks sees another one, and it is called off.
    pub fn move_to(&self, heir: RegisterId, nonces: &[Nonce]) -> ClaimResult {
        let new = self.desk(replication::view::Desk::Heir);
        let finds = |nonce: &Nonce| new.as_ref().map_or(Ok(true), |new| new.finds(&self.vm_name, *nonce));
        let found: std::io::Result<bool> = nonces.iter().try_fold(true, |all, nonce| Ok(all && finds(nonce)?));
        match found {
            Err(error) => {
                tracing::debug!(%error, "the new witness does not answer");
                return ClaimResult::Unreachable;
            }
            Ok(false) => tracing::warn!("a backup does not see the same new witness: the exchange is called off"),
            Ok(true) => {
                if let Err(error) = self.note_forsworn(heir) {
                    tracing::warn!(%error, "the state directory takes no note of the exchange");
                    return ClaimResult::Unreachable;
                }
            }
        }
        self.claim(Wish::Move(heir))
    }

    fn note_forsworn(&self, heir: RegisterId) -> std::io::Result<()> {
        let mut register = self.lock();
        let is_override = |exchange: &Exchange| matches!(exchange.assent, Assent::Override { .. });
        if register.exchange().is_some_and(is_override) || !register.handle_forsworn(heir) {
            return Ok(());
        }
        self.note(&register).map_or(Ok(()), |note| self.life.write_note(&note))
    }

    /// As the primary: its backup takes no part, and nobody else does.
    pub fn call_off(&self, heir: RegisterId) -> ClaimResult {
        {
            let mut register = self.lock();
            if register.exchange().is_none() || register.abandon_exchange(heir) {
                self.settle(&mut register);
                return ClaimResult::Granted;
            }
        }
        self.claim(Wish::Move(heir))
    }

    /// As the backup of a primary that says `forswear`: whether this side sees the same new witness; if so, it has forsworn.
    pub fn forswear(&self, session: SessionId, forswear: &Forswear) -> Forsworn {
        Forsworn { heir: forswear.heir, result: self.try_to_forswear(session, forswear) }
    }

    fn try_to_forswear(
        &self,
        session: SessionId,
        Forswear { heir, proposal, nonce }: &Forswear,
    ) -> Result<Nonce, String> {
        let said: Proposal =
            serde_json::from_slice(proposal).map_err(|error| format!("the proposal is not one: {error}"))?;
        let Proposal { witness: to, exchange } = said;
        self.check_parent(session, &exchange.heir.parent)?;
        if exchange.heir.register != *heir || exchange.assent != Assent::Awaited {
            return Err("the proposal is about another register".into());
        }
        let witness = to.open().map_err(|error| format!("the backup cannot use {to}: {error}"))?;
        let witness = witness.ok_or("the proposal names no witness")?;
        let no_answer = |error: std::io::Error| format!("{to} does not answer the backup: {error}");
        if !witness.finds(&self.vm_name, *nonce).map_err(no_answer)? {
            return Err(format!("the backup does not see in {to} what the primary left there"));
        }
        let left = witness.leave(&self.vm_name).map_err(no_answer)?;
        self.take_part(&to, witness, exchange).map_err(|error| error.to_string())?;
        Ok(left)
    }

    /// Whether `parent` can be the newest record of the register that this backup follows.
    fn check_parent(&self, session: SessionId, parent: &Entry) -> Result<(), String> {
        let known = self.known().ok_or("the backup has no witness: end the protection first")?;
        let theirs = Known::of(parent);
        let is_ours = theirs.register == known.register && !theirs.is_before(&known);
        let me = self.life.observer.place().id;
        let lists_us = parent.record.backups.iter().any(|member| (member.join, member.place.id) == (session, me));
        match is_ours && lists_us && self.lock().in_doubt().is_none() {
            true => Ok(()),
            false => Err("the backup knows another register, or is not listed in it".into()),
        }
    }

    /// Tells the witnesses that were left where the register is continued, if they answer. False: one did not, and may be told later.
    pub fn depart(&self) -> bool {
        let (left, departure) = {
            let register = self.lock();
            let Desks { name, left, .. } = &*self.desks();
            let Some(Known { register, generation, .. }) = register.known() else { return true };
            (left.clone(), Departure { witness: name.to_string(), register, generation })
        };
        let tell = |(left, witness): &(Left, Option<Arc<dyn Witness>>)| {
            let Some(witness) = witness else { return false };
            let is_told = self.tell_departure(&**witness, left.kept, &departure);
            if is_told {
                self.forget_left(left);
            }
            is_told
        };
        // Each of them, also if one does not answer.
        left.iter().filter(|left| !tell(left)).count() == 0
    }

    /// The same on a thread of its own, now and then: one that does not answer takes seconds, and who asks the witness that counts has none
    /// to spare.
    pub(crate) fn depart_aside(self: &Arc<Self>) {
        let is_due = {
            let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) && !self.desks().left.is_empty();
            is_due.then(|| *told_at = Some(Instant::now())).is_some()
        };
        if is_due {
            let registrant = Arc::clone(self);
            if let Err(error) = try_spawn("departure".into(), move || {
                registrant.depart();
            }) {
                tracing::warn!(%error, "a witness that was left is not told now");
            }
        }
    }

    fn tell_departure(&self, witness: &dyn Witness, kept: Known, departure: &Departure) -> bool {
        let mut register = Register::new(self.life.observer.place().clone(), Some(kept));
        let outcome = super::conclude(&mut register, Wish::Depart(departure.clone()), |_, ask| {
            crate::witness::perform(witness, &self.vm_name, ask)
        });
        // Told by this life, or by one before. What is refused is asked again: an append of before may stand behind the record that was kept.
        matches!(outcome, Outcome::Won(_))
            || matches!(outcome, Outcome::Refused(Refusal::Moved { .. } | Refusal::CalledOff))
    }

    fn forget_left(&self, told: &Left) {
        let register = self.lock();
        self.desks().left.retain(|(left, _)| left != told);
        if let Some(note) = self.note(&register)
            && let Err(error) = self.life.write_note(&note)
        {
            tracing::warn!(%error, "the state directory keeps a witness that was left, and was told so");
        }
    }

    /// As the backup of `session`: the guest is to go on here by a register at the witness that is `named`, since the old one is gone.
    pub fn take_over_by_override(
        &self,
        session: SessionId,
        fork: EpochMark,
        to: &WitnessName,
        said: &Named,
    ) -> Result<(), ExchangeError> {
        let opened = self.open_exchange(to, Some(said), None)?;
        let wish = Wish::TakeOver { join: session, fork, named_dead: Default::default() };
        Ok(self.win_by_override(wish, None, opened).map(|_| ())?)
    }

    pub(super) fn resume_by_override(
        &self,
        store: Place,
        fork: Fork,
        to: &WitnessName,
        said: &Named,
    ) -> Result<Term, RightError> {
        let of = Some(store.id);
        let opened = self.open_exchange(to, Some(said), of).map_err(|error| match error {
            ExchangeError::Right(error) => error,
            other => RightError::NoOverride(Box::new(other)),
        })?;
        tracing::warn!(heir = %opened.heir, witness = %to, "the register is continued by an override");
        let newest = self.newest_seen().ok().map(|entry| entry.record);
        let wish = self.life.observer.resume(newest.as_ref(), Resume { store, fork, named_dead: Default::default() });
        let wish = match wish {
            // What the operator named stands in for what a lock file proves.
            Wish::Resume { store, fork, is_original, mut dead, named_dead } => {
                let names = newest.as_ref().map(|record| evidence::named(&listed(record), &said.dead));
                dead.extend(names.and_then(Result::ok).unwrap_or_default());
                Wish::Resume { store, fork, is_original, dead, named_dead }
            }
            other => other,
        };
        self.win_by_override(wish, of, opened)
    }

    /// One that is refused leaves things as they were before.
    fn win_by_override(
        &self,
        wish: Wish,
        store: Option<Incarnation>,
        Opened { heir, replaced, .. }: Opened,
    ) -> Result<Term, RightError> {
        let outcome = self.wish(wish).expect("there is a witness");
        if let Outcome::Refused(_) = outcome {
            let mut register = self.lock();
            if register.abandon_exchange(heir) {
                match replaced {
                    // This place has forsworn for that one: what it appends is not decided by an override that came to nothing.
                    Some((name, witness, exchange)) => {
                        self.desks().heir = Some((name, witness));
                        register.restore_exchange(exchange);
                        if let Some(note) = self.note(&register)
                            && let Err(error) = self.life.write_note(&note)
                        {
                            tracing::warn!(%error, "the exchange of before is not kept in the state directory");
                        }
                    }
                    None => self.settle(&mut register),
                }
            }
        }
        match outcome {
            Outcome::Refused(Refusal::MayBeWhole { .. }) => {
                let newest = self.newest_seen().ok();
                let others = newest.map_or_else(Vec::new, |entry| self.lock().others(&entry.record, store));
                Err(RightError::Unnamed { vm: self.vm_name.clone(), listed: others })
            }
            outcome => self.term_of(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use replication::view::Durability;

    use super::*;

    fn witness(dir: &Path) -> WitnessName {
        format!("file:{}", dir.display()).parse().expect("well formed")
    }

    /// The old witness, which answers, was said not to, and `witness check` of it found nothing.
    #[test]
    fn new_witness_that_does_not_answer_is_named_and_not_the_old_one() {
        let place = tempfile::tempdir().expect("a directory");
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        for dir in [&old, &new] {
            fs::create_dir(dir).expect("there is room");
        }
        let primary = Registrant::open("vm0", &witness(&old)).expect("it answers");
        primary.begin(None, Durability::Memory, false, &Named::default()).expect("nobody runs it");
        let opened = primary.open_exchange(&witness(&new), None, None).expect("it answers");
        assert!(primary.away_since().is_none());
        fs::remove_dir_all(&new).expect("it is there");
        assert_eq!(primary.move_to(opened.heir, &[]), ClaimResult::Unreachable);
        let RightError::NoAnswer { witness: named, .. } = primary.newest().expect_err("who decides is not settled")
        else {
            panic!("the heir is asked first");
        };
        assert_eq!(named, witness(&new));
        assert!(primary.away_since().is_some());
    }
}
