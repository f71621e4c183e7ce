//! What is hidden from the guest, because a checkpoint does not hold its state.
//!
//! A checkpoint holds the general, segment, debug and control registers, the extended save area of user states, the
//! local APIC, and the model-specific registers that KVM lists. What keeps its state elsewhere is hidden: a guest that
//! used it would lose that state in a takeover.

use super::{EAX, EBX, ECX, EDX, Entry, LEAF_AMD_FEATURES, LEAF_FEATURES, LEAF_XSAVE};

/// Extended states that the save area holds: x87, SSE, AVX, MPX (2), AVX-512 (3), PKRU. Not AMX's tiles, which KVM adds
/// only for a process that asked for them, and nothing that is not known yet.
const USER_STATES: u32 = 0x2ff;
/// First byte behind the legacy area and the header of a save area.
const EXTENDED_START: u32 = 576;

/// Bits that are cleared: leaf, index, register, bits.
#[rustfmt::skip]
const BITS: &[(u32, u32, usize, u32)] = &[
    // A guest hypervisor's state: VMX, SVM.
    (LEAF_FEATURES, 0, ECX, 1 << 5),
    (LEAF_AMD_FEATURES, 0, ECX, 1 << 2),
    // SGX (memory that nobody can read) and processor trace.
    (7, 0, EBX, 1 << 2 | 1 << 25),
    // Shadow stacks (their pointers), SGX's launch control, supervisor's protection keys.
    (7, 0, ECX, 1 << 7 | 1 << 30 | 1 << 31),
    // User interrupts, architectural branch records, indirect branch tracking, AMX (BF16, tiles, INT8).
    (7, 0, EDX, 1 << 5 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25),
    // FRED, AMX (FP16).
    (7, 1, EAX, 1 << 17 | 1 << 21),
    // AMX (COMPLEX), APX.
    (7, 1, EDX, 1 << 8 | 1 << 21),
    // The fault of the first use of a state that is allocated then (XFD): AMX's.
    (LEAF_XSAVE, 1, EAX, 1 << 4),
    // Supervisor states are in no save area that user space gets.
    (LEAF_XSAVE, 1, ECX, u32::MAX),
    (LEAF_XSAVE, 1, EDX, u32::MAX),
    // Asynchronous page faults: a token that the guest got before the save would never be answered after it.
    (0x4000_0001, 0, EAX, 1 << 4 | 1 << 10 | 1 << 14),
];

/// Leaves that are emptied: SGX, processor trace, branch records, AMX (2), SVM, encrypted memory.
const LEAVES: &[u32] = &[0x12, 0x14, 0x1c, 0x1d, 0x1e, 0x8000_000a, 0x8000_001f];

pub(super) fn without_unsaved(entries: &[Entry]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = entries.iter().copied().map(clear).filter(is_kept_state).collect();
    let bytes = save_area_bytes(&entries);
    if let Some(area) = entries.iter_mut().find(|e| (e.function, e.index) == (LEAF_XSAVE, 0)) {
        area.registers[EAX] &= USER_STATES;
        area.registers[EDX] = 0;
        // KVM sets the size for what is turned on by itself.
        (area.registers[EBX], area.registers[ECX]) = (area.registers[EBX].min(bytes), area.registers[ECX].min(bytes));
    }
    entries
}

fn clear(mut entry: Entry) -> Entry {
    if LEAVES.contains(&entry.function) {
        entry.registers = [0; 4];
    }
    for &(function, index, register, bits) in BITS {
        if (entry.function, entry.index) == (function, index) {
            entry.registers[register] &= !bits;
        }
    }
    entry
}

/// Not the description of an extended state that is hidden.
fn is_kept_state(entry: &Entry) -> bool {
    let is_state = entry.function == LEAF_XSAVE && entry.index >= 2;
    !is_state || (entry.index < 32 && USER_STATES & 1 << entry.index != 0)
}

/// Bytes of a save area with all that is left.
fn save_area_bytes(entries: &[Entry]) -> u32 {
    let states = entries.iter().filter(|e| e.function == LEAF_XSAVE && e.index >= 2);
    states.map(|e| e.registers[EAX].saturating_add(e.registers[EBX])).fold(EXTENDED_START, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(entry: Entry) -> [u32; 4] {
        without_unsaved(&[entry])[0].registers
    }

    #[test]
    fn bits_whose_state_is_not_saved_are_cleared_and_no_others() {
        for &(function, index, register, bits) in BITS {
            let of = hidden(Entry::indexed(function, index, [u32::MAX; 4]));
            assert_eq!(of[register], !bits, "leaf {function:#x}.{index} register {register}");
        }
        // Shadow stacks by their place in the manuals; user-mode instruction prevention beside it stays.
        assert_eq!(hidden(Entry::indexed(7, 0, [0, 0, 1 << 7 | 1 << 2, 1 << 20]))[2..], [1 << 2, 0]);
    }

    #[test]
    fn leaves_that_describe_what_is_hidden_are_empty() {
        for &leaf in LEAVES {
            assert_eq!(hidden(Entry::indexed(leaf, 1, [7; 4])), [0; 4], "{leaf:#x}");
        }
    }

    #[test]
    fn hidden_states_leave_the_save_area_and_its_size() {
        let state = |index, bytes, start| Entry::indexed(LEAF_XSAVE, index, [bytes, start, 0, 0]);
        let all = [
            Entry::indexed(LEAF_XSAVE, 0, [0x6_02e7, 11_008, 11_008, 0]),
            state(2, 256, 576),
            state(7, 1024, 1664),
            state(9, 8, 2688),
            state(11, 16, 0),
            state(17, 64, 2752),
            state(18, 8192, 2816),
        ];
        let left = without_unsaved(&all);
        assert_eq!(left[0].registers, [0x2e7, 2696, 2696, 0]);
        assert_eq!(left[1..].iter().map(|e| e.index).collect::<Vec<_>>(), [2, 7, 9]);
    }
}
