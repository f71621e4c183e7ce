//! The driver of a backup: shadow memory, replica image, persistence. What a real one does, in small.

use std::sync::Arc;

use replication::page::{PAGE_SIZE, Page};
use replication::view::{Greeting, Tell, Voids};
use replication::wire::{DiskOffer, DiskWant, Kind, Message, RefuseCode};
use replication::{AssembledEpoch, Backup, BackupAction, EpochId, Frame, PageBatch, SessionId, TakeOver};

use crate::disk::{CHUNK, Disk};
use crate::env::{Crashed, Env, Event, HostId};
use crate::fault::Step;
use crate::guest::PAGES;
use crate::plan::{Break, machine};
use crate::primary_node::Stream;
use crate::shipping::chunk_hash;
use crate::story::words;
use crate::witness::Question;

/// A host that follows.
pub struct BackupNode {
    id: HostId,
    /// The core under test.
    pub core: Backup,
    /// The shadow memory.
    pub memory: Vec<Page>,
    /// The replica image.
    pub image: Vec<u8>,
    /// The connection to the primary.
    pub stream: Option<Stream>,
    /// The guest ended, and this backup with it.
    pub has_ended: bool,
    /// What the core wants run.
    pub over: Option<Box<TakeOver>>,
    /// The session in which it acks nothing any more.
    mute: Option<SessionId>,
    /// What it has to tell the witness of joins that came to nothing.
    voids: Voids,
    durable_at: u64,
    applied_at: u64,
    timer_at: Option<u64>,
}

impl BackupNode {
    /// A host with an image left from whatever it did before.
    pub fn new(id: HostId, image: Vec<u8>, env: &Env) -> BackupNode {
        BackupNode {
            id,
            core: Backup::new(env.plan.backup_config()),
            memory: vec![[0; PAGE_SIZE]; PAGES],
            image,
            stream: None,
            has_ended: false,
            over: None,
            mute: None,
            voids: Voids::new(env.witness.place(id.host).id),
            durable_at: 0,
            applied_at: 0,
            timer_at: None,
        }
    }

    /// A connection stands.
    pub fn handle_connected(&mut self, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        self.stream = Some(Stream::new(connection));
        self.core.handle_connected(env.time());
        self.pump(env)
    }

