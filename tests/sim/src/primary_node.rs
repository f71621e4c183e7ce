//! The driver of a primary: runs the toy guest, seals, ships, holds output. What a real VMM does, in small.

use std::collections::VecDeque;

use replication::page::{PAGE_SIZE, Page, PageEncoder};
use replication::primary::{FillPhase, GuestEnd, Left, NextRound, PrimaryState};
use replication::wire::{DiskCopy, DiskOffer, DiskWant, EpochBegin, HEADER_LEN, Kind, Link, Message, ResyncDisk};
use replication::{
    EpochId, EpochMeta, EpochWriter, FrameDecoder, Gfn, Input, Output, OutputQueue, Primary, PrimaryAction, SessionId,
    ShippedState, TakeOver, Term, VmId,
};

use crate::disk::{CHUNK, Disk, SECTOR, SECTORS, SectorWrite};
use crate::env::{Crashed, Env, Event, HostId};
use crate::fault::Step;
use crate::guest::{Guest, PAGES, Said, digest, sector_of};
use crate::machines::store_of;
use crate::plan::{Break, MS};
use crate::state_dir::{LocalEpoch, StateDir, Uncommitted};
use crate::story::words;
use crate::witness::Question;

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

/// What a resync still has to do.
struct Resync {
    session: SessionId,
    /// Rounds are done, for now.
    sent: bool,
    /// That was so when the register listed the backup already.
    looked: bool,
    /// The first round was begun.
    begun: bool,
    /// Bytes that the guest wrote beside its pages and that are not sent.
    load: u64,
    /// Sectors written since it began, or since a round took them; the last go with the base.
    sectors: Vec<SectorWrite>,
}

/// Bytes that wait for their turn on a connection.
struct Outgoing {
    connection: u64,
    /// They go out only while this session lasts.
    session: Option<SessionId>,
    what: Bytes,
}

enum Bytes {
    Frames(Vec<u8>),
    /// The last ones of an epoch.
    Epoch(EpochId, Vec<u8>),
    End,
}

/// A host that runs the guest.
pub struct PrimaryNode {
    id: HostId,
    /// Its guest has crashed, and is to begin anew.
    crashed: bool,
    /// Which boot of the guest it runs.
    generation: u32,
    /// Its guest was stopped by the operator.
    stopped: bool,
    /// What is on its way to the socket, in order.
    outbox: VecDeque<Outgoing>,
    /// Its guest ran elsewhere before: there, what was acked may still leave, however late.
    taken_over: bool,
    /// The core under test.
    pub core: Primary,
    /// The guest.
    pub guest: Guest,
    /// Its disk.
    pub disk: Disk,
    queue: OutputQueue,
    inbox: Vec<u64>,
    /// What the backup has of each page, once all shipped is applied.
    shipped: Vec<Page>,
    dirty: u64,
    writer: Option<(SessionId, EpochWriter)>,
    shipped_state: ShippedState,
    resync: Option<Resync>,
    /// The guest's share of its time, in percent.
    share: u8,
    /// The connection to the backup.
    pub stream: Option<Stream>,
    timer_at: Option<u64>,
    encoder: PageEncoder,
    /// What outlives this node, if it is protected locally.
    pub store: Option<StateDir>,
    uncommitted: Uncommitted,
    /// The state directory takes no more epochs.
    store_fails: bool,
    /// What it has since it took none. Files that could not be removed stay there.
    pub lost_store: Option<StateDir>,
}

impl PrimaryNode {
    /// A fresh VM, by right of the record of number `term`, on a disk that it makes anew.
    pub fn boot(id: HostId, term: Term, env: &mut Env) -> (PrimaryNode, Result<(), Crashed>) {
        let term = if env.plan.broken == Some(Break::TermStands) { Term(1) } else { term };
        let core = Primary::new(env.plan.primary_config(term), EpochId(1));
        let mut node = PrimaryNode::with(id, core, Guest::new(), Disk::new(Disk::blank()));
        node.generation = env.oracle.generation;
        node.store = env.plan.local.then(|| StateDir::new(store_of(id)));
        let begun = node.begin_epoch(env);
        (node, begun)
    }

