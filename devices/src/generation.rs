//! The generation of a guest: sixteen bytes in its memory, another value whenever others may continue, or have continued, the same state. A
//! guest that finds it changed renews what must be unique: Linux (driver `vmgenid`, since 5.18) mixes it into its random numbers, so
//! that two guests from one snapshot do not draw the same keys.
//!
//! The identifier lies in a page of its own between the ACPI tables and the firmware's entry, which guests are told to leave alone. ACPI's
//! `VM_Gen_Counter` says where, and a generic event device says by an interrupt that it changed.
//!
//! What it is not: a count of takeovers. A guest that goes on from its last committed epoch goes on alone, and nobody has seen another
//! continuation of that epoch, so its generation stays.
//!
//! Source: Microsoft, "Virtual Machine Generation ID", 2012; ACPI 6.5, sections 5.6.9 and 9.

use acpi_tables::aml;
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::{Tables, edge};
use crate::bus::Range;
use crate::chip::{Chip, Clock, Effect};
use crate::counters::Counters;
use crate::layout::GENERATION_ID;

/// Interrupt line of the event device.
pub const GSI: u32 = 9;

/// What ACPI notifies the driver of: the identifier changed.
const CHANGED: u8 = 0x80;

/// Saved form of [`Generation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationState {
    /// The identifier; zeros before the first.
    pub id: [u8; 16],
    /// It is to be written to memory.
    pub write_due: bool,
    /// The guest is to be told.
    pub edge_due: bool,
}

impl Section for GenerationState {
    const NAME: &'static str = "generation";
    const VERSION: u16 = 1;
}

/// The generation of a guest.
#[derive(Debug, Default)]
pub struct Generation {
    id: [u8; 16],
    write_due: bool,
    edge_due: bool,
    counters: Counters,
}

impl Chip for Generation {
    type State = GenerationState;

    const PORTS: &'static [Range] = &[];

    fn handle_read(&mut self, _offset: u64, data: &mut [u8], _clock: Clock<'_>) {
        data.fill(0xff);
        self.counters.bad_accesses += 1;
    }

    fn handle_write(&mut self, _offset: u64, _data: &[u8], _clock: Clock<'_>) {
        self.counters.bad_accesses += 1;
    }

    /// The first one is that of the boot: there is nobody yet who could have seen another.
    fn handle_generation(&mut self, id: [u8; 16]) {
        self.edge_due |= self.id != [0; 16];
        (self.id, self.write_due) = (id, true);
    }

    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        if std::mem::take(&mut self.write_due) {
            act(Effect::Memory { address: GENERATION_ID, bytes: self.id });
        }
        if std::mem::take(&mut self.edge_due) {
            act(Effect::Interrupt(GSI));
        }
    }

    fn describe(tables: &mut Tables) {
        let address = aml::Package::new(vec![&(GENERATION_ID as u32), &((GENERATION_ID >> 32) as u32)]);
        tables.device(
            "VGEN",
            &[
                &aml::Name::new("_HID".into(), &"VMGENCTR"),
                &aml::Name::new("_CID".into(), &"VM_Gen_Counter"),
                &aml::Name::new("_DDN".into(), &"VM_Gen_Counter"),
                &aml::Name::new("ADDR".into(), &address),
            ],
        );
        let (this, line) = (aml::Path::new("\\_SB_.VGEN"), aml::Arg(0));
        let (notify, is_ours) = (aml::Notify::new(&this, &CHANGED), aml::Equal::new(&line, &GSI));
        let (interrupt, told) = (edge(GSI), aml::If::new(&is_ours, vec![&notify]));
        tables.device(
            "GED_",
            &[
                &aml::Name::new("_HID".into(), &"ACPI0013"),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt])),
                &aml::Method::new("_EVT".into(), 1, true, vec![&told]),
            ],
        );
    }

    fn save(&self) -> GenerationState {
        let Self { id, write_due, edge_due, counters: _ } = self;
        GenerationState { id: *id, write_due: *write_due, edge_due: *edge_due }
    }

    fn restore(state: GenerationState) -> Result<Self, RestoreError> {
        let GenerationState { id, write_due, edge_due } = state;
        Ok(Self { id, write_due, edge_due, counters: Counters::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::effects;

    #[test]
    fn first_generation_is_written_and_each_later_one_is_told_too() {
        let mut chip = Generation::default();
        assert_eq!(effects(&mut chip), [], "a guest that was never told of it");
        let written = |byte| Effect::Memory { address: GENERATION_ID, bytes: [byte; 16] };
        chip.handle_generation([1; 16]);
        assert_eq!(effects(&mut chip), [written(1)]);
        assert_eq!(effects(&mut chip), []);
        let mut copy = Generation::restore(chip.save()).expect("ours");
        assert_eq!(effects(&mut copy), [], "who goes on from a state is of its generation");
        copy.handle_generation([2; 16]);
        assert_eq!(effects(&mut copy), [written(2), Effect::Interrupt(GSI)]);
    }
}
