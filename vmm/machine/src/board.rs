//! The board: the devices of a machine on their buses, and what the guest's accesses set off.
//!
//! One lock around it. A vCPU's access is served (queues, disk, output) before the vCPU goes on, for one turn; what is left is
//! owed and served by a vCPU thread too ([`super::turns`]). So at a boundary, with all vCPUs out, every device is quiet by
//! construction.
//!
//! What becomes of output, input and interrupts the rules in force say ([`replication::protocol`]). Interrupts of devices collect
//! in a mask: they are raised at once, or wait for the boundary, and then the mask is part of the state.
//!
//! It knows no device by its type. A chip is found by its ports and a slot by its window, each registered once on a bus; what a chip wants
//! done comes out of it as a value.

mod effects;
mod input;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use devices::bus::{Bus, BusError, Range};
use devices::chip::{AnyChip, Effect};
use devices::layout::{MmioSlot, VIRTIO_MMIO_GSI, virtio_mmio};
use devices::pc;
use devices::virtio::turn::Turn;
use replication::Input;
use replication::protocol::{Demand, Event, Measures, Rules};
use vm_memory::{Bytes, GuestAddress};

use super::crash::Crash;
use super::egress::{CONSOLE, Egress, FIRST_SLOT};
use super::slot::Slot;
use crate::memory::GuestMemory;

pub use effects::{Effects, GuestEnd};
pub use state::BoardState;
pub(crate) use state::check;

/// Console input that waits for the guest at most, in bytes.
const CONSOLE_INPUT_BYTES_MAX: usize = 4096;

/// An epoch whose guest got more input than this asks for its boundary, in bytes.
const EPOCH_INPUT_BYTES: usize = 1 << 20;

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

/// The devices of a machine.
#[derive(Debug)]
pub struct Board {
    memory: GuestMemory,
    egress: Arc<Egress>,
    rules: InForce,
    /// Which chip answers at a port.
    ports: Bus<usize>,
    /// Which slot answers at an address.
    windows: Bus<usize>,
    chips: Vec<Box<dyn AnyChip>>,
    slots: Vec<Box<dyn Slot>>,
    console_input: Vec<u8>,
    pending: u32,
    /// Inputs that the guest got since the last boundary, and their bytes.
    consumed: Vec<Input>,
    consumed_bytes: usize,
    /// Whose turn comes first, of the slots that owe work.
    next_slot: usize,
    /// The memory of the last save.
    saved: BoardState,
}

