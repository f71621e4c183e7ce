//! The ship thread: performs the steps of the primary's lane Ship ([`replication::pipeline::primary`]), one after the other. It
//! owns the redo log, the state directory and all that is written to the socket but heartbeats.

use std::sync::Arc;
use std::time::Duration;

use replication::pipeline::primary::{Outcome, Step};
use replication::primary::PrimaryState;
use replication::wire::{DiskCopy, EpochBegin, Kind, Link};
use replication::{EpochId, EpochMark, EpochWriter, Linked, PageEncoder, SessionId, ShippedState, StateDigest};
use snapshot::disk::WriteMode;
use snapshot::disklog::LogError;
use snapshot::writeset::WriteSet;

use super::Guardian;
use super::filler::{FillError, Filler};
use super::outbox::{Outbox, OutboxError};
use super::shadow::Shadow;
use crate::epoch::hot::IdlePages;
use crate::epoch::{EpochSink, SealedEpoch, SpentEpochs};
use crate::error::ProtectError;
use crate::fault;
use crate::local::pairing::Pairing;
use crate::local::{Commit, Committed, LocalError, LocalStore};
use crate::log::{self, DiskLog};
use machine::allocations;
use machine::gate::Held;
use machine::memory::PAGE_SIZE;
use machine::stats::Work;
use machine::thread::processor_time;

/// Performs steps until the guardian is finished. The body of the ship thread.
pub(super) fn run(guardian: &Arc<Guardian>, log: DiskLog, local: Option<LocalStore>) {
    let (idle, spent) = {
        let epochs = guardian.machine.epochs();
        (epochs.idle_pages(), epochs.spent())
    };
    let mut shipper = Shipper {
        guardian,
        log,
        local,
        recorded: None,
        encoder: PageEncoder::new(),
        frames: Vec::new(),
        shadow: Shadow::default(),
        shipped_state: ShippedState::default(),
        state: (EpochId(0), Vec::new()),
        filler: None,
        base_writes: None,
        held: None,
        current: None,
        last: None,
        work: EpochWork::default(),
        idle,
        spent,
    };
    let mut step = shipper.wait();
    while let Some(doing) = step.take() {
        shipper.work.begin();
        let allocations = allocations::so_far();
        let outcome = shipper.perform(doing);
        shipper.work.allocations += allocations::so_far() - allocations;
        step = guardian.step_done(outcome);
        shipper.forget(guardian.through());
        if step.is_none() {
            shipper.work.pause();
            step = shipper.wait();
        }
    }
}

/// What the epoch that is being worked on has cost so far: allocations of its steps, and time with what they set off. The clock is
/// read where work on an epoch begins and ends, and not for each of its steps: that is a system call.
#[derive(Default)]
struct EpochWork {
    /// What this thread had used when the clock was read last; none: it waits.
    since: Option<Duration>,
    /// A step was done since then.
    has_worked: bool,
    time: Duration,
    allocations: u64,
}

impl EpochWork {
    /// A step begins.
    fn begin(&mut self) {
        self.since.get_or_insert_with(processor_time);
        self.has_worked = true;
    }

    /// The thread is about to wait.
    fn pause(&mut self) {
        self.read();
        self.since = None;
    }

    /// What an epoch has cost that nobody needs any more.
    fn take(&mut self) -> (Duration, u64) {
        self.read();
        (std::mem::take(&mut self.time), std::mem::take(&mut self.allocations))
    }

    fn read(&mut self) {
        let Some(since) = self.since.filter(|_| self.has_worked) else { return };
        let now = processor_time();
        self.time += now.saturating_sub(since);
        (self.since, self.has_worked) = (Some(now), false);
    }
}

struct Shipper<'g> {
    guardian: &'g Arc<Guardian>,
    log: DiskLog,
    /// The state directory, while it has something of the guest.
    local: Option<LocalStore>,
    /// What it was last told of backups, by this process.
    recorded: Option<Pairing>,
    encoder: PageEncoder,
    /// The buffer of the epochs' frames, between two epochs.
    frames: Vec<u8>,
    shadow: Shadow,
    shipped_state: ShippedState,
    /// The machine's state at the end of this epoch, as it is digested, shipped and committed.
    state: (EpochId, Vec<u8>),
    filler: Option<Filler>,
    /// Disk writes that the backup of this session gets with the base, before the base's own: of each disk.
    base_writes: Option<(SessionId, Vec<WriteSet>)>,
    /// The guest is stopped for this thread.
    held: Option<Held<'g>>,
    /// The epoch that is being worked on.
    current: Option<Box<SealedEpoch>>,
    /// The disk writes of an epoch that was ended without being captured.
    last: Option<(EpochId, Vec<Arc<WriteSet>>)>,
    work: EpochWork,
    idle: IdlePages,
    spent: SpentEpochs,
}

