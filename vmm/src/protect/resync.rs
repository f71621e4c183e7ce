//! Filling a new backup while the guest runs: disks that differ, then memory in rounds, then the base.
//!
//! Every round sends the pages written since the round before; whether another one follows, the core decides
//! ([`replication::primary::Left`]). The guest is stopped only for the base, which has what was left then. Disk writes
//! meanwhile are collected (see [`snapshot::disk::Mode::Mirror`]) and sent in the rounds, the last of them with the base.
//!
//! All of it is bulk: it leaves the guest its share of this host ([`super::courtesy`]), and looks between two slices at what
//! else wants to go out.
//!
//! A guest that is protected by its state directory has epochs already. They go on, and are committed between two looks;
//! what they wrote is what the rounds send ([`super::collected`]), and the base is sealed between two of them.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use replication::primary::{FillFigures, FillPhase, Left, NextRound, RoundsEnd};
use replication::wire::{DiskOffer, DiskWant, Link, Message, ResyncDisk};
use replication::{EpochId, Gfn, PageEncoder, page};
use serde_json::json;
use snapshot::disk::{CHUNK_BYTES, DiskError, Image, Mode, OverlayDisk, PENDING_BYTES_MAX};
use snapshot::disklog::LogError;
use snapshot::writeset::WriteSet;

use super::collected::{Collected, all_pages};
use super::courtesy::Courtesy;
use super::guardian::{NoBase, ToShip};
use super::local::fault;
use super::local::pairing::PairingError;
use super::log;
use super::queue::Receiver;
use super::ship::{Outbox, Shipper};
use crate::epoch::{SealedEpoch, boundary};
use crate::exit::Failure;
use crate::kvm::KvmError;
use crate::memory::PAGE_SIZE;

/// Hashes in one offer. The backup reads as many chunks of its replica before it hears or answers anything else: more
/// than a slow disk reads within the shortest detection time would make each look dead to the other.
const OFFER_CHUNKS_MAX: u64 = 8;
/// Pages between two looks at what else wants to go out.
const PAGES_BETWEEN_LOOKS: usize = 64;
/// Disk bytes in one frame.
const DISK_FRAME_BYTES: u64 = 256 * 1024;
/// Disk writes that are kept for the next round; beyond that they are sent at once.
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
    #[error(
        "the guest wrote {} MiB to a disk in one step of the filling, faster than the backup took it; it will be tried again: let \
         the guest write less meanwhile, or make the link between the hosts or the backup's disk faster",
        PENDING_BYTES_MAX >> 20
    )]
    TooManyWrites,
    #[error(
        "after the last round the guest wrote {} MiB to its disks, and the log holds {} MiB of a base; it will be \
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
    let courtesy = Courtesy::of_this_thread();
    let phase = FillPhase::Begin;
    let mut resync =
        Resync { shipper, link, items, outbox, courtesy, pages: 0, phase, collected, left: Vec::new(), begun: false };
    match resync.run() {
        Ok(()) => resync.note_finished(started),
        Err(error) => {
            resync.shipper.guardian.note_fill_failed(link.session, resync.phase, &error.to_string());
            match error {
                _ if !resync.shipper.guardian.is_current(link.session) => {}
                ResyncError::Connection(_) => resync.shipper.guardian.handle_broken(),
                error => resync.shipper.guardian.handle_fill_failed(link.session, &error.to_string()),
            }
        }
    }
}

