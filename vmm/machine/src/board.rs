//! The board: the devices of a machine on their buses, and what the guest's accesses set off.
//!
//! One lock around it. A vCPU's access is served (queues, disk, output) before the vCPU goes on, for one turn; what is left is
//! owed and served by a vCPU thread too ([`super::turns`]). So at a boundary, with all vCPUs out, every device is quiet by
//! construction.
//!
//! What becomes of output, input and interrupts the rules in force say ([`replication::protocol`]). Interrupts of devices collect
//! in a mask: they are raised at once, or wait for the boundary, and then the mask is part of the state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use devices::RestoreError;
use devices::cmos::{Cmos, CmosState};
use devices::i8042::{I8042, I8042State};
use devices::layout::{
    CMOS_PORT, CMOS_PORTS, COM1_GSI, COM1_PORT, COM1_PORTS, I8042_COMMAND_PORT, I8042_DATA_PORT, PVPANIC_PORT,
    SLEEP_CONTROL_PORT, SLEEP_PORTS, VIRTIO_MMIO_BASE, VIRTIO_MMIO_GSI, VIRTIO_MMIO_STRIDE, WATCHDOG_PORT,
    WATCHDOG_PORTS,
};
use devices::power::{Power, PowerEvent, PowerState};
use devices::pvpanic::{PanicEvent, Pvpanic, PvpanicState};
use devices::serial::{Serial, SerialState};
use devices::virtio::net::with_empty_header;
use devices::virtio::turn::Turn;
use devices::watchdog::{Watchdog, WatchdogState};
use replication::Input;
use replication::protocol::{Demand, Event, Measures, Rules};
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use super::crash::Crash;
use super::egress::{CONSOLE, Egress, FIRST_SLOT, WITH_HEADER};
use super::ingress::{INGRESS_AT_ONCE_MAX, INGRESS_FRAMES_MAX};
use super::slot::{Slot, SlotState};
use crate::memory::GuestMemory;

/// Console input that waits for the guest at most, in bytes.
const CONSOLE_INPUT_BYTES_MAX: usize = 4096;

/// An epoch whose guest got more input than this asks for its boundary, in bytes.
const EPOCH_INPUT_BYTES: usize = 1 << 20;
/// At this the guest gets no more frames before the boundary, in bytes: its log is held in memory and shipped.
const EPOCH_INPUT_BYTES_MAX: usize = 4 << 20;

/// What the rules in force say about the events of a board.
#[derive(Debug, Clone, Copy, Default)]
struct InForce {
    console_output: Measures,
    console_input: Measures,
    frame_output: Measures,
    frame_input: Measures,
    interrupt: Measures,
}

impl InForce {
    fn of(rules: Rules) -> Self {
        Self {
            console_output: rules.measures(Event::ConsoleOutput),
            console_input: rules.measures(Event::ConsoleInput),
            frame_output: rules.measures(Event::FrameOutput),
            frame_input: rules.measures(Event::FrameInput),
            interrupt: rules.measures(Event::Interrupt),
        }
    }
}

/// What an access set off, for the vCPU thread to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Effects {
    /// Interrupt lines to raise now, a bit each.
    pub raise: u32,
    /// Whether something that waits is worth a boundary.
    pub demand: Demand,
    /// The access wrote to the console, which has more to write than it takes: the vCPU waits.
    pub console_full: bool,
    /// A turn was over before a device had served all: the rest is to be served soon.
    pub owes_work: bool,
    /// There is room for frames that were refused.
    pub has_room: bool,
    /// The guest asked for an end.
    pub end: Option<GuestEnd>,
}

/// How a guest ended its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEnd {
    /// ACPI power-off.
    PowerOff,
    /// A reset, through the keyboard controller or ACPI.
    Reset,
    /// It crashed.
    Crashed(Crash),
}

/// Saved form of the chips of the board; its slots are saved apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BoardState {
    serial: SerialState,
    cmos: CmosState,
    i8042: I8042State,
    power: PowerState,
    pvpanic: PvpanicState,
    /// Console input that the guest has not got yet.
    console_input: Vec<u8>,
    /// Interrupt lines that wait for the boundary.
    pending: u32,
}

impl Section for BoardState {
    const NAME: &'static str = "board";
    const VERSION: u16 = 1;
}

