use replication::wire::TEXT_MAX;

use super::super::Entry;
use super::*;

fn table(entries: &[(u32, u32, [u32; 4])]) -> CpuidTable {
    CpuidTable { entries: entries.iter().map(|&(leaf, index, words)| Entry::indexed(leaf, index, words)).collect() }
}

fn lacks_of(guest: &CpuidTable, host: &CpuidTable) -> Vec<Lack> {
    lacks(Promise { cpuid: guest, msrs: &[] }, Promise { cpuid: host, msrs: &[] })
}

/// What a guest and a host say in one register, and whether the host serves.
#[rustfmt::skip]
const CASES: &[(u32, u32, usize, u32, u32, bool)] = &[
    // Features: fewer bits do not serve, more do.
    (1, 0, ECX, 1 << 12, 0, false), (1, 0, ECX, 0, 1 << 12, true),
    (1, 0, EDX, 1 << 25, 0, false),
    // Bits that follow the running state or that we set.
    (1, 0, ECX, 1 << 27 | 1 << 31 | 1 << 24, 0, true), (1, 0, EDX, 1 << 28, 0, true), (7, 0, ECX, 1 << 4, 0, true),
    (7, 0, EBX, 0b1100, 0b0100, false), (7, 0, EDX, 1 << 29, 0, false),
    (7, 1, EAX, 1 << 4, 0, false), (7, 1, EDX, 1 << 4, 0, false),
    (7, 2, EDX, 1 << 5, 0, false), (7, 2, EDX, 1 << 5, 1 << 5 | 1, true),
    (6, 0, EAX, 1 << 2, 0, false),
    // Version 2 with 8 counters of 48 bits.
    (0xa, 0, EAX, 0x07_30_08_02, 0x07_30_06_02, false), (0xa, 0, EAX, 0x07_30_08_02, 0x08_30_08_05, true),
    // AVX-512's masks.
    (0xd, 0, EAX, 0xe7, 0x07, false), (0xd, 1, EAX, 1 << 3, 0, false), (0xd, 1, ECX, 1 << 11, 0, false),
    (0x1d, 1, EBX, 8, 16, false), (0x1e, 0, EBX, 0x4010, 0, false),
    (0x24, 0, EBX, 2 | 7 << 16, 1 | 7 << 16, false), (0x24, 0, EBX, 1 | 7 << 16, 2 | 3 << 16, false),
    (0x24, 0, EBX, 1 | 3 << 16, 2 | 7 << 16, true),
    // Send IPI, of a newer kernel.
    (0x4000_0001, 0, EAX, 1 << 11, 0, false), (0x4000_0001, 0, EAX, 0, 1 << 11, true),
    (0x8000_0001, 0, ECX, 1 << 22, 0, false), (0x8000_0001, 0, ECX, 1 << 1, 0, true),
    // The counter's rate does not change.
    (0x8000_0007, 0, EDX, 1 << 8, 0, false),
    // 48 bits of physical address and 46; 57 bits of virtual address and 48.
    (0x8000_0008, 0, EAX, 0x3030, 0x302e, false), (0x8000_0008, 0, EAX, 0x3930, 0x3030, false),
    (0x8000_0008, 0, EAX, 0x302e, 0x3930, true), (0x8000_0008, 0, EBX, 1 << 12, 0, false),
    (0x8000_0021, 0, EAX, 1 << 2, 0, false), (0x8000_0021, 0, ECX, 1 << 1, 0, false),
    (0x8000_0022, 0, EAX, 1, 0, false),
    // Names and topology promise nothing.
    (1, 0, EAX, 0xa0_0f11, 0x80_0f12, true), (0xb, 1, EBX, 4, 2, true), (0x8000_0005, 0, EAX, 1, 2, true),
];

#[test]
fn each_leaf_is_compared_by_its_rule() {
    for &(leaf, index, register, guest, host, serves) in CASES {
        let side = |value| {
            let mut words = [0; 4];
            words[register] = value;
            table(&[(leaf, index, words)])
        };
        let found = lacks_of(&side(guest), &side(host));
        assert_eq!(found.is_empty(), serves, "leaf {leaf:#x}.{index} register {register}: {guest:#x} on {host:#x}");
        let all = matches!(found[..], [] | [Lack::Leaf { .. }]);
        assert!(all, "one lack is told once: {found:?}");
        assert!(lacks_of(&side(guest), &side(guest)).is_empty(), "a guest goes on where it came from");
    }
}

#[test]
fn leaf_that_the_host_has_not_at_all_lacks_every_bit() {
    let guest = table(&[(7, 1, [1 << 4, 0, 0, 0])]);
    assert_eq!(
        lacks_of(&guest, &table(&[(7, 0, [0; 4])])),
        [Lack::Leaf { leaf: 7, index: 1, register: EAX, guest: 1 << 4, host: 0 }]
    );
}

