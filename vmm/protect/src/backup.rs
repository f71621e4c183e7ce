//! The backup: listens, keeps the shadow of a guest, and takes over when the witness grants it.
//!
//! ```text
//!   socket ──frames──▶ loop: pipeline, memory ──steps──▶ standby-disk: log, images
//!          ◀──acks───   ▲                                       │
//!                       └──────────── mailbox ◀──done───────────┴── standby-witness, standby-sync
//! ```
//!
//! Bytes come in, the pipeline ([`BackupPipeline`]) says what to do, it is done, and the pipeline hears how it went. No rule
//! about order, durability or the right to run is here. The loop keeps time, so it waits for nothing but the next thing to
//! happen: what storage and witness cost is waited for by others ([`storage`]).

mod connection;
mod fitness;
mod inheritance;
mod perform;
mod predecessor;
mod status;
mod storage;
mod view;
mod vigil;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_api::Occurrence;
use replication::backup::BackupState;
use replication::pipeline::backup::{BackupPipeline, PipelineConfig, StorageLimits};
use replication::wire::RefuseCode;
use replication::{BackupConfig, TakeOver, Time, VmId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use snapshot::disk::OverlayDisk;

use crate::clock::Clock;
use crate::courtesy::Courtesy;
use crate::error::{ProtectError, Words};
use crate::events::Events;
use crate::log::DiskLog;
use crate::mailbox::Mailbox;
use crate::registrant::Registrant;
use crate::room::ROOM_RETRY;
use crate::transport::{Credentials, Endpoint, Listener, ReadOutcome};
use crate::upkeep;
use connection::Connection;
pub use inheritance::{Legacy, inherit};
use machine::kvm::Vm;
use machine::memory::Ram;
use machine::{MachineError, spawn};
pub use predecessor::Predecessor;
use storage::{Done, Rehearsal, Storage};
pub use view::{FailoverError, StandbyView};
use vigil::Vigil;

/// Bytes received and not applied at most, beyond the guest's memory.
const STAGED_BYTES_MAX: usize = 512 << 20;
/// Acks wait while more than this is not applied.
const ACK_BYTES_MAX: usize = 128 << 20;
/// Filled chunks are synced whenever so many bytes came: the base, which the primary's guest waits for, syncs the rest.
const UNSYNCED_BYTES_MAX: usize = 16 << 20;
/// Filled bytes that wait for the worker at most; beyond that the primary is not read.
const FILLING_BYTES_MAX: usize = 32 << 20;
/// Between two claims while the witness does not answer.
const CLAIM_RETRY: Duration = Duration::from_millis(250);
/// After an error of the listener.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Reasons that are not told again at once; there are fewer that a peer can choose between.
const STRANGERS_MAX: usize = 32;

/// How a backup behaves.
#[derive(Debug, Clone)]
pub struct StandbyConfig {
    /// Name of the VM.
    pub vm_name: String,
    /// Where to listen.
    pub listen: Endpoint,
    /// What it shows to its primary, if the two speak TLS.
    pub credentials: Option<Credentials>,
    /// Network cards that it can give the guest.
    pub nets: usize,
    /// Silence until the primary counts as lost.
    pub detect: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// How operators on both sides are told why a guest was refused.
    pub words: Words,
}

/// How a backup's wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest is to run here.
    TookOver(Box<Successor>),
    /// The guest ended on the primary.
    Ended(String),
    /// The operator stopped the backup.
    Stopped,
}

/// A guest that was taken over, ready to be restored.
#[derive(Debug)]
pub struct Successor {
    /// What to start from.
    pub takeover: TakeOver,
    /// Its memory.
    pub ram: Ram,
    /// Its disks, with everything committed applied.
    pub disks: Vec<OverlayDisk>,
    /// The log of its disks.
    pub log: DiskLog,
    /// The primary that hands it over, which waits to hear that it runs.
    pub predecessor: Option<Predecessor>,
    /// Whether commits were durable.
    pub durable: bool,
    /// When the primary was found lost.
    pub lost_at: Instant,
}

/// A backup of one VM.
#[derive(Debug)]
pub struct Standby {
    config: StandbyConfig,
    pipeline: BackupPipeline,
    clock: Clock,
    registrant: Arc<Registrant>,
    events: Arc<Events>,
    view: Arc<StandbyView>,
    listener: Box<dyn Listener>,
    connection: Option<Connection>,
    /// Why the last peers were sent away that did not become one: what was told lately.
    strangers: VecDeque<String>,
    /// After an error, until when nobody is accepted.
    accepts_at: Option<Time>,
    storage: Storage,
    done: Mailbox<Done>,
    /// The guest's memory, and its machine.
    rehearsal: Option<Rehearsal>,
    /// What storage gave back.
    given_back: Option<(Vec<OverlayDisk>, Box<DiskLog>)>,
    /// How storage failed.
    failure: Option<ProtectError>,
    lost_at: Instant,
    vigil: Vigil,
}

