//! Pages on the wire: zero, raw, compressed, or the difference to what the other side has.
//!
//! A batch is validated whole when it arrives, with the same walk that later applies it; so applying cannot fail, whatever
//! a peer sends. Decoding at apply time, not at arrival, keeps what waits here as small as it came.
//!
//! ```text
//! batch:  [entry]*      entry:  gfn u64 | encoding u8 | length u16 | bytes
//! delta:  [run]*        run:    offset u16 | length u16 | bytes          ascending, inside the page
//! ```

use thiserror::Error;

use crate::id::Gfn;
use crate::wire::{BODY_MAX, BODY_SOFT_MAX, BodyReader, MachineInfo};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// The content of a page.
pub type Page = [u8; PAGE_SIZE];

const ENTRY_HEADER: usize = 8 + 1 + 2;
/// A difference longer than this is worth less than compression.
const DELTA_MAX: usize = 1024;
/// Of the 512 words of a page: if more differ, their difference is not worth a look. One that is shorter than [`DELTA_MAX`] all the same has
/// single bytes that differ, far apart, and a header for each.
const DELTA_WORDS_MAX: usize = 256;
/// After as many pages in a row that did not become shorter, only every such page is tried: what is encrypted, compressed or
/// random mostly comes in large pieces.
const DENSE_MAX: u32 = 8;
/// Equal bytes inside a difference that are cheaper to send than a new run.
const RUN_GAP_MIN: usize = 8;
/// A batch must have room for one page in its worst encoding.
const BATCH_FULL: usize = BODY_SOFT_MAX - ENTRY_HEADER - PAGE_SIZE;
const _: () = assert!(BODY_SOFT_MAX <= BODY_MAX);

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// All zero; no bytes.
    Zero = 0,
    /// As it is; 4096 bytes.
    Raw = 1,
    /// LZ4 block, shorter than a page.
    Lz4 = 2,
    /// Runs of bytes that differ from the page the receiver has.
    Delta = 3,
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// The batch ends inside an entry.
    #[error("the batch is cut off inside an entry")]
    CutOff,
    /// Not guest memory.
    #[error("page {0:#x} is not guest memory")]
    NotMemory(u64),
    /// No such encoding, or none that is allowed here.
    #[error("encoding {0} is not allowed here")]
    Encoding(u8),
    /// The bytes do not make a page.
    #[error("page {gfn:#x}: its {encoding:?} bytes do not make a page")]
    Content {
        /// The page.
        gfn: u64,
        /// How it is written.
        encoding: Encoding,
    },
}

/// What an encoder did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounters {
    /// Pages that were zero.
    pub zero: u64,
    /// Pages sent as they are.
    pub raw: u64,
    /// Pages compressed.
    pub lz4: u64,
    /// Pages sent as a difference.
    pub delta: u64,
    /// Bytes of all batches.
    pub bytes: u64,
}

impl PageCounters {
    /// Pages in all encodings.
    pub fn pages(&self) -> u64 {
        self.zero + self.raw + self.lz4 + self.delta
    }
}

/// Writes pages into batches of at most [`BODY_SOFT_MAX`] bytes. Reuse it: it keeps its buffers.
#[derive(Debug)]
pub struct PageEncoder {
    batch: Vec<u8>,
    batch_pages: u64,
    scratch: Vec<u8>,
    /// Pages in a row that compression did not make shorter, tried or not.
    dense: u32,
    counters: PageCounters,
}

impl Default for PageEncoder {
    fn default() -> Self {
        PageEncoder::new()
    }
}

impl PageEncoder {
    /// An encoder with an empty batch.
    pub fn new() -> Self {
        PageEncoder {
            batch: Vec::with_capacity(BODY_SOFT_MAX),
            batch_pages: 0,
            scratch: vec![0; lz4_flex::block::get_maximum_output_size(PAGE_SIZE)],
            dense: 0,
            counters: PageCounters::default(),
        }
    }

    /// Appends a page. `old` is exactly what the receiver will have at that place before this batch, or `None`.
    ///
    /// # Panics
    /// If the batch is full: the caller did not take it.
    pub fn push(&mut self, gfn: Gfn, page: &Page, old: Option<&Page>) {
        assert!(!self.is_full(), "a full batch was not taken before the next page");
        let (encoding, len) = self.encode(page, old);
        let before = self.batch.len();
        self.batch.extend_from_slice(&gfn.0.to_le_bytes());
        self.batch.push(encoding as u8);
        self.batch.extend_from_slice(&(len as u16).to_le_bytes());
        match encoding {
            Encoding::Raw => self.batch.extend_from_slice(page),
            _ => self.batch.extend_from_slice(&self.scratch[..len]),
        }
        self.counters.bytes += (self.batch.len() - before) as u64;
        self.batch_pages += 1;
    }

