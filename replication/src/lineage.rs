//! Lineage: which epoch of which line of history an epoch is.
//!
//! A number does not tell. A takeover, a resume and a return to an earlier epoch continue at the number after their fork, which the
//! process before them may have used too; and so do copies of one state directory, and hosts whose witness was exchanged. So an epoch is
//! known by its [`EpochMark`]: its branch, its number, and a hash chained over all epochs before it.
//!
//! ```text
//!   branch 1   root ─▶ 1/1 ─▶ 1/2 ─▶ 1/3 ─▶ 1/4        root = H(fork, branch, seed)
//!                              │                        next = H(before, branch, number, digest of the machine's state)
//!   branch 3                   └─▶ root ─▶ 3/3 ─▶ …
//! ```
//!
//! A mark has no order. Numbers ascend along one *line*: an epoch and all before it, through every fork; of two epochs of one line the
//! one with the smaller number is the earlier ([`Fork::is_before`]).
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Where a branch begins, before its first epoch.
    pub fn root(branch: Term, origin: Origin) -> EpochMark {
        let Origin { fork, first, seed } = origin;
        let (kind, parent) = match fork {
            Some(Fork::Mark(mark)) => (ROOT, mark),
            Some(Fork::Number(count)) => (ROOT_OF_NUMBER, EpochMark { count, ..EpochMark::default() }),
            None => (ROOT_WITHOUT_FORK, EpochMark::default()),
        };
        let words = [kind, parent.branch.0, parent.count.0, branch.0, first.0];
        EpochMark { branch, count: first.prev(), chain: hash(words, [parent.chain.0, seed.0]) }
    }

    /// Its branch and its number.
    pub fn name(self) -> EpochName {
        EpochName { branch: Some(self.branch), count: self.count }
    }

    /// The epoch after this one in its branch. No digest: it was ended and not captured.
    pub fn next(self, digest: Option<StateDigest>) -> EpochMark {
        let (kind, count) = (if digest.is_some() { CAPTURED } else { ENDED }, self.count.next());
        let words = [kind, self.branch.0, count.0, 0, 0];
        EpochMark { count, chain: hash(words, [self.chain.0, digest.unwrap_or_default().0]), ..self }
    }
}

/// An epoch as people are told of it: `3/78`, epoch 78 of branch 3. Of one whose branch is not known, the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochName {
    /// Its branch, if that is known.
    pub branch: Option<Term>,
    /// Its number.
    pub count: EpochId,
}

impl fmt::Display for EpochName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.branch {
            Some(branch) => write!(f, "{branch}/{}", self.count),
            None => self.count.fmt(f),
        }
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

    /// Its branch and its number.
    pub fn name(self) -> EpochName {
        EpochName { branch: self.branch(), count: self.count() }
    }

    /// Whether it is that epoch, as far as is known of `other`: its identity, or its number in this line.
    pub fn is(self, other: Fork) -> bool {
        match other {
            Fork::Mark(_) => self == other,
            Fork::Number(count) => self.count() == count,
        }
    }

    /// Whether it is the earlier one of two epochs of one line.
    pub fn is_before(self, later: Fork) -> bool {
        self.count() < later.count()
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
    fork: Option<Fork>,
    first: EpochId,
    seed: BranchSeed,
}

impl Origin {
    /// Of a guest that is booted. `seed` tells the branch from every other one.
    pub fn boot(seed: BranchSeed) -> Origin {
        Origin { fork: None, first: EpochId(1), seed }
    }

    /// Of a guest that continues from `fork`, with the epoch after it. What wrote the number of an epoch alone compared numbers: such a
    /// branch begins past all that its predecessor can have used.
    pub fn after(fork: Fork, seed: BranchSeed) -> Origin {
        let first = match fork {
            Fork::Mark(mark) => mark.count.next(),
            Fork::Number(count) => count.past_in_flight(),
        };
        Origin { fork: Some(fork), first, seed }
    }

    /// The same, where numbers below `unused_from` may have been used by lives of the guest that committed nothing. That matters where
    /// the number of the fork is all that is known.
    #[must_use]
    pub fn past(self, unused_from: EpochId) -> Origin {
        let first = if self.is_numbered() { self.first.max(unused_from) } else { self.first };
        Origin { first, ..self }
    }

    /// Of its fork the number is all that is known.
    pub fn is_numbered(&self) -> bool {
        matches!(self.fork, Some(Fork::Number(_)))
    }

    /// The epoch that it continues from; none: the guest is booted.
    pub fn fork(&self) -> Option<Fork> {
        self.fork
    }

    /// The number of its first epoch.
    pub fn first(&self) -> EpochId {
        self.first
    }
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
    /// A branch that is about to run its first epoch.
    pub fn new(branch: Term, origin: Origin) -> Lineage {
        Lineage { last: EpochMark::root(branch, origin), awaited: VecDeque::new() }
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
        let (before, mark) = (self.last.chain, self.last.next(digest));
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
