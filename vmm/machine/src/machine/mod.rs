//! The machine itself: what its threads share, from its boot or restore to its end; and those threads.

pub mod checkpoint;
pub mod input;
pub mod leader;
mod threads;
mod vcpu;
mod watchdog;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::board::{Board, Effects, GuestEnd};
use crate::boot::{self, BootError, BootRegisters, BootSource};
use crate::crash::Crash;
use crate::disk::SharedDisk;
use crate::egress::{Egress, Sinks};
use crate::gate::{Gate, NotHeld};
use crate::kvm::cpuid::compare::{self, FeatureMsr};
use crate::kvm::{CpuidTable, KvmError, Vcpu, VcpuState, Vm};
use crate::memory::{MemoryError, Ram, RamBytes};
use crate::net::Tap;
use crate::random;
use crate::shape::{Shape, VCPUS_MAX};
use crate::slot::{self, Slot};
use crate::state::{MachineState, StateRefused};
use crate::stats::Stats;
use crate::stops::ProgramStops;
use crate::thread::spawn;
use crate::throttle::Throttle;
use crate::trouble::Troubles;
use crate::turns::Turns;
use devices::bus::BusError;
use devices::layout::{self, VIRTIO_MMIO_MAX};
use devices::virtio::mmio;
use devices::{acpi, pc};
use input::Room;
use leader::BoundaryLeader;
use replication::protocol::{Demand, Rules};
use snapshot::disk::{PENDING_BYTES_MAX, WriteMode};
use snapshot::section::StateWriter;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel could not be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A saved state was refused.
    #[error(transparent)]
    State(#[from] StateRefused),
    /// Two devices have the same place: a mistake of this program.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// More devices than the machine has places for.
    #[error("{asked} disks, network cards and balloons are more than the {max} that a machine has places for", max = VIRTIO_MMIO_MAX - 1)]
    TooManyDevices {
        /// How many were asked for.
        asked: usize,
    },
}

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest ended it.
    Guest(GuestEnd),
    /// The operator stopped it.
    Stopped,
    /// Another host runs the guest now; this one let nothing out any more.
    Fenced {
        /// Who has it.
        holder: String,
    },
    /// Its operator handed the guest over, and it runs elsewhere.
    HandedOver {
        /// Who has it.
        holder: String,
    },
    /// The backup of this VM has another guest of it: this one was booted in error.
    Conflict {
        /// In the backup's words.
        text: String,
    },
    /// It cannot go on.
    Failed(String),
}

impl End {
    /// How the guest crashed, if that was it.
    pub fn crash(&self) -> Option<Crash> {
        match self {
            Self::Guest(GuestEnd::Crashed(crash)) => Some(*crash),
            _ => None,
        }
    }
}

/// The host's side of a machine: what its devices are connected to.
pub struct Parts {
    /// Disks, in the order of their slots.
    pub disks: Vec<snapshot::disk::OverlayDisk>,
    /// The network cards, in the order of their slots.
    pub nets: Vec<Card>,
    /// Where console output goes.
    pub console: Option<Box<dyn std::io::Write + Send>>,
    /// The guest reports memory that it does not use, and this host takes it.
    pub balloon: bool,
}

/// A network card.
#[derive(Debug)]
pub struct Card {
    /// Its address.
    pub mac: [u8; 6],
    /// It offers offloads to the guest.
    pub has_offloads: bool,
    /// What it is connected to; without a tap its frames are lost.
    pub tap: Option<Arc<Tap>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Parts").field("disks", &self.disks).field("nets", &self.nets).finish_non_exhaustive()
    }
}

/// Makes who leads the boundaries of a machine with this memory, whose numbers are counted there.
pub type Leading<'a> = &'a mut dyn FnMut(&Ram, &Arc<Stats>) -> Arc<dyn BoundaryLeader>;

/// Room for the sections of most machines' devices, in bytes.
const DEVICES_BYTES: usize = 4096;

