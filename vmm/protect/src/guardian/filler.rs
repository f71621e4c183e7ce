//! The pieces of a filling: disks that differ, then memory in rounds. What follows what, and when the base may be sealed,
//! decides [`replication::pipeline::primary`].
//!
//! Every round sends the pages written since the round before. Disk writes meanwhile are collected (see
//! [`snapshot::disk::WriteMode::Mirror`]) and sent in the rounds, the last of them with the base.
//!
//! All of it is bulk: it leaves the guest its share of this host ([`crate::courtesy`]), and a piece is small, so that what else
//! wants to go out does between two of them.
//!
//! A guest that is protected by its state directory has epochs already. They go on, and are committed between two pieces;
//! what they wrote is what the rounds send ([`super::collected`]), and the base is sealed between two of them.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use replication::pipeline::primary::{FillStep, Outcome};
use replication::primary::Left;
use replication::wire::{DiskOffer, DiskWant, Link, Message, ResyncDisk};
use replication::{EpochId, Gfn, PageEncoder, page};
use snapshot::disk::{CHUNK_BYTES, DiskError, Image, OverlayDisk, PENDING_BYTES_MAX};
use snapshot::writeset::WriteSet;

use super::Guardian;
use super::collected::{Collected, all_pages};
use super::outbox::{Outbox, OutboxError};
use crate::courtesy::Courtesy;
use crate::epoch::SealedEpoch;
use crate::log;
use machine::kvm::KvmError;
use machine::memory::PAGE_SIZE;

/// Hashes in one offer. The backup reads as many chunks of its replica before it answers.
const OFFER_CHUNKS_MAX: usize = 8;
/// Pages in one piece of a round.
const PIECE_PAGES: usize = 64;
/// Disk bytes in one frame.
const DISK_FRAME_BYTES: u64 = 256 * 1024;
/// Disk writes that are kept for the next round; beyond that they are sent at once.
const COLLECTED_BYTES_MAX: usize = 8 << 20;

/// Why a backup could not be filled.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error("the connection broke: {0}")]
    Connection(io::Error),
    #[error("the session ended")]
    SessionOver,
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("the backup's copy of disk {disk}, which is read-only, differs; copy it over: it is not replicated")]
    ReadonlyDiffers { disk: u16 },
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
        log::BASE_BYTES_MAX >> 20
    )]
    BaseTooLarge { pending_bytes: usize },
}

impl From<OutboxError> for FillError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::SessionOver => Self::SessionOver,
            OutboxError::Broken(error) => Self::Connection(error),
        }
    }
}

impl From<FillError> for Outcome {
    fn from(error: FillError) -> Self {
        match error {
            FillError::SessionOver => Outcome::SessionOver,
            FillError::Connection(_) => Outcome::Broken,
            error => Outcome::Failed { text: error.to_string() },
        }
    }
}

/// Where the comparison of the disks is.
#[derive(Debug, Default)]
struct Comparison {
    disk: usize,
    /// The first chunk of the offer that is being made, or was.
    first_chunk: u64,
    hashes: Vec<[u8; 16]>,
    /// Chunks of the offer that the backup wants and has not been sent, the next one last.
    wanted: Vec<u64>,
    /// When the offer was begun.
    begun: Option<Instant>,
    /// Bytes of all disks that are not compared.
    left_bytes: u64,
}

/// A round of memory, or what is left of it.
#[derive(Debug, Default)]
struct Round {
    pages: Vec<u64>,
    /// How many of them are done.
    done: usize,
    /// A session begins with zeroed memory over there: the first round needs no zero pages.
    is_first: bool,
}

/// The filling of one session's backup.
pub(super) struct Filler {
    guardian: Arc<Guardian>,
    pub(super) link: Link,
    pub(super) outbox: Outbox,
    courtesy: Courtesy,
    /// When it was begun.
    pub(super) begun: Instant,
    /// Pages that were sent.
    pub(super) pages: u64,
    /// What the epochs write that are sealed meanwhile; none: the guest has no epochs.
    collected: Option<Collected>,
    comparison: Comparison,
    /// Pages, ascending, that were written and not sent: they go in the next round, or with the base.
    left: Vec<u64>,
    /// The first round of memory, once it was begun.
    round: Option<Round>,
}

