//! The log's bytes: heads and records. No I/O.

use xxhash_rust::xxh3::xxh3_64;

use super::identity::{DiskIdentity, IDENTITY_LEN};
use super::{BLOCK_BYTES, DISK_COUNT_MAX};
use crate::disk::WriteSet;

/// Version of the log's layout. Format 1 is read too: its heads do not say which disks the records are for.
pub(super) const LOG_FORMAT: u16 = 2;
/// Most disks that a head names.
pub(super) const IDENTITIES_MAX: usize = (BLOCK - TABLE_AT) / IDENTITY_LEN;
/// Length of a record's header.
pub(super) const HEADER_LEN: usize = 64;

const HEAD_MAGIC: [u8; 8] = *b"OLDLOGH\0";
const RECORD_MAGIC: [u8; 8] = *b"OLDLOGR\0";
const BLOCK: usize = BLOCK_BYTES as usize;
/// Where a head's table of disks begins; its checksum is before it.
const TABLE_AT: usize = 40;
const FORMAT_WITHOUT_TABLE: u16 = 1;

/// Names the generation whose records count. Two slots take turns, so that a torn write leaves the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) generation: u64,
    /// The disks that the generation's records are for, by number; none if that was not known.
    pub(super) disks: Vec<DiskIdentity>,
}

impl Head {
    /// Where this generation's head is written.
    pub(super) fn slot(&self) -> u64 {
        (self.generation % 2) * BLOCK_BYTES
    }

    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let Self { generation, disks } = self;
        assert!(disks.len() <= IDENTITIES_MAX, "{} disks are more than a head names", disks.len());
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&HEAD_MAGIC);
        block[8..10].copy_from_slice(&LOG_FORMAT.to_le_bytes());
        block[10..12].copy_from_slice(&(disks.len() as u16).to_le_bytes());
        block[16..24].copy_from_slice(&generation.to_le_bytes());
        for (slot, disk) in block[TABLE_AT..].as_chunks_mut().0.iter_mut().zip(disks) {
            *slot = disk.encode();
        }
        let checksums = [xxh3_64(&block[..24]), xxh3_64(&block[TABLE_AT..])];
        for (slot, checksum) in block[24..TABLE_AT].as_chunks_mut::<8>().0.iter_mut().zip(checksums) {
            *slot = checksum.to_le_bytes();
        }
        block
    }

    /// The head in a block; nothing when there is none, the format when it is not ours.
    pub(super) fn decode(block: &[u8; BLOCK]) -> Result<Option<Self>, u16> {
        if block[..8] != HEAD_MAGIC || xxh3_64(&block[..24]) != u64_at(block, 24) {
            return Ok(None);
        }
        let generation = u64_at(block, 16);
        match u16::from_le_bytes([block[8], block[9]]) {
            LOG_FORMAT if xxh3_64(&block[TABLE_AT..]) == u64_at(block, 32) => {
                let count = usize::from(u16::from_le_bytes([block[10], block[11]]));
                let disks = block[TABLE_AT..].as_chunks().0.iter().take(count).map(DiskIdentity::decode).collect();
                Ok(Some(Self { generation, disks }))
            }
            LOG_FORMAT => Ok(None),
            FORMAT_WITHOUT_TABLE => Ok(Some(Self { generation, disks: Vec::new() })),
            format => Err(format),
        }
    }
}

/// What a record says about itself beside its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) generation: u64,
    pub(super) epoch: u64,
    /// Everything in the log before this offset was durable when the record was written.
    pub(super) synced: u64,
}

impl RecordHeader {
    /// The header at the start of a block and the body's length, if it is whole and of `generation`.
    pub(super) fn decode(block: &[u8; BLOCK], generation: u64) -> Option<(Self, u64)> {
        if block[..8] != RECORD_MAGIC || xxh3_64(&block[..56]) != u64_at(block, 56) {
            return None;
        }
        let header = Self { generation: u64_at(block, 8), epoch: u64_at(block, 16), synced: u64_at(block, 24) };
        (header.generation == generation).then_some((header, u64_at(block, 32)))
    }

    fn encode(&self, body_len: u64, body_checksum: u64) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&RECORD_MAGIC);
        let fields = [self.generation, self.epoch, self.synced, body_len, body_checksum];
        for (slot, field) in bytes[8..48].as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *slot = field.to_le_bytes();
        }
        let checksum = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// One epoch's writes, read back.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) header: RecordHeader,
    pub(super) sets: Vec<(u16, WriteSet)>,
    /// Bytes of the log that it takes.
    pub(super) len: u64,
}

/// Puts a whole record, padded to blocks, into `out`.
pub(super) fn encode(header: &RecordHeader, sets: &[(u16, &WriteSet)], out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEADER_LEN, 0);
    for (index, (disk, set)) in sets.iter().enumerate() {
        assert!(!sets[..index].iter().any(|(other, _)| other == disk), "disk {disk} is twice in one record");
        if set.is_empty() {
            continue;
        }
        let len = u32::try_from(set.encoded_len()).expect("an overlay's limit keeps a set below 4 GiB");
        out.extend_from_slice(&disk.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        set.encode(out);
    }
    let body = &out[HEADER_LEN..];
    let head = header.encode(body.len() as u64, xxh3_64(body));
    out[..HEADER_LEN].copy_from_slice(&head);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// The record in `bytes` (header and body), if the body is whole.
pub(super) fn decode(header: RecordHeader, bytes: &[u8]) -> Option<Record> {
    let (head, mut body) = bytes.split_at_checked(HEADER_LEN)?;
    if xxh3_64(body) != u64_at(head, 40) {
        return None;
    }
    let mut sets = Vec::new();
    while let Some((entry, rest)) = body.split_first_chunk::<6>() {
        let disk = u16::from_le_bytes([entry[0], entry[1]]);
        let len = u32::from_le_bytes([entry[2], entry[3], entry[4], entry[5]]) as usize;
        let (set, rest) = rest.split_at_checked(len)?;
        sets.push((disk, WriteSet::decode(set).ok()?));
        body = rest;
        if sets.len() > DISK_COUNT_MAX {
            return None;
        }
    }
    let len = (bytes.len() as u64).next_multiple_of(BLOCK_BYTES);
    body.is_empty().then_some(Record { header, sets, len })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
