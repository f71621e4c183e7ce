//! The ship thread: writes epochs and control frames to the backup and to the local log, in order.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use replication::primary::PrimaryState;
use replication::wire::{DiskCopy, EpochBegin, Kind, Link};
use replication::{EpochId, EpochWriter, PageEncoder, SessionId, ShippedState};
use snapshot::disklog::LogError;
use snapshot::writeset::WriteSet;

use super::guardian::{Guardian, Lacks, ToShip};
use super::local::pairing::{Pairing, PairingError};
use super::local::{Committed, LocalStore, fault};
use super::log::DiskLog;
use super::queue::Receiver;
use super::resync;
use super::room::ROOM_RETRY;
use super::shadow::Shadow;
use super::socket::SendHalf;
use crate::allocations;
use crate::config::OnDegraded;
use crate::epoch::hot::IdlePages;
use crate::epoch::{SealedEpoch, SpentEpochs};
use crate::exit::{Exit, Failure};
use crate::machine::gate::Held;
use crate::memory::PAGE_SIZE;
use crate::stats::Work;

/// Why an outbox takes nothing more.
const SESSION_IS_OVER: &str = "the session is over";
/// Frames are given to the socket in pieces of about this size.
const FLUSH_BYTES: usize = 256 * 1024;

/// How long a wait lasts before the waiter looks around again.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// Does what comes until the guardian is finished. The body of the ship thread.
pub(super) fn run(guardian: &Arc<Guardian>, items: &Receiver<ToShip>, log: DiskLog, local: Option<LocalStore>) {
    let (idle, spent) = {
        let epochs = guardian.machine.epochs();
        (epochs.idle_pages(), epochs.spent())
    };
    let mut shipper = Shipper {
        guardian: Arc::clone(guardian),
        log,
        encoder: PageEncoder::new(),
        shadow: Shadow::default(),
        shipped_state: ShippedState::default(),
        idle,
        spent,
        frames: Vec::new(),
        local,
        lost: None,
        renews_log: false,
        is_degraded: false,
        is_unsettled: false,
        recorded: None,
        base_writes: None,
        deferred: VecDeque::new(),
    };
    loop {
        shipper.log.note_applied(guardian.performed());
        if let Some(item) = shipper.deferred.pop_front() {
            shipper.handle(item, items);
            continue;
        }
        if shipper.is_unsettled && !guardian.is_image_full() {
            shipper.settle(items);
        }
        match items.recv_timeout(Duration::from_millis(100)) {
            Ok(item) => shipper.handle(item, items),
            Err(RecvTimeoutError::Timeout) if !guardian.is_finished() => {}
            Err(_) => return,
        }
    }
}

fn has_writes((_, set): &(u16, &WriteSet)) -> bool {
    !set.is_empty()
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a clock of processor time begins at zero")
}

pub(super) struct Shipper {
    pub(super) guardian: Arc<Guardian>,
    pub(super) encoder: PageEncoder,
    /// The buffer of the epochs' frames, between two epochs.
    frames: Vec<u8>,
    shadow: Shadow,
    shipped_state: ShippedState,
    idle: IdlePages,
    spent: SpentEpochs,
    /// The state directory, while epochs are committed to it.
    local: Option<LocalStore>,
    /// The state directory after it took no epoch, until the register does not list it.
    lost: Option<LocalStore>,
    /// The log took no record: it begins again when nobody can resume from the state directory any more.
    renews_log: bool,
    /// What it was last told of backups, by this process.
    recorded: Option<Pairing>,
    pub(super) log: DiskLog,
    /// The guest is about to be settled: its disk writes go to the images without a log.
    is_degraded: bool,
    /// The guest is to be settled, and there was no room in its images.
    is_unsettled: bool,
    /// Disk writes that the backup of this session gets with the base, before the base's own: of each disk.
    pub(super) base_writes: Option<(SessionId, Vec<WriteSet>)>,
    /// What came while a backup was being filled, and waits until that is over.
    pub(super) deferred: VecDeque<ToShip>,
}

/// Frames on their way to the socket, counted.
pub(super) struct Outbox {
    guardian: Arc<Guardian>,
    session: SessionId,
    stream: SendHalf,
    pub(super) buffer: Vec<u8>,
    pub(super) sent: u64,
}

