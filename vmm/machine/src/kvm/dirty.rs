//! The dirty log with manual protection: read what was written, then write-protect it again, as two calls.
//!
//! kvm-ioctls 0.25 has no `KVM_CLEAR_DIRTY_LOG` and allocates a vector per `KVM_GET_DIRTY_LOG`; both are on the path of
//! every epoch, so they are issued here on buffers that are kept.

#![expect(unsafe_code, reason = "two ioctls that kvm-ioctls lacks, on buffers of known length")]

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

use super::{KvmError, call_with};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

fn checked(ret: i32) -> Result<(), kvm_ioctls::Error> {
    if ret < 0 { Err(kvm_ioctls::Error::last()) } else { Ok(()) }
}

/// Fills `words` (one bit a page, at least one word per 64 pages of the slot) with the log of `slot`.
pub(super) fn read(vm: &VmFd, slot: u32, words: &mut [u64]) -> Result<(), KvmError> {
    let mut log = kvm_dirty_log { slot, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes one bit a page of the slot, rounded up to whole words; `words` covers the slot (the
    // caller sizes it from the region) and outlives the call.
    call_with(
        || format!("read the dirty log of slot {slot}"),
        checked(unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) }),
    )
}

/// Write-protects the pages of `slot` whose bits are set in `words`; the slot has `page_count` pages. Nothing to do if
/// none is set.
///
/// The kernel looks at every word that it is given, so it gets those from the first to the last with a bit set: a few
/// dirty pages must not cost more in a guest with much memory.
pub(super) fn clear(vm: &VmFd, slot: u32, page_count: u64, words: &mut [u64]) -> Result<(), KvmError> {
    let Some(first) = words.iter().position(|word| *word != 0) else { return Ok(()) };
    let last = words.iter().rposition(|word| *word != 0).expect("one was found from the front");
    let words = &mut words[first..=last];
    let first_page = first as u64 * 64;
    let num_pages = (words.len() as u64 * 64).min(page_count - first_page);
    let mut log = kvm_clear_dirty_log { slot, num_pages: num_pages as u32, first_page, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = words.as_mut_ptr().cast();
    // SAFETY: the kernel reads `num_pages` bits rounded up to whole words, which are as many as `words` has.
    call_with(
        || format!("clear the dirty log of slot {slot}"),
        checked(unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &log) }),
    )
}
