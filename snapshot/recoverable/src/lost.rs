//! A mapped file that loses its pages: its disk dies, its file is cut, its memory module fails. The next access then raises SIGBUS,
//! whose usual end of the process says nothing.
//!
//! The program has it said ([`end_on_loss`]): which file it was, and what to do. It ends there and then, like a crash, since
//! nothing may go on without what it read or after what it did not write. Nothing that it holds is closed in an orderly way.
//!
//! A system call that meets such a page gives EFAULT instead, which its caller reports.
#![expect(unsafe_code, reason = "a signal handler")]

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Most mapped files that a loss is told of by name; of one beyond them the process ends in silence.
const WATCHED_MAX: usize = 256;

static WATCHED: [AtomicPtr<Watched>; WATCHED_MAX] = [const { AtomicPtr::new(null_mut()) }; WATCHED_MAX];
/// Threads that are in the handler and may look at a `Watched`.
static READERS: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: OnceLock<Ending> = OnceLock::new();

#[derive(Debug)]
struct Watched {
    from: usize,
    len: usize,
    /// All of the message, since nothing can be put together in a signal handler.
    message: Vec<u8>,
}

/// A mapping whose loss is told, for as long as this value lives. It must end before the mapping does.
#[derive(Debug)]
pub struct Watch {
    index: usize,
    watched: Box<Watched>,
}

impl Watch {
    /// Watches `len` bytes from address `from`, which are mapped from the file behind `fd`.
    ///
    /// `None`: too many are watched.
    pub fn over(from: *const u8, len: usize, fd: BorrowedFd<'_>) -> Option<Watch> {
        let watched = Box::new(Watched { from: from as usize, len, message: message(fd) });
        let pointer = (&raw const *watched).cast_mut();
        let is_free = |place: &AtomicPtr<Watched>| {
            place.compare_exchange(null_mut(), pointer, Ordering::SeqCst, Ordering::SeqCst)
        };
        let index = WATCHED.iter().position(|place| is_free(place).is_ok())?;
        Some(Watch { index, watched })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED[self.index].store(null_mut(), Ordering::SeqCst);
        // A handler of another thread may have taken the pointer before; it is out in a moment, or ends the process.
        while READERS.load(Ordering::SeqCst) != 0 {
            std::hint::spin_loop();
        }
        debug_assert!(self.watched.len > 0);
    }
}

fn message(fd: BorrowedFd<'_>) -> Vec<u8> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let path = path.map_or_else(|_| b"a file".to_vec(), |path| path.as_os_str().as_bytes().to_vec());
    let (before, after) = (b"outlast: cannot go on without ".as_slice(), AFTER.as_bytes());
    [before, &path, after].concat()
}

const AFTER: &str = ", which is mapped: a page of it cannot be read or written any more. This process ends as if it had crashed\n  \
                     hint: did its disk fail, or did somebody cut the file? The kernel's log says; mend that before the next start\n";

/// How the process ends.
struct Ending {
    code: libc::c_int,
    previous: UnsafeCell<MaybeUninit<libc::sigaction>>,
}

// SAFETY: `previous` is written before the handler that reads it is installed, and by nobody later.
unsafe impl Sync for Ending {}
// SAFETY: plain data.
unsafe impl Send for Ending {}

/// From now on a loss is told on standard error, and ends the process with `code`. The first call counts.
pub fn end_on_loss(code: u8) -> io::Result<()> {
    let ending =
        INSTALLED.get_or_init(|| Ending { code: code.into(), previous: UnsafeCell::new(MaybeUninit::zeroed()) });
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_loss;
    // SAFETY: `sigaction` is plain data, for which zeros are a value; the handler keeps to what a signal handler may do. A
    // second call would take this handler for the previous one, and is none: it is made only where that is another's.
    unsafe {
        let mut found: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut found);
        if found.sa_sigaction == handler as usize {
            return Ok(());
        }
        ending.previous.get().write(MaybeUninit::new(found));
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn on_loss(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(ending) = INSTALLED.get() else { return };
    // SAFETY: the kernel gives a valid `siginfo_t`.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    READERS.fetch_add(1, Ordering::SeqCst);
    // One that was sent by a process has no address.
    let places = WATCHED.iter().filter(|_| code > 0);
    for place in places {
        // SAFETY: null, or taken from the table while READERS is raised: it is not dropped before that is lowered.
        let Some(watched) = (unsafe { place.load(Ordering::SeqCst).as_ref() }) else { continue };
        if (watched.from..watched.from + watched.len).contains(&address) {
            // SAFETY: both are allowed in a signal handler; the message lives as READERS is raised, and the process ends.
            unsafe {
                libc::write(libc::STDERR_FILENO, watched.message.as_ptr().cast(), watched.message.len());
                libc::_exit(ending.code);
            }
        }
    }
    READERS.fetch_sub(1, Ordering::SeqCst);
    call_previous(ending, signal, info, context);
}

fn call_previous(ending: &Ending, signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `end_on_loss` wrote it before this handler was there; what it holds was installed by its owner as a handler
    // of the kind that its flags say.
    unsafe {
        let previous = (*ending.previous.get()).assume_init_ref();
        match previous.sa_sigaction {
            // The access is done again after we return, and then has its usual end; one that was sent is sent again.
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
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
