//! Filling a new backup while the guest runs: disks that differ, then memory in rounds, then the base.
//!
//! Every round sends the pages written since the round before; the guest is stopped only for the base, which has the
//! pages of the last round. Disk writes meanwhile are collected (see [`snapshot::disk::Mode::Mirror`]) and go with the
//! base.
//!
//! A guest that is protected by its state directory has epochs already. They go on, and are committed between two looks;
//! what they wrote is what the rounds send ([`super::collected`]), and the base is sealed between two of them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use replication::primary::FillPhase;
use replication::wire::{DiskOffer, DiskWant, Link, Message, ResyncDisk};
use replication::{EpochId, Gfn, PageEncoder, page};
use serde_json::json;
use snapshot::disk::{CHUNK_BYTES, DiskError, Image, Mode};
use snapshot::disklog::LogError;

use super::collected::{Collected, all_pages};
use super::guardian::{NoBase, ToShip};
use super::local::fault;
use super::local::pairing::PairingError;
use super::log;
use super::ship::{Outbox, Shipper};
use crate::epoch::{SealedEpoch, boundary};
use crate::exit::Failure;
use crate::kvm::KvmError;
use crate::memory::PAGE_SIZE;

/// Rounds over memory at most: a guest that dirties faster than the wire takes is stopped for the rest.
const ROUNDS_MAX: u32 = 12;
/// A round this small is left to the base.
const LAST_ROUND_PAGES: usize = 512;
/// Hashes in one offer. The backup reads as many chunks of its replica before it hears or answers anything else: more
/// than a slow disk reads within the shortest detection time would make each look dead to the other.
const OFFER_CHUNKS_MAX: u64 = 8;
/// Pages between two looks at what else wants to go out.
const PAGES_BETWEEN_LOOKS: usize = 64;
/// A register that answers within so long costs no further round.
const ENLIST_QUICK: Duration = Duration::from_millis(50);
/// Disk bytes in one frame.
const DISK_FRAME_BYTES: u64 = 256 * 1024;
/// Disk writes of epochs that are kept for the next round; beyond that they are sent at once.
const COLLECTED_BYTES_MAX: usize = 8 << 20;

/// Why a backup could not be filled.
#[derive(Debug, thiserror::Error)]
enum ResyncError {
    #[error("the connection broke: {0}")]
    Connection(#[from] io::Error),
    #[error("the session ended")]
    SessionEnded,
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("the backup's copy of disk {disk}, which is read-only, differs; copy it over: it is not replicated")]
    ReadonlyDiffers { disk: u16 },
    #[error(transparent)]
    Pairing(#[from] PairingError),
    #[error("{}", Failure::of(.0).message)]
    Log(#[from] LogError),
    #[error("the guest wrote to its disks faster than the backup was filled; it will be tried again")]
    TooManyWrites,
    #[error(
        "while the backup was filled the guest wrote {} MiB to its disks, and the log holds {} MiB of a base; it will be \
         tried again: let the guest write less meanwhile, or make the link between the hosts faster",
        pending_bytes >> 20,
        max >> 20
    )]
    BaseTooLarge { pending_bytes: usize, max: usize },
}

/// Fills the backup of `link`'s session and seals the base. On failure the connection is dropped and the guest goes on
/// as before.
pub(super) fn run(shipper: &mut Shipper, link: Link, items: &Receiver<ToShip>) {
    let Some(stream) = shipper.guardian.stream_of(link.session) else { return };
    let started = Instant::now();
    // An attempt that broke off may have left pages that are not sent yet; of this session they are not.
    shipper.encoder = PageEncoder::new();
    let has_epochs = shipper.guardian.machine.epochs().is_protected();
    let collected = has_epochs.then(Collected::default);
    let outbox = Outbox::new(&shipper.guardian, link.session, stream);
    let mut resync = Resync { shipper, link, items, outbox, pages: 0, phase: FillPhase::Begin, collected };
    match resync.run() {
        Ok(rounds) => {
            let properties = json!({
                "rounds": rounds, "pages": resync.pages, "bytes": resync.outbox.sent,
                "ms": started.elapsed().as_millis() as u64,
            });
            resync.shipper.guardian.note("resync-finished", properties);
        }
        Err(error) => {
            resync.shipper.guardian.note_fill_failed(link.session, resync.phase, &error.to_string());
            if resync.shipper.guardian.is_current(link.session) {
                resync.shipper.guardian.handle_broken();
            }
        }
    }
}