impl Standby {
    /// Checks KVM, and listens. What a crash left in `log` was applied to `disks`.
    pub fn open(
        mut config: StandbyConfig,
        disks: Vec<OverlayDisk>,
        log: DiskLog,
        registrant: Arc<Registrant>,
        events: Arc<Events>,
    ) -> Result<Self, ProtectError> {
        // A host without KVM is to be found now.
        drop(Vm::new().map_err(MachineError::from)?);
        let done = Mailbox::new().map_err(ProtectError::EventCounter)?;
        let view = Arc::new(StandbyView::new(Arc::clone(&registrant)).map_err(ProtectError::EventCounter)?);
        let failed = |listen: &Endpoint, source| ProtectError::Listen { listen: listen.clone(), source };
        let (listener, here) =
            config.listen.listen(config.credentials.as_ref()).map_err(|error| failed(&config.listen, error))?;
        config.listen = here;
        let vigil = Vigil::begin(&registrant, &events);
        let standby = Self {
            pipeline: BackupPipeline::new(pipeline_config(&config, log.is_half_filled())),
            config,
            clock: Clock::default(),
            registrant,
            events,
            view,
            listener,
            connection: None,
            strangers: VecDeque::new(),
            accepts_at: None,
            storage: Storage::start(disks, log, done.postbox()),
            done,
            rehearsal: None,
            given_back: None,
            failure: None,
            lost_at: Instant::now(),
            vigil,
        };
        standby.publish();
        Ok(standby)
    }

    /// What others see of it.
    pub fn view(&self) -> Arc<StandbyView> {
        Arc::clone(&self.view)
    }

    /// Waits, follows, and at last takes over or ends.
    pub fn serve(mut self) -> Result<Outcome, ProtectError> {
        self.events.note(Occurrence::Waiting { listen: self.config.listen.to_string() });
        let mut courtesy = Courtesy::of_this_thread();
        loop {
            self.accept();
            let now = self.clock.now();
            self.read(now);
            // Before the turn, which does what follows from it: the wait below ends for none of that.
            if self.hear_operator() {
                self.transmit();
                return Ok(Outcome::Stopped);
            }
            if let Some(outcome) = self.turn(now)? {
                return Ok(outcome);
            }
            self.publish();
            // Time goes on meanwhile: heartbeats are sent, and the primary counts as heard.
            if self.pipeline.core().state() == BackupState::Syncing
                && let Some(rest) = courtesy.due()
            {
                self.pipeline.handle_rest(self.clock.now().after(rest));
            }
            self.wait();
        }
    }

    /// Waits for a peer, for bytes, for what other threads did or want, or for the time that the pipeline names.
    fn wait(&self) {
        let now = self.clock.now();
        let timeout =
            self.pipeline.poll_timeout().into_iter().chain(self.accepts_at).min().map(|at| self.clock.until(at));
        let timeout = timeout.map(|wait| Timespec::try_from(wait).expect("a time of the core's is near"));
        let mut fds = vec![PollFd::new(&*self.view, PollFlags::IN), PollFd::new(&self.done, PollFlags::IN)];
        if self.accepts_at.is_none() {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        if let Some(connection) = self.connection.as_ref().filter(|_| self.pipeline.wants_bytes(now)) {
            fds.push(PollFd::new(connection, PollFlags::IN));
        }
        if let Err(error) = poll(&mut fds, timeout.as_ref()) {
            tracing::debug!(%error, "a wait was interrupted");
        }
        if fds[0].revents().contains(PollFlags::IN) {
            self.view.silence();
        }
    }

    /// Takes in a peer that has come; one that this backup has no use for is told so, and not waited for.
    fn accept(&mut self) {
        if self.accepts_at.is_some_and(|at| at > self.clock.now()) {
            return;
        }
        self.accepts_at = None;
        let mut arrived = match self.listener.accept() {
            Ok(arrived) => arrived,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                // This process may be short of descriptors, and whoever came is still there.
                self.accepts_at = Some(self.clock.now().after(ACCEPT_REST));
                return self.note_stranger(&error);
            }
        };
        if self.connection.is_some() {
            let refusal = self.pipeline.refusal(RefuseCode::Busy, "another primary is connected");
            if let Err(error) = arrived.writer.write_now(&refusal) {
                tracing::debug!(%error, "a refused peer did not listen");
            }
            return;
        }
        tracing::debug!("a peer connected");
        if arrived.writer.set_patience(Some(self.config.detect)).is_ok() {
            self.connection = Some(Connection::new(arrived, VmId::of_name(&self.config.vm_name)));
            self.pipeline.handle_connected(self.clock.now());
        }
    }

