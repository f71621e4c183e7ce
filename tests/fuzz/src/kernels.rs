//! Kernel files.

use std::fs;
use std::sync::OnceLock;

use machine::boot::{BootSource, load};
use machine::memory::Ram;

use crate::input::Input;
use crate::patch;

const RAM_BYTES: u64 = 16 << 20;

/// An ELF with one segment and a PVH note.
pub fn elf() -> Vec<u8> {
    let mut file = vec![0; 0x200];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    let mut put = |at: usize, number: u64, len: usize| file[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
    put(16, 2, 2);
    put(18, 62, 2);
    put(20, 1, 4);
    put(24, 0x10_0000, 8);
    put(32, 64, 8);
    put(52, 64, 2);
    put(54, 56, 2);
    put(56, 2, 2);
    for (index, (kind, offset, address, size)) in
        [(1, 0x180, 0x10_0000, 0x40), (4, 0x140, 0, 20)].into_iter().enumerate()
    {
        let at = 64 + index * 56;
        put(at, kind, 4);
        put(at + 4, 5, 4);
        for (field, value) in [offset, address, address, size, size, 4].into_iter().enumerate() {
            put(at + 8 + field * 8, value, 8);
        }
    }
    put(0x140, 4, 4);
    put(0x144, 4, 4);
    put(0x148, 18, 4);
    file[0x14c..0x150].copy_from_slice(b"Xen\0");
    file[0x150..0x154].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file
}

/// A bzImage with a header of the boot protocol and nothing behind it.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file[0x236] = 1;
    file
}

pub fn run(data: &[u8]) {
    static PLACE: OnceLock<(tempfile::TempDir, Ram)> = OnceLock::new();
    let (dir, ram) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("there is a tmpfs");
        (dir, Ram::new(RAM_BYTES).expect("16 MiB fit"))
    });
    let mut input = Input::new(data);
    let which = input.u8() % 3;
    let mut kernel = match which {
        0 => elf(),
        1 => bzimage(),
        _ => data.to_vec(),
    };
    patch::apply(&mut input, &mut kernel, 6);
    let path = dir.path().join("kernel");
    fs::write(&path, &kernel).expect("there is room");
    let initramfs = (input.u8() & 1 == 0).then_some(&*path);
    let cmdline = "x".repeat(usize::from(input.u16()) % 3000);
    let source = BootSource { kernel: &path, initramfs, cmdline: &cmdline, tables: &[], rsdp: 0xe_0000 };
    let _ = load(ram.memory(), RAM_BYTES, &source);
}
