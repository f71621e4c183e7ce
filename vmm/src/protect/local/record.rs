//! What is kept of an epoch beside the guest's memory: its number, the machine's state, the output that it held.
//!
//! ```text
//!   0  magic "OLLE"    4  version u32    8  epoch u64    16  bytes of the state u64    24  bytes of the outputs u64
//!  32  XXH3-64 of bytes 0 to 32 and of all that follows
//!  40  the life of the guest, 16 bytes: of version 2; then the state (sections), then the outputs: device u16, kind u8,
//!      length u32, bytes
//! ```
//!
//! Little endian. The record lies in recoverable memory, so it is complete, or that of the epoch before; the checksum
//! finds damage to the file from outside.

use replication::EpochId;
use replication::output::Output;
use snapshot::disklog::LifeId;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: [u8; 4] = *b"OLLE";
const VERSION: u32 = 2;
/// Its records name no life; they are read too.
const VERSION_WITHOUT_LIFE: u32 = 1;
const SUMMED: usize = 32;
/// Bytes that tell whether there is a record.
pub(super) const HEAD: usize = 40;
const LIFE_LEN: usize = 16;
const OUTPUT_HEAD: usize = 7;

/// An epoch that was committed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LastEpoch {
    pub(crate) epoch: EpochId,
    /// Which guest's; none: it was written before lives were told apart.
    pub(crate) life: Option<LifeId>,
    /// Sections of the machine's state.
    pub(crate) state: Vec<u8>,
    /// What it held; some or all of it may have left.
    pub(crate) outputs: Vec<Output>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RecordError {
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
    epoch: EpochId,
    life: LifeId,
    state: &[u8],
    outputs: impl Iterator<Item = &'a Output> + Clone,
    buffer: &mut Vec<u8>,
) {
    let output_bytes: usize = outputs.clone().map(|output| OUTPUT_HEAD + output.bytes.len()).sum();
    buffer.clear();
    buffer.reserve(HEAD + LIFE_LEN + state.len() + output_bytes);
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&VERSION.to_le_bytes());
    for word in [epoch.0, state.len() as u64, output_bytes as u64, 0] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    buffer.extend_from_slice(&life.0);
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
        VERSION => HEAD + LIFE_LEN,
        VERSION_WITHOUT_LIFE => HEAD,
        _ => return Err(RecordError::Version { found }),
    };
    let life = bytes.get(HEAD..begin).ok_or(RecordError::Damaged("its head is cut off"))?;
    let life = life.try_into().ok().map(LifeId);
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
    let epoch = EpochId::try_from(u64_at(8)).map_err(|_| RecordError::Damaged("no epoch has its number"))?;
    Ok(LastEpoch { epoch, life, state: state.to_vec(), outputs })
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

    fn record() -> Vec<u8> {
        let mut buffer = vec![9; 3];
        encode(EpochId(77), LifeId([5; 16]), b"the state", outputs().iter(), &mut buffer);
        buffer
    }

    #[test]
    fn record_in_a_longer_file_is_read_back() {
        let mut bytes = record();
        bytes.resize(10_000, 0);
        let last = LastEpoch {
            epoch: EpochId(77),
            life: Some(LifeId([5; 16])),
            state: b"the state".to_vec(),
            outputs: outputs(),
        };
        assert_eq!(decode(&bytes), Ok(last));
    }

    #[test]
    fn record_of_version_1_is_read_without_a_life() {
        let mut bytes = record();
        bytes.drain(HEAD..HEAD + LIFE_LEN);
        bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
        let sum = sum(&bytes[..SUMMED], &bytes[HEAD..]);
        bytes[SUMMED..HEAD].copy_from_slice(&sum.to_le_bytes());
        let last = decode(&bytes).expect("whole");
        assert_eq!((last.life, last.state, last.outputs), (None, b"the state".to_vec(), outputs()));
    }

    #[test]
    fn epoch_near_the_end_of_the_numbers_is_refused() {
        // Its checksum is right: the numbers after it overflowed.
        let with = |epoch| {
            let mut buffer = Vec::new();
            encode(EpochId(epoch), LifeId([5; 16]), b"the state", outputs().iter(), &mut buffer);
            decode(&buffer)
        };
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
