//! What is kept of an epoch beside the guest's memory: its number, the machine's state, the output that it held.
//!
//! ```text
//!   0  magic "OLLE"    4  version u32    8  epoch u64    16  bytes of the state u64    24  bytes of the outputs u64
//!  32  XXH3-64 of bytes 0 to 32 and of all that follows
//!  40  the life of the guest, 16 bytes: from version 2 on
//!  56  from version 3 on: branch u64   64  chain hash of the epoch, 16 bytes
//!  80  where the log of disk writes was: 0 not known, 1 no epoch of the guest had disk writes, 2 at the epoch of this chain hash;
//!      u64   88  that chain hash, 16 bytes
//!      then the state (sections), then the outputs: device u16, kind u8, length u32, bytes
//! ```
//!
//! Little endian. The record lies in recoverable memory, so it is complete, or that of the epoch before; the checksum
//! finds damage to the file from outside.

use replication::output::Output;
use replication::{ChainHash, EpochId, EpochMark, Fork, Term};
use snapshot::disklog::{Chain, LifeId, Line};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: [u8; 4] = *b"OLLE";
const VERSION: u32 = 3;
/// Its records have no chain hash; they are read too.
const VERSION_WITHOUT_CHAIN: u32 = 2;
/// Its records name no life either.
const VERSION_WITHOUT_LIFE: u32 = 1;
const SUMMED: usize = 32;
/// Bytes that tell whether there is a record.
pub(super) const HEAD: usize = 40;
const LIFE_LEN: usize = 16;
/// From `HEAD` to the state.
const IDENTITY_LEN: usize = LIFE_LEN + 8 + 16 + LINE_LEN;
const LINE_LEN: usize = 8 + 16;
const OUTPUT_HEAD: usize = 7;

/// Which epoch a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) mark: EpochMark,
    pub(super) life: LifeId,
    /// Where the log of its disk writes was.
    pub(super) line: Line,
}

/// An epoch that was committed.
#[derive(Debug, PartialEq, Eq)]
pub struct LastEpoch {
    /// Its identity; its number only, where it was written before there were chain hashes.
    pub fork: Fork,
    /// Which guest's; none: it was written before lives were told apart.
    pub life: Option<LifeId>,
    /// Where the log of its disk writes was.
    pub line: Line,
    /// Sections of the machine's state.
    pub state: Vec<u8>,
    /// What it held; some or all of it may have left.
    pub outputs: Vec<Output>,
}

impl LastEpoch {
    /// Its number, by which the log of this guest's disk writes is cut; whether it is its log, `line` tells.
    pub fn epoch(&self) -> EpochId {
        self.fork.count()
    }
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// No epoch was committed yet.
    #[error("no epoch was committed yet, and nobody has seen anything of the guest: start it again")]
    Empty,
    /// Of another program.
    #[error("it is of version {found}, this program reads {VERSION}: use the program that wrote it")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Damaged.
    #[error("it is damaged ({0}); nothing of it was used")]
    Damaged(&'static str),
}

fn sum(head: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(body);
    hash.digest()
}

/// Writes the record of an epoch into `buffer`, which is emptied before.
pub(super) fn encode<'a>(
    identity: &Identity,
    state: &[u8],
    outputs: impl Iterator<Item = &'a Output> + Clone,
    buffer: &mut Vec<u8>,
) {
    let Identity { mark: EpochMark { branch, count, chain }, life, line } = identity;
    let output_bytes: usize = outputs.clone().map(|output| OUTPUT_HEAD + output.bytes.len()).sum();
    buffer.clear();
    buffer.reserve(HEAD + IDENTITY_LEN + state.len() + output_bytes);
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&VERSION.to_le_bytes());
    for word in [count.0, state.len() as u64, output_bytes as u64, 0] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    buffer.extend_from_slice(&life.0);
    buffer.extend_from_slice(&branch.0.to_le_bytes());
    buffer.extend_from_slice(&chain.0);
    let (known, Chain(at)) = match line {
        Line::Unknown => (0u64, Chain::default()),
        Line::Nothing => (1, Chain::default()),
        Line::At(chain) => (2, *chain),
    };
    buffer.extend_from_slice(&known.to_le_bytes());
    buffer.extend_from_slice(&at);
    buffer.extend_from_slice(state);
    for Output { device, kind, bytes } in outputs {
        buffer.extend_from_slice(&device.to_le_bytes());
        buffer.push(*kind);
        buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(bytes);
    }
    let sum = sum(&buffer[..SUMMED], &buffer[HEAD..]);
    buffer[SUMMED..HEAD].copy_from_slice(&sum.to_le_bytes());
}