/// The devices of a machine.
#[derive(Debug)]
pub struct Board {
    memory: GuestMemory,
    egress: Arc<Egress>,
    rules: InForce,
    serial: Serial,
    cmos: Cmos,
    i8042: I8042,
    power: Power,
    pvpanic: Pvpanic,
    watchdog: Watchdog,
    slots: Vec<Slot>,
    console_input: Vec<u8>,
    pending: u32,
    /// Inputs that the guest got since the last boundary, and their bytes.
    consumed: Vec<Input>,
    consumed_bytes: usize,
    /// Whose turn comes first, of the slots that owe work.
    next_slot: usize,
}

/// Nobody waits, or those who do wait for no more than what one turn may do.
fn nobody(_requests: u32) -> bool {
    false
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

impl Board {
    /// A board with `slots`, at power-on.
    pub fn new(memory: GuestMemory, slots: Vec<Slot>, egress: Arc<Egress>) -> Self {
        Self {
            memory,
            egress,
            rules: InForce::default(),
            serial: Serial::new(),
            cmos: Cmos::new(),
            i8042: I8042::new(),
            power: Power::new(),
            pvpanic: Pvpanic::new(),
            watchdog: Watchdog::new(),
            slots,
            console_input: Vec::new(),
            pending: 0,
            consumed: Vec::new(),
            consumed_bytes: 0,
            next_slot: 0,
        }
    }

    /// The slots, by number.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// From now on these rules are in force.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = InForce::of(rules);
        self.take_consumed();
    }

    /// The guest reads a port. Ports of no device read as all ones, as on a PC.
    pub fn handle_pio_read(&mut self, port: u16, data: &mut [u8]) -> Effects {
        match port {
            _ if (COM1_PORT..COM1_PORT + COM1_PORTS).contains(&port) => {
                self.serial.handle_read((port - COM1_PORT).into(), data);
                self.refill_console();
            }
            _ if (CMOS_PORT..CMOS_PORT + CMOS_PORTS).contains(&port) => {
                self.cmos.handle_read((port - CMOS_PORT).into(), data, now_s());
            }
            I8042_DATA_PORT | I8042_COMMAND_PORT => self.i8042.handle_read((port - I8042_DATA_PORT).into(), data),
            _ if (SLEEP_CONTROL_PORT..SLEEP_CONTROL_PORT + SLEEP_PORTS).contains(&port) => {
                self.power.handle_read((port - SLEEP_CONTROL_PORT).into(), data);
            }
            PVPANIC_PORT => self.pvpanic.handle_read(0, data),
            _ if (WATCHDOG_PORT..WATCHDOG_PORT + WATCHDOG_PORTS).contains(&port) => {
                self.watchdog.handle_read((port - WATCHDOG_PORT).into(), data);
            }
            _ => data.fill(0xff),
        }
        self.settle_chips()
    }

    /// The guest writes a port. Writes to no device are lost, as on a PC.
    pub fn handle_pio_write(&mut self, port: u16, data: &[u8]) -> Effects {
        match port {
            _ if (COM1_PORT..COM1_PORT + COM1_PORTS).contains(&port) => {
                // A string instruction hands over several bytes for the one register.
                for byte in data {
                    self.serial.handle_write((port - COM1_PORT).into(), std::slice::from_ref(byte));
                }
                self.refill_console();
            }
            _ if (CMOS_PORT..CMOS_PORT + CMOS_PORTS).contains(&port) => {
                self.cmos.handle_write((port - CMOS_PORT).into(), data, now_s());
            }
            I8042_DATA_PORT | I8042_COMMAND_PORT => self.i8042.handle_write((port - I8042_DATA_PORT).into(), data),
            _ if (SLEEP_CONTROL_PORT..SLEEP_CONTROL_PORT + SLEEP_PORTS).contains(&port) => {
                self.power.handle_write((port - SLEEP_CONTROL_PORT).into(), data);
            }
            PVPANIC_PORT => self.pvpanic.handle_write(0, data),
            _ if (WATCHDOG_PORT..WATCHDOG_PORT + WATCHDOG_PORTS).contains(&port) => {
                self.watchdog.handle_write((port - WATCHDOG_PORT).into(), data);
            }
            _ => {}
        }
        self.settle_chips()
    }

    /// The guest reads device memory.
    pub fn handle_mmio_read(&mut self, address: u64, data: &mut [u8]) -> Effects {
        match self.slot_at(address) {
            Some((index, offset)) => {
                self.slots[index].handle_read(offset, data);
                self.settle_slot(index)
            }
            None => {
                data.fill(0xff);
                Effects::default()
            }
        }
    }

    /// The guest writes device memory. What that kicks is served as far as `turn` lasts.
    pub fn handle_mmio_write(&mut self, address: u64, data: &[u8], turn: &mut Turn<'_>) -> Effects {
        let Some((index, offset)) = self.slot_at(address) else { return Effects::default() };
        self.slots[index].handle_write(offset, data);
        self.serve_slot(index, turn);
        self.settle_slot(index)
    }

    /// Serves what is owed of a slot and may be served now, as far as `turn` lasts.
    fn serve_slot(&mut self, index: usize, turn: &mut Turn<'_>) {
        let slot = &mut self.slots[index];
        if !(slot.sends() && self.egress.is_pressed()) {
            slot.serve_kicks(&self.memory, turn);
        }
        if !self.rules.frame_input.waits {
            self.deliver_frames(index, turn);
        }
    }

    /// Serves what earlier turns left, the slots one after the other, as far as `turn` lasts.
    pub fn serve_owed(&mut self, turn: &mut Turn<'_>) -> Effects {
        let count = self.slots.len();
        let first = self.next_slot;
        let mut effects = Effects::default();
        for index in (0..count).map(|n| (first + n) % count) {
            if turn.is_over() || !self.slots[index].owes_work() {
                effects.owes_work |= self.slots[index].owes_work();
                continue;
            }
            self.serve_slot(index, turn);
            effects = effects.and(self.settle_slot(index));
            self.next_slot = index + 1;
        }
        effects
    }

    fn slot_at(&self, address: u64) -> Option<(usize, u64)> {
        let offset = address.checked_sub(VIRTIO_MMIO_BASE)?;
        let index = usize::try_from(offset / VIRTIO_MMIO_STRIDE).ok()?;
        (index < self.slots.len()).then_some((index, offset % VIRTIO_MMIO_STRIDE))
    }

    /// Takes frames from the world for slot `index`, oldest first, off the front of `frames`. What is left there was too
    /// much; it is to be offered again when effects say that there is room.
    pub fn handle_frames(&mut self, index: usize, frames: &mut VecDeque<Vec<u8>>) -> Effects {
        let before = frames.len();
        let (mut never, frames_max) = (nobody, self.frames_max());
        let mut turn = Turn::new(&mut never);
        loop {
            let left = frames.len();
            while let Some(frame) = frames.pop_front() {
                if let Err(frame) = self.slots[index].accept_frame(frame, frames_max) {
                    frames.push_front(frame);
                    break;
                }
            }
            if !self.rules.frame_input.waits {
                self.deliver_frames(index, &mut turn);
            }
            if frames.is_empty() || frames.len() == left {
                break;
            }
        }
        let accepted = frames.len() < before;
        let mut effects = self.settle_slot(index);
        if accepted {
            effects.demand = effects.demand.max(self.rules.frame_input.demand);
        }
        effects
    }

    /// Takes console input; gives how many bytes were accepted.
    pub fn handle_console(&mut self, bytes: &[u8]) -> (usize, Effects) {
        let count = bytes.len().min(CONSOLE_INPUT_BYTES_MAX.saturating_sub(self.console_input.len()));
        self.console_input.extend_from_slice(&bytes[..count]);
        if !self.rules.console_input.waits {
            self.deliver_console();
        }
        let mut effects = self.settle_chips();
        if count > 0 {
            effects.demand = effects.demand.max(self.rules.console_input.demand);
        }
        (count, effects)
    }

    /// Gives waiting input to the guest. At a boundary, before the seal: what the guest gets is in the sealed memory.
    pub fn deliver_inputs(&mut self) -> Effects {
        self.deliver_console();
        let mut effects = self.settle_chips();
        for index in 0..self.slots.len() {
            self.deliver_frames(index, &mut Turn::new(&mut nobody));
            effects = effects.and(self.settle_slot(index));
        }
        effects
    }

    /// The inputs that the guest got since the last call: the epoch's event log.
    pub fn take_consumed(&mut self) -> Vec<Input> {
        self.consumed_bytes = 0;
        std::mem::take(&mut self.consumed)
    }

    /// Takes the interrupt lines that wait for a boundary.
    pub fn take_pending(&mut self) -> u32 {
        std::mem::take(&mut self.pending)
    }

    /// The guest made room in its receiver: what waits goes there, unless it is for the boundary to deliver.
    fn refill_console(&mut self) {
        if !self.rules.console_input.waits {
            self.deliver_console();
        }
    }

    fn deliver_console(&mut self) {
        if self.console_input.is_empty() {
            return;
        }
        let count = self.serial.handle_input(&self.console_input);
        if count > 0 {
            let bytes = self.console_input.drain(..count);
            if !self.rules.console_input.is_logged {
                return drop(bytes);
            }
            self.consumed_bytes += count;
            match self.consumed.last_mut().filter(|input| input.device == CONSOLE) {
                Some(input) => input.bytes.extend(bytes),
                None => {
                    let bytes = bytes.collect();
                    self.consumed.push(Input { device: CONSOLE, bytes });
                }
            }
        }
    }

    fn deliver_frames(&mut self, index: usize, turn: &mut Turn<'_>) {
        if !self.rules.frame_input.is_logged {
            return self.slots[index].deliver_frames(&self.memory, turn, |_| true);
        }
        if self.consumed_bytes >= EPOCH_INPUT_BYTES_MAX {
            return;
        }
        let Self { consumed, consumed_bytes, .. } = self;
        self.slots[index].deliver_frames(&self.memory, turn, |bytes| {
            *consumed_bytes += bytes.len();
            consumed.push(Input { device: (FIRST_SLOT + index as u16) | WITH_HEADER, bytes });
            *consumed_bytes < EPOCH_INPUT_BYTES_MAX
        });
    }

    /// Puts back input that a failed primary's guest had got after the last commit.
    ///
    /// It was taken from the front of what waited: of that, what had come before the commit waits here too.
    pub fn redeliver(&mut self, inputs: Vec<Input>) {
        let mut console = Vec::new();
        let mut again = vec![0; self.slots.len()];
        for Input { device, bytes } in inputs {
            let Some(index) = (device & !WITH_HEADER).checked_sub(FIRST_SLOT).map(usize::from) else {
                console.extend(bytes);
                continue;
            };
            if let Some(slot) = self.slots.get_mut(index) {
                let packet = if device & WITH_HEADER != 0 { bytes } else { with_empty_header(&bytes) };
                slot.accept_frame_again(&packet, &mut again[index]);
            }
        }
        self.console_input.extend_from_slice(console.get(self.console_input.len()..).unwrap_or_default());
    }

    fn settle_chips(&mut self) -> Effects {
        let (mut wrote, mut is_held) = (false, false);
        while let Some(bytes) = self.serial.poll_output() {
            is_held |= self.egress.emit(CONSOLE, bytes);
            wrote = true;
        }
        if self.serial.poll_interrupt() {
            self.pending |= 1 << COM1_GSI;
        }
        let mut effects = self.settle_interrupts();
        if is_held {
            effects.demand = effects.demand.max(self.rules.console_output.demand);
        }
        effects.console_full = wrote && self.egress.is_console_full();
        effects.end = match self.power.poll_power() {
            Some(PowerEvent::PowerOff) => Some(GuestEnd::PowerOff),
            None => self.i8042.poll_reset().then_some(GuestEnd::Reset),
        };
        effects.end = effects.end.or(self.poll_panic());
        effects
    }

    /// How the guest had crashed whose state this board was given, if it said so. After this it may stand still here.
    pub fn forget_crash(&mut self) -> Option<GuestEnd> {
        (self.pvpanic.forget_event()? == PanicEvent::Panicked).then_some(GuestEnd::Crashed(Crash::Panicked))
    }

    fn poll_panic(&mut self) -> Option<GuestEnd> {
        let event = self.pvpanic.poll_event()?;
        tracing::warn!(?event, "the guest reports a panic");
        match event {
            PanicEvent::Panicked => Some(GuestEnd::Crashed(Crash::Panicked)),
            // A kernel that was made for this goes on, writes what it wants to keep, and ends the machine itself.
            PanicEvent::CrashLoaded => None,
        }
    }

    fn settle_slot(&mut self, index: usize) -> Effects {
        let mut is_held = false;
        while let Some(frame) = self.slots[index].poll_output() {
            is_held |= self.egress.emit(FIRST_SLOT + index as u16, frame);
        }
        if let Some(offloads) = self.slots[index].poll_offloads() {
            self.egress.set_offloads(index, offloads);
        }
        if self.slots[index].poll_interrupt() {
            self.pending |= 1 << (VIRTIO_MMIO_GSI + index as u32);
        }
        let mut effects = self.settle_interrupts();
        if is_held {
            effects.demand = effects.demand.max(self.rules.frame_output.demand);
        }
        if self.consumed_bytes > EPOCH_INPUT_BYTES {
            effects.demand = effects.demand.max(Demand::Soon);
        }
        effects.owes_work = self.slots[index].owes_work();
        let frames_max = self.frames_max();
        effects.has_room = self.slots[index].take_room(frames_max);
        effects
    }

    /// How many frames wait for the guest at most.
    fn frames_max(&self) -> usize {
        if self.rules.frame_input.waits { INGRESS_FRAMES_MAX } else { INGRESS_AT_ONCE_MAX }
    }

    fn settle_interrupts(&mut self) -> Effects {
        if !self.rules.interrupt.waits {
            return Effects { raise: self.take_pending(), ..Effects::default() };
        }
        let demand = if self.pending == 0 { Demand::No } else { self.rules.interrupt.demand };
        Effects { demand, ..Effects::default() }
    }

    /// Asks every network card's driver to announce its address.
    pub fn announce(&mut self) -> Effects {
        let mut effects = Effects::default();
        for index in 0..self.slots.len() {
            self.slots[index].announce();
            effects = effects.and(self.settle_slot(index));
        }
        effects
    }

    /// Whether the guest has itself watched.
    pub fn is_watched(&self) -> bool {
        self.watchdog.is_running()
    }

    /// The guest could run for `ms` more milliseconds. Whether its watchdog has run out.
    pub fn handle_time(&mut self, ms: u32) -> bool {
        self.watchdog.handle_time(ms);
        self.watchdog.poll_expiry()
    }

    /// Reads the watchdog's state; it is a section of its own, because states of older versions have none.
    pub fn save_watchdog(&self) -> WatchdogState {
        self.watchdog.save()
    }

    /// Replaces it by untrusted state.
    pub fn restore_watchdog(&mut self, state: WatchdogState) -> Result<(), RestoreError> {
        self.watchdog = Watchdog::restore(state)?;
        Ok(())
    }

    /// Reads the chips' state. The slots are saved by [`Slot::save`].
    pub fn save(&self) -> (BoardState, Vec<SlotState>) {
        (self.save_chips(Vec::new(), Vec::new()), self.slots.iter().map(Slot::save).collect())
    }

    /// The same, written over an earlier state of this board, whose memory is used again.
    pub fn save_over(&self, board: &mut BoardState, slots: &mut [SlotState]) {
        let (cmos, input) = (std::mem::take(&mut board.cmos.memory), std::mem::take(&mut board.console_input));
        *board = self.save_chips(cmos, input);
        assert_eq!(slots.len(), self.slots.len(), "a machine keeps its devices");
        self.slots.iter().zip(slots).for_each(|(slot, state)| slot.save_over(state));
    }

    fn save_chips(&self, cmos_memory: Vec<u8>, mut waiting: Vec<u8>) -> BoardState {
        let Self {
            memory: _,
            egress: _,
            rules: _,
            serial,
            cmos,
            i8042,
            power,
            pvpanic,
            watchdog: _,
            slots: _,
            console_input,
            pending,
            consumed: _,
            consumed_bytes: _,
            next_slot: _,
        } = self;
        waiting.clone_from(console_input);
        BoardState {
            serial: serial.save(),
            cmos: cmos.save_in(cmos_memory),
            i8042: i8042.save(),
            power: power.save(),
            pvpanic: pvpanic.save(),
            console_input: waiting,
            pending: *pending,
        }
    }

    /// Replaces the devices' state by untrusted state; kicks that were pending are served.
    pub fn restore(&mut self, board: BoardState, slots: Vec<SlotState>) -> Result<(), RestoreError> {
        let BoardState { serial, cmos, i8042, power, pvpanic, mut console_input, pending } = board;
        self.serial = Serial::restore(serial)?;
        self.cmos = Cmos::restore(cmos)?;
        self.i8042 = I8042::restore(i8042)?;
        self.power = Power::restore(power)?;
        self.pvpanic = Pvpanic::restore(pvpanic)?;
        console_input.truncate(CONSOLE_INPUT_BYTES_MAX);
        self.console_input = console_input;
        let devices = std::mem::take(&mut self.slots);
        assert_eq!(devices.len(), slots.len(), "the caller compares the number of devices with the configuration");
        self.slots =
            devices.into_iter().zip(slots).map(|(slot, state)| slot.restore(state)).collect::<Result<_, _>>()?;
        self.pending = pending;
        for index in 0..self.slots.len() {
            if self.slots[index].poll_interrupt() {
                self.pending |= 1 << (VIRTIO_MMIO_GSI + index as u32);
            }
        }
        Ok(())
    }

    /// Tries again what disks could not take, as far as `turn` lasts.
    pub fn retry_disks(&mut self, turn: &mut Turn<'_>) -> Effects {
        self.slots.iter_mut().for_each(Slot::retry);
        self.serve_owed(turn)
    }

    /// Serves what was kicked before the save and could not be, for one turn: right before a restored guest runs. From here on the
    /// taps leave to the guest what it agreed to.
    pub fn serve_kicks(&mut self) -> Effects {
        let effects = self.serve_owed(&mut Turn::new(&mut nobody));
        (0..self.slots.len()).fold(effects, |effects, index| effects.and(self.settle_slot(index)))
    }
}

