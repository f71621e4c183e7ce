//! userfaultfd in its write-protect mode: memory that a thread of ours sees before it is overwritten.
//!
//! A write to a protected page, by the guest through KVM, by a thread of this process or by the kernel on its behalf,
//! sleeps until the page is released. Reads pass. The protection is of this process's mapping; KVM follows it.
//!
//! A kernel before 6.4 does not protect pages that were never touched: [`Uffd::protects_unpopulated`] says so, and
//! [`are_populated`] finds them.
//!
//! Source: `Documentation/admin-guide/mm/userfaultfd.rst` and `include/uapi/linux/userfaultfd.h` of Linux.

#![expect(unsafe_code, reason = "system calls that have no safe wrapper, on structs laid out as the kernel's")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::PAGE_SIZE;

const UFFD_API: u64 = 0xaa;
/// The device's own call: a new descriptor, without the system call's question for a privilege.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
const FEATURE_WP: u64 = 1 << 0;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Faults read with one call.
const FAULTS_AT_ONCE: usize = 16;
/// How often a call is repeated that the kernel puts off.
const TRIES: usize = 100;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

/// `struct uffd_msg`, as far as page faults go.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// A userfaultfd with write protection.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    protects_unpopulated: bool,
}

impl Uffd {
    /// Opens one that also sees the faults of the kernel, as those of KVM are.
    ///
    /// The error is this host's: no permission (`vm.unprivileged_userfaultfd`), a filter, or a kernel before 5.7.
    pub fn open() -> io::Result<Self> {
        let newest = Self::with_features(FEATURE_WP | FEATURE_WP_UNPOPULATED);
        match newest {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::open_as_before_6_4(),
            other => other,
        }
    }

    /// The same without the feature of Linux 6.4, whether this kernel has it or not.
    pub fn open_as_before_6_4() -> io::Result<Self> {
        Self::with_features(FEATURE_WP)
    }

    fn with_features(features: u64) -> io::Result<Self> {
        let fd = descriptor()?;
        let mut api = Api { api: UFFD_API, features, ioctls: 0 };
        call(fd.as_fd(), UFFDIO_API, &mut api)?;
        Ok(Self { fd, protects_unpopulated: features & FEATURE_WP_UNPOPULATED != 0 })
    }

    /// Whether pages that were never touched can be protected too.
    pub fn protects_unpopulated(&self) -> bool {
        self.protects_unpopulated
    }

    /// The descriptor, to wait for faults.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes `len` bytes of mapped anonymous memory from `start` on fit to be protected.
    pub fn register(&self, start: u64, len: u64) -> io::Result<()> {
        let mut register = Register { range: Range { start, len }, mode: REGISTER_MODE_WP, ioctls: 0 };
        call(self.as_fd(), UFFDIO_REGISTER, &mut register)
    }

    /// Undoes [`Uffd::register`]: nothing in there is protected any more, and all waiting writers continue.
    pub fn unregister(&self, start: u64, len: u64) -> io::Result<()> {
        call(self.as_fd(), UFFDIO_UNREGISTER, &mut Range { start, len })
    }

    /// From now on writes to these bytes wait. After an error some of them may.
    pub fn protect(&self, start: u64, len: u64) -> io::Result<()> {
        self.write_protect(start, len, WRITEPROTECT_MODE_WP)
    }

    /// Writes to these bytes pass again, and waiting ones continue.
    pub fn release(&self, start: u64, len: u64) -> io::Result<()> {
        self.write_protect(start, len, 0)
    }

    /// Those that wait for these bytes look again.
    pub fn wake(&self, start: u64, len: u64) -> io::Result<()> {
        call(self.as_fd(), UFFDIO_WAKE, &mut Range { start, len })
    }

    fn write_protect(&self, start: u64, len: u64, mode: u64) -> io::Result<()> {
        call(self.as_fd(), UFFDIO_WRITEPROTECT, &mut WriteProtect { range: Range { start, len }, mode })
    }

    /// Calls `visit` with the address of each write that has begun to wait since; does not wait for one.
    pub fn take_faults(&self, mut visit: impl FnMut(u64)) -> io::Result<()> {
        let mut messages = [Message { event: 0, reserved: [0; 7], flags: 0, address: 0, thread: 0 }; FAULTS_AT_ONCE];
        loop {
            // SAFETY: the kernel writes whole messages into the array, as many as fit its size at most.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), messages.as_mut_ptr().cast(), size_of_val(&messages)) };
            if read < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            let count = read as usize / size_of::<Message>();
            let faults = messages[..count].iter().filter(|message| message.event == EVENT_PAGEFAULT);
            faults.for_each(|message| visit(message.address));
            if count < FAULTS_AT_ONCE {
                return Ok(());
            }
        }
    }
}

