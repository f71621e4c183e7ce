//! What the register of a VM says, for an operator who looks: nothing is written, at the witness or here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use replication::view::evidence::{Start, Statement};
use replication::view::{Ask, Attempt, Entry, Outcome, Record, Register, Wish, WitnessId};

use super::{Registrant, RightError, Seen};
use crate::witness::{Life, WitnessName, perform, random};

/// The register of a VM.
#[derive(Debug)]
pub struct Inspection {
    /// Which witness gave it, if it can say.
    pub witness: Option<WitnessId>,
    /// All of its records.
    pub records: Vec<Entry>,
    /// What was stated of the places and joins that the newest record lists.
    pub stated: BTreeSet<Statement>,
    /// What a start here, now, would be answered.
    pub start: StartAnswer,
}

/// What a start would be answered.
#[derive(Debug)]
pub enum StartAnswer {
    /// It may append this record.
    Granted(Box<Record>),
    /// It is refused.
    Refused(Box<RightError>),
    /// A process is in that state directory.
    InUse,
}

impl Inspection {
    /// Of the VM `vm_name` at the witness `config`. The start is one in the state directory `dir`, which holds an epoch or not.
    /// `None`: there is no witness.
    pub fn of(vm_name: &str, config: &WitnessName, dir: &Path, has_epoch: bool) -> Result<Option<Self>, RightError> {
        let Some(witness) = config.open_unasked()? else { return Ok(None) };
        let excerpt = witness.from(vm_name, 1).map_err(|error| config.failed(error))?;
        let newest = excerpt.entries.last().map(|entry| &entry.record);
        let mut stated = BTreeSet::new();
        for statement in newest.map(Statement::about).unwrap_or_default() {
            if witness.is_stated(vm_name, statement).map_err(|error| config.failed(error))? {
                stated.insert(statement);
            }
        }
        let start = match Life::imagined(dir).map_err(RightError::NoIdentity)? {
            None => StartAnswer::InUse,
            Some(life) => {
                let register = Register::new(life.observer.place().clone(), life.known);
                let registrant = Registrant {
                    vm_name: vm_name.to_owned(),
                    configured: config.clone(),
                    witness: Some(witness),
                    seen: Mutex::new(Seen::of(&register)),
                    register: Mutex::new(register),
                    life,
                    away: Mutex::default(),
                };
                registrant.foresee(has_epoch)?
            }
        };
        Ok(Some(Self { witness: excerpt.by, records: excerpt.entries, stated, start }))
    }
}

impl Registrant {
    /// What a start would be answered: what [`Self::begin`] does, up to the append.
    fn foresee(&self, has_epoch: bool) -> Result<StartAnswer, RightError> {
        let newest = match self.newest() {
            Ok(newest) => newest.map(|entry| entry.record),
            Err(error) => return Ok(StartAnswer::Refused(Box::new(error))),
        };
        let start = Start { store: None, has_epoch, named_dead: BTreeSet::new() };
        let wish = self.life.observer.begin(newest.as_ref(), &self.facts(newest.as_ref()), start);
        self.foresee_wish(wish)
    }

    fn foresee_wish(&self, wish: Wish) -> Result<StartAnswer, RightError> {
        let witness = self.witness.as_deref().expect("it was opened");
        let mut register = self.lock();
        register.handle_wish(wish, Attempt(random()));
        let outcome = loop {
            match register.poll_ask().expect("a wish that is not decided has something to ask") {
                Ask::Append { record, .. } => return Ok(StartAnswer::Granted(record)),
                ask => {
                    let excerpt =
                        perform(witness, &self.vm_name, ask).map_err(|error| self.configured.failed(error))?;
                    if let Some(outcome) = register.handle_found(excerpt) {
                        break outcome;
                    }
                }
            }
        };
        let another = register.another();
        Ok(StartAnswer::Refused(Box::new(match outcome {
            Outcome::Refused(refusal) => self.refused(refusal),
            Outcome::Forgotten => self.forgotten(another),
            // A start is never so already: its place is new.
            Outcome::NoAnswer | Outcome::Won(_) => self.no_answer(),
        })))
    }
}
