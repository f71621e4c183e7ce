//! The thread that copies armed blocks while the guest runs.
//!
//! It does two things: it copies block after block, and it looks every few pages whether a write waits; the block of that
//! write is copied next. One thread for both: a fault is then served by a thread that is awake, which here costs less
//! than waking another, and nobody has to agree with anybody on who copies a block.
//!
//! Writers of guest memory wait for this thread. So it takes no lock that a writer can hold: only [`Shared::slot`] and the
//! batch's own, whose holders write no guest memory. And it may not go away: a panic ends the process, and the backup
//! takes over, which is better than a guest that hangs.

#![expect(unsafe_code, reason = "it is the one thread that fills armed pages")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::BLOCK_PAGES;
use super::batch::{Armed, Batch};
use machine::memory::uffd::Uffd;
use machine::memory::{PAGE_SIZE, Ram};
use machine::stats::Stats;

/// What the worker and the boundary share.
pub(super) struct Shared {
    pub(super) uffd: Uffd,
    pub(super) ram: Ram,
    stats: Arc<Stats>,
    slot: Mutex<Slot>,
    settled: Condvar,
    wake: OwnedFd,
    /// Protection could not be lifted as it should: no more of it.
    broken: AtomicBool,
}

/// The batch that has armed blocks left. While it is locked and empty, nothing is protected and nobody arms.
#[derive(Default)]
pub(super) struct Slot {
    batch: Option<Arc<Batch>>,
    ended: bool,
}

impl Slot {
    /// Leaves `batch` to the worker. It begins with the first fault, or when it is kicked.
    pub(super) fn give(&mut self, batch: &Arc<Batch>) {
        assert!(self.batch.is_none(), "the slot was settled");
        self.batch = Some(Arc::clone(batch));
    }
}

/// Ends the process when a thread ends by a panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "the thread that guest writes wait for panicked: the process ends, so that the guest does not hang"
            );
            std::process::abort();
        }
    }
}

impl Shared {
    pub(super) fn new(uffd: Uffd, ram: Ram, stats: Arc<Stats>) -> std::io::Result<Self> {
        Ok(Self {
            uffd,
            ram,
            stats,
            slot: Mutex::default(),
            settled: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            broken: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("a panic of its holders ends the process")
    }

    /// Waits until nothing is armed; gives the slot, for the next batch.
    pub(super) fn settle(&self) -> MutexGuard<'_, Slot> {
        let mut slot = self.lock();
        if slot.batch.is_some() {
            self.kick();
        }
        while slot.batch.is_some() {
            slot = self.settled.wait(slot).expect("a panic of its holders ends the process");
        }
        slot
    }

    /// Wakes the worker.
    pub(super) fn kick(&self) {
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).expect("it is read long before its count is full");
    }

    /// Ends the worker when nothing is armed any more.
    pub(super) fn end(&self) {
        self.settle().ended = true;
        self.kick();
    }

    /// Whether it is to be left alone.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Something went wrong that is not to happen twice. The capture goes on by stopping and copying.
    pub(super) fn note_broken(&self, what: &str, error: &std::io::Error) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::warn!(what, %error, "pages are copied in the pause from now on");
        }
    }

    /// Where a block is in this process: address and length, without what is beyond the end of its region.
    pub(super) fn place_of(&self, number: u64) -> Option<(u64, u64)> {
        let first = number * BLOCK_PAGES;
        let region =
            self.ram.regions().iter().find(|r| (r.first_gfn()..r.first_gfn() + r.page_count()).contains(&first))?;
        let (page, left) = (PAGE_SIZE as u64, region.first_gfn() + region.page_count() - first);
        Some((region.host_address() + (first - region.first_gfn()) * page, BLOCK_PAGES.min(left) * page))
    }

    /// The number of the block of an address of this process.
    fn block_at(&self, address: u64) -> Option<u64> {
        let inside = |r: &&machine::memory::Region| (r.host_address()..r.host_address() + r.bytes).contains(&address);
        let region = self.ram.regions().iter().find(inside)?;
        Some((region.first_gfn() + (address - region.host_address()) / PAGE_SIZE as u64) / BLOCK_PAGES)
    }

    /// Lets writes to these bytes pass. A writer that waits for ever is worse than a process that ends.
    fn release(&self, start: u64, len: u64) {
        let Err(error) = self.uffd.release(start, len) else { return };
        self.note_broken("protection could not be lifted", &error);
        for region in self.ram.regions() {
            if let Err(error) = self.uffd.unregister(region.host_address(), region.bytes) {
                tracing::error!(%error, "guest memory stays protected: the process ends, so that the guest does not hang");
                std::process::abort();
            }
        }
    }
}