struct Resync<'a> {
    shipper: &'a mut Shipper,
    link: Link,
    items: &'a Receiver<ToShip>,
    outbox: Outbox,
    pages: u64,
    phase: FillPhase,
    /// What the epochs write that are sealed meanwhile; none: the guest has no epochs.
    collected: Option<Collected>,
}

impl From<NoBase> for ResyncError {
    fn from(refused: NoBase) -> Self {
        match refused {
            NoBase::SessionEnded => Self::SessionEnded,
            NoBase::MirrorOverflowed => Self::TooManyWrites,
            NoBase::TooLarge { pending_bytes } => Self::BaseTooLarge { pending_bytes, max: log::BASE_BYTES_MAX },
        }
    }
}

impl Resync<'_> {
    fn run(&mut self) -> Result<u32, ResyncError> {
        let machine = self.shipper.guardian.machine.clone();
        self.gets_on(FillPhase::Images);
        self.shipper.log.reserve()?;
        if self.collected.is_none() {
            for disk in machine.disks() {
                disk.lock().set_mode(Mode::Mirror)?;
            }
            machine.log_dirty(true)?;
        } else if !self.shipper.guardian.wait_until_performed(self.link.session) {
            // What earlier epochs wrote must be in the images that are compared: it is not collected here.
            return Err(ResyncError::SessionEnded);
        }
        for index in 0..machine.disks().len() {
            self.fill_disk(index as u16)?;
        }
        let mut rounds = self.fill_memory()?;
        self.flush()?;
        if self.sync_images()? + self.enlist()? > ENLIST_QUICK {
            // The guest wrote on meanwhile; the pause for the base is to be short.
            rounds += self.fill_memory_again()?;
            self.flush()?;
        }
        self.gets_on(FillPhase::Gate);
        machine.stats().record_resync(self.outbox.sent);
        match self.collected.take() {
            None => self.shipper.guardian.seal_base(self.link.session)?,
            Some(collected) => self.seal_base_between(collected)?,
        }
        Ok(rounds)
    }

    /// Something was done: whoever decides how long a filling may do nothing is told.
    fn gets_on(&mut self, phase: FillPhase) {
        self.phase = phase;
        self.shipper.guardian.handle_filling(self.link.session, phase);
    }

    fn flush(&mut self) -> Result<(), ResyncError> {
        self.outbox.flush()?;
        self.gets_on(self.phase);
        Ok(())
    }

    /// Makes durable what a guest without epochs wrote to its images: most of it here, while it runs and its output leaves;
    /// the rest is synced before the base counts. Gives how long that took.
    fn sync_images(&mut self) -> Result<Duration, ResyncError> {
        let begun = Instant::now();
        if self.collected.is_none() && self.shipper.guardian.is_durable() {
            self.gets_on(FillPhase::Sync);
            self.shipper.guardian.sync_images()?;
            self.handle_waiting()?;
        }
        Ok(begun.elapsed())
    }

    /// Waits until the register lists the backup, and does not list a state directory that took no epoch: until then nothing
    /// leaves that a base may follow. Gives how long that took.
    fn enlist(&mut self) -> Result<Duration, ResyncError> {
        let (asked, session) = (Instant::now(), self.link.session);
        self.gets_on(FillPhase::Enlist);
        self.shipper.guardian.handle_filled(session);
        while !self.shipper.guardian.is_enlisted(session).ok_or(ResyncError::SessionEnded)?
            || self.shipper.is_removing_store()
        {
            self.handle_waiting()?;
            self.shipper.guardian.wait_for_change();
        }
        Ok(asked.elapsed())
    }

    /// Stops the guest, commits the epochs that were sealed, and seals the base behind them.
    fn seal_base_between(&mut self, collected: Collected) -> Result<(), ResyncError> {
        let guardian = Arc::clone(&self.shipper.guardian);
        // Whoever resumes must ask from here on: the backup could go on as soon as it has the base.
        self.shipper.record_session(Some(self.link.session))?;
        fault::reached(fault::SESSION_RECORDED);
        let held = guardian.hold_for(self.link.session).ok_or(ResyncError::SessionEnded)?;
        self.gets_on(FillPhase::Base);
        boundary::after(&guardian.machine);
        self.collected = Some(collected);
        self.handle_waiting()?;
        let mut collected = self.collected.take().expect("it was put there above");
        guardian.wait_until_left();
        let (pages, write_bytes) = (collected.take_pages(), collected.write_bytes());
        // The base may be shipped only with them, and it is this thread that ships it.
        self.shipper.base_writes = Some((self.link.session, collected.take_writes()));
        Ok(guardian.seal_base_between(self.link.session, &held, &pages, write_bytes)?)
    }

    /// The pages of the next round.
    fn next_pages(&mut self, round: u32) -> Result<Vec<u64>, ResyncError> {
        let machine = self.shipper.guardian.machine.clone();
        self.handle_waiting()?;
        match &mut self.collected {
            None => Ok(machine.epochs().harvest_running(&machine)?),
            Some(_) if round == 1 => Ok(all_pages(machine.ram())),
            Some(collected) => {
                let pages = collected.take_pages();
                self.send_collected_writes()?;
                Ok(pages)
            }
        }
    }

    /// What epochs wrote to the disks goes over whatever the backup has there; what was written after it comes later.
    fn send_collected_writes(&mut self) -> Result<(), ResyncError> {
        let writes = self.collected.as_mut().map(Collected::take_writes).unwrap_or_default();
        for (disk, set) in writes.iter().enumerate() {
            for (start, bytes) in set.iter() {
                for (index, data) in bytes.chunks(DISK_FRAME_BYTES as usize).enumerate() {
                    let offset = start + index as u64 * DISK_FRAME_BYTES;
                    self.send(&Message::ResyncDisk(ResyncDisk { disk: disk as u16, offset, data: data.to_vec() }))?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &Message) -> Result<(), ResyncError> {
        message.encode(&self.link, EpochId(0), &mut self.outbox.buffer);
        if self.outbox.flush_if_full()? {
            self.gets_on(self.phase);
        }
        Ok(())
    }

    fn fill_memory(&mut self) -> Result<u32, ResyncError> {
        self.fill_rounds(1)
    }

    /// Sends what was written since.
    fn fill_memory_again(&mut self) -> Result<u32, ResyncError> {
        Ok(self.fill_rounds(2)? - 1)
    }

    fn fill_rounds(&mut self, first: u32) -> Result<u32, ResyncError> {
        let machine = self.shipper.guardian.machine.clone();
        let mut content = [0; PAGE_SIZE];
        for round in first..=ROUNDS_MAX {
            self.gets_on(FillPhase::Memory);
            let gfns = self.next_pages(round)?;
            for (index, gfn) in gfns.iter().enumerate() {
                if index % PAGES_BETWEEN_LOOKS == 0 {
                    self.handle_waiting()?;
                    self.gets_on(FillPhase::Memory);
                }
                assert!(machine.ram().read_page(*gfn, &mut content), "the dirty log names only pages of RAM");
                // A session begins with zeroed memory over there: the first round needs no zero pages.
                if round == 1 && page::is_zero(&content) {
                    continue;
                }
                self.send_page(*gfn, &content)?;
            }
            self.flush_pages()?;
            if gfns.len() <= LAST_ROUND_PAGES {
                return Ok(round);
            }
        }
        Ok(ROUNDS_MAX)
    }

    fn send_page(&mut self, gfn: u64, content: &page::Page) -> Result<(), ResyncError> {
        self.pages += 1;
        self.shipper.encoder.push(Gfn(gfn), content, None);
        if self.shipper.encoder.is_full() { self.flush_pages() } else { Ok(()) }
    }

    fn flush_pages(&mut self) -> Result<(), ResyncError> {
        if self.shipper.encoder.is_empty() {
            return Ok(());
        }
        let body = self.shipper.encoder.take_batch(|body, _| body.to_vec());
        self.send(&Message::ResyncPages(body))
    }

    /// Offers hashes of the disk's chunks and sends those that the replica lacks. A disk that the guest cannot write is
    /// not replicated, only compared: the backup refuses if its own differs.
    ///
    /// The image is read while it is written to. What a chunk lacks then, or has in part, goes with the base or before it:
    /// whatever comes to the image from here on is mirrored or collected.
    fn fill_disk(&mut self, index: u16) -> Result<(), ResyncError> {
        let disk = self.shipper.guardian.machine.disks()[usize::from(index)].clone();
        let image = disk.image();
        let (chunk_count, readonly) = (image.chunk_count(), image.is_readonly());
        let mut first_chunk = 0;
        while first_chunk < chunk_count {
            let end = (first_chunk + OFFER_CHUNKS_MAX).min(chunk_count);
            let mut hashes = Vec::new();
            for chunk in first_chunk..end {
                self.handle_waiting()?;
                self.gets_on(FillPhase::Disks);
                hashes.push(image.chunk_hash(chunk)?.to_le_bytes());
            }
            let offer = DiskOffer { disk: index, first_chunk, chunk_bytes: CHUNK_BYTES as u32, hashes };
            self.shipper.guardian.handle_disk_offered(self.link.session, &offer);
            self.send(&Message::DiskOffer(offer))?;
            self.flush()?;
            let want = self.wait_for_want(index, first_chunk)?;
            self.gets_on(FillPhase::Disks);
            if readonly && want.wanted.contains(&true) {
                return Err(ResyncError::ReadonlyDiffers { disk: index });
            }
            for (offset, _) in want.wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
                self.send_chunk(image, index, first_chunk + offset as u64)?;
            }
            first_chunk = end;
        }
        Ok(())
    }

    fn send_chunk(&mut self, image: &Image, index: u16, chunk: u64) -> Result<(), ResyncError> {
        let start = chunk * CHUNK_BYTES;
        let end = (start + CHUNK_BYTES).min(image.len_bytes());
        let mut offset = start;
        while offset < end {
            let mut data = vec![0; DISK_FRAME_BYTES.min(end - offset) as usize];
            image.read_at(offset, &mut data)?;
            let len = data.len() as u64;
            self.send(&Message::ResyncDisk(ResyncDisk { disk: index, offset, data }))?;
            offset += len;
        }
        Ok(())
    }

    /// The backup's answer, while other frames go out as they come.
    fn wait_for_want(&mut self, disk: u16, first_chunk: u64) -> Result<DiskWant, ResyncError> {
        loop {
            match self.next(Duration::from_millis(50)) {
                Ok(ToShip::DiskWanted(want)) if want.disk == disk && want.first_chunk == first_chunk => {
                    return Ok(want);
                }
                Ok(item) => self.handle_between(item)?,
                Err(RecvTimeoutError::Timeout) if self.shipper.guardian.is_current(self.link.session) => {}
                Err(_) => return Err(ResyncError::SessionEnded),
            }
        }
    }

    /// What comes next. What an epoch that waited for room put aside was there before what is in the queue.
    fn next(&mut self, time_max: Duration) -> Result<ToShip, RecvTimeoutError> {
        self.shipper.deferred.pop_front().map_or_else(|| self.items.recv_timeout(time_max), Ok)
    }

    /// Lets heartbeats out between the bulk: a backup that hears nothing for long takes the primary for dead.
    fn handle_waiting(&mut self) -> Result<(), ResyncError> {
        while let Ok(item) = self.next(Duration::ZERO) {
            self.handle_between(item)?;
        }
        Ok(())
    }

    fn handle_between(&mut self, item: ToShip) -> Result<(), ResyncError> {
        match item {
            ToShip::Frames(connection, frames) => {
                // Of a session that is over only what is said of its end goes out.
                let flushed = self.outbox.flush();
                self.shipper.send_frames(connection, &frames);
                Ok(flushed?)
            }
            ToShip::DiskWanted(_) => Ok(()),
            ToShip::RemoveStore => {
                self.shipper.remove_store();
                Ok(())
            }
            ToShip::Epoch(sealed, None) if self.collected.is_some() => self.commit_between(*sealed),
            // Only a session that is over brings these; they wait until this is left.
            item @ (ToShip::Part(_) | ToShip::GoSolo | ToShip::Resync(_) | ToShip::Epoch(..) | ToShip::Close(_)) => {
                self.shipper.deferred.push_front(item);
                Err(ResyncError::SessionEnded)
            }
        }
    }

    /// The guest is protected locally while its backup is filled: its epochs are committed as before.
    fn commit_between(&mut self, sealed: SealedEpoch) -> Result<(), ResyncError> {
        let collected = self.collected.as_mut().expect("the caller looked");
        collected.note(&sealed);
        let is_much = collected.write_bytes() > COLLECTED_BYTES_MAX;
        self.shipper.handle_epoch(sealed, None, self.items);
        if is_much { self.send_collected_writes() } else { Ok(()) }
    }
}