impl Filler {
    pub(super) fn begin(guardian: &Arc<Guardian>, link: Link, outbox: Outbox, has_epochs: bool) -> Self {
        let left_bytes = guardian.machine.disks().iter().map(|disk| disk.image().len_bytes()).sum();
        Self {
            guardian: Arc::clone(guardian),
            link,
            outbox,
            courtesy: Courtesy::of_this_thread(),
            begun: Instant::now(),
            pages: 0,
            collected: has_epochs.then(Collected::default),
            comparison: Comparison { left_bytes, ..Comparison::default() },
            left: Vec::new(),
            round: None,
        }
    }

    /// An epoch was sealed meanwhile.
    pub(super) fn collect(&mut self, sealed: &SealedEpoch) {
        if let Some(collected) = &mut self.collected {
            collected.note(sealed);
        }
    }

    /// Does a piece.
    pub(super) fn perform(&mut self, step: FillStep, encoder: &mut PageEncoder) -> Result<Outcome, FillError> {
        if self.write_bytes() > COLLECTED_BYTES_MAX {
            self.send_writes()?;
        }
        let outcome = match step {
            FillStep::Compare => self.compare()?,
            FillStep::Offer => self.offer()?,
            FillStep::Chunks { want } => self.send_chunks(want)?,
            FillStep::Harvest => Outcome::Left(self.harvest()?),
            FillStep::Round => self.send_round(encoder)?,
        };
        self.courtesy.rest();
        Ok(outcome)
    }

    /// What goes with the base: pages, ascending, beside those of its epoch, and disk writes of earlier epochs.
    pub(super) fn take_rest(&mut self) -> (Vec<u64>, Vec<WriteSet>) {
        let (later, writes) = match &mut self.collected {
            Some(collected) => (collected.take_pages(), collected.take_writes()),
            None => Default::default(),
        };
        (merged(std::mem::take(&mut self.left), later), writes)
    }

    /// Hashes a chunk. The image is read while it is written to: what a chunk lacks then, or has in part, goes with the base or
    /// before it, because whatever comes to the image from here on is mirrored or collected.
    fn compare(&mut self) -> Result<Outcome, FillError> {
        let machine = self.guardian.machine.clone();
        let Comparison { disk, first_chunk, hashes, begun, .. } = &mut self.comparison;
        let Some(shared) = machine.disks().get(*disk) else { return Ok(Outcome::Done) };
        let chunk_count = shared.image().chunk_count();
        if *first_chunk >= chunk_count {
            (*disk, *first_chunk) = (*disk + 1, 0);
            return Ok(Outcome::More);
        }
        begun.get_or_insert_with(Instant::now);
        let chunk = *first_chunk + hashes.len() as u64;
        hashes.push(shared.image().chunk_hash(chunk)?.to_le_bytes());
        if hashes.len() < OFFER_CHUNKS_MAX && chunk + 1 < chunk_count {
            return Ok(Outcome::More);
        }
        Ok(Outcome::Offer { disk: *disk as u16, first_chunk: *first_chunk, count: hashes.len() })
    }

    fn offer(&mut self) -> Result<Outcome, FillError> {
        let Comparison { disk, first_chunk, ref hashes, .. } = self.comparison;
        let hashes = hashes.clone();
        let offer = DiskOffer { disk: disk as u16, first_chunk, chunk_bytes: CHUNK_BYTES as u32, hashes };
        self.send(&Message::DiskOffer(offer))?;
        self.outbox.flush()?;
        Ok(Outcome::Done)
    }

    /// Sends a chunk that the replica lacks. A disk that the guest cannot write is not replicated, only compared: the backup
    /// refuses if its own differs.
    fn send_chunks(&mut self, want: Option<DiskWant>) -> Result<Outcome, FillError> {
        let machine = self.guardian.machine.clone();
        let image = machine.disks()[self.comparison.disk].image();
        if let Some(want) = want {
            if image.is_readonly() && want.wanted.contains(&true) {
                return Err(FillError::ReadonlyDiffers { disk: want.disk });
            }
            let wanted = want.wanted.iter().enumerate().rev().filter(|(_, wanted)| **wanted);
            self.comparison.wanted = wanted.map(|(offset, _)| want.first_chunk + offset as u64).collect();
        }
        if let Some(chunk) = self.comparison.wanted.pop() {
            self.send_chunk(image, chunk)?;
            return Ok(Outcome::More);
        }
        let Comparison { first_chunk, hashes, begun, left_bytes, .. } = &mut self.comparison;
        let end = *first_chunk + hashes.len() as u64;
        let bytes = (end * CHUNK_BYTES).min(image.len_bytes()) - *first_chunk * CHUNK_BYTES;
        *left_bytes -= bytes;
        (*first_chunk, *hashes) = (end, Vec::new());
        let (took, left) = (begun.take().map_or_else(Default::default, |begun| begun.elapsed()), *left_bytes);
        self.guardian.with_core(|core, _| core.handle_disks_compared(self.link.session, bytes, took, left));
        Ok(Outcome::Done)
    }

