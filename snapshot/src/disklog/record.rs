//! The log's bytes: heads, tables and records. No I/O.

use xxhash_rust::xxh3::xxh3_64;

use super::identity::{
    Chain, DiskIdentity, ENTRY_LEN, LifeId, Line, LogId, NAMED_LEN, NamedDisk, OWNER_BYTES_MAX, Owner,
};
use super::{BLOCK_BYTES, DISK_COUNT_MAX};
use crate::disk::WriteSet;

/// Version of the log's layout. Those before are read too: the heads of the first do not say which disks the records are
/// for, those of the second name them; in the third records and heads have no chain hashes.
pub(super) const LOG_FORMAT: u16 = 4;
/// Length of a record's header.
pub(super) const HEADER_LEN: usize = 80;
/// The same before format 4.
const HEADER_LEN_UNCHAINED: usize = 64;
/// Where the first table is; the second follows it.
pub(super) const TABLES_AT: u64 = 2 * BLOCK_BYTES;
/// Bytes of a table.
pub(super) const TABLE_LEN: usize = 2 * BLOCK;
/// Where the note is: see [`super::note`].
pub(super) const NOTE_AT: u64 = TABLES_AT + 2 * TABLE_LEN as u64;
/// Where records begin.
pub(super) const RECORDS_AT: u64 = 8 * BLOCK_BYTES;
/// Where they begin in formats 1 and 2, which have no tables.
pub(super) const RECORDS_AT_OLD: u64 = 2 * BLOCK_BYTES;
/// Most disks of a generation.
pub const IDENTITIES_MAX: usize = (TABLE_LEN - ENTRIES_AT) / ENTRY_LEN;

const HEAD_MAGIC: [u8; 8] = *b"OLDLOGH\0";
const RECORD_MAGIC: [u8; 8] = *b"OLDLOGR\0";
const BLOCK: usize = BLOCK_BYTES as usize;
/// Where a head's table of named disks begins in format 2; its checksum is before it.
const NAMED_AT: usize = 40;
/// Where a table's entries begin.
const ENTRIES_AT: usize = 128;
const FORMAT_WITHOUT_TABLE: u16 = 1;
const FORMAT_WITH_NAMES: u16 = 2;
const FORMAT_WITHOUT_CHAIN: u16 = 3;
/// Where a head says at which point of the guest's history its generation began, from format 4 on: a kind, a chain hash, a
/// checksum.
const LINE_AT: usize = 40;
const LINE_NOWHERE: u64 = 0;
const LINE_NOTHING: u64 = 1;
const LINE_AT_EPOCH: u64 = 2;

/// The largest number of a generation. A log that says more was not counted there by us.
pub(super) const GENERATION_MAX: u64 = 1 << 62;

/// Why a head is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHead {
    /// It is of this format.
    Format(u16),
    /// No generation has this number.
    Generation(u64),
}

/// Whose a generation is, and for which disks.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Generation {
    /// The log that it is in.
    pub log: LogId,
    /// Whose writes it holds.
    pub owner: Owner,
    /// The boot in which it began.
    pub boot: [u8; 16],
    /// The disks of its records, by number, as they were when it began: they held all earlier writes durably.
    pub disks: Vec<DiskIdentity>,
    /// Where in the guest's history that was.
    pub line: Line,
}

