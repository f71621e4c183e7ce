//! A primary: the executors of its pipeline, over a toy machine and models of its socket, disk and state directory. It decides
//! nothing.

use std::collections::BTreeMap;

use replication::pipeline::primary::{Action, Boundary, GuestMode, Outcome, Parting, PrimaryPipeline, Step as Does};
use replication::primary::{PeerId, PrimaryState};
use replication::{EpochId, Output, Primary, Term};

use crate::env::{Crashed, Env, Event, HostId};
use crate::fault::Step;
use crate::machine::Machine;
use crate::net::Stream;
use crate::plan::{EPOCH_BYTES, MS};
use crate::shipping::Shipping;
use crate::state_dir::StateDir;
use crate::story::words;
use crate::witness::Question;

mod beginning;
mod breaking;
mod lanes;
mod link;
mod operator;
mod perform;
mod remains;
mod switchover;

use breaking::{break_sealed, let_out};

/// A host that runs the guest.
pub struct PrimaryNode {
    id: HostId,
    /// Its guest has crashed, and is to begin anew.
    crashed: bool,
    /// Its guest was stopped, by the operator or because it crashed.
    stopped: bool,
    /// The last epoch of a guest that crashed stays in the state directory.
    keeps_last: bool,
    /// Its guest ran elsewhere before: there, what was acked may still leave, however late.
    taken_over: bool,
    /// It cannot continue its guest, which is left to its backup.
    has_failed: bool,
    /// Which boot of the guest it runs.
    generation: u32,
    /// The cores under test.
    pipeline: PrimaryPipeline,
    /// Its guest, with its disk.
    pub machine: Machine,
    /// What is shipped to each backup, and how far that is.
    shipping: BTreeMap<PeerId, Shipping>,
    /// The backup that is filled, or was last.
    filled: PeerId,
    /// What the primary before held, until it may be sent again.
    held_before: Vec<Output>,
    /// The guest's share of its time, in percent.
    share: u8,
    /// The connection to each backup, and its number in the pipeline.
    streams: BTreeMap<PeerId, (Stream, u64)>,
    /// What the lane Ship does.
    does: Option<Does>,
    /// How its step went, which is not reported yet.
    outcome: Option<Outcome>,
    is_reported: bool,
    /// The second half of an epoch that is being shipped.
    half: Option<Vec<u8>>,
    /// The state that was digested last.
    digested: Vec<u8>,
    /// Where the guest was of whom the operator has a snapshot written: its last output, and how many.
    snapshot: Option<(u64, u64)>,
    /// Bytes of the round that is sent.
    sends: u64,
    /// A filling that waits for something that never comes.
    stuck: bool,
    /// What the lane Images does.
    writes: Option<EpochId>,
    /// The lane Upkeep syncs.
    is_syncing: bool,
    timer_at: Option<u64>,
    /// What is logged is synced.
    syncs_log: bool,
    /// The first epoch since its guest has any.
    first_epoch: EpochId,
    /// A base of these epochs was committed, for which the images were synced: no failure of the disk takes back what was
    /// committed from then on.
    has_base: bool,
    /// What outlives this node, if it is protected locally.
    pub store: Option<StateDir>,
    /// The state directory takes no more epochs.
    store_fails: bool,
    /// What it has since it took none. Files that could not be removed stay there.
    pub lost_store: Option<StateDir>,
}

impl PrimaryNode {
    /// Where it is, for the reader of a run that did not heal.
    pub fn describe(&self) -> String {
        format!("{:?}, does {:?}", self.pipeline, self.does)
    }

    /// The session core.
    pub fn core(&self) -> &Primary {
        self.pipeline.core()
    }

    /// The branch of its epochs.
    pub fn branch(&self) -> Term {
        self.core().last_mark().branch
    }

    /// Whether all of its guest is gone from here, which nobody else has.
    pub fn is_closed(&self) -> bool {
        self.core().state() == PrimaryState::Ended && self.pipeline.is_closed()
    }

    /// Whether its process ends without having heard what becomes of its guest.
    pub fn is_given_up(&self) -> bool {
        self.pipeline.is_given_up() && self.pipeline.is_closed()
    }

    /// Which of the guests that were booted one after the other it runs.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether its state directory keeps it for its operator.
    pub fn keeps_last(&self) -> bool {
        self.pipeline.keeps_last()
    }

    /// Whether it begins anew when all of it has left.
    pub fn begins_anew(&self) -> bool {
        self.crashed && self.pipeline.parting() == Parting::Alone
    }

    /// The medium of its state directory takes nothing from now on.
    pub fn fail_store(&mut self) {
        self.store_fails = true;
    }

