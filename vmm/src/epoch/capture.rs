//! When a dirty page is copied: the one interface behind which that is decided.
//!
//! [`StopAndCopy`] copies all of them while the guest is stopped. A copy-on-write capture would arm protection there
//! and copy while the guest runs; both give a [`CapturedPages`], which yields each page as it was at the boundary.

use std::sync::{Arc, Mutex};

use crate::memory::{PAGE_SIZE, Page, Ram};

/// Captures the pages of an epoch at its boundary, with all vCPUs stopped.
pub trait Capture: Send {
    /// Takes responsibility for giving the content that `gfns` have now, whatever the guest does afterwards.
    fn capture(&mut self, ram: &Ram, gfns: Vec<u64>) -> CapturedPages;
}

/// The pages of a sealed epoch: numbers and contents.
#[derive(Debug)]
pub struct CapturedPages {
    gfns: Vec<u64>,
    staging: Vec<Page>,
    pool: Pool,
}

impl CapturedPages {
    /// How many pages.
    pub fn len(&self) -> usize {
        self.gfns.len()
    }

    /// No page was written.
    pub fn is_empty(&self) -> bool {
        self.gfns.is_empty()
    }

    /// Each page's number and content at the boundary.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Page)> {
        self.gfns.iter().copied().zip(&self.staging)
    }
}

impl Drop for CapturedPages {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.staging));
    }
}

/// Staging buffers that were used and wait to be used again, so that a pause pays no page faults for fresh memory.
#[derive(Debug, Clone, Default)]
struct Pool {
    free: Arc<Mutex<Vec<Vec<Page>>>>,
}

/// Buffers kept at most; an epoch in the pause, one on the wire, one being committed.
const POOL_LEN_MAX: usize = 4;
/// Pages that the kept buffers hold together at most: extraordinary epochs must not hold memory for ever.
const POOLED_PAGES_MAX: usize = 32 * 1024;

impl Pool {
    /// A buffer of `len` pages or more, of any content.
    fn take(&self, len: usize) -> Vec<Page> {
        let staging = self.free.lock().expect("no holder of the pool panics").pop().unwrap_or_default();
        // A fresh one instead of a longer one: nobody wants the old content moved, and the host gives zeroed memory.
        if staging.len() < len { vec![[0; PAGE_SIZE]; len] } else { staging }
    }

    fn give_back(&self, staging: Vec<Page>) {
        let mut free = self.free.lock().expect("no holder of the pool panics");
        let pooled: usize = free.iter().map(Vec::len).sum();
        if free.len() < POOL_LEN_MAX && pooled + staging.len() <= POOLED_PAGES_MAX {
            free.push(staging);
        }
    }
}

/// Copies every dirty page while the guest is stopped.
#[derive(Debug, Default)]
pub struct StopAndCopy {
    pool: Pool,
}

impl Capture for StopAndCopy {
    fn capture(&mut self, ram: &Ram, gfns: Vec<u64>) -> CapturedPages {
        let mut staging = self.pool.take(gfns.len());
        for (gfn, page) in gfns.iter().zip(&mut staging) {
            assert!(ram.read_page(*gfn, page), "the dirty log names only pages of RAM");
        }
        CapturedPages { gfns, staging, pool: self.pool.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_pages_keep_the_content_of_the_boundary() {
        let ram = Ram::new(1 << 20).expect("it fits");
        ram.write_page(5, &[1; PAGE_SIZE]);
        let pages = StopAndCopy::default().capture(&ram, vec![5, 7]);
        ram.write_page(5, &[2; PAGE_SIZE]);
        let seen: Vec<(u64, u8)> = pages.iter().map(|(gfn, page)| (gfn, page[17])).collect();
        assert_eq!(seen, vec![(5, 1), (7, 0)]);
    }

    #[test]
    fn buffers_come_back_after_use() {
        let ram = Ram::new(1 << 20).expect("it fits");
        let mut capture = StopAndCopy::default();
        drop(capture.capture(&ram, (0..100).collect()));
        let pages = capture.capture(&ram, vec![1]);
        assert_eq!((pages.len(), pages.staging.len()), (1, 100));
    }
}
