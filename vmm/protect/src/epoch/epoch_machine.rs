//! A machine that can run in epochs: [`Machine`] with who leads its boundaries.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use replication::protocol::{Demand, Rules};
use replication::{EpochId, Protocol};

use super::boundary::Epochs;
use super::capture;
use super::pace::Length;
use super::pacer::Pacer;
use machine::gate::{Gate, Held};
use machine::kvm::KvmError;
use machine::leader::BoundaryLeader;
use machine::memory::Ram;
use machine::state::MachineState;
use machine::{KernelSource, Leading, Machine, MachineError, Parts, Threads};

/// How a machine runs its epochs.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Epoch length.
    pub length: Length,
    /// Shortest time between two boundaries.
    pub min_epoch: Duration,
    /// How pages are captured.
    pub capture: capture::CaptureMode,
    /// The recovery protocol.
    pub protocol: Protocol,
    /// Input and interrupts of devices wait for the boundary while protected.
    pub inputs_wait: bool,
}

/// How a machine runs its epochs if nobody says otherwise.
impl Default for Pace {
    fn default() -> Self {
        Self {
            length: Length::Fixed(Duration::from_millis(20)),
            min_epoch: Duration::ZERO,
            capture: capture::CaptureMode::StopAndCopy,
            protocol: Protocol::default(),
            inputs_wait: false,
        }
    }
}

/// Leads the boundaries of a machine: seals the epochs that end there.
#[derive(Debug)]
struct EpochLeader {
    pacer: Pacer,
    epochs: Mutex<Epochs>,
    rules: Rules,
}

impl EpochLeader {
    fn epochs(&self) -> MutexGuard<'_, Epochs> {
        self.epochs.lock().expect("no holder of the epochs panics")
    }
}

impl BoundaryLeader for EpochLeader {
    fn lead(&self, machine: &Machine, first_out: Instant) {
        let length = self.pacer.begin_boundary();
        let sink = {
            let mut epochs = self.epochs();
            // Whether there is room depends on what was sealed before.
            epochs.hand_over();
            epochs.sink()
        };
        let waited = Instant::now();
        let protected = sink.is_some_and(|sink| sink.wait_for_room());
        let stall = waited.elapsed();
        if !protected {
            self.pacer.end_boundary(Duration::ZERO);
            return;
        }
        machine.stats().record_length(length);
        machine.stats().record_stall(stall);
        // The sink is still there: only a holder of the gate takes it away, and a holder waits for this boundary.
        match self.epochs().seal(machine, first_out + stall, None) {
            Ok(pause) => self.pacer.end_boundary(pause),
            Err(error) => machine.fail(format!("a boundary failed: {error}")),
        }
    }

    /// Waking the ship thread is not part of the pause.
    fn after(&self, _machine: &Machine) {
        self.epochs().hand_over();
    }

    fn is_on(&self) -> bool {
        self.pacer.is_on()
    }

    fn is_protected(&self) -> bool {
        self.epochs().is_protected()
    }

    fn demand(&self, demand: Demand) -> bool {
        self.pacer.demand(demand)
    }

    fn count_exit(&self) -> bool {
        self.pacer.count_exit()
    }

    fn run(&self, gate: &Gate) {
        self.pacer.run(gate);
    }

    fn end(&self) {
        self.pacer.end();
    }
}

/// A machine that can run in epochs. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct EpochMachine {
    machine: Arc<Machine>,
    leader: Arc<EpochLeader>,
}

impl Deref for EpochMachine {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl EpochMachine {
    /// A machine at power-on with its kernel loaded.
    pub fn boot(
        vcpus: u16,
        memory_bytes: u64,
        source: &KernelSource,
        parts: Parts,
        pace: Pace,
    ) -> Result<Self, MachineError> {
        Self::led(pace, EpochId(1), |leading| Machine::boot(vcpus, memory_bytes, source, parts, leading))
    }

    /// A machine that goes on from `state` with the memory in `ram`; epoch `running` is the next to run. One that was paused
    /// stands still until [`Machine::unpause`].
    pub fn restore(
        state: MachineState,
        ram: Ram,
        parts: Parts,
        pace: Pace,
        running: EpochId,
    ) -> Result<Self, MachineError> {
        Self::led(pace, running, |leading| Machine::restore(state, ram, parts, leading))
    }