/// Nobody waits, or those who do wait for no more than what one turn may do.
fn nobody(_requests: u32) -> bool {
    false
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

impl Board {
    /// A board with every chip and with `slots`, at power-on.
    pub fn new(memory: GuestMemory, slots: Vec<Box<dyn Slot>>, egress: Arc<Egress>) -> Result<Self, BusError> {
        let (chips, mut ports, mut windows) = (pc::chips(), Bus::default(), Bus::default());
        for (index, chip) in chips.iter().enumerate() {
            chip.ports().iter().try_for_each(|range| ports.register(chip.owner(), *range, index))?;
        }
        for (index, slot) in slots.iter().enumerate() {
            let MmioSlot { base, size, gsi: _ } = virtio_mmio(index);
            windows.register(slot.owner(index as u16), Range::new(base, size), index)?;
        }
        Ok(Self {
            memory,
            egress,
            rules: InForce::default(),
            ports,
            windows,
            chips,
            slots,
            console_input: Vec::new(),
            pending: 0,
            consumed: Vec::new(),
            consumed_bytes: 0,
            next_slot: 0,
            saved: BoardState::default(),
        })
    }

    /// The slots, by number.
    pub fn slots(&self) -> &[Box<dyn Slot>] {
        &self.slots
    }

    /// From now on these rules are in force.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = InForce::of(rules);
        self.take_consumed();
    }

    /// The guest reads a port. Ports of no device read as all ones, as on a PC.
    pub fn handle_pio_read(&mut self, port: u16, data: &mut [u8]) -> Effects {
        match self.ports.find(port.into()) {
            Some((index, offset)) => {
                self.chips[index].handle_read(offset, data, &now_s);
                self.refill_console();
            }
            None => data.fill(0xff),
        }
        self.settle_chips()
    }

    /// The guest writes a port. Writes to no device are lost, as on a PC.
    pub fn handle_pio_write(&mut self, port: u16, data: &[u8]) -> Effects {
        if let Some((index, offset)) = self.ports.find(port.into()) {
            self.chips[index].handle_write(offset, data, &now_s);
            self.refill_console();
        }
        self.settle_chips()
    }

    /// The guest reads device memory.
    pub fn handle_mmio_read(&mut self, address: u64, data: &mut [u8]) -> Effects {
        match self.windows.find(address) {
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
        let Some((index, offset)) = self.windows.find(address) else { return Effects::default() };
        self.slots[index].handle_write(offset, data);
        self.serve_slot(index, turn);
        self.settle_slot(index)
    }

    /// Serves what is owed of a slot and may be served now, as far as `turn` lasts.
    fn serve_slot(&mut self, index: usize, turn: &mut Turn<'_>) {
        let slot = &mut self.slots[index];
        if !(slot.card().is_some() && self.egress.is_pressed()) {
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

    /// Takes the interrupt lines that wait for a boundary.
    pub fn take_pending(&mut self) -> u32 {
        std::mem::take(&mut self.pending)
    }

    /// The guest begins a generation: others may continue the same state, or have continued it.
    pub fn begin_generation(&mut self, id: [u8; 16]) -> Effects {
        self.chips.iter_mut().for_each(|chip| chip.handle_generation(id));
        self.settle_chips()
    }

    fn settle_chips(&mut self) -> Effects {
        let Self { chips, egress, memory, pending, .. } = self;
        let (mut wrote, mut is_held, mut end) = (false, false, None);
        for chip in chips {
            chip.poll_effects(&mut |effect| match effect {
                Effect::Output(bytes) => {
                    is_held |= egress.emit(CONSOLE, bytes);
                    wrote = true;
                }
                Effect::Interrupt(gsi) => *pending |= 1 << gsi,
                Effect::Memory { address, bytes } => {
                    if let Err(error) = memory.write_slice(&bytes, GuestAddress(address)) {
                        tracing::warn!(%error, address, "a chip's place is not in the guest's memory");
                    }
                }
                other => {
                    if matches!(other, Effect::Panicked | Effect::CrashKernel) {
                        tracing::warn!(event = ?other, "the guest reports a panic");
                    }
                    end = end.or_else(|| end_by(&other));
                }
            });
        }
        let mut effects = self.settle_interrupts();
        if is_held {
            effects.demand = effects.demand.max(self.rules.console_output.demand);
        }
        effects.console_full = wrote && self.egress.is_console_full();
        effects.end = end;
        effects
    }

    /// How the guest had crashed whose state this board was given, if it said so. After this it may stand still here.
    pub fn forget_crash(&mut self) -> Option<GuestEnd> {
        let mut ends = self.chips.iter_mut().filter_map(|chip| chip.forget_end());
        ends.find_map(|effect| end_by(&effect))
    }

    fn settle_slot(&mut self, index: usize) -> Effects {
        let frames_max = self.frames_max();
        let slot = &mut self.slots[index];
        let (mut is_held, mut has_room) = (false, false);
        if let Some(card) = slot.card_mut() {
            while let Some(frame) = card.poll_output() {
                is_held |= self.egress.emit(FIRST_SLOT + index as u16, frame);
            }
            if let Some(offloads) = card.poll_offloads() {
                self.egress.set_offloads(index, offloads);
            }
            has_room = card.take_room(frames_max);
        }
        if slot.poll_interrupt() {
            self.pending |= 1 << (VIRTIO_MMIO_GSI + index as u32);
        }
        let owes_work = slot.owes_work();
        let mut effects = self.settle_interrupts();
        if is_held {
            effects.demand = effects.demand.max(self.rules.frame_output.demand);
        }
        if self.consumed_bytes > EPOCH_INPUT_BYTES {
            effects.demand = effects.demand.max(Demand::Soon);
        }
        Effects { owes_work, has_room, ..effects }
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
            if let Some(card) = self.slots[index].card_mut() {
                card.announce();
            }
            effects = effects.and(self.settle_slot(index));
        }
        effects
    }

    /// Whether the guest has itself watched.
    pub fn is_watched(&self) -> bool {
        self.chips.iter().any(|chip| chip.wants_time())
    }

    /// The guest could run for `ms` more milliseconds.
    pub fn handle_time(&mut self, ms: u32) -> Effects {
        self.chips.iter_mut().for_each(|chip| chip.handle_time(ms));
        self.settle_chips()
    }

    /// Tries again what disks could not take, as far as `turn` lasts.
    pub fn retry_disks(&mut self, turn: &mut Turn<'_>) -> Effects {
        self.slots.iter_mut().for_each(|slot| slot.retry());
        self.serve_owed(turn)
    }

    /// Serves what was kicked before the save and could not be, for one turn: right before a restored guest runs. From here on the
    /// taps leave to the guest what it agreed to.
    pub fn serve_kicks(&mut self) -> Effects {
        let effects = self.serve_owed(&mut Turn::new(&mut nobody));
        (0..self.slots.len()).fold(effects, |effects, index| effects.and(self.settle_slot(index)))
    }
}

/// What comes of a chip's effect that is about the machine's end.
fn end_by(effect: &Effect) -> Option<GuestEnd> {
    match effect {
        Effect::PowerOff => Some(GuestEnd::PowerOff),
        Effect::Reset => Some(GuestEnd::Reset),
        Effect::Panicked => Some(GuestEnd::Crashed(Crash::Panicked)),
        // A kernel that was made for this goes on, writes what it wants to keep, and ends the machine itself.
        Effect::CrashKernel => None,
        Effect::WatchdogExpired => Some(GuestEnd::Crashed(Crash::Watchdog)),
        Effect::Output(_) | Effect::Interrupt(_) | Effect::Memory { .. } => None,
    }
}
