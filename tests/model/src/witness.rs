//! Witnesses: each is a chain of records, written by compare-and-set; beside it statements. One append may be on its way for long.

use std::collections::BTreeSet;
use std::fmt;

use replication::view::evidence::Statement;
use replication::view::{Ask, Entry, Exchange, Known, Record, RecordHash};

use crate::line::Epoch;
use crate::shared::Shared;

/// Witnesses.
pub const SITES: usize = 3;

/// One of the witnesses. The VM begins at the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(pub u8);

impl Site {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Site> {
        (0..SITES).map(|index| Site(u8::try_from(index).expect("there are few witnesses")))
    }

    /// The one of that name.
    pub fn of(name: &str) -> Option<Site> {
        Site::all().find(|site| site.to_string() == name)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "witness {}", self.0 + 1)
    }
}

/// A place's part in an exchange: the register is to be continued by an heir.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// The product's own.
    pub exchange: Exchange,
    /// At which witness.
    pub site: Site,
}

/// What a state directory keeps of the register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// The witness of it.
    pub home: Site,
    /// Where it is to be continued, while that is not settled.
    pub part: Option<Part>,
}

/// Which witnesses a process asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Desks {
    /// That of its register.
    pub own: Site,
    /// That at which its register is to be continued.
    pub heir: Option<Site>,
    /// That which it left, and the newest record there, until it has been told where to.
    pub left: Option<(Site, Known)>,
}

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
    /// It answers nobody any more.
    pub is_gone: bool,
}

impl Witness {
    /// One without records.
    pub fn empty() -> Witness {
        Witness { chain: Vec::new(), statements: Shared::new(BTreeSet::new()), late: None, is_gone: false }
    }

    /// The newest record.
    pub fn newest(&self) -> Option<&Record> {
        self.chain.last().map(|slot| &slot.entry.record)
    }

    /// What is read for `ask`; nothing is written. None: it does not answer.
    pub fn read(&self, ask: &Ask) -> Option<Vec<Entry>> {
        let first = match ask {
            Ask::Newest => self.chain.len().max(1),
            Ask::From(first) | Ask::Append { from: first, .. } => usize::try_from(*first).expect("records are few"),
        };
        let read = || self.chain.iter().skip(first - 1).map(|slot| Entry::clone(&slot.entry)).collect();
        (!self.is_gone).then(read)
    }

    /// Whether this record could be appended now.
    pub fn takes(&self, record: &Record) -> bool {
        !self.is_gone && record.number == self.chain.len() as u64 + 1
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
        if !new.is_empty() && !self.is_gone {
            self.statements = Shared::new(self.statements.iter().copied().chain(new).collect());
        }
    }

    /// This is not stated any more.
    pub fn withdraw(&mut self, statement: Statement) {
        if self.statements.contains(&statement) && !self.is_gone {
            self.statements =
                Shared::new(self.statements.iter().copied().filter(|other| *other != statement).collect());
        }
    }
}
