//! The bytes between a primary and a backup: a fixed header, then a body. `docs/PROTOCOL.md` has the tables.
//!
//! A frame is limited before anything is allocated for it, checked before anything is made of it, and decoded before
//! anything is believed. What does not pass is an error of the peer, a value, never a panic; a decoder that met one
//! error is finished, since after it no byte has a known meaning.

mod body;
mod decoder;
mod exchange;
mod message;

pub use crate::state::StateDelta;
pub use body::{Body, BodyError, BodyReader, BodyWriter, TEXT_MAX};
pub use decoder::FrameDecoder;
pub use exchange::{Forswear, Forsworn};
pub use message::{
    Ack, DiskCopy, DiskInfo, DiskOffer, DiskWant, DiskWrite, EpochBegin, EpochEnd, Goodbye, GoodbyeReason, Handover,
    Heartbeat, Hello, HelloAck, MachineInfo, Message, RamRange, Refuse, RefuseCode, ResyncDisk, encode_inputs,
    encode_outputs,
};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::id::{EpochId, EpochTooLarge, SessionId, Term, VmId};

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"OUTL";

/// The protocol that this crate speaks. Any change of a byte's meaning counts it up.
pub const PROTOCOL_VERSION: u16 = 8;

/// Bytes of a header.
pub const HEADER_LEN: usize = 72;

/// The largest body.
pub const BODY_MAX: usize = 4 << 20;

/// How large a sender lets a body grow before it begins another frame.
pub const BODY_SOFT_MAX: usize = 256 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Primary to backup, first frame: who we are, what the machine is.
    Hello = 1,
    /// Backup to primary: come in.
    HelloAck = 2,
    /// Either side: no, and why.
    Refuse = 3,
    /// Pages outside an epoch, before the base.
    ResyncPages = 4,
    /// A piece of a disk outside an epoch, before the base.
    ResyncDisk = 5,
    /// Hashes of chunks of a disk, so that equal ones need not be sent.
    DiskOffer = 6,
    /// The answer: which of the offered chunks are needed.
    DiskWant = 7,
    /// An epoch's frames follow.
    EpochBegin = 8,
    /// Inputs that the epoch consumes, in order.
    EventLog = 9,
    /// Pages the epoch changed.
    Pages = 10,
    /// State of processors, chips and devices at the epoch's end.
    State = 11,
    /// Disk writes of the epoch.
    DiskWrites = 12,
    /// Output of the epoch, held on both sides.
    Outputs = 13,
    /// The epoch is whole; what it must add up to.
    EpochEnd = 14,
    /// Backup to primary: all up to here is complete.
    Ack = 15,
    /// Either side: alive, and the pointers.
    Heartbeat = 16,
    /// A clean end. The backup must not take over.
    Goodbye = 17,
    /// What the state at the epoch's end differs in from the one before.
    StateDelta = 18,
    /// Disk writes of the epoch whose bytes are in pages that the backup has.
    DiskCopies = 19,
    /// Primary to backup: the register is to be continued at another witness; forswear it.
    Forswear = 20,
    /// The answer.
    Forsworn = 21,
    /// Primary to backup: the guest stands still, and all of it is with you. Continue it, if the register lets you.
    Handover = 22,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 22] = [
        Kind::Hello,
        Kind::HelloAck,
        Kind::Refuse,
        Kind::ResyncPages,
        Kind::ResyncDisk,
        Kind::DiskOffer,
        Kind::DiskWant,
        Kind::EpochBegin,
        Kind::EventLog,
        Kind::Pages,
        Kind::State,
        Kind::DiskWrites,
        Kind::Outputs,
        Kind::EpochEnd,
        Kind::Ack,
        Kind::Heartbeat,
        Kind::Goodbye,
        Kind::StateDelta,
        Kind::DiskCopies,
        Kind::Forswear,
        Kind::Forsworn,
        Kind::Handover,
    ];

    /// What a frame of our own is, from its header.
    pub fn of_frame(frame: &[u8]) -> Option<Kind> {
        Kind::from_number(u16::from_le_bytes(frame.get(6..)?.first_chunk().copied()?))
    }

    fn from_number(number: u16) -> Option<Kind> {
        Kind::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// What all frames of a pairing have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which VM.
    pub vm: VmId,
    /// Which pairing.
    pub session: SessionId,
    /// The primary's term.
    pub term: Term,
}

/// A frame whose header and checksums are good. The body is still untrusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Who says so.
    pub link: Link,
    /// The epoch it belongs to; zero where none does.
    pub epoch: EpochId,
    /// The body.
    pub body: Body,
    /// The checksum of the body, as checked.
    pub body_checksum: u64,
}

/// What a peer speaks whose first bytes are `found`.
fn foreign(found: [u8; 4]) -> String {
    match found {
        // A record of TLS: its type, and the version that all of them name.
        [20..=23, 3, ..] => "the peer speaks TLS, and this side clear text: give both --tls-dir, or neither".into(),
        _ => format!("the peer does not speak Outlast (its first bytes are {found:02x?}); check the address and port"),
    }
}

