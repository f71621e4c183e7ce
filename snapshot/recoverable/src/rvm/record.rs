//! The redo log's bytes: records and status blocks. No I/O.
//!
//! ```text
//! record   0 magic      4 count of ranges   8 id of the log      16 position       24 number
//!         32 synced    40 generation       48 length of body    56 check of body  64 check of 0..64
//!         72 ranges, 24 bytes each { row, offset, length }, then their bytes; padded to 64
//! status   0 magic      8 generation       16 id of the log      24 position of the first record    32 its number
//!         64 16 rows of 250 bytes { id, applied, length of path, path }          4088 check of 0..4088
//! ```

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::word::VALUE_MAX;

/// Bytes of a record before its ranges.
pub(super) const HEAD: usize = 72;
/// Records begin on multiples of this.
pub(super) const LINE: u64 = 64;
/// What a disk writes as one; records that are synced share no block with later ones.
pub(super) const BLOCK: usize = 4096;
/// Most segments of one log.
pub(super) const ROWS: usize = 16;
const RANGE: usize = 24;
const MAGIC: [u8; 4] = *b"OLRR";
const STATUS_MAGIC: [u8; 8] = *b"OLRSTAT\0";
const TABLE_AT: usize = 64;
const ROW: usize = 250;
/// Largest number of a record: segments keep numbers of 48 bits.
pub(super) const NUMBER_MAX: u64 = VALUE_MAX;
/// Largest position of a record and number of a status. What a file says beyond was not counted there by us.
pub(super) const COUNTER_MAX: u64 = 1 << 60;
/// Longest path of a segment, in bytes.
pub(super) const PATH_BYTES_MAX: usize = ROW - 18;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) log: u64,
    /// Where it lies; positions are never used twice, only places in the ring are.
    pub(super) position: u64,
    /// Counted from 1, without a gap from the first record of the log to the last.
    pub(super) number: u64,
    /// Everything before this position was durable when it was written.
    pub(super) synced: u64,
    /// Of the status that was durable when it was written.
    pub(super) generation: u64,
    ranges: u32,
    pub(super) body_len: u64,
    body_check: u64,
}

impl Head {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEAD)?;
        if bytes[..4] != MAGIC || xxh3_64(&bytes[..64]) != u64_at(bytes, 64) {
            return None;
        }
        let head = Self {
            ranges: u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")),
            log: u64_at(bytes, 8),
            position: u64_at(bytes, 16),
            number: u64_at(bytes, 24),
            synced: u64_at(bytes, 32),
            generation: u64_at(bytes, 40),
            body_len: u64_at(bytes, 48),
            body_check: u64_at(bytes, 56),
        };
        let Self { position, number, synced, generation, .. } = head;
        let is_possible = number <= NUMBER_MAX && [position, synced, generation].iter().all(|n| *n <= COUNTER_MAX);
        is_possible.then_some(head)
    }

    /// Bytes of the ring that it takes.
    pub(super) fn len(&self) -> u64 {
        record_len(self.body_len as usize)
    }

    /// The ranges in a body, if it is whole: row, offset and bytes of each.
    pub(super) fn ranges<'b>(&self, body: &'b [u8]) -> Option<Vec<(usize, u64, &'b [u8])>> {
        if body.len() as u64 != self.body_len || xxh3_64(body) != self.body_check {
            return None;
        }
        let (table, mut data) = body.split_at_checked((self.ranges as usize).checked_mul(RANGE)?)?;
        let mut ranges = Vec::with_capacity(self.ranges as usize);
        for row in table.chunks(RANGE) {
            let len = usize::try_from(u64_at(row, 16)).ok()?;
            let (bytes, rest) = data.split_at_checked(len)?;
            data = rest;
            ranges.push((usize::try_from(u64_at(row, 0)).ok().filter(|&slot| slot < ROWS)?, u64_at(row, 8), bytes));
        }
        data.is_empty().then_some(ranges)
    }
}

fn record_len(body_len: usize) -> u64 {
    ((HEAD + body_len) as u64).next_multiple_of(LINE)
}

/// The record of some ranges; where it lies and what is synced is filled in by [`place`].
pub(super) fn encode(ranges: &[(usize, u64, &[u8])]) -> Vec<u8> {
    let data: usize = ranges.iter().map(|(_, _, bytes)| bytes.len()).sum();
    let body_len = ranges.len() * RANGE + data;
    let mut record = Vec::with_capacity(record_len(body_len) as usize);
    record.resize(HEAD, 0);
    for (slot, offset, bytes) in ranges {
        for field in [*slot as u64, *offset, bytes.len() as u64] {
            record.extend_from_slice(&field.to_le_bytes());
        }
    }
    ranges.iter().for_each(|(_, _, bytes)| record.extend_from_slice(bytes));
    let check = xxh3_64(&record[HEAD..]);
    record[..4].copy_from_slice(&MAGIC);
    record[4..8].copy_from_slice(&(ranges.len() as u32).to_le_bytes());
    put(&mut record, 48, body_len as u64);
    put(&mut record, 56, check);
    record.resize(record_len(body_len) as usize, 0);
    record
}

