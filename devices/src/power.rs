//! The ACPI sleep control and status registers of a hardware-reduced machine: they switch it off.
//!
//! The guest writes the sleep type that `\_S5` names together with the enable bit. Other sleep types are not offered.

use serde::{Deserialize, Serialize};

use crate::RestoreError;
use crate::counters::Counters;

/// Sleep type of S5, as `\_S5` gives it to the guest.
pub const SLEEP_TYPE_S5: u8 = 5;

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

/// The sleep registers.
#[derive(Debug, Default)]
pub struct Power {
    event: Option<PowerEvent>,
    counters: Counters,
}

impl Power {
    /// Registers after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted since the device was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The guest reads the control (offset 0) or status (offset 1) register; both are zero while it runs.
    pub fn handle_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if data.len() != 1 || offset > STATUS {
            self.counters.bad_accesses += 1;
        }
    }

    /// The guest writes the control (offset 0) or status (offset 1) register.
    pub fn handle_write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (CONTROL, &[value]) => self.write_control(value),
            // The wake bit is cleared by writing it; it was never set.
            (STATUS, &[_]) => {}
            _ => self.counters.bad_accesses += 1,
        }
    }

    /// What the guest asked for since the last call.
    pub fn poll_power(&mut self) -> Option<PowerEvent> {
        self.event.take()
    }

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

    /// The whole state as plain data.
    #[must_use]
    pub fn save(&self) -> PowerState {
        let Self { event, counters: _ } = self;
        PowerState { event: *event }
    }

    /// Registers from an untrusted state.
    pub fn restore(state: PowerState) -> Result<Self, RestoreError> {
        let PowerState { event } = state;
        Ok(Self { event, counters: Counters::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_type_s5_with_enable_is_power_off_once() {
        let mut power = Power::new();
        power.handle_write(CONTROL, &[SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE]);
        assert_eq!(power.poll_power(), Some(PowerEvent::PowerOff));
        assert_eq!(power.poll_power(), None);
    }

    #[test]
    fn sleep_type_without_enable_or_of_another_state_does_nothing() {
        let mut power = Power::new();
        power.handle_write(CONTROL, &[SLEEP_TYPE_S5 << 2]);
        power.handle_write(CONTROL, &[3 << 2 | SLEEP_ENABLE]);
        assert_eq!(power.poll_power(), None);
        assert_eq!(power.counters().bad_requests, 1);
    }

    #[test]
    fn both_registers_read_as_zero() {
        let mut power = Power::new();
        let mut data = [0xff];
        power.handle_read(STATUS, &mut data);
        assert_eq!(data, [0]);
        assert_eq!(power.counters().bad_accesses, 0);
    }
}
