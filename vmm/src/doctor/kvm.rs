//! KVM itself: is it there, whose is it, what does it offer?

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kvm_bindings as kb;
use kvm_ioctls::Kvm;

use super::{Check, State};

/// The only one there ever was.
const API_VERSION: i32 = 12;

/// Capability, name, how bad it is without, what it is for.
const CAPABILITIES: [(u32, &str, State, &str); 19] = [
    (kb::KVM_CAP_IRQCHIP, "irqchip", State::Missing, "the interrupt controllers are KVM's"),
    (kb::KVM_CAP_USER_MEMORY, "user-memory", State::Missing, "guest memory is a mapping of ours"),
    (kb::KVM_CAP_SET_TSS_ADDR, "set-tss-addr", State::Missing, "Intel needs three pages for real mode"),
    (kb::KVM_CAP_EXT_CPUID, "ext-cpuid", State::Missing, "the guest is told what its CPU can do"),
    (kb::KVM_CAP_PIT2, "pit2", State::Missing, "the timer that Linux calibrates with"),
    (kb::KVM_CAP_PIT_STATE2, "pit-state2", State::Missing, "the timer's state is part of an epoch"),
    (kb::KVM_CAP_MP_STATE, "mp-state", State::Missing, "which vCPUs are halted is part of an epoch"),
    (kb::KVM_CAP_VCPU_EVENTS, "vcpu-events", State::Missing, "pending exceptions are part of an epoch"),
    (kb::KVM_CAP_DEBUGREGS, "debugregs", State::Missing, "debug registers are part of an epoch"),
    (kb::KVM_CAP_XSAVE, "xsave", State::Missing, "vector registers are part of an epoch"),
    // A processor without extended states has nothing there to save, and its guests know it.
    (kb::KVM_CAP_XCRS, "xcrs", State::Note, "guests have no vector registers beyond SSE without it"),
    (kb::KVM_CAP_ADJUST_CLOCK, "adjust-clock", State::Missing, "the guest's clock continues after a takeover"),
    (kb::KVM_CAP_KVMCLOCK_CTRL, "kvmclock-ctrl", State::Missing, "a takeover must not look like a lockup to the guest"),
    (kb::KVM_CAP_GET_TSC_KHZ, "get-tsc-khz", State::Missing, "the guest must not see the TSC's rate change"),
    (kb::KVM_CAP_IMMEDIATE_EXIT, "immediate-exit", State::Missing, "pending exits are completed before a seal"),
    (kb::KVM_CAP_IRQFD, "irqfd", State::Missing, "devices raise interrupts through it"),
    (kb::KVM_CAP_IOEVENTFD, "ioeventfd", State::Note, "queue notifications are cheaper with it"),
    (kb::KVM_CAP_TSC_DEADLINE_TIMER, "tsc-deadline", State::Note, "the guest's timer is cheaper with it"),
    (kb::KVM_CAP_TSC_CONTROL, "tsc-control", State::Note, "primary and backup must have the same TSC rate without it"),
];

/// KVM, and what there is to say about its door.
pub(super) fn open() -> (Vec<Check>, Option<Kvm>) {
    const WHY: &str = "guests run on it";
    match Kvm::new() {
        Ok(kvm) => {
            let version = kvm.get_api_version();
            let check = match version {
                API_VERSION => Check::ok("/dev/kvm", format!("API {version}")),
                other => Check::lacks(State::Missing, "/dev/kvm", format!("API {other}, not {API_VERSION}"), WHY),
            };
            (vec![check, kind()], Some(kvm))
        }
        Err(error) => {
            let error = io::Error::from(error);
            let (found, remedy) = explain(&error);
            (vec![Check::lacks(State::Missing, "/dev/kvm", found, WHY).with_remedy(remedy)], None)
        }
    }
}

fn explain(error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        io::ErrorKind::NotFound => (
            "not there".into(),
            "load it: `modprobe kvm-intel` or `modprobe kvm-amd`; if that fails, enable virtualization in the firmware, \
             or nested virtualization if this host is a VM",
        ),
        io::ErrorKind::PermissionDenied => ("no permission".into(), permission_remedy(device_mode())),
        _ => (error.to_string(), "`dmesg | grep kvm` may say more"),
    }
}

fn device_mode() -> u32 {
    fs::metadata("/dev/kvm").map_or(0o660, |device| device.permissions().mode())
}

/// The group helps only where the device is open to it.
fn permission_remedy(mode: u32) -> &'static str {
    match mode & 0o060 {
        0o060 => "join its group: `usermod -aG kvm $USER`, then log in again; or run as root",
        _ => "run as root, or open it: `chgrp kvm /dev/kvm && chmod 0660 /dev/kvm`, and `usermod -aG kvm $USER`",
    }
}

