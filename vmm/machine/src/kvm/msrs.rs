//! Model-specific registers: which ones a checkpoint holds, and in which order they go back.
//!
//! KVM's own list misses the memory type range registers on some kernels, so they are added when the host has them.
//! `KVM_SET_MSRS` stops at the first refused register; it is called again from the next one. A refused register of a
//! saved guest is an error, unless it is one of the few that hosts may refuse without harm.

use std::cell::RefCell;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use super::{KvmError, call};

/// Most registers accepted from a peer or a file.
pub(super) const MSRS_MAX: usize = 1024;
/// Most registers of one call: KVM refuses 256, and bindings panic beyond. A host may have more, and a file or a peer say so.
const CALL_MAX: usize = 128;

pub(super) const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const MTRR: [std::ops::RangeInclusive<u32>; 5] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff];

const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Memory type range registers on, and write-back everywhere: what firmware leaves behind. As the processor resets them
/// all memory is uncacheable, and Linux then does without the page attribute table.
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Registers whose refusal loses nothing that a guest of ours uses: performance counters, async page faults without an
/// APIC, branch records, and Hyper-V's, which are never offered.
fn harmless_if_refused(index: u32) -> bool {
    matches!(index, 0x4b56_4d02 | 0x4b56_4d06 | 0x4b56_4d07 | 0xc1..=0xc8 | 0x186..=0x18d | 0x309..=0x30b | 0x38d..=0x390)
        || (0x4000_0000..0x4000_0200).contains(&index)
        || (0xc001_0000..=0xc001_0007).contains(&index)
        || (0xc001_0200..=0xc001_020b).contains(&index)
}

/// One register and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Msr {
    pub(super) index: u32,
    pub(super) value: u64,
}

/// The registers that this host saves, in the order in which they are read.
#[derive(Debug, Clone)]
pub(super) struct MsrList {
    indices: Vec<u32>,
}

impl MsrList {
    /// What KVM lists, and the memory type range registers, without duplicates.
    pub(super) fn of_host(kvm: &Kvm) -> Result<Self, KvmError> {
        let listed = call("list the model-specific registers", kvm.get_msr_index_list())?;
        let mut indices: Vec<u32> = listed.as_slice().to_vec();
        indices.extend(MTRR.into_iter().flatten());
        indices.sort_unstable();
        indices.dedup();
        Ok(Self { indices })
    }

    /// Drops what this vCPU does not have: asked once, at creation.
    pub(super) fn retain_readable(&mut self, vcpu: &VcpuFd) {
        self.indices.retain(|&index| read(vcpu, index).is_some());
    }

    /// The calls that read them.
    pub(super) fn reads(&self) -> MsrReads {
        let call_of = |indices: &[u32]| msrs_of(&indices.iter().map(|&index| (index, 0)).collect::<Vec<_>>());
        MsrReads(RefCell::new(self.indices.chunks(CALL_MAX).map(call_of).collect()))
    }
}

/// The calls by which one vCPU's registers are read: what they are given and give back, made once.
#[derive(Debug)]
pub(super) struct MsrReads(RefCell<Vec<Msrs>>);

impl MsrReads {
    /// Reads them over what `saved` has.
    pub(super) fn save_over(&self, vcpu: &VcpuFd, saved: &mut Vec<Msr>) -> Result<(), KvmError> {
        saved.clear();
        for msrs in &mut *self.0.borrow_mut() {
            let wanted = msrs.as_slice().len();
            let count = call("read the model-specific registers", vcpu.get_msrs(msrs))?;
            if count < wanted {
                return Err(KvmError::MsrRefused { index: msrs.as_slice()[count].index });
            }
            saved.extend(msrs.as_slice().iter().map(|m| Msr { index: m.index, value: m.data }));
        }
        Ok(())
    }
}

fn msrs_of(pairs: &[(u32, u64)]) -> Msrs {
    let entries: Vec<_> =
        pairs.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries).expect("the caller gives CALL_MAX of them at most")
}

