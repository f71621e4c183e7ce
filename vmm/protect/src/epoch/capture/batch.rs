//! The pages of one sealed epoch, and when each of them is copied.
//!
//! A batch has a staging page for each dirty page. Most often all are filled in the pause. Those in *armed* blocks are
//! filled later, by the worker alone, and a reader waits for the block that it comes to.
//!
//! ```text
//!   armed ──copied──▶ copied ──protection lifted──▶ released
//! ```

#![expect(unsafe_code, reason = "staging pages are written by one thread and read by others afterwards")]

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::BLOCK_PAGES;
use machine::memory::{Page, Ram};

/// Staging pages, of any content at first.
pub(super) struct Staging(Box<[UnsafeCell<Page>]>);

// SAFETY: a page is written by one thread (`fill`) before it is read by any: before the batch is shared, or by the worker
// before it sets the block's `copied`, which readers look at first.
unsafe impl Sync for Staging {}

impl Staging {
    fn new(len: usize) -> Self {
        // SAFETY: a page of zeroes is a page. The host gives zeroed memory without touching it.
        Self(unsafe { Box::<[UnsafeCell<Page>]>::new_zeroed_slice(len).assume_init() })
    }

    /// Copies page `gfn` of `ram` into place `index`.
    ///
    /// # Safety
    /// Nobody else reads or writes that place meanwhile.
    unsafe fn fill(&self, index: usize, ram: &Ram, gfn: u64) {
        // SAFETY: the caller's promise.
        let page = unsafe { &mut *self.0[index].get() };
        assert!(ram.read_page(gfn, page), "the dirty log names only pages of RAM");
    }

    /// # Safety
    /// Nobody writes that place any more.
    unsafe fn page(&self, index: usize) -> &Page {
        // SAFETY: the caller's promise.
        unsafe { &*self.0[index].get() }
    }
}

/// Staging that was used and waits to be used again, so that a pause pays no page faults for fresh memory.
#[derive(Clone, Default)]
pub(super) struct Pool {
    free: Arc<Mutex<Vec<Staging>>>,
}

/// Buffers kept at most; an epoch in the pause, one on the wire, one being committed.
const POOL_LEN_MAX: usize = 4;
/// Pages that the kept buffers hold together at most: extraordinary epochs must not hold memory for ever.
const POOLED_PAGES_MAX: usize = 128 * 1024;

impl Pool {
    /// A buffer of `len` pages or more, of any content.
    fn take(&self, len: usize) -> Staging {
        let mut free = self.free.lock().expect("no holder of the pool panics");
        if let Some(fits) = free.iter().position(|staging| staging.0.len() >= len) {
            return free.swap_remove(fits);
        }
        // A longer one instead of one of these: nobody wants the old content moved.
        free.pop();
        drop(free);
        Staging::new(len)
    }

    fn give_back(&self, staging: Staging) {
        let mut free = self.free.lock().expect("no holder of the pool panics");
        let pooled: usize = free.iter().map(|staging| staging.0.len()).sum();
        if free.len() < POOL_LEN_MAX && pooled + staging.0.len() <= POOLED_PAGES_MAX {
            free.push(staging);
        }
    }
}

/// Consecutive dirty pages that lie in one block of guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirtyBlock {
    /// The number of its first page, divided by [`BLOCK_PAGES`].
    pub(super) number: u64,
    /// Which of the epoch's pages are in it.
    pub(super) pages: Range<usize>,
}

impl DirtyBlock {
    /// The blocks of `gfns`, which are ascending.
    pub(super) fn split(gfns: &[u64]) -> Vec<Self> {
        let mut start = 0;
        gfns.chunk_by(|a, b| a / BLOCK_PAGES == b / BLOCK_PAGES)
            .map(|chunk| {
                let pages = start..start + chunk.len();
                start = pages.end;
                Self { number: chunk[0] / BLOCK_PAGES, pages }
            })
            .collect()
    }
}

/// A block whose pages are copied while the guest runs.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) block: DirtyBlock,
    /// Written in most of the last epochs: kept for who learns from the faults.
    pub(super) hot: bool,
    copied: AtomicBool,
    released: AtomicBool,
    faulted: AtomicBool,
}

impl Armed {
    pub(super) fn new(block: DirtyBlock, hot: bool) -> Self {
        let [copied, released, faulted] = [const { AtomicBool::new(false) }; 3];
        Self { block, hot, copied, released, faulted }
    }

    pub(super) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    pub(super) fn note_released(&self) {
        self.released.store(true, Ordering::Release);
    }

    /// A write came before its copy.
    pub(super) fn note_fault(&self) {
        self.faulted.store(true, Ordering::Relaxed);
    }

    pub(super) fn was_faulted(&self) -> bool {
        self.faulted.load(Ordering::Relaxed)
    }
}