    /// The batch must be taken before the next page.
    pub fn is_full(&self) -> bool {
        self.batch.len() > BATCH_FULL
    }

    /// The batch is empty.
    pub fn is_empty(&self) -> bool {
        self.batch_pages == 0
    }

    /// Gives the batch and how many pages it has to `ship`, then begins another one.
    pub fn take_batch<R>(&mut self, ship: impl FnOnce(&[u8], u64) -> R) -> R {
        let result = ship(&self.batch, self.batch_pages);
        self.batch.clear();
        self.batch_pages = 0;
        result
    }

    /// What was done so far.
    pub fn counters(&self) -> PageCounters {
        self.counters
    }

    /// Chooses the encoding; the bytes are in `scratch`, but for `Raw`.
    fn encode(&mut self, page: &Page, old: Option<&Page>) -> (Encoding, usize) {
        if is_zero(page) {
            self.counters.zero += 1;
            return (Encoding::Zero, 0);
        }
        if let Some(len) = old.and_then(|old| encode_delta(page, old, &mut self.scratch)) {
            self.counters.delta += 1;
            return (Encoding::Delta, len);
        }
        if let Some(len) = self.compress(page) {
            self.counters.lz4 += 1;
            return (Encoding::Lz4, len);
        }
        self.counters.raw += 1;
        (Encoding::Raw, PAGE_SIZE)
    }

    fn compress(&mut self, page: &Page) -> Option<usize> {
        let is_tried = self.dense < DENSE_MAX || self.dense.is_multiple_of(DENSE_MAX);
        let len = is_tried.then(|| lz4_flex::block::compress_into(page, &mut self.scratch));
        let len = len.and_then(Result::ok).filter(|len| *len < PAGE_SIZE);
        self.dense = if len.is_some() { 0 } else { self.dense.wrapping_add(1) };
        len
    }
}

/// Whether every byte of the page is zero.
pub fn is_zero(page: &Page) -> bool {
    page.as_chunks::<64>().0.iter().all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

/// Writes the runs that differ; `None` if they are longer than [`DELTA_MAX`].
fn encode_delta(page: &Page, old: &Page, out: &mut [u8]) -> Option<usize> {
    let words = page.as_chunks::<8>().0.iter().zip(old.as_chunks::<8>().0);
    if words.filter(|(new, old)| u64::from_ne_bytes(**new) != u64::from_ne_bytes(**old)).count() > DELTA_WORDS_MAX {
        return None;
    }
    let mut len = 0;
    let mut at = next_difference(page, old, 0);
    while at < PAGE_SIZE {
        let end = end_of_run(page, old, at);
        let run = end - at;
        if len + 4 + run > DELTA_MAX {
            return None;
        }
        out[len..len + 2].copy_from_slice(&(at as u16).to_le_bytes());
        out[len + 2..len + 4].copy_from_slice(&(run as u16).to_le_bytes());
        out[len + 4..len + 4 + run].copy_from_slice(&page[at..end]);
        len += 4 + run;
        at = next_difference(page, old, end);
    }
    Some(len)
}

/// Whether the 64 bytes at `at`, a multiple of 64, are the same.
fn is_same_line(page: &Page, old: &Page, at: usize) -> bool {
    let line = |page: &Page| page.as_chunks::<64>().0[at / 64];
    let (new, old) = (line(page), line(old));
    let differences = new.as_chunks::<8>().0.iter().zip(old.as_chunks::<8>().0);
    differences.fold(0, |any, (new, old)| any | (u64::from_ne_bytes(*new) ^ u64::from_ne_bytes(*old))) == 0
}

fn next_difference(page: &Page, old: &Page, mut at: usize) -> usize {
    while at.is_multiple_of(64) && at < PAGE_SIZE && is_same_line(page, old, at) {
        at += 64;
    }
    while at.is_multiple_of(8) && at < PAGE_SIZE && page[at..at + 8] == old[at..at + 8] {
        at += 8;
    }
    while at < PAGE_SIZE && page[at] == old[at] {
        at += 1;
        if at.is_multiple_of(8) {
            return next_difference(page, old, at);
        }
    }
    at
}

/// The end of the run that begins at `start`: before the first gap of equal bytes that pays for a new run, or where the
/// difference is too long anyhow.
fn end_of_run(page: &Page, old: &Page, start: usize) -> usize {
    let mut end = start + 1;
    let mut at = end;
    while at < PAGE_SIZE && at - end < RUN_GAP_MIN && at - start <= DELTA_MAX {
        if page[at] != old[at] {
            end = at + 1;
        }
        at += 1;
    }
    end
}

/// A batch of pages that was validated: every page is guest memory and every encoding makes a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBatch {
    bytes: Vec<u8>,
    pages: u64,
}

