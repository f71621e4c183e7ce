//! What a primary says to its backup, in bytes: epochs, and the pieces of a filling.

use replication::page::{PAGE_SIZE, Page, PageEncoder};
use replication::pipeline::primary::{FillStep, Outcome};
use replication::primary::Left;
use replication::wire::{DiskCopy, DiskOffer, DiskWant, EpochBegin, HEADER_LEN, Link, Message, ResyncDisk};
use replication::{EpochId, EpochWriter, Gfn, Linked, SessionId, ShippedState};

use crate::disk::{CHUNK, Disk, SECTOR, SECTORS, SectorWrite};
use crate::env::Env;
use crate::guest::{Guest, PAGES, digest, sector_of};
use crate::machine::{Machine, Sealed};
use crate::plan::{Load, MS};

/// What of one session's filling is done, and what is not.
pub struct Filler {
    session: SessionId,
    has_epochs: bool,
    is_compared: bool,
    /// Chunks that are wanted and not sent.
    wanted: Vec<usize>,
    /// The first harvest was made.
    is_begun: bool,
    /// Pages that are to be sent.
    pub left: u64,
    /// Pages and sectors that epochs wrote which were sealed meanwhile.
    pages: u64,
    sectors: Vec<SectorWrite>,
    /// Bytes that the guest wrote beside its pages and that are not sent.
    load: u64,
}

/// What is said to a backup.
#[derive(Default)]
pub struct Shipping {
    /// What the backup has of each page, once all shipped is applied.
    shipped: Vec<Page>,
    state: ShippedState,
    encoder: PageEncoder,
    /// The filling.
    pub filler: Option<Filler>,
    /// Sectors that go with the base of this session.
    base_sectors: Option<(SessionId, Vec<SectorWrite>)>,
}

impl Filler {
    fn begin(session: SessionId, has_epochs: bool, load: Load) -> Self {
        Filler {
            session,
            has_epochs,
            is_compared: false,
            wanted: Vec::new(),
            is_begun: false,
            left: 0,
            pages: 0,
            sectors: Vec::new(),
            load: load.set,
        }
    }

    fn take_sectors(&mut self, machine: &mut Machine) -> Vec<SectorWrite> {
        std::mem::take(if self.has_epochs { &mut self.sectors } else { &mut machine.mirrored })
    }
}

impl Shipping {
    /// What an epoch wrote is kept for the filling.
    pub fn collect(&mut self, sealed: &Sealed) {
        let filler = self.filler();
        filler.pages |= sealed.pages;
        filler.sectors.extend(&sealed.sectors);
    }

    /// A filling begins.
    pub fn begin(&mut self, link: Link, has_epochs: bool, load: Load) {
        self.filler = Some(Filler::begin(link.session, has_epochs, load));
    }

    /// Does one piece of the filling: its frames, and how it went.
    pub fn fill(&mut self, link: Link, step: FillStep, machine: &mut Machine) -> (Vec<u8>, Outcome) {
        let mut out = Vec::new();
        let outcome = match step {
            FillStep::Compare => self.compare(),
            FillStep::Offer => offer(link, &machine.disk, &mut out),
            FillStep::Chunks { want } => self.chunks(link, want, &machine.disk, &mut out),
            FillStep::Harvest => Outcome::Left(self.harvest(machine)),
            FillStep::Round => self.round(link, machine, &mut out),
        };
        (out, outcome)
    }

    fn filler(&mut self) -> &mut Filler {
        self.filler.as_mut().expect("a filling was begun")
    }

    fn compare(&mut self) -> Outcome {
        let count = SECTORS * SECTOR / CHUNK;
        match std::mem::replace(&mut self.filler().is_compared, true) {
            false => Outcome::Offer { disk: 0, first_chunk: 0, count },
            true => Outcome::Done,
        }
    }

    fn chunks(&mut self, link: Link, want: Option<DiskWant>, disk: &Disk, out: &mut Vec<u8>) -> Outcome {
        let filler = self.filler();
        if let Some(want) = want {
            filler.wanted = (0..want.wanted.len()).rev().filter(|chunk| want.wanted[*chunk]).collect();
        }
        let Some(chunk) = filler.wanted.pop() else { return Outcome::Done };
        let data = disk.files.image.bytes()[chunk * CHUNK..][..CHUNK].to_vec();
        let piece = ResyncDisk { disk: 0, offset: (chunk * CHUNK) as u64, data };
        Message::ResyncDisk(piece).encode(&link, EpochId(0), out);
        Outcome::More
    }

    fn harvest(&mut self, machine: &mut Machine) -> Left {
        let filler = self.filler();
        let written = match filler.has_epochs {
            true => std::mem::take(&mut filler.pages),
            false => machine.guest.take_dirty(),
        };
        let is_first = !std::mem::replace(&mut filler.is_begun, true);
        filler.left |= if is_first { (1 << PAGES) - 1 } else { written };
        let sectors = if filler.has_epochs { filler.sectors.len() } else { machine.mirrored.len() };
        let (page_bytes, load) = (u64::from(filler.left.count_ones()) * PAGE_SIZE as u64, filler.load);
        if is_first {
            self.shipped = machine.guest.memory().to_vec();
        }
        Left { page_bytes: page_bytes + load, write_bytes: (sectors * SECTOR) as u64 }
    }

