//! What a first write costs: the fault that a guest takes on a page whose writes are logged.
//!
//! No counter of the kernel tells it: to leave the guest, to enter it, and to find again the translations that the processor
//! lost by that, are the guest's own time. So it is measured, with a tiny guest that writes to pages that are protected, and
//! again to the same pages when they are not. After each write it uses other memory, as guests do. 2 to 3 µs on hardware,
//! which loses no translations; many times that in a guest of a guest.

#![expect(unsafe_code, reason = "a memory slot hands the guest a mapping of this process")]

use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::vm::enable_manual_protection;
use super::{KvmError, call, dirty};
use crate::memory::{PAGE_SIZE, Ram, Region};
use crate::thread::processor_time;

/// 64-bit code at [`CODE`]: a byte to each of [`PAGES`] pages from [`FIRST_GFN`] on, and after each of them a look at every page of
/// the [`WORKING_SET`] behind them; a byte to port 0x80; again.
const PROGRAM: [u8; 46] = [
    0xb8, 0x00, 0x00, 0x01, 0x00, // mov eax, 0x10000
    0xb9, 0x40, 0x00, 0x00, 0x00, // mov ecx, 64
    0x88, 0x00, // 1: mov [rax], al
    0xbb, 0x00, 0x00, 0x05, 0x00, // mov ebx, 0x50000
    0x8a, 0x13, // 2: mov dl, [rbx]
    0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, // add ebx, 0x1000
    0x81, 0xfb, 0x00, 0x00, 0x15, 0x00, // cmp ebx, 0x150000
    0x75, 0xf0, // jne 2b
    0x05, 0x00, 0x10, 0x00, 0x00, // add eax, 0x1000
    0xff, 0xc9, // dec ecx
    0x75, 0xe0, // jne 1b
    0xe6, 0x80, // out 0x80, al
    0xeb, 0xd2, // jmp to the beginning
];
const CODE: u64 = 0x5000;
/// The guest's own page tables, of four levels, with small pages: a translation takes it as long as it takes a kernel.
const TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];
const PAGES: u32 = 64;
const FIRST_GFN: u64 = 0x10;
/// Pages whose translations a guest needs again before long: a MiB of a kernel's and a server's code and data.
const WORKING_SET: u64 = 256;
/// The least that a guest's memory may have.
const MEMORY_BYTES: u64 = 2 << 20;
const PORT: u16 = 0x80;
/// The first round also brings the memory in.
const ROUNDS: usize = 6;

/// Measures it: 384 first writes, in a VM of its own. Takes the calling thread a few milliseconds, and half a second with a KVM that
/// emulates guests' kernel code.
pub fn first_write_cost() -> Result<Duration, KvmError> {
    let mut guest = Guest::new()?;
    let mut costs = [Duration::ZERO; ROUNDS];
    for cost in &mut costs {
        guest.protect()?;
        let first = guest.turn()?;
        let again = guest.turn()?;
        *cost = first.saturating_sub(again) / PAGES;
    }
    costs.sort_unstable();
    Ok(costs[ROUNDS / 2])
}

/// A guest that runs [`PROGRAM`]. Fields are dropped in this order: the memory outlives the VM that maps it.
struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
    ram: Ram,
}

impl Guest {
    fn new() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        let vm = call("create a VM", kvm.create_vm())?;
        enable_manual_protection(&vm)?;
        let ram = Ram::new(MEMORY_BYTES).map_err(|_| KvmError::Missing("2 MiB of memory"))?;
        give(&vm, &ram.regions()[0])?;
        load(&ram).expect("the guest's memory begins at 0");
        let vcpu = call("create a vCPU", vm.create_vcpu(0))?;
        let cpuid = call("list CPUID", kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))?;
        call("write CPUID", vcpu.set_cpuid2(&cpuid))?;
        start(&vcpu)?;
        Ok(Self { vcpu, vm, ram })
    }

    fn word_count(&self) -> usize {
        (self.ram.regions()[0].page_count() as usize).div_ceil(64)
    }

    /// The next write to each page is a first write.
    fn protect(&self) -> Result<(), KvmError> {
        let region = &self.ram.regions()[0];
        dirty::clear(&self.vm, region.slot, region.page_count(), &mut vec![u64::MAX; self.word_count()])
    }

    /// Runs until the guest has written to all pages; gives the time that this thread had a processor for it: a wait for
    /// one is not a cost of a fault.
    fn turn(&mut self) -> Result<Duration, KvmError> {
        let begun = processor_time();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(PORT, _)) => return Ok(processor_time().saturating_sub(begun)),
                Ok(_) => return Err(KvmError::Missing("a way to run a small guest")),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(source) => return Err(KvmError::Call { what: "run a measurement".into(), source }),
            }
        }
    }
}

