//! Dirty marks: which guest pages the VMM itself has written.
//!
//! KVM's log sees the guest's writes and never ours; this bitmap sees ours and never the guest's. The dirty set of an
//! epoch is the union. Marks are set through [`vm_memory`]'s bitmap hook, so that every write through the guest memory
//! API is seen; there is no second path.
//!
//! Two levels: a summary bit covers 64 words (4,096 pages), so that an epoch with few marks costs a few words to
//! harvest, whatever the size of RAM.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, NewBitmap, WithBitmapSlice};

use super::PAGE_SIZE;

/// Dirty marks of one memory region, one bit a page, shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct DirtyMarks {
    levels: Arc<Levels>,
}

#[derive(Debug, Default)]
struct Levels {
    page_count: usize,
    words: Vec<AtomicU64>,
    summary: Vec<AtomicU64>,
}

impl DirtyMarks {
    /// Marks for `byte_size` bytes of memory, all clean.
    pub fn new(byte_size: usize) -> Self {
        let page_count = byte_size.div_ceil(PAGE_SIZE);
        let zeroed = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let words = zeroed(page_count.div_ceil(64));
        let summary = zeroed(words.len().div_ceil(64));
        Self { levels: Arc::new(Levels { page_count, words, summary }) }
    }

    fn mark_page(&self, page: usize) {
        let Levels { page_count, words, summary } = &*self.levels;
        if page >= *page_count {
            return;
        }
        // The word before its summary bit: a harvester that sees the summary bit sees the word.
        words[page / 64].fetch_or(1 << (page % 64), Ordering::Release);
        summary[page / 4096].fetch_or(1 << (page / 64 % 64), Ordering::Release);
    }

    /// Takes all marks: calls `visit(word_index, bits)` for every non-zero word of 64 pages and leaves it clean.
    ///
    /// A mark set concurrently is either visited now or stays for the next harvest.
    pub fn take(&self, mut visit: impl FnMut(usize, u64)) {
        let Levels { page_count: _, words, summary } = &*self.levels;
        for (top, bits) in summary.iter().enumerate() {
            if bits.load(Ordering::Acquire) == 0 {
                continue;
            }
            for word in set_bits(bits.swap(0, Ordering::AcqRel)) {
                let index = top * 64 + word;
                match words[index].swap(0, Ordering::AcqRel) {
                    0 => {}
                    pages => visit(index, pages),
                }
            }
        }
    }
}

/// The positions of the bits set in `word`, lowest first.
pub fn set_bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then_some(word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        bit
    })
}

/// Marks from an offset on: what a slice of guest memory carries.
#[derive(Debug, Clone)]
pub struct MarksSlice {
    marks: DirtyMarks,
    base: usize,
}

impl<'a> WithBitmapSlice<'a> for MarksSlice {
    type S = MarksSlice;
}

impl vm_memory::bitmap::BitmapSlice for MarksSlice {}

impl Bitmap for MarksSlice {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.marks.mark_dirty(self.base.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.marks.dirty_at(self.base.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> MarksSlice {
        MarksSlice { marks: self.marks.clone(), base: self.base.saturating_add(offset) }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyMarks {
    type S = MarksSlice;
}

impl Bitmap for DirtyMarks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let last = offset.saturating_add(len - 1) / PAGE_SIZE;
        for page in offset / PAGE_SIZE..=last.min(self.levels.page_count.saturating_sub(1)) {
            self.mark_page(page);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE_SIZE;
        page < self.levels.page_count && self.levels.words[page / 64].load(Ordering::Acquire) & (1 << (page % 64)) != 0
    }

    fn slice_at(&self, offset: usize) -> MarksSlice {
        MarksSlice { marks: self.clone(), base: offset }
    }
}

impl NewBitmap for DirtyMarks {
    fn with_len(len: usize) -> Self {
        Self::new(len)
    }
}

const _: () = assert!(NonZeroUsize::new(PAGE_SIZE).is_some());

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(marks: &DirtyMarks) -> Vec<usize> {
        let mut pages = Vec::new();
        marks.take(|word, bits| pages.extend(set_bits(bits).map(|bit| word * 64 + bit)));
        pages
    }

    #[test]
    fn take_after_marks_returns_each_page_once() {
        let marks = DirtyMarks::new(1 << 30);
        marks.mark_dirty(0, 1);
        marks.mark_dirty(4095, 2);
        marks.mark_dirty((1 << 30) - 1, 1);
        assert_eq!(taken(&marks), vec![0, 1, (1 << 18) - 1]);
        assert!(taken(&marks).is_empty());
    }

    #[test]
    fn mark_beyond_the_end_is_ignored() {
        let marks = DirtyMarks::new(8192);
        marks.mark_dirty(4096, usize::MAX);
        marks.mark_dirty(1 << 40, 10);
        assert_eq!(taken(&marks), vec![1]);
    }

    #[test]
    fn slices_mark_relative_to_their_base() {
        let marks = DirtyMarks::new(1 << 20);
        marks.slice_at(8192).slice_at(4096).mark_dirty(10, 1);
        assert!(marks.dirty_at(3 * 4096));
        assert_eq!(taken(&marks), vec![3]);
    }
}
