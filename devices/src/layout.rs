//! Where the machine's devices sit that are many or belong to KVM: guest physical addresses and interrupt lines. A chip's ports are in
//! its own file.
//!
//! One place, used by the ACPI tables and by the VMM's bus, so that the two cannot disagree.

/// Address of the first virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Distance between virtio-mmio windows and size of each.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Interrupt line of the first virtio-mmio device; the others follow.
pub const VIRTIO_MMIO_GSI: u32 = 16;
/// Most virtio-mmio devices: the IOAPIC has 24 pins and the first sixteen belong to the ISA lines.
pub const VIRTIO_MMIO_MAX: usize = 8;

/// Address of the IOAPIC.
pub const IOAPIC_ADDR: u32 = 0xfec0_0000;
/// Address of the local APICs.
pub const LAPIC_ADDR: u32 = 0xfee0_0000;

/// Where the ACPI tables may be: the BIOS area that guests scan for the RSDP.
pub const ACPI_START: u64 = 0xe_0000;
/// First address behind the ACPI area.
pub const ACPI_END: u64 = GENERATION_ID;
/// Where the guest's generation is, in a page of its own.
pub const GENERATION_ID: u64 = 0xf_e000;

/// Where the virtio-mmio device of index `slot` sits.
///
/// Panics if `slot` is not below [`VIRTIO_MMIO_MAX`]: the caller assembles the machine and knows its size.
#[must_use]
pub fn virtio_mmio(slot: usize) -> MmioSlot {
    assert!(slot < VIRTIO_MMIO_MAX, "virtio-mmio slot {slot} of {VIRTIO_MMIO_MAX}");
    let index = u32::try_from(slot).expect("slot is below eight");
    MmioSlot {
        base: VIRTIO_MMIO_BASE + u64::from(index) * VIRTIO_MMIO_STRIDE,
        size: VIRTIO_MMIO_STRIDE,
        gsi: VIRTIO_MMIO_GSI + index,
    }
}

/// One virtio-mmio window and its interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioSlot {
    /// Guest physical address of the window.
    pub base: u64,
    /// Bytes of the window.
    pub size: u64,
    /// Interrupt line.
    pub gsi: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_mmio_last_slot_stays_on_the_ioapic() {
        let last = virtio_mmio(VIRTIO_MMIO_MAX - 1);
        assert_eq!(last.gsi, 23);
        assert_eq!(last.base, 0xd000_7000);
    }

    #[test]
    #[should_panic(expected = "virtio-mmio slot 8 of 8")]
    fn virtio_mmio_slot_out_of_range_panics() {
        let _ = virtio_mmio(VIRTIO_MMIO_MAX);
    }
}