/// Which module it is, and on what it stands.
fn kind() -> Check {
    const KNOWN: [(&str, &str); 2] = [("kvm_intel", "hardware, Intel VT-x"), ("kvm_amd", "hardware, AMD SVM")];
    let has = |module: &str| Path::new("/sys/module").join(module).exists();
    let under = hypervisor();
    let Some((_, name)) = KNOWN.iter().find(|(module, _)| has(module)) else {
        let module = odd_module().unwrap_or_else(|| "unknown".into());
        let why = "what follows was tested by running it; expect emulation";
        return Check::lacks(State::Note, "kind of KVM", format!("odd: module {module}, {}", on(&under)), why);
    };
    Check::ok("kind of KVM", format!("{name}, {}", on(&under)))
}

fn on(hypervisor: &Option<String>) -> String {
    match hypervisor.as_deref() {
        None => "on bare metal".into(),
        Some("TCGTCGTCGTCG") => "inside an emulated host (QEMU TCG): its times are not a real host's".into(),
        Some(signature) => format!("nested in {signature}"),
    }
}

/// A module that provides KVM and is none of the known two.
fn odd_module() -> Option<String> {
    let modules = fs::read_dir("/sys/module").ok()?.flatten();
    let names = modules.filter_map(|entry| entry.file_name().into_string().ok());
    names.into_iter().find(|name| name.starts_with("kvm_"))
}

/// The signature of the hypervisor that this host runs under, if it is a VM.
fn hypervisor() -> Option<String> {
    let features = std::arch::x86_64::__cpuid(1);
    if features.ecx & (1 << 31) == 0 {
        return None;
    }
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let bytes = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
    let text: String = bytes.iter().map(|b| *b as char).filter(char::is_ascii_graphic).collect();
    Some(if text.is_empty() { "a hypervisor without a name".into() } else { text })
}

/// One check per capability that is missing, and one for all that are there.
pub(super) fn capabilities(kvm: &Kvm) -> Vec<Check> {
    let has = |number: u32| kvm.check_extension_raw(number.into()) > 0;
    let (there, missing): (Vec<_>, Vec<_>) = CAPABILITIES.iter().partition(|(number, ..)| has(*number));
    let mut checks = vec![Check::ok("KVM capabilities", format!("{} of {}", there.len(), CAPABILITIES.len()))];
    checks.extend(missing.into_iter().map(|(_, name, state, why)| {
        let check = Check::lacks(state, format!("KVM {name}"), "not offered", why);
        // What is only noted depends on the CPU, and no kernel brings it.
        if state == State::Missing { check.with_remedy("a newer host kernel may offer it") } else { check }
    }));
    checks.push(dirty_log(kvm));
    checks.push(vcpus(kvm));
    checks
}

fn dirty_log(kvm: &Kvm) -> Check {
    const NAME: &str = "dirty log";
    const WANTED: i32 = (kb::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | kb::KVM_DIRTY_LOG_INITIALLY_SET) as i32;
    let offered = kvm.check_extension_raw(kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    if offered & WANTED == WANTED {
        return Check::ok(NAME, "manual protect, initially set");
    }
    let why = "re-protecting pages holds up the guest longer, and tracking starts slowly on large guests";
    Check::lacks(State::Missing, NAME, format!("manual protect flags {offered}"), why).with_remedy("Linux 5.7 or newer")
}

fn vcpus(kvm: &Kvm) -> Check {
    let (recommended, cpus) = (kvm.get_nr_vcpus(), host_cpus());
    Check::ok("CPUs", format!("{cpus} on this host; up to {recommended} vCPUs per guest recommended"))
}

fn host_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_names_a_remedy_for_the_two_common_cases() {
        assert!(explain(&io::ErrorKind::PermissionDenied.into()).1.contains("usermod -aG kvm"));
        assert!(permission_remedy(0o660).starts_with("join its group"));
        assert!(permission_remedy(0o600).contains("chmod 0660 /dev/kvm"));
        assert!(explain(&io::ErrorKind::NotFound.into()).1.contains("modprobe"));
    }

    #[test]
    fn on_tells_metal_emulation_and_nesting_apart() {
        assert_eq!(on(&None), "on bare metal");
        assert!(on(&Some("TCGTCGTCGTCG".into())).contains("emulated host"));
        assert_eq!(on(&Some("KVMKVMKVM".into())), "nested in KVMKVMKVM");
    }
}
