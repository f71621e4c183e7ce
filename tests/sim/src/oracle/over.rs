//! What of a guest is over though it goes on: what it did behind an epoch to which somebody goes back on purpose. And what its
//! operator was told of a crash.

use std::collections::HashSet;

use replication::{EpochMark, Fork};

use super::Oracle;
use crate::fault::HOSTS;
use crate::guest::Guest;

impl Oracle {
    /// `host` puts the guest back, by right: what it did behind `to` is over, also what was seen of it. That is continued as `first`.
    /// What it had said until then left before, or is lost: nobody promised it.
    pub fn goes_back(&mut self, host: usize, (guest, to): (&Guest, Fork), first: EpochMark) {
        self.check_fork(host, to, guest);
        self.continues_from((guest.chain, guest.position));
        self.is_stopped = false;
        self.sealed(host, self.generation, (first.branch, first.count), guest);
        self.identified(host, first, guest);
    }

    /// An operator has a copy of the guest run that is known to be older: by right, if nobody could continue a newer one.
    pub fn overridden(&mut self, fork: EpochMark) {
        if let Some(of) = self.seals.get(&(fork.branch, fork.count)).map(|seal| (seal.chain, seal.position)) {
            self.continues_from(of);
            self.is_stopped = false;
        }
    }

    /// What the guest did behind this output, which has so many before it, is over, also what was seen of it.
    fn continues_from(&mut self, (chain, position): (u64, u64)) {
        let mut line = HashSet::new();
        let mut chain = chain;
        while let Some((before, _)) = self.parents.get(&chain).filter(|_| line.insert(chain)) {
            chain = *before;
        }
        self.generation += 1;
        let over = self.parents.keys().filter(|chain| !line.contains(chain));
        self.forgotten.extend(over);
        let mut late = self.fork.take().unwrap_or(0);
        while let Some((before, _)) = self.parents.get(&late).filter(|_| self.late.insert(late)) {
            late = *before;
        }
        let position = position as usize;
        self.history.truncate(position);
        self.emitted.truncate(position);
        self.emitted.fill(true);
        let forgotten = &self.forgotten;
        self.snapshots.retain(|(chain, _)| !forgotten.contains(chain));
        self.answers.retain(|_, value| !forgotten.contains(value));
        self.told = None;
        self.direct = [0; HOSTS];
    }

    /// A guest that crashed was stopped, and is kept for its operator.
    pub fn stopped(&mut self, generation: u32) {
        self.is_stopped |= generation == self.generation;
    }

    /// Its operator has it continue, or gives it up.
    pub fn operator_continues(&mut self) {
        self.is_stopped = false;
    }
}
