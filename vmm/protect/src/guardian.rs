//! The guardian: performs the primary's side of replication for one machine.
//!
//! Its pipeline ([`replication::pipeline::primary`]) decides; the guardian moves bytes. Threads share it: vCPU threads submit
//! sealed epochs at boundaries, the *link* thread connects and reads what the backup says, the *ship* thread performs the steps
//! of the lane Ship, the *disk* thread writes the images, the *witness* thread asks. Whoever called the pipeline performs the
//! actions that came out of it, after letting its lock go.
//!
//! Lock order: gate, epochs, board, pipeline, egress, disk. The pipeline's lock is never held while another of ours is taken.

mod collected;
mod ending;
mod exchange;
mod filler;
mod filling;
mod handover;
mod leaving;
mod link;
mod notes;
mod outbox;
mod pausing;
mod promise;
mod protecting;
mod register;
mod setup;
mod shadow;
mod ship;
mod snapshots;
mod status;
mod waits;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use outlast_api::Occurrence;
use replication::pipeline::primary::{Action, Outcome, PrimaryPipeline, Step};
use replication::primary::PrimaryState;
use replication::{EpochId, Primary, SessionId, Time};
use snapshot::disk::{DiskError, WriteMode};

use crate::clock::Clock;
use crate::epoch::{EpochMachine, EpochSink, SealedEpoch};
use crate::error::ProtectError;
use crate::events::Events;
use crate::fault;
use crate::local::backing::StoreDurability;
use crate::local::pairing::Pairing;
use crate::local::{KeptEpoch, LocalStore, RetentionNews, Shortened};
use crate::log::{DiskLog, Notes};
use crate::registrant::Registrant;
use crate::transport::{Endpoint, Sender};
pub use ending::Sequel;
pub use exchange::NotExchanged;
pub use handover::{HandedOver, NotHandedOver};
use machine::kvm::KvmError;
use machine::{End, MachineError, spawn};
pub use pausing::{NotPaused, NotResumed};
pub use promise::{CommitDurability, OnDegraded};
pub use protecting::NotProtected;
pub use replication::pipeline::primary::Parting;
pub use setup::GuardianConfig;
use setup::{CONSOLE_LAG_MAX, FILL_NOTICE_DETECTS, IN_FLIGHT_BYTES_MAX, STALL_DETECTS, pipeline_config};
pub use snapshots::NotSnapshot;

struct Inner {
    pipeline: PrimaryPipeline,
    /// How often something may have moved. Who looked at it before it looked at something else does not sleep through a move.
    moves: u64,
    /// Until when the thread that keeps time sleeps; zero while it is awake.
    ticks_at: Time,
    /// Threads that wait for a change: telling nobody costs a system call, several times per epoch.
    waiters: u32,
    /// The ship thread sleeps; and something may have come for it.
    ship_sleeps: bool,
    ship_news: bool,
    /// The disk thread sleeps, with nothing to do.
    disk_sleeps: bool,
    /// The connection, and its number.
    stream: Option<(u64, Sender)>,
    target: Option<Endpoint>,
    /// How the attempt to reach it went, for the link thread.
    arrival: Option<link::Arrival>,
    /// Sealed epochs that the ship thread has not begun with.
    sealed: VecDeque<Box<SealedEpoch>>,
    /// Sealed epochs that are not released, and when they were sealed.
    unreleased: VecDeque<(EpochId, Instant)>,
    /// The session whose filling failed last.
    fill_failed: Option<SessionId>,
    /// Why the last filling failed, where its end does not say it.
    fill_error: Option<String>,
    /// Pages and bytes of the filling whose base was sealed last, and when it was begun.
    filled: Option<(u64, u64, Instant)>,
    last_solo_reason: Option<String>,
    connect_error: Option<String>,
    /// Why the backup did not take part in the last exchange of the witness.
    exchange_refused: Option<String>,
    /// An image without room, which a request of the guest waits for.
    guest_full: Option<PathBuf>,
    /// How epochs are kept that were committed to the state directory; none: they are not.
    local: Option<StoreDurability>,
    /// Why they are not any more.
    local_lost: Option<String>,
    /// Earlier epochs in the state directory, as they were when that changed last.
    earlier: Vec<KeptEpoch>,
}

