//! The VM: memory slots, interrupt chips, clock, dirty log.

#![expect(unsafe_code, reason = "a memory slot hands the guest a mapping of this process")]

use std::sync::Mutex;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_PIT_SPEAKER_DUMMY, kvm_clock_data, kvm_enable_cap, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use super::cpuid::compare::{self, FeatureMsr, Lack, Promise};
use super::msrs::MsrList;
use super::{CpuidTable, KvmError, Vcpu, VcpuState, call, call_with, clock, dirty};
use crate::memory::Region;

const API_VERSION: i32 = 12;
/// Below 4 GiB and above the APICs: three pages that KVM needs on Intel hosts, and one for its identity map.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// State of what KVM emulates outside the vCPUs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChipState {
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
}

impl Section for ChipState {
    const NAME: &'static str = "kvm-chips";
    const VERSION: u16 = 1;
}

impl ChipState {
    pub(super) fn clock_ns(&self) -> u64 {
        self.clock.clock
    }

    pub(super) fn set_clock_ns(&mut self, ns: u64) {
        self.clock.clock = ns;
    }
}

/// What this host's processor and kernel can offer guests.
#[derive(Debug)]
pub struct Host {
    cpuid: CpuidTable,
}

impl Host {
    fn ask(kvm: &Kvm) -> Result<Self, KvmError> {
        let supported = call("list CPUID", kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))?;
        Ok(Self { cpuid: CpuidTable::of_host(&supported) })
    }

    /// The CPUID of a guest that boots here.
    pub fn cpuid_for_guests(&self) -> CpuidTable {
        self.cpuid.without_unsaved()
    }

    /// What is lacking here for a guest that was told `cpuid` and reads `msrs`, where a fresh vCPU of it reads `fresh`.
    /// What is hidden from new guests is no lack: guests of an earlier version may have seen it.
    pub fn lacks(&self, cpuid: &CpuidTable, msrs: &[FeatureMsr], fresh: &[FeatureMsr]) -> Vec<Lack> {
        compare::lacks(Promise { cpuid, msrs }, Promise { cpuid: &self.cpuid, msrs: fresh })
    }
}

/// A VM of this process, with its interrupt chips made.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    host: Host,
    msrs: MsrList,
    /// Held while a line is up, see [`Vm::pulse`].
    lines: Mutex<()>,
}

impl Vm {
    /// Opens `/dev/kvm` and creates a VM without memory or vCPUs.
    pub fn new() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        check_host(&kvm)?;
        let fd = call("create a VM", kvm.create_vm())?;
        call("place the task state segment", fd.set_tss_address(TSS_ADDRESS))?;
        call("place the identity map", fd.set_identity_map_address(IDENTITY_MAP_ADDRESS))?;
        call("create the interrupt chips", fd.create_irq_chip())?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        call("create the interval timer", fd.create_pit2(pit))?;
        enable_manual_protection(&fd)?;
        Ok(Self { fd, host: Host::ask(&kvm)?, msrs: MsrList::of_host(&kvm)?, lines: Mutex::new(()) })
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> &VmFd {
        &self.fd
    }

    /// What this host can offer a guest.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Gives the guest a region of RAM; `log_dirty` turns the dirty log on.
    ///
    /// The region must stay mapped as long as this VM exists: [`crate::Machine`] owns both and drops the VM
    /// first.
    pub fn set_region(&self, region: &Region, log_dirty: bool) -> Result<(), KvmError> {
        let slot = kvm_userspace_memory_region {
            slot: region.slot,
            flags: if log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.base,
            memory_size: region.bytes,
            userspace_addr: region.host_address(),
        };
        // SAFETY: the region is mapped, exactly this long, and outlives the VM (the caller's duty, stated above).
        let result = unsafe { self.fd.set_user_memory_region(slot) };
        call(format!("map {} bytes of RAM at {:#x}", region.bytes, region.base), result)
    }

    /// Creates vCPU `id` of `count` with the guest's CPUID table.
    pub fn create_vcpu(&self, id: u32, count: u32, cpuid: &CpuidTable) -> Result<Vcpu, KvmError> {
        Vcpu::new(&self.fd, id, count, cpuid, self.msrs.clone())
    }

    /// Raises an edge on interrupt line `gsi`.
    ///
    /// One thread at a time: while the line is up, raising it again is no edge, and the guest may have served the first
    /// one already. Its driver would wait for the second for ever.
    pub fn pulse(&self, gsi: u32) -> Result<(), KvmError> {
        let _one = self.lines.lock().expect("no holder of the lines panics");
        call_with(|| format!("raise interrupt line {gsi}"), self.fd.set_irq_line(gsi, true))?;
        call_with(|| format!("lower interrupt line {gsi}"), self.fd.set_irq_line(gsi, false))
    }