    /// The guest crashes, unless it was taken over: such a one would be stopped, which is no law of the protocol. The last epoch is sealed as it is; then the session is claimed, and when all has left the core ends.
    pub fn crash_guest(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let has_ended = matches!(self.core.state(), PrimaryState::Fenced | PrimaryState::Ended);
        if self.crashed || self.stopped || self.taken_over || has_ended {
            return Ok(());
        }
        env.say(|| format!("the guest of host {} CRASHES", self.id.host));
        (self.crashed, self.resync) = (true, None);
        if self.core.may_seal() {
            self.seal(env)?;
            self.pump(env)?;
        }
        self.core.handle_unprotect(env.time(), "the guest crashed");
        self.core.handle_guest_ended(env.time(), GuestEnd { text: "the guest crashed".into(), begins_anew: true });
        let (id, patience) = (self.id, 3 * env.plan.detect);
        env.after(patience, Event::GiveUp(id));
        self.pump(env)
    }

    /// The operator stops the VM: the last epoch is sealed, all of it leaves, and the register is told before the backup.
    pub fn stop(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let has_ended = matches!(self.core.state(), PrimaryState::Fenced | PrimaryState::Ended);
        if self.crashed || self.stopped || has_ended {
            return Ok(());
        }
        env.say(|| format!("the operator STOPS the guest of host {}", self.id.host));
        (self.stopped, self.resync) = (true, None);
        if self.core.may_seal() {
            self.seal(env)?;
            self.pump(env)?;
        }
        self.core.handle_guest_ended(env.time(), GuestEnd { text: "stopped".into(), begins_anew: false });
        let (id, patience) = (self.id, 3 * env.plan.detect);
        env.after(patience, Event::GiveUp(id));
        self.pump(env)
    }

    /// Whether its guest has crashed, or was stopped: it is not run here any more.
    pub fn is_over(&self) -> bool {
        self.crashed || self.stopped
    }

    /// Which of the guests that were booted one after the other it runs.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether it begins anew when all of it has left.
    pub fn begins_anew(&self) -> bool {
        self.crashed
    }

    /// A VM that goes on from its state directory, by right.
    ///
    /// # Panics
    /// If no epoch was committed there.
    pub fn resume(id: HostId, term: Term, mut store: StateDir, env: &mut Env) -> (PrimaryNode, Result<(), Crashed>) {
        let last = store.last.clone().expect("there is an epoch to resume from");
        let running = store.next_life(last.epoch, env.plan.in_flight_epochs_max);
        let core = Primary::new(env.plan.primary_config(term), running);
        let mut node = PrimaryNode::with(id, core, last.guest, Disk::new(last.image));
        node.store = Some(store);
        node.generation = env.oracle.generation;
        for output in &last.held {
            env.emit(id.host, Said::decode(&output.bytes));
        }
        let begun = node.begin_epoch(env);
        (node, begun)
    }

    /// A VM that a backup takes over.
    pub fn take_over(
        id: HostId,
        term: Term,
        guest: Guest,
        image: Vec<u8>,
        over: TakeOver,
        env: &mut Env,
    ) -> Result<PrimaryNode, Crashed> {
        let reuse = env.plan.broken == Some(Break::ReuseEpochs);
        let running = if reuse { over.from.next() } else { over.next_epoch };
        let core = Primary::new(env.plan.primary_config(term), running);
        let mut node = PrimaryNode::with(id, core, guest, Disk::new(image));
        if env.plan.broken != Some(Break::ForgetHeld) {
            for output in &over.reemit {
                env.emit(id.host, Said::decode(&output.bytes));
            }
        }
        node.taken_over = true;
        node.generation = env.oracle.generation;
        node.inbox = over.redeliver.iter().map(request_of).collect();
        node.begin_epoch(env)?;
        Ok(node)
    }

