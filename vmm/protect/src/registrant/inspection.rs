//! What the register of a VM says, for an operator who looks: nothing is written, at the witness or here.

use std::collections::BTreeSet;
use std::path::Path;

use replication::view::evidence::{Start, Statement};
use replication::view::{Ask, Attempt, Entry, Outcome, Record, Wish, WitnessId};

use super::{Registrant, RightError};
use crate::witness::{Life, ViewNote, WitnessName, perform, random};

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
                let note = ViewNote::read(dir).map_err(RightError::NoIdentity)?;
                let registrant =
                    Registrant::prepare(vm_name, (config, Some(witness)), life, note, WitnessName::open_unasked)?;
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
        // Places and durability are what it records, and not whether it may.
        let start = Start { store: None, durability: None, has_epoch, named_dead: BTreeSet::new() };
        let wish = self.life.observer.begin(newest.as_ref(), &self.facts(newest.as_ref()), start);
        self.foresee_wish(wish)
    }

    fn foresee_wish(&self, wish: Wish) -> Result<StartAnswer, RightError> {
        let mut register = self.lock();
        register.handle_wish(wish, Attempt(random()));
        let outcome = loop {
            self.settle(&mut register);
            let (desk, ask) = register.poll_ask().expect("a wish that is not decided has something to ask");
            if let Ask::Append { record, .. } = ask {
                return Ok(StartAnswer::Granted(record));
            }
            let witness = self.desk(desk).expect("a register asks where it is, or where it is to be");
            let answer = perform(&*witness, &self.vm_name, ask);
            let excerpt = answer.map_err(|error| self.witness().failed(error))?;
            if let Some(outcome) = register.handle_found(excerpt) {
                break outcome;
            }
        };
        let forgotten = self.forgotten(&register);
        drop(register);
        Ok(StartAnswer::Refused(Box::new(match outcome {
            Outcome::Refused(refusal) => self.refused(refusal),
            Outcome::Forgotten => forgotten,
            // A start is never so already: its place is new.
            Outcome::NoAnswer | Outcome::Won(_) => self.no_answer(),
        })))
    }
}
