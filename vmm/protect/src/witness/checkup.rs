//! What an operator wants to know of a witness before a guest depends on it: that an append works there, how fast, and who else can
//! see it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use replication::view::{Nonce, WitnessId};

use super::{Witness, WitnessError, WitnessName};

/// The VM whose name two operators meet under. Values that are left are random, so that it may be a VM's name too.
const MEETING: &str = "witness-check";

/// How long what a register does took, done on something that was removed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// To make a record durable, under a name that can be taken once.
    pub append: Duration,
    /// To read it.
    pub read: Duration,
    /// Which witness it was, if it can say.
    pub id: Option<WitnessId>,
}

/// What a witness is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// A directory.
    Directory(Mount),
    /// The members of a cluster, in the order of their addresses.
    Cluster(Vec<Member>),
}

/// The file system of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its type, as the kernel says it.
    pub file_system: String,
    /// What is mounted: a device, or a server and a path there.
    pub source: String,
    /// Whether it is there for several hosts; `None`: nothing is known here of that type.
    pub is_shared: Option<bool>,
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its client address.
    pub address: String,
    /// What it says of itself, or why it says nothing.
    pub health: Result<Health, String>,
}

/// What a member of a cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Of etcd.
    pub version: String,
    /// It leads the cluster.
    pub leads: bool,
    /// Which cluster it is of.
    pub cluster: WitnessId,
    /// What is wrong there: no leader, and alarms.
    pub errors: Vec<String>,
}

/// A witness that is looked at.
#[derive(Debug)]
pub struct Checkup {
    name: WitnessName,
    witness: Arc<dyn Witness>,
}

impl Checkup {
    /// Opens the witness `name`, which is not asked yet. `None`: there is nobody to look at.
    pub fn open(name: &WitnessName) -> Result<Option<Self>, WitnessError> {
        Ok(name.open_unasked()?.map(|witness| Self { name: name.clone(), witness }))
    }

    /// Does what a register does, on something that is removed again. Connections are made before.
    pub fn trial(&self) -> Result<Trial, WitnessError> {
        self.judged(self.witness.probe().and_then(|()| self.witness.trial()))
    }

    /// What it is made of.
    pub fn facts(&self) -> Result<Facts, WitnessError> {
        self.judged(self.witness.facts())
    }

    /// Leaves a value for somebody on another host; it is removed with this.
    pub fn leave(&self) -> Result<Nonce, WitnessError> {
        self.judged(self.witness.leave(MEETING))
    }

    /// Whether a value is there.
    pub fn finds(&self, nonce: Nonce) -> Result<bool, WitnessError> {
        self.judged(self.witness.finds(MEETING, nonce))
    }

    /// Takes a value away, as an answer to who left it.
    pub fn take_away(&self, nonce: Nonce) -> Result<(), WitnessError> {
        self.judged(self.witness.take_away(MEETING, nonce))
    }

    fn judged<T>(&self, answer: io::Result<T>) -> Result<T, WitnessError> {
        answer.map_err(|error| self.name.failed(error))
    }
}