impl Generation {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { log, owner: Owner { name, life }, boot, disks, line: _ } = self;
        assert!(disks.len() <= IDENTITIES_MAX, "{} disks are more than a generation names", disks.len());
        assert!(name.len() <= OWNER_BYTES_MAX, "an owner's name of {} bytes", name.len());
        let mut table = vec![0; TABLE_LEN];
        for (slot, id) in table[..48].as_chunks_mut().0.iter_mut().zip([log.0, life.0, *boot]) {
            *slot = id;
        }
        table[48..50].copy_from_slice(&(disks.len() as u16).to_le_bytes());
        table[64..64 + name.len()].copy_from_slice(name.as_bytes());
        for (slot, disk) in table[ENTRIES_AT..].as_chunks_mut().0.iter_mut().zip(disks) {
            *slot = disk.encode();
        }
        table
    }

    /// The generation that a table of `TABLE_LEN` bytes tells of, which began at `line`; its checksum was looked at.
    pub(super) fn decode(table: &[u8], line: Line) -> Option<Self> {
        let id = |at: usize| table[at..at + 16].try_into().expect("sixteen bytes");
        let name = table[64..ENTRIES_AT].split(|byte| *byte == 0).next().unwrap_or_default();
        // Decoded with replacements, a name would come out longer than what is written back.
        let name = str::from_utf8(name).ok().filter(|name| name.len() <= OWNER_BYTES_MAX)?;
        let owner = Owner { name: name.to_owned(), life: LifeId(id(16)) };
        let count = usize::from(u16::from_le_bytes([table[48], table[49]]));
        let entries = table[ENTRIES_AT..].as_chunks::<ENTRY_LEN>().0.get(..count)?;
        let disks = entries.iter().map(DiskIdentity::decode).collect::<Option<_>>()?;
        Some(Self { log: LogId(id(0)), owner, boot: id(32), disks, line })
    }
}

/// What a generation says of its disks, by format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// Nothing.
    Unknown,
    /// Name, length and inode.
    Named(Vec<NamedDisk>),
    /// Everything.
    Bound(Generation),
}

impl Table {
    pub(super) fn records_at(&self) -> u64 {
        match self {
            Self::Unknown | Self::Named(_) => RECORDS_AT_OLD,
            Self::Bound(_) => RECORDS_AT,
        }
    }
}

/// Names the generation whose records count. Two slots take turns, so that a torn write leaves the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) generation: u64,
    pub(super) table: Table,
    pub(super) layout: RecordLayout,
}

/// Where the head of `generation` is written.
pub(super) fn head_at(generation: u64) -> u64 {
    (generation % 2) * BLOCK_BYTES
}

/// Where the table of `generation` is written.
pub(super) fn table_at(generation: u64) -> u64 {
    TABLES_AT + (generation % 2) * TABLE_LEN as u64
}

/// The head of a generation that begins at `line` and whose table has the checksum `of_table`.
pub(super) fn encode_head(generation: u64, of_table: u64, line: Line) -> [u8; BLOCK] {
    let mut block = head(LOG_FORMAT, generation, of_table);
    let (kind, Chain(chain)) = match line {
        Line::Unknown => (LINE_NOWHERE, Chain::default()),
        Line::Nothing => (LINE_NOTHING, Chain::default()),
        Line::At(chain) => (LINE_AT_EPOCH, chain),
    };
    block[LINE_AT..LINE_AT + 8].copy_from_slice(&kind.to_le_bytes());
    block[LINE_AT + 8..LINE_AT + 24].copy_from_slice(&chain);
    let sum = xxh3_64(&block[..LINE_AT + 24]);
    block[LINE_AT + 24..LINE_AT + 32].copy_from_slice(&sum.to_le_bytes());
    block
}

/// Where the generation of that head began; none: it is not whole.
fn line_of(block: &[u8; BLOCK]) -> Option<Line> {
    if xxh3_64(&block[..LINE_AT + 24]) != u64_at(block, LINE_AT + 24) {
        return None;
    }
    let chain = Chain(block[LINE_AT + 8..LINE_AT + 24].try_into().expect("sixteen bytes"));
    match u64_at(block, LINE_AT) {
        LINE_NOWHERE => Some(Line::Unknown),
        LINE_NOTHING => Some(Line::Nothing),
        LINE_AT_EPOCH => Some(Line::At(chain)),
        _ => None,
    }
}

/// The head of an empty generation in the oldest format: a log of such a format is emptied by it before tables overwrite its
/// records.
pub(super) fn encode_old_head(generation: u64) -> [u8; BLOCK] {
    head(FORMAT_WITHOUT_TABLE, generation, 0)
}

fn head(format: u16, generation: u64, of_table: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..8].copy_from_slice(&HEAD_MAGIC);
    block[8..10].copy_from_slice(&format.to_le_bytes());
    block[16..24].copy_from_slice(&generation.to_le_bytes());
    let of_head = xxh3_64(&block[..24]);
    block[24..32].copy_from_slice(&of_head.to_le_bytes());
    block[32..40].copy_from_slice(&of_table.to_le_bytes());
    block
}

