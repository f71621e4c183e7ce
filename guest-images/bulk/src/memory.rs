//! The heap: memory from 16 MiB on, handed out once and never taken back. What the guest needs it asks for when it
//! starts and when more connections come than ever before.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::runtime::fail;

const HEAP: usize = 16 << 20;

struct Heap {
    next: AtomicUsize,
    end: AtomicUsize,
}

#[global_allocator]
static HEAP_OF_ALL: Heap = Heap { next: AtomicUsize::new(HEAP), end: AtomicUsize::new(HEAP) };

/// Opens the heap with `mib` MiB.
pub(crate) fn open(mib: usize) {
    HEAP_OF_ALL.end.store(HEAP + (mib << 20), Ordering::Relaxed);
}

// SAFETY: every block lies behind the one before, within memory that nothing else uses. There is one processor.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let begin = self.next.load(Ordering::Relaxed).next_multiple_of(layout.align());
        let next = begin + layout.size();
        if next > self.end.load(Ordering::Relaxed) {
            fail(c"ERROR heap bytes=", layout.size() as u64);
        }
        self.next.store(next, Ordering::Relaxed);
        begin as *mut u8
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Fresh memory of a guest is zero, and no block is handed out twice.
        // SAFETY: as the caller promises.
        unsafe { self.alloc(layout) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
