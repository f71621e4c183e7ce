//! The instructions that a Linux kernel cannot do without, each run in a tiny guest, and the speed of kernel code.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use machine::kvm::first_write_cost;

use super::probe::{Outcome, run};
use super::program::{CMPXCHG16B, INT_80, INT3, PADDQ, RDTSCP, VMCALL, VMMCALL, XGETBV, XRSTOR, has_xsave, spin};
use super::{Check, State};

/// Two instructions each.
const SPIN_TURNS: u32 = 100_000;
/// Emulated kernel code does about 2 million a second, an emulated host with virtualization a hundred times that.
const SPEED_MIN: f64 = 20e6;
/// Many times what the slowest KVM needs that was seen.
const FIRST_WRITE_TIME_MAX: Duration = Duration::from_secs(2);

/// Name, code, and what Linux does with it.
const NEEDED: [(&str, &[u8], &str); 7] = [
    ("int3", INT3, "Linux patches its own code with it (static keys, ftrace)"),
    ("int n", INT_80, "Linux raises and returns from software interrupts"),
    ("xgetbv", XGETBV, "Linux reads which register state is enabled"),
    ("xrstor", XRSTOR, "Linux switches register state between tasks with it"),
    ("cmpxchg16b", CMPXCHG16B, "Linux's allocator uses it"),
    ("rdtscp", RDTSCP, "Linux's vDSO reads time and CPU number with it"),
    ("paddq", PADDQ, "Linux's checksums and ciphers use SSE2"),
];

/// Runs every probe. Takes some milliseconds on a good KVM, seconds on one that hangs.
pub(super) fn checks(kvm: &Kvm) -> Vec<Check> {
    // Where KVM does not say, they are run and say it themselves.
    let has_xsave = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_or(true, |cpuid| has_xsave(&cpuid));
    // Linux does not use what its processor does not have.
    let used = NEEDED.iter().filter(|(_, code, _)| has_xsave || ![XGETBV, XRSTOR].contains(code));
    let needed = used.map(|(name, code, why)| judge(name, run(code), State::BareOnly, why));
    let call = if is_amd() { ("vmmcall", VMMCALL) } else { ("vmcall", VMCALL) };
    let hypercall = judge(call.0, run(call.1), State::Note, "Linux wakes CPUs by hypercall where KVM offers it");
    std::iter::once(speed(&run(&spin(SPIN_TURNS)))).chain(needed).chain([hypercall, first_write()]).collect()
}

/// One that emulates the guest's kernel code anyway takes no fault for it.
fn micros(cost: Duration) -> String {
    let micros = cost.as_secs_f64() * 1e6;
    if micros < 0.1 { "less than 0.1 µs".into() } else { format!("{micros:.1} µs") }
}

/// A KVM that hangs leaves the thread behind.
fn first_write() -> Check {
    const NAME: &str = "first write to a page";
    const WHY: &str = "how much of a processor epochs take from a guest that writes much follows from it";
    let (tell, told) = channel();
    thread::spawn(move || tell.send(first_write_cost()));
    match told.recv_timeout(FIRST_WRITE_TIME_MAX) {
        Ok(Ok(cost)) => Check::ok(NAME, format!("costs a guest {} in each epoch", micros(cost))),
        Ok(Err(error)) => Check::lacks(State::Note, NAME, error.to_string(), WHY),
        Err(_) => Check::lacks(State::Note, NAME, "the measurement does not end", WHY),
    }
}

fn is_amd() -> bool {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpus.contains("AuthenticAMD") || cpus.contains("HygonGenuine")
}

fn judge(name: &str, outcome: Outcome, when_missing: State, why: &str) -> Check {
    let found = match outcome {
        Outcome::Done(_) => return Check::ok(name, "runs"),
        Outcome::Fault(vector) => format!("raises exception {vector}"),
        Outcome::NotEmulated => "KVM's emulator does not know it".into(),
        Outcome::Endless => "never ends".into(),
        Outcome::Refused(reason) => reason,
    };
    Check::lacks(when_missing, name, found, why)
}

fn speed(outcome: &Outcome) -> Check {
    const NAME: &str = "kernel-mode speed";
    const WHY: &str = "the guest's kernel is emulated instruction by instruction, not run by the CPU";
    match outcome {
        Outcome::Done(time) => {
            let speed = instructions_per_second(*time);
            let found = format!("{:.0} million instructions/s", (speed / 1e6).max(1.0));
            match speed >= SPEED_MIN {
                true => Check::ok(NAME, found),
                false => Check::lacks(State::BareOnly, NAME, found, WHY).with_remedy("use a host with hardware KVM"),
            }
        }
        other => judge(NAME, other.clone(), State::BareOnly, WHY),
    }
}

fn instructions_per_second(time: Duration) -> f64 {
    f64::from(2 * SPIN_TURNS) / time.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_below_the_limit_is_missing_with_the_figure() {
        let slow = speed(&Outcome::Done(Duration::from_millis(100)));
        assert_eq!((slow.state, slow.found.as_str()), (State::BareOnly, "2 million instructions/s"));
        assert_eq!(speed(&Outcome::Done(Duration::from_millis(1))).state, State::Ok);
        assert_eq!(speed(&Outcome::Endless).state, State::BareOnly);
    }

    #[test]
    fn judge_says_how_it_ended() {
        assert_eq!(judge("a", Outcome::Done(Duration::ZERO), State::Missing, "w").state, State::Ok);
        let check = judge("a", Outcome::Fault(6), State::Missing, "w");
        assert_eq!((check.state, check.found.as_str()), (State::Missing, "raises exception 6"));
        assert_eq!(judge("a", Outcome::Endless, State::Note, "w").state, State::Note);
    }
}