    /// How many bytes a round sends.
    pub fn bytes_of_round(&self) -> u64 {
        let left = |filler: &Filler| u64::from(filler.left.count_ones()) * PAGE_SIZE as u64 + filler.load;
        self.filler.as_ref().map_or(0, left)
    }

    /// What the guest, which gets `share` percent of its time, wrote beside its pages while a round went out.
    pub fn write_beside(&mut self, plan: Load, share: u8, took: u64) {
        if let Some(filler) = &mut self.filler {
            filler.load = plan.set.min(plan.speed * u64::from(share) / 100 * took / MS);
        }
    }

    fn round(&mut self, link: Link, machine: &mut Machine, out: &mut Vec<u8>) -> Outcome {
        let filler = self.filler();
        for (sector, data) in filler.take_sectors(machine) {
            let piece = ResyncDisk { disk: 0, offset: (sector * SECTOR) as u64, data: data.to_vec() };
            Message::ResyncDisk(piece).encode(&link, EpochId(0), out);
        }
        let pages = std::mem::take(&mut self.filler().left);
        for page in (0..PAGES).filter(|page| pages >> page & 1 == 1) {
            self.shipped[page] = machine.guest.memory()[page];
            self.encoder.push(Gfn(page as u64), &self.shipped[page], None);
        }
        if pages != 0 {
            let pages = self.encoder.take_batch(|body, _| Message::ResyncPages(body.to_vec()));
            pages.encode(&link, EpochId(0), out);
        }
        Outcome::Done
    }

    /// The pages that go with the base beside those of its epoch; sectors that were collected go with it too.
    pub fn take_rest(&mut self, machine: &mut Machine) -> u64 {
        let Some(mut filler) = self.filler.take() else { return 0 };
        self.base_sectors = Some((filler.session, filler.take_sectors(machine)));
        filler.left | filler.pages
    }

    /// An epoch as frames, in two halves: between them others may go out.
    pub fn epoch(
        &mut self,
        link: Link,
        (sealed, is_base, linked): (&Sealed, bool, Linked),
        left: EpochId,
        env: &mut Env,
    ) -> [Vec<u8>; 2] {
        let Sealed { epoch, base: _, guest, pages, sectors, inputs, outputs } = sealed;
        let mut out = Vec::new();
        let begin = EpochBegin { base: is_base.then_some(linked.before), released: left };
        let mut writer = EpochWriter::begin(link, *epoch, begin, &mut out);
        writer.inputs(inputs, &mut out);
        for page in (0..PAGES).filter(|page| pages >> page & 1 == 1) {
            self.encoder.push(Gfn(page as u64), &guest.memory()[page], self.shipped.get(page));
            if let Some(shipped) = self.shipped.get_mut(page) {
                *shipped = guest.memory()[page];
            }
        }
        self.encoder.take_batch(|body, pages| writer.pages(body, pages, &mut out));
        writer.state_after(&mut self.state, |_| guest.save(), &mut out);
        let earlier = self.base_sectors.take().filter(|(session, _)| is_base && *session == link.session);
        for (sector, data) in earlier.map_or_else(Vec::new, |(_, sectors)| sectors) {
            writer.disk_write(0, (sector * SECTOR) as u64, &data, &mut out);
        }
        let copies = disk_writes(guest, sectors, &mut writer, &mut out, env);
        writer.disk_copies(&copies, &mut out);
        writer.outputs(outputs, &mut out);
        writer.end(linked.mark.chain, &mut out);
        let second = out.split_off(half_of(&out));
        [out, second]
    }
}

fn offer(link: Link, disk: &Disk, out: &mut Vec<u8>) -> Outcome {
    let hashes = disk.files.image.bytes().chunks(CHUNK).map(chunk_hash).collect();
    let offer = DiskOffer { disk: 0, first_chunk: 0, chunk_bytes: CHUNK as u32, hashes };
    Message::DiskOffer(offer).encode(&link, EpochId(0), out);
    Outcome::Done
}

/// Most of what the guest has in its memory too goes as copies, which lie over all writes of the epoch: of a sector that is
/// written more than once only the last write can be one.
fn disk_writes(
    guest: &Guest,
    sectors: &[SectorWrite],
    writer: &mut EpochWriter,
    out: &mut Vec<u8>,
    env: &mut Env,
) -> Vec<DiskCopy> {
    let mut copies = Vec::new();
    for (sector, data) in sectors {
        match sector_of(guest.sector_chain(*sector)) == *data && env.rng.percent(70) {
            true => copies.extend(copies_of(*sector)),
            false => writer.disk_write(0, (sector * SECTOR) as u64, data, out),
        }
    }
    // What an epoch long ago put there may be said again.
    copies.extend(copies_of(env.rng.u64() as usize % SECTORS));
    copies
}

/// The end of a frame at about the middle of some.
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
