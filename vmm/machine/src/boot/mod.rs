//! Loading a kernel: what a guest finds in memory and in its first vCPU's registers when it starts.
//!
//! Two formats: bzImage, entered in 64-bit mode by the Linux boot protocol, and ELF with a PVH note, entered in 32-bit
//! protected mode. ACPI tables are built by `devices` and only placed here. In place of firmware there is one piece of
//! code, at the address where a PC's firmware is entered: it resets the machine.

mod cpu;
mod linux;
mod pvh;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use devices::i8042;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::{self, DEVICE_HOLE_START, GuestMemory, PAGE_SIZE};

pub use cpu::{BootRegisters, EntryMode};

/// The longest kernel command line, as Linux limits it, with its terminating zero.
pub const CMDLINE_BYTES_MAX: usize = 2048;

const ZERO_PAGE: u64 = 0x7000;
const CMDLINE: u64 = 0x2_0000;
const HIGH_MEMORY_START: u64 = 0x10_0000;
/// Where conventional memory ends and the area for firmware tables begins.
const EBDA_START: u64 = 0x9_fc00;

/// Where firmware is entered in real mode: FFFF:0000.
const FIRMWARE_ENTRY: u64 = 0xf_fff0;
/// The code: load the reset command, give it to the keyboard controller, halt for good. A kernel that is told of
/// reduced hardware reboots through EFI, which it finds missing, and then jumps to the firmware's entry.
const FIRMWARE: [u8; 7] = [0xb0, i8042::RESET, 0xe6, i8042::COMMAND_PORT as u8, 0xf4, 0xeb, 0xfd];

/// Why a guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be read.
    #[error("cannot read {what} {path}: {source}; check the path and its permissions")]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is no kernel.
    #[error(
        "{path} is not a kernel that can be booted: {reason}; give a bzImage (vmlinuz) or an ELF vmlinux with a PVH entry"
    )]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// It does not fit.
    #[error("{what} needs {needed} bytes and the guest has {available}; raise --memory")]
    TooLarge {
        /// What was loaded.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        available: u64,
    },
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes; at most {max}", max = CMDLINE_BYTES_MAX - 1)]
    CmdlineTooLong(usize),
}

/// What to boot.
#[derive(Debug, Clone)]
pub struct BootSource<'a> {
    /// Kernel file.
    pub kernel: &'a Path,
    /// Initial ramdisk file.
    pub initramfs: Option<&'a Path>,
    /// Kernel command line.
    pub cmdline: &'a str,
    /// Firmware tables: (guest address, bytes).
    pub tables: &'a [(u64, Vec<u8>)],
    /// Guest address of the root system description pointer.
    pub rsdp: u64,
}

/// A place in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    address: u64,
    bytes: u64,
}

/// Loads everything and says how the first vCPU starts.
pub fn load(memory: &GuestMemory, ram_bytes: u64, source: &BootSource) -> Result<BootRegisters, BootError> {
    for (address, bytes) in source.tables {
        write(memory, "the ACPI tables", *address, bytes)?;
    }
    write(memory, "the reset code", FIRMWARE_ENTRY, &FIRMWARE)?;
    let cmdline = load_cmdline(memory, source.cmdline)?;
    let mut file = open("kernel", source.kernel)?;
    let mut magic = [0; 4];
    let is_elf = file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
    rewind(&mut file, source.kernel)?;
    let loaded = load_kernel(memory, source.kernel, &mut file, is_elf, ram_bytes)?;
    let initramfs = match source.initramfs {
        Some(path) => Some(load_initramfs(memory, ram_bytes, loaded.kernel_end, path)?),
        None => None,
    };
    match (loaded.setup_header, loaded.pvh_boot_cap) {
        (Some(header), _) => {
            linux::prepare(memory, ram_bytes, source.rsdp, header, cmdline, initramfs, loaded.kernel_load.0)
        }
        (None, PvhBootCapability::PvhEntryPresent(entry)) => {
            pvh::prepare(memory, ram_bytes, source.rsdp, cmdline, initramfs, entry.0)
        }
        (None, _) => Err(BootError::NotAKernel {
            path: source.kernel.to_owned(),
            reason: "it is an ELF file without a PVH entry note".into(),
        }),
    }
}

fn open(what: &'static str, path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| BootError::Read { what, path: path.to_owned(), source })
}

fn rewind(file: &mut File, path: &Path) -> Result<(), BootError> {
    file.seek(SeekFrom::Start(0)).map(drop).map_err(|source| BootError::Read {
        what: "kernel",
        path: path.to_owned(),
        source,
    })
}

