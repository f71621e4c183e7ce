//! The call of the doctor that has no safe wrapper.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes an address")]

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A VM with one vCPU and memory at address 0.
///
/// The fields are dropped in this order: the memory outlives the VM that maps it.
pub(super) struct ProbeVm {
    pub(super) vcpu: VcpuFd,
    _vm: VmFd,
    pub(super) memory: GuestMemoryMmap<()>,
}

impl ProbeVm {
    pub(super) fn new(kvm: &Kvm, memory_bytes: usize) -> io::Result<Self> {
        let vm = kvm.create_vm()?;
        let range = (GuestAddress(0), memory_bytes);
        let memory = GuestMemoryMmap::<()>::from_ranges(&[range]).map_err(io::Error::other)?;
        let start = memory.get_host_address(GuestAddress(0)).map_err(io::Error::other)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory_bytes as u64,
            userspace_addr: start as u64,
        };
        // SAFETY: the region is the whole of `memory`, which is mapped now and, being the last field, is unmapped after
        // the VM and its vCPU are closed. Nothing else uses slot 0.
        unsafe { vm.set_user_memory_region(region)? };
        let vcpu = vm.create_vcpu(0)?;
        Ok(ProbeVm { vcpu, _vm: vm, memory })
    }
}