/// A machine, shared by its threads.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: nothing may run on memory that is gone.
    vcpus: Vec<Mutex<Vcpu>>,
    vm: Vm,
    board: Mutex<Board>,
    ram: Ram,
    shape: Shape,
    cpuid: CpuidTable,
    feature_msrs: Vec<FeatureMsr>,
    disks: Vec<SharedDisk>,
    troubles: Arc<Troubles>,
    turns: Turns,
    room: Room,
    throttle: Throttle,
    egress: Arc<Egress>,
    logs_dirty: AtomicBool,
    gate: Gate,
    leader: Arc<dyn BoundaryLeader>,
    stats: Arc<Stats>,
    program_stops: ProgramStops,
    /// By its operator. Changed only while the gate is held or kept closed, so that what is sealed says what the guest does.
    paused: AtomicBool,
    ended: Mutex<Option<End>>,
    ended_changed: Condvar,
}

/// The threads of a running machine.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Disconnected when all have finished.
    running: Receiver<()>,
}

/// The devices of a machine in their slots, connected to the host, before there is a board for them.
struct Fitted {
    slots: Vec<Box<dyn Slot>>,
    egress: Arc<Egress>,
    disks: Vec<SharedDisk>,
}

impl Fitted {
    /// Disks, then network cards, then a source of entropy, then a balloon.
    fn new(parts: Parts, ram: &Ram, stats: &Arc<Stats>, troubles: &Arc<Troubles>) -> Result<Self, MachineError> {
        let Parts { disks, nets, console, balloon } = parts;
        let asked = disks.len() + nets.len() + usize::from(balloon);
        if asked >= VIRTIO_MMIO_MAX {
            return Err(MachineError::TooManyDevices { asked });
        }
        let disks: Vec<SharedDisk> = disks.into_iter().map(|disk| SharedDisk::new(disk, troubles)).collect();
        let mut slots: Vec<Box<dyn Slot>> =
            disks.iter().enumerate().map(|(i, disk)| slot::block(disk.clone(), &format!("outlast-disk{i}"))).collect();
        let mut taps: Vec<_> = disks.iter().map(|_| None).collect();
        for Card { mac, has_offloads, tap } in nets {
            slots.push(slot::net(mac, has_offloads));
            taps.push(tap);
        }
        slots.push(slot::rng());
        slots.extend(balloon.then(|| slot::balloon(ram.clone())));
        let egress = Arc::new(Egress::new(Sinks { console, taps }, Arc::clone(stats)));
        Ok(Self { slots, egress, disks })
    }

    /// What a machine with these devices is made of.
    fn shape(&self, vcpus: u16, memory_bytes: RamBytes) -> Shape {
        let names = self.slots.iter().zip(0..).map(|(slot, number)| slot.owner(number).name.into());
        Shape::new(memory_bytes, vcpus, names.collect())
    }
}

impl Machine {
    fn assemble(
        shape: Shape,
        cpuid: Option<CpuidTable>,
        ram: Ram,
        (fitted, stats, troubles): (Fitted, Arc<Stats>, Arc<Troubles>),
        leading: Leading<'_>,
    ) -> Result<Self, MachineError> {
        let vm = Vm::new()?;
        let cpuid = cpuid.unwrap_or_else(|| vm.host().cpuid_for_guests());
        for region in ram.regions() {
            vm.set_region(region, false)?;
        }
        let count = u32::from(shape.vcpus);
        let vcpus = (0..count).map(|id| vm.create_vcpu(id, count, &cpuid)).collect::<Result<Vec<_>, _>>()?;
        let feature_msrs = vcpus.first().map(Vcpu::feature_msrs).unwrap_or_default();
        let Fitted { slots, egress, disks } = fitted;
        let board = Board::new(ram.memory().clone(), slots, Arc::clone(&egress))?;
        Ok(Self {
            gate: Gate::new(vcpus.len()),
            leader: leading(&ram, &stats),
            vcpus: vcpus.into_iter().map(Mutex::new).collect(),
            vm,
            board: Mutex::new(board),
            ram,
            shape,
            cpuid,
            feature_msrs,
            disks,
            troubles,
            turns: Turns::default(),
            room: Room::default(),
            throttle: Throttle::default(),
            egress,
            logs_dirty: AtomicBool::new(false),
            stats,
            program_stops: ProgramStops::default(),
            paused: AtomicBool::new(false),
            ended: Mutex::new(None),
            ended_changed: Condvar::new(),
        })
    }

