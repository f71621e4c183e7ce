//! What an operator wants of a guest, and how a guest ends.

use std::time::Duration;

use replication::pipeline::primary::{Boundary, GuestMode, PauseStep, SnapshotStep};
use replication::primary::PrimaryState;

use super::PrimaryNode;
use replication::view::Assent;

use crate::env::{Crashed, Env, Event};
use crate::fault::Step;
use crate::plan::{Break, OnCrash, PAUSE_DETECTS};
use crate::witness::Question;

impl PrimaryNode {
    /// The guest crashes, unless it was taken over: such a one would be stopped, which is no law of the protocol.
    pub fn crash_guest(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.taken_over || self.machine.guest.is_paused {
            return Ok(());
        }
        self.end_guest(true, env)
    }

    /// The operator stops the VM.
    pub fn stop(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.end_guest(false, env)
    }

    /// One that crashes does what the policy says: it boots anew, goes back, or is stopped, and its last epoch stays for its operator.
    pub(super) fn end_guest(&mut self, crashes: bool, env: &mut Env) -> Result<(), Crashed> {
        let has_ended = matches!(self.core().state(), PrimaryState::Fenced | PrimaryState::Ended);
        if self.is_over() || has_ended {
            return Ok(());
        }
        let host = self.id.host;
        env.say(|| format!("the guest of host {host} {}", if crashes { "CRASHES" } else { "is STOPPED" }));
        let running = self.machine.running;
        if let Some(store) = self.store.as_mut().filter(|_| crashes) {
            store.note_crash(running);
        }
        let store = self.store.as_ref();
        let policy = store.map_or(OnCrash::Boot, |_| env.plan.on_crash);
        let has_older = store.is_some_and(|store| store.older().is_some());
        let begins_anew = match policy {
            OnCrash::Boot => crashes,
            OnCrash::GoBack => crashes && has_older,
            OnCrash::Stop => false,
        };
        (self.crashed, self.stopped) = (begins_anew, !begins_anew);
        self.keeps_last = crashes && policy != OnCrash::Boot;
        self.pipeline.handle_machine_ended(false);
        if self.machine.mode == GuestMode::Epochs && self.pipeline.boundary(0) == Boundary::Seal {
            self.seal(false, 0, env)?;
        }
        self.pipeline.handle_guest_ended(env.time(), begins_anew, self.keeps_last);
        let (id, patience) = (self.id, 3 * env.plan.detect);
        env.after(patience, Event::GiveUp(id));
        self.pump(env)
    }

    /// Its operator waits no longer. Whether that was said before.
    pub fn give_up(&mut self, env: &mut Env) -> Result<bool, Crashed> {
        if self.pipeline.is_given_up() {
            return Ok(true);
        }
        self.pipeline.handle_given_up();
        self.pump(env)?;
        Ok(false)
    }

    /// It looks at the register by itself.
    pub fn look(&self, env: &mut Env) -> Result<(), Crashed> {
        if env.net.witness_up[self.id.host] {
            env.witness.depart(self.id.host);
        }
        env.put(self.id, Question::UnaskedLook, false)
    }

    /// The operator wants another witness.
    pub fn exchange(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        if self.is_over() || env.plan.unwitnessed || !env.net.witness_up[host] || self.core().may_exchange().is_err() {
            return Ok(());
        }
        let Some((heir, nonce)) = env.witness.open_exchange(host, Assent::Awaited) else { return Ok(()) };
        env.say(|| format!("host {host} is to EXCHANGE the witness: heir {heir}"));
        env.step(host, Step::Exchange, false)?;
        let now = env.time();
        self.tell(env, |core| core.handle_exchange_opened(now, heir, Vec::new(), nonce))?;
        env.step(host, Step::Exchange, true)?;
        if env.plan.broken == Some(Break::ForswearUnawaited) {
            env.ask(self.id, Question::Move { heir, reaches: true });
        }
        Ok(())
    }

