//! Registers of the boot vCPU, and the tables they point at.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::{BootError, write};
use crate::kvm::{KvmError, Vcpu};
use crate::memory::GuestMemory;

const GDT: u64 = 0x500;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const PAGE_DIRECTORY: u64 = 0xb000;
const BOOT_STACK: u64 = 0x8ff0;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// In which mode the guest's entry expects the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryMode {
    /// 64-bit, the first GiB mapped one to one; RSI points at the boot parameters.
    Long,
    /// 32-bit protected mode without paging; EBX points at the start info.
    Protected,
}

/// How the boot vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootRegisters {
    /// First instruction.
    pub entry: u64,
    /// Address of the boot parameters or the start info.
    pub parameter: u64,
    /// Mode of the processor.
    pub mode: EntryMode,
}

impl BootRegisters {
    /// Sets up the boot vCPU. The others wait for the guest to start them.
    pub fn apply(&self, vcpu: &Vcpu) -> Result<(), KvmError> {
        let mut sregs = vcpu.sregs()?;
        let mut regs = kvm_regs { rip: self.entry, rflags: 2, ..Default::default() };
        match self.mode {
            EntryMode::Long => {
                long_mode(&mut sregs);
                (regs.rsi, regs.rsp, regs.rbp) = (self.parameter, BOOT_STACK, BOOT_STACK);
            }
            EntryMode::Protected => {
                protected_mode(&mut sregs);
                regs.rbx = self.parameter;
            }
        }
        vcpu.set_boot_state(&regs, &sregs)
    }
}

/// A descriptor's flags: access byte in the low eight bits, size flags in bits 12 to 15.
fn descriptor(flags: u16, base: u32, limit: u32) -> u64 {
    let (flags, base, limit) = (u64::from(flags), u64::from(base), u64::from(limit));
    ((base & 0xff00_0000) << 32)
        | ((flags & 0xf0ff) << 40)
        | ((limit & 0x000f_0000) << 32)
        | ((base & 0x00ff_ffff) << 16)
        | (limit & 0xffff)
}

const CODE_64: u16 = 0xa09b;
const CODE_32: u16 = 0xc09b;
const DATA: u16 = 0xc093;
const TASK: u16 = 0x008b;

fn write_gdt(memory: &GuestMemory, code: u16) -> Result<(), BootError> {
    // Selectors 0x10 and 0x18, as the Linux boot protocol wants them; the task segment after them.
    let table = [0, 0, descriptor(code, 0, 0xf_ffff), descriptor(DATA, 0, 0xf_ffff), descriptor(TASK, 0, 0x67)];
    let bytes: Vec<u8> = table.iter().flat_map(|d| d.to_le_bytes()).collect();
    write(memory, "the descriptor table", GDT, &bytes)
}

pub(super) fn write_protected_mode_tables(memory: &GuestMemory) -> Result<(), BootError> {
    write_gdt(memory, CODE_32)
}

/// Descriptors, and page tables that map the first GiB one to one.
pub(super) fn write_long_mode_tables(memory: &GuestMemory) -> Result<(), BootError> {
    write_gdt(memory, CODE_64)?;
    write(memory, "the page tables", PML4, &(PDPT | PRESENT_WRITABLE).to_le_bytes())?;
    write(memory, "the page tables", PDPT, &(PAGE_DIRECTORY | PRESENT_WRITABLE).to_le_bytes())?;
    let directory: Vec<u8> =
        (0..512u64).flat_map(|i| ((i << 21) | PRESENT_WRITABLE | LARGE_PAGE).to_le_bytes()).collect();
    write(memory, "the page tables", PAGE_DIRECTORY, &directory)
}

fn segment(selector: u16, flags: u16) -> kvm_segment {
    let bit = |n: u16| ((flags >> n) & 1) as u8;
    kvm_segment {
        base: 0,
        limit: if selector == 0x20 { 0x67 } else { 0xffff_ffff },
        selector,
        type_: (flags & 0xf) as u8,
        s: bit(4),
        dpl: ((flags >> 5) & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: 0,
        padding: 0,
    }
}

fn flat_segments(sregs: &mut kvm_sregs, code: u16) {
    let data = segment(0x18, DATA);
    sregs.cs = segment(0x10, code);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(0x20, TASK);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 5 * 8 - 1);
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
}

fn protected_mode(sregs: &mut kvm_sregs) {
    flat_segments(sregs, CODE_32);
    (sregs.cr0, sregs.cr4, sregs.efer) = (CR0_PE | CR0_ET, 0, 0);
}

fn long_mode(sregs: &mut kvm_sregs) {
    flat_segments(sregs, CODE_64);
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.cr3 = PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_of_flat_64_bit_code_is_the_architectures() {
        assert_eq!(descriptor(CODE_64, 0, 0xf_ffff), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn segment_flags_come_apart_as_the_descriptor_has_them() {
        let code = segment(0x10, CODE_64);
        assert_eq!((code.type_, code.s, code.present, code.l, code.db, code.g), (0xb, 1, 1, 1, 0, 1));
    }
}
