//! A primary: the executors of its pipeline, over a toy machine and models of its socket, disk and state directory. It decides
//! nothing.

use std::time::Duration;

use replication::pipeline::primary::{
    Action, GuestMode, Outcome, Parting, PauseStep, PrimaryPipeline, Question as Wants, Step as Does,
};
use replication::primary::PrimaryState;
use replication::wire::Kind;
use replication::{EpochId, FrameDecoder, Primary, SessionId, TakeOver, Term, VmId};

use crate::disk::Disk;
use crate::env::{Crashed, Env, Event, HostId, Lane};
use crate::fault::Step;
use crate::guest::{Guest, Said};
use crate::machine::{Machine, request_of};
use crate::machines::store_of;
use crate::plan::{Break, EPOCH_BYTES, MS, PAUSE_DETECTS};
use crate::shipping::Shipping;
use crate::state_dir::{LocalEpoch, StateDir};
use crate::storage::{Done, Files, Op, Worker};
use crate::story::words;
use crate::witness::Question;

mod perform;

/// A connection as a host sees it.
pub struct Stream {
    /// Its number.
    pub connection: u64,
    /// What cuts its bytes into frames.
    pub decoder: FrameDecoder,
}

impl Stream {
    /// A fresh one.
    pub fn new(connection: u64) -> Stream {
        Stream { connection, decoder: FrameDecoder::new(VmId::of_name("toy")) }
    }
}

/// A host that runs the guest.
pub struct PrimaryNode {
    id: HostId,
    /// Its guest has crashed, and is to begin anew.
    crashed: bool,
    /// Its guest was stopped by the operator.
    stopped: bool,
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
    shipping: Shipping,
    /// The guest's share of its time, in percent.
    share: u8,
    /// The connection to the backup, and its number in the pipeline.
    pub stream: Option<Stream>,
    number: u64,
    /// What the lane Ship does.
    does: Option<Does>,
    /// How its step went, which is not reported yet.
    outcome: Option<Outcome>,
    is_reported: bool,
    /// The second half of an epoch that is being shipped.
    half: Option<Vec<u8>>,
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
    /// What outlives this node, if it is protected locally.
    pub store: Option<StateDir>,
    /// The state directory takes no more epochs.
    store_fails: bool,
    /// What it has since it took none. Files that could not be removed stay there.
    pub lost_store: Option<StateDir>,
}

/// What a primary begins with.
struct Beginning {
    term: Term,
    guest: Guest,
    files: Files,
    running: EpochId,
    inbox: Vec<u64>,
    store: Option<StateDir>,
}

impl PrimaryNode {
    /// A fresh VM, by right of the record of number `term`, on a disk that it makes anew.
    pub fn boot(id: HostId, term: Term, env: &mut Env) -> (PrimaryNode, Result<(), Crashed>) {
        let term = if env.plan.broken == Some(Break::TermStands) { Term(1) } else { term };
        let store = env.plan.local.then(|| StateDir::new(store_of(id)));
        let files = Files::new(Disk::blank(), env.plan.log_room);
        let (guest, running, inbox) = (Guest::new(), EpochId(1), Vec::new());
        let mut node = PrimaryNode::begin(id, Beginning { term, guest, files, running, inbox, store }, env);
        let begun = node.tick(env);
        (node, begun)
    }

    /// A VM that goes on from its state directory, by right, with the disk that is left.
    ///
    /// # Panics
    /// If no epoch was committed there.
    pub fn resume(
        id: HostId,
        term: Term,
        files: Files,
        mut store: StateDir,
        env: &mut Env,
    ) -> (PrimaryNode, Result<(), Crashed>) {
        let LocalEpoch { epoch, guest, held } = store.last.clone().expect("there is an epoch to resume from");
        let running = store.next_life(epoch, env.plan.in_flight_epochs_max);
        let (inbox, store) = (Vec::new(), Some(store));
        let mut node = PrimaryNode::begin(id, Beginning { term, guest, files, running, inbox, store }, env);
        for output in &held {
            env.emit(id.host, Said::decode(&output.bytes));
        }
        let begun = node.tick(env);
        (node, begun)
    }