    /// Reads the dirty log of `slot` into `words` (a bit a page).
    pub fn read_dirty(&self, slot: u32, words: &mut [u64]) -> Result<(), KvmError> {
        dirty::read(&self.fd, slot, words)
    }

    /// Protects again the pages whose bits are set.
    pub fn clear_dirty(&self, slot: u32, page_count: u64, words: &mut [u64]) -> Result<(), KvmError> {
        dirty::clear(&self.fd, slot, page_count, words)
    }

    /// Reads all vCPUs, which must be stopped, the chips, and the clocks of all of them at one moment.
    /// The vCPUs' states are written over `states`, whose memory is used again.
    pub fn save(&self, vcpus: &[&Vcpu], states: &mut Vec<VcpuState>) -> Result<ChipState, KvmError> {
        states.resize_with(vcpus.len(), VcpuState::default);
        vcpus.iter().zip(&mut *states).try_for_each(|(vcpu, state)| vcpu.save_over(state))?;
        let mut chips = self.save_chips()?;
        clock::save(&self.fd, vcpus, &mut chips, states)?;
        Ok(chips)
    }

    fn save_chips(&self) -> Result<ChipState, KvmError> {
        // A line that is up in the saved state would swallow the first edge after the restore.
        let _down = self.lines.lock().expect("no holder of the lines panics");
        Ok(ChipState {
            pic_master: self.chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: self.chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: self.chip(KVM_IRQCHIP_IOAPIC)?,
            pit: call("read the interval timer", self.fd.get_pit2())?,
            // It is read with the counters of the vCPUs.
            clock: kvm_clock_data::default(),
        })
    }

    fn chip(&self, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        call_with(|| format!("read interrupt chip {chip_id}"), self.fd.get_irqchip(&mut chip))?;
        Ok(chip)
    }

    /// Writes the chips, the clocks and the vCPUs, in that order: the clocks must be right when a vCPU has a deadline or runs.
    pub fn restore(&self, vcpus: &[&Vcpu], chips: &ChipState, states: &[VcpuState]) -> Result<(), KvmError> {
        self.restore_chips(chips)?;
        self.restore_clocks(vcpus, chips, states)?;
        vcpus.iter().zip(states).try_for_each(|(vcpu, state)| vcpu.restore(state))
    }

    /// Writes the guest's clock and the time stamp counters of all vCPUs, as they were at one moment.
    pub fn restore_clocks(&self, vcpus: &[&Vcpu], chips: &ChipState, states: &[VcpuState]) -> Result<(), KvmError> {
        clock::restore(&self.fd, vcpus, chips, states)
    }

    fn restore_chips(&self, state: &ChipState) -> Result<(), KvmError> {
        let ChipState { pic_master, pic_slave, ioapic, pit, clock: _ } = state;
        for (id, chip) in
            [(KVM_IRQCHIP_PIC_MASTER, pic_master), (KVM_IRQCHIP_PIC_SLAVE, pic_slave), (KVM_IRQCHIP_IOAPIC, ioapic)]
        {
            // The id is set here, not taken from the saved bytes, which may come from a peer.
            let chip = kvm_irqchip { chip_id: id, ..*chip };
            call(format!("write interrupt chip {id}"), self.fd.set_irqchip(&chip))?;
        }
        call("write the interval timer", self.fd.set_pit2(pit))
    }
}

fn check_host(kvm: &Kvm) -> Result<(), KvmError> {
    match kvm.get_api_version() {
        API_VERSION => {}
        other => return Err(KvmError::Version(other)),
    }
    const NEEDED: [(Cap, &str); 6] = [
        (Cap::Irqchip, "in-kernel interrupt chips (KVM_CAP_IRQCHIP)"),
        (Cap::UserMemory, "user memory slots (KVM_CAP_USER_MEMORY)"),
        (Cap::Pit2, "the interval timer (KVM_CAP_PIT2)"),
        (Cap::AdjustClock, "an adjustable guest clock (KVM_CAP_ADJUST_CLOCK)"),
        (Cap::ImmediateExit, "immediate exit (KVM_CAP_IMMEDIATE_EXIT)"),
        (Cap::Xsave, "the extended save area (KVM_CAP_XSAVE)"),
    ];
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(KvmError::Missing(name)),
        None => Ok(()),
    }
}

/// Manual protection with the log initially set: the first harvest of a slot reports every page, which is what a full
/// synchronization wants, and starting the log does not walk RAM.
pub(super) fn enable_manual_protection(fd: &VmFd) -> Result<(), KvmError> {
    let wanted = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
    let offered = fd.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    if (offered as u64) & wanted != wanted {
        return Err(KvmError::Missing("manual dirty log protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, Linux 5.8)"));
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = wanted;
    call("enable manual dirty log protection", fd.enable_cap(&cap))
}
