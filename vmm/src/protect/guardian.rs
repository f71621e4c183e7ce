//! The guardian: drives the primary's side of replication for one machine.
//!
//! Its core ([`replication::Primary`]) decides; the guardian moves bytes. Four threads share it: vCPU threads submit
//! sealed epochs at boundaries, the *link* thread connects and reads what the backup says, the *ship* thread owns the
//! log and everything that is written to the socket but heartbeats, the *disk* thread writes the images. Whoever called the core performs the actions that came out of it,
//! after letting the core's lock go.
//!
//! Lock order: gate, epochs, board, core, egress, disk. The core's lock is never held while another of ours is taken.

mod base;
mod ending;
mod filling;
mod leaving;
mod link;
mod pausing;
mod protecting;
mod register;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use replication::primary::{FillPhase, PrimaryState, SoloReason};
use replication::view::Incarnation;
use replication::wire::{DiskOffer, DiskWant, Kind, Link};
use replication::{EpochId, EpochMeta, Primary, PrimaryAction, PrimaryConfig, SessionId, Term};
use serde_json::{Value, json};
use snapshot::disk::{DiskError, Mode};
use snapshot::writeset::WriteSet;

use super::clock::Clock;
use super::lease::Lease;
use super::local::backing::Kept;
use super::local::pairing::Pairing;
use super::local::{KeptEpoch, LocalStore, Shortened, Tidings, fault};
use super::log::{DiskLog, Notes};
use super::socket::SendHalf;
pub(super) use base::NoBase;
pub use ending::{Afterwards, Life, Parted};
use leaving::Images;
pub(super) use leaving::Lacks;
pub use protecting::NotProtected;
use register::Question;

use super::{preflight, queue, ship};
use crate::config::{CommitDurability, Endpoint, OnDegraded};
use crate::epoch::{EpochSink, SealedEpoch};
use crate::events::Events;
use crate::machine::gate::Held;
use crate::machine::{End, Machine, MachineError, spawn};

/// Epochs sealed and not acked at most: one on the wire, one being acked, two against hiccups.
pub(crate) const IN_FLIGHT_EPOCHS_MAX: u32 = 4;
/// Bytes of them at most, before compression.
const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Between two claims while the witness does not answer.
const CLAIM_RETRY: Duration = Duration::from_millis(250);
/// A log that is slow to sync does not make a dead primary; one that is stuck for so many times `detect` does: the guest
/// has long been waiting, and the backup can go on with it. The other way round the same: a backup that acks nothing for
/// so long is lost, though its heartbeats come.
const STALL_DETECTS: u32 = 10;
/// A filling that has done nothing for so many times `detect` is told of, and given up after so many: one step of it waits for
/// 32 MiB of chunks on their way into the backup's images, and for their sync. What was synced by then is not synced again.
const FILL_NOTICE_DETECTS: u32 = 4;
const FILL_WAIT_DETECTS: u32 = 20;
/// A console that takes nothing for so long is not waited for: at most its backlog is lost if this process dies then.
const CONSOLE_LAG_MAX: Duration = Duration::from_secs(1);
/// How long a wait lasts before the waiter looks around again.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// How a guest is protected.
#[derive(Debug, Clone)]
pub struct GuardianConfig {
    /// Name of the VM.
    pub vm_name: String,
    /// The backup to connect to, if there is to be one.
    pub target: Option<Endpoint>,
    /// What a commit waits for.
    pub durability: CommitDurability,
    /// Silence until the peer counts as lost.
    pub detect: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// This primary's term.
    pub term: Term,
    /// The guest was booted by this process.
    pub begins_afresh: bool,
    /// Which store its state directory is in the register, if epochs are committed to it.
    pub store: Incarnation,
    /// The last epoch of a guest that crashed stays in the state directory.
    pub keeps_crashed: bool,
    /// What becomes of the guest when its state directory takes no more epochs.
    pub on_degraded: OnDegraded,
}

