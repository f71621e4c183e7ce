//! One vCPU: its file descriptor, and its whole state as a plain struct.
//!
//! The order of restoring is fixed (see [`Vcpu::restore`]) and each step that depends on another says so. State may be
//! saved only when the last exit was completed (the vCPU thread re-enters once with `immediate_exit`).

use std::cell::Cell;

use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_debugregs,
    kvm_enable_cap, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Cap, SyncReg, VcpuExit, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use super::cpuid::compare::{self, FeatureMsr};
use super::msrs::{self, IA32_TSC, MSRS_MAX, Msr, MsrList, MsrReads};
use super::xsave::{SaveArea, XSAVE_BYTES_MAX, XSAVE_BYTES_MIN};
use super::{CpuidTable, KvmError, call};

/// The state of one vCPU, as KVM gives it. Untrusted until [`VcpuState::validate`] has accepted it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VcpuState {
    tsc_khz: u32,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    #[serde(with = "xsave_bytes")]
    xsave: Vec<u8>,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<Msr>,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

impl Section for VcpuState {
    const NAME: &'static str = "vcpu";
    const VERSION: u16 = 1;
}

mod xsave_bytes {
    //! The save area as one byte string: a sequence of 4,096 elements would cost a call each.
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an extended save area")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                if bytes.len() > super::XSAVE_BYTES_MAX {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl VcpuState {
    /// Checks what KVM itself would not: sizes. KVM checks the values when they are set.
    pub fn validate(&self) -> Result<(), String> {
        if self.xsave.len() < XSAVE_BYTES_MIN {
            return Err(format!("an extended save area of {} bytes; at least {XSAVE_BYTES_MIN}", self.xsave.len()));
        }
        if self.msrs.len() > MSRS_MAX {
            return Err(format!("{} model-specific registers; at most {MSRS_MAX}", self.msrs.len()));
        }
        Ok(())
    }

    /// Rate of the time stamp counter, in kHz.
    pub(super) fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// The time stamp counter. A state that came from elsewhere may lack it.
    pub(super) fn counter(&self) -> Option<u64> {
        self.msrs.iter().find(|msr| msr.index == IA32_TSC).map(|msr| msr.value)
    }

    pub(super) fn set_counter(&mut self, value: u64) {
        self.msrs.iter_mut().filter(|msr| msr.index == IA32_TSC).for_each(|msr| msr.value = value);
    }

    /// The registers in which its guest reads what its processor can do.
    pub fn feature_msrs(&self) -> Vec<FeatureMsr> {
        let of =
            |index| self.msrs.iter().find(|msr| msr.index == index).map(|msr| FeatureMsr { index, value: msr.value });
        compare::compared_msrs().filter_map(of).collect()
    }

    /// The instruction pointer, for diagnostics.
    pub fn rip(&self) -> u64 {
        self.regs.rip
    }
}

/// A vCPU of this process.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u32,
    msrs: MsrReads,
    save_area: SaveArea,
    /// Rate of its time stamp counter when it was made: the host's.
    host_khz: u32,
    /// Its rate now. Only [`Vcpu::set_tsc_rate`] changes it.
    khz: Cell<u32>,
    /// `KVM_RUN` can hand over its registers, and nobody but itself changes them: it has no siblings that start or interrupt it.
    can_sync: bool,
    /// It has not run since `KVM_RUN` handed them over.
    is_synced: bool,
}

/// What `KVM_RUN` hands over without a call of its own.
const SYNCED: [SyncReg; 3] = [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents];
const SYNCED_BITS: u32 = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

impl Vcpu {
    pub(super) fn new(vm: &VmFd, id: u32, count: u32, cpuid: &CpuidTable, mut msrs: MsrList) -> Result<Self, KvmError> {
        let fd = call(format!("create vCPU {id}"), vm.create_vcpu(u64::from(id)))?;
        enforce_paravirtual_features(vm, &fd)?;
        call(format!("set CPUID of vCPU {id}"), fd.set_cpuid2(&cpuid.for_vcpu(id, count)?))?;
        msrs::set_boot_values(&fd)?;
        msrs.retain_readable(&fd);
        let host_khz = call("read the time stamp counter's rate", fd.get_tsc_khz())?;
        let offered = vm.check_extension_int(Cap::SyncRegs) as u32;
        Ok(Self {
            fd,
            id,
            msrs: msrs.reads(),
            save_area: SaveArea::of(vm),
            host_khz,
            khz: Cell::new(host_khz),
            can_sync: count == 1 && offered & SYNCED_BITS == SYNCED_BITS,
            is_synced: false,
        })
    }

    /// The same, to ask it.
    pub(super) fn descriptor(&self) -> &VcpuFd {
        &self.fd
    }

    /// The time stamp counter now.
    pub(super) fn counter(&self) -> Result<u64, KvmError> {
        msrs::read(&self.fd, IA32_TSC).ok_or(KvmError::MsrRefused { index: IA32_TSC })
    }

    pub(super) fn set_counter(&self, value: u64) -> Result<(), KvmError> {
        msrs::write(&self.fd, IA32_TSC, value)
    }

    /// Whether its counter ticks at another rate than the host's.
    pub(super) fn is_scaled(&self) -> bool {
        self.khz.get() != self.host_khz
    }

    /// The registers in which its guest reads what its processor can do.
    pub fn feature_msrs(&self) -> Vec<FeatureMsr> {
        let of = |index| msrs::read(&self.fd, index).map(|value| FeatureMsr { index, value });
        compare::compared_msrs().filter_map(of).collect()
    }

