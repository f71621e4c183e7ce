//! A set of guest pages: one bit for each page of a memory slot.
//!
//! It is what KVM's dirty log, our own writes and the copy of an epoch have in common. It is not a map of guest memory:
//! a bit's number is the page's index inside its slot, and what that slot is stands elsewhere.
//!
//! Invariant: bits at and past [`PageBitmap::page_count`] are zero, so counting and iterating never look at the bounds.
//!
//! On the epoch path: every operation is a pass over words, none allocates but [`PageBitmap::new`] and `clone`.

/// Dirty pages of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    page_count: u64,
}

impl PageBitmap {
    /// An empty set over `page_count` pages.
    pub fn new(page_count: u64) -> Self {
        let words = usize::try_from(page_count.div_ceil(64)).expect("a slot's bitmap fits the address space");
        Self { words: vec![0; words], page_count }
    }

    /// Number of pages that the set ranges over, dirty or not.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// The words, lowest page in bit 0 of word 0: the layout of `KVM_GET_DIRTY_LOG`.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Puts one page into the set.
    ///
    /// # Panics
    /// If `page` is outside the slot: the code that computed it has a bug.
    pub fn set(&mut self, page: u64) {
        assert!(page < self.page_count, "page {page} is outside a slot of {} pages", self.page_count);
        self.words[(page / 64) as usize] |= 1 << (page % 64);
    }

    /// Puts `count` pages from `first` on into the set.
    ///
    /// # Panics
    /// When the range leaves the slot.
    pub fn set_range(&mut self, first: u64, count: u64) {
        let end = first.checked_add(count).expect("a page range does not wrap");
        assert!(end <= self.page_count, "pages {first}..{end} leave a slot of {} pages", self.page_count);
        let mut page = first;
        while page < end {
            let bit = page % 64;
            let run = (64 - bit).min(end - page);
            self.words[(page / 64) as usize] |= (u64::MAX >> (64 - run)) << bit;
            page += run;
        }
    }

    /// Whether a page is in the set; a page outside the slot is not.
    pub fn contains(&self, page: u64) -> bool {
        page < self.page_count && self.words[(page / 64) as usize] >> (page % 64) & 1 == 1
    }

    /// Adds the pages of `words`, which has the layout of [`Self::words`]. Bits past the last page are ignored.
    ///
    /// # Panics
    /// When `words` has another length than the set's own.
    pub fn or_words(&mut self, words: &[u64]) {
        assert_eq!(words.len(), self.words.len(), "bitmaps of slots of different size");
        for (ours, theirs) in self.words.iter_mut().zip(words) {
            *ours |= theirs;
        }
        self.mask_tail();
    }

    /// Adds the pages of another set over the same slot.
    pub fn union(&mut self, other: &Self) {
        assert_eq!(self.page_count, other.page_count, "bitmaps of slots of different size");
        self.or_words(&other.words);
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts every page into the set: what a first, whole copy is driven by.
    pub fn fill(&mut self) {
        self.words.fill(u64::MAX);
        self.mask_tail();
    }

    /// Number of pages in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The pages in the set, ascending.
    pub fn iter(&self) -> Pages<'_> {
        Pages { words: &self.words, index: 0, left: self.words.first().copied().unwrap_or(0) }
    }

    /// The pages as runs `(first, count)` of neighbours, ascending, as long as they get.
    pub fn runs(&self) -> Runs<'_> {
        Runs { bitmap: self, next: 0 }
    }

    fn mask_tail(&mut self) {
        let used = self.page_count % 64;
        if let (Some(last), true) = (self.words.last_mut(), used != 0) {
            *last &= u64::MAX >> (64 - used);
        }
    }

    /// The first page at or after `from` whose membership is `member`, or the slot's end.
    fn find_from(&self, from: u64, member: bool) -> u64 {
        let flip = if member { 0 } else { u64::MAX };
        let mut index = (from / 64) as usize;
        let mut keep = u64::MAX << (from % 64);
        while let Some(&word) = self.words.get(index) {
            let hits = (word ^ flip) & keep;
            if hits != 0 {
                return (index as u64 * 64 + u64::from(hits.trailing_zeros())).min(self.page_count);
            }
            index += 1;
            keep = u64::MAX;
        }
        self.page_count
    }
}

impl<'a> IntoIterator for &'a PageBitmap {
    type Item = u64;
    type IntoIter = Pages<'a>;

    fn into_iter(self) -> Pages<'a> {
        self.iter()
    }
}

/// Iterator over the pages of a [`PageBitmap`].
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    words: &'a [u64],
    index: usize,
    left: u64,
}

impl Iterator for Pages<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.left == 0 {
            self.index += 1;
            self.left = *self.words.get(self.index)?;
        }
        let bit = self.left.trailing_zeros();
        self.left &= self.left - 1;
        Some(self.index as u64 * 64 + u64::from(bit))
    }
}

/// Iterator over the runs of neighbouring pages of a [`PageBitmap`].
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    bitmap: &'a PageBitmap,
    next: u64,
}

impl Iterator for Runs<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let first = self.bitmap.find_from(self.next, true);
        if first == self.bitmap.page_count {
            return None;
        }
        self.next = self.bitmap.find_from(first, false);
        Some((first, self.next - first))
    }
}

#[cfg(test)]
mod tests;
