//! Blocks of 4 KiB by number: pages of guest memory and pieces of disks alike, and sets of them.

use std::collections::HashMap;

use machine::memory::PAGE_SIZE;

/// Bytes of a block.
pub(in crate::local) const BLOCK: usize = PAGE_SIZE;
const INDEX_BITS: u32 = 48;

/// One block: of guest memory by its page number, or of a disk by its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockId(pub(super) u64);

/// Where a block belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::local) enum Place {
    Page(u64),
    Disk(u16, u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Page(gfn) => write!(f, "page {gfn:#x} of memory"),
            Self::Disk(disk, index) => write!(f, "block {index} of disk {disk}"),
        }
    }
}

impl BlockId {
    pub(super) fn page(gfn: u64) -> Self {
        assert!(gfn >> INDEX_BITS == 0, "page {gfn:#x} is beyond what a processor addresses");
        Self(gfn)
    }

    /// `None` for a place that no disk has.
    pub(super) fn of_disk(disk: u16, index: u64) -> Option<Self> {
        let space = u64::from(disk) + 1;
        (index >> INDEX_BITS == 0 && space >> (64 - INDEX_BITS) == 0).then_some(Self(space << INDEX_BITS | index))
    }

    pub(super) fn place(self) -> Place {
        let index = self.0 & ((1 << INDEX_BITS) - 1);
        match self.0 >> INDEX_BITS {
            0 => Place::Page(index),
            space => Place::Disk((space - 1) as u16, index),
        }
    }
}

/// A set of blocks; blocks beside each other cost a bit each.
#[derive(Debug, Default, Clone)]
pub(super) struct BlockSet {
    words: HashMap<u64, u64>,
}

impl BlockSet {
    /// Takes a block in; false if it was in.
    pub(super) fn insert(&mut self, block: BlockId) -> bool {
        let word = self.words.entry(block.0 / 64).or_default();
        let bit = 1 << (block.0 % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn extend(&mut self, blocks: Vec<BlockId>) {
        for block in blocks {
            self.insert(block);
        }
    }

    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.words.get(&(block.0 / 64)).is_some_and(|word| word & 1 << (block.0 % 64) != 0)
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_tells_its_place_and_sets_keep_them_apart() {
        let places = [Place::Page(0), Place::Page(1 << 40), Place::Disk(0, 0), Place::Disk(6, 1 << 40)];
        let mut set = BlockSet::default();
        for place in places {
            let block = match place {
                Place::Page(gfn) => BlockId::page(gfn),
                Place::Disk(disk, index) => BlockId::of_disk(disk, index).expect("disks have such places"),
            };
            assert_eq!(block.place(), place);
            assert!(!set.contains(block) && set.insert(block) && set.contains(block) && !set.insert(block));
        }
        assert_eq!(BlockId::of_disk(0, 1 << 50), None);
        assert_eq!(BlockId::of_disk(u16::MAX, 0), None);
    }
}
