//! The ACPI tables of a hardware-reduced PC without PCI.
//!
//! RSDP, XSDT, FADT, MADT and DSDT, in the BIOS area where guests look for them, and the tables of single devices. What they say of a
//! device is in the device's own file ([`Tables`]).
//!
//! What is absent on purpose: a keyboard controller device (the FADT says that there is none, so guests do not probe
//! for it; its port still resets the machine), legacy timers, and an interrupt of the RTC, which raises none.

#[cfg(test)]
mod tests;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use crate::layout;

const OEM_ID: [u8; 6] = *b"OUTLST";
const OEM_TABLE_ID: [u8; 8] = *b"OUTLAST ";
const OEM_REVISION: u32 = 1;
/// Boot architecture flag: do not probe for a VGA.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// Local APIC ids are eight bits wide and 255 addresses all of them.
pub const CPUS_MAX: u8 = 254;

/// What the tables say of devices; each device adds its part.
pub struct Tables {
    /// The FADT, but for what is said of all machines of this kind.
    pub(crate) fadt: FADTBuilder,
    /// AML at the root of the DSDT.
    root: Vec<u8>,
    /// AML of the DSDT's scope `\_SB`.
    devices: Vec<u8>,
    /// Tables of their own.
    others: Vec<Vec<u8>>,
}

impl Tables {
    /// A name at the root of the DSDT.
    pub(crate) fn name(&mut self, name: &str, value: &dyn Aml) {
        aml::Name::new(name.into(), value).to_aml_bytes(&mut self.root);
    }

    /// A device of the DSDT with what is in it.
    pub(crate) fn device(&mut self, name: &str, children: &[&dyn Aml]) {
        aml::Device::new(name.into(), children.to_vec()).to_aml_bytes(&mut self.devices);
    }

    /// The same for one that has a hardware id, a number among those with that id, and what it occupies.
    pub(crate) fn plain_device(&mut self, name: &str, hid: &dyn Aml, uid: u32, resources: &[&dyn Aml]) {
        let hid = aml::Name::new("_HID".into(), hid);
        let uid = aml::Name::new("_UID".into(), &uid);
        let resources = aml::ResourceTemplate::new(resources.to_vec());
        let resources = aml::Name::new("_CRS".into(), &resources);
        self.device(name, &[&hid, &uid, &resources]);
    }

    /// A table that the XSDT lists.
    pub(crate) fn table(&mut self, table: Vec<u8>) {
        self.others.push(table);
    }
}

/// Builds the tables of a machine with `cpus` vCPUs, 1 to [`CPUS_MAX`], whose local APIC ids are 0 to `cpus - 1`: guest physical
/// addresses and what to write there, the RSDP first, at [`layout::ACPI_START`]. `describe` adds what devices say of themselves.
///
/// Panics if there are more vCPUs or the tables do not fit: the caller assembles the machine.
#[must_use]
pub fn build(cpus: u8, describe: impl FnOnce(&mut Tables)) -> Vec<(u64, Vec<u8>)> {
    assert!((1..=CPUS_MAX).contains(&cpus), "{cpus} vCPUs, of 1 to {CPUS_MAX}");
    let mut described = Tables {
        fadt: FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION),
        root: vec![],
        devices: vec![],
        others: vec![],
    };
    describe(&mut described);
    let Tables { fadt: of_devices, root, devices, others } = described;
    let mut next = layout::ACPI_START + align(Rsdp::len() as u64);
    let mut tables = Vec::new();
    let mut place = |bytes: Vec<u8>| {
        let addr = next;
        next += align(bytes.len() as u64);
        assert!(next <= layout::ACPI_END, "the ACPI tables end within the BIOS area");
        tables.push((addr, bytes));
        addr
    };
    let dsdt = place(dsdt(&root, devices));
    let mut listed = vec![place(fadt(of_devices, dsdt)), place(madt(cpus))];
    listed.extend(others.into_iter().map(&mut place));
    let xsdt = place(xsdt(&listed));
    tables.insert(0, (layout::ACPI_START, bytes(&Rsdp::new(OEM_ID, xsdt))));
    tables
}

fn align(len: u64) -> u64 {
    len.next_multiple_of(16)
}

pub(crate) fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// An empty table with a header of 36 bytes, to be filled.
pub(crate) fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, 36, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION)
}

/// A register of 8 bits at an I/O port.
pub(crate) fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

/// An edge-triggered, active-high, unshared interrupt that the device consumes.
pub(crate) fn edge(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

fn xsdt(entries: &[u64]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    entries.iter().for_each(|&entry| xsdt.add_entry(entry));
    bytes(&xsdt)
}

fn fadt(of_devices: FADTBuilder, dsdt: u64) -> Vec<u8> {
    let mut fadt = of_devices
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    // No keyboard controller and no legacy devices to probe for, but the RTC is there.
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    bytes(&fadt.finalize())
}

fn madt(cpus: u8) -> Vec<u8> {
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, LocalInterruptController::Address(layout::LAPIC_ADDR));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    // KVM's IOAPIC has id 0 and its pins are the interrupt lines, one to one: no overrides.
    madt.add_structure(IoApic::new(0, layout::IOAPIC_ADDR, 0));
    bytes(&madt)
}

fn dsdt(root: &[u8], devices: Vec<u8>) -> Vec<u8> {
    let mut dsdt = table(*b"DSDT", 6);
    dsdt.append_slice(root);
    dsdt.append_slice(&aml::Scope::raw("_SB_".into(), devices));
    dsdt.as_slice().to_vec()
}
