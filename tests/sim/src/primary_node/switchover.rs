//! An operator hands the guest over to its backup.

use std::time::Duration;

use replication::pipeline::primary::HandoverStep;

use super::PrimaryNode;
use crate::env::{Crashed, Env};
use crate::fault::Step;
use crate::plan::{Break, PAUSE_DETECTS};

impl PrimaryNode {
    /// The operator wants the guest to run at its backup: it stands still. One who is told no does not come again.
    pub fn switch_over(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let (host, machine) = (self.id.host, &self.machine);
        let stands = machine.guest.is_paused || machine.is_busy(env.now);
        if self.is_over() || stands || self.pipeline.may_hand_over().is_err() {
            return Ok(());
        }
        env.say(|| format!("the guest of host {host} is to be HANDED OVER"));
        env.step(host, Step::Handover, false)?;
        self.machine.is_held = true;
        let until = env.time().after(Duration::from_nanos(PAUSE_DETECTS * env.plan.detect));
        self.pipeline.handle_handover(until);
        self.pump(env)
    }

    /// Does what the switchover needs.
    pub(super) fn carry_on_switchover(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        match self.pipeline.poll_handover(env.time()) {
            Some(HandoverStep::Seal) => {
                self.seal(false, 0, env)?;
                self.pipeline.handle_handover_sealed(env.time(), true);
                env.step(host, Step::Handover, true)?;
                if env.plan.broken == Some(Break::HandedOverRuns) {
                    self.machine.is_held = false;
                    self.seal(false, 0, env)?;
                }
            }
            Some(HandoverStep::Finish) => {
                env.say(|| format!("host {host} answers: the guest was HANDED OVER, or is over"))
            }
            Some(HandoverStep::LetRun) => {
                env.say(|| format!("host {host} answers: the guest goes on here"));
                self.machine.is_held = false;
            }
            None => {}
        }
        Ok(())
    }
}