/// Copies what is given until the end. The body of the worker's thread.
pub(super) fn run(shared: &Shared) {
    let _abort = AbortOnPanic;
    loop {
        let slot = shared.lock();
        let (batch, ended) = (slot.batch.clone(), slot.ended);
        drop(slot);
        match batch {
            Some(batch) => {
                Work { shared, batch: &batch }.copy_all();
                shared.lock().batch = None;
                shared.settled.notify_all();
            }
            None if ended => return,
            None => wait(shared),
        }
    }
}

/// Sleeps until there is something to do. Faults outside a batch are served here: there should be none.
fn wait(shared: &Shared) {
    let watched = [shared.uffd.as_fd(), shared.wake.as_fd()];
    let mut fds = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("poll failed: {error}"),
    }
    // Nothing to read: it was the other one.
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
    let slot = shared.lock();
    if slot.batch.is_none() {
        // Nothing is armed, and nobody arms while the slot is held: whatever is protected is so by mistake.
        let taken =
            shared.uffd.take_faults(|address| shared.release(address & !(PAGE_SIZE as u64 - 1), PAGE_SIZE as u64));
        taken.expect("a userfaultfd can be read");
    }
}

struct Work<'a> {
    shared: &'a Shared,
    batch: &'a Batch,
}

impl Work<'_> {
    fn copy_all(&self) {
        for armed in self.batch.armed() {
            if !armed.is_released() {
                self.copy(armed, || self.serve_faults(Some(armed)));
            }
        }
        self.serve_faults(None);
    }

    fn copy(&self, armed: &Armed, between: impl FnMut()) {
        // SAFETY: this is the worker's thread, and the block is protected: it is released below and nowhere else.
        unsafe { self.batch.copy(armed, &self.shared.ram, between) };
        armed.note_released();
        let (start, len) = self.shared.place_of(armed.block.number).expect("armed blocks are RAM");
        self.shared.release(start, len);
    }

    /// Copies the blocks that writes wait for. `busy` is being copied already: its release wakes who waits for it.
    fn serve_faults(&self, busy: Option<&Armed>) {
        let taken = self.shared.uffd.take_faults(|address| {
            let block = self.shared.block_at(address).and_then(|number| self.batch.find(number));
            match block {
                Some(armed) if busy.is_some_and(|busy| std::ptr::eq(busy, armed)) => {
                    armed.note_fault();
                    self.shared.stats.count_fault();
                }
                Some(armed) if !armed.is_released() => self.serve(armed),
                // Released between the fault and this look. Whoever waits looks again.
                _ => self.shared.release(address & !(PAGE_SIZE as u64 - 1), PAGE_SIZE as u64),
            }
        });
        taken.expect("a userfaultfd can be read");
    }

    fn serve(&self, armed: &Armed) {
        let began = Instant::now();
        armed.note_fault();
        // Before the release: whoever waited finds it counted.
        self.shared.stats.count_fault();
        self.copy(armed, || {});
        let took = began.elapsed();
        self.batch.note_served(took);
        self.shared.stats.record_fault(took);
    }
}
