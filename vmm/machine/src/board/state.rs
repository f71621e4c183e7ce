//! The board's part of a machine's state: a section of its own, and those of its devices.

use devices::chip::AnyChip;
use devices::layout::VIRTIO_MMIO_GSI;
use devices::{SectionRefused, pc};
use serde::{Deserialize, Serialize};
use snapshot::section::{Section, StateReader, StateWriter};

use super::{Board, CONSOLE_INPUT_BYTES_MAX};
use crate::shape::Shape;
use crate::slot::Kind;

/// Saved form of what the board has beside its devices. In version 1 its chips were in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    /// Console input that the guest has not got yet.
    pub console_input: Vec<u8>,
    /// Interrupt lines that wait for the boundary.
    pub pending: u32,
}

impl Section for BoardState {
    const NAME: &'static str = "board";
    const VERSION: u16 = 2;
}

/// The chips of `shape` go on from their sections; the others are as after power-on.
fn restore_chips(
    chips: &mut [Box<dyn AnyChip>],
    shape: &Shape,
    reader: &mut StateReader<'_>,
) -> Result<(), SectionRefused> {
    for chip in chips {
        if shape.has_chip(chip.owner().name) {
            chip.restore(reader)?;
        } else {
            chip.power_on();
        }
    }
    Ok(())
}

/// Whether a board of `shape` can be restored from `sections`, and nothing of them is left over.
pub(crate) fn check(shape: &Shape, sections: &StateWriter) -> Result<(), SectionRefused> {
    let mut reader = StateReader::parse(sections.bytes())?;
    let BoardState { console_input: _, pending: _ } = reader.take(0)?;
    restore_chips(&mut pc::chips(), shape, &mut reader)?;
    for (slot, name) in shape.slots.iter().enumerate() {
        if let Some(kind) = Kind::of_name(name) {
            kind.check(slot as u16, &mut reader)?;
        }
    }
    Ok(reader.finish()?)
}

impl Board {
    /// Writes the state: a section of its own, and those of each chip and slot.
    pub fn save(&mut self, writer: &mut StateWriter) {
        let Self {
            memory: _,
            egress: _,
            rules: _,
            ports: _,
            windows: _,
            chips,
            slots,
            console_input,
            pending,
            consumed: _,
            consumed_bytes: _,
            next_slot: _,
            saved,
        } = self;
        saved.console_input.clone_from(console_input);
        saved.pending = *pending;
        writer.put(0, saved);
        chips.iter_mut().for_each(|chip| chip.save(writer));
        slots.iter_mut().zip(0..).for_each(|(slot, number)| slot.save(number, writer));
    }

    /// Replaces the devices' state by `sections`, untrusted, of a machine of `shape`; kicks that were pending are served.
    pub fn restore(&mut self, shape: &Shape, sections: &StateWriter) -> Result<(), SectionRefused> {
        let mut reader = StateReader::parse(sections.bytes())?;
        let BoardState { mut console_input, pending } = reader.take(0)?;
        console_input.truncate(CONSOLE_INPUT_BYTES_MAX);
        self.console_input = console_input;
        restore_chips(&mut self.chips, shape, &mut reader)?;
        self.slots.iter_mut().zip(0..).try_for_each(|(slot, number)| slot.restore(number, &mut reader))?;
        self.pending = pending;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.poll_interrupt() {
                self.pending |= 1 << (VIRTIO_MMIO_GSI + index as u32);
            }
        }
        Ok(reader.finish()?)
    }
}