#[test]
fn states_of_the_save_area_must_lie_in_the_same_place() {
    let side =
        |pkru_start| table(&[(0xd, 0, [0x207, 0, 0, 0]), (0xd, 2, [256, 576, 0, 0]), (0xd, 9, [8, pkru_start, 0, 0])]);
    assert!(lacks_of(&side(2688), &side(2688)).is_empty());
    assert_eq!(
        lacks_of(&side(2688), &side(2432)),
        [Lack::Leaf { leaf: 0xd, index: 9, register: EBX, guest: 2688, host: 2432 }]
    );
    // One that the guest cannot turn on may lie anywhere.
    let without = table(&[(0xd, 0, [0x7, 0, 0, 0]), (0xd, 2, [256, 576, 0, 0]), (0xd, 9, [8, 1, 0, 0])]);
    assert!(lacks_of(&without, &side(2432)).is_empty());
}

#[test]
fn another_vendor_is_the_only_thing_that_is_told() {
    let vendor = |name: &[u8; 12], ecx| {
        let word = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
        table(&[(0, 0, [0xd, word(0), word(8), word(4)]), (1, 0, [0, 0, ecx, 0])])
    };
    let found = lacks_of(&vendor(b"AuthenticAMD", 1), &vendor(b"GenuineIntel", 0));
    assert_eq!(
        refusal(&found).expect("two vendors"),
        "use a host with a CPU of the guest's vendor: the guest's CPU is AuthenticAMD, this host's GenuineIntel"
    );
}

/// Register, what the guest reads, what the host has, whether it serves.
#[rustfmt::skip]
const MSR_CASES: &[(u32, u64, u64, bool)] = &[
    // An immunity is lost; one is gained.
    (0x10a, 1 | 1 << 5, 1, false), (0x10a, 1, 1 | 1 << 5, true),
    // A warning that the guest did not get; one that it got for nothing.
    (0x10a, 1, 1 | 1 << 19, false), (0x10a, 1 | 1 << 19, 1, true),
    (0xce, 1 << 31, 0, false), (0xce, 0x18_00, 1 << 31, true),
    (0x345, 0x2005, 0x2006, false), (0x345, 0x2005, 0x0005, false), (0x345, 0x0005, 0x2005, true),
    (0xc001_1029, 2, 0, false), (0xc001_1029, 0, 2, true),
    // The microcode's revision is nothing that a guest was promised.
    (0x8b, 7, 3, true),
];

#[test]
fn feature_registers_are_compared_by_their_rules() {
    let cpuid = table(&[(1, 0, [0; 4])]);
    for &(index, guest, host, serves) in MSR_CASES {
        let found = lacks(
            Promise { cpuid: &cpuid, msrs: &[FeatureMsr { index, value: guest }] },
            Promise { cpuid: &cpuid, msrs: &[FeatureMsr { index, value: host }] },
        );
        assert_eq!(found.is_empty(), serves, "register {index:#x}: {guest:#x} on {host:#x}");
    }
    let none = lacks(
        Promise { cpuid: &cpuid, msrs: &[FeatureMsr { index: 0x10a, value: 1 }] },
        Promise { cpuid: &cpuid, msrs: &[] },
    );
    assert_eq!(none, [Lack::Msr { index: 0x10a, guest: 1, host: 0 }], "a host without the register");
}

#[test]
fn refusal_names_the_remedy_the_leaf_and_both_values_and_fits_the_wire() {
    assert_eq!(refusal(&[]), None);
    let kvm = Lack::Leaf { leaf: 0x4000_0001, index: 0, register: EAX, guest: 0x100_7efb, host: 0x100_7afb };
    assert_eq!(
        refusal(&[kvm]).expect("one"),
        "run a kernel here that is as new as the one where the guest was booted: \
         CPUID leaf 0x40000001.0 eax is 0x1007efb for the guest, 0x1007afb here"
    );
    let leaf = Lack::Leaf { leaf: 0x8000_0001, index: 31, register: EAX, guest: u32::MAX, host: u32::MAX };
    let msr = Lack::Msr { index: u32::MAX, guest: u64::MAX, host: u64::MAX };
    let vendor = Lack::Vendor { guest: [b'x'; 12], host: [0; 12] };
    for worst in [leaf, msr, vendor] {
        let text = refusal(&[vec![worst], vec![leaf; 200]].concat()).expect("many");
        assert!(text.ends_with("(and 200 more)"), "{text}");
        assert!(text.len() <= TEXT_MAX, "{} bytes: {text}", text.len());
    }
}
