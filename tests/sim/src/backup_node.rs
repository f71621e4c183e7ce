//! A host that follows: memory, files and a connection, and a pipeline that decides what is done with them.
//!
//! There is no rule here. Steps are performed against models of what a real host has, take their time, and are answered.

mod files;
mod inheritance;
mod link;
mod memory;
mod register;

use std::collections::VecDeque;
use std::time::Duration;

use replication::page::{PAGE_SIZE, Page};
use replication::pipeline::backup::{
    BackupPipeline, Note, PipelineConfig, Question as Asked, StorageDone, StorageLimits,
};
use replication::pipeline::inheritance::Inheritance;
use replication::view::Voids;
use replication::{AssembledEpoch, Backup, SessionId, TakeOver};

use crate::env::{Crashed, Env, Event, HostId, Lane, Piece};
use crate::fault::Step;
use crate::guest::PAGES;
use crate::net::Stream;
use crate::plan::{MS, Plan, UPKEEP};
use crate::storage::Files;
use crate::story::words;
use crate::witness::Question;
use files::Storage;

/// A host that follows.
pub struct BackupNode {
    id: HostId,
    pipeline: BackupPipeline,
    /// The shadow memory.
    pub memory: Vec<Page>,
    storage: Storage,
    /// The connection to the primary.
    pub stream: Option<Stream>,
    /// What came on it and is not read.
    unread: VecDeque<Piece>,
    /// The epoch whose pages the loop applies.
    applying: Option<std::sync::Arc<AssembledEpoch>>,
    /// A base could not run here: it refuses that machine until somebody mends that and starts it again.
    pub is_unfit: bool,
    /// The guest ended, or storage failed, and this backup ends with it.
    pub has_ended: bool,
    /// A guest that is to run here, and what is done about it.
    inheritance: Option<(Inheritance, Box<TakeOver>)>,
    /// What runs here from now on.
    pub over: Option<Box<TakeOver>>,
    /// The session in which it acks nothing any more.
    mute: Option<SessionId>,
    /// What it has to tell the witness of joins that came to nothing.
    voids: Voids,
    timer_at: Option<u64>,
}

impl BackupNode {
    /// A host with files left from whatever it did before, which it has opened.
    pub fn new(id: HostId, files: Files, env: &Env) -> BackupNode {
        BackupNode {
            id,
            pipeline: BackupPipeline::new(pipeline_config(&env.plan, files.is_filling_noted)),
            memory: vec![[0; PAGE_SIZE]; PAGES],
            storage: Storage::new(files),
            stream: None,
            unread: VecDeque::new(),
            applying: None,
            is_unfit: false,
            has_ended: false,
            inheritance: None,
            over: None,
            mute: None,
            voids: Voids::new(env.witness.place(id.host).id),
            timer_at: None,
        }
    }

    /// The core under test.
    pub fn core(&self) -> &Backup {
        self.pipeline.core()
    }

    /// Its image, if an epoch of that life of the guest was written to it since this was asked last.
    pub fn written_image(&self, life: u32) -> Option<Vec<u8>> {
        self.storage.written(self.core(), life)
    }

    /// The session whose guest it has.
    pub fn session(&self) -> Option<SessionId> {
        let offered = self.inheritance.as_ref().map(|(_, over)| over.session);
        self.core().session_id().or(offered)
    }

    /// Which host it is.
    pub fn host(&self) -> usize {
        self.id.host
    }

    /// The operator has the copy that is kept here run: every listed place is dead. Nothing happens if there is none.
    pub fn take_over_dead(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.pipeline.handle_override(env.time());
        self.pump(env)
    }

    /// A timer fired.
    pub fn handle_timer(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.timer_at = None;
        match self.applying {
            Some(_) => self.pipeline.handle_working(env.time()),
            None => self.pipeline.handle_timeout(env.time()),
        }
        self.pump(env)?;
        self.read(env)
    }

    /// A lane has done its step.
    pub fn handle_lane(&mut self, lane: Lane, env: &mut Env) -> Result<(), Crashed> {
        match lane {
            Lane::Loop if self.applying.is_none() => self.finish_restoring(),
            Lane::Loop => self.finish_applying(env)?,
            Lane::Storage => {
                let done = self.storage.finish(self.id.host, env)?;
                self.is_unfit |= matches!(done, StorageDone::Unfit(_));
                self.pipeline.handle_storage_done(env.time(), done);
            }
            Lane::Ship | Lane::Images => unreachable!("they are a primary's"),
            Lane::Upkeep => {
                let is_done = self.storage.finish_upkeep(self.id.host, env)?;
                self.pipeline.handle_upkeep_done(env.time(), is_done);
            }
        }
        self.pump(env)?;
        self.read(env)
    }

