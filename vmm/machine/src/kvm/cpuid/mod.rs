//! CPUID: what the guest learns of its processor.
//!
//! The table is made once, on the host where the guest boots, and travels with the guest: a backup sets the same table
//! and refuses a guest that its own CPU or kernel cannot serve ([`compare`]).

pub mod compare;
mod hidden;
mod topology;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

use super::KvmError;

/// Highest number of CPUID entries accepted from a peer or a file.
const ENTRIES_MAX: usize = 256;

const LEAF_VENDOR: u32 = 0;
const LEAF_FEATURES: u32 = 1;
const LEAF_XSAVE: u32 = 0xd;
const LEAF_AMD_FEATURES: u32 = 0x8000_0001;
const LEAF_SIZES: u32 = 0x8000_0008;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// The table of one VM; per-vCPU fields are filled in by [`CpuidTable::for_vcpu`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidTable {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    function: u32,
    index: u32,
    flags: u32,
    registers: [u32; 4],
}

impl From<&kvm_cpuid_entry2> for Entry {
    fn from(e: &kvm_cpuid_entry2) -> Self {
        Self { function: e.function, index: e.index, flags: e.flags, registers: [e.eax, e.ebx, e.ecx, e.edx] }
    }
}

impl From<&Entry> for kvm_cpuid_entry2 {
    fn from(e: &Entry) -> Self {
        let [eax, ebx, ecx, edx] = e.registers;
        Self { function: e.function, index: e.index, flags: e.flags, eax, ebx, ecx, edx, ..Default::default() }
    }
}

impl Entry {
    /// An entry that is found by its index too.
    fn indexed(function: u32, index: u32, registers: [u32; 4]) -> Self {
        Self { function, index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, registers }
    }
}

impl CpuidTable {
    /// All that KVM supports on this host.
    pub fn of_host(supported: &CpuId) -> Self {
        Self { entries: supported.as_slice().iter().map(Entry::from).collect() }
    }

    /// The table for a new VM: without what a checkpoint cannot hold.
    #[must_use]
    pub fn without_unsaved(&self) -> Self {
        Self { entries: hidden::without_unsaved(&self.entries) }
    }

    /// Checks a table that came from a peer or a file.
    pub fn validate(&self) -> Result<(), String> {
        if self.entries.is_empty() || self.entries.len() > ENTRIES_MAX {
            return Err(format!("a CPUID table of {} entries; expected 1 to {ENTRIES_MAX}", self.entries.len()));
        }
        Ok(())
    }

    /// The registers of a leaf, as a processor answers: zeros where there is none.
    fn registers(&self, function: u32, index: u32) -> [u32; 4] {
        self.entries.iter().find(|e| e.function == function && e.index == index).map_or([0; 4], |e| e.registers)
    }

    /// The table for vCPU `id` of `count`: APIC ids and topology of one socket with `count` cores of one thread.
    pub fn for_vcpu(&self, id: u32, count: u32) -> Result<CpuId, KvmError> {
        let entries: Vec<kvm_cpuid_entry2> =
            topology::of_vcpu(&self.entries, id, count).iter().map(kvm_cpuid_entry2::from).collect();
        CpuId::from_entries(&entries).map_err(|_| KvmError::Missing("room for this many CPUID entries"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validate_refuses_an_empty_table() {
        assert!(CpuidTable { entries: vec![] }.validate().is_err());
    }
}
