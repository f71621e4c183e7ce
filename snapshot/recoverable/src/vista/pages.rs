//! Finding what a transaction writes by page protection.
//!
//! The pages of such a region are read-only. The first store to a page raises SIGSEGV; the handler puts the page's
//! before-image into the log, makes the page writable, and the store is done again. Faults elsewhere go to the handler
//! that was there before.
//!
//! When the log is full, the handler maps a private copy of the page instead, so that the file keeps the before-image: the
//! program goes on, the end of the transaction is refused, and its abort drops the copies.
#![expect(unsafe_code, reason = "a signal handler, and changing the protection of mapped pages")]

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use super::log::{Refusal, UndoLog};
use crate::region::PersistentRegion;

/// Most regions with page protection in one process.
const TRACKED_MAX: usize = 64;

static TRACKED: [AtomicPtr<Tracked>; TRACKED_MAX] = [const { AtomicPtr::new(null_mut()) }; TRACKED_MAX];
/// Threads that are in the handler and may look at a `Tracked`.
static READERS: AtomicUsize = AtomicUsize::new(0);

struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once, before the handler that reads it is installed.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();

/// What the handler knows of one region. It does not move while it is in the table.
#[derive(Debug)]
pub(super) struct Tracked {
    base: usize,
    len: usize,
    granule: usize,
    fd: libc::c_int,
    slot: usize,
    log: *const UndoLog,
    is_active: AtomicBool,
    is_busy: AtomicBool,
    /// Pages got a private copy because the log was full.
    has_overflowed: AtomicBool,
    /// An image could not be persisted.
    has_failed: AtomicBool,
    /// A byte for each page that is writable now.
    pages: Vec<AtomicBool>,
}

/// The tracking of one region; ends with it.
#[derive(Debug)]
pub(super) struct Tracking {
    tracked: Box<Tracked>,
    index: usize,
}

// SAFETY: the log that `Tracked` points to is owned by the same `Vista`, in a box, and outlives the tracking.
unsafe impl Send for Tracking {}
// SAFETY: as above; through a shared reference only atomics are read.
unsafe impl Sync for Tracking {}

impl Tracking {
    /// Begins to track; `log` stays where it is until the tracking is dropped.
    pub(super) fn new(region: &PersistentRegion, slot: usize, log: *const UndoLog) -> io::Result<Self> {
        install()?;
        let granule = region.container().granule;
        let tracked = Box::new(Tracked {
            base: region.data().as_ptr() as usize,
            len: region.len(),
            granule,
            fd: region.container().file.as_raw_fd(),
            slot,
            log,
            is_active: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            has_overflowed: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            pages: (0..region.len().div_ceil(granule)).map(|_| AtomicBool::new(false)).collect(),
        });
        tracked.protect_all()?;
        let pointer = (&raw const *tracked).cast_mut();
        for (index, place) in TRACKED.iter().enumerate() {
            if place.compare_exchange(null_mut(), pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(Self { tracked, index });
            }
        }
        Err(io::Error::other(format!("{TRACKED_MAX} regions are tracked by page protection already")))
    }

    /// The next transaction begins.
    pub(super) fn begin(&self) {
        self.tracked.is_active.store(true, Ordering::Release);
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.tracked.has_overflowed.load(Ordering::Acquire)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.tracked.has_failed.load(Ordering::Acquire)
    }

    /// Drops private copies of pages, so that the file's content is seen again.
    pub(super) fn drop_copies(&self) -> io::Result<()> {
        if self.tracked.has_overflowed.swap(false, Ordering::AcqRel) {
            self.tracked.map(libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE, 0, self.tracked.pages.len())?;
        }
        Ok(())
    }

    /// The transaction is over: all pages are read-only again.
    pub(super) fn end(&self) -> io::Result<()> {
        self.tracked.is_active.store(false, Ordering::Release);
        self.tracked.protect_all()
    }

    /// Has its pages writable until [`Self::end`], for what restores them.
    pub(super) fn open_all(&self) -> io::Result<()> {
        self.tracked.protect(0, self.tracked.pages.len(), libc::PROT_READ | libc::PROT_WRITE)
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        TRACKED[self.index].store(null_mut(), Ordering::SeqCst);
        // A handler of another thread may have taken the pointer before; it is out in a moment.
        while READERS.load(Ordering::SeqCst) != 0 {
            std::hint::spin_loop();
        }
    }
}

