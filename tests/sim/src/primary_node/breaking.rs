//! Rules that are broken on purpose where an epoch is sealed, and where its output leaves.

use replication::pipeline::primary::Outcome;
use replication::{EpochId, Linked, StateDigest};

use super::PrimaryNode;
use crate::env::{Crashed, Env};
use crate::machine::Sealed;
use crate::plan::{Break, EPOCH_BYTES};
use crate::witness::Question;

/// What is said of a sealed epoch.
pub(super) fn break_sealed(sealed: &mut Sealed, env: &Env) {
    if env.plan.broken == Some(Break::PauseUnrecorded) {
        sealed.guest.is_paused = false;
    }
}

/// Up to where output leaves that is said to have left up to `upto`.
pub(super) fn let_out(upto: EpochId, env: &Env) -> EpochId {
    match env.plan.broken {
        Some(Break::LeftBeforeOut) => EpochId(upto.0.saturating_sub(3)),
        _ => upto,
    }
}

impl PrimaryNode {
    /// Asks, or takes an answer for granted.
    pub(super) fn put(&mut self, question: Question, env: &mut Env) -> Result<(), Crashed> {
        match question {
            Question::Claim { .. } if self.core().is_offered() && env.plan.broken == Some(Break::OfferForgotten) => {
                env.learn_unasked(self.id, question);
                Ok(())
            }
            question => env.put(self.id, question, self.crashed),
        }
    }

    /// Does at a seal what nothing says that it may.
    pub(super) fn break_at_seal(&mut self, epoch: EpochId, env: &mut Env) {
        match env.plan.broken {
            Some(Break::ReleaseBeforeAck) => self.machine.release(epoch, env),
            Some(Break::DiskBeforeCommit) => {
                self.machine.disk.put_early(epoch);
                self.machine.disk.drop_written(epoch);
            }
            Some(Break::ImageBeforeLog) => self.machine.disk.put_early(epoch),
            _ => {}
        }
    }

    /// What a careless driver would do: the base leaves, and the core hears of an epoch like any other.
    pub(super) fn ship_base_before_seal(&mut self, rest: u64, env: &mut Env) -> Result<Outcome, Crashed> {
        let link = self.core().link(self.filled).expect("there is a session to base");
        let left = self.core().left();
        let branch = self.branch();
        let sealed = self.machine.seal(true, rest);
        let (epoch, has_writes) = (sealed.epoch, !sealed.sectors.is_empty());
        env.oracle.sealed(self.id.host, self.generation, (branch, epoch), &sealed.guest);
        let (last, sealed) = (self.core().last_mark(), self.machine.sealed(epoch));
        let digest = StateDigest::of(&sealed.guest.save());
        let linked = Linked { before: last.chain, mark: last.next(Some(digest)) };
        let shipping = self.shipping.entry(self.filled).or_default();
        let halves = shipping.epoch(link, (sealed, true, linked), left, env);
        halves.into_iter().for_each(|half| self.send(self.connection_of(link), half, env));
        self.pipeline.handle_sealed(env.time(), epoch, false, EPOCH_BYTES, has_writes);
        self.pump(env)?;
        Ok(Outcome::SessionOver)
    }
}
