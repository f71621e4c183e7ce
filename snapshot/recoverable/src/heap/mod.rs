//! A heap in recoverable memory: what is allocated and freed in a transaction is rolled back with it.
//!
//! Blocks are named by their offset in the region, so the region may be mapped anywhere. Sizes are rounded up to classes, four
//! for each doubling; a freed block goes to the list of its class and is used again for that class, or for smaller ones
//! when nothing else is left. Blocks are neither split nor joined.
//!
//! ```text
//! region    0 magic   8 format, sealed   16 length   24 end of what was ever used   32 root   40 bytes allocated
//!          64 heads of the lists of free blocks, 8 bytes for each class
//!        1024 block, block, …
//! block     0 offset / 16 << 9 | class << 1 | is allocated, sealed    8 bytes asked for    16 the bytes; of a free one: next
//! ```

use std::num::NonZeroU64;
use std::ops::Range;

use crate::error::Error;
use crate::memory::Declare;
use crate::region_id::RegionId;
use crate::step::{Step, reached};
use crate::word::{seal, unseal};

#[cfg(test)]
mod tests;

const MAGIC: u64 = u64::from_le_bytes(*b"OLHEAP\0\0");
const FORMAT: u64 = 1;
const LEN_AT: usize = 16;
const END_AT: usize = 24;
const ROOT_AT: usize = 32;
const ALLOCATED_AT: usize = 40;
const LISTS_AT: usize = 64;
const BLOCKS_AT: usize = 1024;
const BLOCK_HEAD: usize = 16;
const CLASSES: usize = 116;
/// Largest region that a heap uses, in bytes.
const LEN_MAX: usize = 1 << 34;

/// A block of a heap: its offset in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointer(NonZeroU64);

impl Pointer {
    /// The number to be stored in memory.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The pointer of a number that was read from memory; nothing for 0. Whether there is a block is checked when it is used.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }
}

/// A heap that fills one region. It keeps no state outside the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    region: RegionId,
}

/// Bytes of a block of this class, without its head.
const fn class_len(class: usize) -> usize {
    let (group, step) = (class / 4, class % 4);
    match group {
        0 => 16 * (step + 1),
        _ => (64 + 16 * (step + 1)) << (group - 1),
    }
}

/// The smallest class that holds `len` bytes.
fn class_of(len: usize) -> Option<usize> {
    // Group g > 0 holds sizes above 64 << (g - 1) and up to 64 << g.
    let group = len.div_ceil(64).checked_next_power_of_two()?.trailing_zeros() as usize;
    let first = group * 4;
    (first..first + 4).find(|&class| class < CLASSES && class_len(class) >= len)
}

fn list_at(class: usize) -> usize {
    LISTS_AT + class * 8
}

impl Heap {
    /// Opens the heap of a region, or makes one in a region of zeros. The memory must be in a transaction.
    ///
    /// # Errors
    /// [`Error::NotABlock`] at offset 0 when the region holds something else.
    pub fn open<M: Declare + ?Sized>(memory: &mut M, region: RegionId) -> Result<Self, Error> {
        let heap = Self { region };
        let len = memory.bytes(region)?.len();
        if !(BLOCKS_AT + BLOCK_HEAD..=LEN_MAX).contains(&len) {
            return Err(Error::HeapFull { needs: BLOCKS_AT + BLOCK_HEAD, len });
        }
        let head = &memory.bytes(region)?[..BLOCKS_AT];
        if head.iter().all(|&byte| byte == 0) {
            heap.format(memory, len)?;
        }
        let is_heap = heap.read(memory, 0)? == MAGIC
            && unseal(heap.read(memory, 8)?) == Some(FORMAT)
            && heap.read(memory, LEN_AT)? == len as u64;
        if is_heap { Ok(heap) } else { Err(Error::NotABlock { at: 0 }) }
    }

