//! Runs a tiny guest and says how it ended, in bounded time.
//!
//! The guest runs on its own thread. When its time is up the thread is sent a signal, which takes it out of the
//! kernel; a KVM that ignores even that leaves the thread behind, and the process ends without it.

use std::io;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::program::{DONE, MEMORY_BYTES, PORT_DONE, PORT_FAULT, load, start};
use super::sys::ProbeVm;

/// Thousands of times what a good KVM needs, also inside an emulator.
const TIME_MAX: Duration = Duration::from_secs(1);
/// After that, a thread that does not come back is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);
const KICK_EVERY: Duration = Duration::from_millis(10);

/// How a tiny guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ran through, in this time.
    Done(Duration),
    /// The CPU raised an exception.
    Fault(u8),
    /// KVM gave up: its emulator does not know the instruction.
    NotEmulated,
    /// It was still running when its time was up.
    Endless,
    /// KVM refused something, or ended the guest in an unexpected way.
    Refused(String),
}

/// Runs `program`.
pub(super) fn run(program: &[u8]) -> Outcome {
    install_kick();
    let program = program.to_vec();
    let (tell, told) = channel();
    let guest = thread::Builder::new().name("probe".into()).spawn(move || {
        let outcome = run_here(&program).unwrap_or_else(|error| Outcome::Refused(error.to_string()));
        // Nobody listens if we were given up.
        let _ = tell.send(outcome);
    });
    let guest = match guest {
        Ok(guest) => guest,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let mut wait = TIME_MAX;
    let give_up = Instant::now() + TIME_MAX + GIVE_UP_AFTER;
    loop {
        match told.recv_timeout(wait) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) if Instant::now() < give_up => {
                // It fails only for a thread that has ended, and then the outcome is there.
                let _ = guest.kill(kick_signal());
                wait = KICK_EVERY;
            }
            Err(_) => return Outcome::Endless,
        }
    }
}

fn run_here(program: &[u8]) -> io::Result<Outcome> {
    let kvm = Kvm::new()?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let mut vm = ProbeVm::new(&kvm, MEMORY_BYTES)?;
    load(&vm.memory, program).map_err(io::Error::other)?;
    start(&vm.vcpu, &cpuid)?;
    let begin = Instant::now();
    loop {
        match vm.vcpu.run() {
            Ok(VcpuExit::IoOut(PORT_DONE, [DONE])) => return Ok(Outcome::Done(begin.elapsed())),
            Ok(VcpuExit::IoOut(PORT_FAULT, [vector])) => return Ok(Outcome::Fault(*vector)),
            Ok(VcpuExit::InternalError) => return Ok(Outcome::NotEmulated),
            Ok(other) => return Ok(Outcome::Refused(format!("unexpected exit {other:?}"))),
            Err(error) if error.errno() == libc::EINTR && begin.elapsed() < TIME_MAX => {}
            Err(error) if error.errno() == libc::EINTR => return Ok(Outcome::Endless),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Apart from the signals that a running VM uses.
fn kick_signal() -> i32 {
    SIGRTMIN() + 9
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// A signal with a handler that does nothing: it only interrupts.
fn install_kick() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| register_signal_handler(kick_signal(), nothing).expect("a real-time signal may be handled"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether probes can run at all. A machine without KVM tests nothing here, and says so.
    fn has_kvm() -> bool {
        let there = Kvm::new().is_ok();
        if !there {
            machine::testing::say_skipped("/dev/kvm cannot be used");
        }
        there
    }

    #[test]
    fn run_empty_program_is_done() {
        if has_kvm() {
            assert!(matches!(run(&[]), Outcome::Done(_)), "{:?}", run(&[]));
        }
    }

    #[test]
    fn run_endless_program_ends_in_time() {
        if has_kvm() {
            let begin = Instant::now();
            assert_eq!(run(&[0xeb, 0xfe]), Outcome::Endless); // jmp .
            assert!(begin.elapsed() < TIME_MAX + GIVE_UP_AFTER + Duration::from_secs(1));
        }
    }

    #[test]
    fn run_undefined_instruction_is_a_fault_or_not_emulated() {
        if has_kvm() {
            let outcome = run(&[0x0f, 0x0b]); // ud2
            assert!(matches!(outcome, Outcome::Fault(6) | Outcome::NotEmulated), "{outcome:?}");
        }
    }
}