    /// Whether it cannot continue its guest, and ends.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// A timer fired.
    pub fn handle_timer(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.timer_at = None;
        self.pipeline.handle_timeout(env.time());
        self.pump(env)
    }

    /// The witness answered.
    pub fn tell<R>(&mut self, env: &mut Env, call: impl FnOnce(&mut Primary) -> R) -> Result<(), Crashed> {
        self.pipeline.with(env.time(), call);
        self.pump(env)
    }

    /// The running epoch is long enough.
    pub fn handle_boundary(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.is_over() {
            return Ok(());
        }
        let (has_epochs, boundary) = (self.machine.mode == GuestMode::Epochs, self.pipeline.boundary(0));
        if (has_epochs && boundary == Boundary::Wait) || self.machine.is_busy(env.now) {
            let id = self.id;
            env.after(MS / 2, Event::Boundary(id));
            return Ok(());
        }
        // A paused guest has no boundaries.
        if has_epochs && boundary == Boundary::Seal && !self.machine.guest.is_paused {
            self.seal(false, 0, env)?;
        }
        if self.pipeline.boundary(0) == Boundary::Over {
            return Ok(());
        }
        self.tick(env)
    }

    /// The guest runs on, until the next boundary.
    pub fn tick(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.machine.mode != GuestMode::Epochs && self.machine.disk.files.has_image_failed() {
            return self.end_guest(!self.taken_over, env);
        }
        self.machine.run(env);
        let (id, length) = (self.id, env.plan.epoch);
        env.after(length, Event::Boundary(id));
        self.pump(env)
    }

    fn seal(&mut self, base: bool, also: u64, env: &mut Env) -> Result<(), Crashed> {
        let (host, step) = (self.id.host, if base { Step::Base } else { Step::Seal });
        env.step(host, step, false)?;
        let branch = self.branch();
        let sealed = self.machine.seal(base, also);
        break_sealed(sealed, env);
        let (epoch, has_writes) = (sealed.epoch, !sealed.sectors.is_empty());
        env.oracle.sealed(host, self.generation, (branch, epoch), &sealed.guest);
        self.pipeline.handle_sealed(env.time(), epoch, base, EPOCH_BYTES, has_writes);
        self.break_at_seal(epoch, env);
        env.step(host, step, true)?;
        self.pump(env)
    }

    /// Has the lanes do all that the pipeline wants done.
    pub fn pump(&mut self, env: &mut Env) -> Result<(), Crashed> {
        while let Some(action) = self.pipeline.poll_action() {
            self.act(action, env)?;
        }
        while let Some(question) = self.pipeline.poll_question() {
            let question = Question::of_primary(question, self.keeps_last());
            self.put(question, env)?;
        }
        self.answer_operator(env)?;
        self.carry_on_switchover(env)?;
        self.has_base |= self.core().state() == PrimaryState::Protected;
        self.machine.forget(self.pipeline.through());
        self.set_to_work(env)?;
        let wanted = [self.pipeline.poll_timeout(), self.pipeline.upkeep_at(), self.pipeline.pause_until()];
        let wanted = wanted.into_iter().chain([self.pipeline.snapshot_until(), self.pipeline.handover_until()]);
        env.wake(self.id, &mut self.timer_at, wanted);
        Ok(())
    }

    fn act(&mut self, action: Action, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        match action {
            Action::Release { upto, until } if env.time() > until => {
                self.pipeline.handle_release_late(env.time(), upto);
            }
            Action::Release { upto, .. } => {
                env.step(host, Step::Release, false)?;
                self.machine.release(let_out(upto, env), env);
                self.pipeline.handle_let_out(env.time(), upto, 0, 0);
                env.step(host, Step::Release, true)?;
            }
            Action::Beat { connection, frame } => {
                env.step(host, Step::Send, false)?;
                self.send(connection, frame, env);
                env.step(host, Step::Send, true)?;
            }
            Action::EmitAgain => {
                let held = std::mem::take(&mut self.held_before);
                PrimaryNode::emit_again(self.id, &held, env);
            }
            Action::Close { connection } => self.close(connection, env),
            Action::GuestShare { percent } => self.share = percent,
            Action::Fail(failing) => {
                env.say(|| format!("host {host} FAILS: {failing:?}"));
                self.has_failed = true;
            }
            Action::Note(note) => env.say(|| format!("host {host} {}", words::note(&note))),
            Action::Fenced { .. } => env.say(|| format!("host {host} is FENCED: another is the primary")),
            Action::HandedOver { .. } => env.say(|| format!("host {host} has HANDED OVER its guest")),
            Action::Conflict { .. } => {}
        }
        Ok(())
    }
}