impl<'g> Shipper<'g> {
    /// The next step, when there is one; none when the guardian is finished.
    fn wait(&mut self) -> Option<Step> {
        loop {
            let through = self.guardian.through();
            self.forget(through);
            let step = self.guardian.next_step(through);
            self.log.note_applied(self.guardian.performed());
            if step.is_some() || self.guardian.is_finished() {
                return step;
            }
        }
    }

    /// Nobody needs epochs up to `through` any more.
    fn forget(&mut self, through: EpochId) {
        while let Some(sealed) = self.guardian.take_spent(through) {
            self.give_back(sealed);
        }
        if let Some(sealed) = self.current.take_if(|sealed| sealed.epoch <= through) {
            self.give_back(sealed);
        }
        self.last.take_if(|(epoch, _)| *epoch <= through);
    }

    fn give_back(&mut self, sealed: Box<SealedEpoch>) {
        let (epoch, bytes) = (sealed.epoch, sealed.ship_bytes());
        self.spent.give_back(sealed);
        let (time, allocations) = self.work.take();
        self.guardian.machine.stats().count_work(Work::ShipAllocations, allocations);
        self.guardian.machine.pacer().note_done(epoch, time, bytes);
    }

    fn perform(&mut self, step: Step) -> Outcome {
        match step {
            Step::Send { connection, frames } => self.send(connection, &frames),
            Step::Part { connection } => {
                if let Some(stream) = self.guardian.stream_of_connection(connection) {
                    stream.finish();
                }
                Outcome::Done
            }
            Step::Digest { epoch } => Outcome::Digested(self.digest(epoch)),
            Step::Collect { epoch } => {
                let sealed = self.take_current(epoch);
                if let Some(filler) = &mut self.filler {
                    filler.collect(&sealed);
                }
                self.current = Some(sealed);
                Outcome::Done
            }
            Step::Ship { link, is_base: _, linked, left } => self.ship(link, linked, left),
            Step::Log { mark } => self.append(mark),
            Step::SyncImages => outcome(self.guardian, self.guardian.sync_images()),
            Step::CommitLocally { mark, left } => outcome(self.guardian, self.commit_locally(mark, left)),
            Step::Record { session } => self.record(session),
            Step::RemoveStore { renew_log } => self.remove_store(renew_log),
            Step::EmptyLog => outcome(self.guardian, self.log.checkpoint()),
            Step::BeginFilling { link, has_epochs } => self.begin_filling(link, has_epochs),
            Step::Mirror => self.mirror().map_or_else(Outcome::from, |()| Outcome::Done),
            Step::Fill { link, step } => match self.filler.as_mut().filter(|filler| filler.link == link) {
                Some(filler) => filler.perform(step, &mut self.encoder).unwrap_or_else(Outcome::from),
                None => Outcome::SessionOver,
            },
            Step::Hold { session } => self.hold(session),
            Step::LetGo => {
                (self.held, self.filler) = (None, None);
                Outcome::Done
            }
            Step::BeginEpochs => self.begin_epochs().map_or_else(Outcome::from, |()| Outcome::Done),
            Step::SealBase { session } => self.seal_base(session).unwrap_or_else(Outcome::from),
            Step::SealLast => {
                // The pipeline knows of it before anything else can be sealed: a machine may end at any moment.
                let machine = &self.guardian.machine;
                let mut epochs = machine.epochs();
                let (epoch, writes) = epochs.settle(machine);
                self.guardian.handle_sealed_last(epoch, writes.iter().any(|set| !set.is_empty()));
                self.last = Some((epoch, writes));
                Outcome::Done
            }
            Step::EndEpochs => {
                let held = self.held.as_ref().expect("the guest is held to be settled");
                self.guardian.machine.end_epochs(held).map_or_else(failed, |()| Outcome::Done)
            }
            Step::WriteDirectly => self.write_directly(),
            Step::RemoveEnded => self.remove_ended(),
        }
    }

    /// The sealed epoch that is worked on, out of where boundaries put it.
    fn take_current(&mut self, epoch: EpochId) -> Box<SealedEpoch> {
        let current = self.current.take().filter(|sealed| sealed.epoch == epoch);
        current.unwrap_or_else(|| self.guardian.take_sealed(epoch))
    }

    fn digest(&mut self, epoch: EpochId) -> StateDigest {
        let sealed = self.take_current(epoch);
        let (_, spare) = std::mem::take(&mut self.state);
        self.state = (epoch, sealed.state.encode_in(spare));
        self.current = Some(sealed);
        StateDigest::of(&self.state.1)
    }