/// What the ship thread is asked to do, in order.
pub(super) enum ToShip {
    /// Send these frames on the connection of this number, if it stands.
    Frames(u64, Vec<u8>),
    /// Fill the backup of this session.
    Resync(Link),
    /// The backup's answer to an offer of disk chunks.
    DiskWanted(DiskWant),
    /// Ship (with a link) and log this epoch.
    Epoch(Box<SealedEpoch>, Option<Link>),
    /// Nothing more comes on the connection of this number: tell the backup.
    Part(u64),
    /// The guest goes on unprotected.
    GoSolo,
    /// Nobody may resume from the state directory that took no epoch: remove what is there.
    RemoveStore,
    /// The guest has ended and all of it is committed: leave nothing in the log, and say when that is done.
    Close(Sender<()>),
}

struct Inner {
    core: Primary,
    /// Threads that wait for a change: telling nobody costs a system call, several times per epoch.
    waiters: u32,
    stream: Option<SendHalf>,
    /// Counts connections, so that a frame of one never goes out on another.
    connections: u64,
    target: Option<Endpoint>,
    /// The session whose base is being sealed.
    basing: Option<SessionId>,
    /// The session whose filling failed last.
    fill_failed: Option<SessionId>,
    /// Why the driver could not fill a backup, the last time.
    fill_error: Option<String>,
    /// Since when the ship thread waits for the log's disk, if it does.
    logging_since: Option<Instant>,
    /// Sealed epochs that are not released, and when they were sealed.
    unreleased: VecDeque<(EpochId, Instant)>,
    /// How far the images are.
    images: Images,
    /// Epochs whose console output may still be in this process: how much the console must have written, and since when
    /// it could, in order.
    leaving: VecDeque<(u64, Instant, EpochId)>,
    last_solo_reason: Option<String>,
    connect_error: Option<String>,
    /// The session about which it is known that the witness is asked.
    claim_told: Option<SessionId>,
    /// How epochs are kept that were committed to the state directory; none: they are not.
    local: Option<Kept>,
    /// Why they are not any more.
    local_lost: Option<String>,
    /// Earlier epochs in the state directory, as they were when that changed last.
    earlier: Vec<KeptEpoch>,
}

/// Protects one machine.
pub struct Guardian {
    pub(super) machine: Arc<Machine>,
    pub(super) events: Arc<Events>,
    pub(super) clock: Clock,
    config: GuardianConfig,
    lease: Arc<Lease>,
    notes: Notes,
    /// The first epoch that ran under it.
    first: EpochId,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The disk thread has something to do, or nothing more.
    disk_work: Condvar,
    to_ship: queue::Sender<ToShip>,
    to_witness: Sender<Question>,
    finished: AtomicBool,
}

impl std::fmt::Debug for Guardian {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Guardian").field("vm", &self.config.vm_name).finish_non_exhaustive()
    }
}

fn core_config(config: &GuardianConfig, machine: &Machine, is_local: bool, is_witnessed: bool) -> PrimaryConfig {
    let durable = config.durability == CommitDurability::Disk;
    PrimaryConfig {
        vm_name: config.vm_name.clone(),
        writer: format!("outlast {}", env!("CARGO_PKG_VERSION")),
        machine: preflight::describe(machine),
        term: config.term,
        heartbeat: config.heartbeat,
        detect: config.detect,
        ack_wait: config.detect * STALL_DETECTS,
        fill_notice: config.detect * FILL_NOTICE_DETECTS,
        fill_wait: config.detect * FILL_WAIT_DETECTS,
        rounds: filling::ROUNDS,
        fill_rest: filling::FILL_REST,
        fill_rest_max: filling::FILL_REST_MAX,
        claim_retry: CLAIM_RETRY,
        in_flight_epochs_max: IN_FLIGHT_EPOCHS_MAX,
        in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        local_durable: durable || is_local,
        backup_durable: durable,
        begins_afresh: config.begins_afresh,
        is_witnessed,
    }
}