    /// A machine at power-on with its kernel loaded.
    pub fn boot(
        vcpus: u16,
        memory_bytes: u64,
        source: &KernelSource,
        parts: Parts,
        leading: Leading<'_>,
    ) -> Result<Self, MachineError> {
        let (stats, troubles) = (Arc::default(), Arc::default());
        let ram = Ram::new(memory_bytes)?;
        let fitted = Fitted::new(parts, &ram, &stats, &troubles)?;
        let shape = fitted.shape(vcpus, RamBytes::try_from(memory_bytes)?);
        let registers = load_kernel(&ram, &shape, source)?;
        let machine = Self::assemble(shape, None, ram, (fitted, stats, troubles), leading)?;
        registers.apply(&machine.vcpu(0))?;
        machine.begin_generation()?;
        Ok(machine)
    }

    /// A machine that goes on from `state` with the memory in `ram`. One that was paused stands still until [`Machine::unpause`].
    pub fn restore(state: MachineState, ram: Ram, parts: Parts, leading: Leading<'_>) -> Result<Self, MachineError> {
        let (stats, troubles) = (Arc::default(), Arc::default());
        let fitted = Fitted::new(parts, &ram, &stats, &troubles)?;
        let ours = fitted.shape(state.shape.vcpus, RamBytes::try_from(ram.bytes())?);
        ours.check(&state.shape)?;
        let cpuid = Some(state.cpuid.clone());
        let mut machine = Self::assemble(ours, cpuid, ram, (fitted, stats, troubles), leading)?;
        let paused = state.paused;
        machine.load(state)?;
        if paused {
            machine.paused.store(true, Ordering::Release);
            machine.gate.keep_closed();
        }
        Ok(machine)
    }

    /// Loads a state of this machine's shape; its processors were made as that says.
    pub fn load(&mut self, state: MachineState) -> Result<(), MachineError> {
        let MachineState { shape, cpuid, chips, vcpus, devices, paused: _ } = state;
        self.shape.check(&shape)?;
        self.cpuid = cpuid;
        let promised = vcpus.first().map(VcpuState::feature_msrs).unwrap_or_default();
        let fresh = std::mem::replace(&mut self.feature_msrs, promised);
        if let Some(why) = compare::refusal(&self.vm.host().lacks(&self.cpuid, &self.feature_msrs, &fresh)) {
            return Err(StateRefused::OtherCpu(why).into());
        }
        self.board().restore(&shape, &devices).map_err(StateRefused::from)?;
        self.with_vcpus(|ours| self.vm.restore(ours, &chips, &vcpus))?;
        Ok(())
    }

    /// Puts the devices of `parts` in the place of those that it has: a load that failed leaves them half done.
    #[cfg(feature = "fuzzing")]
    pub fn renew_board(&mut self, parts: Parts) -> Result<(), MachineError> {
        let Fitted { slots, egress, disks } = Fitted::new(parts, &self.ram, &self.stats, &self.troubles)?;
        let board = Board::new(self.ram.memory().clone(), slots, Arc::clone(&egress))?;
        (self.board, self.egress, self.disks) = (Mutex::new(board), egress, disks);
        Ok(())
    }

