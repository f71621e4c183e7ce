//! Lineage: which epoch of which line of history an epoch is.
//!
//! A number does not tell. Two processes may number their epochs alike: copies of one state directory, hosts whose witness was
//! exchanged, or two starts in one millisecond where there is no witness. So an epoch is known by its [`EpochMark`]: its branch, its
//! number, and a hash chained over all epochs before it.
//!
//! ```text
//!   branch 1   root ─▶ 1 ─▶ 2 ─▶ 3 ─▶ 4 ─▶ 5        root = H(fork, branch, seed)
//!                           │                        next = H(before, branch, number, digest of the machine's state)
//!   branch 3                └─▶ root ─▶ 1000000 ─▶ …
//! ```
//!
//! *A history is a prefix of another* means that the other has an epoch of the same chain hash; never an equal or smaller number.
//!
//! What goes into the hash is small and final at the seal. Pages are not in it: they may still be copied then, and whether they
//! arrived as they were is what checksums tell. It tells lines of history apart that came about by accident, and is no signature.
//!
//! The digest of the state makes two executions of one epoch two epochs, whatever process they ran in: no two have the same clocks.
//! Both sides of a session compute it, so it also finds a backup whose machine is not the primary's.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::id::{EpochId, Term, hex_id};

#[cfg(test)]
pub(crate) mod tests;

hex_id! {
    /// The hash over an epoch and all before it.
    ChainHash
}
hex_id! {
    /// A fresh random value of the process that begins a branch: no other one's chain has it.
    BranchSeed
}
hex_id! {
    /// The digest of a machine's state at the end of an epoch.
    StateDigest
}

/// What a hash of this kind begins with, so that none of one kind is one of another.
const ROOT: u64 = u64::from_le_bytes(*b"OLBRANCH");
const ROOT_WITHOUT_FORK: u64 = u64::from_le_bytes(*b"OLORIGIN");
const ROOT_OF_NUMBER: u64 = u64::from_le_bytes(*b"OLNUMBER");
const CAPTURED: u64 = u64::from_le_bytes(*b"OLEPOCH\0");
const ENDED: u64 = u64::from_le_bytes(*b"OLENDED\0");

impl StateDigest {
    /// The digest of a machine's saved state.
    pub fn of(state: &[u8]) -> StateDigest {
        StateDigest(xxh3_128(state).to_be_bytes())
    }
}

/// The identity of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochMark {
    /// The number of the record that began its branch; without a witness, the time at which it began.
    pub branch: Term,
    /// Its number.
    pub count: EpochId,
    /// The hash over it and all before it.
    pub chain: ChainHash,
}

impl fmt::Display for EpochMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.chain.0;
        write!(f, "{}/{}:{first:02x}{second:02x}{third:02x}{fourth:02x}", self.branch, self.count)
    }
}

impl EpochMark {
    /// Where a branch begins, before its first epoch, which will be `running`.
    pub fn root(branch: Term, running: EpochId, origin: Origin) -> EpochMark {
        let Origin { fork, seed } = origin;
        let (kind, parent) = match fork {
            Some(Fork::Mark(mark)) => (ROOT, mark),
            Some(Fork::Number(count)) => (ROOT_OF_NUMBER, EpochMark { count, ..EpochMark::default() }),
            None => (ROOT_WITHOUT_FORK, EpochMark::default()),
        };
        let words = [kind, parent.branch.0, parent.count.0, branch.0, running.0];
        EpochMark { branch, count: running.prev(), chain: hash(words, [parent.chain.0, seed.0]) }
    }

    /// The epoch after this one in its branch. `count` is its number, the next one or, after a fork, the first. No digest: it was
    /// ended and not captured.
    pub fn next(self, count: EpochId, digest: Option<StateDigest>) -> EpochMark {
        let kind = if digest.is_some() { CAPTURED } else { ENDED };
        let words = [kind, self.branch.0, count.0, 0, 0];
        EpochMark { count, chain: hash(words, [self.chain.0, digest.unwrap_or_default().0]), ..self }
    }
}

/// The bytes are those of the words, little endian, and then of the hashes.
fn hash(words: [u64; 5], hashes: [[u8; 16]; 2]) -> ChainHash {
    let mut bytes = [0; 72];
    let (head, tail) = bytes.split_at_mut(40);
    for (slot, word) in head.as_chunks_mut().0.iter_mut().zip(words) {
        *slot = word.to_le_bytes();
    }
    for (slot, hash) in tail.as_chunks_mut().0.iter_mut().zip(hashes) {
        *slot = hash;
    }
    ChainHash(xxh3_128(&bytes).to_be_bytes())
}

/// The last epoch that a branch keeps of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fork {
    /// It is known.
    Mark(EpochMark),
    /// Its number is known only: it was written by a version before chain hashes, which is read once. What continues from it has a mark.
    Number(EpochId),
}

impl Fork {
    /// Its number.
    pub fn count(self) -> EpochId {
        match self {
            Fork::Mark(mark) => mark.count,
            Fork::Number(count) => count,
        }
    }

    /// Its branch, if that is known.
    pub fn branch(self) -> Option<Term> {
        match self {
            Fork::Mark(mark) => Some(mark.branch),
            Fork::Number(_) => None,
        }
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fork::Mark(mark) => mark.fmt(f),
            Fork::Number(count) => count.fmt(f),
        }
    }
}

/// What a branch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The epoch that it continues from; none: the guest is booted.
    pub fork: Option<Fork>,
    /// What tells it from every other one.
    pub seed: BranchSeed,
}

/// An epoch, and what it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The chain hash of the one before it.
    pub before: ChainHash,
    /// Itself.
    pub mark: EpochMark,
}

/// The line of a primary: its last epoch, and those whose acks may still come.
#[derive(Debug)]
pub struct Lineage {
    last: EpochMark,
    awaited: VecDeque<EpochMark>,
}

impl Lineage {
    /// A branch that is about to run its first epoch, `running`.
    pub fn new(branch: Term, running: EpochId, origin: Origin) -> Lineage {
        Lineage { last: EpochMark::root(branch, running, origin), awaited: VecDeque::new() }
    }

    /// The last epoch that was identified, or the root.
    pub fn last(&self) -> EpochMark {
        self.last
    }

    /// The epoch `count` is the next one. Acks up to `acked` have come.
    ///
    /// # Panics
    /// If it is not.
    pub(crate) fn extend(&mut self, count: EpochId, digest: Option<StateDigest>, acked: EpochId) -> Linked {
        assert_eq!(count, self.last.count.next(), "epochs are identified one after the other");
        let (before, mark) = (self.last.chain, self.last.next(count, digest));
        while self.awaited.pop_front_if(|mark| mark.count <= acked).is_some() {}
        if count > acked {
            self.awaited.push_back(mark);
        }
        self.last = mark;
        Linked { before, mark }
    }

    /// The mark of an epoch, if its ack may still come.
    pub(crate) fn awaited(&self, count: EpochId) -> Option<EpochMark> {
        self.awaited.iter().find(|mark| mark.count == count).copied()
    }
}