impl Guardian {
    /// Protects `machine` from now on: starts its threads, which connect to the target as soon as there is one. With
    /// `local` its epochs begin before that; it must not have been started yet.
    pub(crate) fn start(
        machine: Arc<Machine>,
        config: GuardianConfig,
        mut log: DiskLog,
        lease: Arc<Lease>,
        events: Arc<Events>,
        local: Option<LocalStore>,
    ) -> Result<Arc<Self>, MachineError> {
        // A state directory that survives its host needs a log that does.
        log.set_synced(config.durability == CommitDurability::Disk || local.is_some());
        let (to_ship, shipping) = queue::channel();
        let (to_witness, questions) = mpsc::channel();
        let first = machine.epochs().running();
        let core = Primary::new(core_config(&config, &machine, local.is_some(), lease.is_witnessed()), first);
        let inner = Inner {
            core,
            waiters: 0,
            stream: None,
            connections: 0,
            target: config.target.clone(),
            basing: None,
            fill_failed: None,
            fill_error: None,
            logging_since: None,
            unreleased: VecDeque::new(),
            images: Images::with_all(first.prev()),
            leaving: VecDeque::new(),
            last_solo_reason: None,
            connect_error: None,
            claim_told: None,
            local: local.as_ref().map(LocalStore::kept),
            local_lost: None,
            earlier: local.as_ref().map(LocalStore::earlier).unwrap_or_default(),
        };
        let guardian = Arc::new(Self {
            machine,
            events,
            clock: Clock::default(),
            config,
            lease,
            notes: log.notes(),
            first,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            disk_work: Condvar::new(),
            to_ship,
            to_witness,
            finished: AtomicBool::new(false),
        });
        if local.is_some() {
            guardian.begin_local()?;
        }
        guardian.spawn_threads(shipping, questions, log, local);
        Ok(guardian)
    }