    /// Starts the threads. A restored machine first does what its boundary left to do: kicks and interrupts.
    pub fn start(self: &Arc<Self>) -> Result<Threads, MachineError> {
        let mut effects = self.board().serve_kicks();
        if !self.leader.is_protected() {
            // What waited for a boundary when its state was sealed: there will be none.
            effects = effects.and(self.board().deliver_inputs());
        }
        let pending = self.board().take_pending();
        self.raise(effects.raise | pending)?;
        self.note_owed(effects);
        for vcpu in &self.vcpus {
            vcpu.lock().expect("no thread runs yet").notify_stopped();
        }
        let (runs, running) = channel();
        let mut threads = Vec::new();
        let mut start = |name: String, body: fn(&Self, u32), id| {
            let (machine, runs) = (Arc::clone(self), runs.clone());
            threads.push(spawn(name, move || {
                body(&machine, id);
                drop(runs);
            }));
        };
        (0..self.vcpus.len() as u32).for_each(|id| start(format!("vcpu{id}"), vcpu::run, id));
        start("pacer".into(), |machine, _| machine.leader.run(&machine.gate), 0);
        start("watchdog".into(), |machine, _| watchdog::run(machine), 0);
        start("turns".into(), |machine, _| threads::serve_turns(machine), 0);
        start("throttle".into(), |machine, _| threads::enforce_shares(machine), 0);
        (0..self.disks.len() as u32).for_each(|disk| start(format!("disk-sync{disk}"), threads::sync_disk, disk));
        Ok(Threads { handles: threads, running })
    }

    /// The guest begins a generation, and is told of it: before it runs from a state that others may run from too, or that it
    /// has gone on from before.
    pub fn begin_generation(&self) -> Result<(), KvmError> {
        self.input(|board| ((), board.begin_generation(random::id())))
    }

    /// Reads the state of the stopped machine.
    pub fn save_state(&self, board: &mut Board) -> Result<MachineState, KvmError> {
        let (mut vcpus, mut devices) = (Vec::new(), StateWriter::with_buffer(Vec::with_capacity(DEVICES_BYTES)));
        let chips = self.with_vcpus(|ours| self.vm.save(ours, &mut vcpus))?;
        board.save(&mut devices);
        let (shape, cpuid, paused) = (self.shape.clone(), self.cpuid.clone(), self.is_paused());
        Ok(MachineState { shape, cpuid, chips, vcpus, devices, paused })
    }

    /// The same, written over an earlier state of this machine, whose memory is used again.
    pub fn save_state_over(&self, board: &mut Board, state: &mut MachineState) -> Result<(), KvmError> {
        // What the machine is made of and what its guest was promised do not change while it runs.
        let MachineState { shape: _, cpuid: _, chips, vcpus, devices, paused } = state;
        *chips = self.with_vcpus(|ours| self.vm.save(ours, vcpus))?;
        devices.clear();
        board.save(devices);
        *paused = self.is_paused();
        Ok(())
    }

    /// Stops the guest until [`Machine::unpause`], by its operator's will: what is saved of it from here on says so. It must
    /// not be paused.
    pub fn pause(&self, deadline: Instant) -> Result<(), NotHeld> {
        let held = self.gate.hold_until(deadline)?;
        self.paused.store(true, Ordering::Release);
        held.keep();
        Ok(())
    }

    /// Runs the guest on, which must be paused.
    pub fn unpause(&self) {
        self.paused.store(false, Ordering::Release);
        self.gate.let_go();
    }

    /// Whether its operator paused it.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Turns the dirty log of all RAM on or off. Turned on, its first harvest reports every page.
    pub fn log_dirty(&self, on: bool) -> Result<(), KvmError> {
        let set = |on| self.ram.regions().iter().try_for_each(|region| self.vm.set_region(region, on));
        if on && self.logs_dirty() {
            // KVM reports every page only when the log goes from off to on.
            set(false)?;
        }
        self.logs_dirty.store(on, Ordering::Release);
        set(on)
    }

