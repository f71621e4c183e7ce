//! An allocator that ends the program where a number of the input decides how much is allocated.

use std::alloc::{GlobalAlloc, Layout, System};

/// More in one piece than anything here needs for a small input.
pub const PIECE_BYTES_MAX: usize = 256 << 20;

struct Bounded;

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's duty, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn check(size: usize) {
    if size > PIECE_BYTES_MAX {
        eprintln!("{size} bytes in one piece are allocated for an input");
        std::process::abort();
    }
}

#[global_allocator]
static HEAP: Bounded = Bounded;
