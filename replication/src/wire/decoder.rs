//! Cuts a stream of bytes, arriving in any pieces, into frames.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64;

use super::{Body, Frame, HEADER_LEN, Header, WireError};
use crate::id::VmId;

/// Takes bytes in arbitrary pieces and gives whole, checked frames.
///
/// Holds at most one unfinished frame ([`super::BODY_MAX`] and a header) and the finished ones of the bytes just given:
/// poll until empty after each `handle_bytes`. The first error ends it: what came before the error is still given, then
/// the error, for ever.
#[derive(Debug)]
pub struct FrameDecoder {
    vm: VmId,
    header: Vec<u8>,
    body: Option<PartialBody>,
    frames: VecDeque<Frame>,
    error: Option<WireError>,
}

struct PartialBody {
    header: Header,
    bytes: Body,
}

impl std::fmt::Debug for PartialBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} of {} bytes", self.header.kind, self.bytes.len(), self.header.body_len)
    }
}

impl FrameDecoder {
    /// A decoder for frames of `vm`, at the start of a stream.
    pub fn new(vm: VmId) -> Self {
        FrameDecoder { vm, header: Vec::with_capacity(HEADER_LEN), body: None, frames: VecDeque::new(), error: None }
    }

    /// Takes the next bytes of the stream.
    pub fn handle_bytes(&mut self, mut bytes: &[u8]) {
        while self.error.is_none() && !bytes.is_empty() {
            let taken = match &mut self.body {
                None => {
                    let part = part(HEADER_LEN - self.header.len(), bytes);
                    self.header.extend_from_slice(part);
                    part.len()
                }
                Some(partial) => {
                    let part = part(partial.header.body_len - partial.bytes.len(), bytes);
                    partial.bytes.extend_from_slice(part);
                    part.len()
                }
            };
            bytes = &bytes[taken..];
            if let Err(error) = self.advance() {
                self.error = Some(error);
            }
        }
    }

    /// The next whole frame, or nothing yet, or what is wrong with the stream.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(frame) = self.frames.pop_front() {
            return Ok(Some(frame));
        }
        self.error.clone().map_or(Ok(None), Err)
    }

    /// Whether the stream stopped inside a frame; what a clean end never does.
    pub fn is_inside_frame(&self) -> bool {
        self.body.is_some() || !self.header.is_empty()
    }

    fn advance(&mut self) -> Result<(), WireError> {
        // A stranger is told apart by its first bytes; it may never send as many as a header has.
        if self.body.is_none() && self.header.len() < HEADER_LEN {
            return check_start(&self.header);
        }
        if self.body.is_none() {
            let header =
                Header::decode(self.header.as_slice().try_into().expect("HEADER_LEN bytes are here"), self.vm)?;
            let bytes = Body::with_room(header.body_len);
            self.header.clear();
            self.body = Some(PartialBody { header, bytes });
        }
        if self.body.as_ref().is_some_and(|partial| partial.bytes.len() == partial.header.body_len) {
            let partial = self.body.take().expect("seen one line above");
            self.frames.push_back(partial.finish()?);
        }
        Ok(())
    }
}

impl PartialBody {
    fn finish(self) -> Result<Frame, WireError> {
        let PartialBody { header: Header { kind, link, epoch, body_checksum, .. }, bytes: body } = self;
        if xxh3_64(&body) != body_checksum {
            return Err(WireError::Checksum { part: "body" });
        }
        Ok(Frame { kind, link, epoch, body, body_checksum })
    }
}

fn check_start(start: &[u8]) -> Result<(), WireError> {
    match start.first_chunk::<4>() {
        Some(&found) if found != super::MAGIC => Err(WireError::BadMagic { found }),
        _ => Ok(()),
    }
}

/// The first `missing` of `bytes`, or all.
fn part(missing: usize, bytes: &[u8]) -> &[u8] {
    &bytes[..missing.min(bytes.len())]
}
