//! Shipping: an epoch written as frames, in the one order the backup accepts.
//!
//! ```text
//! EpochBegin  EventLog*  ( Pages | State | StateDelta | DiskWrites | DiskCopies | Outputs )*  EpochEnd
//! ```
//!
//! The writer cuts what is long into frames, keeps the counts and the checksum over all frames, and ends with them.
//! It appends to buffers that the caller sends; other frames of the session may go between them, other epochs may not.

use std::borrow::Borrow;

use xxhash_rust::xxh3::Xxh3;

use crate::id::EpochId;
use crate::lineage::ChainHash;
use crate::output::{Input, Output};
use crate::state::ShippedState;
use crate::wire::{
    BODY_SOFT_MAX, BodyWriter, DiskCopy, EpochBegin, EpochEnd, Kind, Link, Message, StateDelta, encode_frame,
    encode_inputs, encode_outputs, write_frame,
};

/// The running checksum over the frames of one epoch. Both sides keep one.
#[derive(Clone)]
pub(crate) struct EpochDigest(Xxh3);

impl EpochDigest {
    pub(crate) fn new(epoch: EpochId) -> Self {
        EpochDigest(Xxh3::with_seed(epoch.0))
    }

    pub(crate) fn add(&mut self, kind: Kind, body_checksum: u64) {
        self.0.update(&(kind as u16).to_le_bytes());
        self.0.update(&body_checksum.to_le_bytes());
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.digest()
    }
}

impl std::fmt::Debug for EpochDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.value())
    }
}

/// Writes one epoch as frames.
#[derive(Debug)]
pub struct EpochWriter {
    link: Link,
    epoch: EpochId,
    end: EpochEnd,
    digest: EpochDigest,
    frames: u64,
    has_copies: bool,
}

impl EpochWriter {
    /// Begins `epoch` on the wire. May be done as soon as the epoch runs, to log its inputs before they are consumed.
    pub fn begin(link: Link, epoch: EpochId, begin: EpochBegin, out: &mut Vec<u8>) -> Self {
        let mut writer = EpochWriter {
            link,
            epoch,
            end: EpochEnd::default(),
            digest: EpochDigest::new(epoch),
            frames: 1,
            has_copies: false,
        };
        let checksum = Message::EpochBegin(begin).encode(&link, epoch, out);
        writer.digest.add(Kind::EpochBegin, checksum);
        writer
    }

    /// Logs inputs that the epoch consumes. Before anything else of the epoch, and in the order of consumption.
    pub fn inputs(&mut self, inputs: &[Input], out: &mut Vec<u8>) {
        for part in split(inputs, |input| input.bytes.len() + 6) {
            self.write_frame(Kind::EventLog, out, |body| encode_inputs(part, body));
            self.end.inputs += part.len() as u64;
        }
    }

    /// Appends a batch that a [`crate::PageEncoder`] made: `encoder.take_batch(|body, pages| writer.pages(body, pages, out))`.
    pub fn pages(&mut self, body: &[u8], pages: u64, out: &mut Vec<u8>) {
        if pages > 0 {
            self.frame(Kind::Pages, body, out);
            self.end.pages += pages;
        }
    }

    /// Appends the state of the machine at the epoch's end; the backup joins the parts.
    pub fn state(&mut self, state: &[u8], out: &mut Vec<u8>) {
        for part in state.chunks(BODY_SOFT_MAX) {
            self.frame(Kind::State, part, out);
            self.end.state_bytes += part.len() as u64;
        }
    }

    /// The same, as what it differs in from the state that `shipped` has of the epoch before in this session, where that is
    /// less. Every epoch of a session is written so, or none. `state` gets memory that it may use, of any content.
    pub fn state_after(
        &mut self,
        shipped: &mut ShippedState,
        state: impl FnOnce(Vec<u8>) -> Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        match shipped.replace(self.link.session, state).filter(|difference| difference.is_less()) {
            Some(difference) => {
                self.end.state_bytes += difference.len() as u64;
                self.write_frame(Kind::StateDelta, out, |body| StateDelta::encode_difference(difference, body));
            }
            None => self.state(shipped.state(), out),
        }
    }

    /// Appends one write to a disk, cut if it is long. Order matters.
    ///
    /// # Panics
    /// Behind [`Self::disk_copies`]: the copies would lie over it.
    pub fn disk_write(&mut self, disk: u16, offset: u64, data: &[u8], out: &mut Vec<u8>) {
        assert!(!self.has_copies, "a disk write behind the epoch's copies");
        let mut offset = offset;
        for part in data.chunks(BODY_SOFT_MAX) {
            self.write_frame(Kind::DiskWrites, out, |body| {
                body.count(1).u16(disk).u64(offset).bytes(part);
            });
            self.end.disk_writes += 1;
            offset += part.len() as u64;
        }
    }

    /// Appends writes to disks whose bytes the backup has: each is what the page is at the end of this epoch, for a receiver that
    /// has applied all of it. They lie over what [`Self::disk_write`] was given.
    pub fn disk_copies(&mut self, copies: &[DiskCopy], out: &mut Vec<u8>) {
        self.has_copies |= !copies.is_empty();
        for part in copies.chunks(BODY_SOFT_MAX / DiskCopy::WIRE_LEN) {
            self.write_frame(Kind::DiskCopies, out, |body| {
                body.count(part.len());
                part.iter().for_each(|copy| copy.encode(body));
            });
            self.end.disk_writes += part.len() as u64;
        }
    }

    /// Appends what the epoch sent to the world, in production order.
    pub fn outputs(&mut self, outputs: &[impl Borrow<Output>], out: &mut Vec<u8>) {
        for part in split(outputs, |output| output.borrow().bytes.len() + 7) {
            self.write_frame(Kind::Outputs, out, |body| encode_outputs(part, body));
            self.end.outputs += part.len() as u64;
        }
    }

    /// Ends the epoch, whose chain hash is `chain`; gives how many frames it is.
    pub fn end(self, chain: ChainHash, out: &mut Vec<u8>) -> u64 {
        let end = EpochEnd { checksum: self.digest.value(), chain, ..self.end };
        Message::EpochEnd(end).encode(&self.link, self.epoch, out);
        self.frames + 1
    }

    fn frame(&mut self, kind: Kind, body: &[u8], out: &mut Vec<u8>) {
        let checksum = encode_frame(&self.link, kind, self.epoch, body, out);
        self.digest.add(kind, checksum);
        self.frames += 1;
    }

    fn write_frame(&mut self, kind: Kind, out: &mut Vec<u8>, write: impl FnOnce(&mut BodyWriter)) {
        let checksum = write_frame(&self.link, kind, self.epoch, out, write);
        self.digest.add(kind, checksum);
        self.frames += 1;
    }
}

/// Cuts items into parts of about [`BODY_SOFT_MAX`] bytes, each of at least one item.
fn split<T>(items: &[T], size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut fits = |item: &T| {
            bytes += size(item);
            bytes <= BODY_SOFT_MAX
        };
        let count = rest.iter().map_while(|item| fits(item).then_some(())).count().max(1);
        let (part, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(part)
    })
}
