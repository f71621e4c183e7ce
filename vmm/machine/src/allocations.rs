//! Heap allocations of each thread, counted.
//!
//! `outlast` counts them always: what a bench finds is true of the program that people run. A count is an addition to a
//! variable of the thread, without a lock or an atomic operation.

#![expect(unsafe_code, reason = "a global allocator that passes every call on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// It is neither made at its first use nor dropped: an allocator may use it at any time.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts. Memory that grows counts like new memory; what is given back does not count.
#[derive(Debug)]
pub struct Counting;

fn count() {
    COUNT.with(|count| count.set(count.get().wrapping_add(1)));
}

// SAFETY: every call goes to the system's allocator with the arguments that the caller vouches for; counting allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Allocations of the calling thread so far. Always 0 in a program that has another allocator.
pub fn so_far() -> u64 {
    COUNT.with(Cell::get)
}

/// Whether this program counts them.
pub fn are_counted() -> bool {
    let before = so_far();
    drop(std::hint::black_box(Box::new(0_u8)));
    so_far() > before
}
