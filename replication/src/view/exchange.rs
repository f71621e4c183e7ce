//! How a VM's register is continued at another witness.
//!
//! The register that continues another one is its *heir*. Where the heir's first record is to stand is known before: under one
//! number at the new witness, behind what is there. What comes to stand there decides:
//!
//! ```text
//!   old witness    … 7   8                                      8: the newest record, the heir's parent
//!                         ╲
//!   new witness            1   2 …      1 is of the heir         the old register is over; 2, 3, … are of the heir
//!                          1            1 is of anybody else     called off: the old register goes on, as if nothing had been
//! ```
//!
//! So nobody is ever in two minds for longer than one read of that place takes. The rules:
//!
//! - *Forswear*: a place that takes part notes the heir, as durably as its own state is kept. From then on it appends nothing to
//!   the old register, nor to another, before that place was read or taken.
//! - The primary forswears first, then its state directory (one note serves both), then it asks its backup, which awaits that its primary
//!   begins the heir ([`Assent::Awaited`]).
//! - The primary may *begin* the heir when its backup has said that it forswore ([`Assent::Forsworn`]) and both saw at the new witness what
//!   the other left there, or where there is no backup.
//! - Before that ([`Assent::Awaited`]) it may only call the exchange off, by taking the place for nobody. So may whoever finds its
//!   note after a crash.
//! - An operator who names every other listed place as dead stands in for their forswearing ([`Assent::Override`]). That needs a
//!   place that the newest view it knows lists.
//!
//! Whoever begins the heir had all who could append to the old register forswear it: nobody is left who runs a guest by that. A
//! clock has no part in it, and neither has the old witness, which may be gone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::record::{
    Attempt, Entry, Incarnation, Known, Place, Record, RecordHash, RegisterId, Standing, WitnessId, Word,
};
use super::wish::{Refusal, successor};

/// A register that is to continue another one. It is the same for all who take part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heir {
    /// The register. Nobody begins it anywhere else.
    pub register: RegisterId,
    /// Its generation, higher than that of all that it continues.
    pub generation: u64,
    /// The newest record of the register that it continues.
    pub parent: Entry,
    /// Which witness it is to begin at, if that can say: another one has another place of the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessId>,
    /// The record behind which its first one is to stand; none: that is the first at its witness.
    pub after: Option<Entry>,
}

/// Who agrees that the heir begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assent {
    /// Not everybody is known to have forsworn and to see the same new witness: of a primary, whose backup has not said so yet; of a
    /// backup, always.
    Awaited,
    /// Everybody who could append to the old register forswore it.
    Forsworn,
    /// An operator named the others as dead.
    Override {
        /// Which.
        dead: BTreeSet<Incarnation>,
        /// Who says so.
        word: Word,
    },
}

/// One place's part in an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What is to be begun.
    pub heir: Heir,
    /// By whose assent.
    pub assent: Assent,
}

/// What is done at the place of the heir's first record, while nothing stands there.
pub(super) enum Beginning {
    /// It is not needed for that: it is so by the parent.
    IsSo,
    /// It may not be.
    Refused(Refusal),
    /// This is appended.
    Append(Box<Record>),
}

impl Heir {
    /// The heir of `parent`'s register, to be begun at a witness where these are the records from number [`Heir::looks_from`] on, or the
    /// newest one. `register` is fresh and random.
    ///
    /// # Errors
    /// If somebody runs a VM of that name there.
    pub fn new<'a>(
        register: RegisterId,
        parent: Entry,
        witness: Option<WitnessId>,
        found: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Heir, Refusal> {
        let found: Vec<&Entry> = found.into_iter().collect();
        let newest = found.last().copied();
        let is_left = |there: &Entry| is_over(there, &parent) || is_left(&found, &parent);
        if let Some(there) = newest.filter(|there| !is_left(there)) {
            return Err(Refusal::Taken { place: Box::new(there.record.primary.clone()) });
        }
        // A register that was continued elsewhere says which generation that has.
        let of = |there: &Entry| {
            there.record.moved.as_ref().map_or(there.record.generation, |to| to.generation.max(there.record.generation))
        };
        let generation = newest.map_or(0, of).max(parent.record.generation).saturating_add(1);
        Ok(Heir { register, generation, parent, witness, after: newest.cloned() })
    }

    /// From which number on the records of a witness tell whether an heir of `parent`'s register may begin there. `newest` is the newest
    /// one; none: it tells that alone. A witness that the register has left is read from the record on that its heir kept.
    pub fn looks_from(parent: &Entry, newest: &Entry) -> Option<u64> {
        let of = |kept: &&Known| kept.register == newest.record.register && kept.number < newest.record.number;
        parent.record.ancestors.iter().rfind(of).map(|kept| kept.number)
    }

    /// The same, above that generation: of an heir that was to be, and may be.
    #[must_use]
    pub fn above(self, generation: u64) -> Heir {
        Heir { generation: self.generation.max(generation.saturating_add(1)), ..self }
    }