    /// The operator wants no backup.
    pub fn unprotect(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.pipeline.handle_unprotect(env.time(), "the operator wants it");
        self.pump(env)
    }

    /// The operator pauses the guest. One who is told no, or waits already, does not come again.
    pub fn pause(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.is_over() || self.machine.guest.is_paused || self.pipeline.pause_until().is_some() {
            return Ok(());
        }
        if self.machine.is_busy(env.now) {
            return Ok(());
        }
        self.machine.guest.is_paused = true;
        env.oracle.asked_to_run();
        let until = env.time().after(Duration::from_nanos(PAUSE_DETECTS * env.plan.detect));
        self.pipeline.handle_paused(until);
        self.pump(env)
    }

    /// The operator has a paused guest run.
    pub fn unpause(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.is_over() || !self.machine.guest.is_paused || self.pipeline.pause_until().is_some() {
            return Ok(());
        }
        self.machine.guest.is_paused = false;
        env.oracle.asked_to_run();
        let until = env.time().after(Duration::from_nanos(PAUSE_DETECTS * env.plan.detect));
        self.pipeline.handle_unpaused(self.machine.running, until);
        if env.plan.broken == Some(Break::RunUncommitted) {
            self.tell_operator(env);
        }
        self.pump(env)
    }

    /// The operator has a snapshot written, for which the guest stands still for so long. One who waits already does not come again.
    pub fn snapshot(&mut self, time: u64, env: &mut Env) -> Result<(), Crashed> {
        if self.is_over() || self.pipeline.snapshot_until().is_some() || self.machine.is_busy(env.now) {
            return Ok(());
        }
        self.machine.snapshot_until = env.now + time;
        let guest = &self.machine.guest;
        self.snapshot = Some((guest.chain, guest.position));
        let until = env.time().after(Duration::from_nanos(time + PAUSE_DETECTS * env.plan.detect));
        self.pipeline.handle_snapshot(self.machine.running, guest.is_paused, until);
        if env.plan.broken == Some(Break::SnapshotUncommitted) {
            self.tell_of_snapshot(env);
        }
        self.pump(env)
    }

    fn tell_of_snapshot(&mut self, env: &mut Env) {
        let host = self.id.host;
        if let Some(of) = self.snapshot.take() {
            env.say(|| format!("host {host} answers: there is a SNAPSHOT of the guest at output {}", of.1));
            env.oracle.answered_snapshot(self.generation, of);
        }
    }

    fn tell_operator(&self, env: &mut Env) {
        let (host, is_paused) = (self.id.host, self.machine.guest.is_paused);
        env.say(|| format!("host {host} answers: the guest {}", if is_paused { "is PAUSED" } else { "RUNS" }));
        env.oracle.answered_to_run(self.generation, !is_paused, self.machine.guest.position);
    }

    /// Does what the operator's wish needs.
    pub(super) fn answer_operator(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        match self.pipeline.poll_pause(env.time()) {
            Some(PauseStep::Seal) if self.machine.is_busy(env.now) => {}
            Some(PauseStep::Seal) => {
                let epoch = self.machine.running;
                self.pipeline.handle_pause_sealed(epoch);
                self.seal(false, 0, env)?;
                if env.plan.broken == Some(Break::PauseUncommitted) {
                    self.tell_operator(env);
                }
            }
            Some(PauseStep::Answer) => self.tell_operator(env),
            Some(PauseStep::GiveUp) => {
                env.say(|| format!("host {host} could not have it committed that the guest stands still, or runs"));
                self.machine.guest.is_paused = false;
            }
            None => {}
        }
        match self.pipeline.poll_snapshot(env.time()) {
            Some(SnapshotStep::Keep) => self.tell_of_snapshot(env),
            Some(SnapshotStep::Remove) => self.snapshot = None,
            None => {}
        }
        Ok(())
    }

    /// Whether its guest has crashed, or was stopped: it is not run here any more.
    pub fn is_over(&self) -> bool {
        self.crashed || self.stopped
    }
}