fn load_kernel(
    memory: &GuestMemory,
    path: &Path,
    file: &mut File,
    is_elf: bool,
    ram_bytes: u64,
) -> Result<KernelLoaderResult, BootError> {
    let file_bytes = file.metadata().map(|m| m.len()).unwrap_or(0);
    let room = ram_bytes.saturating_sub(HIGH_MEMORY_START);
    if file_bytes > room && !is_elf {
        return Err(BootError::TooLarge { what: "the kernel", needed: file_bytes, available: room });
    }
    let result = if is_elf {
        Elf::load(memory, None, file, None)
    } else {
        BzImage::load(memory, Some(GuestAddress(HIGH_MEMORY_START)), file, None)
    };
    result.map_err(|e| BootError::NotAKernel { path: path.to_owned(), reason: e.to_string() })
}

fn load_cmdline(memory: &GuestMemory, cmdline: &str) -> Result<Extent, BootError> {
    if cmdline.len() >= CMDLINE_BYTES_MAX {
        return Err(BootError::CmdlineTooLong(cmdline.len()));
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    write(memory, "the command line", CMDLINE, &bytes)?;
    Ok(Extent { address: CMDLINE, bytes: bytes.len() as u64 })
}

/// As high as it fits below the device hole, page aligned, above the kernel.
fn load_initramfs(memory: &GuestMemory, ram_bytes: u64, kernel_end: u64, path: &Path) -> Result<Extent, BootError> {
    let mut file = open("initramfs", path)?;
    let unreadable = |source| BootError::Read { what: "initramfs", path: path.to_owned(), source };
    let bytes = file.metadata().map_err(unreadable)?.len();
    let top = ram_bytes.min(DEVICE_HOLE_START);
    let address = top.saturating_sub(bytes) & !(PAGE_SIZE as u64 - 1);
    if address < kernel_end.max(HIGH_MEMORY_START) {
        let available = top.saturating_sub(kernel_end);
        return Err(BootError::TooLarge { what: "the initramfs", needed: bytes, available });
    }
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, bytes as usize)
        .map_err(|e| unreadable(std::io::Error::other(e)))?;
    Ok(Extent { address, bytes })
}

fn write(memory: &GuestMemory, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|_| BootError::TooLarge {
        what,
        needed: address + bytes.len() as u64,
        available: memory.last_addr().0 + 1,
    })
}

/// The memory map for the guest: (address, bytes, is RAM).
fn memory_map(ram_bytes: u64) -> Vec<(u64, u64, bool)> {
    let mut map = vec![(0, EBDA_START, true), (EBDA_START, HIGH_MEMORY_START - EBDA_START, false)];
    for (base, bytes) in memory::layout(ram_bytes) {
        let start = base.max(HIGH_MEMORY_START);
        map.push((start, (base + bytes).saturating_sub(start), true));
    }
    map.retain(|&(_, bytes, _)| bytes > 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use std::io::Write;

    fn boot(content: &[u8], ram_bytes: u64) -> Result<BootRegisters, BootError> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(content).expect("it can be written");
        let ram = Ram::new(ram_bytes).expect("it fits");
        let source = BootSource { kernel: file.path(), initramfs: None, cmdline: "", tables: &[], rsdp: 0 };
        load(ram.memory(), ram_bytes, &source)
    }

    #[test]
    fn load_of_text_is_refused_as_not_a_kernel() {
        assert!(matches!(boot(b"#!/bin/sh\n", 16 << 20), Err(BootError::NotAKernel { .. })));
        assert!(matches!(boot(b"", 16 << 20), Err(BootError::NotAKernel { .. })));
        assert!(matches!(boot(b"\x7fELF", 16 << 20), Err(BootError::NotAKernel { .. })));
    }

    #[test]
    fn firmware_entry_resets_through_the_keyboard_controller() {
        // mov al, 0xfe; out 0x64, al; hlt; jmp to the hlt.
        assert_eq!(FIRMWARE, [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd]);
        let (start, bytes, is_ram) = memory_map(16 << 20)[1];
        assert!((start..start + bytes).contains(&FIRMWARE_ENTRY) && !is_ram, "a guest must not use it as memory");
    }

    #[test]
    fn memory_map_covers_ram_and_skips_the_hole() {
        let map = memory_map(8 << 30);
        assert_eq!(map[2], (HIGH_MEMORY_START, DEVICE_HOLE_START - HIGH_MEMORY_START, true));
        assert_eq!(map[3], (1 << 32, (8 << 30) - DEVICE_HOLE_START, true));
    }
}