    /// A VM that a backup takes over.
    pub fn take_over(
        id: HostId,
        term: Term,
        guest: Guest,
        files: Files,
        over: TakeOver,
        env: &mut Env,
    ) -> (PrimaryNode, Result<(), Crashed>) {
        let reuse = env.plan.broken == Some(Break::ReuseEpochs);
        let running = if reuse { over.from.next() } else { over.next_epoch };
        let inbox = over.redeliver.iter().map(request_of).collect();
        let mut guest = guest;
        guest.is_paused &= env.plan.broken != Some(Break::PauseForgotten);
        let mut node = PrimaryNode::begin(id, Beginning { term, guest, files, running, inbox, store: None }, env);
        if env.plan.broken != Some(Break::ForgetHeld) {
            for output in &over.reemit {
                env.emit(id.host, Said::decode(&output.bytes));
            }
        }
        node.taken_over = true;
        let begun = node.tick(env);
        (node, begun)
    }

    fn begin(id: HostId, beginning: Beginning, env: &mut Env) -> PrimaryNode {
        let Beginning { term, guest, files, running, inbox, store } = beginning;
        let config = env.plan.pipeline_config(term, store.is_some());
        let generation = env.oracle.generation;
        env.oracle.disk_is_safe(id.host, generation, &guest);
        let mode = if store.is_some() { GuestMode::Epochs } else { GuestMode::Direct };
        PrimaryNode {
            id,
            crashed: false,
            stopped: false,
            taken_over: false,
            has_failed: false,
            generation,
            syncs_log: config.is_durable || store.is_some(),
            first_epoch: running,
            pipeline: PrimaryPipeline::new(config, running),
            machine: Machine::new(id.host, guest, files, mode, running, inbox, env.plan.hold_bytes_max),
            shipping: Shipping::default(),
            share: 100,
            stream: None,
            number: 0,
            does: None,
            outcome: None,
            is_reported: false,
            half: None,
            sends: 0,
            stuck: false,
            writes: None,
            is_syncing: false,
            timer_at: None,
            store,
            store_fails: false,
            lost_store: None,
        }
    }

    /// Where it is, for the reader of a run that did not heal.
    pub fn describe(&self) -> String {
        format!("{:?}, does {:?}", self.pipeline, self.does)
    }

    /// The session core.
    pub fn core(&self) -> &Primary {
        self.pipeline.core()
    }

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