    fn send(&mut self, connection: u64, frames: &[u8]) -> Outcome {
        let Some(stream) = self.guardian.stream_of_connection(connection) else { return Outcome::Done };
        if Kind::of_frame(frames) == Some(Kind::Goodbye) {
            fault::reached(fault::GOODBYE);
        }
        if stream.send(frames).is_ok() { Outcome::Done } else { Outcome::Broken }
    }

    /// Writes into the state directory that the backup of `session` could continue the guest, or that none could.
    /// Without local protection nobody resumes.
    fn record(&mut self, session: Option<SessionId>) -> Outcome {
        let Some(store) = &self.local else { return Outcome::Done };
        let pairing = self.guardian.pairing(session);
        if self.recorded.as_ref() != Some(&pairing) {
            // Whether a write that failed took place is not known.
            self.recorded = None;
            if let Err(error) = pairing.write(store.dir()) {
                return Outcome::Failed { text: error.to_string() };
            }
            self.recorded = Some(pairing);
        }
        fault::reached(if session.is_some() { fault::SESSION_RECORDED } else { fault::SESSION_FORGOTTEN });
        Outcome::Done
    }

    /// Puts an epoch's disk writes into the log.
    fn append(&mut self, mark: EpochMark) -> Outcome {
        if let Some((last, writes)) = self.last.take_if(|(last, _)| *last == mark.count) {
            let appended = self.append_sets(mark, &writes);
            self.last = Some((last, writes));
            return appended;
        }
        let sealed = self.take_current(mark.count);
        let appended = self.append_sets(mark, &sealed.disk_writes);
        self.current = Some(sealed);
        appended
    }

    fn append_sets(&mut self, mark: EpochMark, writes: &[Arc<WriteSet>]) -> Outcome {
        let sets = writes.iter().enumerate().map(|(disk, set)| (disk as u16, &**set));
        let sets: Vec<(u16, &WriteSet)> = sets.filter(|(_, set)| !set.is_empty()).collect();
        if !self.log.has_room(&sets) {
            return Outcome::LogFull;
        }
        match self.try_append(mark, &sets) {
            Ok(()) => Outcome::Logged { is_half_full: self.log.is_half_full() },
            Err(error) => {
                let full = error.full().map(|path| path.display().to_string());
                let text = self.guardian.words(&error.into());
                match full {
                    Some(path) => Outcome::NoRoom { path, text },
                    None => Outcome::Failed { text },
                }
            }
        }
    }

    fn try_append(&mut self, mark: EpochMark, sets: &[(u16, &WriteSet)]) -> Result<(), LogError> {
        if self.guardian.state() == PrimaryState::Syncing
            && let Err(source) = fault::fails(fault::FILLING_DISK_LOG)
        {
            return Err(LogError::Io { what: "writing", path: fault::FILLING_DISK_LOG.into(), source });
        }
        self.log.append(mark, sets)
    }

    /// Commits an epoch to the state directory, whose disk writes are in the log already.
    fn commit_locally(&mut self, mark: EpochMark, left: EpochId) -> Result<(), LocalError> {
        let sealed = self.take_current(mark.count);
        let committed = self.commit(&sealed, mark, left);
        self.current = Some(sealed);
        committed
    }

    fn commit(&mut self, sealed: &SealedEpoch, mark: EpochMark, left: EpochId) -> Result<(), LocalError> {
        let line = self.log.line();
        let store = self.local.as_mut().expect("epochs are committed only to a state directory that there is");
        fault::reached(fault::DISK_LOGGED);
        store.keep_disks(sealed.epoch, &sealed.disk_writes, self.guardian.machine.disks())?;
        let (of, state) = &self.state;
        assert_eq!(*of, mark.count, "an epoch is digested before anything else is done with it");
        let commit = Commit { mark, line, state, left };
        let Committed { unchanged, in_pieces } = store.commit(sealed, &commit)?;
        fault::reached(fault::LOCALLY_COMMITTED);
        store.take_news().into_iter().for_each(|news| self.guardian.note_earlier(news));
        self.idle.report(sealed.epoch, unchanged);
        if in_pieces {
            let pages = sealed.pages.len();
            tracing::warn!(epoch = sealed.epoch.0, pages, "an epoch was larger than the undo log");
        }
        Ok(())
    }

