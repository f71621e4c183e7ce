//! Tiny guest programs: 64-bit code at privilege level 0, with a stack, and a handler for each exception.
//!
//! A program runs a few instructions and then writes [`DONE`] to a port. A fault writes its vector to another.

use kvm_bindings::{CpuId, kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// What a program writes to [`PORT_DONE`] when it is through.
pub(super) const DONE: u8 = b'k';
/// The port of a program that is through.
pub(super) const PORT_DONE: u16 = 0x10;
/// The port of an exception handler.
pub(super) const PORT_FAULT: u16 = 0x11;
/// The memory that a program needs.
pub(super) const MEMORY_BYTES: usize = 2 << 20;
/// The vector of [`INT_80`], whose handler returns, as that of a breakpoint does.
const VECTOR_SOFT: u64 = 0x80;
const VECTOR_BREAKPOINT: u64 = 3;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const HANDLERS: u64 = 0x6000;
const CODE: u64 = 0x7000;
const STACK_TOP: u64 = 0x9000;
const VECTORS: u64 = VECTOR_SOFT + 1;
const HANDLER_BYTES: u64 = 16;

// The tables do not overlap.
const _: () = {
    assert!(IDT + VECTORS * 16 <= HANDLERS);
    assert!(HANDLERS + VECTORS * HANDLER_BYTES <= CODE);
    assert!(CODE + 64 < STACK_TOP - 0x1000);
};

/// `int3`
pub(super) const INT3: &[u8] = &[0xcc];
/// `int $0x80`
pub(super) const INT_80: &[u8] = &[0xcd, 0x80];
/// `xor %ecx,%ecx; xgetbv`
pub(super) const XGETBV: &[u8] = &[0x31, 0xc9, 0x0f, 0x01, 0xd0];
/// `mov $3,%eax; xor %edx,%edx; xrstor 0xb000`, an area of zeros
pub(super) const XRSTOR: &[u8] = &[0xb8, 3, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x2c, 0x25, 0x00, 0xb0, 0, 0];
/// `xor` of eax, edx, ebx, ecx; `cmpxchg16b 0xa000`
pub(super) const CMPXCHG16B: &[u8] =
    &[0x31, 0xc0, 0x31, 0xd2, 0x31, 0xdb, 0x31, 0xc9, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0xa0, 0, 0];
/// `rdtscp`
pub(super) const RDTSCP: &[u8] = &[0x0f, 0x01, 0xf9];
/// `paddq %xmm1,%xmm0`
pub(super) const PADDQ: &[u8] = &[0x66, 0x0f, 0xd4, 0xc1];
/// `mov $0xffff,%eax; vmmcall`: a hypercall that does not exist, as AMD has it
pub(super) const VMMCALL: &[u8] = &[0xb8, 0xff, 0xff, 0, 0, 0x0f, 0x01, 0xd9];
/// The same as Intel has it: `vmcall`
pub(super) const VMCALL: &[u8] = &[0xb8, 0xff, 0xff, 0, 0, 0x0f, 0x01, 0xc1];

/// `mov $turns,%ecx; 1: dec %ecx; jnz 1b`
pub(super) fn spin(turns: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(turns.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc]);
    code
}

/// Puts a program, its tables and its handlers into memory.
pub(super) fn load(memory: &GuestMemoryMmap<()>, program: &[u8]) -> Result<(), vm_memory::GuestMemoryError> {
    let put = |bytes: &[u8], at: u64| memory.write_slice(bytes, GuestAddress(at));
    let put_u64 = |value: u64, at: u64| put(&value.to_le_bytes(), at);
    put_u64(PDPT | 3, PML4)?;
    put_u64(PD | 3, PDPT)?;
    put_u64(0x83, PD)?; // 2 MiB at 0, present and writable
    put_u64(0x00af_9b00_0000_ffff, GDT + 8)?;
    put_u64(0x00cf_9300_0000_ffff, GDT + 16)?;
    for vector in 0..VECTORS {
        let handler = HANDLERS + vector * HANDLER_BYTES;
        put(&handler_code(vector), handler)?;
        put_u64((handler & 0xffff) | (0x08 << 16) | (0x8e00 << 32) | ((handler >> 16) << 48), IDT + vector * 16)?;
    }
    put(program, CODE)?;
    put(&[0xb0, DONE, 0xe6, PORT_DONE as u8, 0xf4], CODE + program.len() as u64)
}

/// `iretq` for the two that a program raises itself; else `mov $vector,%al; out %al,$PORT_FAULT; hlt`.
fn handler_code(vector: u64) -> Vec<u8> {
    match vector {
        VECTOR_BREAKPOINT | VECTOR_SOFT => vec![0x48, 0xcf],
        other => vec![0xb0, other as u8, 0xe6, PORT_FAULT as u8, 0xf4],
    }
}

/// Whether a guest that is told `cpuid` has extended states to enable.
pub(super) fn has_xsave(cpuid: &CpuId) -> bool {
    const XSAVE: u32 = 1 << 26;
    cpuid.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.ecx & XSAVE != 0)
}

/// Puts a vCPU in front of the program: long mode, level 0.
pub(super) fn start(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), kvm_ioctls::Error> {
    const CR0: u64 = 0x8001_0033; // PG WP NE ET MP PE
    const CR4: u64 = 0x620; // OSXMMEXCPT OSFXSR PAE
    const OSXSAVE: u64 = 1 << 18;
    const EFER: u64 = 0x500; // LMA LME
    vcpu.set_cpuid2(cpuid)?;
    let mut sregs = vcpu.get_sregs()?;
    let code =
        kvm_segment { limit: u32::MAX, selector: 8, type_: 11, present: 1, s: 1, l: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 16, type_: 3, l: 0, db: 1, ..code };
    (sregs.cs, sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (code, data, data, data, data, data);
    sregs.gdt = kvm_dtable { base: GDT, limit: 23, ..Default::default() };
    sregs.idt = kvm_dtable { base: IDT, limit: (VECTORS * 16 - 1) as u16, ..Default::default() };
    let cr4 = if has_xsave(cpuid) { CR4 | OSXSAVE } else { CR4 };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, cr4, EFER);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: CODE, rsp: STACK_TOP, rflags: 2, ..Default::default() })
}