/// Reads a record from the beginning of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<LastEpoch, RecordError> {
    let head = bytes.get(..HEAD).ok_or(RecordError::Damaged("its head is cut off"))?;
    if head.iter().all(|byte| *byte == 0) {
        return Err(RecordError::Empty);
    }
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes of the head"));
    if head[..4] != MAGIC {
        return Err(RecordError::Damaged("it does not begin like one"));
    }
    let found = u32::from_le_bytes(head[4..8].try_into().expect("four bytes of the head"));
    let begin = match found {
        VERSION => HEAD + IDENTITY_LEN,
        VERSION_WITHOUT_CHAIN => HEAD + LIFE_LEN,
        VERSION_WITHOUT_LIFE => HEAD,
        _ => return Err(RecordError::Version { found }),
    };
    let identity = bytes.get(HEAD..begin).ok_or(RecordError::Damaged("its head is cut off"))?;
    let len = usize::try_from(u64_at(16)).ok().zip(usize::try_from(u64_at(24)).ok());
    let body = len.and_then(|(state, outputs)| {
        let (start, middle) = (begin, begin.checked_add(state)?);
        Some((bytes.get(start..middle)?, bytes.get(middle..middle.checked_add(outputs)?)?))
    });
    let (state, outputs) = body.ok_or(RecordError::Damaged("it is longer than its file"))?;
    if sum(&head[..SUMMED], &bytes[HEAD..begin + state.len() + outputs.len()]) != u64_at(SUMMED) {
        return Err(RecordError::Damaged("its checksum does not match"));
    }
    let outputs = decode_outputs(outputs).ok_or(RecordError::Damaged("an output is cut off"))?;
    let count = EpochId::try_from(u64_at(8)).map_err(|_| RecordError::Damaged("no epoch has its number"))?;
    let life = identity.first_chunk().copied().map(LifeId);
    let (fork, line) = match identity.get(LIFE_LEN..).and_then(<[u8]>::first_chunk) {
        Some(chained) => decode_chained(count, chained)?,
        None => (Fork::Number(count), Line::Unknown),
    };
    Ok(LastEpoch { fork, life, line, state: state.to_vec(), outputs })
}

/// What version 3 has behind the life.
fn decode_chained(count: EpochId, bytes: &[u8; IDENTITY_LEN - LIFE_LEN]) -> Result<(Fork, Line), RecordError> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let hash = |at: usize| bytes[at..at + 16].try_into().expect("sixteen bytes");
    let mark = EpochMark { branch: Term(word(0)), count, chain: ChainHash(hash(8)) };
    let line = match word(24) {
        0 => Line::Unknown,
        1 => Line::Nothing,
        2 => Line::At(Chain(hash(32))),
        _ => return Err(RecordError::Damaged("its log is nowhere")),
    };
    Ok((Fork::Mark(mark), line))
}

fn decode_outputs(mut bytes: &[u8]) -> Option<Vec<Output>> {
    let mut outputs = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(OUTPUT_HEAD)?;
        let len = u32::from_le_bytes(head[3..].try_into().expect("four bytes of the head")) as usize;
        let (content, rest) = rest.split_at_checked(len)?;
        let device = u16::from_le_bytes([head[0], head[1]]);
        outputs.push(Output { device, kind: head[2], bytes: content.to_vec() });
        bytes = rest;
    }
    Some(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs() -> Vec<Output> {
        let output = |device, bytes: &[u8]| Output { device, kind: 3, bytes: bytes.to_vec() };
        vec![output(0, b"hello"), output(2, b""), output(1, &[7; 1500])]
    }

    fn identity(count: u64) -> Identity {
        let mark = EpochMark { branch: Term(6), count: EpochId(count), chain: ChainHash([0xc; 16]) };
        Identity { mark, life: LifeId([5; 16]), line: Line::At(Chain([0xd; 16])) }
    }

    fn record_of(identity: &Identity) -> Vec<u8> {
        let mut buffer = vec![9; 3];
        encode(identity, b"the state", outputs().iter(), &mut buffer);
        buffer
    }

    fn record() -> Vec<u8> {
        record_of(&identity(77))
    }

    #[test]
    fn record_in_a_longer_file_is_read_back() {
        let mut bytes = record();
        bytes.resize(10_000, 0);
        let Identity { mark, life, line } = identity(77);
        let last = LastEpoch {
            fork: Fork::Mark(mark),
            life: Some(life),
            line,
            state: b"the state".to_vec(),
            outputs: outputs(),
        };
        assert_eq!(decode(&bytes), Ok(last));
        for line in [Line::Unknown, Line::Nothing] {
            let bytes = record_of(&Identity { line, ..identity(77) });
            assert_eq!(decode(&bytes).map(|last| last.line), Ok(line));
        }
    }

    /// A record as the version of those bytes wrote it: epoch 77, the state "the state", one output.
    #[test]
    fn records_of_each_version_before_are_read_as_they_were_written() {
        let head = b"\x4d\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0";
        let tail = b"the state\x02\0\x03\x05\0\0\0hello";
        let v1 = [b"OLLE\x01\0\0\0", &head[..], b"\x2a\x83\x67\x04\xc3\x53\x6e\xe4", tail].concat();
        let v2 = [b"OLLE\x02\0\0\0", &head[..], b"\xd5\xe6\x00\x7d\x8a\x2c\x5b\x0b", &[5; 16], tail].concat();
        for (bytes, life) in [(v1, None), (v2, Some(LifeId([5; 16])))] {
            let last = decode(&bytes).expect("whole");
            assert_eq!((last.fork, last.line, last.life), (Fork::Number(EpochId(77)), Line::Unknown, life));
            assert_eq!((&last.state[..], &last.outputs[0].bytes[..]), (&b"the state"[..], &b"hello"[..]));
        }
    }

    #[test]
    fn epoch_near_the_end_of_the_numbers_is_refused() {
        // Its checksum is right: the numbers after it overflowed.
        let with = |epoch| decode(&record_of(&identity(epoch)));
        assert!(with(replication::id::EPOCH_MAX.0).is_ok());
        for epoch in [replication::id::EPOCH_MAX.0 + 1, u64::MAX - 1, u64::MAX] {
            assert_eq!(with(epoch), Err(RecordError::Damaged("no epoch has its number")));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let whole = record();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(decode(&bytes).is_err(), "byte {at}");
            assert!(decode(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn zeros_are_no_epoch_and_another_version_is_named() {
        assert_eq!(decode(&[0; 4096]), Err(RecordError::Empty));
        let mut bytes = record();
        bytes[4] = 9;
        assert_eq!(decode(&bytes), Err(RecordError::Version { found: 9 }));
    }
}
