//! A guest that is to run where it was followed.

use std::time::Duration;

use replication::pipeline::inheritance::{Inheritance, InheritanceStep};
use replication::{ClaimResult, TakeOver};

use super::BackupNode;
use crate::env::{Crashed, Env, Event, Lane};
use crate::plan::{Break, MS};
use crate::witness::Question;

impl BackupNode {
    /// All that was followed is here.
    pub(super) fn begin_inheritance(&mut self, over: Box<TakeOver>, env: &Env) {
        let inheritance = Inheritance::of(&over, Duration::from_nanos(env.plan.claim_retry));
        self.inheritance = Some((inheritance, over));
    }

    /// The machine is made.
    pub(super) fn finish_restoring(&mut self) {
        if let Some((inheritance, _)) = &mut self.inheritance {
            inheritance.handle_restored();
        }
    }

    /// Whether the witness is asked for a guest that is restored.
    pub(super) fn is_inheriting(&self) -> bool {
        self.inheritance.as_ref().is_some_and(|(inheritance, _)| inheritance.is_claiming())
    }

    /// The witness said whether the guest, which is restored, may run.
    pub(super) fn handle_inherited(&mut self, result: ClaimResult, env: &mut Env) -> Result<(), Crashed> {
        if let Some((inheritance, _)) = &mut self.inheritance {
            inheritance.handle_claim(env.time(), result);
        }
        self.pump(env)
    }

    /// Does what comes next, until that takes time.
    pub(super) fn inherit(&mut self, env: &mut Env) -> Result<(), Crashed> {
        while let Some((inheritance, over)) = &mut self.inheritance {
            let Some(step) = inheritance.poll_step(env.time()) else { break };
            match step {
                InheritanceStep::Restore if over.handover.is_none() => inheritance.handle_restored(),
                InheritanceStep::Restore => {
                    let delay = env.rng.range(0, 4 * MS);
                    env.after(delay, Event::Lane { to: self.id, lane: Lane::Loop });
                }
                InheritanceStep::Claim { .. } if env.plan.broken == Some(Break::HandoverUnclaimed) => {
                    inheritance.handle_claim(env.time(), ClaimResult::Granted);
                }
                InheritanceStep::Claim { session, fork } => {
                    env.put(self.id, Question::TakeOver { session, fork, is_named: false }, false)?;
                }
                InheritanceStep::Run => self.run(env),
                InheritanceStep::Leave { holder } => {
                    let host = self.id.host;
                    env.say(|| format!("host {host} leaves the guest that it was offered: {holder} has it"));
                    (self.inheritance, self.has_ended) = (None, true);
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, env: &mut Env) {
        let Some((_, over)) = self.inheritance.take() else { return };
        if let (Some(offer), Some(stream)) = (&over.handover, self.stream.take()) {
            env.counts.switchovers += 1;
            env.send(stream.connection, self.id.host, offer.farewell.clone());
            env.close(stream.connection, self.id.host);
        }
        self.over = Some(over);
    }
}