    /// Does all that the pipeline wants done now.
    fn pump(&mut self, env: &mut Env) -> Result<(), Crashed> {
        loop {
            self.transmit(env)?;
            self.give(env)?;
            self.tell(env);
            let Some(step) = self.pipeline.poll_loop_step() else { break };
            self.perform(step, env)?;
        }
        self.inherit(env)?;
        let inherits_at = self.inheritance.as_ref().and_then(|(inheritance, _)| inheritance.poll_timeout());
        env.wake(self.id, &mut self.timer_at, [self.pipeline.poll_timeout(), inherits_at]);
        Ok(())
    }

    fn transmit(&mut self, env: &mut Env) -> Result<(), Crashed> {
        while let Some(frame) = self.pipeline.poll_transmit() {
            env.step(self.id.host, Step::Send, false)?;
            self.send(frame, env);
            env.step(self.id.host, Step::Send, true)?;
        }
        Ok(())
    }

    fn give(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if let Some(step) = self.pipeline.poll_storage_step(env.time()) {
            let at = self.storage.begin(self.id.host, step, self.pipeline.core(), env)?;
            env.at(at, Event::Lane { to: self.id, lane: Lane::Storage });
        }
        if self.pipeline.poll_upkeep(env.time()) {
            let at = self.storage.begin_upkeep(self.id.host, env)?;
            env.at(at, Event::Lane { to: self.id, lane: Lane::Upkeep });
        }
        match self.pipeline.poll_question() {
            Some(question) => {
                if let Asked::TakeOver { session, .. } = &question {
                    env.say(|| {
                        format!("host {} claims session {session}; {}", self.id.host, self.pipeline.core().pointers())
                    });
                }
                env.put(self.id, Question::from(question), false)
            }
            None => Ok(()),
        }
    }

    fn tell(&mut self, env: &mut Env) {
        let host = self.id.host;
        while let Some(note) = self.pipeline.poll_note() {
            match note {
                Note::Discarded(reason) => {
                    env.say(|| format!("host {host} discards the session: {}", words::discard(&reason)));
                }
                Note::Kept { epoch, .. } => {
                    env.say(|| format!("host {host} keeps epoch {epoch}"));
                    self.storage.check_at_rest(host, "keeps its copy", env);
                }
                Note::Refused(text) | Note::PeerError(text) => env.say(|| format!("host {host}: {text}")),
                Note::Full(path) => env.say(|| format!("host {host} has no room for its {}", path.display())),
                Note::HasRoom(path) => env.say(|| format!("host {host} has room for its {}", path.display())),
                Note::Offered | Note::ResyncStarted { .. } | Note::Protected(_) | Note::FailoverStarted { .. } => {}
                Note::StopDeferred(_) => unreachable!("no operator here stops a backup"),
            }
        }
    }

    /// This process is gone. What its host finds when it starts again.
    pub fn into_files_after(mut self, power: bool, env: &mut Env) -> Files {
        self.storage.files.crash(power, &mut env.rng);
        self.storage.check_noted(self.id.host, env);
        self.storage.check_survivor(self.id.host, self.pipeline.core(), env);
        self.storage.files
    }

    /// Its image is noted to be one that a filling left half-way.
    pub fn is_filling_noted(&self) -> bool {
        self.storage.files.is_filling_noted
    }

    /// The files, for the guest that runs here from now on.
    pub fn into_files(mut self) -> Files {
        self.storage.files.hand_over();
        self.storage.files
    }
}

fn pipeline_config(plan: &Plan, is_half_filled: bool) -> PipelineConfig {
    PipelineConfig {
        is_half_filled,
        core: plan.backup_config(),
        storage: StorageLimits {
            room_retry: Duration::from_nanos(2 * MS),
            unsynced_bytes_max: 600,
            filling_bytes_max: plan.filling_bytes_max,
        },
        upkeep: Duration::from_nanos(UPKEEP),
    }
}