    /// The number of its first record.
    pub fn number(&self) -> u64 {
        self.after.as_ref().map_or(1, |after| after.record.number + 1)
    }

    /// From where on to read, so that what stands before it is seen too.
    pub(super) fn from(&self) -> u64 {
        self.after.as_ref().map_or(1, |after| after.record.number)
    }

    /// Whether `found`, read from there, shows the witness at which it is to begin.
    pub(super) fn is_behind(&self, found: &[Entry]) -> bool {
        self.after.as_ref().is_none_or(|after| found.first().is_some_and(|first| Known::of(first) == Known::of(after)))
    }

    fn place_of(&self, record: Record) -> Record {
        let number = self.number();
        let view = number.max(self.parent.record.view().saturating_add(1));
        let previous = self.after.as_ref().map_or_else(RecordHash::default, |after| after.hash);
        Record { number, views_before: view - number, previous, generation: self.generation, ..record }
    }

    /// `next`, which would follow the parent, as the first record of this register.
    fn first(&self, next: Record) -> Record {
        let begins_branch = next.branch == self.parent.record.view().saturating_add(1);
        let mut ancestors = self.parent.record.ancestors.clone();
        ancestors.push(Known::of(&self.parent));
        let first = self.place_of(Record { register: self.register, ancestors, ..next });
        if begins_branch { Record { branch: first.view(), ..first } } else { first }
    }

    /// What stands in its place if it is not to be. That witness says then what it said before: who asks it must not find the VM ended
    /// that runs by the old register, or by another one that this one knows nothing of.
    fn void(&self, me: &Place, attempt: Attempt) -> Record {
        match &self.after {
            Some(after) => successor(after, attempt),
            None => {
                let nobodys = Record::first(RegisterId(attempt.0), attempt, me.clone());
                self.place_of(Record { standing: Standing::Ended, ..nobodys })
            }
        }
    }
}

/// Whether nobody runs a guest by `there`, or it is by the register that is to be continued.
fn is_over(there: &Entry, parent: &Entry) -> bool {
    let known = Known::of(there);
    there.record.standing == Standing::Ended
        || there.record.moved.is_some()
        || parent.record.continues(&known)
        || there == parent
}

/// Whether `found` is what a register said when it was left for one that `parent`'s continues, and the same again: an exchange that was
/// called off repeats it. Nobody has a right by that who had none by the record that was kept, and all of those forswore it.
fn is_left(found: &[&Entry], parent: &Entry) -> bool {
    let is_kept = |entry: &Entry| parent.record.ancestors.contains(&Known::of(entry));
    let repeats = |pair: &[&Entry]| {
        let [before, after] = pair else { return false };
        let again = Record { witness: after.record.witness, ..successor(before, after.record.attempt) };
        after.record == again
    };
    found.first().is_some_and(|first| is_kept(first)) && found.windows(2).all(repeats)
}

impl Exchange {
    /// As a later life of the place finds it noted. That its process was gone may have let another start append to the old register:
    /// the heir is found, or called off, and not begun any more.
    #[must_use]
    pub fn of_earlier_life(self) -> Exchange {
        let assent = if self.assent == Assent::Forsworn { Assent::Awaited } else { self.assent };
        Exchange { assent, ..self }
    }

    /// One of `others` ([`Register::others`](super::Register::others)) that an override does not name. Nothing may be noted of such an
    /// override: it takes the place of what was noted before.
    pub fn unnamed<'a>(&self, others: &'a [Place]) -> Option<&'a Place> {
        let Assent::Override { dead, .. } = &self.assent else { return None };
        others.iter().find(|place| !dead.contains(&place.id))
    }

    /// What a wish of `me`, beside whom `others` are listed, does to the heir that does not stand yet. `next`: what follows from the
    /// parent.
    pub(super) fn begin(
        &self,
        others: &[Place],
        me: &Place,
        attempt: Attempt,
        next: Result<Option<Record>, Refusal>,
    ) -> Beginning {
        let Exchange { heir, assent } = self;
        let append = |record| Beginning::Append(Box::new(record));
        match (assent, next) {
            (_, Ok(None)) => Beginning::IsSo,
            (Assent::Awaited, _) => append(heir.void(me, attempt)),
            (_, Err(refusal)) => Beginning::Refused(refusal),
            (Assent::Forsworn, Ok(Some(next))) => append(heir.first(next)),
            (Assent::Override { dead, word }, Ok(Some(next))) => {
                match self.unnamed(others) {
                    Some(place) => Beginning::Refused(Refusal::MayBeWhole { place: Box::new(place.clone()) }),
                    None => {
                        // Those that the parent lists come first, as everywhere.
                        let mut named = dead.clone();
                        let listed = heir.parent.record.places().map(|place| place.id);
                        let mut named_dead: Vec<_> = listed.filter(|id| named.remove(id)).collect();
                        named_dead.extend(named);
                        let mut first = heir.first(Record { named_dead, word: Some(word.clone()), ..next });
                        first.backups.retain(|member| !dead.contains(&member.place.id));
                        append(first)
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
