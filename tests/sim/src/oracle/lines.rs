//! What the judge knows of identities: which epoch each chain hash is of, by what its guest was.

use std::collections::HashMap;

use replication::{BranchSeed, ChainHash, EpochId, EpochMark, Fork, Origin, Term};

use super::{Oracle, Rule};
use crate::guest::Guest;

/// The identities of all epochs of a run, of all lives of its guest.
#[derive(Default)]
pub(super) struct Lines {
    /// Of each chain hash: the epoch, and the digest of its guest.
    contents: HashMap<ChainHash, (EpochMark, u64)>,
    chains: HashMap<(Term, EpochId), ChainHash>,
    /// Of each guest that was sealed: which epochs ended so. One that did nothing ends several.
    ends: HashMap<u64, Vec<EpochMark>>,
}

impl Oracle {
    /// `host` says that this is an epoch that ended with that guest.
    pub fn identified(&mut self, host: usize, mark: EpochMark, guest: &Guest) {
        let digest = guest.digest();
        let (of, content) = *self.lines.contents.entry(mark.chain).or_insert((mark, digest));
        if (of, content) != (mark, digest) {
            let text = || format!("host {host}'s epoch {mark} has the chain hash of {of}, with {content:016x} in it");
            self.fail(Rule::OneIdentity, host, text);
        }
        let chain = *self.lines.chains.entry((mark.branch, mark.count)).or_insert(mark.chain);
        if chain != mark.chain {
            let text = || format!("host {host}'s epoch {mark} has another chain hash than before, {chain}");
            self.fail(Rule::OneIdentity, host, text);
        }
        let ends = self.lines.ends.entry(digest).or_default();
        if !ends.contains(&mark) {
            ends.push(mark);
        }
    }

    /// `host` begins a branch with that guest: one that was booted, or that goes on from an epoch which ended so.
    pub fn branch_begins(&mut self, host: usize, root: EpochMark, seed: BranchSeed, guest: &Guest) {
        let is_booted = guest.position == 0 && root.count == EpochId(0);
        let ends = self.lines.ends.get(&guest.digest()).into_iter().flatten();
        let origins = ends.map(|mark| Origin::after(Fork::Mark(*mark), seed));
        let mut origins = origins.chain(is_booted.then(|| Origin::boot(seed)));
        self.begun.insert(root.branch, guest.position);
        if !origins.any(|origin| EpochMark::root(root.branch, origin) == root) {
            let text = || format!("host {host}'s branch {root} does not continue the epoch of its guest");
            self.fail(Rule::RightLine, host, text);
        }
    }

    /// The record by which `host` goes on names the epoch from which it does.
    pub fn check_recorded_fork(&mut self, host: usize, recorded: Option<Fork>, fork: EpochMark) {
        if recorded != Some(Fork::Mark(fork)) {
            let text = || format!("host {host} goes on from {fork}, and its record's fork is {recorded:?}");
            self.fail(Rule::RightLine, host, text);
        }
    }

    /// The record by which `host` goes back names the epoch to which it does.
    pub fn check_recorded_back(&mut self, host: usize, recorded: Option<Fork>, to: Fork) {
        if recorded != Some(to) {
            let text = || format!("host {host} goes back to {to}, and its record's fork is {recorded:?}");
            self.fail(Rule::RightLine, host, text);
        }
    }

    /// The epoch from which `host` goes on ended with this guest.
    pub(super) fn check_fork(&mut self, host: usize, from: Fork, guest: &Guest) {
        let Fork::Mark(mark) = from else { return };
        if self.lines.contents.get(&mark.chain) != Some(&(mark, guest.digest())) {
            let text = || format!("host {host} goes on from {mark}, which did not end with its guest");
            self.fail(Rule::OneIdentity, host, text);
        }
    }
}