    /// The connection ended.
    pub fn handle_disconnected(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.stream = None;
        self.core.handle_disconnected(env.time());
        self.pump(env)
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8], env: &mut Env) -> Result<(), Crashed> {
        self.core.handle_alive(env.time());
        if let Some(stream) = &mut self.stream {
            stream.decoder.handle_bytes(bytes);
        }
        while let Some(stream) = &mut self.stream {
            match stream.decoder.poll_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => self.take_frame(frame, env),
                Err(error) => {
                    env.say(|| format!("host {}: {error}", self.id.host));
                    self.core.handle_broken_stream(env.time());
                }
            }
            self.pump(env)?;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: Frame, env: &mut Env) {
        if env.plan.broken == Some(Break::AckBeforeComplete) && frame.kind == Kind::State {
            let ack = Message::Ack { complete: frame.epoch }.to_frame(&frame.link, EpochId(0));
            self.send(ack, env);
        }
        if let Err(error) = self.core.handle_frame(env.time(), frame) {
            env.say(|| format!("host {}: {error}", self.id.host));
        }
    }

    /// A timer fired.
    pub fn handle_timer(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.timer_at = None;
        self.core.handle_timeout(env.time());
        self.pump(env)
    }

    /// The log has the epoch.
    pub fn handle_durable(&mut self, session: SessionId, epoch: EpochId, env: &mut Env) -> Result<(), Crashed> {
        env.step(self.id.host, Step::Durable, false)?;
        self.core.handle_durable(env.time(), session, epoch);
        env.step(self.id.host, Step::Durable, true)?;
        self.pump(env)
    }

    /// The base was looked at and cannot run here.
    pub fn handle_unfit_base(&mut self, session: SessionId, env: &mut Env) -> Result<(), Crashed> {
        env.say(|| format!("host {}: the base cannot run here", self.id.host));
        self.core.handle_base_refused(env.time(), session, "the base cannot run here");
        self.pump(env)
    }

    /// The time to apply an epoch came. Not if its session is gone meanwhile.
    pub fn handle_apply(&mut self, epoch: &AssembledEpoch, env: &mut Env) -> Result<(), Crashed> {
        if self.core.session_id() != Some(epoch.session) {
            return Ok(());
        }
        env.step(self.id.host, Step::Apply, false)?;
        self.apply(epoch, env);
        self.core.handle_applied(env.time(), epoch.session, epoch.epoch);
        env.step(self.id.host, Step::Apply, true)?;
        self.pump(env)
    }

    fn apply(&mut self, epoch: &AssembledEpoch, env: &mut Env) {
        let is_forgetful = env.plan.broken == Some(Break::ForgetPage) && epoch.epoch.0.is_multiple_of(4);
        for batch in epoch.pages.iter().skip(usize::from(is_forgetful)) {
            self.apply_pages(batch);
        }
        if env.plan.broken != Some(Break::ForgetDiskWrites) || epoch.base {
            for write in &epoch.disk_writes {
                self.image[write.offset as usize..][..write.data.len()].copy_from_slice(&write.data);
            }
        }
    }

    fn read_memory(&mut self, session: SessionId, epoch: EpochId, env: &Env) {
        let is_blank = env.plan.broken == Some(Break::CopyOfOtherMemory);
        self.core.handle_memory(session, epoch, |gfn, page| {
            *page = if is_blank { [0; PAGE_SIZE] } else { self.memory[gfn.0 as usize] };
        });
    }

    fn apply_pages(&mut self, batch: &PageBatch) {
        for page in batch.pages() {
            page.apply_to(&mut self.memory[page.gfn.0 as usize]);
        }
    }

    /// Does all that the core wants done.
    pub fn pump(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        while let Some(action) = self.core.poll_action() {
            self.act(action, env)?;
        }
        while let Some(frame) = self.core.poll_transmit() {
            env.step(host, Step::Send, false)?;
            self.send(frame, env);
            env.step(host, Step::Send, true)?;
        }
        let wanted = self.core.poll_timeout().map(|time| env.when(time));
        if let Some(at) = wanted.filter(|at| self.timer_at.is_none_or(|armed| *at < armed)) {
            self.timer_at = Some(at);
            env.at(at, Event::Timer(self.id));
        }
        Ok(())
    }

    fn act(&mut self, action: BackupAction, env: &mut Env) -> Result<(), Crashed> {
        match action {
            BackupAction::Greeted(hello) if hello.machine == machine() => self.meet(hello.register, env),
            BackupAction::Greeted(_) => self.core.handle_refuse(env.time(), RefuseCode::Machine, "another machine"),
            BackupAction::ResyncPages(batch) => self.apply_pages(&batch),
            BackupAction::ResyncDisk(piece) => {
                self.image[piece.offset as usize..][..piece.data.len()].copy_from_slice(&piece.data);
            }
            BackupAction::DiskOffered(offer) => self.compare(&offer, env),
            BackupAction::ReadMemory { session, epoch } => self.read_memory(session, epoch, env),
            BackupAction::Persist(epoch) => return self.persist(&epoch, env),
            BackupAction::Apply(epoch) => self.schedule_apply(epoch, env),
            BackupAction::Claim { session, fork } => return self.claim(session, fork, env),
            BackupAction::TakeOver(over) => {
                env.step(self.id.host, Step::TakeOver, false)?;
                self.over = Some(over);
            }
            BackupAction::Discard { session, reason } => {
                if let Some(session) = session {
                    self.voids.handle_void(session);
                    env.after(0, Event::Look { by: self.id, again: false });
                }
                (self.durable_at, self.applied_at) = (env.now, env.now);
                env.say(|| format!("host {} discards the session: {}", self.id.host, words::discard(&reason)));
            }
            BackupAction::Keep { epoch, .. } => {
                (self.durable_at, self.applied_at) = (env.now, env.now);
                env.say(|| format!("host {}: keeps epoch {epoch}", self.id.host));
            }
            BackupAction::Override { .. } => unreachable!("no operator here overrides"),
            BackupAction::Ended { .. } => self.has_ended = true,
            BackupAction::Disconnect => self.close(env),
        }
        Ok(())
    }

    fn meet(&mut self, greeting: Option<Greeting>, env: &mut Env) {
        match env.plan.broken {
            Some(Break::MeetUnasked) => env.learn_unasked(self.id, Question::Introduce(greeting)),
            _ => env.ask(self.id, Question::Introduce(greeting)),
        }
    }

    /// The witness said whether the primary may be followed.
    pub fn handle_introduced(
        &mut self,
        greeting: Option<Greeting>,
        is_known: bool,
        env: &mut Env,
    ) -> Result<(), Crashed> {
        match is_known {
            true => {
                if let (Some(greeting), Some(session)) = (greeting, self.core.session_id()) {
                    self.voids.handle_joined(session, greeting.primary);
                }
                self.core.handle_accept(
                    env.time(),
                    Some(env.witness.introduce(self.id.host)),
                    Some(env.witness.leave(self.id.host)),
                )
            }
            false => self.core.handle_refuse(env.time(), RefuseCode::Witness, "another witness, or another primary"),
        }
        self.pump(env)
    }

    /// Looks at the newest record, and tells the witness what that asks for. The driver does so again and again.
    pub fn look(&mut self, env: &mut Env) {
        let newest = env.witness.seen_right(self.id.host).filter(|_| env.net.witness_up[self.id.host]).cloned();
        if let Some(newest) = newest.filter(|_| env.plan.broken != Some(Break::VoidUntold)) {
            for tell in self.voids.tell(&newest) {
                env.say(|| format!("host {} {}", self.id.host, words::tell(tell)));
                if env.witness.tell(tell) {
                    self.voids.handle_told(tell);
                }
            }
            if env.plan.broken == Some(Break::VoidForgotten) && newest.backups.is_empty() {
                // Broken: what is not listed now is taken for what will never be.
                self.voids.joins().for_each(|join| {
                    env.witness.tell(Tell::Withdraw(join));
                });
                self.voids = Voids::new(env.witness.place(self.id.host).id);
            }
        }
        if env.net.witness_up[self.id.host] {
            env.witness.state_deaths_again(self.id.host);
        }
    }

    fn compare(&mut self, offer: &DiskOffer, env: &mut Env) {
        let DiskOffer { disk, first_chunk, ref hashes, .. } = *offer;
        let chunks = self.image.chunks(CHUNK).zip(hashes);
        let wanted = chunks.map(|(chunk, hash)| chunk_hash(chunk) != *hash).collect();
        self.core.handle_disk_compared(env.time(), DiskWant { disk, first_chunk, wanted });
    }

    fn persist(&mut self, epoch: &AssembledEpoch, env: &mut Env) -> Result<(), Crashed> {
        env.step(self.id.host, Step::Persist, false)?;
        self.durable_at = self.durable_at.max(env.now + env.disk_delay(self.id.host));
        let (to, session, epoch, is_base) = (self.id, epoch.session, epoch.epoch, epoch.base);
        if is_base && std::mem::take(&mut env.unfit_base[self.id.host]) {
            env.at(self.durable_at, Event::BaseUnfit { to, session });
        } else {
            env.at(self.durable_at, Event::Durable { to, session, epoch });
        }
        env.step(self.id.host, Step::Persist, true)
    }

    fn schedule_apply(&mut self, epoch: Arc<AssembledEpoch>, env: &mut Env) {
        let delay = env.rng.range(0, env.plan.apply_delay);
        self.applied_at = self.applied_at.max(env.now + delay);
        env.at(self.applied_at, Event::Apply { to: self.id, epoch });
    }

    fn claim(&mut self, session: SessionId, fork: EpochId, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        env.say(|| format!("host {host} claims session {session}; {}", self.core.pointers()));
        env.step(host, Step::Claim, false)?;
        if env.plan.broken == Some(Break::RunWithoutClaim) {
            env.learn_unasked(self.id, Question::TakeOver { session, fork });
        } else {
            env.ask(self.id, Question::TakeOver { session, fork });
        }
        env.step(host, Step::Claim, true)
    }

    fn send(&mut self, bytes: Vec<u8>, env: &mut Env) {
        if Kind::of_frame(&bytes) == Some(Kind::Ack) {
            if std::mem::take(&mut env.mute[self.id.host]) {
                self.mute = self.core.session_id();
            }
            if self.mute.is_some() && self.mute == self.core.session_id() {
                return;
            }
        }
        if let Some(stream) = &self.stream {
            env.send(stream.connection, self.id.host, bytes);
        }
    }

    fn close(&mut self, env: &mut Env) {
        while let Some(frame) = self.core.poll_transmit() {
            self.send(frame, env);
        }
        if let Some(stream) = self.stream.take() {
            env.close(stream.connection, self.id.host);
        }
    }

    /// The disk, for the guest that runs here from now on.
    pub fn into_disk(self) -> Disk {
        Disk::new(self.image)
    }
}
