//! A chip: a device on I/O ports.
//!
//! Each chip is one file with one implementation of [`Chip`]: its ports, its registers, its part of the ACPI tables, its state. Whoever
//! builds a machine puts it into the list of [`pc`](crate::pc), and nothing else knows its type: it is found by its ports, and saved under
//! the name and version of its state.

use std::fmt::Debug;

use snapshot::section::{Section, StateReader, StateWriter};

use crate::acpi::Tables;
use crate::bus::{Owner, Range};
use crate::counters::Counters;
use crate::{RestoreError, SectionRefused};

/// The time of day, in seconds since 1970 UTC. It is asked for only where it is needed.
pub type Clock<'a> = &'a dyn Fn() -> i64;

/// What a chip wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// This interrupt line rose.
    Interrupt(u32),
    /// The guest wrote these bytes to the console.
    Output(Vec<u8>),
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked and stands still.
    Panicked,
    /// The guest's kernel panicked, and a crash kernel goes on.
    CrashKernel,
    /// The guest did not tell its watchdog in time that it lives.
    WatchdogExpired,
    /// These bytes go to the guest's memory.
    Memory {
        /// Guest physical address.
        address: u64,
        /// What is written there.
        bytes: [u8; 16],
    },
}

/// A chip after power-on by `default`, and what becomes of it.
pub trait Chip: Debug + Default + Send + 'static {
    /// Saved form; its name is the chip's name.
    type State: Section + Debug + Send;

    /// Its ports.
    const PORTS: &'static [Range];

    /// The guest reads `data.len()` bytes at `offset`.
    fn handle_read(&mut self, offset: u64, data: &mut [u8], clock: Clock<'_>);

    /// The guest writes `data` at `offset`.
    fn handle_write(&mut self, offset: u64, data: &[u8], clock: Clock<'_>);

    /// The world has bytes for the guest's console; says how many it took. A chip that is no console takes none.
    fn handle_input(&mut self, _data: &[u8]) -> usize {
        0
    }

    /// The guest could run for `ms` more milliseconds.
    fn handle_time(&mut self, _ms: u32) {}

    /// Whether it needs to be given time.
    fn wants_time(&self) -> bool {
        false
    }

    /// The guest begins a generation, which has this identifier and no other.
    fn handle_generation(&mut self, _id: [u8; 16]) {}

    /// Gives `act` what it wants done since the last call.
    fn poll_effects(&mut self, _act: &mut dyn FnMut(Effect)) {}

    /// How the guest had ended by this chip, if its state says so; it is not said any more.
    fn forget_end(&mut self) -> Option<Effect> {
        None
    }

    /// Adds to the ACPI tables what a guest must know of it.
    fn describe(_tables: &mut Tables) {}

    /// The whole state as plain data.
    fn save(&self) -> Self::State;

    /// The same, written over an earlier state, whose memory is used again where there is any.
    fn save_over(&self, state: &mut Self::State) {
        *state = self.save();
    }

    /// A chip from untrusted state. Emits nothing.
    fn restore(state: Self::State) -> Result<Self, RestoreError>;

    /// What was counted since it was made.
    fn counters(&self) -> &Counters;
}

/// A chip of any type.
pub trait AnyChip: Debug + Send {
    /// What it is called: the name of its section.
    fn owner(&self) -> Owner;
    /// [`Chip::PORTS`].
    fn ports(&self) -> &'static [Range];
    /// [`Chip::handle_read`].
    fn handle_read(&mut self, offset: u64, data: &mut [u8], clock: Clock<'_>);
    /// [`Chip::handle_write`].
    fn handle_write(&mut self, offset: u64, data: &[u8], clock: Clock<'_>);
    /// [`Chip::handle_input`].
    fn handle_input(&mut self, data: &[u8]) -> usize;
    /// [`Chip::handle_time`].
    fn handle_time(&mut self, ms: u32);
    /// [`Chip::wants_time`].
    fn wants_time(&self) -> bool;
    /// [`Chip::handle_generation`].
    fn handle_generation(&mut self, id: [u8; 16]);
    /// [`Chip::poll_effects`].
    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect));
    /// [`Chip::forget_end`].
    fn forget_end(&mut self) -> Option<Effect>;
    /// [`Chip::describe`].
    fn describe(&self, tables: &mut Tables);
    /// [`Chip::counters`].
    fn counters(&self) -> &Counters;
    /// Writes its section.
    fn save(&mut self, writer: &mut StateWriter);
    /// Goes on from its section, which is untrusted.
    fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), SectionRefused>;
    /// Is as after power-on again.
    fn power_on(&mut self);
}

/// A chip, and the memory of its last save.
#[derive(Debug)]
struct Mounted<C: Chip> {
    chip: C,
    saved: C::State,
}

/// A chip after power-on.
#[must_use]
pub fn mount<C: Chip>() -> Box<dyn AnyChip> {
    let chip = C::default();
    Box::new(Mounted { saved: chip.save(), chip })
}

impl<C: Chip> AnyChip for Mounted<C> {
    fn owner(&self) -> Owner {
        Owner { name: C::State::NAME, instance: 0 }
    }

    fn ports(&self) -> &'static [Range] {
        C::PORTS
    }

    fn handle_read(&mut self, offset: u64, data: &mut [u8], clock: Clock<'_>) {
        self.chip.handle_read(offset, data, clock);
    }

    fn handle_write(&mut self, offset: u64, data: &[u8], clock: Clock<'_>) {
        self.chip.handle_write(offset, data, clock);
    }

    fn handle_input(&mut self, data: &[u8]) -> usize {
        self.chip.handle_input(data)
    }

    fn handle_time(&mut self, ms: u32) {
        self.chip.handle_time(ms);
    }

    fn wants_time(&self) -> bool {
        self.chip.wants_time()
    }

    fn handle_generation(&mut self, id: [u8; 16]) {
        self.chip.handle_generation(id);
    }

    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        self.chip.poll_effects(act);
    }

    fn forget_end(&mut self) -> Option<Effect> {
        self.chip.forget_end()
    }

    fn describe(&self, tables: &mut Tables) {
        C::describe(tables);
    }

    fn counters(&self) -> &Counters {
        self.chip.counters()
    }

    fn save(&mut self, writer: &mut StateWriter) {
        self.chip.save_over(&mut self.saved);
        writer.put(0, &self.saved);
    }

    fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), SectionRefused> {
        self.chip = C::restore(reader.take(0)?)?;
        Ok(())
    }

    fn power_on(&mut self) {
        self.chip = C::default();
    }
}

/// A time of day for tests of chips that have no use for it.
#[cfg(test)]
pub(crate) fn midnight() -> i64 {
    0
}

/// What a chip wants done since the last call.
#[cfg(test)]
pub(crate) fn effects(chip: &mut impl Chip) -> Vec<Effect> {
    let mut effects = Vec::new();
    chip.poll_effects(&mut |effect| effects.push(effect));
    effects
}