    fn remove_store(&mut self, renew_log: bool) -> Outcome {
        let removed = self.local.take().map_or(Ok(()), LocalStore::remove).map_err(ProtectError::from);
        let renewed = if renew_log { self.log.begin_anew(self.guardian.machine.disks()) } else { Ok(()) };
        let why = |result: Result<(), ProtectError>| result.err().map(|error| self.guardian.words(&error));
        Outcome::StoreRemoved { kept: why(removed), not_renewed: why(renewed.map_err(ProtectError::from)) }
    }

    fn remove_ended(&mut self) -> Outcome {
        if let Some(Err(error)) = self.local.take().map(LocalStore::remove) {
            tracing::warn!(%error, "the files of the ended guest could not be removed");
        }
        Outcome::Done
    }

    fn begin_filling(&mut self, link: Link, has_epochs: bool) -> Outcome {
        // An attempt that broke off may have left pages that are not sent yet; of this session they are not.
        self.encoder = PageEncoder::new();
        self.base_writes = None;
        let Some(outbox) = Outbox::of(self.guardian, link.session, Vec::new()) else { return Outcome::SessionOver };
        self.filler = Some(Filler::begin(self.guardian, link, outbox, has_epochs));
        outcome(self.guardian, self.log.reserve())
    }

    fn mirror(&self) -> Result<(), FillError> {
        for disk in self.guardian.machine.disks() {
            disk.lock().set_mode(WriteMode::Mirror)?;
        }
        Ok(self.guardian.machine.log_dirty(true)?)
    }

    /// A guest that does not stop is not waited for longer than its session lasts.
    fn hold(&mut self, session: Option<SessionId>) -> Outcome {
        let guardian = self.guardian;
        let gives_up = || session.is_some_and(|session| !guardian.is_current(session));
        let Some(held) = guardian.machine.gate().hold_unless(gives_up) else { return Outcome::NotHeld };
        guardian.machine.hand_over();
        self.held = Some(held);
        Outcome::Done
    }

    fn begin_epochs(&mut self) -> Result<(), FillError> {
        let machine = &self.guardian.machine;
        if machine.disks().iter().any(|disk| disk.lock().mirror_overflowed()) {
            return Err(FillError::TooManyWrites);
        }
        self.check_base(0)?;
        for disk in machine.disks() {
            disk.lock().set_mode(WriteMode::Protected).expect("only leaving for direct mode can be refused");
        }
        machine.begin_epochs(self.held.as_ref().expect("the guest is held for its base"));
        machine.epochs().set_sink(Arc::clone(self.guardian) as Arc<dyn EpochSink>);
        Ok(())
    }

    /// The base's disk writes, of all disks together, are one record of the log.
    fn check_base(&self, more: usize) -> Result<(), FillError> {
        let pending: usize = self.guardian.machine.disks().iter().map(|disk| disk.lock().pending_bytes()).sum();
        let pending_bytes = pending + more;
        if pending_bytes <= log::BASE_BYTES_MAX { Ok(()) } else { Err(FillError::BaseTooLarge { pending_bytes }) }
    }

    fn seal_base(&mut self, session: SessionId) -> Result<Outcome, FillError> {
        let filler = self.filler.as_mut().filter(|filler| filler.link.session == session);
        let filler = filler.ok_or(FillError::SessionOver)?;
        let (pages, writes) = filler.take_rest();
        let (sent_pages, sent, begun) = (filler.pages, filler.outbox.sent, filler.begun);
        self.check_base(writes.iter().filter(|set| !set.is_empty()).map(WriteSet::cost_bytes).sum())?;
        // The base may be shipped only with them, and it is this thread that ships it.
        self.base_writes = Some((session, writes));
        let machine = &self.guardian.machine;
        machine.stats().record_resync(sent);
        self.guardian.note_filled(sent_pages, sent, begun);
        let held = self.held.as_ref().expect("the guest is held for its base");
        match machine.seal_base(held, &pages, || self.guardian.may_seal_base(session)) {
            Ok(true) => Ok(Outcome::Done),
            Ok(false) => Ok(Outcome::SessionOver),
            Err(error) => {
                machine.fail(format!("the base could not be sealed: {error}"));
                Ok(Outcome::SessionOver)
            }
        }
    }

    fn write_directly(&self) -> Outcome {
        let machine = &self.guardian.machine;
        for disk in machine.disks() {
            disk.lock().set_mode(WriteMode::Direct).expect("everything sealed is in the images");
        }
        if let Err(error) = machine.log_dirty(false) {
            tracing::warn!(%error, "the dirty log stays on");
        }
        Outcome::Done
    }