impl Effects {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            raise: self.raise | other.raise,
            demand: self.demand.max(other.demand),
            console_full: self.console_full | other.console_full,
            owes_work: self.owes_work | other.owes_work,
            has_room: self.has_room | other.has_room,
            end: self.end.or(other.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::egress::Sinks;
    use crate::memory::Ram;
    use crate::stats::Stats;
    use replication::Protocol;

    fn protected(inputs_wait: bool) -> Rules {
        Rules::Protected { protocol: Protocol::Epoch, inputs_wait }
    }

    fn board() -> Board {
        let egress = Egress::new(Sinks { console: None, taps: vec![None] }, Arc::new(Stats::default()));
        let ram = Ram::new(1 << 20).expect("1 MiB fits");
        let mut board = Board::new(ram.memory().clone(), vec![Slot::net([2; 6], true)], Arc::new(egress));
        board.set_rules(protected(true));
        board
    }

    fn waiting(board: &Board) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (state, mut slots) = board.save();
        let Some(SlotState::Net(_, frames)) = slots.pop() else { panic!("the slot is a network card") };
        (state.console_input, frames.into_iter().map(|frame| frame.0).collect())
    }

    fn input(device: u16, bytes: &[u8]) -> Input {
        Input { device, bytes: bytes.to_vec() }
    }

