//! The tables as a guest walks them, from the RSDP on.

use super::*;
use crate::virtio::mmio;
use crate::{cmos, pc, watchdog};

/// The tables as one piece of guest memory.
struct Image(Vec<(u64, Vec<u8>)>);

impl Image {
    fn new(cpus: u8, devices: usize) -> Self {
        Self(build(cpus, |tables| {
            pc::chips().iter().for_each(|chip| chip.describe(tables));
            (0..devices).for_each(|slot| mmio::describe(slot, tables));
        }))
    }

    fn at(&self, addr: u64) -> &[u8] {
        let (_, bytes) = self.0.iter().find(|(start, _)| *start == addr).expect("a table begins here");
        bytes
    }

    fn rsdp(&self) -> &[u8] {
        self.at(layout::ACPI_START)
    }

    /// The table with a signature, found as a guest finds it.
    fn table(&self, signature: &[u8; 4]) -> &[u8] {
        let xsdt = self.at(u64_at(self.rsdp(), 24));
        let entries = xsdt[36..].chunks_exact(8).map(|entry| self.at(u64_at(entry, 0)));
        entries.into_iter().find(|table| &table[..4] == signature).expect("the XSDT lists the table")
    }

    fn dsdt(&self) -> &[u8] {
        self.at(u64_at(self.table(b"FACP"), 140))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

#[test]
fn build_rsdp_is_found_by_a_scan_and_sums_to_zero() {
    let image = Image::new(1, 1);
    let rsdp = image.rsdp();
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!(rsdp[15], 2);
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
}

#[test]
fn build_every_table_has_its_length_and_checksum() {
    let image = Image::new(4, 8);
    for (addr, table) in &image.0[1..] {
        assert_eq!(u32_at(table, 4) as usize, table.len(), "table at {addr:#x}");
        assert_eq!(sum(table), 0, "table at {addr:#x}");
    }
}

#[test]
fn build_largest_machine_fits_without_overlap() {
    let image = Image::new(CPUS_MAX, layout::VIRTIO_MMIO_MAX);
    let mut spans: Vec<_> = image.0.iter().map(|(addr, bytes)| (*addr, *addr + bytes.len() as u64)).collect();
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    assert!(spans.last().unwrap().1 <= layout::ACPI_END);
}

#[test]
fn fadt_names_reset_and_sleep_registers() {
    let image = Image::new(1, 0);
    let fadt = image.table(b"FACP");
    let flags = u32_at(fadt, 112);
    assert_eq!(flags & (1 << 20), 1 << 20, "hardware-reduced");
    assert_eq!(flags & (1 << 10), 1 << 10, "reset register");
    assert_eq!(fadt[116..120], [1, 8, 0, 1], "reset: an 8-bit port");
    assert_eq!((u64_at(fadt, 120), fadt[128]), (0x64, 0xfe));
    assert_eq!(fadt[244], 1);
    assert_eq!((u64_at(fadt, 248), u64_at(fadt, 260)), (0x600, 0x601));
    assert_eq!(fadt[108], cmos::CENTURY);
    assert_eq!(fadt[109..111], [4, 0], "no keyboard controller and no VGA to probe for");
}

#[test]
fn madt_lists_each_cpu_and_one_ioapic() {
    let image = Image::new(3, 0);
    let madt = image.table(b"APIC");
    assert_eq!(u32_at(madt, 36), layout::LAPIC_ADDR);
    let mut entries = &madt[44..];
    let (mut cpus, mut ioapics) = (Vec::new(), 0);
    while let [kind, len, ..] = *entries {
        match kind {
            0 => cpus.push((entries[3], u32_at(entries, 4))),
            1 => {
                ioapics += 1;
                assert_eq!((u32_at(entries, 4), u32_at(entries, 8)), (layout::IOAPIC_ADDR, 0));
            }
            other => panic!("unexpected entry {other}"),
        }
        entries = &entries[usize::from(len)..];
    }
    assert_eq!(cpus, [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(ioapics, 1);
}

#[test]
fn dsdt_describes_each_virtio_window_with_its_interrupt() {
    let image = Image::new(1, 3);
    let dsdt = image.dsdt();
    assert_eq!(&dsdt[..4], b"DSDT");
    assert_eq!(count(dsdt, b"LNRO0005"), 3);
    for slot in 0..3 {
        let slot = layout::virtio_mmio(slot);
        let mut memory = vec![0x86, 9, 0, 1];
        memory.extend((slot.base as u32).to_le_bytes());
        memory.extend((slot.size as u32).to_le_bytes());
        assert_eq!(count(dsdt, &memory), 1, "Memory32Fixed at {:#x}", slot.base);
        let mut interrupt = vec![0x89, 6, 0, 0x03, 1];
        interrupt.extend(slot.gsi.to_le_bytes());
        assert_eq!(count(dsdt, &interrupt), 1, "edge, active high, exclusive, {}", slot.gsi);
    }
}

#[test]
fn dsdt_has_com1_rtc_and_soft_off() {
    let image = Image::new(1, 0);
    let dsdt = image.dsdt();
    assert_eq!(count(dsdt, &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), 1, "COM1's ports");
    assert_eq!(count(dsdt, &[0x47, 1, 0x70, 0, 0x70, 0, 1, 2]), 1, "the RTC's ports");
    assert_eq!(count(dsdt, b"_S5_\x12\x04\x01\x0a\x05"), 1, "the sleep type of S5");
}

#[test]
fn dsdt_says_where_the_generation_is_and_by_which_interrupt_it_changes() {
    let image = Image::new(1, 0);
    let dsdt = image.dsdt();
    assert_eq!(count(dsdt, b"_HID\x0dVMGENCTR\0"), 1);
    assert_eq!(count(dsdt, b"_CID\x0dVM_Gen_Counter\0"), 1);
    assert_eq!(count(dsdt, b"ADDR\x12\x08\x02\x0c\x00\xe0\x0f\x00\x00"), 1, "a package of two numbers");
    assert_eq!(count(dsdt, b"_HID\x0dACPI0013\0"), 1);
    // If the argument is line 9, notify the device of a change.
    assert_eq!(count(dsdt, b"_EVT\x09\xa0\x12\x93\x68\x0a\x09\x86\\\x2e_SB_VGEN\x0a\x80"), 1);
}

#[test]
#[should_panic(expected = "0 vCPUs")]
fn build_without_cpus_panics() {
    let _ = build(0, |_| {});
}

#[test]
fn build_wdat_describes_registers_that_the_watchdog_has() {
    let image = Image::new(1, 1);
    let table = image.table(b"WDAT");
    assert_eq!((u32_at(table, 36), &table[40..45]), (32, &[0xff, 0, 0xff, 0xff, 0xff][..]));
    // Period, longest and shortest count; enabled, and it has eight actions.
    assert_eq!([48, 52, 56].map(|at| u32_at(table, at)), [100, 6000, 10]);
    assert_eq!((table[60], u32_at(table, 64), table.len()), (1, 8, 68 + 8 * 24));
    for entry in table[68..].chunks_exact(24) {
        // System I/O, 32 bits, by double words.
        assert_eq!(entry[4..8], [1, 32, 0, 3]);
        let offset = u64_at(entry, 8) - u64::from(watchdog::PORT);
        assert!([0, 4, 8].contains(&offset), "{offset}");
    }
    let actions: Vec<u8> = table[68..].chunks_exact(24).map(|entry| entry[0]).collect();
    assert_eq!(actions, [1, 4, 5, 6, 8, 9, 10, 11]);
}
