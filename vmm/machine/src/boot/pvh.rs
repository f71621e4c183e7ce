//! ELF with a PVH note: the start info structure, and entry in 32-bit protected mode without paging.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::ByteValued;

use super::cpu::{BootRegisters, EntryMode};
use super::{BootError, Extent, memory_map, write};
use crate::memory::GuestMemory;

const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6040;
const MEMORY_MAP: u64 = 0x6100;
const MAGIC: u32 = 0x336e_c578;
const VERSION_WITH_MEMORY_MAP: u32 = 1;
const TYPE_RAM: u32 = 1;
const TYPE_RESERVED: u32 = 2;

pub(super) fn prepare(
    memory: &GuestMemory,
    ram_bytes: u64,
    rsdp: u64,
    cmdline: Extent,
    initramfs: Option<Extent>,
    entry: u64,
) -> Result<BootRegisters, BootError> {
    let map: Vec<hvm_memmap_table_entry> = memory_map(ram_bytes)
        .into_iter()
        .map(|(addr, size, is_ram)| hvm_memmap_table_entry {
            addr,
            size,
            type_: if is_ram { TYPE_RAM } else { TYPE_RESERVED },
            reserved: 0,
        })
        .collect();
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION_WITH_MEMORY_MAP,
        cmdline_paddr: cmdline.address,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(Extent { address, bytes }) = initramfs {
        let module = hvm_modlist_entry { paddr: address, size: bytes, ..Default::default() };
        write(memory, "the list of modules", MODULES, module.as_slice())?;
        (info.modlist_paddr, info.nr_modules) = (MODULES, 1);
    }
    for (i, range) in map.iter().enumerate() {
        let address = MEMORY_MAP + (i * size_of::<hvm_memmap_table_entry>()) as u64;
        write(memory, "the memory map", address, range.as_slice())?;
    }
    write(memory, "the start info", START_INFO, info.as_slice())?;
    super::cpu::write_protected_mode_tables(memory)?;
    Ok(BootRegisters { entry, parameter: START_INFO, mode: EntryMode::Protected })
}