/// What is wrong with the bytes of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not our protocol at all.
    #[error("{}", foreign(*.found))]
    BadMagic {
        /// What came instead.
        found: [u8; 4],
    },
    /// Our protocol, another version.
    #[error("the peer speaks protocol version {theirs}, this binary speaks {ours}; run the same release on both hosts")]
    VersionMismatch {
        /// The version of this binary.
        ours: u16,
        /// The version of the peer.
        theirs: u16,
    },
    /// Another VM's peer.
    #[error("the peer replicates VM {theirs}, this side is VM {ours}; check --name and the address on both hosts")]
    WrongVm {
        /// The id of our VM.
        ours: VmId,
        /// The id in the frame.
        theirs: VmId,
    },
    /// Bytes changed on the way.
    #[error("the checksum of a frame's {part} does not match; the network or a host alters bytes")]
    Checksum {
        /// "header" or "body".
        part: &'static str,
    },
    /// A body above the limit.
    #[error("the peer announces a frame of {len} bytes; the limit is {max}")]
    TooLong {
        /// The length it announced.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A kind that this version does not have.
    #[error("the peer sends a frame of unknown kind {kind}")]
    UnknownKind {
        /// Its number.
        kind: u16,
    },
    /// Flags are reserved in this version.
    #[error("the peer sets reserved header flags {flags:#x}")]
    ReservedFlags {
        /// What was set.
        flags: u32,
    },
    /// An epoch number that leaves no room for takeovers.
    #[error("the peer names epoch {epoch}, which is beyond the largest that can be")]
    EpochTooLarge {
        /// The number.
        epoch: u64,
    },
}

/// Appends one frame to `out`.
///
/// # Panics
/// If the body is longer than [`BODY_MAX`]: the sender must split.
pub fn encode_frame(link: &Link, kind: Kind, epoch: EpochId, body: &[u8], out: &mut Vec<u8>) -> u64 {
    assert!(body.len() <= BODY_MAX, "a {kind:?} body of {} bytes was not split", body.len());
    let body_checksum = xxh3_64(body);
    let header = encode_header(link, kind, epoch, body.len(), body_checksum);
    out.reserve(HEADER_LEN + body.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
    body_checksum
}

/// Appends one frame whose body `write` appends; gives the checksum of that. Nothing is copied, unlike [`encode_frame`].
///
/// # Panics
/// If the body is longer than [`BODY_MAX`]: the sender must split.
pub fn write_frame(
    link: &Link,
    kind: Kind,
    epoch: EpochId,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut BodyWriter),
) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    let mut body = BodyWriter::behind(std::mem::take(out));
    write(&mut body);
    *out = body.finish();
    let (header, body) = out[start..].split_first_chunk_mut::<HEADER_LEN>().expect("its room was appended above");
    assert!(body.len() <= BODY_MAX, "a {kind:?} body of {} bytes was not split", body.len());
    let body_checksum = xxh3_64(body);
    *header = encode_header(link, kind, epoch, body.len(), body_checksum);
    body_checksum
}

fn encode_header(link: &Link, kind: Kind, epoch: EpochId, body_len: usize, body_checksum: u64) -> [u8; HEADER_LEN] {
    let body_len = u32::try_from(body_len).expect("bodies are at most BODY_MAX");
    let mut header = [0; HEADER_LEN];
    header[0..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    header[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    header[12..16].copy_from_slice(&body_len.to_le_bytes());
    header[16..24].copy_from_slice(&link.vm.0.to_le_bytes());
    header[24..40].copy_from_slice(&link.session.0);
    header[40..48].copy_from_slice(&link.term.0.to_le_bytes());
    header[48..56].copy_from_slice(&epoch.0.to_le_bytes());
    header[56..64].copy_from_slice(&body_checksum.to_le_bytes());
    let checksum = xxh3_64(&header[..64]);
    header[64..72].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// A header that passed every check a header can pass alone.
struct Header {
    kind: Kind,
    link: Link,
    epoch: EpochId,
    body_len: usize,
    body_checksum: u64,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_LEN], vm: VmId) -> Result<Header, WireError> {
        check_prefix(bytes)?;
        if xxh3_64(&bytes[..64]) != u64_at(bytes, 64) {
            return Err(WireError::Checksum { part: "header" });
        }
        let kind = u16::from_le_bytes([bytes[6], bytes[7]]);
        let kind = Kind::from_number(kind).ok_or(WireError::UnknownKind { kind })?;
        let link = decode_link(bytes, vm)?;
        let body_len = check_limits(bytes)?;
        let epoch = EpochId::try_from(u64_at(bytes, 48));
        let epoch = epoch.map_err(|EpochTooLarge(epoch)| WireError::EpochTooLarge { epoch })?;
        Ok(Header { kind, link, epoch, body_len, body_checksum: u64_at(bytes, 56) })
    }
}

/// Magic and version first: of a stranger or another version nothing else in the header has a known place.
fn check_prefix(bytes: &[u8; HEADER_LEN]) -> Result<(), WireError> {
    let found = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if found != MAGIC {
        return Err(WireError::BadMagic { found });
    }
    let theirs = u16::from_le_bytes([bytes[4], bytes[5]]);
    if theirs != PROTOCOL_VERSION {
        return Err(WireError::VersionMismatch { ours: PROTOCOL_VERSION, theirs });
    }
    Ok(())
}

fn decode_link(bytes: &[u8; HEADER_LEN], ours: VmId) -> Result<Link, WireError> {
    let vm = VmId(u64_at(bytes, 16));
    if vm != ours {
        return Err(WireError::WrongVm { ours, theirs: vm });
    }
    let mut session = [0; 16];
    session.copy_from_slice(&bytes[24..40]);
    Ok(Link { vm, session: SessionId(session), term: Term(u64_at(bytes, 40)) })
}

fn check_limits(bytes: &[u8; HEADER_LEN]) -> Result<usize, WireError> {
    let flags = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if flags != 0 {
        return Err(WireError::ReservedFlags { flags });
    }
    let len = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    if len as usize > BODY_MAX {
        return Err(WireError::TooLong { len: u64::from(len), max: BODY_MAX as u64 });
    }
    Ok(len as usize)
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests;