    /// A peer that did not become one. One event for each new reason: anybody may come here, as often as they like.
    fn note_stranger(&mut self, error: &io::Error) {
        let reason = error.to_string();
        if !self.strangers.contains(&reason) {
            self.strangers.truncate(STRANGERS_MAX - 1);
            tracing::warn!(reason, "a peer was sent away");
            self.events.note(Occurrence::PeerError { target: None, error: None, reason: Some(reason.clone()) });
            self.strangers.push_front(reason);
        }
    }

    fn read(&mut self, now: Time) {
        if !self.pipeline.wants_bytes(now) {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        match connection.read() {
            Ok(ReadOutcome::Nothing) => {}
            Ok(ReadOutcome::Bytes(_)) => self.pipeline.handle_alive(now),
            Ok(ReadOutcome::End) => self.disconnected(),
            Err(error) => {
                // A peer that dies, or whose network does, is for the pipeline; one that says what it cannot have said is told of.
                if error.kind() == io::ErrorKind::InvalidData {
                    self.note_stranger(&error);
                }
                self.disconnected();
            }
        }
    }

    fn disconnected(&mut self) {
        self.connection = None;
        self.pipeline.handle_disconnected(self.clock.now());
    }

    /// Gives the pipeline what other lanes have done and every frame that is whole, does what it says, and keeps its time.
    fn turn(&mut self, now: Time) -> Result<Option<Outcome>, ProtectError> {
        self.take_messages();
        loop {
            if let Some(outcome) = self.act()? {
                return Ok(Some(outcome));
            }
            match self.connection.as_mut().map_or(Ok(None), Connection::poll_frame) {
                Ok(Some(frame)) => self.pipeline.handle_frame(now, frame),
                Ok(None) => break,
                Err(error) => self.pipeline.handle_broken_stream(now, &error),
            }
            if let Some(outcome) = self.act()? {
                return Ok(Some(outcome));
            }
            self.keep_time();
        }
        self.pipeline.handle_timeout(now);
        self.act()
    }

    /// Gives the pipeline what the operator wants; whether the backup stops.
    fn hear_operator(&mut self) -> bool {
        let now = self.clock.now();
        self.override_claim();
        if self.view.wants_failover()
            && !self.pipeline.handle_override(now)
            && let Some(failover) = self.view.take_failover()
        {
            failover.refuse(self.pipeline.core().state());
        }
        self.view.is_stopped() && self.pipeline.handle_stop(now, "the operator stopped the backup")
    }
}

impl Standby {
    /// A backup that asks a witness which does not answer any more is told of another one by its operator. Its next question finds
    /// what comes of that.
    fn override_claim(&mut self) {
        let Some((session, fork)) = self.pipeline.core().claiming() else { return };
        if let Some(failover) = self.view.take_failover_to_a_witness() {
            self.events
                .note(Occurrence::FailoverStarted { silence_ms: None, named_dead: Some(failover.named.dead.clone()) });
            let registrant = Arc::clone(&self.registrant);
            spawn("standby-override".into(), move || {
                failover.perform(&registrant, session, fork);
            });
        }
    }
}

fn pipeline_config(config: &StandbyConfig, is_half_filled: bool) -> PipelineConfig {
    PipelineConfig {
        is_half_filled,
        core: BackupConfig {
            vm_name: config.vm_name.clone(),
            writer: format!("outlast {}", env!("CARGO_PKG_VERSION")),
            heartbeat: config.heartbeat,
            detect: config.detect,
            disconnect_grace: (config.detect / 4).min(Duration::from_millis(200)),
            claim_retry: CLAIM_RETRY,
            staged_bytes_beyond_ram: STAGED_BYTES_MAX,
            ack_bytes_max: ACK_BYTES_MAX,
        },
        storage: StorageLimits {
            room_retry: ROOM_RETRY,
            unsynced_bytes_max: UNSYNCED_BYTES_MAX,
            filling_bytes_max: FILLING_BYTES_MAX,
        },
        upkeep: upkeep::PERIOD,
    }
}