fn give(vm: &VmFd, region: &Region) -> Result<(), KvmError> {
    let slot = kvm_userspace_memory_region {
        slot: region.slot,
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        guest_phys_addr: region.base,
        memory_size: region.bytes,
        userspace_addr: region.host_address(),
    };
    // SAFETY: the region is mapped, exactly this long, until the VM is closed (see [`Guest`]).
    call("map the memory of a measurement", unsafe { vm.set_user_memory_region(slot) })
}

/// The program, and tables that give each address of the guest's memory itself.
fn load(ram: &Ram) -> Result<(), GuestMemoryError> {
    // Accessed and dirty too: the processor writes no table.
    const PRESENT_AND_WRITABLE: u64 = 0x63;
    let memory = ram.memory();
    for level in TABLES.windows(2) {
        memory.write_obj(level[1] | PRESENT_AND_WRITABLE, GuestAddress(level[0]))?;
    }
    for page in 0..MEMORY_BYTES / PAGE_SIZE as u64 {
        let entry = (page * PAGE_SIZE as u64) | PRESENT_AND_WRITABLE;
        memory.write_obj(entry, GuestAddress(TABLES[3] + 8 * page))?;
    }
    memory.write_slice(&PROGRAM, GuestAddress(CODE))
}

/// In long mode at level 0, in front of the program.
fn start(vcpu: &VcpuFd) -> Result<(), KvmError> {
    const CR0: u64 = 0x8000_0011; // PG ET PE
    const CR4: u64 = 0x20; // PAE
    const EFER: u64 = 0x500; // LMA LME
    let mut sregs = call("read the segment registers", vcpu.get_sregs())?;
    let code =
        kvm_segment { limit: u32::MAX, selector: 8, type_: 11, present: 1, s: 1, l: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 16, type_: 3, l: 0, db: 1, ..code };
    (sregs.cs, sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (code, data, data, data, data, data);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, TABLES[0], CR4, EFER);
    call("write the segment registers", vcpu.set_sregs(&sregs))?;
    call("write the registers", vcpu.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..Default::default() }))
}

// The pages lie behind the tables and the code, and the guest has them.
const _: () = {
    assert!(FIRST_GFN == 0x10 && FIRST_GFN + PAGES as u64 == 0x50 && FIRST_GFN + PAGES as u64 + WORKING_SET == 0x150);
    assert!(0x150 <= MEMORY_BYTES / PAGE_SIZE as u64 && CODE < FIRST_GFN * PAGE_SIZE as u64);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// What it costs depends on the host: a KVM that emulates the guest's kernel code takes no fault for it.
    #[test]
    fn measurement_ends_with_a_time() {
        if super::super::vm_for_tests().is_none() {
            return;
        }
        let cost = first_write_cost().expect("this host's KVM runs a small guest");
        assert!(cost < Duration::from_millis(10), "{cost:?}");
    }

    #[test]
    fn each_turn_writes_to_each_page_once_they_are_protected() {
        if super::super::vm_for_tests().is_none() {
            return;
        }
        let mut guest = Guest::new().expect("this host's KVM runs a small guest");
        for _ in 0..2 {
            guest.protect().expect("the log can be cleared");
            guest.turn().expect("the guest runs");
            let mut words = vec![0; guest.word_count()];
            dirty::read(&guest.vm, guest.ram.regions()[0].slot, &mut words).expect("the log can be read");
            let written = |gfn: u64| words[gfn as usize / 64] >> (gfn % 64) & 1 == 1;
            let pages: Vec<u64> = (0..MEMORY_BYTES / PAGE_SIZE as u64).filter(|gfn| written(*gfn)).collect();
            assert_eq!(pages, (FIRST_GFN..FIRST_GFN + u64::from(PAGES)).collect::<Vec<_>>());
        }
    }
}