/// By the system call, else by the device, which an administrator can open to others.
fn descriptor() -> io::Result<OwnedFd> {
    const FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes flags only and touches no memory of ours.
    let by_call = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
    if by_call >= 0 {
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        return Ok(unsafe { OwnedFd::from_raw_fd(by_call as i32) });
    }
    let refused = io::Error::last_os_error();
    let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd") else { return Err(refused) };
    // SAFETY: the call takes flags only and touches no memory of ours.
    let by_device = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, FLAGS) };
    if by_device < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(by_device) })
}

fn call<T>(fd: BorrowedFd<'_>, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    for _ in 0..TRIES {
        // SAFETY: each request is called with the struct that the kernel defines for it; it lives through the call. The
        // memory that it names is never read or written by the call, only its protection changes.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
            return Err(error);
        }
    }
    Err(io::Error::last_os_error())
}

/// Whether each of the pages from `start` on that `wanted` counts is in memory, by its number from `start`. `map` is
/// room for the kernel's answer and is grown as needed.
pub fn are_populated(start: u64, pages: usize, wanted: impl IntoIterator<Item = usize>, map: &mut Vec<u8>) -> bool {
    map.clear();
    map.resize(pages, 0);
    // SAFETY: the kernel writes one byte for each page of the range, which is as long as `map`.
    let ret = unsafe { libc::mincore(start as *mut libc::c_void, pages * PAGE_SIZE, map.as_mut_ptr()) };
    ret == 0 && wanted.into_iter().all(|page| map.get(page).is_some_and(|bits| bits & 1 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use crate::testing;
    use std::sync::mpsc;
    use std::time::Duration;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn write_to_a_protected_page_waits_until_it_is_released() {
        let Some(uffd) = testing::uffd() else { return };
        let ram = Ram::new(4 << 20).expect("it fits");
        let start = ram.regions()[0].host_address();
        ram.write_page(3, &[1; PAGE_SIZE]);
        uffd.register(start, 4 << 20).expect("anonymous memory");
        uffd.protect(start, 4 << 20).expect("it is registered");
        let (tell, told) = mpsc::channel();
        let writer = {
            let ram = ram.clone();
            std::thread::spawn(move || {
                ram.memory().write_obj(2u8, GuestAddress(3 * 4096 + 9)).expect("inside RAM");
                tell.send(()).expect("somebody listens");
            })
        };
        let mut seen = Vec::new();
        while seen.is_empty() {
            uffd.take_faults(|address| seen.push(address)).expect("it can be read");
        }
        assert_eq!(seen[0] & !0xfff, start + 3 * 4096);
        assert!(told.recv_timeout(Duration::from_millis(20)).is_err(), "it waits");
        let mut page = [0; PAGE_SIZE];
        assert!(ram.read_page(3, &mut page));
        assert_eq!(page[9], 1);
        uffd.release(start, 4 << 20).expect("it is registered");
        told.recv().expect("it goes on");
        writer.join().expect("it ended");
        assert!(ram.read_page(3, &mut page));
        assert_eq!(page[9], 2);
    }

    #[test]
    fn protect_of_memory_that_is_not_registered_is_an_error() {
        let Some(uffd) = testing::uffd() else { return };
        let ram = Ram::new(2 << 20).expect("it fits");
        assert!(uffd.protect(ram.regions()[0].host_address(), 2 << 20).is_err());
    }

    #[test]
    fn are_populated_finds_pages_that_were_never_touched() {
        let ram = Ram::new(1 << 20).expect("less than a huge page: small ones");
        (4..8).for_each(|gfn| assert!(ram.write_page(gfn, &[1; PAGE_SIZE])));
        let start = ram.regions()[0].host_address();
        let mut map = Vec::new();
        assert!(are_populated(start, 256, 4..8, &mut map));
        assert!(!are_populated(start, 256, 4..9, &mut map));
        assert!(!are_populated(1, 256, 4..8, &mut map), "an address that is none");
    }
}
