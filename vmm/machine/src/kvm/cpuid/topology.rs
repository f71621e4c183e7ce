//! What a vCPU learns of its place: one socket, one core for each vCPU, one thread in each.
//!
//! KVM's own answer describes no topology (one sub-leaf of zeros), or the host's. All leaves that a kernel may read say
//! the same here; those that are missing and that the vendor's processors have are added.

use super::{EAX, EBX, ECX, ECX_HYPERVISOR, ECX_TSC_DEADLINE, EDX, EDX_HTT, Entry};
use super::{LEAF_AMD_FEATURES, LEAF_FEATURES, LEAF_SIZES, LEAF_VENDOR};

const LEAF_CACHE: u32 = 4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_CACHE: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;
const LEAF_AMD_TOPOLOGY_V2: u32 = 0x8000_0026;
/// EBX of leaf 0: `Genu`.
const INTEL: u32 = 0x756e_6547;
/// EBX of leaf 0: `Auth`, and Hygon's.
const AMD: [u32; 2] = [0x6874_7541, 0x6f67_7948];
const ECX_CMP_LEGACY: u32 = 1 << 1;
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
/// Caches from this level on are shared by all cores.
const SHARED_CACHE_LEVEL: u32 = 3;

/// One vCPU among the others.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: u32,
    count: u32,
    is_amd: bool,
}

impl Place {
    /// Bits of an APIC id that number the cores.
    fn core_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    /// The highest number that these bits can hold, which is how sharing is told.
    fn core_ids_max(self) -> u32 {
        (1 << self.core_bits()) - 1
    }

    /// The others that share a cache of a level, in the same terms.
    fn sharing(self, level: u32) -> u32 {
        if level >= SHARED_CACHE_LEVEL { self.core_ids_max() } else { 0 }
    }
}

pub(super) fn of_vcpu(entries: &[Entry], id: u32, count: u32) -> Vec<Entry> {
    let basic = entries.iter().find(|e| e.function == LEAF_VENDOR).map_or([0; 4], |e| e.registers);
    let place = Place { id, count, is_amd: AMD.contains(&basic[EBX]) };
    let is_own = |function| matches!(function, LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 | LEAF_AMD_TOPOLOGY_V2);
    let mut placed: Vec<Entry> =
        entries.iter().filter(|e| !is_own(e.function)).map(|entry| with_place(*entry, place)).collect();
    if basic[EAX] >= LEAF_TOPOLOGY {
        placed.extend(levels(LEAF_TOPOLOGY, place));
    }
    if basic[EAX] >= LEAF_TOPOLOGY_V2 && basic[EBX] == INTEL {
        placed.extend(levels(LEAF_TOPOLOGY_V2, place));
    }
    placed
}

/// Threads of a core, cores of the socket, the end.
fn levels(function: u32, place: Place) -> [Entry; 3] {
    let level =
        |index, bits, count, kind: u32| Entry::indexed(function, index, [bits, count, kind << 8 | index, place.id]);
    [level(0, 0, 1, LEVEL_THREAD), level(1, place.core_bits(), place.count, LEVEL_CORE), level(2, 0, 0, 0)]
}

