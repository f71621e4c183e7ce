//! The disk writes of one epoch, as extents.
//!
//! A [`WriteSet`] holds for each byte that was written its last value, sorted by offset. It is what an overlay reads
//! through, what a commit applies, what the redo log stores and what a backup is sent; it knows no file.
//!
//! Invariants: extents are sorted, none is empty, none is longer than [`EXTENT_BYTES_MAX`], and no two overlap.
//! Neighbours may touch: a later write never moves bytes that are already held, so the cost of a write is its own length
//! and the number of extents that it meets.

use std::collections::BTreeMap;

/// Longest extent, in bytes. A longer write is held as several.
pub const EXTENT_BYTES_MAX: usize = 1 << 20;
/// Most extents in one encoded set.
pub const EXTENT_COUNT_MAX: usize = 1 << 20;
/// What an extent costs in memory beside its bytes, about; counted by [`WriteSet::cost_bytes`].
pub const EXTENT_OVERHEAD: usize = 64;

const TABLE_ENTRY: usize = 12;

/// Why encoded bytes are not a write set. Always the input's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteSetError {
    /// Fewer or more bytes than the table says.
    #[error("disk writes of {len} bytes do not have the length that their table says")]
    Length {
        /// Length found.
        len: usize,
    },
    /// A table over the limit.
    #[error("disk writes claim {count} extents; at most {EXTENT_COUNT_MAX} are allowed")]
    Count {
        /// Extents claimed.
        count: usize,
    },
    /// An extent that is empty, too long, overlaps the one before or ends past 2^63.
    #[error("extent {index} of the disk writes is empty, too long or out of order")]
    Extent {
        /// Which extent.
        index: usize,
    },
}

/// Writes to one disk in one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteSet {
    extents: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl WriteSet {
    /// A set without writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Number of bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of extents held.
    pub fn extent_count(&self) -> usize {
        self.extents.len()
    }

    /// What the set costs in memory: its bytes and [`EXTENT_OVERHEAD`] for each extent.
    pub fn cost_bytes(&self) -> usize {
        self.bytes + self.extents.len() * EXTENT_OVERHEAD
    }

    /// One past the last byte held, 0 for an empty set.
    pub fn end(&self) -> u64 {
        self.extents.last_key_value().map_or(0, |(offset, bytes)| offset + bytes.len() as u64)
    }

    /// The extents `(offset, bytes)`, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &[u8])> + '_ {
        self.extents.iter().map(|(&offset, bytes)| (offset, bytes.as_slice()))
    }

    /// Puts `data` at `offset`; what it covers is replaced.
    ///
    /// # Panics
    /// When the write ends past 2^63: the disk checks the range first.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        assert!(ends_in_range(offset, data.len()), "a write at {offset} ends past 2^63");
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let done = match self.overwrite(offset, data) {
                0 => self.fill_gap(offset, data),
                n => n,
            };
            offset += done as u64;
            data = &data[done..];
        }
    }

    /// Copies what the set holds of `[offset, offset + buf.len())` into `buf`; other bytes stay as they are.
    ///
    /// Returns how many bytes of `buf` were covered.
    pub fn read_over(&self, offset: u64, buf: &mut [u8]) -> usize {
        let end = offset + buf.len() as u64;
        let first = self.extents.range(..=offset).next_back().map_or(offset, |(&at, _)| at);
        let mut covered = 0;
        for (&at, bytes) in self.extents.range(first..end) {
            let from = at.max(offset);
            let to = (at + bytes.len() as u64).min(end);
            if from < to {
                let source = &bytes[(from - at) as usize..(to - at) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
                covered += source.len();
            }
        }
        covered
    }

    /// Puts a later set over this one.
    pub fn merge(&mut self, later: &Self) {
        for (offset, bytes) in later.iter() {
            self.write(offset, bytes);
        }
    }

    /// Length of [`Self::encode`]'s result, in bytes.
    pub fn encoded_len(&self) -> usize {
        4 + self.extents.len() * TABLE_ENTRY + self.bytes
    }

    /// Appends the encoding: extent count, a table of offsets and lengths, then the bytes.
    ///
    /// # Panics
    /// At more than [`EXTENT_COUNT_MAX`] extents: the overlay's limit keeps a set far below.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.extents.len() <= EXTENT_COUNT_MAX, "a write set of {} extents", self.extents.len());
        out.reserve(self.encoded_len());
        out.extend_from_slice(&(self.extents.len() as u32).to_le_bytes());
        for (offset, bytes) in &self.extents {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        }
        for bytes in self.extents.values() {
            out.extend_from_slice(bytes);
        }
    }

    /// Builds a set from untrusted bytes; nothing is allocated beyond their length and the extents' overhead.
    pub fn decode(bytes: &[u8]) -> Result<Self, WriteSetError> {
        let wrong_length = WriteSetError::Length { len: bytes.len() };
        let (count, rest) = bytes.split_first_chunk::<4>().ok_or(wrong_length)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > EXTENT_COUNT_MAX {
            return Err(WriteSetError::Count { count });
        }
        let (table, mut data) = rest.split_at_checked(count * TABLE_ENTRY).ok_or(wrong_length)?;
        let mut set = Self::new();
        for (index, entry) in table.as_chunks::<TABLE_ENTRY>().0.iter().enumerate() {
            let (offset, len) = table_entry(entry);
            if len == 0 || len > EXTENT_BYTES_MAX || offset < set.end() || !ends_in_range(offset, len) {
                return Err(WriteSetError::Extent { index });
            }
            let (extent, rest) = data.split_at_checked(len).ok_or(wrong_length)?;
            set.extents.insert(offset, extent.to_vec());
            set.bytes += len;
            data = rest;
        }
        if data.is_empty() { Ok(set) } else { Err(wrong_length) }
    }

    /// Replaces bytes of the extent that holds `offset`; returns how many, 0 when no extent holds it.
    fn overwrite(&mut self, offset: u64, data: &[u8]) -> usize {
        let Some((&at, bytes)) = self.extents.range_mut(..=offset).next_back() else { return 0 };
        let Some(target) = usize::try_from(offset - at).ok().and_then(|skip| bytes.get_mut(skip..)) else { return 0 };
        let n = target.len().min(data.len());
        target[..n].copy_from_slice(&data[..n]);
        n
    }

    /// Takes bytes in from `offset`, which no extent holds, up to the next extent; returns how many.
    fn fill_gap(&mut self, offset: u64, data: &[u8]) -> usize {
        let next = self.extents.range(offset..).next().map_or(u64::MAX, |(&at, _)| at);
        let gap = usize::try_from(next - offset).unwrap_or(usize::MAX);
        let n = data.len().min(gap).min(EXTENT_BYTES_MAX);
        self.bytes += n;
        if let Some((&at, bytes)) = self.extents.range_mut(..offset).next_back()
            && at + bytes.len() as u64 == offset
            && bytes.len() + n <= EXTENT_BYTES_MAX
        {
            bytes.extend_from_slice(&data[..n]);
        } else {
            self.extents.insert(offset, data[..n].to_vec());
        }
        n
    }
}

fn ends_in_range(offset: u64, len: usize) -> bool {
    offset.checked_add(len as u64).is_some_and(|end| end <= 1 << 63)
}

fn table_entry(entry: &[u8; TABLE_ENTRY]) -> (u64, usize) {
    let (offset, len) = entry.split_at(8);
    let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes"));
    let len = u32::from_le_bytes(len.try_into().expect("four bytes"));
    (offset, len as usize)
}

#[cfg(test)]
mod tests;
