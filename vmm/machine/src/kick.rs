//! Kicking vCPU threads out of `KVM_RUN`.
//!
//! A signal alone loses a race: it may arrive just before the thread enters the guest. So its handler also sets the
//! `immediate_exit` byte of the vCPU, which makes the next `KVM_RUN` return at once. The vCPU loop clears the byte
//! *before* it looks at the gate, so a kick after that look is never lost.

#![expect(unsafe_code, reason = "a signal handler, and a signal sent to a thread")]

use std::cell::Cell;
use std::ptr;
use std::sync::Mutex;
use std::sync::Once;

use rustix::thread::Pid;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IMMEDIATE_EXIT.with(|byte| {
        let byte = byte.get();
        if !byte.is_null() {
            // SAFETY: the pointer was set by this thread to its own vCPU's mapped run structure and is reset before
            // that is unmapped; the kernel reads the byte, and only this thread writes it.
            unsafe { byte.write_volatile(1) };
        }
    });
}

/// Sends kicks to the vCPU threads that registered.
#[derive(Debug)]
pub struct Kicker {
    /// By their numbers in the kernel: the C library's way to signal a thread takes four system calls.
    threads: Mutex<Vec<Option<Pid>>>,
    /// This one: asking for it takes a system call.
    process: i32,
}

impl Kicker {
    pub(super) fn new(vcpus: usize) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            register_signal_handler(kick_signal(), on_kick)
                .expect("a real-time signal of the C library's range is free");
        });
        Self { threads: Mutex::new(vec![None; vcpus]), process: std::process::id() as i32 }
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<Option<Pid>>> {
        self.threads.lock().expect("no holder of the list of threads panics")
    }

    /// The calling thread runs vCPU `id`, whose run structure has `immediate_exit` at `byte`.
    ///
    /// The registration ends with the returned value, which must be dropped before the vCPU is.
    pub fn register(&self, id: u32, byte: *mut u8) -> Registration<'_> {
        IMMEDIATE_EXIT.with(|cell| cell.set(byte));
        self.threads()[id as usize] = Some(rustix::thread::gettid());
        Registration { kicker: self, id }
    }

    /// The numbers of the registered threads in the kernel.
    pub fn thread_numbers(&self) -> Vec<i32> {
        self.threads().iter().flatten().map(|thread| thread.as_raw_nonzero().get()).collect()
    }

    /// Kicks every registered thread.
    pub fn kick_all(&self) {
        for thread in self.threads().iter().flatten() {
            let (process, thread) = (self.process, thread.as_raw_nonzero().get());
            // SAFETY: only numbers are given. A registered thread has not finished, so its number is nobody else's: it
            // unregisters under this lock before it does.
            let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, kick_signal()) };
            debug_assert_eq!(result, 0);
        }
    }
}

/// Ends a thread's registration when dropped.
#[derive(Debug)]
pub struct Registration<'a> {
    kicker: &'a Kicker,
    id: u32,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.kicker.threads()[self.id as usize] = None;
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}