/// Protects one machine.
pub struct Guardian {
    machine: EpochMachine,
    events: Arc<Events>,
    clock: Clock,
    config: GuardianConfig,
    registrant: Arc<Registrant>,
    notes: Notes,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The ship thread has something to do, or nothing more.
    ship_work: Condvar,
    /// The disk thread has something to do, or nothing more.
    disk_work: Condvar,
    /// There is a question for the witness.
    questions: Condvar,
    /// Somebody tells what the guest's requests found wrong.
    telling: Mutex<()>,
    /// A snapshot waits for its commit.
    snapshots: Mutex<()>,
    /// Who has the guest instead.
    successor: OnceLock<String>,
    finished: AtomicBool,
}

impl std::fmt::Debug for Guardian {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Guardian").field("vm", &self.config.vm_name).finish_non_exhaustive()
    }
}

impl Guardian {
    /// Protects `machine` from now on: starts its threads, which connect to the target as soon as there is one. With
    /// `local` its epochs begin before that; it must not have been started yet.
    pub fn start(
        machine: EpochMachine,
        config: GuardianConfig,
        mut log: DiskLog,
        registrant: Arc<Registrant>,
        events: Arc<Events>,
        local: Option<LocalStore>,
    ) -> Result<Arc<Self>, MachineError> {
        // A state directory that survives its host needs a log that does.
        log.set_synced(config.durability == CommitDurability::Disk || local.is_some());
        assert_eq!(machine.epochs().running(), config.origin.first(), "the machine runs the first epoch of its branch");
        let pipeline = pipeline_config(&config, &machine, local.is_some(), registrant.is_witnessed());
        let inner = Inner {
            pipeline: PrimaryPipeline::new(pipeline),
            moves: 0,
            ticks_at: Time(0),
            waiters: 0,
            ship_sleeps: false,
            ship_news: false,
            disk_sleeps: false,
            stream: None,
            target: config.target.clone(),
            arrival: None,
            sealed: VecDeque::new(),
            unreleased: VecDeque::new(),
            fill_failed: None,
            fill_error: None,
            filled: None,
            last_solo_reason: None,
            connect_error: None,
            exchange_refused: None,
            guest_full: None,
            local: local.as_ref().map(LocalStore::kept),
            local_lost: None,
            earlier: local.as_ref().map(LocalStore::earlier).unwrap_or_default(),
        };
        let guardian = Arc::new(Self {
            machine,
            events,
            clock: Clock::default(),
            config,
            registrant,
            notes: log.notes(),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            ship_work: Condvar::new(),
            disk_work: Condvar::new(),
            questions: Condvar::new(),
            telling: Mutex::new(()),
            snapshots: Mutex::new(()),
            successor: OnceLock::new(),
            finished: AtomicBool::new(false),
        });
        if local.is_some() {
            guardian.begin_local()?;
        }
        guardian.watch();
        guardian.spawn_threads(log, local);
        Ok(guardian)
    }

    /// Hears of what moves outside of the pipeline.
    fn watch(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.machine.gate().watch_holds(move || {
            if let Some(guardian) = weak.upgrade() {
                guardian.note_move(&mut guardian.lock());
            }
        });
        let weak = Arc::downgrade(self);
        self.machine.egress().watch_console(move || {
            if let Some(guardian) = weak.upgrade() {
                guardian.note_left();
            }
        });
    }