    fn led(
        pace: Pace,
        running: EpochId,
        make: impl FnOnce(Leading<'_>) -> Result<Machine, MachineError>,
    ) -> Result<Self, MachineError> {
        let mut leader = None;
        let machine = make(&mut |ram, stats| {
            let epochs = Mutex::new(Epochs::new(ram, running, pace.capture, stats));
            let pacer = Pacer::new(pace.length, pace.min_epoch, pace.protocol.cadence());
            let rules = Rules::Protected { protocol: pace.protocol, inputs_wait: pace.inputs_wait };
            let made = Arc::new(EpochLeader { pacer, epochs, rules });
            leader = Some(Arc::clone(&made));
            made
        })?;
        let leader = leader.expect("a machine has a leader");
        Ok(Self { machine: Arc::new(machine), leader })
    }

    /// The machine, for who does not care about epochs.
    pub fn shared(&self) -> Arc<Machine> {
        Arc::clone(&self.machine)
    }

    /// The machine, of which there is no clone and no thread.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn only(&mut self) -> &mut Machine {
        Arc::get_mut(&mut self.machine).expect("nobody else has it")
    }

    /// Starts the threads; see [`Machine::start`].
    pub fn start(&self) -> Result<Threads, MachineError> {
        self.machine.start()
    }

    /// The epochs' bookkeeping.
    pub fn epochs(&self) -> MutexGuard<'_, Epochs> {
        self.leader.epochs()
    }

    /// When boundaries come.
    pub fn pacer(&self) -> &Pacer {
        &self.leader.pacer
    }

    /// Holds output and seals epochs from now on. The machine must be held.
    pub fn begin_epochs(&self, _held: &Held<'_>) {
        self.begin_holding();
    }

    fn begin_holding(&self) {
        self.set_rules(self.leader.rules);
        self.egress().begin(self.epochs().running());
        self.pacer().set_on(true);
    }

    /// The same for a machine that was not started yet: its first epoch holds what was loaded, and needs no base.
    pub fn begin_epochs_before_start(&self) -> Result<(), KvmError> {
        self.log_dirty(true)?;
        self.epochs().protect_all(self)?;
        self.begin_holding();
        Ok(())
    }

    /// Lets all output out and seals nothing more. The machine must be held, and alone by right.
    pub fn end_epochs(&self, _held: &Held<'_>) -> Result<(), KvmError> {
        self.pacer().set_on(false);
        self.epochs().clear_sink();
        self.egress().direct();
        self.end_rules()
    }

    /// Seals the running epoch of a machine that somebody holds, as the base of a session: with the pages `also`, ascending,
    /// beside those that were written in it. `still` is asked when no other epoch can come before; if it says no, nothing is
    /// sealed, and false comes back.
    pub fn seal_base(&self, _held: &Held<'_>, also: &[u64], still: impl FnOnce() -> bool) -> Result<bool, KvmError> {
        let mut epochs = self.epochs();
        if !still() {
            return Ok(false);
        }
        let pause = epochs.seal(self, Instant::now(), Some(also))?;
        epochs.hand_over();
        self.pacer().end_boundary(pause);
        Ok(true)
    }

    /// Seals the running epoch of a machine that somebody holds, between those that its boundaries seal; gives its number.
    /// There must be room for it, and somewhere for it to go.
    pub fn seal_held(&self, _held: &Held<'_>) -> Result<EpochId, KvmError> {
        let mut epochs = self.epochs();
        let epoch = epochs.running();
        let pause = epochs.seal(self, Instant::now(), None)?;
        epochs.hand_over();
        self.pacer().end_boundary(pause);
        Ok(epoch)
    }

    /// Seals the running epoch of a machine that has ended, for its last output.
    pub fn seal_ended(&self) -> Result<(), KvmError> {
        assert!(self.ended().is_some(), "vCPUs of this machine may run");
        let mut epochs = self.epochs();
        epochs.seal(self, Instant::now(), None)?;
        epochs.hand_over();
        Ok(())
    }

    /// Gives what a boundary sealed to where it goes. What is left of one when the guest runs again, also for who holds it.
    pub fn hand_over(&self) {
        self.epochs().hand_over();
    }
}
