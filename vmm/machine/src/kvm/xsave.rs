//! The extended save area: its size is known only to KVM, so kvm-ioctls leaves its handling to the caller.

#![expect(unsafe_code, reason = "three ioctls on a buffer whose size KVM announces")]

use kvm_bindings::{KVMIO, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_ptr};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

use super::{KvmError, call};

ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_ior_nr!(KVM_GET_XSAVE2, KVMIO, 0xcf, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);

/// Size of the area without dynamic features, in bytes.
pub(super) const XSAVE_BYTES_MIN: usize = 4096;
/// Largest area accepted from a peer or a file.
pub(super) const XSAVE_BYTES_MAX: usize = 64 * 1024;

/// How this host's KVM hands over the area.
#[derive(Debug, Clone, Copy)]
pub(super) struct SaveArea {
    bytes: usize,
    has_xsave2: bool,
}

impl SaveArea {
    pub(super) fn of(vm: &VmFd) -> Self {
        let announced = vm.check_extension_int(Cap::Xsave2);
        Self { bytes: XSAVE_BYTES_MIN.max(announced.max(0) as usize), has_xsave2: announced > 0 }
    }

    /// Over what `area` has, which is nothing or an earlier one.
    pub(super) fn read(self, vcpu: &VcpuFd, area: &mut Vec<u8>) -> Result<(), KvmError> {
        area.resize(self.bytes, 0);
        let request = if self.has_xsave2 { KVM_GET_XSAVE2() } else { KVM_GET_XSAVE() };
        // SAFETY: KVM_GET_XSAVE writes 4096 bytes and KVM_GET_XSAVE2 what KVM_CAP_XSAVE2 announced; `area` has the
        // larger of both.
        let ret = unsafe { ioctl_with_mut_ptr(vcpu, request, area.as_mut_ptr().cast::<kvm_xsave>()) };
        let result = if ret < 0 { Err(kvm_ioctls::Error::last()) } else { Ok(()) };
        call("read the extended save area", result)
    }

    pub(super) fn write(self, vcpu: &VcpuFd, saved: &[u8]) -> Result<(), KvmError> {
        let mut area = vec![0u8; self.bytes.max(saved.len())];
        area[..saved.len()].copy_from_slice(saved);
        // SAFETY: KVM reads as many bytes as it announced in KVM_CAP_XSAVE2, at least 4096; `area` is no shorter.
        let ret = unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE(), area.as_ptr().cast::<kvm_xsave>()) };
        let result = if ret < 0 { Err(kvm_ioctls::Error::last()) } else { Ok(()) };
        call("write the extended save area", result)
    }
}