    /// Protects a machine that was not started yet by the state directory: its epochs begin with its first instruction.
    fn begin_local(self: &Arc<Self>) -> Result<(), KvmError> {
        for disk in self.machine.disks() {
            disk.lock().set_mode(WriteMode::Protected).expect("only leaving for direct mode can be refused");
        }
        self.machine.begin_epochs_before_start()?;
        self.machine.epochs().set_sink(Arc::clone(self) as Arc<dyn EpochSink>);
        Ok(())
    }

    fn spawn_threads(self: &Arc<Self>, log: DiskLog, local: Option<LocalStore>) {
        if self.registrant.is_witnessed() {
            let asker = Arc::clone(self);
            spawn("ft-witness".into(), move || asker.run_witness());
        }
        let undertaker = Arc::clone(self);
        spawn("ft-end".into(), move || {
            undertaker.machine.wait();
            undertaker.note_machine();
        });
        let link = Arc::clone(self);
        spawn("ft-link".into(), move || link.run_link());
        let shipper = Arc::clone(self);
        spawn("ft-ship".into(), move || ship::run(&shipper, log, local));
        let writer = Arc::clone(self);
        spawn("ft-disk".into(), move || writer.run_disk());
        let keeper = Arc::clone(self);
        spawn("image-sync".into(), move || keeper.keep_images());
        let teller = Arc::clone(self);
        spawn("disk-trouble".into(), move || teller.tell_troubles());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the pipeline panics")
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Lets `call` tell the session core something, then performs what comes of it.
    fn with_core<R>(&self, call: impl FnOnce(&mut Primary, Time) -> R) -> R {
        self.with_pipeline(|pipeline, now| pipeline.with(now, |core| call(core, now)))
    }

    /// The same for the pipeline.
    fn with_pipeline<R>(&self, call: impl FnOnce(&mut PrimaryPipeline, Time) -> R) -> R {
        self.with_inner(|inner, now| call(&mut inner.pipeline, now))
    }

    /// The same, with what the driver keeps beside it.
    fn with_inner<R>(&self, call: impl FnOnce(&mut Inner, Time) -> R) -> R {
        let mut inner = self.lock();
        let through = inner.pipeline.through();
        let result = call(&mut inner, self.clock.now());
        inner.ship_news |= inner.pipeline.has_work() || inner.pipeline.through() != through;
        self.perform_all(inner);
        result
    }

    /// Performs the actions that have come out, and wakes whom there is work for.
    fn perform_all(&self, mut inner: MutexGuard<'_, Inner>) {
        // Most often there is one or none, for which nothing is allocated.
        let (first, mut others) = (inner.pipeline.poll_action(), Vec::new());
        while let Some(action) = inner.pipeline.poll_action() {
            others.push(action);
        }
        self.machine.troubles().set_followed(inner.pipeline.core().state().waits_for_backup());
        if inner.ship_news && std::mem::take(&mut inner.ship_sleeps) {
            self.ship_work.notify_one();
        }
        if inner.disk_sleeps && inner.pipeline.are_images_due() {
            inner.disk_sleeps = false;
            self.disk_work.notify_one();
        }
        if inner.pipeline.tick_at().is_some_and(|at| at < inner.ticks_at) {
            inner.ticks_at = Time(0);
            self.changed.notify_all();
        }
        self.note_move(&mut inner);
        let has_questions = inner.pipeline.has_questions();
        drop(inner);
        if has_questions {
            self.ask();
        }
        first.into_iter().chain(others).for_each(|action| self.perform(action));
    }

    /// Something may have moved: whoever waits looks at what they wait for.
    fn note_move(&self, inner: &mut Inner) {
        inner.moves += 1;
        if inner.waiters > 0 {
            self.changed.notify_all();
        }
    }

    fn perform(&self, action: Action) {
        match action {
            Action::Release { upto, until } if self.clock.now() > until => {
                self.with_pipeline(|pipeline, now| pipeline.handle_release_late(now, upto));
            }
            Action::Release { upto, .. } => self.release(upto),
            // A takeover here has no other members: this driver has one backup, and a record lists no other.
            Action::EmitAgain => {}
            Action::Beat { connection, frame } => {
                if let Some(stream) = self.stream_of_connection(connection) {
                    stream.send_now(&frame);
                }
            }
            Action::Close { connection } => self.disconnect(connection),
            Action::GuestShare { percent } => self.machine.throttle().set(percent),
            Action::Fail(failing) => self.fail(failing),
            Action::Conflict { text } => {
                self.machine.egress().cut();
                self.machine.end(End::Conflict { text });
            }
            Action::Fenced { holder } => {
                self.machine.egress().cut();
                self.note(Occurrence::Fenced { holder: holder.clone() });
                // It is told once.
                let _ = self.successor.set(holder.clone());
                self.machine.end(End::Fenced { holder });
            }
            Action::HandedOver { holder } => {
                self.machine.egress().cut();
                let _ = self.successor.set(holder.clone());
                self.machine.end(End::HandedOver { holder });
            }
            Action::Note(note) => self.tell(note),
        }
    }

    /// A failure as the front would have it told.
    fn words(&self, error: &ProtectError) -> String {
        (self.config.words)(error)
    }

    pub(super) fn note(&self, occurrence: Occurrence) {
        self.events.note(occurrence);
    }

    /// The machine may have ended for a reason of its own.
    fn note_machine(&self) {
        if let Some(end) = self.machine.ended() {
            let has_failed = matches!(end, End::Failed(_));
            self.with_pipeline(|pipeline, _| pipeline.handle_machine_ended(has_failed));
        }
    }

    fn disconnect(&self, connection: u64) {
        let mut inner = self.lock();
        if let Some((_, stream)) = inner.stream.take_if(|(number, _)| *number == connection) {
            stream.close();
            self.note_move(&mut inner);
        }
    }

    /// The connection to write frames of `session` to, while there is one.
    fn stream_of(&self, session: SessionId) -> Option<Sender> {
        let inner = self.lock();
        let ours = inner.pipeline.is_current(session);
        inner.stream.as_ref().filter(|_| ours).map(|(_, stream)| stream.clone())
    }

    /// The connection of number `connection`, to write control frames to.
    fn stream_of_connection(&self, connection: u64) -> Option<Sender> {
        let inner = self.lock();
        inner.stream.as_ref().filter(|(number, _)| *number == connection).map(|(_, stream)| stream.clone())
    }

    /// Whether what belongs to `session` may still go out.
    fn is_current(&self, session: SessionId) -> bool {
        self.lock().pipeline.is_current(session)
    }

    /// Whether the base may be sealed, now that no other epoch can come before it.
    pub(super) fn may_seal_base(&self, session: SessionId) -> bool {
        self.lock().pipeline.may_seal_base(session)
    }

    /// How the lane's step went; the next one, if there is one already.
    fn step_done(&self, outcome: Outcome) -> Option<Step> {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.pipeline.handle_done(now, outcome);
        let step = inner.pipeline.poll_step(now);
        self.perform_all(inner);
        step
    }

    /// A sealed epoch that the ship thread begins to work on. Those before it are through.
    fn take_sealed(&self, epoch: EpochId) -> Box<SealedEpoch> {
        let mut inner = self.lock();
        let at = inner.sealed.iter().position(|sealed| sealed.epoch == epoch);
        let at = at.expect("the pipeline names epochs that were sealed and are not through");
        inner.sealed.remove(at).expect("it was found there")
    }

    /// A sealed epoch of those up to `through` for which nothing had to be done.
    fn take_spent(&self, through: EpochId) -> Option<Box<SealedEpoch>> {
        self.lock().sealed.pop_front_if(|sealed| sealed.epoch <= through)
    }

    /// The last epoch for which the ship thread has done everything.
    fn through(&self) -> EpochId {
        self.lock().pipeline.through()
    }

    /// The last epoch whose output has left and whose disk writes are in the images.
    fn performed(&self) -> EpochId {
        self.lock().pipeline.performed()
    }

    /// The running epoch of a guest that is being settled was ended.
    fn handle_sealed_last(&self, epoch: EpochId, has_writes: bool) {
        self.with_pipeline(|pipeline, now| pipeline.handle_sealed_last(now, epoch, has_writes));
    }

    /// A base is about to be sealed behind so many pages and bytes.
    fn note_filled(&self, pages: u64, bytes: u64, begun: Instant) {
        self.lock().filled = Some((pages, bytes, begun));
    }

    /// Other earlier epochs are kept than before.
    fn note_earlier(&self, news: RetentionNews) {
        let RetentionNews { kept, shortened } = news;
        self.lock().earlier = kept;
        if let Some(Shortened { left, why }) = shortened {
            tracing::warn!(why, left, "earlier epochs were dropped; the guest keeps running");
            self.note(Occurrence::EarlierGivenUp { left: left as u64, reason: why });
        }
    }

    /// Makes durable what is in the images.
    fn sync_images(&self) -> Result<(), DiskError> {
        fault::lasts(fault::IMAGE_SYNC);
        self.machine.disks().iter().try_for_each(|disk| disk.image().sync())
    }

    /// Sets the backup to connect to. If it is that one already, nothing changes, and what is under way is given.
    pub fn protect(&self, target: Endpoint) -> Result<Option<String>, NotProtected> {
        target.check(self.config.credentials.is_some())?;
        let mut inner = self.lock();
        let state = inner.pipeline.core().state();
        if inner.target.as_ref() == Some(&target)
            && let Some(already) = protecting::already(state, &target, inner.connect_error.as_deref())
        {
            return Ok(Some(already));
        }
        if state != PrimaryState::Solo {
            return Err(NotProtected::Has { state, by: inner.target.clone() });
        }
        inner.target = Some(target);
        inner.connect_error = None;
        inner.pipeline.with(self.clock.now(), Primary::handle_backup_wanted);
        self.perform_all(inner);
        self.changed.notify_all();
        Ok(None)
    }

    /// Ends protection by a backup, for the reason `why`; where the backup could take over, the witness is asked first.
    pub fn unprotect(&self, why: &str) {
        self.with_inner(|inner, now| {
            inner.target = None;
            inner.pipeline.handle_unprotect(now, why);
        });
    }

    /// Bytes of sealed disk writes beside the images, if some of them could be there.
    fn image_lag(&self) -> usize {
        if !self.lock().pipeline.are_images_due() {
            return 0;
        }
        self.machine.disks().iter().map(|disk| disk.lock().sealed_bytes()).sum()
    }

    /// What the state directory is to remember of backups.
    fn pairing(&self, session: Option<SessionId>) -> Pairing {
        let target = self.lock().target.clone();
        let GuardianConfig { store, term, origin, .. } = &self.config;
        Pairing::new(&self.registrant, *store, (*term, *origin), target).with(session)
    }

    /// Whether a backup follows, or is being asked about.
    pub fn state(&self) -> PrimaryState {
        self.lock().pipeline.core().state()
    }
}

impl EpochSink for Guardian {
    fn wait_for_room(&self) -> bool {
        // Who waits for the gate may be the ship thread, without which there will never be room; and a machine that has
        // ended waits for its vCPUs.
        self.wait_for_room_unless(None, || self.machine.gate().is_hold_wanted() || self.machine.ended().is_some())
    }

    fn submit(&self, sealed: Box<SealedEpoch>) {
        let (epoch, base, bytes) = (sealed.epoch, sealed.base, sealed.ship_bytes());
        let has_writes = sealed.has_disk_writes();
        self.machine.pacer().note_sealed(epoch, sealed.sent(), sealed.first_writes);
        self.with_inner(|inner, now| {
            inner.unreleased.push_back((epoch, sealed.sealed_at));
            inner.sealed.push_back(sealed);
            inner.pipeline.handle_sealed(now, epoch, base, bytes, has_writes);
        });
    }
}
