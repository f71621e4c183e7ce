//! The thread of a vCPU: enter the guest, serve its exit, come out when the gate closes.

use std::sync::MutexGuard;
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::{Duration, Instant};

use devices::virtio::turn::{Others, Turn};
use kvm_ioctls::VcpuExit;

use super::{End, Machine};
use crate::allocations;
use crate::board::{Effects, GuestEnd};
use crate::crash::Crash;
use crate::gate::Arrival;
use crate::kvm::Vcpu;
use crate::stats::Work;
use crate::stops::Stops;
use crate::thread::processor_time;
use crate::throttle::{Next, Share};
use crate::turns::Waiting;

/// How long a vCPU that waits for the console waits before it looks at the gate again.
const CONSOLE_WAIT: Duration = Duration::from_millis(1);
/// How long one whose request is a flush waits for the image's sync. Mostly it is quick, and a vCPU that has to be kicked for it is
/// slow; whoever closes the gate waits for no more than this.
const FLUSH_WAIT: Duration = Duration::from_millis(1);

/// Why a vCPU cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VcpuError {
    /// `KVM_RUN` failed.
    #[error("KVM could not run vCPU {id} (instruction pointer {rip:#x}): {source}")]
    Run {
        /// The vCPU.
        id: u32,
        /// Where it was.
        rip: u64,
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// KVM gave an exit that this machine cannot serve.
    #[error("vCPU {id} stopped at {rip:#x}: {what}")]
    Unhandled {
        /// The vCPU.
        id: u32,
        /// Where it was.
        rip: u64,
        /// What KVM said.
        what: String,
    },
    /// An interrupt could not be raised.
    #[error(transparent)]
    Kvm(#[from] crate::kvm::KvmError),
}

/// What an exit leaves to do.
enum Exit {
    /// Enter again; the access completes on the next entry.
    Completes {
        /// But not before the console can take more: this vCPU wrote to it.
        console_full: bool,
    },
    /// Enter again.
    Done,
    /// The guest's machine ends.
    Ended(GuestEnd),
}

/// Runs vCPU `id` until the machine ends. The body of its thread.
pub(super) fn run(machine: &Machine, id: u32) {
    if let Err(error) = run_loop(machine, id) {
        machine.ram().touch_mapped();
        machine.fail(error.to_string());
    }
    machine.gate().leave();
}

fn run_loop(machine: &Machine, id: u32) -> Result<(), VcpuError> {
    let gate = machine.gate();
    let immediate_exit: *mut u8 = &raw mut machine.vcpu(id).fd().get_kvm_run().immediate_exit;
    let _registration = gate.kicker().register(id, immediate_exit);
    let mut vcpu = machine.vcpu(id);
    let mut completes = false;
    let mut wants_console = false;
    let mut stops = Stops::since(Instant::now());
    let mut share = Share::default();
    loop {
        vcpu.fd().set_kvm_immediate_exit(0);
        // The kick's handler runs on this thread: only the compiler could reorder.
        compiler_fence(Ordering::SeqCst);
        if gate.is_closing() {
            let allocations = allocations::so_far();
            if completes || vcpu.wants_sync() {
                complete_exit(machine, &mut vcpu)?;
                completes = false;
            }
            drop(vcpu);
            let leader = machine.leader();
            if gate.arrive(|first_out| leader.lead(machine, first_out), || leader.after(machine)) == Arrival::Ended {
                return Ok(());
            }
            vcpu = machine.vcpu(id);
            machine.stats().count_work(Work::BoundaryAllocations, allocations::so_far() - allocations);
            continue;
        }
        if machine.troubles().take_flush() {
            machine.disks().iter().for_each(|disk| disk.wait_for_flush(FLUSH_WAIT));
        }
        serve_turn(machine)?;
        // With the gate open: boundaries go on meanwhile, and what else was produced leaves.
        if wants_console && machine.egress().is_console_full() {
            machine.egress().wait_for_console(CONSOLE_WAIT);
            continue;
        }
        // A rest is a stop that the guest's kernel must not take for a hanging processor.
        match share.next(machine.throttle().percent(), Instant::now(), processor_time) {
            Next::Rest(piece) => {
                std::thread::sleep(piece);
                continue;
            }
            Next::EnterRested => vcpu.notify_stopped(),
            Next::Enter => {}
        }
        if stops.is_noticed(Instant::now(), machine.program_stops()) {
            vcpu.notify_stopped();
        }
        let others = &mut Waiting::at_kick(gate, machine.turns());
        (completes, wants_console) = match enter(machine, &mut vcpu, others, |now| stops.handle_exit(now))? {
            Exit::Completes { console_full } => (true, console_full),
            Exit::Done => (false, false),
            Exit::Ended(how) => {
                machine.end(End::Guest(how));
                (false, false)
            }
        };
    }
}

/// Serves what devices owe, if it is time. Like an exit of this vCPU: whoever holds the guest waits until it is done.
fn serve_turn(machine: &Machine) -> Result<(), VcpuError> {
    let gate = machine.gate();
    if machine.troubles().take_retry() {
        let effects = machine.board().retry_disks(&mut Turn::new(&mut Waiting::at_turn(gate, machine.turns())));
        machine.apply(effects)?;
    }
    if machine.turns().take_due() {
        let effects = machine.board().serve_owed(&mut Turn::new(&mut Waiting::at_turn(gate, machine.turns())));
        machine.apply(effects)?;
    }
    Ok(())
}

/// Completes the last exit without running the guest on: KVM does it at the start of `KVM_RUN`, which returns at once.
/// A string instruction or a wide access may then exit again, for its next part. What that kicks is owed: such an instruction
/// can kick a thousand times.
fn complete_exit(machine: &Machine, vcpu: &mut MutexGuard<'_, Vcpu>) -> Result<(), VcpuError> {
    vcpu.begin_sync();
    loop {
        vcpu.fd().set_kvm_immediate_exit(1);
        // It does not run meanwhile: what it stands still for lasts.
        match enter(machine, vcpu, &mut |_| true, |_| {})? {
            // The caller waits for the console, if it must, when the gate is open again.
            Exit::Completes { .. } => {}
            Exit::Done => {
                vcpu.end_sync();
                return Ok(());
            }
            Exit::Ended(how) => {
                machine.end(End::Guest(how));
                return Ok(());
            }
        }
    }
}

/// `out` hears when the vCPU came out of the guest, before its exit is served.
fn enter(
    machine: &Machine,
    vcpu: &mut MutexGuard<'_, Vcpu>,
    others: &mut dyn Others,
    out: impl FnOnce(Instant),
) -> Result<Exit, VcpuError> {
    let id = vcpu.id();
    let exit = vcpu.run();
    out(Instant::now());
    let effects = match exit {
        Ok(VcpuExit::IoOut(port, data)) => machine.board().handle_pio_write(port, data),
        Ok(VcpuExit::IoIn(port, data)) => machine.board().handle_pio_read(port, data),
        Ok(VcpuExit::MmioWrite(address, data)) => {
            machine.board().handle_mmio_write(address, data, &mut Turn::new(others))
        }
        Ok(VcpuExit::MmioRead(address, data)) => machine.board().handle_mmio_read(address, data),
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Ok(Exit::Done),
        Ok(VcpuExit::Shutdown) => return Ok(Exit::Ended(GuestEnd::Crashed(Crash::TripleFault))),
        Ok(other) => {
            let what = format!("{other:?}");
            return Err(VcpuError::Unhandled { id, rip: rip(vcpu), what });
        }
        // EAGAIN: a vCPU that waits to be started by another one was woken.
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Ok(Exit::Done),
        Err(source) => return Err(VcpuError::Run { id, rip: rip(vcpu), source }),
    };
    machine.stats().count_exit();
    if machine.leader().count_exit() {
        machine.gate().request_boundary();
    }
    apply(machine, effects)
}

fn apply(machine: &Machine, effects: Effects) -> Result<Exit, VcpuError> {
    machine.apply(effects)?;
    Ok(effects.end.map_or(Exit::Completes { console_full: effects.console_full }, Exit::Ended))
}

fn rip(vcpu: &mut MutexGuard<'_, Vcpu>) -> u64 {
    vcpu.fd().get_regs().map_or(0, |regs| regs.rip)
}