    fn spawn_threads(
        self: &Arc<Self>,
        shipping: queue::Receiver<ToShip>,
        questions: mpsc::Receiver<Question>,
        log: DiskLog,
        local: Option<LocalStore>,
    ) {
        if self.lease.is_witnessed() {
            let asker = Arc::clone(self);
            spawn("ft-witness".into(), move || asker.run_witness(&questions));
        }
        let link = Arc::clone(self);
        spawn("ft-link".into(), move || link.run_link());
        let shipper = Arc::clone(self);
        spawn("ft-ship".into(), move || ship::run(&shipper, &shipping, log, local));
        let writer = Arc::clone(self);
        spawn("ft-disk".into(), move || writer.run_disk());
        let keeper = Arc::clone(self);
        spawn("image-sync".into(), move || keeper.keep_images());
        let teller = Arc::clone(self);
        spawn("disk-trouble".into(), move || teller.tell_troubles());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the core panics")
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Lets `call` talk to the core, then performs what comes out of it.
    fn with_core<R>(&self, call: impl FnOnce(&mut Primary) -> R) -> R {
        self.with_inner(|inner| call(&mut inner.core))
    }

    /// The same, with what the driver keeps beside the core.
    fn with_inner<R>(&self, call: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        let result = call(&mut inner);
        // Most often there is one or none, for which nothing is allocated.
        let (first, mut others) = (inner.core.poll_action(), Vec::new());
        while let Some(action) = inner.core.poll_action() {
            others.push(action);
        }
        let connection = inner.connections;
        let is_greeted = inner.core.state() != PrimaryState::Greeting;
        let mut spoke = false;
        while let Some(frames) = inner.core.poll_transmit() {
            match &inner.stream {
                // The ship thread may be waiting for the log's disk; the backup must hear from a primary that lives.
                // But not before the Hello, which is in the ship thread's queue.
                Some(stream) if is_greeted && Kind::of_frame(&frames) == Some(Kind::Heartbeat) => {
                    if inner.logging_since.is_none_or(|since| since.elapsed() < self.config.detect * STALL_DETECTS) {
                        stream.send_now(&frames);
                    }
                }
                _ => {
                    self.send(ToShip::Frames(connection, frames));
                    spoke = true;
                }
            }
        }
        let is_awaited = inner.waiters > 0;
        self.machine.troubles().set_followed(inner.core.state().waits_for_backup());
        drop(inner);
        let decided = Instant::now();
        if is_awaited {
            self.changed.notify_all();
        }
        for action in first.into_iter().chain(others) {
            match action {
                // What was just said is in the ship thread's queue, and the connection ends behind it.
                PrimaryAction::Disconnect if spoke => self.send(ToShip::Part(connection)),
                // A permission that is old when its turn comes is given back.
                PrimaryAction::Release { upto } if decided.elapsed() > self.config.detect => {
                    self.give_back(upto);
                }
                action => self.perform(action),
            }
        }
        result
    }

    fn give_back(&self, upto: EpochId) {
        self.with_core(|core| core.handle_release_late(upto));
    }

    fn send(&self, item: ToShip) {
        // The ship thread lives as long as this object; after its end there is nobody to tell.
        self.to_ship.send(item);
    }

    fn perform(&self, action: PrimaryAction) {
        match action {
            PrimaryAction::Release { upto } => self.release(upto),
            PrimaryAction::Resync { link } => {
                self.forget_old_trouble();
                self.note("resync-started", json!({ "term": link.term.0 }));
                self.send(ToShip::Resync(link));
            }
            PrimaryAction::FillingStalls { phase } => self.note_filling_stalls(phase),
            PrimaryAction::FillingDiverges { figures } => self.note_filling_diverges(figures),
            PrimaryAction::GuestShare { percent } => self.machine.throttle().set(percent),
            PrimaryAction::DiskWanted(want) => self.send(ToShip::DiskWanted(want)),
            PrimaryAction::Protected { .. } => self.note("protected", json!({})),
            PrimaryAction::Claim { session } => self.claim(session),
            PrimaryAction::Meet { session, nonce } => self.ask(Question::Meet { session, nonce }),
            PrimaryAction::Enlist { session, place } => self.ask(Question::Enlist { session, place }),
            PrimaryAction::Delist { session } => self.ask(Question::Delist { session }),
            PrimaryAction::DelistStore => self.ask(Question::DelistStore),
            PrimaryAction::RemoveStore => self.send(ToShip::RemoveStore),
            PrimaryAction::Look => self.ask(Question::Look),
            PrimaryAction::RecordEnd => self.ask(Question::RecordEnd),
            PrimaryAction::Conflict { text } => {
                self.machine.egress().cut();
                self.machine.end(End::Conflict { text });
            }
            PrimaryAction::WentSolo { reason } => self.went_solo(&reason),
            PrimaryAction::Fenced { holder } => {
                self.machine.egress().cut();
                self.note("fenced", json!({ "holder": holder }));
                self.machine.end(End::Fenced { holder });
            }
            PrimaryAction::Disconnect => self.disconnect(),
            PrimaryAction::Ended => {}
        }
    }

    /// Whether the guest crashed and its last epoch is to be kept, where there is one.
    pub(super) fn keeps_last_epoch(&self) -> bool {
        self.config.keeps_crashed
            && self.lock().local.is_some()
            && self.machine.ended().is_some_and(|end| end.crash().is_some())
    }

    pub(super) fn note(&self, event: &str, properties: Value) {
        self.events.note(event, properties);
    }

    fn claim(&self, session: SessionId) {
        if let Some(End::Failed(_)) = self.machine.ended() {
            tracing::warn!("the guest cannot continue here: it is left to the backup");
            return;
        }
        let (is_news, is_parting) = {
            let mut inner = self.lock();
            (inner.claim_told.replace(session) != Some(session), inner.core.is_parting())
        };
        // A witness that does not answer is asked again, and that is no news.
        match (is_news, is_parting) {
            (true, false) => self.note("peer-lost", json!({ "claiming": true })),
            (true, true) => self.note("unprotecting", json!({})),
            (false, _) => {}
        }
        self.ask(Question::Claim { session });
    }

    fn went_solo(&self, reason: &SoloReason) {
        if let SoloReason::FillingStalled { session, phase } = reason {
            self.note_fill_failed(*session, *phase, "it made no progress; it will be tried again");
        }
        if let SoloReason::NotConverging { session, why } = reason {
            self.note_fill_failed(*session, FillPhase::Memory, &filling::why_not_converging(why));
        }
        let text = match reason {
            SoloReason::Refused { text, .. } => format!("the backup refused: {text}"),
            SoloReason::LostBeforeBase => "the backup was lost before it had a complete copy".into(),
            SoloReason::ClaimGranted => "the backup was lost, and the witness gave the guest to this host".into(),
            SoloReason::Unprotected => "protection was ended".into(),
            SoloReason::OtherWitness => "the backup does not see the same witness: give both the same".into(),
            SoloReason::WitnessAway => "the witness does not answer: no backup is filled meanwhile".into(),
            SoloReason::FillingStalled { phase, .. } => format!("filling the backup made no progress: {phase}"),
            SoloReason::NotConverging { why, .. } => filling::why_not_converging(why),
            SoloReason::FillingFailed { .. } => {
                let why = self.lock().fill_error.take().unwrap_or_else(|| "its session ended".into());
                format!("the backup could not be filled: {why}")
            }
            SoloReason::Mute => "the backup was there but confirmed nothing for too long: look at its disk".into(),
        };
        let before = self.lock().last_solo_reason.replace(text.clone());
        // A backup that says no at every attempt is news once.
        if before.as_ref() != Some(&text) {
            tracing::warn!(reason = text, "the guest continues with no backup");
            self.note("solo", json!({ "reason": text }));
        }
        self.send(ToShip::GoSolo);
    }

    /// A backup was found that wants to be filled: whatever goes wrong from here on is new.
    fn forget_old_trouble(&self) {
        let mut inner = self.lock();
        inner.last_solo_reason = None;
        inner.connect_error = None;
    }

    fn disconnect(&self) {
        if let Some(stream) = self.lock().stream.take() {
            stream.close();
            self.changed.notify_all();
        }
    }

    /// The connection to write frames of `session` to, while there is one.
    pub(super) fn stream_of(&self, session: SessionId) -> Option<SendHalf> {
        let inner = self.lock();
        let ours = inner.core.link().is_some_and(|link| link.session == session);
        inner.stream.clone().filter(|_| ours)
    }

    /// The connection of number `connection`, to write control frames to.
    pub(super) fn stream_of_connection(&self, connection: u64) -> Option<SendHalf> {
        let inner = self.lock();
        inner.stream.clone().filter(|_| inner.connections == connection)
    }

    /// Writing to the connection failed.
    pub(super) fn handle_broken(&self) {
        self.disconnect();
        let now = self.clock.now();
        self.with_core(|core| core.handle_disconnected(now));
    }

    /// The first byte of an epoch is about to go out.
    pub(super) fn handle_shipping(&self, session: SessionId, epoch: EpochId) {
        let now = self.clock.now();
        self.with_core(|core| core.handle_shipping(now, session, epoch));
    }

    pub(super) fn handle_shipped(&self, session: SessionId, epoch: EpochId) {
        let now = self.clock.now();
        self.with_core(|core| core.handle_shipped(now, session, epoch));
    }

    /// The backup of `session` has all but the base.
    pub(super) fn handle_filled(&self, session: SessionId) {
        self.with_core(|core| core.handle_filled(session));
    }

    /// Whether the register lists the backup that is being filled; none: that session is over.
    pub(super) fn is_enlisted(&self, session: SessionId) -> Option<bool> {
        let inner = self.lock();
        inner.core.link().filter(|link| link.session == session).map(|_| inner.core.is_enlisted())
    }

    /// Whether what belongs to `session` may still go out.
    pub(super) fn is_current(&self, session: SessionId) -> bool {
        self.lock().core.link().is_some_and(|link| link.session == session)
    }

    /// An offer of disk chunks is about to go out.
    pub(super) fn handle_disk_offered(&self, session: SessionId, offer: &DiskOffer) {
        self.with_core(|core| core.handle_disk_offered(session, offer.disk, offer.first_chunk, offer.hashes.len()));
    }

    /// What becomes of the guest when the state directory takes no more epochs.
    pub(super) fn on_degraded(&self) -> OnDegraded {
        self.config.on_degraded
    }

    /// Epochs are not committed to the state directory any more.
    pub(super) fn note_local_lost(&self, why: &str) {
        {
            let mut inner = self.lock();
            (inner.local, inner.local_lost) = (None, Some(why.to_owned()));
        }
        tracing::error!(why, "the guest is not protected by its state directory any more");
        self.note("degraded", json!({ "protection": "local", "reason": why }));
        self.with_core(Primary::handle_store_lost);
    }

    /// Nobody resumes from the state directory that took no epoch.
    pub(super) fn handle_store_removed(&self) {
        let now = self.clock.now();
        self.with_core(|core| core.handle_store_removed(now));
    }

    /// Whether the register is at a witness.
    pub(super) fn is_witnessed(&self) -> bool {
        self.lease.is_witnessed()
    }

    /// How many earlier epochs are kept, and their bytes.
    pub(crate) fn earlier(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.earlier.len(), inner.earlier.iter().map(|kept| kept.bytes as usize).sum())
    }