    fn with(id: HostId, core: Primary, guest: Guest, disk: Disk) -> PrimaryNode {
        PrimaryNode {
            id,
            crashed: false,
            generation: 0,
            stopped: false,
            outbox: VecDeque::new(),
            taken_over: false,
            core,
            guest,
            disk,
            queue: OutputQueue::new(1 << 20),
            inbox: Vec::new(),
            shipped: Vec::new(),
            dirty: 0,
            writer: None,
            shipped_state: ShippedState::default(),
            resync: None,
            share: 100,
            stream: None,
            timer_at: None,
            encoder: PageEncoder::new(),
            store: None,
            uncommitted: Uncommitted::default(),
            store_fails: false,
            lost_store: None,
        }
    }

    /// All up to `epoch` is in the log and, if there is one, in the state directory.
    pub fn handle_local_durable(&mut self, epoch: EpochId, env: &mut Env) -> Result<(), Crashed> {
        if self.store_fails && self.store.is_some() {
            self.lost_store = self.store.take();
            self.core.handle_store_lost();
        }
        if let Some(store) = &mut self.store
            && let Some((guest, image)) = self.uncommitted.take(epoch)
        {
            env.step(self.id.host, Step::LocalCommit, false)?;
            let released = self.core.left();
            let epochs = (released.0 + 1..=epoch.0).map(EpochId);
            let held = epochs.flat_map(|epoch| self.queue.of_epoch(epoch)).map(|output| (**output).clone()).collect();
            store.commit(LocalEpoch { epoch, guest, image, held });
            env.step(self.id.host, Step::LocalCommit, true)?;
        }
        self.core.handle_local_durable(env.time(), epoch);
        self.pump(env)
    }

    /// The medium of its state directory takes nothing from now on.
    pub fn fail_store(&mut self) {
        self.store_fails = true;
    }

    /// The files of the lost state directory are removed, or its medium does not let them be.
    fn remove_store(&mut self, env: &mut Env) {
        if env.rng.percent(50) {
            self.lost_store = None;
        }
        self.core.handle_store_removed(env.time());
    }

    /// The client's packet arrived.
    pub fn handle_request(&mut self, request: u64) {
        if self.inbox.len() < 8 {
            self.inbox.push(request);
        }
    }

