//! The backup: listens, keeps the shadow of a guest, and takes over when the witness grants it.
//!
//! ```text
//!   socket ──frames──▶ loop: core, memory ──orders──▶ standby-disk: log, images
//!          ◀──acks───   ▲                                  │
//!                       └────────── mailbox ◀──done────────┴── standby-witness
//! ```
//!
//! Bytes come in, the core ([`replication::Backup`]) says what to do, it is done in that order. An ack leaves as soon as its
//! epoch is durable; applying comes after it. The loop keeps time, so it waits for nothing but the next thing to happen:
//! what storage and witness cost is waited for by others ([`storage`]).

mod filling;
mod mailbox;
mod storage;
mod vigil;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use replication::backup::{BackupState, DiscardReason};
use replication::wire::{MachineInfo, RefuseCode, WireError};
use replication::{
    AssembledEpoch, Backup, BackupAction, BackupConfig, ClaimResult, EpochId, FrameDecoder, PageBatch, SessionId,
    TakeOver, VmId,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use snapshot::disk::OverlayDisk;

use super::clock::Clock;
use super::courtesy::Courtesy;
use super::lease::Lease;
use super::log::DiskLog;
use super::preflight::Preflight;
use super::socket;
use crate::config::Endpoint;
use crate::events::Events;
use crate::exit::{Exit, Failure};
use crate::kvm::Vm;
use crate::machine::{MachineError, spawn};
use crate::memory::{PAGE_SIZE, Ram};
use mailbox::Mailbox;
use storage::{Done, Order, Rehearsal, Storage};
use vigil::Vigil;

/// Bytes received and not applied at most, beyond the guest's memory.
const STAGED_BYTES_MAX: usize = 512 << 20;
/// Acks wait while more than this is not applied.
const ACK_BYTES_MAX: usize = 128 << 20;
/// Between two claims while the witness does not answer.
const CLAIM_RETRY: Duration = Duration::from_millis(250);
/// How long an operator's failover may take: three questions to the witness.
const FAILOVER_TIME_MAX: Duration = Duration::from_secs(10);
/// Read from the primary at a time, at most.
const READ_BYTES: usize = 256 << 10;
/// How long the loop sleeps at most.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// How a backup behaves.
#[derive(Debug, Clone)]
pub struct StandbyConfig {
    /// Name of the VM.
    pub vm_name: String,
    /// Where to listen.
    pub listen: Endpoint,
    /// Network cards that it can give the guest.
    pub nets: usize,
    /// Silence until the primary counts as lost.
    pub detect: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
}

/// What others see of a backup, and how they stop it.
#[derive(Debug, Default)]
pub struct StandbyView {
    status: Mutex<Value>,
    stop: AtomicBool,
    failover: Mutex<Option<Failover>>,
}

/// An operator's wish that the kept copy runs, against the witness's newest record.
#[derive(Debug)]
struct Failover {
    /// The places that are dead, by the beginnings of their ids.
    dead: Vec<String>,
    told: Told,
}

/// Who waits for the answer.
#[derive(Debug)]
struct Told(SyncSender<Result<(), Failure>>);

impl Told {
    fn tell(self, answer: Result<(), Failure>) {
        // Whoever asked may have given up.
        let _ = self.0.try_send(answer);
    }
}

impl Failover {
    /// Puts it to the witness, and tells who asked.
    fn perform(self, lease: &Lease, session: SessionId, fork: EpochId) -> ClaimResult {
        let Self { dead, told } = self;
        let named = match lease.named(&dead) {
            Ok(named) => named,
            Err(failure) => {
                told.tell(Err(failure));
                return ClaimResult::Unreachable;
            }
        };
        let result = lease.take_over(session, fork, named);
        told.tell(match &result {
            ClaimResult::Granted => Ok(()),
            ClaimResult::Denied { holder } => Err(Failure::new(
                Exit::SplitBrain,
                format!("the witness still lists {holder}, which was not named with --dead"),
            )
            .with_hint("name every place that the witness lists, with --dead, if each is gone for good")),
            ClaimResult::Unreachable => {
                Err(Failure::new(Exit::Timeout, "the witness does not answer").with_hint("try again when it does"))
            }
        });
        result
    }
}

impl StandbyView {
    /// For `status`.
    pub fn status(&self) -> Value {
        self.status.lock().expect("no holder of the status panics").clone()
    }

    /// Has the kept copy run although another side won the guest. `dead`: every place that the witness lists, by the
    /// beginnings of their ids.
    pub fn fail_over(&self, dead: Vec<String>) -> Result<(), Failure> {
        let (told, answer) = sync_channel(1);
        *self.failover.lock().expect("no holder panics") = Some(Failover { dead, told: Told(told) });
        answer.recv_timeout(FAILOVER_TIME_MAX).unwrap_or_else(|_| {
            Err(Failure::new(Exit::Timeout, "the backup did not answer in time").with_hint("look at its status"))
        })
    }

    fn wants_failover(&self) -> bool {
        self.failover.lock().expect("no holder panics").is_some()
    }

    fn failover(&self) -> Option<Failover> {
        self.failover.lock().expect("no holder panics").take()
    }

    /// Asks the backup to leave.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// How a backup's wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest is to run here.
    TookOver(Box<Taken>),
    /// The guest ended on the primary.
    Ended(String),
    /// The operator stopped the backup.
    Stopped,
}

/// A guest that was taken over, ready to be restored.
#[derive(Debug)]
pub struct Taken {
    /// What to start from.
    pub takeover: TakeOver,
    /// Its memory.
    pub ram: Ram,
    /// Its disks, with everything committed applied.
    pub disks: Vec<OverlayDisk>,
    /// The log of its disks.
    pub(crate) log: DiskLog,
    /// Whether commits were durable.
    pub durable: bool,
    /// When the primary was found lost.
    pub lost_at: Instant,
}

/// A backup of one VM.
#[derive(Debug)]
pub struct Standby {
    config: StandbyConfig,
    core: Backup,
    clock: Clock,
    lease: Arc<Lease>,
    events: Arc<Events>,
    view: Arc<StandbyView>,
    listener: TcpListener,
    connection: Option<Connection>,
    storage: Storage,
    done: Mailbox<Done>,
    /// What happens when the worker has given disks and log back.
    leaving: Option<Leaving>,
    ram: Option<Ram>,
    durable: bool,
    /// The machine of the Hello that was accepted last.
    greeted: Option<MachineInfo>,
    /// A machine whose base could not run here, and why: it is not filled in again.
    unfit: Option<(MachineInfo, String)>,
    last_heard: Instant,
    lost_at: Instant,
    /// The witness has not answered yet.
    is_asking: bool,
    /// The operator was told that this backup does not stop while it takes over.
    is_stop_told: bool,
    /// Until then what fills this backup is not read, because others want the processor.
    rests_until: Option<Instant>,
    vigil: Vigil,
    epochs_applied: u64,
    /// Why the last peer was sent away.
    trouble: Option<String>,
    /// Why something was discarded last, since a primary was accepted.
    discarded: Option<DiscardReason>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    decoder: FrameDecoder,
    /// What was read last; one buffer for all reads.
    bytes: Vec<u8>,
}

/// Why a backup is to end as such.
#[derive(Debug)]
enum Leaving {
    /// It runs the guest.
    TakeOver(Box<TakeOver>),
    /// The guest ended.
    Ended(String),
}

enum Step {
    Go,
    Out(Outcome),
}

impl Standby {
    /// Checks KVM, and listens. What a crash left in `log` was applied to `disks`.
    pub(crate) fn open(
        mut config: StandbyConfig,
        disks: Vec<OverlayDisk>,
        log: DiskLog,
        lease: Arc<Lease>,
        events: Arc<Events>,
    ) -> Result<Self, Failure> {
        // A host without KVM is to be found now.
        drop(Vm::new().map_err(MachineError::from)?);
        let done =
            Mailbox::new().map_err(|e| Failure::new(Exit::Error, format!("cannot make an event counter: {e}")))?;
        let listener = TcpListener::bind(config.listen.as_pair()).map_err(|e| listen_failure(&config.listen, &e))?;
        // Of port 0 the host made a free one.
        config.listen.port = listener.local_addr().map_err(|e| listen_failure(&config.listen, &e))?.port();
        let core = Backup::new(BackupConfig {
            vm_name: config.vm_name.clone(),
            writer: format!("outlast {}", env!("CARGO_PKG_VERSION")),
            heartbeat: config.heartbeat,
            detect: config.detect,
            disconnect_grace: (config.detect / 4).min(Duration::from_millis(200)),
            claim_retry: CLAIM_RETRY,
            staged_bytes_beyond_ram: STAGED_BYTES_MAX,
            ack_bytes_max: ACK_BYTES_MAX,
        });
        let vigil = Vigil::begin(&lease, &events);
        let now = Instant::now();
        Ok(Self {
            config,
            core,
            clock: Clock::default(),
            lease,
            events,
            view: Arc::default(),
            listener,
            connection: None,
            storage: Storage::start(disks, log, done.postbox()),
            done,
            leaving: None,
            ram: None,
            durable: false,
            greeted: None,
            unfit: None,
            last_heard: now,
            lost_at: now,
            is_asking: false,
            is_stop_told: false,
            rests_until: None,
            vigil,
            epochs_applied: 0,
            trouble: None,
            discarded: None,
        })
    }

    /// What others see of it.
    pub fn view(&self) -> Arc<StandbyView> {
        Arc::clone(&self.view)
    }

    /// Waits, follows, and at last takes over or ends.
    pub fn serve(mut self) -> Result<Outcome, Failure> {
        self.events.note("waiting", json!({ "listen": self.config.listen.to_string() }));
        let mut courtesy = Courtesy::of_this_thread();
        loop {
            self.wait();
            self.accept();
            let now = self.clock.now();
            self.read();
            if let Step::Out(outcome) = self.step(now)? {
                return Ok(outcome);
            }
            if self.view.wants_failover() && !self.core.handle_override() {
                self.refuse_failover();
            }
            if self.view.stop.load(Ordering::Acquire) {
                if self.core.handle_stop(now, "the operator stopped the backup") {
                    self.transmit();
                    return Ok(Outcome::Stopped);
                }
                self.stop_waits();
            }
            self.publish();
            // Time goes on meanwhile: heartbeats are sent, and the primary counts as heard.
            if self.core.state() == BackupState::Syncing
                && let Some(rest) = courtesy.due()
            {
                self.rests_until = Some(Instant::now() + rest);
            }
        }
    }

    /// How much longer what comes is not read for the sake of others.
    fn rest_left(&self) -> Duration {
        self.rests_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn reads(&self) -> bool {
        self.storage.takes_more() && self.rest_left().is_zero()
    }

    fn step(&mut self, now: replication::Time) -> Result<Step, Failure> {
        while let Some(done) = self.done.take() {
            if let Step::Out(outcome) = self.take_done(done)? {
                return Ok(Step::Out(outcome));
            }
        }
        // What waits for room then is void: the guest ended before it was whole here.
        if let Some(Leaving::Ended(text)) = self.leaving.take_if(|_| self.storage.full().is_some()) {
            return Ok(Step::Out(Outcome::Ended(text)));
        }
        self.tick(now)
    }

    fn wait(&self) {
        let wait = self.clock.until(self.core.poll_timeout(), LOOK_AROUND);
        let rest = self.rest_left();
        let wait = if rest.is_zero() { wait } else { wait.min(rest) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.done, PollFlags::IN)];
        if let Some(connection) = self.connection.as_ref().filter(|_| self.reads()) {
            fds.push(PollFd::new(&connection.stream, PollFlags::IN));
        }
        if let Err(error) = poll(&mut fds, Some(&timeout)) {
            tracing::debug!(%error, "a wait was interrupted");
        }
    }

    fn accept(&mut self) {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..)) {
            return;
        }
        let Ok((stream, peer)) = self.listener.accept() else { return };
        if self.connection.is_some() {
            let refusal = self.core.refusal(RefuseCode::Busy, "another primary is connected");
            let mut stream = stream;
            if let Err(error) = stream.write_all(&refusal) {
                tracing::debug!(%error, "a refused peer did not listen");
            }
            return;
        }
        tracing::debug!(%peer, "a peer connected");
        let prepared = socket::prepare(stream).and_then(|stream| {
            stream.set_write_timeout(Some(self.config.detect))?;
            Ok(stream)
        });
        if let Ok(stream) = prepared {
            let decoder = FrameDecoder::new(VmId::of_name(&self.config.vm_name));
            self.connection = Some(Connection { stream, decoder, bytes: vec![0; READ_BYTES] });
            self.core.handle_connected(self.clock.now());
        }
    }

    fn read(&mut self) {
        let now = self.clock.now();
        let reads = self.reads();
        let Some(connection) = &mut self.connection else { return };
        if !reads {
            // It is this side that does not listen. No takeover is possible while it is filled, so nobody waits for the
            // news that the primary is dead.
            return self.core.handle_alive(now);
        }
        let mut fds = [PollFd::new(&connection.stream, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..)) {
            return;
        }
        match connection.stream.read(&mut connection.bytes) {
            Ok(0) => self.disconnected(),
            Ok(count) => {
                self.last_heard = Instant::now();
                connection.decoder.handle_bytes(&connection.bytes[..count]);
                self.core.handle_alive(now);
            }
            Err(error) if socket::is_timeout(&error) => {}
            Err(_) => self.disconnected(),
        }
    }

    fn disconnected(&mut self) {
        self.connection = None;
        self.core.handle_disconnected(self.clock.now());
    }

    /// Gives the core every frame that is whole, does what it says, and keeps its time.
    fn tick(&mut self, now: replication::Time) -> Result<Step, Failure> {
        while let Some(connection) = &mut self.connection {
            match connection.decoder.poll_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.core.handle_frame(now, frame) {
                        self.note_trouble("peer-error", &error.to_string());
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.answer(&error);
                    self.note_trouble("peer-error", &error.to_string());
                    self.core.handle_broken_stream(now);
                }
            }
            self.act();
            self.keep_time();
        }
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        self.act();
        Ok(Step::Go)
    }

    /// Tells a peer of ours that it is at the wrong place: it repeats the reason in its own words.
    fn answer(&mut self, error: &WireError) {
        let code = match error {
            WireError::WrongVm { .. } => RefuseCode::WrongVm,
            WireError::VersionMismatch { .. } => RefuseCode::Other,
            _ => return,
        };
        let refusal = self.core.refusal(code, &error.to_string());
        if let Some(Err(error)) = self.connection.as_mut().map(|connection| connection.stream.write_all(&refusal)) {
            tracing::debug!(%error, "a refused peer did not listen");
        }
    }

    /// One event for each new reason, not one for each attempt.
    fn note_trouble(&mut self, event: &str, reason: &str) {
        if self.trouble.replace(reason.to_owned()).as_deref() != Some(reason) {
            tracing::warn!(reason, "a peer was sent away");
            self.events.note(event, json!({ "reason": reason }));
        }
    }

    fn act(&mut self) {
        self.transmit();
        while let Some(action) = self.core.poll_action() {
            self.perform(action);
            self.transmit();
        }
    }

    /// Keeps time between two batches of pages, so that the primary hears of this side meanwhile. What is being worked on
    /// came from a primary that lived; whether it still does shows when the work is done.
    fn keep_time(&mut self) {
        if self.connection.is_none() {
            return;
        }
        let now = self.clock.now();
        self.core.handle_alive(now);
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        self.transmit();
    }

    fn transmit(&mut self) {
        while let Some(frames) = self.core.poll_transmit() {
            let Some(connection) = &mut self.connection else { continue };
            if connection.stream.write_all(&frames).is_err() {
                self.disconnected();
            }
        }
    }

    fn perform(&mut self, action: BackupAction) {
        match action {
            BackupAction::Greeted(hello) => self.greet(hello),
            BackupAction::ResyncPages(batch) => apply_pages(self.ram.as_ref(), &batch),
            BackupAction::ResyncDisk(chunk) => self.storage.order(Order::WriteChunk { chunk, durable: self.durable }),
            BackupAction::DiskOffered(offer) => self.compare(offer),
            BackupAction::ReadMemory { session, epoch } => {
                let ram = self.ram.as_ref().expect("an epoch comes only after a session was accepted");
                self.core.handle_memory(session, epoch, |gfn, page| {
                    assert!(ram.read_page(gfn.0, page), "the core checked that every page is guest memory");
                });
            }
            BackupAction::Persist(epoch) => self.persist(epoch),
            BackupAction::Apply(epoch) => self.apply(epoch),
            BackupAction::Claim { session, fork } => self.claim(session, fork),
            BackupAction::Override { session, fork } => self.override_witness(session, fork),
            BackupAction::Keep { epoch, holder } => self.storage.order(Order::Keep { epoch, holder }),
            BackupAction::TakeOver(takeover) => self.leave(Leaving::TakeOver(takeover)),
            BackupAction::Discard { session, reason } => self.discard(session, &reason),
            BackupAction::Ended { text } => self.leave(Leaving::Ended(text)),
            BackupAction::Disconnect => self.drop_connection(),
        }
    }

    /// A worker has something to say.
    fn take_done(&mut self, done: Done) -> Result<Step, Failure> {
        self.storage.note(&done);
        self.is_asking &= !matches!(done, Done::Introduced { .. } | Done::Claimed { .. });
        match done {
            Done::Compared { session, want } => self.compared(session, want),
            Done::Differs { session, text } => self.differs(session, &text),
            Done::Written { .. } | Done::Discarded => {}
            Done::Durable { session, epoch } => self.core.handle_durable(self.clock.now(), session, epoch),
            Done::BaseRefused { session, failure } => self.refuse_base(session, &failure),
            Done::Applied { session, epoch, base } => self.applied(session, epoch, base),
            Done::HandedOver { disks, log } => return Ok(self.left(disks, *log)),
            Done::Full { path } => self.note_full(&path),
            Done::HasRoom { path } => self.events.note("disk-has-room", json!({ "path": path })),
            Done::Kept { epoch, holder } => self.kept(epoch, &holder),
            Done::Introduced { session, hello, introduction } => self.introduced(session, &hello, introduction),
            Done::Claimed { session, result } => self.core.handle_claim(self.clock.now(), session, result),
            Done::Failed(failure) => return Err(failure),
        }
        self.act();
        Ok(Step::Go)
    }

    fn note_full(&self, path: &Path) {
        tracing::warn!("{}", no_room(path));
        self.events.note("disk-full", json!({ "path": path }));
    }

    fn drop_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            socket::close(&connection.stream);
        }
    }

    /// An epoch that is not logged asks nothing of storage before its ack: while that has nothing to do, it is durable as it
    /// is.
    fn persist(&mut self, epoch: Arc<AssembledEpoch>) {
        let is_logged = self.durable && !epoch.disk_writes.is_empty();
        if self.storage.is_idle() && !epoch.base && !is_logged {
            return self.core.handle_durable(self.clock.now(), epoch.session, epoch.epoch);
        }
        let rehearsal = if epoch.base { self.rehearsal() } else { None };
        self.storage.order(Order::Persist { epoch, durable: self.durable, rehearsal });
    }

    fn rehearsal(&self) -> Option<Rehearsal> {
        let machine = Preflight::of(self.greeted.as_ref()?).expect("it was looked at when it was greeted").shape;
        Some(Rehearsal { ram: self.ram.clone()?, machine })
    }

    fn apply(&mut self, epoch: Arc<AssembledEpoch>) {
        for batch in &epoch.pages {
            apply_pages(self.ram.as_ref(), batch);
            self.keep_time();
        }
        if self.storage.is_idle() && epoch.disk_writes.is_empty() {
            return self.applied(epoch.session, epoch.epoch, epoch.base);
        }
        self.storage.order(Order::Apply(epoch));
    }

    fn applied(&mut self, session: SessionId, epoch: EpochId, base: bool) {
        self.epochs_applied += 1;
        if base {
            self.events.note("protected", json!({ "epoch": epoch.0 }));
        }
        self.core.handle_applied(self.clock.now(), session, epoch);
    }

    /// A witness that is slow to answer must not keep heartbeats waiting: who asks it has a thread. One question at a time,
    /// since the core asks again only after an answer.
    fn ask_witness(&mut self, question: impl FnOnce(&Lease) -> Done + Send + 'static) {
        self.is_asking = true;
        let (lease, done) = (Arc::clone(&self.lease), self.done.postbox());
        spawn("standby-witness".into(), move || done.post(question(&lease)));
    }

    fn claim(&mut self, session: SessionId, fork: EpochId) {
        self.lost_at = Instant::now();
        let silence_ms = self.last_heard.elapsed().as_millis() as u64;
        self.events.note("failover-started", json!({ "silence_ms": silence_ms }));
        self.ask_witness(move |lease| Done::Claimed {
            session,
            result: lease.take_over(session, fork, BTreeSet::new()),
        });
    }

    /// The operator named the places that the witness lists as dead.
    fn override_witness(&mut self, session: SessionId, fork: EpochId) {
        self.lost_at = Instant::now();
        let Some(failover) = self.view.failover() else {
            return self.core.handle_claim(self.clock.now(), session, ClaimResult::Unreachable);
        };
        self.events.note("failover-started", json!({ "named_dead": failover.dead }));
        self.ask_witness(move |lease| Done::Claimed { session, result: failover.perform(lease, session, fork) });
    }

    /// What was followed stays as it is, until a primary fills this backup anew.
    fn kept(&self, epoch: EpochId, holder: &str) {
        tracing::warn!(epoch = epoch.0, holder, "another side has the guest; the copy here is kept");
        self.events.note("kept", json!({ "epoch": epoch.0, "holder": holder }));
    }

    /// From a takeover on the guest writes to the images directly: a record that stayed in the log would be put over that.
    /// And an image that another program changes after the guest's end must not get old writes at the next start.
    fn leave(&mut self, leaving: Leaving) {
        self.leaving = Some(leaving);
        self.storage.order(Order::HandOver);
    }

    fn left(&mut self, disks: Vec<OverlayDisk>, log: DiskLog) -> Step {
        Step::Out(match self.leaving.take().expect("disks are given back to who leaves") {
            Leaving::Ended(text) => Outcome::Ended(text),
            Leaving::TakeOver(takeover) => {
                let ram = self.ram.take().expect("a session that can be taken over has its memory");
                let (takeover, durable, lost_at) = (*takeover, self.durable, self.lost_at);
                Outcome::TookOver(Box::new(Taken { takeover, ram, disks, log, durable, lost_at }))
            }
        })
    }

    fn discard(&mut self, session: Option<SessionId>, reason: &DiscardReason) {
        if let Some(session) = session {
            self.vigil.handle_void(session);
        }
        if !self.core.needs_memory() {
            self.ram = None;
        }
        self.storage.order(Order::Discard);
        // A primary that is refused comes again twice a second, and had nothing here that could be discarded.
        if self.discarded.replace(reason.clone()).as_ref() != Some(reason) {
            self.events.note("discarded", json!({ "reason": format!("{reason:?}") }));
        }
    }

    fn refuse_failover(&self) {
        let Some(Failover { told, .. }) = self.view.failover() else { return };
        let state = self.core.state();
        told.tell(Err(Failure::new(
            Exit::Conflict,
            format!("this backup keeps no copy from a takeover that was denied; its state is {state:?}"),
        )
        .with_hint("a Protected backup takes over without being asked when its primary is lost")));
    }

    /// The guest may be about to run here and nowhere else.
    fn stop_waits(&mut self) {
        if !std::mem::replace(&mut self.is_stop_told, true) {
            tracing::warn!(
                "this backup is taking the guest over and does not stop now: it stops if another side has the guest; if \
                 the guest runs here, stop it again"
            );
            self.events.note("stop-deferred", json!({ "state": format!("{:?}", self.core.state()) }));
        }
    }

    fn publish(&self) {
        let pointers = self.core.pointers();
        *self.view.status.lock().expect("no holder of the status panics") = json!({
            "role": "backup",
            "state": format!("{:?}", self.core.state()),
            "pointers": pointers.to_string(),
            "epochs_applied": self.epochs_applied,
            "waiting_bytes": self.core.waiting_bytes(),
            "peer_errors": self.core.peer_errors(),
            "can_take_over": self.core.state() == BackupState::Protected,
            "kept": self.core.kept().map(|(epoch, holder)| json!({ "epoch": epoch.0, "guest_is_at": holder })),
            "witness": self.lease.witness().to_string(),
            "witness_away_ms": self.lease.away_since().map(|since| since.elapsed().as_millis() as u64),
            "disk_full": self.storage.full(),
            "warnings": self.storage.full().map(|path| no_room(path)).into_iter().collect::<Vec<_>>(),
        });
    }
}

/// For an operator: what waits, and for what.
fn no_room(path: &Path) -> String {
    format!("there is no room for {}: nothing is acknowledged until there is some", path.display())
}

fn listen_failure(listen: &Endpoint, error: &io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::AddrInUse { Exit::Conflict } else { Exit::Error };
    Failure::new(exit, format!("cannot listen on {listen}: {error}"))
        .with_hint("give --listen an address of this host and a free port")
}

fn apply_pages(ram: Option<&Ram>, batch: &PageBatch) {
    let ram = ram.expect("pages come only after a session was accepted");
    let mut page = [0; PAGE_SIZE];
    for update in batch.pages() {
        assert!(ram.read_page(update.gfn.0, &mut page), "the core checked that every page is guest memory");
        update.apply_to(&mut page);
        ram.write_page(update.gfn.0, &page);
    }
}
