//! The file of one earlier epoch: its record, and what blocks held at its end that were changed later.
//!
//! ```text
//!    0  magic "OLRE"   4  version u32   8  epoch u64   16  when, ms since 1970 u64   24  bytes of the record u64
//!   32  XXH3-64 of bytes 0 to 32 and of the record
//!   40  the record, as in `state`
//!       batches: magic "OLRB", blocks u32, XXH3-64 of all that follows of it; a u64 for each block; the blocks of 4 KiB
//! ```
//!
//! Little endian. A batch is written before any of its blocks changes, and is true from then on, whether the change comes or
//! not. So a file whose last batch is cut off says everything that it must; its checksums are looked at before it is used.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use replication::EpochId;
use snapshot::private;
use snapshot::within::Within;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::blocks::{BLOCK, BlockId};

const MAGIC: [u8; 4] = *b"OLRE";
const BATCH_MAGIC: [u8; 4] = *b"OLRB";
const VERSION: u32 = 1;
const HEAD: usize = 40;
const SUMMED: usize = 32;
const BATCH_HEAD: usize = 16;
/// Blocks of a batch at most.
pub(super) const BATCH_BLOCKS_MAX: usize = 256;
/// More is not a record of ours.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Milliseconds since 1970; a file says none later than the year 10000.
pub(super) type UnixMs = Within<0, 253_402_300_800_000>;

/// The head of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: EpochId,
    pub(super) at_ms: UnixMs,
    record_bytes: u64,
}

impl Head {
    fn encode(&self, record: &[u8]) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        for (at, word) in [(8, self.epoch.0), (16, self.at_ms.get()), (24, self.record_bytes)] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let mut sum = Xxh3::new();
        sum.update(&bytes[..SUMMED]);
        sum.update(record);
        bytes[SUMMED..].copy_from_slice(&sum.digest().to_le_bytes());
        bytes
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Makes the file of an epoch, without any block.
pub(super) fn create(path: &Path, epoch: EpochId, at_ms: UnixMs, record: &[u8]) -> io::Result<(File, u64)> {
    let head = Head { epoch, at_ms, record_bytes: record.len() as u64 };
    let mut file = private::create_anew(path)?;
    file.write_all(&head.encode(record))?;
    file.write_all(record)?;
    Ok((file, (HEAD + record.len()) as u64))
}

/// Reads head and record; what is not whole is an error of kind `InvalidData` or `UnexpectedEof`.
pub(super) fn read_head(file: &mut File) -> io::Result<(Head, Vec<u8>)> {
    let mut bytes = [0; HEAD];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut bytes)?;
    if bytes[..4] != MAGIC || bytes[4..8] != VERSION.to_le_bytes() {
        return Err(damaged("it is no earlier epoch of this version"));
    }
    let epoch = EpochId::try_from(u64_at(&bytes, 8)).map_err(|error| damaged(&error.to_string()))?;
    let at_ms = UnixMs::try_from(u64_at(&bytes, 16)).map_err(|error| damaged(&format!("its time, {error}")))?;
    let head = Head { epoch, at_ms, record_bytes: u64_at(&bytes, 24) };
    let left = file.metadata()?.len().saturating_sub(HEAD as u64);
    if head.record_bytes > left.min(RECORD_BYTES_MAX) {
        return Err(damaged("its record is cut off"));
    }
    let mut record = vec![0; head.record_bytes as usize];
    file.read_exact(&mut record)?;
    if head.encode(&record) != bytes {
        return Err(damaged("the checksum of its record does not match"));
    }
    Ok((head, record))
}

/// Blocks on their way into a file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    ids: Vec<u64>,
    blocks: Vec<u8>,
}

impl Batch {
    pub(super) fn push(&mut self, id: BlockId, block: &[u8]) {
        assert_eq!(block.len(), BLOCK, "a block is a block");
        self.ids.push(id.0);
        self.blocks.extend_from_slice(block);
    }

    pub(super) fn is_full(&self) -> bool {
        self.ids.len() >= BATCH_BLOCKS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.blocks.clear();
    }

    /// Bytes that it takes in a file.
    pub(super) fn bytes(&self) -> u64 {
        (BATCH_HEAD + self.ids.len() * (8 + BLOCK)) as u64
    }

    /// Appends it behind the `len` bytes that count. It stays as it is.
    pub(super) fn write(&self, file: &mut File, len: u64) -> io::Result<()> {
        let mut head = Vec::with_capacity(BATCH_HEAD + self.ids.len() * 8);
        head.extend_from_slice(&BATCH_MAGIC);
        head.extend_from_slice(&(self.ids.len() as u32).to_le_bytes());
        head.extend_from_slice(&[0; 8]);
        self.ids.iter().for_each(|id| head.extend_from_slice(&id.to_le_bytes()));
        let mut sum = Xxh3::new();
        sum.update(&head[BATCH_HEAD..]);
        sum.update(&self.blocks);
        head[8..BATCH_HEAD].copy_from_slice(&sum.digest().to_le_bytes());
        file.seek(SeekFrom::Start(len))?;
        file.write_all(&head)?;
        file.write_all(&self.blocks)
    }
}

/// Reads the batches of a file, in order.
pub(super) struct Batches {
    file: File,
    at: u64,
    end: u64,
}

impl Batches {
    /// Of `file`, whose head was read.
    pub(super) fn of(file: File, head: &Head) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self { file, at: HEAD as u64 + head.record_bytes, end })
    }

    /// One past the last whole batch that was come to.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The numbers of the next batch's blocks; `None` at the end, which is before a batch that is cut off. Its blocks are
    /// not read.
    pub(super) fn next_ids(&mut self) -> io::Result<Option<Vec<BlockId>>> {
        let mut head = [0; BATCH_HEAD];
        if self.end - self.at < BATCH_HEAD as u64 {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        self.file.read_exact(&mut head)?;
        let count = u32::from_le_bytes(head[4..8].try_into().expect("four bytes")) as usize;
        if head[..4] != BATCH_MAGIC || count > BATCH_BLOCKS_MAX {
            return Err(damaged("something else than blocks is in it"));
        }
        let len = (BATCH_HEAD + count * (8 + BLOCK)) as u64;
        if self.end - self.at < len {
            return Ok(None);
        }
        let mut ids = vec![0; count * 8];
        self.file.read_exact(&mut ids)?;
        self.at += len;
        Ok(Some(ids.as_chunks::<8>().0.iter().map(|id| BlockId(u64::from_le_bytes(*id))).collect()))
    }

    /// The next batch with its blocks, one after the other; its checksum is compared.
    pub(super) fn next(&mut self) -> io::Result<Option<(Vec<BlockId>, Vec<u8>)>> {
        let from = self.at;
        let Some(ids) = self.next_ids()? else { return Ok(None) };
        let mut bytes = vec![0; (self.at - from) as usize];
        self.file.seek(SeekFrom::Start(from))?;
        self.file.read_exact(&mut bytes)?;
        if xxh3_64(&bytes[BATCH_HEAD..]) != u64_at(&bytes, 8) {
            return Err(damaged("the checksum of its blocks does not match"));
        }
        let blocks = bytes.split_off(BATCH_HEAD + ids.len() * 8);
        Ok(Some((ids, blocks)))
    }
}