/// One page of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef<'a> {
    /// Which page.
    pub gfn: Gfn,
    /// How it is written.
    pub encoding: Encoding,
    bytes: &'a [u8],
}

impl PageBatch {
    /// Checks a batch. `delta`: differences are allowed, since the receiver has the page they are against.
    pub fn validate(bytes: Vec<u8>, machine: &MachineInfo, delta: bool) -> Result<PageBatch, PageError> {
        let mut reader = BodyReader::new(&bytes);
        let mut scratch = [0; PAGE_SIZE];
        let mut pages = 0;
        while reader.left() > 0 {
            let page = PageRef::read(&mut reader)?;
            page.check(machine, delta, &mut scratch)?;
            pages += 1;
        }
        Ok(PageBatch { bytes, pages })
    }

    /// The pages, in the order they must be applied.
    pub fn pages(&self) -> impl Iterator<Item = PageRef<'_>> {
        let mut reader = BodyReader::new(&self.bytes);
        std::iter::from_fn(move || {
            (reader.left() > 0).then(|| PageRef::read(&mut reader).expect("validate has walked this batch"))
        })
    }

    /// How many pages.
    pub fn page_count(&self) -> u64 {
        self.pages
    }

    /// Bytes it occupies.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> PageRef<'a> {
    fn read(reader: &mut BodyReader<'a>) -> Result<PageRef<'a>, PageError> {
        let mut fields = || {
            let (gfn, encoding, len) = (reader.u64("gfn")?, reader.u8("encoding")?, reader.u16("length")?);
            Ok((gfn, encoding, reader.take(usize::from(len), "page")?))
        };
        let (gfn, encoding, bytes) = fields().map_err(|_: crate::wire::BodyError| PageError::CutOff)?;
        let encoding = match encoding {
            0 => Encoding::Zero,
            1 => Encoding::Raw,
            2 => Encoding::Lz4,
            3 => Encoding::Delta,
            other => return Err(PageError::Encoding(other)),
        };
        Ok(PageRef { gfn: Gfn(gfn), encoding, bytes })
    }

    fn check(&self, machine: &MachineInfo, delta: bool, scratch: &mut Page) -> Result<(), PageError> {
        if !machine.has_page(self.gfn) {
            return Err(PageError::NotMemory(self.gfn.0));
        }
        if self.encoding == Encoding::Delta && !delta {
            return Err(PageError::Encoding(Encoding::Delta as u8));
        }
        let makes_a_page = match self.encoding {
            Encoding::Raw => self.bytes.len() == PAGE_SIZE,
            Encoding::Zero => self.bytes.is_empty(),
            Encoding::Lz4 | Encoding::Delta => self.decode(scratch).is_some(),
        };
        makes_a_page.then_some(()).ok_or(PageError::Content { gfn: self.gfn.0, encoding: self.encoding })
    }

    /// Makes the new page out of the one that is there. Cannot fail: the batch was validated.
    pub fn apply_to(&self, page: &mut Page) {
        self.decode(page).expect("validate has decoded these bytes");
    }

    fn decode(&self, page: &mut Page) -> Option<()> {
        match self.encoding {
            Encoding::Zero => self.bytes.is_empty().then(|| page.fill(0)),
            Encoding::Raw => self.bytes.try_into().ok().map(|bytes: &Page| *page = *bytes),
            Encoding::Lz4 => {
                let len = lz4_flex::block::decompress_into(self.bytes, page).ok()?;
                (len == PAGE_SIZE).then_some(())
            }
            Encoding::Delta => decode_delta(self.bytes, page),
        }
    }
}

fn decode_delta(mut runs: &[u8], page: &mut Page) -> Option<()> {
    let mut end = 0;
    while !runs.is_empty() {
        let (header, rest) = runs.split_first_chunk::<4>()?;
        let at = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let len = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let (run, rest) = rest.split_at_checked(len)?;
        if at < end || len == 0 || at + len > PAGE_SIZE {
            return None;
        }
        page[at..at + len].copy_from_slice(run);
        end = at + len;
        runs = rest;
    }
    Some(())
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