    fn ship(&mut self, link: Link, linked: Linked, left: EpochId) -> Outcome {
        let Some(mut outbox) = Outbox::of(self.guardian, link.session, std::mem::take(&mut self.frames)) else {
            return Outcome::SessionOver;
        };
        let sealed = self.take_current(linked.mark.count);
        let shipped = self.write_epoch(&sealed, (link, linked, left), &mut outbox);
        self.current = Some(sealed);
        self.frames = outbox.buffer;
        match shipped {
            Ok(()) => {
                self.guardian.machine.stats().record_shipped(outbox.sent);
                Outcome::Done
            }
            Err(OutboxError::SessionOver) => Outcome::SessionOver,
            Err(OutboxError::Broken(_)) => Outcome::Broken,
        }
    }

    fn write_epoch(
        &mut self,
        sealed: &SealedEpoch,
        (link, Linked { before, mark }, left): (Link, Linked, EpochId),
        outbox: &mut Outbox,
    ) -> Result<(), OutboxError> {
        let SealedEpoch { epoch, base, state: _, pages, disk_writes, outputs, inputs, sealed_at: _, first_writes: _ } =
            sealed;
        let begin = EpochBegin { base: base.then_some(before), released: left };
        let mut writer = EpochWriter::begin(link, *epoch, begin, &mut outbox.buffer);
        writer.inputs(inputs, &mut outbox.buffer);
        self.shadow.begin(link.session);
        let mut unchanged = Vec::new();
        for (gfn, page) in pages.iter() {
            if !self.shadow.encode(gfn, page, &mut self.encoder) {
                unchanged.push(gfn);
            } else if self.encoder.is_full() {
                self.encoder.take_batch(|body, count| writer.pages(body, count, &mut outbox.buffer));
                outbox.flush_if_full()?;
            }
        }
        // The state directory compares with all pages, and one report for each epoch is enough.
        if self.local.is_none() {
            self.idle.report(*epoch, unchanged);
        }
        self.encoder.take_batch(|body, count| writer.pages(body, count, &mut outbox.buffer));
        let (of, state) = &self.state;
        assert_eq!(of, epoch, "an epoch is digested before anything else is done with it");
        let copied = |mut spare: Vec<u8>| {
            spare.clear();
            spare.extend_from_slice(state);
            spare
        };
        writer.state_after(&mut self.shipped_state, copied, &mut outbox.buffer);
        let earlier = self.base_writes.take().filter(|(session, _)| *base && *session == link.session);
        let earlier = earlier.map_or_else(Vec::new, |(_, writes)| writes);
        for (disk, set) in earlier.iter().enumerate() {
            for (offset, data) in set.iter() {
                writer.disk_write(disk as u16, offset, data, &mut outbox.buffer);
                outbox.flush_if_full()?;
            }
        }
        // Copies lie over all writes of the epoch: what may be written once more in it is none.
        let mut copies = Vec::new();
        for (disk, set) in disk_writes.iter().enumerate() {
            ship_disk_writes(&self.shadow, disk as u16, set, &mut writer, outbox, &mut copies)?;
        }
        writer.disk_copies(&copies, &mut outbox.buffer);
        writer.outputs(outputs, &mut outbox.buffer);
        self.guardian.machine.stats().count_work(Work::Frames, writer.end(mark.chain, &mut outbox.buffer));
        outbox.flush()
    }
}

fn failed(error: impl std::fmt::Display) -> Outcome {
    Outcome::Failed { text: error.to_string() }
}

fn outcome<E: Into<ProtectError>>(guardian: &Guardian, result: Result<(), E>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed { text: guardian.words(&error.into()) },
    }
}

/// Ships the writes of one disk, but for what the guest has in a page that the backup has too: those are added to `copies`. The
/// epoch's pages were encoded before.
fn ship_disk_writes(
    shadow: &Shadow,
    disk: u16,
    set: &WriteSet,
    writer: &mut EpochWriter,
    outbox: &mut Outbox,
    copies: &mut Vec<DiskCopy>,
) -> Result<(), OutboxError> {
    for (offset, data) in set.iter() {
        // The first byte that is not shipped, and the block that is looked at.
        let (mut rest, mut at) = (0, 0);
        while let Some(block) = data[at..].first_chunk() {
            if let Some(gfn) = shadow.find(block) {
                writer.disk_write(disk, offset + rest as u64, &data[rest..at], &mut outbox.buffer);
                let len = PAGE_SIZE as u16;
                copies.push(DiskCopy { disk, offset: offset + at as u64, gfn, at: 0, len });
                rest = at + PAGE_SIZE;
            }
            at += PAGE_SIZE;
        }
        writer.disk_write(disk, offset + rest as u64, &data[rest..], &mut outbox.buffer);
        outbox.flush_if_full()?;
    }
    Ok(())
}