    fn end_guest(&mut self, crashes: bool, env: &mut Env) -> Result<(), Crashed> {
        let has_ended = matches!(self.core().state(), PrimaryState::Fenced | PrimaryState::Ended);
        if self.is_over() || has_ended {
            return Ok(());
        }
        let host = self.id.host;
        env.say(|| format!("the guest of host {host} {}", if crashes { "CRASHES" } else { "is STOPPED" }));
        (self.crashed, self.stopped) = (crashes, !crashes);
        self.pipeline.handle_machine_ended(false);
        if self.machine.mode == GuestMode::Epochs && self.pipeline.may_seal(0) {
            self.seal(false, 0, env)?;
        }
        self.pipeline.handle_guest_ended(env.time(), crashes);
        let (id, patience) = (self.id, 3 * env.plan.detect);
        env.after(patience, Event::GiveUp(id));
        self.pump(env)
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

    fn tell_operator(&self, env: &mut Env) {
        let (host, is_paused) = (self.id.host, self.machine.guest.is_paused);
        env.say(|| format!("host {host} answers: the guest {}", if is_paused { "is PAUSED" } else { "RUNS" }));
        env.oracle.answered_to_run(self.generation, !is_paused, self.machine.guest.position);
    }

    /// Does what the operator's wish needs.
    fn answer_operator(&mut self, env: &mut Env) -> Result<(), Crashed> {
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
        Ok(())
    }

    /// Whether its guest has crashed, or was stopped: it is not run here any more.
    pub fn is_over(&self) -> bool {
        self.crashed || self.stopped
    }

    /// Whether all of its guest is gone from here.
    pub fn is_closed(&self) -> bool {
        self.core().state() == PrimaryState::Ended && self.pipeline.is_closed()
    }

    /// Which of the guests that were booted one after the other it runs.
    pub fn generation(&self) -> u32 {
        self.generation
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

    /// This process is gone. What its host finds when it starts again.
    pub fn into_files_after(mut self, power: bool, env: &mut Env) -> (Files, Option<StateDir>) {
        // What is not synced is lost with the power, and with a disk that fails.
        let is_lost = power || self.machine.disk.files.has_image_failed();
        self.machine.disk.files.crash(power, &mut env.rng);
        self.check_survivor(power, is_lost, env);
        (self.machine.disk.files, self.store.or(self.lost_store))
    }

    /// What was committed as durable is here after the crash.
    fn check_survivor(&self, power: bool, is_lost: bool, env: &mut Env) {
        let (host, life, pointers) = (self.id.host, self.generation, self.core().pointers());
        let found = self.machine.disk.files.recovered(EpochId(u64::MAX));
        let is_kept = !power || env.plan.local_survives_power;
        if let Some(last) = self.store.as_ref().and_then(|store| store.last.as_ref()).filter(|_| is_kept) {
            let found = self.machine.disk.files.recovered(last.epoch);
            env.oracle.check_survivor(host, life, (last.epoch, last.epoch), &found);
        }
        let has_committed = self.machine.mode == GuestMode::Epochs && pointers.committed() >= self.first_epoch;
        if has_committed && (!is_lost || env.plan.durable || self.store.is_some()) {
            let committed = pointers.committed().min(self.pipeline.through());
            env.oracle.check_survivor(host, life, (committed, pointers.sealed()), &found);
        } else if env.plan.durable || !is_lost {
            env.oracle.check_not_older(host, life, &found);
        }
    }

    /// The connection stands.
    pub fn handle_connected(&mut self, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&env.rng.u64().to_le_bytes());
        env.say(|| format!("host {} connects, session {}", self.id.host, SessionId(session)));
        let greeting = env.witness.greeting(self.id);
        match self.pipeline.handle_connected(env.time(), SessionId(session), greeting) {
            Some(number) => (self.stream, self.number) = (Some(Stream::new(connection)), number),
            None => env.close(connection, self.id.host),
        }
        self.pump(env)
    }

    /// The connection ended.
    pub fn handle_disconnected(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.stream = None;
        let now = env.time();
        self.pipeline.with(now, |core| core.handle_disconnected(now));
        self.pump(env)
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8], env: &mut Env) -> Result<(), Crashed> {
        let now = env.time();
        self.pipeline.with(now, |core| core.handle_alive(now));
        if let Some(stream) = &mut self.stream {
            stream.decoder.handle_bytes(bytes);
        }
        while let Some(stream) = &mut self.stream {
            match stream.decoder.poll_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => drop(self.pipeline.with(now, |core| core.handle_frame(now, frame))),
                Err(error) => {
                    env.say(|| format!("host {}: {error}", self.id.host));
                    self.pipeline.with(now, |core| core.handle_broken_stream(now));
                    return self.pump(env);
                }
            }
            self.pump(env)?;
        }
        Ok(())
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
        let waits = self.machine.mode == GuestMode::Epochs && !self.pipeline.may_seal(0);
        if self.is_over() {
            return Ok(());
        }
        if waits || self.machine.is_busy(env.now) {
            let id = self.id;
            env.after(MS / 2, Event::Boundary(id));
            return Ok(());
        }
        // A paused guest has no boundaries.
        if self.machine.mode == GuestMode::Epochs && !self.machine.guest.is_paused {
            self.seal(false, 0, env)?;
        }
        if self.core().state() == PrimaryState::Fenced {
            return Ok(());
        }
        self.tick(env)
    }

    /// The guest runs on, until the next boundary.
    fn tick(&mut self, env: &mut Env) -> Result<(), Crashed> {
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
        let sealed = self.machine.seal(base, also);
        if env.plan.broken == Some(Break::PauseUnrecorded) {
            sealed.guest.is_paused = false;
        }
        let (epoch, has_writes) = (sealed.epoch, !sealed.sectors.is_empty());
        env.oracle.sealed(host, self.generation, epoch, &sealed.guest);
        self.pipeline.handle_sealed(env.time(), epoch, base, EPOCH_BYTES, has_writes);
        match env.plan.broken {
            Some(Break::ReleaseBeforeAck) => self.machine.release(epoch, env),
            Some(Break::DiskBeforeCommit) => {
                self.machine.disk.put_early(epoch);
                self.machine.disk.drop_written(epoch);
            }
            Some(Break::ImageBeforeLog) => self.machine.disk.put_early(epoch),
            _ => {}
        }
        env.step(host, step, true)?;
        self.pump(env)
    }

    /// Has the lanes do all that the pipeline wants done.
    pub fn pump(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.core().state() == PrimaryState::Ended && !self.pipeline.is_closing() {
            self.pipeline.handle_close(false);
        }
        while let Some(action) = self.pipeline.poll_action() {
            self.act(action, env)?;
        }
        while let Some(question) = self.pipeline.poll_question() {
            self.ask(question, env)?;
        }
        self.answer_operator(env)?;
        self.machine.forget(self.pipeline.through());
        self.set_to_work(env)?;
        let wanted = [self.pipeline.poll_timeout(), self.pipeline.upkeep_at(), self.pipeline.pause_until()];
        let wanted = wanted.into_iter().flatten().min();
        let wanted = wanted.map(|time| env.when(time));
        if let Some(at) = wanted.filter(|at| self.timer_at.is_none_or(|armed| *at < armed)) {
            self.timer_at = Some(at);
            env.at(at, Event::Timer(self.id));
        }
        Ok(())
    }

    fn set_to_work(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let (id, now) = (self.id, env.time());
        if let Some(does) = self.pipeline.poll_step(now) {
            self.does = Some(does.clone());
            let at = self.begin_step(&does, env)?;
            env.at(at, Event::Lane { to: id, lane: Lane::Ship });
        }
        if let Some(upto) = self.pipeline.poll_images(now) {
            self.writes = Some(upto);
            let is_left_out = env.plan.broken == Some(Break::ImagesUnwritten);
            let writes = if is_left_out { Vec::new() } else { self.machine.disk.due(upto) };
            let op = Op::Write { writes, time_max: env.plan.disk_delay };
            let at = self.machine.disk.files.begin(id.host, Worker::Images, op, env)?;
            env.at(at, Event::Lane { to: id, lane: Lane::Images });
        }
        if self.pipeline.poll_upkeep(now) {
            self.is_syncing = true;
            let at = match env.plan.broken {
                Some(Break::BaseUnsyncedHere | Break::LogEmptiedUnsynced) => env.now,
                _ => self.machine.disk.files.begin(id.host, Worker::Upkeep, Op::Sync, env)?,
            };
            env.at(at, Event::Lane { to: id, lane: Lane::Upkeep });
        }
        Ok(())
    }

    /// A lane has done its step, or a part of it.
    pub fn handle_lane(&mut self, lane: Lane, env: &mut Env) -> Result<(), Crashed> {
        match lane {
            Lane::Ship => self.handle_ship(env),
            Lane::Images => self.handle_images(env),
            // It was a backup when that began.
            Lane::Upkeep if !std::mem::take(&mut self.is_syncing) => Ok(()),
            Lane::Upkeep => {
                let done = self.machine.disk.files.finish(self.id.host, Worker::Upkeep, env)?;
                let done = if done == Done::Done { Ok(()) } else { Err("the disk failed".to_owned()) };
                self.pipeline.handle_upkeep_done(env.time(), done);
                self.pump(env)
            }
            // It was a backup when they began.
            Lane::Loop | Lane::Storage => Ok(()),
        }
    }

    /// The lane Images has written.
    fn handle_images(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let Some(upto) = self.writes.take() else { return Ok(()) };
        match self.machine.disk.files.finish(self.id.host, Worker::Images, env)? {
            Done::NoRoom(path) => self.pipeline.handle_images_full(env.time(), path.to_owned()),
            Done::Failed => self.pipeline.handle_images_failed("the disk failed".to_owned()),
            Done::Done | Done::LogFull => {
                self.machine.disk.drop_written(upto);
                self.pipeline.handle_images_written(upto);
            }
        }
        let (committed, image) = (self.core().pointers().committed(), self.machine.disk.files.image.bytes());
        env.oracle.check_committed_image(self.id.host, self.generation, committed, &image);
        self.pump(env)
    }

    /// The lane Ship does what it was given.
    fn handle_ship(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let Some(does) = self.does.take() else { return Ok(()) };
        let outcome = match self.outcome.take() {
            Some(outcome) => Some(outcome),
            None => self.perform(does.clone(), env)?,
        };
        match outcome {
            // What it set off may be back before it is reported.
            Some(outcome) if !self.is_reported && env.rng.percent(20) => {
                (self.outcome, self.is_reported, self.does) = (Some(outcome), true, Some(does));
                let delay = env.rng.range(0, 3 * MS);
                env.after(delay, Event::Lane { to: self.id, lane: Lane::Ship });
            }
            Some(outcome) => {
                self.is_reported = false;
                self.pipeline.handle_done(env.time(), outcome);
            }
            None => {
                self.does = Some(does);
                let delay = env.rng.range(0, MS / 2);
                env.after(delay, Event::Lane { to: self.id, lane: Lane::Ship });
            }
        }
        self.pump(env)
    }

    fn act(&mut self, action: Action, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        match action {
            Action::Release { upto, until } if env.time() > until => {
                self.pipeline.handle_release_late(env.time(), upto);
            }
            Action::Release { upto, .. } => {
                env.step(host, Step::Release, false)?;
                match env.plan.broken {
                    Some(Break::LeftBeforeOut) => self.machine.release(EpochId(upto.0.saturating_sub(3)), env),
                    _ => self.machine.release(upto, env),
                }
                self.pipeline.handle_let_out(env.time(), upto, 0, 0);
                env.step(host, Step::Release, true)?;
            }
            Action::Beat { connection, frame } => {
                env.step(host, Step::Send, false)?;
                self.send(connection, frame, env);
                env.step(host, Step::Send, true)?;
            }
            Action::Close { connection } => self.close(connection, env),
            Action::GuestShare { percent } => self.share = percent,
            Action::Fail(failing) => {
                env.say(|| format!("host {host} FAILS: {failing:?}"));
                self.has_failed = true;
            }
            Action::Note(note) => env.say(|| format!("host {host} {}", words::note(&note))),
            Action::Fenced { .. } => env.say(|| format!("host {host} is FENCED: another is the primary")),
            Action::Conflict { .. } => {}
        }
        Ok(())
    }

    fn send(&mut self, connection: u64, frames: Vec<u8>, env: &mut Env) {
        if Kind::of_frame(&frames) == Some(Kind::Goodbye) && env.plan.broken == Some(Break::ShipOn) {
            return;
        }
        if let Some(stream) = self.stream.as_ref().filter(|_| self.number == connection) {
            env.send(stream.connection, self.id.host, frames);
        }
    }

    fn close(&mut self, connection: u64, env: &mut Env) {
        if let Some(stream) = self.stream.take_if(|_| self.number == connection) {
            env.close(stream.connection, self.id.host);
        }
    }

    /// Asks, unless a rule is broken.
    fn ask(&mut self, wants: Wants, env: &mut Env) -> Result<(), Crashed> {
        let (question, unasked) = match wants {
            Wants::Meet { session, nonce } => (Question::Meet { session, nonce }, Some(Break::MeetUnasked)),
            Wants::Enlist { session, place } => (Question::Enlist { session, place }, Some(Break::EnlistUnasked)),
            Wants::Delist { session } => (Question::Delist { session }, None),
            Wants::Claim { session } if self.crashed => (Question::Claim { session }, Some(Break::AnewWithoutClaim)),
            Wants::Claim { session } => (Question::Claim { session }, Some(Break::SoloWithoutClaim)),
            Wants::DelistStore => (Question::DelistStore, Some(Break::StoreUndelisted)),
            Wants::Look => (Question::Look, None),
            Wants::RecordEnd => (Question::RecordEnd, Some(Break::EndUnrecorded)),
        };
        if unasked.is_none() {
            env.ask(self.id, question);
            return Ok(());
        }
        env.step(self.id.host, Step::Claim, false)?;
        match unasked == env.plan.broken {
            true => env.learn_unasked(self.id, question),
            false => env.ask(self.id, question),
        }
        env.step(self.id.host, Step::Claim, true)
    }
}