    /// Other earlier epochs are kept than before.
    pub(super) fn note_earlier(&self, tidings: Tidings) {
        let Tidings { kept, shortened } = tidings;
        self.lock().earlier = kept;
        if let Some(Shortened { left, why }) = shortened {
            tracing::warn!(why, left, "earlier epochs were dropped; the guest keeps running");
            self.note("earlier-given-up", json!({ "left": left, "reason": why }));
        }
    }

    /// The ship thread begins, or has ended, to work on the log.
    pub(super) fn note_logging(&self, since: Option<Instant>) {
        self.lock().logging_since = since;
    }

    /// The log has the disk writes of all epochs up to `epoch`, as durably as was asked for.
    pub(super) fn handle_local_durable(&self, epoch: EpochId) {
        self.note_logged(epoch);
        let now = self.clock.now();
        self.with_core(|core| core.handle_local_durable(now, epoch));
    }

    /// Waits a moment for the core to move.
    pub(super) fn wait_for_change(&self) {
        drop(self.wait_with(self.lock()));
    }

    /// The same for who has nothing to do while no backup is wanted: only being told of one ends it early. What every epoch
    /// does to the core would wake it twice for each.
    fn wait_for_target(&self) {
        let inner = self.lock();
        if inner.target.is_some() {
            return drop(self.wait_with(inner));
        }
        drop(self.changed.wait_timeout(inner, LOOK_AROUND).expect("no holder of the core panics"));
    }