    #[test]
    fn redeliver_of_what_still_waits_does_not_double_it() {
        // Input that had come before the last commit, and that the guest got after it, is in the committed state and in
        // the log of the epoch that broke off: it reached the guest twice.
        let mut board = board();
        let _ = board.handle_console(b"ls");
        let _ = board.handle_frames(0, &mut VecDeque::from([vec![1; 60], vec![2; 60]]));
        let card = FIRST_SLOT | WITH_HEADER;
        let log = [input(CONSOLE, b"l"), input(CONSOLE, b"s -a"), input(card, &[2; 60]), input(card, &[2; 60])];
        board.redeliver(log.to_vec());
        assert_eq!(waiting(&board), (b"ls -a".to_vec(), vec![vec![1; 60], vec![2; 60], vec![2; 60]]));
    }

    const LSR: u16 = COM1_PORT + 5;

    /// What a guest reads that takes what there is, until there is nothing.
    fn read_all(board: &mut Board) -> Vec<u8> {
        let mut register = |port| {
            let mut byte = [0];
            let _ = board.handle_pio_read(port, &mut byte);
            byte[0]
        };
        let mut read = Vec::new();
        while register(LSR) & 1 != 0 {
            read.push(register(COM1_PORT));
        }
        read
    }

    #[test]
    fn pasted_line_reaches_a_guest_without_epochs_whole_and_nothing_of_it_is_kept() {
        // What did not fit into the receiver came only with the next key; and all of it was kept for ever for a log that a
        // guest without epochs does not have.
        let mut board = board();
        board.set_rules(Rules::Unprotected);
        let line: Vec<u8> = (0..140).map(|n| b'a' + n % 26).collect();
        assert_eq!(board.handle_console(&line).0, 140);
        assert_eq!(read_all(&mut board), line);
        assert_eq!((board.take_consumed(), waiting(&board).0), (vec![], vec![]));
    }

