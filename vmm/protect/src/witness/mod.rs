//! The witness: which of two sides continues the guest after they lost each other, and whether a VM may be started.
//!
//! A witness keeps the registers ([`replication::view`]) of VMs. What may be appended is decided there; here it is performed. Each kind
//! is a file: [`mod@file`] in a directory that the hosts share, [`mod@etcd`] in a cluster of that, [`mod@none`] where nobody decides. A
//! [`WitnessName`] says which one a VM has.
//!
//! Invariants that a kind keeps: a record is never changed and never removed; of many that append to one number exactly one succeeds;
//! whoever sees a record will see it again, after any crash. Every call answers, or fails, within seconds. Not here: time as proof.

mod bounded;
mod checkup;
pub(crate) mod etcd;
mod file;
mod gone;
mod mount;
mod name;
mod none;
mod note;
mod place;
mod records;
mod shared;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use replication::view::evidence::Statement;
use replication::view::{Ask, Excerpt, Nonce, Record};

pub use checkup::{Checkup, Facts, Health, Member, Mount, Trial};
pub use etcd::EtcdError;
pub(crate) use gone::GoneWitness;
pub(crate) use name::Opened;
pub use name::WitnessName;
pub(crate) use note::{Left, Proposal, ViewNote};
pub(crate) use place::{Life, random};

/// A witness that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The directory cannot be used.
    #[error("cannot use witness directory {dir}")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cluster cannot be used.
    #[error("cannot use etcd at {addresses}")]
    Etcd {
        /// Its addresses.
        addresses: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One witness, of whichever kind. An error is no answer: whether what was asked took place is not known.
pub(crate) trait Witness: Debug + Send + Sync {
    /// Fails if an append could not take place.
    fn probe(&self) -> io::Result<()>;

    /// Does what an append and a read do, on something that is removed again.
    fn trial(&self) -> io::Result<Trial>;

    /// How long it takes at most to answer, or to fail.
    fn answer_time_max(&self) -> Duration;

    /// What it is made of.
    fn facts(&self) -> io::Result<Facts>;

    /// The newest record of `vm`, if there is one.
    fn newest(&self, vm: &str) -> io::Result<Excerpt>;

    /// The records of `vm` from number `first` on.
    fn from(&self, vm: &str, first: u64) -> io::Result<Excerpt>;

    /// Appends `record` at the witness that it names, if nobody else has its number; gives the records from number `first` on that
    /// are there then.
    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Excerpt>;

    /// Leaves a fresh value for a peer of `vm` to find; the one before is taken away.
    fn leave(&self, vm: &str) -> io::Result<Nonce>;

    /// Whether what a peer of `vm` left is there.
    fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool>;

    /// Takes away what a peer of `vm` left.
    fn take_away(&self, vm: &str, nonce: Nonce) -> io::Result<()>;

    /// States something of `vm` for processes that cannot know it themselves.
    fn state(&self, vm: &str, statement: Statement) -> io::Result<()>;

    /// Removes a statement that no later record can be about ([`replication::view::Voids`]).
    fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()>;

    /// Whether it was stated.
    fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool>;
}

/// Does what the register of `vm` asks, and gives what is there then.
pub(crate) fn perform(witness: &dyn Witness, vm: &str, ask: Ask) -> io::Result<Excerpt> {
    match ask {
        Ask::Newest => witness.newest(vm),
        Ask::From(first) => witness.from(vm, first),
        Ask::Append { record, from } => witness.append(vm, &record, from),
    }
}

#[cfg(test)]
mod fork_tests;
#[cfg(test)]
mod tests;