    /// The connection stands.
    pub fn handle_connected(&mut self, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        self.stream = Some(Stream::new(connection));
        let mut session = [0; 16];
        session[..8].copy_from_slice(&env.rng.u64().to_le_bytes());
        env.say(|| format!("host {} connects, session {}", self.id.host, SessionId(session)));
        let greeting = env.witness.greeting(self.id);
        self.core.handle_connected(env.time(), SessionId(session), greeting);
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
                Ok(Some(frame)) => drop(self.core.handle_frame(env.time(), frame)),
                Err(error) => {
                    env.say(|| format!("host {}: {error}", self.id.host));
                    self.core.handle_broken_stream(env.time());
                }
            }
            self.pump(env)?;
        }
        Ok(())
    }

    /// A timer fired.
    pub fn handle_timer(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.timer_at = None;
        self.core.handle_timeout(env.time());
        self.pump(env)
    }

    /// The running epoch is long enough.
    pub fn handle_boundary(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.is_over() {
            return Ok(());
        }
        if !self.core.may_seal() {
            let id = self.id;
            env.after(MS / 2, Event::Boundary(id));
            return Ok(());
        }
        self.seal(env)?;
        self.pump(env)?;
        if self.core.state() != PrimaryState::Fenced {
            self.begin_epoch(env)?;
        }
        Ok(())
    }

    /// Delivers input, logs it, lets the guest run.
    fn begin_epoch(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let epoch = self.core.pointers().running();
        let inputs = std::mem::take(&mut self.inbox);
        self.log_inputs(epoch, &inputs, env);
        for request in inputs {
            self.run_guest(epoch, request, env);
        }
        if env.rng.percent(30) {
            self.run_guest(epoch, 0, env);
        }
        let id = self.id;
        let length = env.plan.epoch;
        env.after(length, Event::Boundary(id));
        self.pump(env)
    }

    fn log_inputs(&mut self, epoch: EpochId, inputs: &[u64], env: &mut Env) {
        self.writer = None;
        if !matches!(self.core.state(), PrimaryState::Basing | PrimaryState::Protected) {
            return;
        }
        let Some(link) = self.core.link() else { return };
        let begin = EpochBegin { base: false, released: self.core.left() };
        let mut out = Vec::new();
        let mut writer = EpochWriter::begin(link, epoch, begin, &mut out);
        let inputs: Vec<Input> = inputs.iter().map(input_of).collect();
        writer.inputs(&inputs, &mut out);
        self.writer = Some((link.session, writer));
        self.queue(Some(link.session), Bytes::Frames(out), env);
    }

    fn run_guest(&mut self, epoch: EpochId, request: u64, env: &mut Env) {
        let before = self.guest.chain;
        let (said, (sector, data)) = self.guest.step(request, env.rng.u64());
        env.oracle.produced(before, &said);
        env.whisper(|| format!("host {} epoch {epoch}: output {} for request {request}", self.id.host, said.position));
        self.disk.write(sector, data);
        if env.plan.broken == Some(Break::DiskBeforeCommit) {
            self.disk.image[sector * SECTOR..][..SECTOR].copy_from_slice(&data);
        }
        if let Some(resync) = &mut self.resync {
            resync.sectors.push((sector, data));
        }
        let output = Output { device: 1, kind: 0, bytes: said.encode() };
        self.queue.hold(epoch, output).expect("the toy guest says little");
    }

    fn seal(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        let epoch = self.core.pointers().running();
        self.dirty |= self.guest.take_dirty();
        env.oracle.sealed(host, self.generation, epoch, &self.guest);
        self.look_again(env)?;
        let ready = self.resync.as_ref().filter(|resync| resync.looked).map(|resync| resync.session);
        let base = ready.filter(|_| self.core.may_seal_base());
        env.step(host, if base.is_some() { Step::Base } else { Step::Seal }, false)?;
        if env.plan.broken == Some(Break::BaseBeforeSeal) && base.is_some() {
            return self.ship_base_before_seal(epoch, env);
        }
        let sectors = self.disk.seal(epoch).to_vec();
        if self.store.is_some() {
            self.uncommitted.push(epoch, &self.guest, self.disk.view());
        }
        let link = self.core.handle_sealed(EpochMeta { epoch, base, ship_bytes: 1000 });
        let mut delay = env.disk_delay(host);
        if env.plan.broken == Some(Break::CommitBeforeLocal) {
            self.core.handle_local_durable(env.time(), epoch);
            delay += 10 * MS;
        }
        let id = self.id;
        env.after(delay, Event::LocalDurable { to: id, epoch });
        if env.plan.broken == Some(Break::ReleaseBeforeAck) {
            self.release(epoch, env);
        }
        env.step(host, if base.is_some() { Step::Base } else { Step::Seal }, true)?;
        self.pump(env)?;
        match link {
            Some(link) if self.core.link() == Some(link) => self.ship(link, epoch, base.is_some(), &sectors, env),
            _ => Ok(()),
        }
    }

    /// What a careless driver would do: the base leaves, and only at the next boundary the core hears of it.
    fn ship_base_before_seal(&mut self, epoch: EpochId, env: &mut Env) -> Result<(), Crashed> {
        let link = self.core.link().expect("there is a session to base");
        let sectors = self.disk.seal(epoch).to_vec();
        self.core.handle_sealed(EpochMeta { epoch, base: None, ship_bytes: 1000 });
        let id = self.id;
        env.after(0, Event::LocalDurable { to: id, epoch });
        self.write_epoch(link, epoch, true, &sectors, env)
    }

    fn ship(
        &mut self,
        link: Link,
        epoch: EpochId,
        base: bool,
        sectors: &[SectorWrite],
        env: &mut Env,
    ) -> Result<(), Crashed> {
        let host = self.id.host;
        self.write_epoch(link, epoch, base, sectors, env)?;
        match base {
            true => env.say(|| format!("host {host} ships epoch {epoch}, the base")),
            false => env.whisper(|| format!("host {host} ships epoch {epoch}")),
        }
        Ok(())
    }

    fn write_epoch(
        &mut self,
        link: Link,
        epoch: EpochId,
        base: bool,
        sectors: &[SectorWrite],
        env: &mut Env,
    ) -> Result<(), Crashed> {
        self.core.handle_shipping(env.time(), link.session, epoch);
        let mut out = Vec::new();
        let mut writer = if base {
            let begin = EpochBegin { base, released: epoch.prev() };
            EpochWriter::begin(link, epoch, begin, &mut out)
        } else {
            let (session, writer) = self.writer.take().expect("the epoch's log was begun when it began to run");
            assert_eq!(session, link.session, "an epoch is shipped in the session in which it began");
            writer
        };
        self.encode_dirty(&mut writer, &mut out);
        writer.state_after(&mut self.shipped_state, |_| self.guest.save(), &mut out);
        let resync = if base { self.resync.take().map(|resync| resync.sectors) } else { None };
        let mut copies = Vec::new();
        for (sector, data) in resync.as_deref().unwrap_or(sectors) {
            match self.is_in_memory(*sector, data) && env.rng.percent(70) {
                true => copies.extend(copies_of(*sector)),
                false => writer.disk_write(0, (sector * SECTOR) as u64, data, &mut out),
            }
        }
        // What an epoch long ago put there may be said again.
        let (again, view) = (env.rng.u64() as usize % SECTORS, self.disk.view());
        if self.is_in_memory(again, &view[again * SECTOR..][..SECTOR]) {
            copies.extend(copies_of(again));
        }
        writer.disk_copies(&copies, &mut out);
        let outputs: Vec<_> = self.queue.of_epoch(epoch).cloned().collect();
        writer.outputs(&outputs, &mut out);
        writer.end(&mut out);
        // What is decided between the two halves stops the second.
        let half = out.drain(..half_of(&out)).collect();
        self.queue(Some(link.session), Bytes::Frames(half), env);
        self.queue(Some(link.session), Bytes::Epoch(epoch, out), env);
        Ok(())
    }

    /// Whether the guest's table of its disk gives what is in a sector.
    fn is_in_memory(&self, sector: usize, data: &[u8]) -> bool {
        sector_of(self.guest.sector_chain(sector)) == data
    }

    fn encode_dirty(&mut self, writer: &mut EpochWriter, out: &mut Vec<u8>) {
        let dirty = std::mem::take(&mut self.dirty);
        for page in (0..PAGES).filter(|page| dirty >> page & 1 == 1) {
            let memory = self.guest.memory();
            self.encoder.push(Gfn(page as u64), &memory[page], self.shipped.get(page));
            if let Some(shipped) = self.shipped.get_mut(page) {
                *shipped = memory[page];
            }
        }
        self.encoder.take_batch(|body, pages| writer.pages(body, pages, out));
    }

    fn send(&mut self, bytes: Vec<u8>, env: &mut Env) {
        let kind = Kind::of_frame(&bytes);
        if kind == Some(Kind::Goodbye) && env.plan.broken == Some(Break::ShipOn) {
            return;
        }
        let is_heartbeat = kind == Some(Kind::Heartbeat);
        match &self.stream {
            Some(stream) if is_heartbeat || self.outbox.is_empty() => env.send(stream.connection, self.id.host, bytes),
            Some(_) => self.queue(None, Bytes::Frames(bytes), env),
            None => {}
        }
    }

    fn queue(&mut self, session: Option<SessionId>, what: Bytes, env: &mut Env) {
        let Some(Stream { connection, .. }) = self.stream else { return };
        self.outbox.push_back(Outgoing { connection, session, what });
        if self.outbox.len() == 1 {
            self.schedule_outgoing(env);
        }
    }

    fn schedule_outgoing(&self, env: &mut Env) {
        let delay = env.rng.range(0, MS / 2);
        env.after(delay, Event::Outgoing(self.id));
    }

    /// The socket takes the next bytes. Of a session that is over none go out.
    pub fn handle_outgoing(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let Some(Outgoing { connection, session, what }) = self.outbox.pop_front() else { return Ok(()) };
        let host = self.id.host;
        let is_current = session.is_none() || self.core.link().map(|link| link.session) == session;
        let is_current = is_current || env.plan.broken == Some(Break::ShipOn);
        match what {
            Bytes::End => env.close(connection, host),
            Bytes::Frames(_) | Bytes::Epoch(..) if !is_current => {}
            Bytes::Frames(bytes) => env.send(connection, host, bytes),
            Bytes::Epoch(epoch, bytes) => {
                env.step(host, Step::Ship, false)?;
                env.send(connection, host, bytes);
                env.step(host, Step::Ship, true)?;
                let session = session.expect("an epoch is of a session");
                self.core.handle_shipped(env.time(), session, epoch);
                self.pump(env)?;
            }
        }
        if !self.outbox.is_empty() {
            self.schedule_outgoing(env);
        }
        Ok(())
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

    fn act(&mut self, action: PrimaryAction, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        if !matches!(action, PrimaryAction::Release { .. }) {
            env.say(|| format!("host {host} {}", words::of_primary(&action)));
        }
        match action {
            PrimaryAction::Release { upto } => {
                env.step(host, Step::Release, false)?;
                self.release(upto, env);
                self.disk.commit(upto);
                let committed = self.core.pointers().committed();
                env.oracle.check_committed_image(host, committed, &self.disk.image);
                self.core.handle_released(env.time(), upto);
                env.step(host, Step::Release, true)
            }
            PrimaryAction::Resync { link } => self.start_resync(link, env),
            PrimaryAction::DiskWanted(_) if std::mem::take(&mut env.stuck[host]) => {
                env.say(|| format!("host {host} makes no progress in filling its backup"));
                Ok(())
            }
            PrimaryAction::GuestShare { percent } => {
                self.share = percent;
                Ok(())
            }
            PrimaryAction::FillingStalls { .. } | PrimaryAction::FillingDiverges { .. } => Ok(()),
            PrimaryAction::DiskWanted(want) => {
                self.send_chunks(&want, env);
                self.round(env);
                Ok(())
            }
            PrimaryAction::Claim { session } => self.claim(session, env),
            PrimaryAction::Meet { session, nonce } => {
                self.ask(Question::Meet { session, nonce }, Break::MeetUnasked, env)
            }
            PrimaryAction::Enlist { session, place } => {
                self.ask(Question::Enlist { session, place }, Break::EnlistUnasked, env)
            }
            PrimaryAction::RecordEnd => self.ask(Question::RecordEnd, Break::EndUnrecorded, env),
            PrimaryAction::Delist { session } => {
                env.ask(self.id, Question::Delist { session });
                Ok(())
            }
            PrimaryAction::DelistStore => self.ask(Question::DelistStore, Break::StoreUndelisted, env),
            PrimaryAction::RemoveStore => {
                self.remove_store(env);
                Ok(())
            }
            PrimaryAction::Look => {
                env.ask(self.id, Question::Look);
                Ok(())
            }
            PrimaryAction::Disconnect => {
                self.close(env);
                Ok(())
            }
            PrimaryAction::WentSolo { .. } => {
                (self.resync, self.writer) = (None, None);
                Ok(())
            }
            PrimaryAction::Fenced { .. } => {
                (self.resync, self.writer) = (None, None);
                Ok(())
            }
            PrimaryAction::Protected { .. } | PrimaryAction::Ended | PrimaryAction::Conflict { .. } => Ok(()),
        }
    }

    /// Asks, unless a rule is broken.
    fn ask(&mut self, question: Question, unasked: Break, env: &mut Env) -> Result<(), Crashed> {
        env.step(self.id.host, Step::Claim, false)?;
        match env.plan.broken {
            Some(broken) if broken == unasked => env.learn_unasked(self.id, question),
            _ => env.ask(self.id, question),
        }
        env.step(self.id.host, Step::Claim, true)
    }

    fn release(&mut self, upto: EpochId, env: &mut Env) {
        for output in self.queue.release(upto) {
            env.emit(self.id.host, Said::decode(&output.bytes));
        }
    }

    fn claim(&mut self, session: SessionId, env: &mut Env) -> Result<(), Crashed> {
        let unasked = if self.crashed { Break::AnewWithoutClaim } else { Break::SoloWithoutClaim };
        self.ask(Question::Claim { session }, unasked, env)
    }

    /// The pending control frames still go out, then the connection is closed.
    fn close(&mut self, env: &mut Env) {
        while let Some(frame) = self.core.poll_transmit() {
            self.send(frame, env);
        }
        match &self.stream {
            Some(_) if !self.outbox.is_empty() => self.queue(None, Bytes::End, env),
            Some(stream) => env.close(stream.connection, self.id.host),
            None => {}
        }
        self.stream = None;
    }

    fn start_resync(&mut self, link: Link, env: &mut Env) -> Result<(), Crashed> {
        env.step(self.id.host, Step::Resync, false)?;
        let mut out = Vec::new();
        let view = self.disk.view();
        let hashes: Vec<_> = view.chunks(CHUNK).map(chunk_hash).collect();
        self.core.handle_filling(env.time(), link.session, FillPhase::Disks);
        self.core.handle_disk_offered(link.session, 0, 0, hashes.len());
        let offer = DiskOffer { disk: 0, first_chunk: 0, chunk_bytes: CHUNK as u32, hashes };
        Message::DiskOffer(offer).encode(&link, EpochId(0), &mut out);
        self.resync = Some(Resync {
            session: link.session,
            sent: false,
            looked: false,
            begun: false,
            load: env.plan.load.set,
            sectors: Vec::new(),
        });
        self.queue(Some(link.session), Bytes::Frames(out), env);
        env.step(self.id.host, Step::Resync, true)
    }

    fn send_chunks(&mut self, want: &DiskWant, env: &mut Env) {
        let Some(link) = self.core.link() else { return };
        self.core.handle_filling(env.time(), link.session, FillPhase::Disks);
        let view = self.disk.view();
        let mut out = Vec::new();
        for (chunk, data) in view.chunks(CHUNK).enumerate() {
            if want.wanted.get(chunk) == Some(&true) {
                let piece = ResyncDisk { disk: 0, offset: (chunk * CHUNK) as u64, data: data.to_vec() };
                Message::ResyncDisk(piece).encode(&link, EpochId(0), &mut out);
            }
        }
        self.queue(Some(link.session), Bytes::Frames(out), env);
    }

    /// A round is sent: what was written meanwhile is looked at.
    pub fn handle_round(&mut self, session: SessionId, env: &mut Env) -> Result<(), Crashed> {
        if self.resync.as_ref().is_some_and(|resync| resync.session == session) {
            self.round(env);
        }
        self.pump(env)
    }

    /// The register may have been slow, and the guest have written much meanwhile.
    fn look_again(&mut self, env: &mut Env) -> Result<(), Crashed> {
        if self.core.is_enlisted() && self.resync.as_ref().is_some_and(|resync| resync.sent && !resync.looked) {
            self.round(env);
            self.pump(env)?;
        }
        Ok(())
    }

    /// Asks the core what to do with what is left, and does it.
    fn round(&mut self, env: &mut Env) {
        let (Some(link), Some(resync)) = (self.core.link(), &mut self.resync) else { return };
        self.dirty |= self.guest.take_dirty();
        if !resync.begun {
            (resync.begun, self.dirty) = (true, (1 << PAGES) - 1);
            self.shipped = self.guest.memory().to_vec();
        }
        let page_bytes = u64::from(self.dirty.count_ones()) * PAGE_SIZE as u64 + resync.load;
        let left = Left { page_bytes, write_bytes: (resync.sectors.len() * SECTOR) as u64 };
        let (next, is_enlisted) = (self.core.handle_fill_left(env.time(), link.session, left), self.core.is_enlisted());
        match next {
            NextRound::Send => self.send_round(link, left, env),
            NextRound::Seal => {
                (resync.sent, resync.looked) = (true, is_enlisted);
                if env.plan.broken == Some(Break::ForgetLeft) {
                    self.dirty = 0;
                }
                self.core.handle_filling(env.time(), link.session, FillPhase::Enlist);
                self.core.handle_filled(link.session);
            }
            NextRound::Over => {}
        }
    }

    fn send_round(&mut self, link: Link, left: Left, env: &mut Env) {
        let resync = self.resync.as_mut().expect("the caller has one");
        (resync.sent, resync.looked) = (false, false);
        let mut out = Vec::new();
        for (sector, data) in std::mem::take(&mut resync.sectors) {
            let piece = ResyncDisk { disk: 0, offset: (sector * SECTOR) as u64, data: data.to_vec() };
            Message::ResyncDisk(piece).encode(&link, EpochId(0), &mut out);
        }
        let dirty = std::mem::take(&mut self.dirty);
        for page in (0..PAGES).filter(|page| dirty >> page & 1 == 1) {
            self.shipped[page] = self.guest.memory()[page];
            self.encoder.push(Gfn(page as u64), &self.shipped[page], None);
        }
        if dirty != 0 {
            let pages = self.encoder.take_batch(|body, _| Message::ResyncPages(body.to_vec()));
            pages.encode(&link, EpochId(0), &mut out);
        }
        let (load, bytes) = (env.plan.load, left.page_bytes + left.write_bytes);
        let took = bytes * MS / load.link;
        resync.load = load.set.min(load.speed * u64::from(self.share) / 100 * took / MS);
        self.queue(Some(link.session), Bytes::Frames(out), env);
        self.core.handle_fill_sent(link.session, bytes, 0);
        env.after(took, Event::Round { to: self.id, session: link.session });
    }
}

/// The end of a frame at about the middle of some: between two frames others may go out.
fn half_of(frames: &[u8]) -> usize {
    let mut at = 0;
    while at < frames.len() / 2 {
        let len = frames[at + 12..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        at += HEADER_LEN + len as usize;
    }
    at
}

/// The hash by which chunks are compared.
pub fn chunk_hash(chunk: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&digest(chunk).to_le_bytes());
    hash
}

fn input_of(request: &u64) -> Input {
    Input { device: 1, bytes: request.to_le_bytes().to_vec() }
}

fn request_of(input: &Input) -> u64 {
    input.bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// A sector as copies of its word in the guest's table, which is its content over and over.
fn copies_of(sector: usize) -> impl Iterator<Item = DiskCopy> {
    let copy = move |word: usize| DiskCopy {
        disk: 0,
        offset: (sector * SECTOR + word * 8) as u64,
        gfn: Gfn(0),
        at: (sector * 8) as u16,
        len: 8,
    };
    (0..SECTOR / 8).map(copy)
}