    #[test]
    fn line_that_waits_in_a_restored_state_reaches_a_guest_without_epochs_whole() {
        let mut before = board();
        let line = vec![b'x'; 140];
        let _ = before.handle_console(&line);
        let (state, slots) = before.save();
        let mut board = board();
        board.set_rules(Rules::Unprotected);
        board.restore(state, slots).expect("ours");
        let _ = board.deliver_inputs();
        assert_eq!(read_all(&mut board), line);
    }

    #[test]
    fn guest_with_epochs_gets_input_at_boundaries_only_and_it_is_logged() {
        let mut board = board();
        board.set_rules(protected(true));
        let _ = board.handle_console(&[b'x'; 140]);
        assert_eq!(read_all(&mut board), b"");
        let mut read = Vec::new();
        for _ in 0..3 {
            let _ = board.deliver_inputs();
            read.extend(read_all(&mut board));
        }
        assert_eq!(read, [b'x'; 140]);
        assert_eq!(board.take_consumed(), [input(CONSOLE, &[b'x'; 140])]);
        let _ = board.handle_console(b"y");
        let _ = board.deliver_inputs();
        board.set_rules(Rules::Unprotected);
        assert_eq!(board.take_consumed(), [], "its epochs have ended");
    }

    #[test]
    fn guest_with_epochs_gets_input_at_once_if_asked_and_it_is_logged() {
        let mut board = board();
        board.set_rules(protected(false));
        assert!(board.handle_console(b"ls").1.demand == Demand::No, "it needs no boundary");
        assert_eq!(read_all(&mut board), b"ls");
        assert_eq!(board.take_consumed(), [input(CONSOLE, b"ls")]);
    }