impl Tracked {
    fn protect_all(&self) -> io::Result<()> {
        self.pages.iter().for_each(|page| page.store(false, Ordering::Relaxed));
        self.protect(0, self.pages.len(), libc::PROT_READ)
    }

    fn protect(&self, page: usize, count: usize, access: libc::c_int) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let address = (self.base + page * self.granule) as *mut libc::c_void;
        // SAFETY: the pages belong to the region's mapping, which outlives the tracking; only the access changes.
        let rc = unsafe { libc::mprotect(address, count * self.granule, access) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Maps pages of the file again, shared or as a private copy.
    fn map(&self, sharing: libc::c_int, access: libc::c_int, page: usize, count: usize) -> io::Result<()> {
        let address = (self.base + page * self.granule) as *mut libc::c_void;
        let offset = (self.granule + page * self.granule) as libc::off_t;
        let flags = sharing | libc::MAP_FIXED;
        // SAFETY: replaces pages of the region's own mapping by the same pages of the same file.
        let rc = unsafe { libc::mmap(address, count * self.granule, access, flags, self.fd, offset) };
        if rc == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// In the handler: makes the page writable after its before-image is safe. False: not our fault to handle.
    fn open_page(&self, address: usize) -> bool {
        if !self.is_active.load(Ordering::Acquire) {
            return false;
        }
        let page = (address - self.base) / self.granule;
        while self.is_busy.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // Another thread may have opened it between the fault and here.
        let is_open = self.pages[page].load(Ordering::Relaxed) || self.log_and_open(page);
        self.pages[page].store(is_open, Ordering::Relaxed);
        self.is_busy.store(false, Ordering::Release);
        is_open
    }

    fn log_and_open(&self, page: usize) -> bool {
        let at = page * self.granule;
        let len = self.granule.min(self.len - at);
        // SAFETY: the log lives as long as the tracking; only one thread appends, since `is_busy` is held and the
        // transaction's owner is either this thread, at a store, or waits for it. The page is readable.
        let result = unsafe { (*self.log).append(self.slot, at, (self.base + at) as *const u8, len) };
        match result {
            Ok(()) => self.protect(page, 1, libc::PROT_READ | libc::PROT_WRITE).is_ok(),
            Err(refusal) => {
                if let Refusal::Io(_) = refusal {
                    self.has_failed.store(true, Ordering::Release);
                }
                self.has_overflowed.store(true, Ordering::Release);
                self.map(libc::MAP_PRIVATE, libc::PROT_READ | libc::PROT_WRITE, page, 1).is_ok()
            }
        }
    }
}

fn install() -> io::Result<()> {
    let installed = INSTALLED.get_or_init(|| {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        // SAFETY: `sigaction` is plain data; the handler keeps to what a signal handler may do; PREVIOUS is written
        // before any fault of ours, because no region is protected yet, and `OnceLock` lets one thread in.
        let rc = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGSEGV, std::ptr::null(), (*PREVIOUS.0.get()).as_mut_ptr());
            libc::sigaction(libc::SIGSEGV, &action, null_mut())
        };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t`; `errno` belongs to this thread.
    let (address, is_access, errno) =
        unsafe { ((*info).si_addr() as usize, (*info).si_code == SEGV_ACCERR, *libc::__errno_location()) };
    READERS.fetch_add(1, Ordering::SeqCst);
    let is_ours = is_access && TRACKED.iter().any(|place| is_opened_by(place.load(Ordering::SeqCst), address));
    READERS.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if !is_ours {
        call_previous(signal, info, context);
    }
}

const SEGV_ACCERR: libc::c_int = 2;

fn is_opened_by(tracked: *const Tracked, address: usize) -> bool {
    // SAFETY: null, or taken from the table while READERS is raised: it is not dropped before that is lowered.
    let Some(tracked) = (unsafe { tracked.as_ref() }) else { return false };
    (tracked.base..tracked.base + tracked.len).contains(&address) && tracked.open_page(address)
}

fn call_previous(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `install` wrote it before this handler was there; what it holds was installed by its owner as a handler
    // of the kind that its flags say.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        match previous.sa_sigaction {
            // The store is done again after we return, and then has its usual end.
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
