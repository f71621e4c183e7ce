//! The time stamp counter of a vCPU: its value, and its offset to the host's.
//!
//! A value is a moment old when it is read, and late when it is written. An offset is neither, so it is what is used where
//! KVM offers it (`KVM_VCPU_TSC_OFFSET`, Linux 5.16).

#![expect(unsafe_code, reason = "two ioctls that kvm-ioctls lacks for vCPUs on x86")]

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::{KvmError, call};

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

fn attribute(offset: &u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_ref(offset) as u64,
    }
}

/// What is added to the host's counter, scaled if the guest's rate is another. `None` where KVM does not say.
pub(super) fn offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut offset = 0;
    let attr = kvm_device_attr { addr: (&raw mut offset) as u64, ..attribute(&0) };
    // SAFETY: KVM writes one 64-bit word to `addr`, which is `offset`; it lives until the call is over.
    let ret = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attr) };
    (ret == 0).then_some(offset)
}

pub(super) fn set_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), KvmError> {
    let attr = attribute(&offset);
    // SAFETY: KVM reads one 64-bit word at `addr`, which is `offset`; it lives until the call is over.
    let ret = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attr) };
    let result = if ret == 0 { Ok(()) } else { Err(kvm_ioctls::Error::last()) };
    call("set the offset of the time stamp counter", result)
}