    #[test]
    fn frames_beyond_the_room_stay_with_the_caller_in_their_order() {
        let mut board = board();
        let mut frames: VecDeque<Vec<u8>> = (0..INGRESS_FRAMES_MAX + 2).map(|n| vec![n as u8; 60]).collect();
        assert!(board.handle_frames(0, &mut frames).demand != Demand::No);
        assert_eq!(frames, [vec![0; 60], vec![1; 60]]);
        assert!(board.handle_frames(0, &mut frames).demand == Demand::No, "nothing came in");
        let waiting = waiting(&board).1;
        assert_eq!((waiting.len(), waiting[0][0], waiting[255][0]), (INGRESS_FRAMES_MAX, 0, 255));
    }

    #[test]
    fn redeliver_of_a_frame_that_a_version_without_headers_logged_has_an_empty_one() {
        let mut board = board();
        board.redeliver(vec![input(FIRST_SLOT, &[2; 60]), input(FIRST_SLOT | WITH_HEADER, &[3; 72])]);
        assert_eq!(waiting(&board).1, [with_empty_header(&[2; 60]), vec![3; 72]]);
    }

    fn write(board: &mut Board, offset: u64, value: u32) -> Effects {
        board.handle_mmio_write(VIRTIO_MMIO_BASE + offset, &value.to_le_bytes(), &mut Turn::new(&mut nobody))
    }