/// Says in a record where it lies.
pub(super) fn place(record: &mut [u8], log: u64, position: u64, number: u64, synced: u64, generation: u64) {
    for (index, field) in [log, position, number, synced, generation].into_iter().enumerate() {
        put(record, 8 + index * 8, field);
    }
    let check = xxh3_64(&record[..64]);
    put(record, 64, check);
}

/// A segment of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: u64,
    /// Number of the last record that truncation applied to it.
    pub(super) applied: u64,
    /// As seen from the log's directory.
    pub(super) path: PathBuf,
}

/// Where the log begins, and its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) generation: u64,
    pub(super) head: u64,
    pub(super) number: u64,
    pub(super) rows: [Option<Row>; ROWS],
}

impl Status {
    /// Of a log without records.
    pub(super) fn fresh() -> Self {
        Self { generation: 1, head: 0, number: 1, rows: [const { None }; ROWS] }
    }

    pub(super) fn encode(&self, log: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..8].copy_from_slice(&STATUS_MAGIC);
        for (index, field) in [self.generation, log, self.head, self.number].into_iter().enumerate() {
            put(&mut block, 8 + index * 8, field);
        }
        for (slot, row) in self.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            let path = row.path.as_os_str().as_bytes();
            let at = TABLE_AT + slot * ROW;
            put(&mut block, at, row.id);
            put(&mut block, at + 8, row.applied);
            block[at + 16..at + 18].copy_from_slice(&(path.len() as u16).to_le_bytes());
            block[at + 18..at + 18 + path.len()].copy_from_slice(path);
        }
        let check = xxh3_64(&block[..BLOCK - 8]);
        put(&mut block, BLOCK - 8, check);
        block
    }

    pub(super) fn decode(block: &[u8], log: u64) -> Option<Self> {
        let is_whole = block[..8] == STATUS_MAGIC
            && xxh3_64(&block[..BLOCK - 8]) == u64_at(block, BLOCK - 8)
            && u64_at(block, 16) == log;
        if !is_whole {
            return None;
        }
        let row = |slot: usize| {
            let at = TABLE_AT + slot * ROW;
            let len = usize::from(u16::from_le_bytes([block[at + 16], block[at + 17]])).min(PATH_BYTES_MAX);
            let path = Path::new(std::ffi::OsStr::from_bytes(&block[at + 18..at + 18 + len])).to_owned();
            (u64_at(block, at) != 0).then(|| Row { id: u64_at(block, at), applied: u64_at(block, at + 8), path })
        };
        let (generation, head, number) = (u64_at(block, 8), u64_at(block, 24), u64_at(block, 32));
        let is_possible = (1..=NUMBER_MAX).contains(&number) && generation <= COUNTER_MAX && head <= COUNTER_MAX;
        is_possible.then(|| Self { generation, head, number, rows: std::array::from_fn(row) })
    }
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_read_back_has_its_ranges() {
        let mut record = encode(&[(3, 100, b"hello"), (0, 7, b"")]);
        place(&mut record, 1, 64, 5, 0, 2);
        let head = Head::decode(&record).unwrap();
        assert_eq!((head.log, head.position, head.number, head.generation, head.len()), (1, 64, 5, 2, 128));
        let body = &record[HEAD..HEAD + head.body_len as usize];
        assert_eq!(head.ranges(body).unwrap(), vec![(3, 100, &b"hello"[..]), (0, 7, &b""[..])]);
    }

    #[test]
    fn counters_at_their_ends_are_no_record_and_no_status() {
        // Their checksums are right: what was added to them overflowed.
        let mut record = encode(&[(3, 100, b"hello")]);
        let mut decoded = |position, number, synced, generation| {
            place(&mut record, 1, position, number, synced, generation);
            Head::decode(&record).is_some()
        };
        assert!(decoded(COUNTER_MAX, NUMBER_MAX, COUNTER_MAX, COUNTER_MAX));
        for end in [COUNTER_MAX + 1, u64::MAX - 63, u64::MAX] {
            assert!(
                !decoded(end, 5, 0, 2) && !decoded(64, end, 0, 2) && !decoded(64, 5, end, 2) && !decoded(64, 5, 0, end)
            );
        }
        assert!(!decoded(64, NUMBER_MAX + 1, 0, 2));
        let decoded = |generation, head, number| {
            let status = Status { generation, head, number, ..Status::fresh() };
            Status::decode(&status.encode(77), 77).is_some()
        };
        assert!(decoded(COUNTER_MAX, COUNTER_MAX, NUMBER_MAX));
        for end in [COUNTER_MAX + 1, u64::MAX] {
            assert!(!decoded(end, 0, 1) && !decoded(1, end, 1) && !decoded(1, 0, end));
        }
        assert!(!decoded(1, 0, 0), "records are counted from 1");
    }

    #[test]
    fn status_read_back_has_its_rows() {
        let mut status = Status::fresh();
        status.rows[4] = Some(Row { id: 9, applied: 3, path: "segment".into() });
        assert_eq!(Status::decode(&status.encode(77), 77), Some(status.clone()));
        assert_eq!(Status::decode(&status.encode(77), 78), None);
    }
}
