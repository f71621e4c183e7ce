//! Every step between which a crash may come has a name, and a hook that a test hangs itself on.
//!
//! Without a hook a step is one relaxed load and a branch that is never taken.

use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A point that is reached; what comes after it has not happened yet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Step { $($(#[$doc])* $name,)+ }

        impl Step {
            /// All of them.
            pub const ALL: &[Step] = &[$(Step::$name,)+];
        }
    };
}

steps! {
    /// Creating: the new file has its length and no header.
    FileReserved,
    /// Creating: the new file is whole, under its temporary name.
    FileWritten,
    /// Creating: the file has its name.
    FileNamed,
    /// Mapping: the log's table names the region.
    RegionListed,
    /// Mapping: the region names its log.
    RegionBound,
    /// Unmapping: the region names no log any more; the table still names the region.
    RegionFreed,
    /// Unmapping: the table has forgotten it.
    RegionForgotten,

    /// Vista, first range of a transaction: its number is in the log.
    NumberStored,
    /// Vista, first range in a region: the region knows the transaction's number.
    RegionMarked,
    /// Vista: the before-image is in the log and does not count yet.
    ImageWritten,
    /// Vista: the before-image counts; the range has its old content.
    ImagePublished,
    /// Vista, end: nothing is persisted yet.
    EndBegun,
    /// Vista, end: the new content is where it must be; the log still counts.
    DataPersisted,
    /// Vista, end: the log is discarded. The transaction has happened.
    Committed,
    /// Vista, end: the regions know that it is over.
    RegionsReleased,
    /// Vista, abort: nothing is restored yet.
    AbortBegun,
    /// Vista, abort: one before-image is back.
    AbortRestored,
    /// Vista, abort: all before-images are back and persisted; the log still counts.
    AbortPersisted,
    /// Vista, abort: the log is discarded.
    AbortDiscarded,
    /// Vista, recovery of one region: nothing is restored yet.
    RecoveryBegun,
    /// Vista, recovery: one before-image is back.
    RecoveryRestored,
    /// Vista, recovery: all before-images of one region are back and persisted.
    RecoveryPersisted,
    /// Vista, recovery: the log is discarded.
    RecoveryDiscarded,

    /// Heap: an empty heap is being written.
    HeapFormatting,
    /// Heap: a block was taken from a list of free ones.
    HeapTaken,
    /// Heap: a block was cut from the rest.
    HeapCut,
    /// Heap: the block says that it is allocated.
    HeapMarked,
    /// Heap: the block says that it is free.
    HeapUnmarked,
    /// Heap: the block is in the list of free ones.
    HeapListed,
    /// Heap: the root points elsewhere.
    HeapRooted,

    /// RVM, end: the record is made, in memory.
    RecordSpooled,
    /// RVM, flush: nothing is written yet.
    FlushBegun,
    /// RVM, flush: half of the bytes are written.
    FlushTorn,
    /// RVM, flush: all bytes are written, none is synced.
    FlushWritten,
    /// RVM, flush: they are synced. The transactions have happened.
    FlushSynced,
    /// RVM, truncation: nothing is applied yet.
    TruncationBegun,
    /// RVM, truncation: one record is applied to its segments.
    TruncationApplied,
    /// RVM, truncation: the segments are synced; the log still begins where it did.
    TruncationSynced,
    /// RVM: the log's new status is written, not synced.
    StatusWritten,
    /// RVM: the log's new status is synced.
    StatusSynced,
    /// RVM, recovery: the log is read; nothing is applied yet.
    ReplayBegun,
    /// RVM, recovery: everything is applied and the log is empty.
    ReplayEnded,
}

static HOOK: AtomicUsize = AtomicUsize::new(0);

/// Has `hook` called at every step of this process; `None` takes it away.
///
/// For tests of crashes. The hook may run in a signal handler (page protection): it may kill the process, count, or
/// write to a pipe, and must not use the memory under test.
pub fn set_hook(hook: Option<fn(Step)>) {
    HOOK.store(hook.map_or(0, |hook| hook as usize), Ordering::Release);
}

#[inline(always)]
pub(crate) fn reached(step: Step) {
    if HOOK.load(Ordering::Relaxed) != 0 {
        call(step);
    }
}

/// Whether somebody watches the steps.
pub(crate) fn is_hooked() -> bool {
    HOOK.load(Ordering::Relaxed) != 0
}

#[cold]
#[expect(unsafe_code, reason = "a function pointer is kept in an atomic integer")]
fn call(step: Step) {
    let address = HOOK.load(Ordering::Acquire);
    if address != 0 {
        // SAFETY: `set_hook` is the only one that stores there, and stores either 0 or a `fn(Step)`.
        let hook = unsafe { std::mem::transmute::<usize, fn(Step)>(address) };
        hook(step);
    }
}
