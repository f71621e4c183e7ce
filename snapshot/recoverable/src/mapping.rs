//! Mapped memory with a page on either side that nobody may touch.
//!
//! A mapping belongs to one owner. Another process could change the file below it; the lock on the file keeps ours out.
#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::lost::Watch;

/// Length of an ordinary page, in bytes.
pub(crate) const PAGE: usize = 4096;

#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    outer: NonNull<u8>,
    outer_len: usize,
    /// Of one of a file.
    watch: Option<Watch>,
}

// SAFETY: the memory is owned like that of a `Box<[u8]>`: shared references only read or use atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of the file from `offset`, both multiples of `granule` (the page size of the file).
    pub(crate) fn file(file: &File, offset: u64, len: usize, granule: usize, is_sync: bool) -> io::Result<Self> {
        let flags = if is_sync { libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC } else { libc::MAP_SHARED };
        Ok(Self::map(len, granule, flags, file.as_raw_fd(), offset)?.watched(file))
    }

    /// Maps the same without ever changing the file: what is written is this process's own. The file must not change
    /// where this process has not written.
    pub(crate) fn private_file(file: &File, offset: u64, len: usize, granule: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        Ok(Self::map(len, granule, flags, file.as_raw_fd(), offset)?.watched(file))
    }

    /// The same; should the file lose its pages, it is named.
    fn watched(mut self, file: &File) -> Self {
        self.watch = (self.len > 0).then(|| Watch::over(self.as_ptr(), self.len, file.as_fd())).flatten();
        self
    }

    /// Zeros that belong to this process.
    #[cfg(test)]
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(len: usize, granule: usize, flags: libc::c_int, fd: libc::c_int, offset: u64) -> io::Result<Self> {
        let inner_len = len.next_multiple_of(granule);
        let outer_len = inner_len + 3 * granule;
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
        let outer = unsafe { libc::mmap(std::ptr::null_mut(), outer_len, libc::PROT_NONE, reserve, -1, 0) };
        if outer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let outer = NonNull::new(outer.cast::<u8>()).expect("mmap gives no null without MAP_FIXED");
        let skip = (outer.as_ptr() as usize + granule).next_multiple_of(granule) - outer.as_ptr() as usize;
        // SAFETY: `skip` is at most two granules, so base and what is mapped at it lie within the reservation.
        let base = unsafe { outer.add(skip) };
        let mut mapping = Self { base, len, outer, outer_len, watch: None };
        if inner_len == 0 {
            return Ok(mapping);
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: MAP_FIXED replaces only pages of the reservation, which nobody else knows.
        let inner = unsafe {
            libc::mmap(base.as_ptr().cast(), inner_len, access, flags | libc::MAP_FIXED, fd, offset as libc::off_t)
        };
        if inner == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            mapping.len = 0;
            return Err(error);
        }
        Ok(mapping)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `base` are mapped for as long as `self` lives; mutable access takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Eight bytes that are written by one store.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len, "a word lies in its mapping, on eight bytes");
        // SAFETY: in bounds and aligned, because the base is on a page.
        unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU64>() }
    }

    /// Has the kernel write these bytes to where the file lives.
    pub(crate) fn msync(&self, at: usize, len: usize) -> io::Result<()> {
        assert!(at + len <= self.len);
        let from = at - at % PAGE;
        // SAFETY: the range lies in the mapping, rounded down to its page.
        let rc = unsafe { libc::msync(self.base.as_ptr().add(from).cast(), at + len - from, libc::MS_SYNC) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch = None;
        // SAFETY: the reservation is ours, and all references into it end before `self`.
        unsafe { libc::munmap(self.outer.as_ptr().cast(), self.outer_len) };
    }
}

/// Whether the file's memory can be mapped so that flushing the cache makes it durable.
pub(crate) fn maps_sync(file: &File, granule: usize) -> bool {
    Mapping::file(file, 0, granule, granule, true).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_begins_with_zeros_and_keeps_what_is_stored() {
        let mut mapping = Mapping::anonymous(3 * PAGE + 5).unwrap();
        assert!(mapping.bytes().iter().all(|&byte| byte == 0));
        mapping.bytes_mut()[3 * PAGE + 4] = 7;
        assert_eq!(mapping.bytes()[3 * PAGE + 4], 7);
        assert_eq!(mapping.len(), 3 * PAGE + 5);
    }

    #[test]
    fn tmpfs_does_not_grant_map_sync() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(PAGE as u64).unwrap();
        assert!(!maps_sync(&file, PAGE));
    }
}