impl Outbox {
    pub(super) fn new(guardian: &Arc<Guardian>, session: SessionId, stream: SendHalf) -> Self {
        Self::with_buffer(guardian, session, stream, Vec::with_capacity(2 * FLUSH_BYTES))
    }

    /// One that collects in `buffer`, whatever that has.
    fn with_buffer(guardian: &Arc<Guardian>, session: SessionId, stream: SendHalf, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { guardian: Arc::clone(guardian), session, stream, buffer, sent: 0 }
    }

    /// Sends when enough has collected; whether it did.
    pub(super) fn flush_if_full(&mut self) -> io::Result<bool> {
        if self.buffer.len() < FLUSH_BYTES {
            return Ok(false);
        }
        self.flush().map(|()| true)
    }

    /// What was decided meanwhile stops what is under way: of a session that is over nothing more goes out.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.guardian.is_current(self.session) {
            self.buffer.clear();
            return Err(io::Error::new(io::ErrorKind::Interrupted, SESSION_IS_OVER));
        }
        self.stream.send(&self.buffer)?;
        self.sent += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Shipper {
    fn handle(&mut self, item: ToShip, items: &Receiver<ToShip>) {
        match item {
            ToShip::Frames(connection, frames) => self.send_frames(connection, &frames),
            ToShip::Epoch(sealed, link) => self.handle_epoch(sealed, link, items),
            // A guest that cannot write its disks does not fill a backup; it will be asked for again.
            ToShip::Resync(_) if self.is_unsettled => self.guardian.handle_broken(),
            ToShip::Resync(link) => resync::run(self, link, items),
            ToShip::Part(connection) => self.part(connection),
            // Nobody waits for it any more.
            ToShip::DiskWanted(_) => {}
            ToShip::GoSolo => self.settle(items),
            ToShip::RemoveStore => self.remove_store(),
            ToShip::Close(done) => {
                self.close();
                // Whoever asked may have given up waiting.
                let _ = done.send(());
            }
        }
    }

    /// Empties the log, if all that is in it went to the images: an image that another program changes before the next
    /// start must not get old writes.
    fn close(&mut self) {
        let store = self.local.take().filter(|_| !self.guardian.keeps_last_epoch()).or(self.lost.take());
        if let Some(Err(error)) = store.map(LocalStore::remove) {
            tracing::warn!(%error, "the files of the ended guest could not be removed");
        }
        if !self.guardian.wait_for_applied() || self.guardian.performed() < self.log.last() {
            return;
        }
        if let Err(failure) = self.log.checkpoint() {
            tracing::warn!(%failure, "the log of disk writes was not emptied; the next start applies it again");
        }
    }

    /// The guest is alone by right: ends its epochs.
    fn settle(&mut self, items: &Receiver<ToShip>) {
        let guardian = Arc::clone(&self.guardian);
        if self.local.is_some() {
            // Its epochs continue without a backup.
            return self.forget_session();
        }
        if self.lost.is_some() {
            // What was sealed since may not leave yet. This is asked for again when it may.
            return;
        }
        if guardian.is_settled() {
            // A backup that was refused, or lost before anything was sent: there is no reason to stop the guest.
            return;
        }
        self.is_unsettled = !guardian.wait_for_applied() && guardian.machine.ended().is_none();
        if self.is_unsettled {
            return;
        }
        // Most of the images' dirty data goes out while the guest runs; the rest below, while it is stopped.
        if let Err(error) = guardian.sync_images() {
            tracing::warn!(%error, "an image could not be synced");
        }
        let Some(held) = guardian.machine.gate().hold() else { return };
        crate::epoch::boundary::after(&guardian.machine);
        self.log_what_was_sealed(items);
        if guardian.machine.epochs().is_protected()
            && let Err(failure) = self.log_the_last(&held, items)
        {
            return guardian.machine.fail(failure.to_string());
        }
        self.is_unsettled = !guardian.settle(&held, &mut self.log);
        self.is_degraded &= self.is_unsettled;
    }

    /// Ends the running epoch of a guest that is about to be settled. Its disk writes go to the images behind the log,
    /// like those of every other.
    fn log_the_last(&mut self, held: &Held<'_>, items: &Receiver<ToShip>) -> Result<(), Failure> {
        let (epoch, writes) = self.guardian.seal_last(held);
        let sets: Vec<(u16, &WriteSet)> = writes.iter().enumerate().map(|(disk, set)| (disk as u16, &**set)).collect();
        self.make_room(&sets, items);
        if !self.is_degraded {
            self.append(epoch, &sets, items)?;
        }
        self.guardian.handle_local_durable(epoch);
        Ok(())
    }

    /// Writes into the state directory that the backup of `session` could continue the guest, or that none could.
    /// Without local protection nobody resumes.
    pub(super) fn record_session(&mut self, session: Option<SessionId>) -> Result<(), PairingError> {
        let Some(store) = &self.local else { return Ok(()) };
        let pairing = self.guardian.pairing(session);
        if self.recorded.as_ref() == Some(&pairing) {
            return Ok(());
        }
        // Whether a write that failed took place is not known.
        self.recorded = None;
        pairing.write(store.dir())?;
        self.recorded = Some(pairing);
        Ok(())
    }

    fn forget_session(&mut self) {
        // A thread that was late with the news of one session must not spoil the next.
        if self.guardian.state().waits_for_backup() {
            return;
        }
        match self.record_session(None) {
            Ok(()) => fault::reached(fault::SESSION_FORGOTTEN),
            // Whoever resumes asks the witness in vain, or is told what this side was told.
            Err(error) => tracing::warn!(%error, "the state directory still names a session that is over"),
        }
    }

    /// Logs the epochs that were sealed after this thread was told to go solo. A record that came into the log behind
    /// the settling would be put over what the guest writes to the images from then on.
    fn log_what_was_sealed(&mut self, items: &Receiver<ToShip>) {
        let later: Vec<ToShip> = self.deferred.drain(..).chain(items.try_iter()).collect();
        let (epochs, others) = later.into_iter().partition::<Vec<_>, _>(|item| matches!(item, ToShip::Epoch(..)));
        self.deferred.extend(others);
        for item in epochs {
            self.handle(item, items);
        }
    }

    pub(super) fn send_frames(&self, connection: u64, frames: &[u8]) {
        let Some(stream) = self.guardian.stream_of_connection(connection) else { return };
        if Kind::of_frame(frames) == Some(Kind::Goodbye) {
            fault::reached(fault::GOODBYE);
        }
        if stream.send(frames).is_err() {
            self.guardian.handle_broken();
        }
    }

    /// Ends our half of a connection; the backup ends the other when it has read everything.
    pub(super) fn part(&self, connection: u64) {
        if let Some(stream) = self.guardian.stream_of_connection(connection) {
            stream.close_write();
        }
    }

    pub(super) fn handle_epoch(&mut self, sealed: Box<SealedEpoch>, link: Option<Link>, items: &Receiver<ToShip>) {
        let (epoch, bytes) = (sealed.epoch, sealed.ship_bytes());
        let (begun, allocations) = (processor_time(), allocations::so_far());
        self.work_on(&sealed, link, items);
        self.spent.give_back(sealed);
        self.guardian.machine.stats().count_work(Work::ShipAllocations, allocations::so_far() - allocations);
        self.guardian.machine.pacer().note_done(epoch, processor_time().saturating_sub(begun), bytes);
    }

    fn work_on(&mut self, sealed: &SealedEpoch, link: Option<Link>, items: &Receiver<ToShip>) {
        let epoch = sealed.epoch;
        if let Some(link) = link
            && let Some(stream) = self.guardian.stream_of(link.session)
        {
            let mut outbox =
                Outbox::with_buffer(&self.guardian, link.session, stream, std::mem::take(&mut self.frames));
            self.guardian.handle_shipping(link.session, epoch);
            let shipped = self.ship(sealed, link, &mut outbox);
            self.frames = outbox.buffer;
            match shipped {
                Ok(()) => {
                    self.guardian.machine.stats().record_shipped(outbox.sent);
                    self.guardian.handle_shipped(link.session, epoch);
                }
                // Its end, and what is said of it, are behind this in the queue.
                Err(_) if !self.guardian.is_current(link.session) => {}
                Err(_) => self.guardian.handle_broken(),
            }
        }
        let sets: Vec<(u16, &WriteSet)> =
            sealed.disk_writes.iter().enumerate().map(|(disk, set)| (disk as u16, &**set)).filter(has_writes).collect();
        self.make_room(&sets, items);
        let logged = if self.is_degraded { Ok(()) } else { self.append(epoch, &sets, items) };
        let kept = match logged {
            Ok(()) if self.is_first_durable(sealed) => self.guardian.sync_images().map_err(Failure::from),
            Ok(()) => self.commit_locally(sealed).or_else(|failure| self.degrade(&failure)),
            Err(error) => self.degrade_without_log(Failure::of(&error)),
        };
        if let Err(failure) = kept {
            return self.guardian.machine.fail(failure.to_string());
        }
        self.guardian.handle_local_durable(epoch);
        if self.is_degraded && self.lost.is_none() {
            self.deferred.push_back(ToShip::GoSolo);
        }
    }

    /// Whether it is the base of a guest that had no epochs: what it wrote to its images before is in the host's memory
    /// only, and counts as durable with this one.
    fn is_first_durable(&self, sealed: &SealedEpoch) -> bool {
        sealed.base && self.local.is_none() && self.guardian.is_durable()
    }

    /// Puts an epoch's disk writes into the log. Where there is no room for them, and no policy says what to do then,
    /// they wait for some: the backup hears of this side meanwhile, and what is to be said to it is said.
    fn append(&mut self, epoch: EpochId, sets: &[(u16, &WriteSet)], items: &Receiver<ToShip>) -> Result<(), LogError> {
        let mut waited = false;
        loop {
            self.guardian.note_logging(Some(Instant::now()));
            let logged = self.try_append(epoch, sets);
            self.guardian.note_logging(None);
            match logged.as_ref().err().and_then(LogError::full) {
                Some(path) if self.waits_for_room() => self.guardian.note_full(Lacks::Log, path.to_owned()),
                _ => {
                    if waited {
                        self.guardian.note_room(Lacks::Log);
                    }
                    return logged;
                }
            }
            waited = true;
            self.say_meanwhile(items);
        }
    }

    /// With local protection alone the state directory's policy says what happens to a guest whose log is full; unless
    /// it could not go on either way, because its images are.
    fn waits_for_room(&self) -> bool {
        if self.guardian.is_finished() || self.guardian.machine.ended().is_some() {
            return false;
        }
        let is_alone =
            matches!(self.guardian.state(), PrimaryState::Solo | PrimaryState::Greeting | PrimaryState::Syncing);
        let has_policy = self.local.is_some() && is_alone;
        !has_policy || !self.guardian.wait_for_applied()
    }

    /// Until the log is tried again, sends what only has to be sent. The rest stays in its order.
    fn say_meanwhile(&mut self, items: &Receiver<ToShip>) {
        let until = Instant::now() + ROOM_RETRY;
        let mut waiting = std::mem::take(&mut self.deferred);
        while Instant::now() < until && self.guardian.machine.ended().is_none() {
            match waiting.pop_front().map_or_else(|| items.recv_timeout(LOOK_AROUND), Ok) {
                Ok(ToShip::Frames(connection, frames)) => self.send_frames(connection, &frames),
                Ok(ToShip::Part(connection)) => self.part(connection),
                Ok(ToShip::RemoveStore) => self.remove_store(),
                Ok(item) => self.deferred.push_back(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.deferred.append(&mut waiting);
    }

    fn try_append(&mut self, epoch: EpochId, sets: &[(u16, &WriteSet)]) -> Result<(), LogError> {
        if self.guardian.state() == PrimaryState::Syncing
            && let Err(source) = fault::fails(fault::FILLING_DISK_LOG)
        {
            return Err(LogError::Io { what: "writing", path: PathBuf::from(fault::FILLING_DISK_LOG), source });
        }
        self.log.append(epoch, sets)
    }

    /// The state directory took no epoch: the guest continues without it, or ends. Nothing of the epoch leaves before
    /// nobody can resume from the one that is in there.
    fn degrade(&mut self, failure: &Failure) -> Result<(), Failure> {
        if self.guardian.on_degraded() == OnDegraded::Stop {
            // Nothing of the epoch was shown: the one before is in there, and the guest may continue from it.
            let text = format!("the state directory takes no more epochs: {failure}");
            return Err(Failure::new(Exit::Error, text)
                .with_hint("repair the storage, then `outlast resume` continues from the last committed epoch"));
        }
        (self.lost, self.is_degraded) = (self.local.take(), self.guardian.state() == PrimaryState::Solo);
        self.guardian.note_local_lost(&failure.to_string());
        Ok(())
    }

    /// The register does not list the state directory any more. Without a witness its files alone keep others from
    /// resuming.
    pub(super) fn remove_store(&mut self) {
        let removed = self.lost.take().map_or(Ok(()), LocalStore::remove).map_err(Failure::from);
        let renewed = if std::mem::take(&mut self.renews_log) {
            self.log.begin_anew(self.guardian.machine.disks())
        } else {
            Ok(())
        };
        match removed {
            Err(failure) if self.guardian.is_witnessed() => {
                tracing::warn!(%failure, "what the state directory has of the guest was not removed; it is not resumed");
            }
            Err(failure) => {
                let failure = failure.while_doing("an old epoch could be resumed beside the guest").with_hint(
                    "repair the storage, then `outlast resume` continues from the last committed epoch; with a witness, which \
                     refuses that resume, the guest would have kept running",
                );
                return self.guardian.machine.fail(failure.to_string());
            }
            Ok(()) => {}
        }
        if let Err(failure) = renewed {
            return self.guardian.machine.fail(failure.to_string());
        }
        self.guardian.handle_store_removed();
        if self.guardian.state() == PrimaryState::Solo {
            self.deferred.push_back(ToShip::GoSolo);
        }
    }

    /// Whether the state directory took no epoch and may still be resumed from.
    pub(super) fn is_removing_store(&self) -> bool {
        self.lost.is_some()
    }

    /// The log of disk writes took no record. A guest with a backup is left to that one; one that is protected by its
    /// state directory alone goes on without, with a log that is empty. One whose backup is being filled is alone:
    /// filled from a guest without epochs it is begun again.
    fn degrade_without_log(&mut self, failure: Failure) -> Result<(), Failure> {
        if matches!(self.guardian.state(), PrimaryState::Greeting | PrimaryState::Syncing) {
            self.guardian.handle_broken();
        }
        let is_applied = self.guardian.wait_for_applied() && self.guardian.performed() >= self.log.last();
        if self.local.is_none() || !is_applied || self.guardian.state() != PrimaryState::Solo {
            return Err(failure);
        }
        self.renews_log = true;
        self.degrade(&failure)
    }

    /// Commits an epoch to the state directory, whose disk writes are in the log already.
    fn commit_locally(&mut self, sealed: &SealedEpoch) -> Result<(), Failure> {
        let Some(store) = &mut self.local else { return Ok(()) };
        fault::reached(fault::DISK_LOGGED);
        store.keep_disks(sealed.epoch, &sealed.disk_writes, self.guardian.machine.disks())?;
        let Committed { unchanged, in_pieces } = store.commit(sealed, self.guardian.left())?;
        fault::reached(fault::LOCALLY_COMMITTED);
        store.take_tidings().into_iter().for_each(|tidings| self.guardian.note_earlier(tidings));
        self.idle.report(sealed.epoch, unchanged);
        if in_pieces {
            let pages = sealed.pages.len();
            tracing::warn!(epoch = sealed.epoch.0, pages, "an epoch was larger than the undo log");
        }
        Ok(())
    }

    fn ship(&mut self, sealed: &SealedEpoch, link: Link, outbox: &mut Outbox) -> io::Result<()> {
        let SealedEpoch { epoch, base, state, pages, disk_writes, outputs, inputs, sealed_at: _ } = sealed;
        let begin = EpochBegin { base: *base, released: self.guardian.left() };
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
        writer.state_after(&mut self.shipped_state, |spare| state.encode_in(spare), &mut outbox.buffer);
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
        self.guardian.machine.stats().count_work(Work::Frames, writer.end(&mut outbox.buffer));
        outbox.flush()
    }

    /// Empties the log when it is half full and everything in it is committed; waits for that if it has to.
    fn make_room(&mut self, sets: &[(u16, &WriteSet)], items: &Receiver<ToShip>) {
        while !self.is_degraded && (!self.log.has_room(sets) || self.log.is_half_full()) {
            if self.guardian.performed() >= self.log.last() {
                if let Err(failure) = self.log.checkpoint() {
                    self.guardian.machine.fail(failure.to_string());
                }
                return;
            }
            if self.log.has_room(sets) || self.guardian.is_finished() || self.guardian.machine.ended().is_some() {
                return;
            }
            if self.guardian.is_image_full() || self.lost.is_some() {
                // That may last: what is to be said to the backup is said.
                self.say_meanwhile(items);
            } else {
                self.guardian.wait_for_change();
            }
        }
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
) -> io::Result<()> {
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
