//! The witness: a chain of records, written by compare-and-set; beside it statements. One append may be on its way for long.

use std::collections::BTreeSet;

use replication::view::evidence::Statement;
use replication::view::{Ask, Entry, Record, RecordHash};

use crate::line::Epoch;
use crate::shared::Shared;

/// A record that stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// As the witness gives it.
    pub entry: Shared<Entry>,
    /// The epoch from which a record that begins a branch continues: its fork, or that of the disk from which the guest is booted.
    pub fork: Option<Epoch>,
}

/// The witness.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Witness {
    /// Its records, the first in front.
    pub chain: Vec<Slot>,
    /// What stands there beside the records.
    pub statements: Shared<BTreeSet<Statement>>,
    /// An append that has no answer and has not arrived.
    pub late: Option<Shared<Record>>,
}

impl Witness {
    /// One without records.
    pub fn empty() -> Witness {
        Witness { chain: Vec::new(), statements: Shared::new(BTreeSet::new()), late: None }
    }

    /// The newest record.
    pub fn newest(&self) -> Option<&Record> {
        self.chain.last().map(|slot| &slot.entry.record)
    }

    /// What is read for `ask`; nothing is written.
    pub fn read(&self, ask: &Ask) -> Vec<Entry> {
        let first = match ask {
            Ask::Newest => self.chain.len().max(1),
            Ask::From(first) | Ask::Append { from: first, .. } => usize::try_from(*first).expect("records are few"),
        };
        self.chain.iter().skip(first - 1).map(|slot| Entry::clone(&slot.entry)).collect()
    }

    /// Whether this record could be appended now.
    pub fn takes(&self, record: &Record) -> bool {
        record.number == self.chain.len() as u64 + 1
    }

    /// Adds a record, which stands from now on.
    pub fn push(&mut self, record: &Record, fork: Option<Epoch>) {
        let hash = RecordHash::of(format!("{record:?}").as_bytes());
        self.chain.push(Slot { entry: Shared::new(Entry { record: record.clone(), hash }), fork });
        self.late = self.late.take().filter(|late| late.number > record.number);
    }

    /// These are stated.
    pub fn state(&mut self, statements: impl IntoIterator<Item = Statement>) {
        let new: Vec<_> = statements.into_iter().filter(|statement| !self.statements.contains(statement)).collect();
        if !new.is_empty() {
            self.statements = Shared::new(self.statements.iter().copied().chain(new).collect());
        }
    }

    /// This is not stated any more.
    pub fn withdraw(&mut self, statement: Statement) {
        if self.statements.contains(&statement) {
            self.statements =
                Shared::new(self.statements.iter().copied().filter(|other| *other != statement).collect());
        }
    }
}
