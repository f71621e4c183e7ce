//! CPUID: what the guest is told of its processor.
//!
//! The table is made once, on the host where the guest boots, and travels with the guest: a backup sets the same table
//! and refuses a guest whose features its own CPU lacks.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

use super::KvmError;

/// Highest number of CPUID entries accepted from a peer or a file.
const ENTRIES_MAX: usize = 256;

const LEAF_FEATURES: u32 = 1;
const LEAF_CACHE: u32 = 4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_FEATURES: u32 = 0x8000_0001;
const LEAF_AMD_SVM: u32 = 0x8000_000a;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;

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

impl CpuidTable {
    /// The table for a new VM on this host: what KVM supports.
    pub fn from_supported(supported: &CpuId) -> Self {
        Self { entries: supported.as_slice().iter().map(Entry::from).map(without_unsaved).collect() }
    }

    /// Checks a table that came from a peer or a file.
    pub fn validate(&self) -> Result<(), String> {
        if self.entries.is_empty() || self.entries.len() > ENTRIES_MAX {
            return Err(format!("a CPUID table of {} entries; expected 1 to {ENTRIES_MAX}", self.entries.len()));
        }
        Ok(())
    }

    /// The feature bits that this table promises and `host` cannot keep, as readable names.
    pub fn missing_on(&self, host: &CpuidTable) -> Vec<String> {
        const FEATURE_LEAVES: [(u32, &[usize]); 3] =
            [(LEAF_FEATURES, &[2, 3]), (7, &[1, 2, 3]), (LEAF_AMD_FEATURES, &[2, 3])];
        let mut missing = Vec::new();
        for (leaf, registers) in FEATURE_LEAVES {
            let (Some(ours), theirs) = (self.find(leaf), host.find(leaf)) else { continue };
            for &register in registers {
                let host_bits = theirs.map_or(0, |e| e.registers[register]);
                let lost = ours.registers[register] & !host_bits & !ignored(leaf, register);
                if lost != 0 {
                    missing.push(format!("leaf {leaf:#x} {} bits {lost:#x}", ["eax", "ebx", "ecx", "edx"][register]));
                }
            }
        }
        missing
    }

    fn find(&self, function: u32) -> Option<&Entry> {
        self.entries.iter().find(|e| e.function == function && e.index == 0)
    }

    /// The table for vCPU `id` of `count`: APIC ids and topology of one socket with `count` cores of one thread.
    pub fn for_vcpu(&self, id: u32, count: u32) -> Result<CpuId, KvmError> {
        let entries: Vec<kvm_cpuid_entry2> =
            self.entries.iter().map(|e| kvm_cpuid_entry2::from(&with_topology(*e, id, count))).collect();
        CpuId::from_entries(&entries).map_err(|_| KvmError::Missing("room for this many CPUID entries"))
    }
}

/// Hides what a checkpoint cannot hold: a guest hypervisor's state, and page faults that KVM serves behind the guest's
/// back (a token given to the guest before the save would never be answered after it).
fn without_unsaved(mut entry: Entry) -> Entry {
    const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
    const EAX_ASYNC_PF: u32 = 1 << 4 | 1 << 10 | 1 << 14;
    const ECX_VMX: u32 = 1 << 5;
    const ECX_SVM: u32 = 1 << 2;
    match entry.function {
        LEAF_FEATURES => entry.registers[2] &= !ECX_VMX,
        LEAF_AMD_FEATURES => entry.registers[2] &= !ECX_SVM,
        LEAF_AMD_SVM => entry.registers = [0; 4],
        LEAF_KVM_FEATURES => entry.registers[0] &= !EAX_ASYNC_PF,
        _ => {}
    }
    entry
}

/// Bits that depend on the running state or on ourselves, not on the host's features.
fn ignored(leaf: u32, register: usize) -> u32 {
    const OSXSAVE: u32 = 1 << 27;
    const OSPKE: u32 = 1 << 4;
    match (leaf, register) {
        (LEAF_FEATURES, 2) => OSXSAVE | ECX_HYPERVISOR | ECX_TSC_DEADLINE,
        (LEAF_FEATURES, 3) => EDX_HTT,
        (7, 2) => OSPKE,
        _ => 0,
    }
}

fn with_topology(mut entry: Entry, id: u32, count: u32) -> Entry {
    let [eax, ebx, ecx, edx] = &mut entry.registers;
    let core_bits = count.next_power_of_two().trailing_zeros();
    match entry.function {
        LEAF_FEATURES => {
            *ebx = (*ebx & 0xff00) | (id << 24) | (count << 16) | (*ebx & 0xff);
            *ecx |= ECX_TSC_DEADLINE | ECX_HYPERVISOR;
            *edx = if count > 1 { *edx | EDX_HTT } else { *edx & !EDX_HTT };
        }
        // Cores per package in bits 31..26, threads that share this cache in bits 25..14.
        LEAF_CACHE => *eax = (*eax & 0x3fff) | ((count - 1) << 26),
        LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
            let level = entry.index;
            (*eax, *ebx, *ecx) = match level {
                0 => (0, 1, 1 << 8),
                1 => (core_bits, count, (2 << 8) | 1),
                _ => (0, 0, level),
            };
            *edx = id;
        }
        LEAF_AMD_SIZES => *ecx = (core_bits << 12) | (count - 1),
        LEAF_AMD_TOPOLOGY => (*eax, *ebx, *ecx) = (id, id & 0xff, 0),
        _ => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(function: u32, registers: [u32; 4]) -> CpuidTable {
        CpuidTable { entries: vec![Entry { function, index: 0, flags: 0, registers }] }
    }

    #[test]
    fn for_vcpu_sets_the_apic_id() {
        let cpuid = table(LEAF_FEATURES, [0, 0xffff_ffff, 0, 0]).for_vcpu(3, 4).expect("one entry fits");
        assert_eq!(cpuid.as_slice()[0].ebx >> 24, 3);
        assert_eq!((cpuid.as_slice()[0].ebx >> 16) & 0xff, 4);
    }

    #[test]
    fn missing_on_poorer_host_names_the_bits() {
        let guest = table(7, [0, 0b1100, 0, 0]);
        assert!(guest.missing_on(&guest).is_empty());
        let missing = guest.missing_on(&table(7, [0, 0b0100, 0, 0]));
        assert_eq!(missing, vec!["leaf 0x7 ebx bits 0x8".to_string()]);
    }

    #[test]
    fn validate_refuses_an_empty_table() {
        assert!(CpuidTable { entries: vec![] }.validate().is_err());
    }
}