/// One register, `None` if the vCPU does not have it.
pub(super) fn read(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = msrs_of(&[(index, 0)]);
    matches!(vcpu.get_msrs(&mut msrs), Ok(1)).then(|| msrs.as_slice()[0].data)
}

/// Writes one register.
pub(super) fn write(vcpu: &VcpuFd, index: u32, value: u64) -> Result<(), KvmError> {
    match call(format!("write register {index:#x}"), vcpu.set_msrs(&msrs_of(&[(index, value)])))? {
        1 => Ok(()),
        _ => Err(KvmError::MsrRefused { index }),
    }
}

/// The order of writing: the time stamp counter's deadline after everything else.
fn rank(index: u32) -> u8 {
    u8::from(index == IA32_TSC_DEADLINE)
}

/// Sets the registers that firmware would have set for a kernel that is entered without one.
pub(super) fn set_boot_values(vcpu: &VcpuFd) -> Result<(), KvmError> {
    write(vcpu, IA32_MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK)
}

/// Writes saved registers back, but for the time stamp counter, which is set together with the guest's clock.
pub(super) fn restore(vcpu: &VcpuFd, saved: &[Msr]) -> Result<(), KvmError> {
    let mut pairs: Vec<_> = saved.iter().filter(|m| m.index != IA32_TSC).map(|m| (m.index, m.value)).collect();
    pairs.sort_by_key(|&(index, _)| rank(index));
    let mut rest = &pairs[..];
    while !rest.is_empty() {
        let some = &rest[..rest.len().min(CALL_MAX)];
        let done = call("write the model-specific registers", vcpu.set_msrs(&msrs_of(some)))?;
        if done == some.len() {
            rest = &rest[done..];
            continue;
        }
        let (index, value) = rest[done];
        if !harmless_if_refused(index) && value != 0 {
            return Err(KvmError::MsrRefused { index });
        }
        tracing::debug!(index = format_args!("{index:#x}"), "a model-specific register was refused, without harm");
        rest = &rest[done + 1..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_written_after_all_else() {
        let mut order = [IA32_TSC_DEADLINE, 0x174, 0xc000_0080];
        order.sort_by_key(|&i| rank(i));
        assert_eq!(order, [0x174, 0xc000_0080, IA32_TSC_DEADLINE]);
    }

    #[test]
    fn state_with_more_registers_than_one_call_takes_is_written_and_a_foreign_one_refused() {
        let Some(vm) = crate::kvm::vm_for_tests() else { return };
        let mut vcpu = vm.create_vcpu(0, 1, &vm.host().cpuid_for_guests()).expect("a vCPU can be made");
        let star = |value| Msr { index: 0xc000_0081, value };
        for count in [256, 257, 1023, MSRS_MAX as u64] {
            let saved: Vec<Msr> = (1..=count).map(star).collect();
            restore(vcpu.fd(), &saved).expect("every host has this register");
            let mut read = msrs_of(&[(0xc000_0081, 0)]);
            vcpu.fd().get_msrs(&mut read).expect("it can be read");
            assert_eq!(read.as_slice()[0].data, count, "the last one counts");
        }
        let mut saved: Vec<Msr> = (1..=300).map(star).collect();
        saved.push(Msr { index: 0x7fff_0000, value: 1 });
        assert!(matches!(restore(vcpu.fd(), &saved), Err(KvmError::MsrRefused { index: 0x7fff_0000 })));
    }

    #[test]
    fn new_vcpu_has_write_back_memory_as_after_firmware() {
        let Some(vm) = crate::kvm::vm_for_tests() else { return };
        let mut vcpu = vm.create_vcpu(0, 1, &vm.host().cpuid_for_guests()).expect("a vCPU can be made");
        assert_eq!(read(vcpu.fd(), IA32_MTRR_DEF_TYPE), Some(0x806));
    }
}