struct Resync<'a> {
    shipper: &'a mut Shipper,
    link: Link,
    items: &'a Receiver<ToShip>,
    outbox: Outbox,
    courtesy: Courtesy,
    pages: u64,
    phase: FillPhase,
    /// What the epochs write that are sealed meanwhile; none: the guest has no epochs.
    collected: Option<Collected>,
    /// Pages, ascending, that were written and not sent: they go in the next round, or with the base.
    left: Vec<u64>,
    /// The first round of memory was begun.
    begun: bool,
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
    fn run(&mut self) -> Result<(), ResyncError> {
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
        self.fill_disks()?;
        self.fill_memory()?;
        self.sync_images()?;
        self.enlist()?;
        // The guest wrote on meanwhile; the pause for the base is to be short.
        self.fill_memory()?;
        self.gets_on(FillPhase::Gate);
        machine.stats().record_resync(self.outbox.sent);
        match self.collected.take() {
            None => self.shipper.guardian.seal_base(self.link.session, &self.left)?,
            Some(collected) => self.seal_base_between(collected)?,
        }
        Ok(())
    }

    fn note_finished(&self, started: Instant) {
        let guardian = &self.shipper.guardian;
        let FillFigures { round, left_bytes, rate, share, end, .. } = guardian.fill_figures();
        let pause = rate.map(|rate| left_bytes * 1000 / rate.max(1));
        guardian.note(
            "resync-finished",
            json!({
                "rounds": round, "pages": self.pages, "bytes": self.outbox.sent,
                "ms": started.elapsed().as_millis() as u64, "end": end.map(RoundsEnd::as_str),
                "left_bytes": left_bytes, "estimated_pause_ms": pause, "guest_percent": share,
            }),
        );
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
    /// the rest is synced before the base counts.
    fn sync_images(&mut self) -> Result<(), ResyncError> {
        if self.collected.is_none() && self.shipper.guardian.is_durable() {
            self.gets_on(FillPhase::Sync);
            self.shipper.guardian.sync_images()?;
            self.handle_waiting()?;
        }
        Ok(())
    }

    /// Waits until the register lists the backup, and does not list a state directory that took no epoch: until then nothing
    /// leaves that a base may follow.
    fn enlist(&mut self) -> Result<(), ResyncError> {
        let session = self.link.session;
        self.gets_on(FillPhase::Enlist);
        self.shipper.guardian.handle_filled(session);
        while !self.shipper.guardian.is_enlisted(session).ok_or(ResyncError::SessionEnded)?
            || self.shipper.is_removing_store()
        {
            self.look_around()?;
            self.shipper.guardian.wait_for_change();
        }
        Ok(())
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
        let pages = merged(std::mem::take(&mut self.left), collected.take_pages());
        let write_bytes = collected.write_bytes();
        // The base may be shipped only with them, and it is this thread that ships it.
        self.shipper.base_writes = Some((self.link.session, collected.take_writes()));
        Ok(guardian.seal_base_between(self.link.session, &held, &pages, write_bytes)?)
    }

    /// Adds what was written since to what is left.
    fn harvest(&mut self) -> Result<(), ResyncError> {
        let machine = self.shipper.guardian.machine.clone();
        self.handle_waiting()?;
        let later = match &mut self.collected {
            None => machine.epochs().harvest_running(&machine)?,
            Some(collected) => {
                let pages = collected.take_pages();
                if self.begun { pages } else { all_pages(machine.ram()) }
            }
        };
        self.left = merged(std::mem::take(&mut self.left), later);
        Ok(())
    }

    /// Bytes of disk writes that wait to be sent.
    fn write_bytes(&self) -> usize {
        match &self.collected {
            Some(collected) => collected.write_bytes(),
            None => self.free_disks(|disk| disk.pending_bytes()).into_iter().sum(),
        }
    }

    /// Of each disk; of one that is being worked with nothing. Its turn comes later, with the base at the latest.
    fn free_disks<T: Default>(&self, of: impl Fn(&mut OverlayDisk) -> T) -> Vec<T> {
        let disks = self.shipper.guardian.machine.disks().iter();
        disks.map(|disk| disk.try_lock().map_or_else(T::default, |mut disk| of(&mut disk))).collect()
    }

    /// What was written to the disks goes over whatever the backup has there; what was written after it comes later.
    fn send_writes(&mut self) -> Result<(), ResyncError> {
        let writes: Vec<WriteSet> = match &mut self.collected {
            Some(collected) => collected.take_writes(),
            None => self.free_disks(OverlayDisk::take_mirrored),
        };
        for (disk, set) in writes.iter().enumerate() {
            for (start, bytes) in set.iter() {
                for (index, data) in bytes.chunks(DISK_FRAME_BYTES as usize).enumerate() {
                    let offset = start + index as u64 * DISK_FRAME_BYTES;
                    self.send_disk(disk as u16, offset, data.to_vec())?;
                }
            }
        }
        Ok(())
    }

    fn send_disk(&mut self, disk: u16, offset: u64, data: Vec<u8>) -> Result<(), ResyncError> {
        self.shipper.guardian.handle_fill_sent(self.link.session, data.len() as u64, 0);
        self.send(&Message::ResyncDisk(ResyncDisk { disk, offset, data }))
    }

    fn send(&mut self, message: &Message) -> Result<(), ResyncError> {
        message.encode(&self.link, EpochId(0), &mut self.outbox.buffer);
        if self.outbox.flush_if_full()? {
            self.gets_on(self.phase);
        }
        Ok(())
    }

    /// Sends memory in rounds, until the core leaves the rest to the base.
    fn fill_memory(&mut self) -> Result<(), ResyncError> {
        loop {
            self.gets_on(FillPhase::Memory);
            self.harvest()?;
            let page_bytes = (self.left.len() * PAGE_SIZE) as u64;
            let left = Left { page_bytes, write_bytes: self.write_bytes() as u64 };
            match self.shipper.guardian.handle_fill_left(self.link.session, left) {
                NextRound::Send => self.send_round()?,
                NextRound::Seal => return Ok(()),
                NextRound::Over => return Err(ResyncError::SessionEnded),
            }
        }
    }

    fn send_round(&mut self) -> Result<(), ResyncError> {
        let machine = self.shipper.guardian.machine.clone();
        // A session begins with zeroed memory over there: the first round needs no zero pages.
        let is_first = !std::mem::replace(&mut self.begun, true);
        let gfns = std::mem::take(&mut self.left);
        self.send_writes()?;
        let mut content = [0; PAGE_SIZE];
        for slice in gfns.chunks(PAGES_BETWEEN_LOOKS) {
            self.look_around()?;
            self.gets_on(FillPhase::Memory);
            let mut sent = 0;
            for gfn in slice {
                assert!(machine.ram().read_page(*gfn, &mut content), "the dirty log names only pages of RAM");
                if is_first && page::is_zero(&content) {
                    continue;
                }
                sent += 1;
                self.send_page(*gfn, &content)?;
            }
            let (sent, all) = (sent * PAGE_SIZE as u64, (slice.len() * PAGE_SIZE) as u64);
            self.shipper.guardian.handle_fill_sent(self.link.session, sent, all - sent);
        }
        self.flush_pages()?;
        self.flush()
    }

    /// Between two slices of bulk: what else wants to go out does, and others have their share of this host.
    fn look_around(&mut self) -> Result<(), ResyncError> {
        self.handle_waiting()?;
        if self.write_bytes() > COLLECTED_BYTES_MAX {
            self.send_writes()?;
        }
        self.courtesy.rest();
        Ok(())
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

    fn fill_disks(&mut self) -> Result<(), ResyncError> {
        let disks = self.shipper.guardian.machine.clone();
        let mut left: u64 = disks.disks().iter().map(|disk| disk.image().len_bytes()).sum();
        for index in 0..disks.disks().len() {
            self.fill_disk(index as u16, &mut left)?;
        }
        Ok(())
    }

    /// Offers hashes of the disk's chunks and sends those that the replica lacks. A disk that the guest cannot write is
    /// not replicated, only compared: the backup refuses if its own differs. What of all disks is not compared is `left` bytes.
    ///
    /// The image is read while it is written to. What a chunk lacks then, or has in part, goes with the base or before it:
    /// whatever comes to the image from here on is mirrored or collected.
    fn fill_disk(&mut self, index: u16, left: &mut u64) -> Result<(), ResyncError> {
        let disk = self.shipper.guardian.machine.disks()[usize::from(index)].clone();
        let image = disk.image();
        let chunk_count = image.chunk_count();
        let mut first_chunk = 0;
        while first_chunk < chunk_count {
            let (begun, end) = (Instant::now(), (first_chunk + OFFER_CHUNKS_MAX).min(chunk_count));
            self.fill_chunks(image, index, first_chunk..end)?;
            let bytes = (end * CHUNK_BYTES).min(image.len_bytes()) - first_chunk * CHUNK_BYTES;
            *left -= bytes;
            self.shipper.guardian.handle_disks_compared(self.link.session, bytes, begun.elapsed(), *left);
            first_chunk = end;
        }
        Ok(())
    }

    fn fill_chunks(&mut self, image: &Image, index: u16, chunks: Range<u64>) -> Result<(), ResyncError> {
        let first_chunk = chunks.start;
        let mut hashes = Vec::new();
        for chunk in chunks {
            self.look_around()?;
            self.gets_on(FillPhase::Disks);
            hashes.push(image.chunk_hash(chunk)?.to_le_bytes());
        }
        let offer = DiskOffer { disk: index, first_chunk, chunk_bytes: CHUNK_BYTES as u32, hashes };
        self.shipper.guardian.handle_disk_offered(self.link.session, &offer);
        self.send(&Message::DiskOffer(offer))?;
        self.flush()?;
        let want = self.wait_for_want(index, first_chunk)?;
        self.gets_on(FillPhase::Disks);
        if image.is_readonly() && want.wanted.contains(&true) {
            return Err(ResyncError::ReadonlyDiffers { disk: index });
        }
        for (offset, _) in want.wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            self.look_around()?;
            self.send_chunk(image, index, first_chunk + offset as u64)?;
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
            self.send_disk(index, offset, data)?;
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
            ToShip::Epoch(sealed, None) if self.collected.is_some() => self.commit_between(sealed),
            // Only a session that is over brings these; they wait until this is left.
            item @ (ToShip::Part(_) | ToShip::GoSolo | ToShip::Resync(_) | ToShip::Epoch(..) | ToShip::Close(_)) => {
                self.shipper.deferred.push_front(item);
                Err(ResyncError::SessionEnded)
            }
        }
    }

    /// The guest is protected locally while its backup is filled: its epochs are committed as before.
    fn commit_between(&mut self, sealed: Box<SealedEpoch>) -> Result<(), ResyncError> {
        let collected = self.collected.as_mut().expect("the caller looked");
        collected.note(&sealed);
        let is_much = collected.write_bytes() > COLLECTED_BYTES_MAX;
        self.shipper.handle_epoch(sealed, None, self.items);
        if is_much { self.send_writes() } else { Ok(()) }
    }
}

/// Both, ascending, each page once.
fn merged(mut pages: Vec<u64>, more: Vec<u64>) -> Vec<u64> {
    if pages.is_empty() {
        return more;
    }
    pages.extend(more);
    pages.sort_unstable();
    pages.dedup();
    pages
}
