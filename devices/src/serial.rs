//! COM1: a 16550A UART.
//!
//! A transmitted byte goes to a buffer at once, so the transmitter is always empty; the caller drains the buffer by
//! [`Chip::poll_effects`]. Received bytes wait in a FIFO of [`INPUT_BYTES_MAX`]; what does not fit stays with the
//! caller.
//!
//! The interrupt line is level inside the chip (some enabled condition is pending) and is given out as its rising
//! edges, as the ISA line is edge-triggered. The order of the conditions is the datasheet's: received data before
//! transmitter empty.
//!
//! Deviations: bytes take no time; the FIFO is longer than sixteen bytes and has no trigger level; modem status never
//! changes, so there are no modem status and no line status interrupts.
//!
//! Why not vm-superio's UART: it writes its output inside a register write, forgets every pending cause when one is
//! read, ignores the FIFO control register, and raises interrupts while it is restored.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use acpi_tables::aml;
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::{Tables, edge};
use crate::bus::Range;
use crate::chip::{Chip, Clock, Effect};
use crate::counters::Counters;

/// First port of COM1.
pub const PORT: u16 = 0x3f8;
/// Interrupt line of COM1.
pub const GSI: u32 = 4;

/// Most received bytes that wait for the guest.
pub const INPUT_BYTES_MAX: usize = 64;
/// Most transmitted bytes that wait for the caller; more are dropped and counted.
pub const OUTPUT_BYTES_MAX: usize = 64 << 10;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR_FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const IER_RECEIVED: u8 = 1;
const IER_TRANSMITTER_EMPTY: u8 = 2;
const IER_MASK: u8 = 0x0f;
const IIR_NONE: u8 = 1;
const IIR_TRANSMITTER_EMPTY: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_FIFO: u8 = 0xc0;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVER: u8 = 2;
const FCR_MASK: u8 = 0xc9;
const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;
const MCR_MASK: u8 = 0x1f;
const LSR_DATA_READY: u8 = 1;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
const MSR_CTS_DSR_DCD: u8 = 0xb0;

/// Saved form of [`Serial`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Divisor latch.
    pub divisor: u16,
    /// Interrupt enable register.
    pub ier: u8,
    /// FIFO control register, the bits that stay.
    pub fcr: u8,
    /// Line control register.
    pub lcr: u8,
    /// Modem control register.
    pub mcr: u8,
    /// Scratch register.
    pub scr: u8,
    /// The transmitter became empty and the guest has not been told.
    pub transmitter_empty_pending: bool,
    /// A rising edge of the line was not taken yet.
    pub edge_due: bool,
    /// Received bytes that wait for the guest.
    pub input: Vec<u8>,
    /// Transmitted bytes that wait for the caller.
    pub output: Vec<u8>,
}

impl Section for SerialState {
    const NAME: &'static str = "serial";
    const VERSION: u16 = 1;
}

/// A 16550A UART.
#[derive(Debug)]
pub struct Serial {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    transmitter_empty_pending: bool,
    edge_due: bool,
    input: VecDeque<u8>,
    output: Vec<u8>,
    counters: Counters,
}

impl Default for Serial {
    /// A UART after power-on, at 9600 baud.
    fn default() -> Self {
        Self {
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0x03,
            mcr: 0x08,
            scr: 0,
            transmitter_empty_pending: false,
            edge_due: false,
            input: VecDeque::new(),
            output: Vec::new(),
            counters: Counters::default(),
        }
    }
}

impl Serial {
    /// What the guest transmitted since the last call.
    fn poll_output(&mut self) -> Option<Vec<u8>> {
        if self.output.is_empty() { None } else { Some(std::mem::take(&mut self.output)) }
    }

