//! The ACPI sleep control and status registers of a hardware-reduced machine: they switch it off.
//!
//! The guest writes the sleep type that `\_S5` names together with the enable bit. Other sleep types are not offered.

use acpi_tables::aml;
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::{Tables, byte_port};
use crate::bus::Range;
use crate::chip::{Chip, Clock, Effect};
use crate::counters::Counters;

/// Sleep type of S5, as `\_S5` gives it to the guest.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Port of the sleep control register; the sleep status register follows.
pub const CONTROL_PORT: u16 = 0x600;

const CONTROL: u64 = 0;
const STATUS: u64 = 1;
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0x07;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerEvent {
    /// Soft off: the guest ended its work.
    PowerOff,
}

/// Saved form of [`Power`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerState {
    /// The request that the caller has not heard of.
    pub event: Option<PowerEvent>,
}

impl Section for PowerState {
    const NAME: &'static str = "power";
    const VERSION: u16 = 1;
}

/// The sleep registers.
#[derive(Debug, Default)]
pub struct Power {
    event: Option<PowerEvent>,
    counters: Counters,
}

impl Power {
    fn write_control(&mut self, value: u8) {
        if value & SLEEP_ENABLE == 0 {
            return;
        }
        if value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == SLEEP_TYPE_S5 {
            self.event = Some(PowerEvent::PowerOff);
        } else {
            self.counters.bad_requests += 1;
        }
    }
}

impl Chip for Power {
    type State = PowerState;

    const PORTS: &'static [Range] = &[Range::new(CONTROL_PORT as u64, 2)];

    /// The guest reads the control (offset 0) or status (offset 1) register; both are zero while it runs.
    fn handle_read(&mut self, offset: u64, data: &mut [u8], _clock: Clock<'_>) {
        data.fill(0);
        if data.len() != 1 || offset > STATUS {
            self.counters.bad_accesses += 1;
        }
    }

    /// The guest writes the control (offset 0) or status (offset 1) register.
    fn handle_write(&mut self, offset: u64, data: &[u8], _clock: Clock<'_>) {
        match (offset, data) {
            (CONTROL, &[value]) => self.write_control(value),
            // The wake bit is cleared by writing it; it was never set.
            (STATUS, &[_]) => {}
            _ => self.counters.bad_accesses += 1,
        }
    }

    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        if let Some(PowerEvent::PowerOff) = self.event.take() {
            act(Effect::PowerOff);
        }
    }

    fn describe(tables: &mut Tables) {
        tables.fadt.sleep_control_reg = byte_port(CONTROL_PORT);
        tables.fadt.sleep_status_reg = byte_port(CONTROL_PORT + STATUS as u16);
        // The sleep type that switches the machine off.
        tables.name("_S5_", &aml::Package::new(vec![&SLEEP_TYPE_S5]));
    }

    fn save(&self) -> PowerState {
        let Self { event, counters: _ } = self;
        PowerState { event: *event }
    }

    fn restore(state: PowerState) -> Result<Self, RestoreError> {
        let PowerState { event } = state;
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
    fn sleep_type_s5_with_enable_is_power_off_once() {
        let mut power = Power::default();
        power.handle_write(CONTROL, &[SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE], &midnight);
        assert_eq!(effects(&mut power), [Effect::PowerOff]);
        assert_eq!(effects(&mut power), []);
    }

    #[test]
    fn sleep_type_without_enable_or_of_another_state_does_nothing() {
        let mut power = Power::default();
        power.handle_write(CONTROL, &[SLEEP_TYPE_S5 << 2], &midnight);
        power.handle_write(CONTROL, &[3 << 2 | SLEEP_ENABLE], &midnight);
        assert_eq!(effects(&mut power), []);
        assert_eq!(power.counters().bad_requests, 1);
    }

    #[test]
    fn both_registers_read_as_zero() {
        let mut power = Power::default();
        let mut data = [0xff];
        power.handle_read(STATUS, &mut data, &midnight);
        assert_eq!(data, [0]);
        assert_eq!(power.counters().bad_accesses, 0);
    }
}