    fn wait_with<'a>(&self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        inner.waiters += 1;
        let mut inner = self.changed.wait_timeout(inner, LOOK_AROUND).expect("no holder of the core panics").0;
        inner.waiters -= 1;
        inner
    }

    /// Ends the running epoch of a guest that is alone by right, without capturing it; gives its disk writes. Once they are in
    /// the log, it counts.
    pub(super) fn seal_last(&self, held: &Held<'_>) -> (EpochId, Vec<Arc<WriteSet>>) {
        let (epoch, writes) = self.machine.settle_epoch(held);
        if writes.iter().any(|set| !set.is_empty()) {
            self.note_disk_writes(epoch);
        }
        self.with_core(|core| core.handle_sealed(EpochMeta { epoch, base: None, ship_bytes: 0 }));
        (epoch, writes)
    }

    /// Ends the epochs of a guest that is alone by right: lets everything out and writes to the images again. All that
    /// was sealed must be committed. False: there is no room in an image, and its epochs go on.
    pub(super) fn settle(&self, held: &Held<'_>, log: &mut DiskLog) -> bool {
        if self.machine.epochs().is_protected() {
            if !self.wait_for_applied() {
                return false;
            }
            if let Err(error) = self.machine.end_epochs(held) {
                self.machine.fail(error.to_string());
                return true;
            }
            if let Err(failure) = log.checkpoint() {
                self.machine.fail(failure.to_string());
            }
        }
        self.write_directly();
        true
    }

    fn write_directly(&self) {
        if self.machine.ended().is_some() {
            // An image took no more writes: what was to be committed is still waiting.
            return;
        }
        for disk in self.machine.disks() {
            disk.lock().set_mode(Mode::Direct).expect("everything sealed was committed above");
        }
        if let Err(error) = self.machine.log_dirty(false) {
            tracing::warn!(%error, "the dirty log stays on");
        }
    }

    /// Whether the guest has no epochs and its disks are written directly.
    pub(super) fn is_settled(&self) -> bool {
        !self.machine.epochs().is_protected()
            && !self.machine.logs_dirty()
            && self.machine.disks().iter().all(|d| d.lock().mode() == Mode::Direct)
    }

    /// Makes durable what is in the images.
    pub(super) fn sync_images(&self) -> Result<(), DiskError> {
        fault::lasts(fault::IMAGE_SYNC);
        self.machine.disks().iter().try_for_each(|disk| disk.image().sync())
    }

    /// Sets the backup to connect to. If it is that one already, nothing changes, and what is under way is given.
    pub fn protect(&self, target: Endpoint) -> Result<Option<String>, NotProtected> {
        let mut inner = self.lock();
        if inner.target.as_ref() == Some(&target)
            && let Some(already) = protecting::already(inner.core.state(), &target, inner.connect_error.as_deref())
        {
            return Ok(Some(already));
        }
        if inner.core.state() != PrimaryState::Solo {
            return Err(NotProtected { state: inner.core.state(), by: inner.target.clone() });
        }
        inner.target = Some(target);
        inner.connect_error = None;
        inner.core.handle_backup_wanted();
        drop(inner);
        self.changed.notify_all();
        Ok(None)
    }

    /// Ends protection by a backup, for the reason `why`; where the backup could take over, the witness is asked first.
    pub fn unprotect(&self, why: &str) {
        self.lock().target = None;
        let now = self.clock.now();
        let state = self.with_core(|core| {
            core.handle_unprotect(now, why);
            core.state()
        });
        if state == PrimaryState::Solo {
            // There was none; the state directory is to know that none is wanted.
            self.send(ToShip::GoSolo);
        }
    }

    /// Waits until the running epoch may be sealed. False if that will never be, or if `give_up` says so before.
    fn wait_for_room_unless(&self, give_up: impl Fn() -> bool) -> bool {
        loop {
            let gives_up = give_up();
            let inner = self.lock();
            if matches!(inner.core.state(), PrimaryState::Fenced | PrimaryState::Ended) || self.is_finished() {
                return false;
            }
            if inner.core.may_seal() {
                return true;
            }
            if gives_up {
                return false;
            }
            drop(self.wait_with(inner));
        }
    }

    /// What the state directory is to remember of backups.
    pub(super) fn pairing(&self, session: Option<SessionId>) -> Pairing {
        let target = self.lock().target.clone();
        Pairing::new(&self.lease, self.config.store, self.config.term, self.first, target).with(session)
    }

    /// How the guest is protected, for `status`.
    pub fn status(&self) -> Value {
        let inner = self.lock();
        let (in_flight_epochs, in_flight_bytes) = inner.core.in_flight();
        json!({
            "role": "primary",
            "local": inner.local.map(|kept| kept.survives.to_string()),
            "local_log": inner.local.map(|kept| kept.log.name()),
            "earlier": inner.earlier,
            "state": format!("{:?}", inner.core.state()),
            "filling": self.filling_of(&inner),
            "term": self.config.term.0,
            "target": inner.target.as_ref().map(ToString::to_string),
            "pointers": inner.core.pointers().to_string(),
            "released": inner.core.pointers().released().0,
            "sealed": inner.core.pointers().sealed().0,
            "acked": inner.core.acked().map(|e| e.0),
            "in_flight_epochs": in_flight_epochs,
            "in_flight_bytes": in_flight_bytes,
            "peer_errors": inner.core.peer_errors(),
            "witness": self.lease.witness().to_string(),
            "witness_away_ms": self.lease.away_since().map(|since| since.elapsed().as_millis() as u64),
            "solo_reason": inner.last_solo_reason,
            "connect_error": inner.connect_error,
            "disk_full": inner.images.full().next(),
            "warnings": warnings(&inner),
        })
    }

    /// Whether commits are to survive the host.
    pub(super) fn is_durable(&self) -> bool {
        self.config.durability == CommitDurability::Disk
    }

    /// Whether a backup follows, or is being asked about.
    pub fn state(&self) -> PrimaryState {
        self.lock().core.state()
    }
}

