//! The keyboard controller, as far as a PC without a keyboard needs it: it resets the machine.
//!
//! Commands that guests use to find out whether a controller is there are answered, so that a probe ends at once; there
//! is no keyboard, no mouse and no interrupt.

use serde::{Deserialize, Serialize};

use crate::RestoreError;
use crate::counters::Counters;

const DATA: u64 = 0;
const COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;

const READ_CONFIG: u8 = 0x20;
const WRITE_CONFIG: u8 = 0x60;
const SELF_TEST: u8 = 0xaa;
const SELF_TEST_OK: u8 = 0x55;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
/// Pulse the reset line. Also the value of the ACPI reset register.
pub const RESET: u8 = 0xfe;

/// Saved form of [`I8042`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Configuration byte.
    pub config: u8,
    /// The command that waits for its data byte.
    pub command: Option<u8>,
    /// A byte that waits for the guest.
    pub output: Option<u8>,
    /// The guest asked for a reset and the caller has not heard of it.
    pub reset: bool,
}

/// A keyboard controller.
#[derive(Debug, Default)]
pub struct I8042 {
    config: u8,
    command: Option<u8>,
    output: Option<u8>,
    reset: bool,
    counters: Counters,
}

impl I8042 {
    /// A controller after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted since the device was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The guest reads port 0x60 (offset 0) or 0x64 (offset 4).
    pub fn handle_read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (DATA, [byte]) => *byte = self.output.take().unwrap_or(0),
            (COMMAND, [byte]) => *byte = STATUS_SYSTEM | self.output.map_or(0, |_| STATUS_OUTPUT_FULL),
            (_, data) => {
                data.fill(0xff);
                self.counters.bad_accesses += 1;
            }
        }
    }

    /// The guest writes port 0x60 (offset 0) or 0x64 (offset 4).
    pub fn handle_write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (DATA, &[value]) => self.write_data(value),
            (COMMAND, &[value]) => self.write_command(value),
            _ => self.counters.bad_accesses += 1,
        }
    }

    /// Whether the guest asked for a reset since the last call.
    pub fn poll_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset)
    }

    fn write_command(&mut self, value: u8) {
        self.command = None;
        match value {
            RESET => self.reset = true,
            READ_CONFIG => self.output = Some(self.config),
            SELF_TEST => self.output = Some(SELF_TEST_OK),
            WRITE_CONFIG | WRITE_OUTPUT_PORT => self.command = Some(value),
            // Others speak of devices that are not there.
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.command.take() {
            Some(WRITE_CONFIG) => self.config = value,
            // Bit 0 of the output port is the reset line, active low.
            Some(WRITE_OUTPUT_PORT) => self.reset |= value & 1 == 0,
            _ => {}
        }
    }

    /// The whole state as plain data.
    #[must_use]
    pub fn save(&self) -> I8042State {
        let Self { config, command, output, reset, counters: _ } = self;
        I8042State { config: *config, command: *command, output: *output, reset: *reset }
    }

    /// A controller from an untrusted state.
    pub fn restore(state: I8042State) -> Result<Self, RestoreError> {
        let I8042State { config, command, output, reset } = state;
        if let Some(value) = command.filter(|&value| value != WRITE_CONFIG && value != WRITE_OUTPUT_PORT) {
            return Err(RestoreError::Register { device: "i8042", register: "command", value: value.into() });
        }
        Ok(Self { config, command, output, reset, counters: Counters::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chip: &mut I8042, offset: u64) -> u8 {
        let mut data = [0];
        chip.handle_read(offset, &mut data);
        data[0]
    }

    #[test]
    fn reset_command_is_polled_once() {
        let mut chip = I8042::new();
        chip.handle_write(COMMAND, &[RESET]);
        assert!(chip.poll_reset());
        assert!(!chip.poll_reset());
    }

    #[test]
    fn output_port_with_reset_line_low_resets() {
        let mut chip = I8042::new();
        chip.handle_write(COMMAND, &[WRITE_OUTPUT_PORT]);
        chip.handle_write(DATA, &[0x03]);
        assert!(!chip.poll_reset());
        chip.handle_write(COMMAND, &[WRITE_OUTPUT_PORT]);
        chip.handle_write(DATA, &[0x02]);
        assert!(chip.poll_reset());
    }

    #[test]
    fn self_test_answers_and_empties() {
        let mut chip = I8042::new();
        assert_eq!(read(&mut chip, COMMAND), STATUS_SYSTEM);
        chip.handle_write(COMMAND, &[SELF_TEST]);
        assert_eq!(read(&mut chip, COMMAND), STATUS_SYSTEM | STATUS_OUTPUT_FULL);
        assert_eq!(read(&mut chip, DATA), SELF_TEST_OK);
        assert_eq!(read(&mut chip, COMMAND), STATUS_SYSTEM);
    }

    #[test]
    fn config_byte_is_kept() {
        let mut chip = I8042::new();
        chip.handle_write(COMMAND, &[WRITE_CONFIG]);
        chip.handle_write(DATA, &[0x47]);
        chip.handle_write(COMMAND, &[READ_CONFIG]);
        assert_eq!(read(&mut chip, DATA), 0x47);
    }

    #[test]
    fn restore_unknown_waiting_command_is_refused() {
        let state = I8042State { command: Some(0xff), ..I8042::new().save() };
        assert!(I8042::restore(state).is_err());
    }
}