    /// Whether the line rose since the last call.
    fn poll_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.edge_due)
    }

    /// The line's level.
    fn line(&self) -> bool {
        self.condition() != IIR_NONE
    }

    fn condition(&self) -> u8 {
        if self.ier & IER_RECEIVED != 0 && !self.input.is_empty() {
            IIR_RECEIVED
        } else if self.ier & IER_TRANSMITTER_EMPTY != 0 && self.transmitter_empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else {
            IIR_NONE
        }
    }

    /// Notes a rising edge if `change` makes one.
    fn with_line<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.line();
        let result = change(self);
        self.edge_due |= !before && self.line();
        result
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn read(&mut self, offset: u64) -> u8 {
        match offset {
            DATA if self.dlab() => self.divisor as u8,
            IER if self.dlab() => (self.divisor >> 8) as u8,
            DATA => self.input.pop_front().unwrap_or(0),
            IER => self.ier,
            IIR_FCR => self.read_iir(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => LSR_TRANSMITTER_EMPTY | if self.input.is_empty() { 0 } else { LSR_DATA_READY },
            MSR => self.read_msr(),
            SCR => self.scr,
            _ => {
                self.counters.bad_accesses += 1;
                0xff
            }
        }
    }

    /// Reading the cause takes it back, if the cause is the empty transmitter.
    fn read_iir(&mut self) -> u8 {
        let cause = self.condition();
        if cause == IIR_TRANSMITTER_EMPTY {
            self.transmitter_empty_pending = false;
        }
        let fifo = if self.fcr & FCR_ENABLE != 0 { IIR_FIFO } else { 0 };
        fifo | cause
    }

    /// In loopback the modem inputs follow the modem outputs: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
    fn read_msr(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CTS_DSR_DCD;
        }
        let bit = |from: u8, to: u8| if self.mcr & from != 0 { to } else { 0 };
        bit(0x02, 0x10) | bit(0x01, 0x20) | bit(0x04, 0x40) | bit(0x08, 0x80)
    }

    fn write(&mut self, offset: u64, value: u8) {
        match offset {
            DATA if self.dlab() => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            IER if self.dlab() => self.divisor = (self.divisor & 0x00ff) | (u16::from(value) << 8),
            DATA => self.transmit(value),
            IER => self.write_ier(value & IER_MASK),
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => self.mcr = value & MCR_MASK,
            SCR => self.scr = value,
            _ => self.counters.bad_accesses += 1,
        }
    }

    /// The holding register is full for no time at all: the condition falls and rises again, which is a new edge.
    fn transmit(&mut self, value: u8) {
        if self.mcr & MCR_LOOP != 0 {
            if self.input.len() < INPUT_BYTES_MAX {
                self.input.push_back(value);
            }
        } else if self.output.len() < OUTPUT_BYTES_MAX {
            self.output.push(value);
            self.counters.completed += 1;
        } else {
            self.counters.dropped += 1;
        }
        let received = self.condition() == IIR_RECEIVED;
        self.transmitter_empty_pending = true;
        self.edge_due |= !received && self.condition() == IIR_TRANSMITTER_EMPTY;
    }

    /// Enabling the transmitter interrupt while the transmitter is empty, which it always is, raises it at once.
    fn write_ier(&mut self, value: u8) {
        if value & !self.ier & IER_TRANSMITTER_EMPTY != 0 {
            self.transmitter_empty_pending = true;
        }
        self.ier = value;
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (self.fcr ^ value) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVER != 0 {
            self.input.clear();
        }
        self.fcr = if value & FCR_ENABLE != 0 { value & FCR_MASK } else { 0 };
    }
}

impl Chip for Serial {
    type State = SerialState;

    const PORTS: &'static [Range] = &[Range::new(PORT as u64, 8)];

    /// The guest reads a register. The chip is eight bits wide; wider accesses read as all ones and are counted.
    fn handle_read(&mut self, offset: u64, data: &mut [u8], _clock: Clock<'_>) {
        let [byte] = data else {
            data.fill(0xff);
            self.counters.bad_accesses += 1;
            return;
        };
        *byte = self.read(offset);
    }

    /// The guest writes a register. A string instruction hands over several bytes for the one register.
    fn handle_write(&mut self, offset: u64, data: &[u8], _clock: Clock<'_>) {
        for &value in data {
            self.with_line(|serial| serial.write(offset, value));
        }
    }

    /// In loopback the receiver is cut off from the world and takes none.
    fn handle_input(&mut self, data: &[u8]) -> usize {
        if self.mcr & MCR_LOOP != 0 {
            return 0;
        }
        let taken = data.len().min(INPUT_BYTES_MAX - self.input.len());
        self.with_line(|serial| serial.input.extend(&data[..taken]));
        taken
    }

    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        if let Some(bytes) = self.poll_output() {
            act(Effect::Output(bytes));
        }
        if self.poll_interrupt() {
            act(Effect::Interrupt(GSI));
        }
    }

    fn describe(tables: &mut Tables) {
        let (ports, interrupt) = (aml::IO::new(PORT, PORT, 1, 8), edge(GSI));
        tables.plain_device("COM1", &aml::EISAName::new("PNP0501"), 0, &[&ports, &interrupt]);
    }

    fn save(&self) -> SerialState {
        let Self { divisor, ier, fcr, lcr, mcr, scr, transmitter_empty_pending, edge_due, input, output, counters: _ } =
            self;
        SerialState {
            divisor: *divisor,
            ier: *ier,
            fcr: *fcr,
            lcr: *lcr,
            mcr: *mcr,
            scr: *scr,
            transmitter_empty_pending: *transmitter_empty_pending,
            edge_due: *edge_due,
            input: input.iter().copied().collect(),
            output: output.clone(),
        }
    }

    fn restore(state: SerialState) -> Result<Self, RestoreError> {
        let SerialState { divisor, ier, fcr, lcr, mcr, scr, transmitter_empty_pending, edge_due, input, output } =
            state;
        check_len("input", input.len(), INPUT_BYTES_MAX)?;
        check_len("output", output.len(), OUTPUT_BYTES_MAX)?;
        check_mask("IER", ier, IER_MASK)?;
        check_mask("FCR", fcr, FCR_MASK)?;
        check_mask("MCR", mcr, MCR_MASK)?;
        Ok(Self {
            divisor,
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            transmitter_empty_pending,
            edge_due,
            input: input.into(),
            output,
            counters: Counters::default(),
        })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn check_len(buffer: &'static str, len: usize, max: usize) -> Result<(), RestoreError> {
    if len <= max { Ok(()) } else { Err(RestoreError::TooLong { device: SerialState::NAME, buffer, len, max }) }
}

fn check_mask(register: &'static str, value: u8, mask: u8) -> Result<(), RestoreError> {
    if value & !mask == 0 {
        Ok(())
    } else {
        Err(RestoreError::Register { device: SerialState::NAME, register, value: value.into() })
    }
}