fn with_place(mut entry: Entry, place: Place) -> Entry {
    let Place { id, count, is_amd } = place;
    let registers = &mut entry.registers;
    let flag = |word: u32, bit: u32| if count > 1 { word | bit } else { word & !bit };
    match entry.function {
        LEAF_FEATURES => {
            registers[EBX] = (registers[EBX] & 0xffff) | (id << 24) | ((place.core_ids_max() + 1) << 16);
            registers[ECX] |= ECX_TSC_DEADLINE | ECX_HYPERVISOR;
            registers[EDX] = flag(registers[EDX], EDX_HTT);
        }
        // Core ids of the socket in bits 31..26, ids that share the cache in bits 25..14, its level in bits 7..5.
        LEAF_CACHE if registers[EAX] & 0x1f != 0 => {
            let sharing = place.sharing(registers[EAX] >> 5 & 7);
            registers[EAX] = (registers[EAX] & 0x3fff) | sharing << 14 | place.core_ids_max() << 26;
        }
        LEAF_AMD_CACHE if registers[EAX] & 0x1f != 0 => {
            let others = if registers[EAX] >> 5 & 7 >= SHARED_CACHE_LEVEL { count - 1 } else { 0 };
            registers[EAX] = (registers[EAX] & 0x3fff) | others << 14;
        }
        LEAF_AMD_FEATURES if is_amd => registers[ECX] = flag(registers[ECX], ECX_CMP_LEGACY),
        // Intel's processors have nothing there.
        LEAF_SIZES => registers[ECX] = if is_amd { place.core_bits() << 12 | (count - 1) } else { 0 },
        // Core `id` with one thread; node 0 of one.
        LEAF_AMD_TOPOLOGY if is_amd => *registers = [id, id & 0xff, 0, 0],
        _ => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMD_LEAF: Entry = Entry { function: 0, index: 0, flags: 0, registers: [0xd, AMD[0], 0, 0] };
    const INTEL_LEAF: Entry = Entry { function: 0, index: 0, flags: 0, registers: [0x1f, INTEL, 0, 0] };

    fn place_of(vendor: Entry, entries: &[Entry], id: u32, count: u32, function: u32, index: u32) -> [u32; 4] {
        let placed = of_vcpu(&[&[vendor], entries].concat(), id, count);
        let mut found = placed.iter().filter(|e| (e.function, e.index) == (function, index));
        let registers = found.next().map_or([0; 4], |e| e.registers);
        assert!(found.next().is_none(), "leaf {function:#x}.{index} is there twice");
        registers
    }

    #[test]
    fn apic_id_and_the_number_of_ids_are_in_leaf_1() {
        let features = [Entry::indexed(1, 0, [0, 0xffff_ffff, 0, 0])];
        assert_eq!(place_of(AMD_LEAF, &features, 3, 4, 1, 0)[EBX], 0x0304_ffff);
        // Ids are counted in whole bits.
        assert_eq!(place_of(AMD_LEAF, &features, 2, 3, 1, 0)[EBX], 0x0204_ffff);
        assert_eq!(place_of(AMD_LEAF, &features, 0, 1, 1, 0)[EDX] & EDX_HTT, 0);
        assert_ne!(place_of(AMD_LEAF, &features, 0, 2, 1, 0)[EDX] & EDX_HTT, 0);
    }

    #[test]
    fn levels_are_there_although_kvm_lists_one_empty_one() {
        let as_kvm_lists = [Entry::indexed(LEAF_TOPOLOGY, 0, [0, 0, 0, 1])];
        let level = |index| place_of(AMD_LEAF, &as_kvm_lists, 2, 3, LEAF_TOPOLOGY, index);
        assert_eq!(level(0), [0, 1, 0x100, 2]);
        assert_eq!(level(1), [2, 3, 0x201, 2]);
        assert_eq!(level(2), [0, 0, 2, 2]);
        assert_eq!(place_of(INTEL_LEAF, &[], 5, 8, LEAF_TOPOLOGY_V2, 1), [3, 8, 0x201, 5]);
        assert_eq!(place_of(AMD_LEAF, &[], 5, 8, LEAF_TOPOLOGY_V2, 1), [0; 4], "a leaf of Intel's");
    }

    #[test]
    fn amd_says_cores_and_nodes_and_intel_does_not() {
        let leaves =
            [Entry::indexed(LEAF_SIZES, 0, [0x3030, 0, 0x7001, 0]), Entry::indexed(LEAF_AMD_TOPOLOGY, 0, [9; 4])];
        assert_eq!(place_of(AMD_LEAF, &leaves, 2, 3, LEAF_SIZES, 0)[ECX], 0x2002);
        assert_eq!(place_of(AMD_LEAF, &leaves, 2, 3, LEAF_AMD_TOPOLOGY, 0), [2, 2, 0, 0]);
        assert_eq!(place_of(INTEL_LEAF, &leaves, 2, 3, LEAF_SIZES, 0)[ECX], 0);
    }

    #[test]
    fn only_caches_of_the_third_level_are_shared() {
        // Level in bits 7..5, a type in bits 4..0: data, data, unified, unified, none.
        let caches: Vec<Entry> = [0x21, 0x43, 0x163, 0]
            .into_iter()
            .enumerate()
            .flat_map(|(index, eax)| {
                [LEAF_CACHE, LEAF_AMD_CACHE]
                    .map(|leaf| Entry::indexed(leaf, index as u32, [eax | 0x1fc0_0000, 0, 0, 0]))
            })
            .collect();
        let cache = |vendor, leaf, index| place_of(vendor, &caches, 1, 3, leaf, index)[EAX];
        assert_eq!(cache(INTEL_LEAF, LEAF_CACHE, 0), 3 << 26 | 0x21);
        assert_eq!(cache(INTEL_LEAF, LEAF_CACHE, 2), 3 << 26 | 3 << 14 | 0x163);
        assert_eq!(cache(AMD_LEAF, LEAF_AMD_CACHE, 1), 0x43);
        assert_eq!(cache(AMD_LEAF, LEAF_AMD_CACHE, 2), 2 << 14 | 0x163);
        assert_eq!(cache(AMD_LEAF, LEAF_AMD_CACHE, 3), 0x1fc0_0000, "no cache is described there");
    }
}