    /// Starts the card's driver, with no buffer to receive into, and with a frame of 60 bytes in the ring of its transmit queue that
    /// was not kicked yet.
    fn start_card(board: &mut Board) {
        let (table, avail, used, buffer) = (0x1000, 0x2000, 0x3000, 0x4000_u32);
        let agree = [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)];
        let queue =
            |n, table, avail, used| [(0x30, n), (0x38, 16), (0x80, table), (0x90, avail), (0xa0, used), (0x44, 1)];
        let queues = [queue(0, 0x5000, 0x6000, 0x7000), queue(1, table, avail, used)].concat();
        for (offset, value) in agree.into_iter().chain(queues).chain([(0x70, 15)]) {
            let _ = write(board, offset, value);
        }
        let descriptor = [u64::from(buffer).to_le_bytes(), [72, 0, 0, 0, 0, 0, 0, 0]].concat();
        let put = |bytes: &[u8], at: u32| board.memory.write_slice(bytes, GuestAddress(at.into())).expect("in memory");
        put(&descriptor, table);
        put(&[0, 0, 1, 0, 0, 0], avail);
    }

    #[test]
    fn few_frames_wait_for_a_guest_that_gets_them_at_once_and_the_others_hear_of_room() {
        // What waits is part of each epoch's state: 256 frames were shipped again and again.
        let mut board = board();
        board.set_rules(Rules::Unprotected);
        start_card(&mut board);
        let mut frames: VecDeque<Vec<u8>> = (0..64).map(|_| vec![0; 72]).collect();
        assert!(!board.handle_frames(0, &mut frames).has_room, "it has no buffers");
        assert_eq!((frames.len(), waiting(&board).1.len()), (64 - INGRESS_AT_ONCE_MAX, INGRESS_AT_ONCE_MAX));
        let put = |bytes: &[u8], at: u64| board.memory.write_slice(bytes, GuestAddress(at)).expect("in memory");
        put(&[0x8000_u64.to_le_bytes(), [0, 8, 0, 0, 2, 0, 0, 0]].concat(), 0x5000);
        put(&[0, 0, 1, 0, 0, 0], 0x6000);
        assert!(write(&mut board, 0x50, 0).has_room, "it took one of them");
        assert!(!write(&mut board, 0x50, 0).has_room, "that was said");
        let _ = board.handle_frames(0, &mut frames);
        assert_eq!((frames.len(), waiting(&board).1.len()), (63 - INGRESS_AT_ONCE_MAX, INGRESS_AT_ONCE_MAX));
    }

    #[test]
    fn card_sends_nothing_while_the_guest_is_pressed_and_goes_on_by_itself() {
        // Of 8 vCPUs each may have one more exit, with a turn of 8 MiB each: that is more than the rest of what can be held.
        let mut board = board();
        start_card(&mut board);
        board.egress.begin(replication::EpochId(1));
        while !board.egress.is_pressed() {
            board.egress.emit(FIRST_SLOT, vec![0; 1 << 20]);
        }
        let held = board.egress.held_bytes();
        assert!(write(&mut board, 0x50, 1).owes_work);
        assert!(board.serve_owed(&mut Turn::new(&mut nobody)).owes_work);
        assert_eq!(board.egress.held_bytes(), held, "nothing was produced");
        board.egress.seal(replication::EpochId(2));
        board.egress.release(replication::EpochId(1));
        assert!(!board.serve_owed(&mut Turn::new(&mut nobody)).owes_work);
        let sent = board.egress.seal(replication::EpochId(3));
        assert_eq!(sent.iter().map(|output| output.bytes.len()).collect::<Vec<_>>(), [72]);
    }

    #[test]
    fn epoch_with_much_input_asks_for_its_boundary_however_the_guest_got_it() {
        // A guest that makes room in its ring gets what waits by that kick, and nobody asked for a boundary then.
        let mut board = board();
        board.set_rules(protected(false));
        assert!(write(&mut board, 0x50, 0).demand == Demand::No);
        board.consumed_bytes = EPOCH_INPUT_BYTES + 1;
        assert!(write(&mut board, 0x50, 0).demand != Demand::No);
        board.take_consumed();
        assert!(write(&mut board, 0x50, 0).demand == Demand::No);
    }

    #[test]
    fn redeliver_of_less_than_what_waits_keeps_all_of_it() {
        let mut board = board();
        let _ = board.handle_console(b"halt");
        board.redeliver(vec![input(CONSOLE, b"ha"), input(77, b"no such device")]);
        assert_eq!(waiting(&board).0, b"halt");
    }
}