    /// Whether the dirty log is on.
    pub fn logs_dirty(&self) -> bool {
        self.logs_dirty.load(Ordering::Acquire)
    }

    /// From now on the guest is protected by these rules.
    pub fn set_rules(&self, rules: Rules) {
        self.board().set_rules(rules);
    }

    /// From now on it is not: input goes to the guest at once, what waits for a boundary too.
    pub fn end_rules(&self) -> Result<(), KvmError> {
        let mut board = self.board();
        board.set_rules(Rules::Unprotected);
        let effects = board.deliver_inputs();
        let pending = board.take_pending();
        drop(board);
        self.note_owed(effects);
        self.raise(effects.raise | pending)
    }

    /// What devices owe after `effects` is served soon.
    pub fn note_owed(&self, effects: Effects) {
        if effects.owes_work {
            self.turns.note_owed();
        }
        if effects.has_room {
            self.room.announce();
        }
    }

    /// Room for frames that were refused.
    fn room(&self) -> &Room {
        &self.room
    }

    /// Acts on what an access or an input set off.
    pub fn apply(&self, effects: Effects) -> Result<(), KvmError> {
        self.raise(effects.raise)?;
        self.note_owed(effects);
        // With interrupts at once no interrupt waits for a boundary; what was written may have to.
        let is_demand = effects.demand != Demand::No;
        let is_news = is_demand || effects.raise != 0;
        if is_news && self.leader.is_on() && ((is_demand && self.leader.demand(effects.demand)) || self.is_pressed()) {
            self.gate.request_boundary();
        }
        Ok(())
    }

    /// Gives input to the board. Its interrupts are raised before anybody else gets the board: who reads the state of a
    /// stopped machine finds a frame in the guest's memory together with its interrupt, or neither.
    pub fn input<R>(&self, give: impl FnOnce(&mut Board) -> (R, Effects)) -> Result<R, KvmError> {
        let mut board = self.board();
        let (result, effects) = give(&mut board);
        self.raise(effects.raise)?;
        // A boundary takes the gate, which comes before the board.
        drop(board);
        self.apply(Effects { raise: 0, ..effects })?;
        Ok(result)
    }

    fn is_pressed(&self) -> bool {
        // All disks together: an epoch's writes to them are one record of the log.
        let protected = self.disks.iter().map(SharedDisk::lock).filter(|disk| disk.mode() == WriteMode::Protected);
        self.egress.is_pressed() || protected.map(|disk| disk.pending_bytes()).sum::<usize>() > PENDING_BYTES_MAX / 2
    }

    /// Raises the interrupt lines whose bits are set.
    pub fn raise(&self, lines: u32) -> Result<(), KvmError> {
        crate::memory::marks::set_bits(lines.into()).try_for_each(|gsi| self.vm.pulse(gsi as u32))
    }

    /// Ends the machine; the first end counts.
    pub fn end(&self, how: End) {
        if matches!(how, End::Guest(GuestEnd::Crashed(_))) {
            // It may have read memory that its file does not give any more.
            self.ram.touch_mapped();
        }
        let mut ended = self.ended.lock().expect("no holder of the end panics");
        if ended.is_none() {
            *ended = Some(how);
        }
        drop(ended);
        self.gate.end();
        self.leader.end();
        self.troubles.end();
        self.turns.end();
        self.egress.end_offloads();
        self.throttle.end();
        self.disks.iter().for_each(SharedDisk::end);
        self.ended_changed.notify_all();
    }

    /// Ends the machine because it cannot go on.
    pub fn fail(&self, why: String) {
        tracing::error!(why, "the machine cannot continue");
        self.end(End::Failed(why));
    }

    /// How the machine ended, if it did.
    pub fn ended(&self) -> Option<End> {
        self.ended.lock().expect("no holder of the end panics").clone()
    }

    /// Waits for the end.
    pub fn wait(&self) -> End {
        let mut ended = self.ended.lock().expect("no holder of the end panics");
        loop {
            match &*ended {
                Some(how) => return how.clone(),
                None => ended = self.ended_changed.wait(ended).expect("no holder of the end panics"),
            }
        }
    }