/// The checksum of a table.
pub(super) fn checksum(table: &[u8]) -> u64 {
    xxh3_64(table)
}

impl Head {
    /// The head in a block; nothing when there is none, the format when it is not ours. `table` is what lies where the
    /// tables of its slot are.
    pub(super) fn decode(block: &[u8; BLOCK], table: &[u8]) -> Result<Option<Self>, NoHead> {
        if block[..8] != HEAD_MAGIC || xxh3_64(&block[..24]) != u64_at(block, 24) {
            return Ok(None);
        }
        let format = u16::from_le_bytes([block[8], block[9]]);
        let table = match format {
            LOG_FORMAT if checksum(table) == u64_at(block, 32) => {
                line_of(block).and_then(|line| Generation::decode(table, line)).map(Table::Bound)
            }
            FORMAT_WITHOUT_CHAIN if checksum(table) == u64_at(block, 32) => {
                Generation::decode(table, Line::Unknown).map(Table::Bound)
            }
            FORMAT_WITH_NAMES if xxh3_64(&block[NAMED_AT..]) == u64_at(block, 32) => {
                let count = usize::from(u16::from_le_bytes([block[10], block[11]]));
                let entries = block[NAMED_AT..].as_chunks::<NAMED_LEN>().0.iter().take(count);
                Some(Table::Named(entries.map(NamedDisk::decode).collect()))
            }
            LOG_FORMAT | FORMAT_WITHOUT_CHAIN | FORMAT_WITH_NAMES => None,
            FORMAT_WITHOUT_TABLE => Some(Table::Unknown),
            format => return Err(NoHead::Format(format)),
        };
        match u64_at(block, 16) {
            generation if generation > GENERATION_MAX => Err(NoHead::Generation(generation)),
            generation => {
                let layout = if format == LOG_FORMAT { RecordLayout::Chained } else { RecordLayout::Unchained };
                Ok(table.map(|table| Self { generation, table, layout }))
            }
        }
    }
}

/// How the records of a generation are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordLayout {
    /// With the chain hash of their epoch.
    Chained,
    /// Before format 4, without.
    Unchained,
}

impl RecordLayout {
    /// Length of a record's header.
    pub(super) fn header_len(self) -> usize {
        match self {
            Self::Chained => HEADER_LEN,
            Self::Unchained => HEADER_LEN_UNCHAINED,
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
    /// The chain hash of its epoch; none: it was written before those.
    pub(super) chain: Option<Chain>,
}

impl RecordHeader {
    /// The header at the start of a block and the body's length, if it is whole and of `generation`.
    pub(super) fn decode(block: &[u8; BLOCK], generation: u64, layout: RecordLayout) -> Option<(Self, u64)> {
        let sum_at = layout.header_len() - 8;
        if block[..8] != RECORD_MAGIC || xxh3_64(&block[..sum_at]) != u64_at(block, sum_at) {
            return None;
        }
        let chain = match layout {
            RecordLayout::Chained => Some(Chain(block[56..72].try_into().expect("sixteen bytes"))),
            RecordLayout::Unchained => None,
        };
        let header = Self { generation: u64_at(block, 8), epoch: u64_at(block, 16), synced: u64_at(block, 24), chain };
        (header.generation == generation).then_some((header, u64_at(block, 32)))
    }

    fn encode(&self, body_len: u64, body_checksum: u64) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&RECORD_MAGIC);
        let fields = [self.generation, self.epoch, self.synced, body_len, body_checksum];
        for (slot, field) in bytes[8..48].as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *slot = field.to_le_bytes();
        }
        let Chain(chain) = self.chain.expect("records are written with the chain hash of their epoch");
        bytes[56..72].copy_from_slice(&chain);
        let checksum = xxh3_64(&bytes[..72]);
        bytes[72..].copy_from_slice(&checksum.to_le_bytes());
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
    let len = if header.chain.is_some() { HEADER_LEN } else { HEADER_LEN_UNCHAINED };
    let (head, mut body) = bytes.split_at_checked(len)?;
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
