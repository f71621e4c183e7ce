//! The keyboard controller, as far as a PC without a keyboard needs it: it resets the machine.
//!
//! Commands that guests use to find out whether a controller is there are answered, so that a probe ends at once; there
//! is no keyboard, no mouse and no interrupt.

use acpi_tables::fadt::Flags;
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::{Tables, byte_port};
use crate::bus::Range;
use crate::chip::{Chip, Clock, Effect};
use crate::counters::Counters;

/// Port of the data register.
pub const DATA_PORT: u16 = 0x60;
/// Port of the command and status register; also the ACPI reset register.
pub const COMMAND_PORT: u16 = 0x64;

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

impl Section for I8042State {
    const NAME: &'static str = "i8042";
    const VERSION: u16 = 1;
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
}

impl Chip for I8042 {
    type State = I8042State;

    const PORTS: &'static [Range] =
        &[Range::new(DATA_PORT as u64, 1), Range { base: COMMAND_PORT as u64, len: 1, offset: COMMAND }];

    /// The guest reads port 0x60 (offset 0) or 0x64 (offset 4).
    fn handle_read(&mut self, offset: u64, data: &mut [u8], _clock: Clock<'_>) {
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
    fn handle_write(&mut self, offset: u64, data: &[u8], _clock: Clock<'_>) {
        match (offset, data) {
            (DATA, &[value]) => self.write_data(value),
            (COMMAND, &[value]) => self.write_command(value),
            _ => self.counters.bad_accesses += 1,
        }
    }

    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        if std::mem::take(&mut self.reset) {
            act(Effect::Reset);
        }
    }

    fn describe(tables: &mut Tables) {
        let fadt = &mut tables.fadt;
        fadt.flags = (u32::from(fadt.flags) | Flags::ResetRegSup as u32).into();
        fadt.reset_reg = byte_port(COMMAND_PORT);
        fadt.reset_value = RESET;
    }

    fn save(&self) -> I8042State {
        let Self { config, command, output, reset, counters: _ } = self;
        I8042State { config: *config, command: *command, output: *output, reset: *reset }
    }

    fn restore(state: I8042State) -> Result<Self, RestoreError> {
        let I8042State { config, command, output, reset } = state;
        if let Some(value) = command.filter(|&value| value != WRITE_CONFIG && value != WRITE_OUTPUT_PORT) {
            return Err(RestoreError::Register { device: I8042State::NAME, register: "command", value: value.into() });
        }
        Ok(Self { config, command, output, reset, counters: Counters::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::{effects, midnight};

    fn read(chip: &mut I8042, offset: u64) -> u8 {
        let mut data = [0];
        chip.handle_read(offset, &mut data, &midnight);
        data[0]
    }

    #[test]
    fn reset_command_is_polled_once() {
        let mut chip = I8042::default();
        chip.handle_write(COMMAND, &[RESET], &midnight);
        assert_eq!(effects(&mut chip), [Effect::Reset]);
        assert_eq!(effects(&mut chip), []);
    }

    #[test]
    fn output_port_with_reset_line_low_resets() {
        let mut chip = I8042::default();
        chip.handle_write(COMMAND, &[WRITE_OUTPUT_PORT], &midnight);
        chip.handle_write(DATA, &[0x03], &midnight);
        assert_eq!(effects(&mut chip), []);
        chip.handle_write(COMMAND, &[WRITE_OUTPUT_PORT], &midnight);
        chip.handle_write(DATA, &[0x02], &midnight);
        assert_eq!(effects(&mut chip), [Effect::Reset]);
    }

    #[test]
    fn self_test_answers_and_empties() {
        let mut chip = I8042::default();
        assert_eq!(read(&mut chip, COMMAND), STATUS_SYSTEM);
        chip.handle_write(COMMAND, &[SELF_TEST], &midnight);
        assert_eq!(read(&mut chip, COMMAND), STATUS_SYSTEM | STATUS_OUTPUT_FULL);
        assert_eq!(read(&mut chip, DATA), SELF_TEST_OK);
        assert_eq!(read(&mut chip, COMMAND), STATUS_SYSTEM);
    }

    #[test]
    fn config_byte_is_kept() {
        let mut chip = I8042::default();
        chip.handle_write(COMMAND, &[WRITE_CONFIG], &midnight);
        chip.handle_write(DATA, &[0x47], &midnight);
        chip.handle_write(COMMAND, &[READ_CONFIG], &midnight);
        assert_eq!(read(&mut chip, DATA), 0x47);
    }

    #[test]
    fn restore_unknown_waiting_command_is_refused() {
        let state = I8042State { command: Some(0xff), ..I8042::default().save() };
        assert!(I8042::restore(state).is_err());
    }
}