    /// Waits for the end for `time` at most. Whether it has come.
    pub fn ends_within(&self, time: Duration) -> bool {
        let ended = self.ended.lock().expect("no holder of the end panics");
        let waited = self.ended_changed.wait_timeout_while(ended, time, |ended| ended.is_none());
        waited.expect("no holder of the end panics").0.is_some()
    }

    /// The board, for as long as the guard lives.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("no holder of the board panics")
    }

    /// Calls `act` with all vCPUs, which are stopped.
    fn with_vcpus<R>(&self, act: impl FnOnce(&[&Vcpu]) -> R) -> R {
        let count = self.vcpus.len();
        let guards: [_; VCPUS_MAX as usize] = std::array::from_fn(|id| (id < count).then(|| self.vcpu(id as u32)));
        let first = guards[0].as_deref().expect("a machine has a vCPU");
        let vcpus: [&Vcpu; VCPUS_MAX as usize] = std::array::from_fn(|id| guards[id].as_deref().unwrap_or(first));
        act(&vcpus[..count])
    }

    pub(crate) fn vcpu(&self, id: u32) -> MutexGuard<'_, Vcpu> {
        self.vcpus[id as usize].lock().expect("no vCPU thread panics")
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Guest memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// What its guest was told of the processor.
    pub fn cpuid(&self) -> &CpuidTable {
        &self.cpuid
    }

    /// In which registers its guest reads what its processor can do.
    pub fn feature_msrs(&self) -> &[FeatureMsr] {
        &self.feature_msrs
    }

    /// What it is made of.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its disks, in the order of their slots.
    pub fn disks(&self) -> &[SharedDisk] {
        &self.disks
    }

    /// What its guest finds wrong with them.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// What its devices owe.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The share of their time that its vCPUs get.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Has disk requests tried again that wait for the host.
    pub fn retry_disks(&self) {
        self.troubles.ask_retry();
        self.gate.kicker().kick_all();
    }

    /// Its way out.
    pub fn egress(&self) -> &Arc<Egress> {
        &self.egress
    }

    /// Its gate.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Who leads its boundaries.
    pub fn leader(&self) -> &dyn BoundaryLeader {
        &*self.leader
    }

    /// Stops of this whole program, which its vCPUs do not see.
    pub fn program_stops(&self) -> &ProgramStops {
        &self.program_stops
    }

    /// Its numbers.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}

impl Threads {
    /// Waits until all have finished, after the machine's end.
    pub fn join(self) {
        for thread in self.handles {
            if thread.join().is_err() {
                tracing::error!("a thread of the machine panicked");
            }
        }
    }

    /// The same, for `time` at most; false if one has not finished then. Storage that hangs keeps a vCPU in the host's kernel.
    #[must_use]
    pub fn join_within(self, time: Duration) -> bool {
        if self.running.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        self.join();
        true
    }
}

/// What to boot.
#[derive(Debug, Clone)]
pub struct KernelSource {
    /// Kernel file.
    pub kernel: std::path::PathBuf,
    /// Initial ramdisk file.
    pub initramfs: Option<std::path::PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
}

fn load_kernel(ram: &Ram, shape: &Shape, source: &KernelSource) -> Result<BootRegisters, BootError> {
    let tables = acpi::build(shape.vcpus as u8, |tables| {
        pc::chips().iter().for_each(|chip| chip.describe(tables));
        (0..shape.slots.len()).for_each(|slot| mmio::describe(slot, tables));
    });
    let source = BootSource {
        kernel: &source.kernel,
        initramfs: source.initramfs.as_deref(),
        cmdline: &source.cmdline,
        tables: &tables,
        rsdp: layout::ACPI_START,
    };
    boot::load(ram.memory(), ram.bytes(), &source)
}
