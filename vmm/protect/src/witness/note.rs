//! What a state directory keeps of the VM's register beside what its lock file says: the newest view that was seen, at which
//! witness, and whether that register is to be continued at another one. Durable before anything is done that rests on it.

use std::io;
use std::path::Path;

use replication::view::{Entry, Exchange, Known, Standing};
use serde::{Deserialize, Serialize};
use snapshot::statedir::sealed::{self, Sealed};
use snapshot::statedir::{self, Item};

use super::WitnessName;

/// A register that is to be continued, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proposal {
    /// The new witness.
    pub(crate) witness: WitnessName,
    /// This place's part in it.
    pub(crate) exchange: Exchange,
}

/// The content of `view`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ViewNote {
    /// The witness of the register.
    pub(crate) witness: WitnessName,
    /// The newest record that was seen.
    pub(crate) newest: Entry,
    /// Where it is to be continued, while that is not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proposal: Option<Proposal>,
    /// Where it was continued from, until those witnesses were told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left: Vec<Left>,
}

/// A witness that the register has left, and has not told so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Left {
    /// The witness.
    pub(crate) witness: WitnessName,
    /// The newest record there, which the heir kept.
    pub(crate) kept: Known,
}

impl ViewNote {
    /// What is kept in the state directory `dir`, if anything is.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was written: it may say that another witness counts.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let damage = || {
            let path = Item::View.path_in(dir);
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged: which witness counts is not known", path.display()),
            )
        };
        let Some(bytes) = statedir::read(dir, Item::View)? else { return Ok(None) };
        match sealed::open(&bytes) {
            Sealed::Absent => Ok(None),
            Sealed::Whole(json) => serde_json::from_str(&json).map(Some).map_err(|_| damage()),
            Sealed::Damaged => Err(damage()),
        }
    }

    /// Keeps it in `dir`; it is durable when this returns.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let json = serde_json::to_string(self).expect("a note has string keys only");
        statedir::replace(dir, Item::View, sealed::seal(&json).as_bytes())
    }

    /// Whether somebody may need it after this process: a state directory to be resumed, or who would ask a witness that was left.
    pub(crate) fn is_needed(&self) -> bool {
        self.newest.record.store.is_some() || self.is_exchanged() || self.proposal.is_some()
    }

    /// Whether a start without a witness would be beside a guest that has one.
    pub(crate) fn forbids_none(&self) -> bool {
        self.is_exchanged() && self.newest.record.standing == Standing::Running
    }

    /// Whether its witness is another one than the VM was started with.
    pub(crate) fn is_exchanged(&self) -> bool {
        let record = &self.newest.record;
        record.generation > 1 || record.views_before > 0
    }
}