    fn send_chunk(&mut self, image: &Image, chunk: u64) -> Result<(), FillError> {
        let start = chunk * CHUNK_BYTES;
        let end = (start + CHUNK_BYTES).min(image.len_bytes());
        let mut offset = start;
        while offset < end {
            let mut data = vec![0; DISK_FRAME_BYTES.min(end - offset) as usize];
            image.read_at(offset, &mut data)?;
            let len = data.len() as u64;
            self.send_disk(self.comparison.disk as u16, offset, data)?;
            offset += len;
        }
        Ok(())
    }

    /// Adds what was written since to what is left.
    fn harvest(&mut self) -> Result<Left, FillError> {
        let machine = self.guardian.machine.clone();
        let later = match &mut self.collected {
            None => machine.epochs().harvest_running(&machine)?,
            Some(collected) => {
                let pages = collected.take_pages();
                if self.round.is_some() { pages } else { all_pages(machine.ram()) }
            }
        };
        self.left = merged(std::mem::take(&mut self.left), later);
        let page_bytes = (self.left.len() * PAGE_SIZE) as u64;
        Ok(Left { page_bytes, write_bytes: self.write_bytes() as u64 })
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
        let disks = self.guardian.machine.disks().iter();
        disks.map(|disk| disk.try_lock().map_or_else(T::default, |mut disk| of(&mut disk))).collect()
    }

    /// What was written to the disks goes over whatever the backup has there; what was written after it comes later.
    fn send_writes(&mut self) -> Result<(), FillError> {
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

    fn send_disk(&mut self, disk: u16, offset: u64, data: Vec<u8>) -> Result<(), FillError> {
        let bytes = data.len() as u64;
        self.guardian.with_core(|core, _| core.handle_fill_sent(self.link.session, bytes, 0));
        self.send(&Message::ResyncDisk(ResyncDisk { disk, offset, data }))
    }

    fn send(&mut self, message: &Message) -> Result<(), FillError> {
        message.encode(&self.link, EpochId(0), &mut self.outbox.buffer);
        Ok(self.outbox.flush_if_full()?)
    }

    fn send_round(&mut self, encoder: &mut PageEncoder) -> Result<Outcome, FillError> {
        let is_begun = self.round.as_ref().is_some_and(|round| round.done < round.pages.len());
        if !is_begun {
            let is_first = self.round.is_none();
            self.round = Some(Round { pages: std::mem::take(&mut self.left), done: 0, is_first });
            self.send_writes()?;
        }
        let round = self.round.as_mut().expect("one was begun");
        let piece = round.done..(round.done + PIECE_PAGES).min(round.pages.len());
        round.done = piece.end;
        let (is_last, is_first) = (round.done == round.pages.len(), round.is_first);
        self.send_pages(piece, is_first, encoder)?;
        if !is_last {
            return Ok(Outcome::More);
        }
        self.flush_pages(encoder)?;
        self.outbox.flush()?;
        Ok(Outcome::Done)
    }

    fn send_pages(
        &mut self,
        piece: Range<usize>,
        skips_zero: bool,
        encoder: &mut PageEncoder,
    ) -> Result<(), FillError> {
        let machine = self.guardian.machine.clone();
        let all = piece.len();
        let mut content = [0; PAGE_SIZE];
        let mut sent = 0;
        for index in piece {
            let gfn = self.round.as_ref().expect("a round was begun").pages[index];
            assert!(machine.ram().read_page(gfn, &mut content), "the dirty log names only pages of RAM");
            if skips_zero && page::is_zero(&content) {
                continue;
            }
            sent += 1;
            self.pages += 1;
            encoder.push(Gfn(gfn), &content, None);
            if encoder.is_full() {
                self.flush_pages(encoder)?;
            }
        }
        let (sent, all) = ((sent * PAGE_SIZE) as u64, (all * PAGE_SIZE) as u64);
        self.guardian.with_core(|core, _| core.handle_fill_sent(self.link.session, sent, all - sent));
        Ok(())
    }

    fn flush_pages(&mut self, encoder: &mut PageEncoder) -> Result<(), FillError> {
        if encoder.is_empty() {
            return Ok(());
        }
        let body = encoder.take_batch(|body, _| body.to_vec());
        self.send(&Message::ResyncPages(body))
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
