//! bzImage: the zero page of the Linux boot protocol, and entry in 64-bit mode.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, GuestAddress};

use super::cpu::{BootRegisters, EntryMode};
use super::{BootError, Extent, ZERO_PAGE, memory_map, write};
use crate::memory::GuestMemory;

const LOADER_UNDEFINED: u8 = 0xff;
const ENTRY_64_OFFSET: u64 = 0x200;
const XLF_KERNEL_64: u16 = 1;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

pub(super) fn prepare(
    memory: &GuestMemory,
    ram_bytes: u64,
    rsdp: u64,
    header: setup_header,
    cmdline: Extent,
    initramfs: Option<Extent>,
    load_address: u64,
) -> Result<BootRegisters, BootError> {
    let xloadflags = header.xloadflags;
    if xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::NotAKernel { path: "the bzImage".into(), reason: "it has no 64-bit entry".into() });
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = cmdline.address as u32;
    params.hdr.cmdline_size = cmdline.bytes as u32;
    if let Some(Extent { address, bytes }) = initramfs {
        params.hdr.ramdisk_image = address as u32;
        params.hdr.ramdisk_size = bytes as u32;
    }
    let map = memory_map(ram_bytes);
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size, is_ram)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: if is_ram { E820_RAM } else { E820_RESERVED } };
    }
    write(memory, "the boot parameters", ZERO_PAGE, params.as_slice())?;
    super::cpu::write_long_mode_tables(memory)?;
    debug_assert!(GuestAddress(load_address).0 >= super::HIGH_MEMORY_START);
    Ok(BootRegisters { entry: load_address + ENTRY_64_OFFSET, parameter: ZERO_PAGE, mode: EntryMode::Long })
}
