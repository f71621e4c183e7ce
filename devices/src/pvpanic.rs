//! pvpanic: a port through which a guest's kernel reports a panic.

use acpi_tables::aml;
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::Tables;
use crate::bus::Range;
use crate::chip::{Chip, Clock, Effect};
use crate::counters::Counters;

/// Its port.
pub const PORT: u16 = 0x505;

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

/// What the guest's kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PanicEvent {
    /// It panicked and stands still.
    Panicked,
    /// It panicked and a crash kernel takes over.
    CrashLoaded,
}

impl PanicEvent {
    fn effect(self) -> Effect {
        match self {
            Self::Panicked => Effect::Panicked,
            Self::CrashLoaded => Effect::CrashKernel,
        }
    }
}

/// Saved form of [`Pvpanic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvpanicState {
    /// What the guest said last, if it was not heard, or must not be forgotten.
    pub event: Option<PanicEvent>,
}

impl Section for PvpanicState {
    const NAME: &'static str = "pvpanic";
    const VERSION: u16 = 1;
}

/// A pvpanic port.
#[derive(Debug, Default)]
pub struct Pvpanic {
    event: Option<PanicEvent>,
    counters: Counters,
}

impl Chip for Pvpanic {
    type State = PvpanicState;

    const PORTS: &'static [Range] = &[Range::new(PORT as u64, 1)];

    /// The guest reads which events the port knows.
    fn handle_read(&mut self, offset: u64, data: &mut [u8], _clock: Clock<'_>) {
        match (offset, data) {
            (0, [byte]) => *byte = PANICKED | CRASH_LOADED,
            (_, data) => {
                data.fill(0xff);
                self.counters.bad_accesses += 1;
            }
        }
    }

    /// The guest writes what happened. If it says both, it stands still.
    fn handle_write(&mut self, offset: u64, data: &[u8], _clock: Clock<'_>) {
        self.event = match (offset, data) {
            (0, &[value]) if value & PANICKED != 0 => Some(PanicEvent::Panicked),
            (0, &[value]) if value & CRASH_LOADED != 0 => Some(PanicEvent::CrashLoaded),
            _ => {
                self.counters.bad_accesses += 1;
                return;
            }
        };
    }

    /// The panic stays recorded: the side that continues its state finds it still.
    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        let told = self.event.take_if(|event| *event == PanicEvent::CrashLoaded).or(self.event);
        told.map(PanicEvent::effect).into_iter().for_each(act);
    }

    fn forget_end(&mut self) -> Option<Effect> {
        self.event.take().filter(|event| *event == PanicEvent::Panicked).map(PanicEvent::effect)
    }

    fn describe(tables: &mut Tables) {
        tables.plain_device("PEVT", &"QEMU0001", 0, &[&aml::IO::new(PORT, PORT, 1, 1)]);
    }

    fn save(&self) -> PvpanicState {
        let Self { event, counters: _ } = self;
        PvpanicState { event: *event }
    }

    fn restore(state: PvpanicState) -> Result<Self, RestoreError> {
        let PvpanicState { event } = state;
        Ok(Self { event, counters: Counters::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::{effects, midnight};

    #[test]
    fn read_tells_the_known_events() {
        let mut data = [0];
        Pvpanic::default().handle_read(0, &mut data, &midnight);
        assert_eq!(data, [3]);
    }

    #[test]
    fn write_panicked_stays_said_and_crash_loaded_is_polled_once() {
        let mut port = Pvpanic::default();
        port.handle_write(0, &[CRASH_LOADED], &midnight);
        assert_eq!((effects(&mut port), effects(&mut port)), (vec![Effect::CrashKernel], vec![]));
        port.handle_write(0, &[PANICKED], &midnight);
        assert_eq!((effects(&mut port), effects(&mut port)), (vec![Effect::Panicked], vec![Effect::Panicked]));
        let mut restored = Pvpanic::restore(port.save()).unwrap();
        assert_eq!(effects(&mut restored), [Effect::Panicked]);
        assert_eq!((restored.forget_end(), effects(&mut restored)), (Some(Effect::Panicked), vec![]));
    }

    #[test]
    fn write_unknown_event_keeps_the_one_before_and_counts() {
        let mut port = Pvpanic::default();
        port.handle_write(0, &[CRASH_LOADED], &midnight);
        port.handle_write(0, &[0x80], &midnight);
        assert_eq!(effects(&mut port), [Effect::CrashKernel]);
        assert_eq!(port.counters().bad_accesses, 1);
    }
}