    /// The descriptor, to prepare its next run.
    pub fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Enters the guest.
    pub fn run(&mut self) -> Result<VcpuExit<'_>, kvm_ioctls::Error> {
        self.is_synced = false;
        self.fd.run()
    }

    /// Whether `KVM_RUN` with an immediate exit would hand over registers that [`Vcpu::save_over`] has to read one by one now.
    pub fn wants_sync(&self) -> bool {
        self.can_sync && !self.is_synced
    }

    /// The runs from here to [`Vcpu::end_sync`] hand over the registers.
    pub fn begin_sync(&mut self) {
        if self.can_sync {
            SYNCED.into_iter().for_each(|registers| self.fd.set_sync_valid_reg(registers));
        }
    }

    /// The last run was over at once, with nothing left to do.
    pub fn end_sync(&mut self) {
        if self.can_sync {
            SYNCED.into_iter().for_each(|registers| self.fd.clear_sync_valid_reg(registers));
            self.is_synced = true;
        }
    }

    /// Number of the vCPU.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sets the registers of a booting vCPU.
    pub fn set_boot_state(&self, regs: &kvm_regs, sregs: &kvm_sregs) -> Result<(), KvmError> {
        call("set the segment registers", self.fd.set_sregs(sregs))?;
        call("set the registers", self.fd.set_regs(regs))
    }

    /// The segment registers as KVM resets them.
    pub fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        call("read the segment registers", self.fd.get_sregs())
    }

    /// Reads the whole state. The last exit must have been completed.
    #[cfg(test)]
    pub fn save(&self) -> Result<VcpuState, KvmError> {
        let mut state = VcpuState::default();
        self.save_over(&mut state)?;
        Ok(state)
    }

    /// Reads the whole state over an earlier one, whose memory is used again. The last exit must have been completed.
    pub fn save_over(&self, state: &mut VcpuState) -> Result<(), KvmError> {
        let VcpuState { tsc_khz, regs, sregs, xcrs, xsave, debug_regs, lapic, msrs, events, mp_state } = state;
        let fd = &self.fd;
        // The multiprocessor state first: reading it lets KVM settle pending INIT and SIPI, which change the rest.
        *mp_state = call("read the multiprocessor state", fd.get_mp_state())?;
        (*regs, *sregs, *events) = self.registers()?;
        *tsc_khz = self.khz.get();
        *xcrs = call("read the extended control registers", fd.get_xcrs())?;
        self.save_area.read(fd, xsave)?;
        *debug_regs = call("read the debug registers", fd.get_debug_regs())?;
        *lapic = call("read the local APIC", fd.get_lapic())?;
        self.msrs.save_over(fd, msrs)
    }

    fn registers(&self) -> Result<(kvm_regs, kvm_sregs, kvm_vcpu_events), KvmError> {
        if self.is_synced {
            let synced = self.fd.sync_regs();
            return Ok((synced.regs, synced.sregs, synced.events));
        }
        let regs = call("read the registers", self.fd.get_regs())?;
        Ok((regs, self.sregs()?, call("read the pending events", self.fd.get_vcpu_events())?))
    }

    /// Writes a saved state into a fresh vCPU.
    ///
    /// The guest's clocks must have been restored ([`super::Vm::restore_clocks`]). The order matters: the local APIC before
    /// the model-specific registers, because KVM ignores a write of `IA32_TSC_DEADLINE` unless the timer is in deadline
    /// mode; events after everything that could raise one; the multiprocessor state last, because it lets the vCPU run.
    pub fn restore(&self, state: &VcpuState) -> Result<(), KvmError> {
        let VcpuState { tsc_khz: _, regs, sregs, xcrs, xsave, debug_regs, lapic, msrs, events, mp_state } = state;
        let fd = &self.fd;
        call("write the segment registers", fd.set_sregs(sregs))?;
        call("write the registers", fd.set_regs(regs))?;
        // A host without extended states saves none, and KVM refuses to write none there.
        if xcrs.nr_xcrs > 0 {
            call("write the extended control registers", fd.set_xcrs(xcrs))?;
        }
        self.save_area.write(fd, xsave)?;
        call("write the debug registers", fd.set_debug_regs(debug_regs))?;
        call("write the local APIC", fd.set_lapic(lapic))?;
        msrs::restore(fd, msrs)?;
        call("write the pending events", fd.set_vcpu_events(events))?;
        call("write the multiprocessor state", fd.set_mp_state(*mp_state))
    }

    /// Sets the rate only when it differs: a refused call would still change what KVM reports afterwards.
    pub(super) fn set_tsc_rate(&self, khz: u32) -> Result<(), KvmError> {
        let ours = self.khz.get();
        if close_enough(ours, khz) {
            return Ok(());
        }
        let what = format!("run a guest whose time stamp counter ticks at {khz} kHz on a host of {ours} kHz");
        call(what, self.fd.set_tsc_khz(khz))?;
        self.khz.set(call("read the time stamp counter's rate", self.fd.get_tsc_khz())?);
        Ok(())
    }

    /// Tells KVM's paravirtual clock that the guest was stopped, so that its watchdogs do not fire. A guest without
    /// that clock refuses, which is harmless.
    pub fn notify_stopped(&self) {
        if let Err(error) = self.fd.kvmclock_ctrl() {
            tracing::debug!(vcpu = self.id, %error, "the guest uses no paravirtual clock");
        }
    }
}

/// Without it a guest could use what its CPUID hides, and nobody would miss it at the takeover.
fn enforce_paravirtual_features(vm: &VmFd, fd: &VcpuFd) -> Result<(), KvmError> {
    if vm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) <= 0 {
        return Ok(());
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID, ..Default::default() };
    cap.args[0] = 1;
    call("enforce the paravirtual features of CPUID", fd.enable_cap(&cap))
}

/// KVM's own tolerance: 250 parts per million.
fn close_enough(a: u32, b: u32) -> bool {
    u64::from(a.abs_diff(b)) * 4000 <= u64::from(a)
}
