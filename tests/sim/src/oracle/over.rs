//! What of a guest is over though it goes on: what it did behind an epoch to which somebody goes back on purpose. And what its
//! operator was told of a crash.

use std::collections::HashSet;

use replication::{EpochMark, Fork};

use super::Oracle;
use crate::fault::HOSTS;
use crate::guest::Guest;

impl Oracle {
    /// `host` puts the guest back, by right: what it did behind `to` is over, also what was seen of it. That is continued as `first`.
    pub fn goes_back(&mut self, host: usize, (guest, to): (&Guest, Fork), first: EpochMark) {
        self.check_fork(host, to, guest);
        self.continues_from(guest.chain);
        self.is_stopped = false;
        self.sealed(host, self.generation, (first.branch, first.count), guest);
        self.identified(host, first, guest);
    }

    /// An operator has a copy of the guest run that is known to be older: by right, if nobody could continue a newer one.
    pub fn overridden(&mut self, fork: EpochMark) {
        if let Some(chain) = self.seals.get(&(fork.branch, fork.count)).map(|seal| seal.chain) {
            self.continues_from(chain);
            self.is_stopped = false;
        }
    }

    /// What the guest did that does not lead to this output is over, also what was seen of it.
    fn continues_from(&mut self, chain: u64) {
        let mut line = Vec::new();
        let mut chain = chain;
        while let Some((before, _)) = self.parents.get(&chain) {
            line.push(chain);
            chain = *before;
        }
        line.reverse();
        self.generation += 1;
        let of_line: HashSet<u64> = line.iter().copied().collect();
        // Also what was over before, if that is the line that goes on.
        self.forgotten = self.parents.keys().copied().filter(|chain| !of_line.contains(chain)).collect();
        let mut late = self.fork.take().unwrap_or(0);
        while let Some((before, _)) = self.parents.get(&late).filter(|_| self.late.insert(late)) {
            late = *before;
        }
        let seen = self.history.iter().zip(&line).take_while(|(seen, of_line)| seen == of_line).count();
        self.history.truncate(seen);
        self.emitted.truncate(seen);
        // What was sent of the line before another one was gone into is not sent again.
        let sent = line.iter().rposition(|chain| self.seen.contains(chain)).map_or(0, |last| last + 1).max(seen);
        self.history.extend(&line[seen..sent]);
        self.emitted.extend(line[seen..sent].iter().map(|chain| self.seen.contains(chain)));
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