/// For an operator: what waits, and for what.
fn warnings(inner: &Inner) -> Vec<String> {
    let delisting = inner.core.is_removing_store().then(|| {
        "the state directory took no epoch, and the witness has not recorded it: output waits until it has".to_owned()
    });
    let local = inner.local_lost.as_ref().map(|why| format!("the state directory no longer protects the guest: {why}"));
    inner.images.full().map(|path| no_room(path)).chain(delisting).chain(local).chain(no_backup(inner)).collect()
}

/// A backup was asked for, and there is none.
fn no_backup(inner: &Inner) -> Option<String> {
    let target = inner.target.as_ref()?;
    match inner.core.state() {
        PrimaryState::Solo | PrimaryState::Greeting | PrimaryState::Meeting => {
            let why = inner.connect_error.as_ref().or(inner.last_solo_reason.as_ref());
            let why = why.map_or_else(|| "no connection yet".to_owned(), String::clone);
            Some(format!("the requested backup {target} does not protect the guest: {why}"))
        }
        PrimaryState::Arbitrating => Some(format!("the backup {target} is lost: output waits for the witness")),
        _ => None,
    }
}

fn no_room(path: &Path) -> String {
    format!("there is no room for {}: disk writes wait, and the guest with them, until there is some", path.display())
}

impl EpochSink for Guardian {
    fn wait_for_room(&self) -> bool {
        // Who waits for the gate may be the ship thread, without which there will never be room; and a machine that has
        // ended waits for its vCPUs.
        let gives_up = || self.machine.gate().is_hold_wanted() || self.machine.ended().is_some();
        self.wait_for_images(gives_up) && self.wait_for_room_unless(gives_up)
    }

    fn submit(&self, sealed: Box<SealedEpoch>) {
        let base = if sealed.base { self.lock().basing.take() } else { None };
        self.lock().unreleased.push_back((sealed.epoch, sealed.sealed_at));
        if sealed.has_disk_writes() {
            self.note_disk_writes(sealed.epoch);
        }
        let meta = EpochMeta { epoch: sealed.epoch, base, ship_bytes: sealed.ship_bytes() };
        let link = self.with_core(|core| core.handle_sealed(meta));
        self.machine.pacer().note_sealed(sealed.epoch, sealed.sent());
        self.send(ToShip::Epoch(sealed, link));
    }
}
