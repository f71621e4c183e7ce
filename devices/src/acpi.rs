//! The ACPI tables of a hardware-reduced PC without PCI.
//!
//! RSDP, XSDT, FADT, MADT, WDAT and DSDT, in the BIOS area where guests look for them. The DSDT lists the virtio-mmio windows
//! as `LNRO0005`, which Linux drives without a kernel command line.
//!
//! What is absent on purpose: a keyboard controller device (the FADT says that there is none, so guests do not probe
//! for it; its port still resets the machine), legacy timers, and an interrupt of the RTC, which raises none.

#[cfg(test)]
mod tests;
mod wdat;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use crate::layout::{self, MmioSlot};
use crate::{cmos, i8042, power};

const OEM_ID: [u8; 6] = *b"OUTLST";
const OEM_TABLE_ID: [u8; 8] = *b"OUTLAST ";
const OEM_REVISION: u32 = 1;
/// Boot architecture flag: do not probe for a VGA.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// Local APIC ids are eight bits wide and 255 addresses all of them.
pub const CPUS_MAX: u8 = 254;

/// What the tables describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// vCPUs; their local APIC ids are 0 to `cpus - 1`. 1 to [`CPUS_MAX`].
    pub cpus: u8,
    /// The virtio-mmio windows, in bus order.
    pub mmio_devices: Vec<MmioSlot>,
    /// Where the RSDP goes; the other tables follow. A multiple of 16 within the BIOS area.
    pub rsdp_addr: u64,
}

impl AcpiConfig {
    /// A machine with `cpus` vCPUs and `devices` virtio-mmio windows at their usual places.
    #[must_use]
    pub fn new(cpus: u8, devices: usize) -> Self {
        let mmio_devices = (0..devices).map(layout::virtio_mmio).collect();
        Self { cpus, mmio_devices, rsdp_addr: layout::ACPI_START }
    }
}

/// Builds the tables: guest physical addresses and what to write there, the RSDP first.
///
/// Panics if the configuration is outside its bounds or the tables do not fit: the caller assembles the machine.
#[must_use]
pub fn build(config: &AcpiConfig) -> Vec<(u64, Vec<u8>)> {
    assert!((1..=CPUS_MAX).contains(&config.cpus), "{} vCPUs, of 1 to {CPUS_MAX}", config.cpus);
    assert!(config.rsdp_addr.is_multiple_of(16), "the RSDP lies on a 16-byte boundary");
    assert!(config.rsdp_addr >= layout::ACPI_START, "the RSDP lies in the BIOS area");
    let mut next = config.rsdp_addr + align(Rsdp::len() as u64);
    let mut tables = Vec::new();
    let mut place = |bytes: Vec<u8>| {
        let addr = next;
        next += align(bytes.len() as u64);
        assert!(next <= layout::ACPI_END, "the ACPI tables end within the BIOS area");
        tables.push((addr, bytes));
        addr
    };
    let dsdt = place(dsdt(&config.mmio_devices));
    let fadt = place(fadt(dsdt));
    let madt = place(madt(config.cpus));
    let wdat = place(wdat::wdat());
    let xsdt = place(xsdt(&[fadt, madt, wdat]));
    tables.insert(0, (config.rsdp_addr, bytes(&Rsdp::new(OEM_ID, xsdt))));
    tables
}

fn align(len: u64) -> u64 {
    len.next_multiple_of(16)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn xsdt(entries: &[u64]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    entries.iter().for_each(|&entry| xsdt.add_entry(entry));
    bytes(&xsdt)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.reset_reg = port(layout::I8042_COMMAND_PORT);
    fadt.reset_value = i8042::RESET;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.century = cmos::CENTURY;
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

fn dsdt(devices: &[MmioSlot]) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut body = Vec::new();
    s5(&mut body);
    let mut scope = Vec::new();
    com1(&mut scope);
    rtc(&mut scope);
    pvpanic(&mut scope);
    for (index, device) in devices.iter().enumerate() {
        virtio_mmio(index, device, &mut scope);
    }
    body.extend(aml::Scope::raw("_SB_".into(), scope));
    dsdt.append_slice(&body);
    dsdt.as_slice().to_vec()
}

/// `\_S5`: the sleep type that switches the machine off.
fn s5(out: &mut Vec<u8>) {
    let package = aml::Package::new(vec![&power::SLEEP_TYPE_S5]);
    aml::Name::new("_S5_".into(), &package).to_aml_bytes(out);
}

fn com1(out: &mut Vec<u8>) {
    let io = aml::IO::new(layout::COM1_PORT, layout::COM1_PORT, 1, layout::COM1_PORTS as u8);
    let interrupt = edge(layout::COM1_GSI);
    device("COM1", &aml::EISAName::new("PNP0501"), 0, &[&io, &interrupt], out);
}

fn rtc(out: &mut Vec<u8>) {
    let io = aml::IO::new(layout::CMOS_PORT, layout::CMOS_PORT, 1, layout::CMOS_PORTS as u8);
    device("RTC_", &aml::EISAName::new("PNP0B00"), 0, &[&io], out);
}

fn pvpanic(out: &mut Vec<u8>) {
    let io = aml::IO::new(layout::PVPANIC_PORT, layout::PVPANIC_PORT, 1, 1);
    device("PEVT", &"QEMU0001", 0, &[&io], out);
}

fn virtio_mmio(index: usize, slot: &MmioSlot, out: &mut Vec<u8>) {
    let base = u32::try_from(slot.base).expect("virtio-mmio windows lie below 4 GiB");
    let size = u32::try_from(slot.size).expect("a window is a page");
    let memory = aml::Memory32Fixed::new(true, base, size);
    let interrupt = edge(slot.gsi);
    device(&format!("VR{index:02}"), &"LNRO0005", index as u32, &[&memory, &interrupt], out);
}

/// An edge-triggered, active-high, unshared interrupt that the device consumes.
fn edge(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

fn device(name: &str, hid: &dyn Aml, uid: u32, resources: &[&dyn Aml], out: &mut Vec<u8>) {
    let hid = aml::Name::new("_HID".into(), hid);
    let uid = aml::Name::new("_UID".into(), &uid);
    let resources = aml::ResourceTemplate::new(resources.to_vec());
    let resources = aml::Name::new("_CRS".into(), &resources);
    aml::Device::new(name.into(), vec![&hid, &uid, &resources]).to_aml_bytes(out);
}