    fn format<M: Declare + ?Sized>(&self, memory: &mut M, len: usize) -> Result<(), Error> {
        let head = memory.set_range(self.region, 0..LISTS_AT)?;
        let mut put = |at: usize, value: u64| head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, MAGIC);
        reached(Step::HeapFormatting);
        put(8, seal(FORMAT));
        put(LEN_AT, len as u64);
        put(END_AT, BLOCKS_AT as u64);
        Ok(())
    }

    /// Allocates `len` bytes. What they hold is what a block freed there left, or zeros.
    ///
    /// # Errors
    /// [`Error::HeapFull`]; [`Error::LogFull`], after which the transaction must be aborted.
    pub fn alloc<M: Declare + ?Sized>(&self, memory: &mut M, len: usize) -> Result<Pointer, Error> {
        let full = |memory: &M| Error::HeapFull { needs: len, len: memory.bytes(self.region).map_or(0, <[u8]>::len) };
        let class = class_of(len).ok_or_else(|| full(memory))?;
        let (at, class) = match self.take(memory, class)? {
            Some(at) => (at, class),
            None => match self.cut(memory, class)? {
                Some(at) => (at, class),
                None => self.take_larger(memory, class)?.ok_or_else(|| full(memory))?,
            },
        };
        let head = memory.set_range(self.region, at..at + BLOCK_HEAD)?;
        head[..8].copy_from_slice(&block_word(at, class, true).to_le_bytes());
        head[8..].copy_from_slice(&(len as u64).to_le_bytes());
        reached(Step::HeapMarked);
        let allocated = self.read(memory, ALLOCATED_AT)? + len as u64;
        self.write(memory, ALLOCATED_AT, allocated)?;
        Ok(Pointer::new((at + BLOCK_HEAD) as u64).expect("blocks begin after the head"))
    }

    /// Frees a block.
    ///
    /// # Errors
    /// [`Error::NotABlock`] when it is none, or free already: nothing is changed.
    pub fn free<M: Declare + ?Sized>(&self, memory: &mut M, pointer: Pointer) -> Result<(), Error> {
        let (at, class, len) = self.block(memory, pointer)?;
        self.write(memory, at, block_word(at, class, false))?;
        reached(Step::HeapUnmarked);
        let next = self.read(memory, list_at(class))?;
        self.write(memory, at + BLOCK_HEAD, next)?;
        self.write(memory, list_at(class), at as u64)?;
        reached(Step::HeapListed);
        let allocated = self.read(memory, ALLOCATED_AT)?.saturating_sub(len as u64);
        self.write(memory, ALLOCATED_AT, allocated)
    }

    /// The bytes of a block.
    pub fn bytes<'m, M: Declare + ?Sized>(&self, memory: &'m M, pointer: Pointer) -> Result<&'m [u8], Error> {
        let (at, _, len) = self.block(memory, pointer)?;
        Ok(&memory.bytes(self.region)?[at + BLOCK_HEAD..at + BLOCK_HEAD + len])
    }

    /// Declares a range of a block and gives it to be changed.
    pub fn set_range<'m, M: Declare + ?Sized>(
        &self,
        memory: &'m mut M,
        pointer: Pointer,
        range: Range<usize>,
    ) -> Result<&'m mut [u8], Error> {
        let (at, _, len) = self.block(memory, pointer)?;
        crate::memory::check_range(self.region, &range, len)?;
        let at = at + BLOCK_HEAD;
        memory.set_range(self.region, at + range.start..at + range.end)
    }

    /// The block from which all others are found.
    pub fn root<M: Declare + ?Sized>(&self, memory: &M) -> Result<Option<Pointer>, Error> {
        Ok(Pointer::new(self.read(memory, ROOT_AT)?))
    }

    /// Sets it.
    pub fn set_root<M: Declare + ?Sized>(&self, memory: &mut M, root: Option<Pointer>) -> Result<(), Error> {
        self.write(memory, ROOT_AT, root.map_or(0, Pointer::get))?;
        reached(Step::HeapRooted);
        Ok(())
    }

    /// Bytes allocated, as they were asked for.
    pub fn allocated_bytes<M: Declare + ?Sized>(&self, memory: &M) -> Result<u64, Error> {
        self.read(memory, ALLOCATED_AT)
    }

    /// The first free block of the class.
    fn take<M: Declare + ?Sized>(&self, memory: &mut M, class: usize) -> Result<Option<usize>, Error> {
        let at = self.read(memory, list_at(class))?;
        if at == 0 {
            return Ok(None);
        }
        let damaged = Error::NotABlock { at };
        let len = memory.bytes(self.region)?.len();
        let at = usize::try_from(at).ok().filter(|&at| at >= BLOCKS_AT && at + BLOCK_HEAD + 8 <= len);
        let Some(at) = at else { return Err(damaged) };
        if self.read(memory, at)? != block_word(at, class, false) {
            return Err(damaged);
        }
        let next = self.read(memory, at + BLOCK_HEAD)?;
        self.write(memory, list_at(class), next)?;
        reached(Step::HeapTaken);
        Ok(Some(at))
    }

    /// A new block behind all others.
    fn cut<M: Declare + ?Sized>(&self, memory: &mut M, class: usize) -> Result<Option<usize>, Error> {
        let at = self.read(memory, END_AT)? as usize;
        let end = at + BLOCK_HEAD + class_len(class);
        if end > memory.bytes(self.region)?.len() {
            return Ok(None);
        }
        self.write(memory, END_AT, end as u64)?;
        reached(Step::HeapCut);
        Ok(Some(at))
    }

    fn take_larger<M: Declare + ?Sized>(&self, memory: &mut M, class: usize) -> Result<Option<(usize, usize)>, Error> {
        for class in class + 1..CLASSES {
            if let Some(at) = self.take(memory, class)? {
                return Ok(Some((at, class)));
            }
        }
        Ok(None)
    }

    /// Where the block begins, its class, and the bytes asked for.
    fn block<M: Declare + ?Sized>(&self, memory: &M, pointer: Pointer) -> Result<(usize, usize, usize), Error> {
        let number = pointer.get();
        let damaged = || Error::NotABlock { at: number };
        let bytes = memory.bytes(self.region)?;
        let at = usize::try_from(number).ok().and_then(|at| at.checked_sub(BLOCK_HEAD)).ok_or_else(damaged)?;
        if at < BLOCKS_AT || !at.is_multiple_of(16) || at + BLOCK_HEAD > bytes.len() {
            return Err(damaged());
        }
        let value = unseal(self.read(memory, at)?).ok_or_else(damaged)?;
        let class = (value >> 1 & 0xff) as usize;
        if class >= CLASSES || self.read(memory, at)? != block_word(at, class, true) {
            return Err(damaged());
        }
        let len = self.read(memory, at + 8)? as usize;
        if len > class_len(class) || at + BLOCK_HEAD + len > bytes.len() {
            return Err(damaged());
        }
        Ok((at, class, len))
    }

    fn read<M: Declare + ?Sized>(&self, memory: &M, at: usize) -> Result<u64, Error> {
        let bytes = memory.bytes(self.region)?;
        Ok(u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
    }

    fn write<M: Declare + ?Sized>(&self, memory: &mut M, at: usize, value: u64) -> Result<(), Error> {
        memory.set_range(self.region, at..at + 8)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

/// Says where the block is, so that a stale pointer into another block is not taken for one.
fn block_word(at: usize, class: usize, is_allocated: bool) -> u64 {
    seal((at as u64 / 16) << 9 | (class as u64) << 1 | u64::from(is_allocated))
}