/// See the module's description.
pub(super) struct Batch {
    gfns: Vec<u64>,
    /// Given back to the pool at the end; until then it is there.
    staging: Option<Staging>,
    armed: Vec<Armed>,
    /// Faults served, and the time that it took, in ns.
    faults: AtomicU64,
    fault_ns: AtomicU64,
    /// Held only to wait for `progressed` and to announce it: by nobody who writes guest memory.
    progress: Mutex<()>,
    progressed: Condvar,
    pool: Pool,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("pages", &self.gfns.len())
            .field("armed", &self.armed.len())
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// Copies the pages that are in no block of `armed`, which are ascending; the guest is stopped.
    pub(super) fn new(ram: &Ram, pool: &Pool, gfns: Vec<u64>, armed: Vec<Armed>) -> Self {
        let staging = pool.take(gfns.len());
        let begins = std::iter::once(0).chain(armed.iter().map(|armed| armed.block.pages.end));
        let ends = armed.iter().map(|armed| armed.block.pages.start).chain([gfns.len()]);
        for (begin, end) in begins.zip(ends) {
            for (index, gfn) in (begin..).zip(&gfns[begin..end]) {
                // SAFETY: nobody else has the staging yet.
                unsafe { staging.fill(index, ram, *gfn) };
            }
        }
        Self {
            gfns,
            staging: Some(staging),
            armed,
            faults: AtomicU64::new(0),
            fault_ns: AtomicU64::new(0),
            progress: Mutex::new(()),
            progressed: Condvar::new(),
            pool: pool.clone(),
        }
    }

    fn staging(&self) -> &Staging {
        self.staging.as_ref().expect("it is there until the batch is dropped")
    }

    pub(super) fn gfns(&self) -> &[u64] {
        &self.gfns
    }

    pub(super) fn armed(&self) -> &[Armed] {
        &self.armed
    }

    /// The armed block with this number.
    pub(super) fn find(&self, number: u64) -> Option<&Armed> {
        self.armed.binary_search_by_key(&number, |armed| armed.block.number).ok().map(|index| &self.armed[index])
    }

    /// Copies an armed block; `between` is called every few pages, and may copy other blocks.
    ///
    /// # Safety
    /// Only one thread calls this for the blocks of a batch, and each block is protected until it is copied.
    pub(super) unsafe fn copy(&self, armed: &Armed, ram: &Ram, mut between: impl FnMut()) {
        /// About ten microseconds.
        const PAGES_BETWEEN: usize = 32;
        for (count, index) in armed.block.pages.clone().enumerate() {
            if count % PAGES_BETWEEN == PAGES_BETWEEN - 1 {
                between();
            }
            // SAFETY: readers wait for `copied`, and there is one writer (the caller's promise). `between` copies other
            // blocks only: this one is taken.
            unsafe { self.staging().fill(index, ram, self.gfns[index]) };
        }
        armed.copied.store(true, Ordering::Release);
        // A reader looks at `copied` with the lock held, or sleeps: so it cannot miss this.
        drop(self.progress.lock().expect("nobody panics with it"));
        self.progressed.notify_all();
    }

    /// A fault was served, in this time.
    pub(super) fn note_served(&self, took: Duration) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.fault_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The mean time that a fault was served for, if there was one.
    pub(super) fn ns_of_a_fault(&self) -> Option<u64> {
        self.fault_ns.load(Ordering::Relaxed).checked_div(self.faults.load(Ordering::Relaxed))
    }

    fn wait_for(&self, armed: &Armed) {
        if armed.copied.load(Ordering::Acquire) {
            return;
        }
        let mut progress = self.progress.lock().expect("nobody panics with it");
        while !armed.copied.load(Ordering::Acquire) {
            progress = self.progressed.wait(progress).expect("nobody panics with it");
        }
    }

    /// Each page's number and content, waiting for those that are not copied yet.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Page)> {
        let mut armed = self.armed.iter().peekable();
        self.gfns.iter().enumerate().map(move |(index, gfn)| {
            while let Some(next) = armed.next_if(|armed| armed.block.pages.start <= index) {
                self.wait_for(next);
            }
            // SAFETY: pages in armed blocks are not written any more once the wait is over, the others never.
            (*gfn, unsafe { self.staging().page(index) })
        })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            self.pool.give_back(staging);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::memory::PAGE_SIZE;

    #[test]
    fn captured_pages_keep_the_content_of_the_boundary() {
        let ram = Ram::new(1 << 20).expect("it fits");
        ram.write_page(5, &[1; PAGE_SIZE]);
        let batch = Batch::new(&ram, &Pool::default(), vec![5, 7], Vec::new());
        ram.write_page(5, &[2; PAGE_SIZE]);
        let seen: Vec<(u64, u8)> = batch.iter().map(|(gfn, page)| (gfn, page[17])).collect();
        assert_eq!(seen, vec![(5, 1), (7, 0)]);
    }

    #[test]
    fn buffers_come_back_after_use() {
        let ram = Ram::new(1 << 20).expect("it fits");
        let pool = Pool::default();
        drop(Batch::new(&ram, &pool, (0..100).collect(), Vec::new()));
        let batch = Batch::new(&ram, &pool, vec![1], Vec::new());
        assert_eq!((batch.gfns().len(), batch.staging().0.len()), (1, 100));
        drop(Batch::new(&ram, &pool, (0..50).collect(), Vec::new()));
        drop(batch);
        assert_eq!(pool.take(70).0.len(), 100, "one that fits is found behind one that does not");
    }

    #[test]
    fn dirty_blocks_are_cut_where_blocks_of_memory_end() {
        let blocks = DirtyBlock::split(&[3, 511, 512, 1030]);
        let seen: Vec<_> = blocks.into_iter().map(|block| (block.number, block.pages)).collect();
        assert_eq!(seen, vec![(0, 0..2), (1, 2..3), (2, 3..4)]);
        assert!(DirtyBlock::split(&[]).is_empty());
    }
}
