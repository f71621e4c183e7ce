//! The WDAT table: how a guest operates the watchdog by reading and writing its registers. Linux drives it with
//! `wdat_wdt`.

use acpi_tables::Aml;
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{CONTROL, COUNT_MAX, COUNT_MIN, COUNTDOWN, CURRENT, PERIOD_MS, PORT, RUNNING};
use crate::acpi::{bytes, table};

const REVISION: u8 = 1;
/// Bytes of the watchdog's own header.
const OWN_HEADER_BYTES: u32 = 32;
/// It is no PCI device.
const NO_PCI: [u8; 8] = [0xff, 0, 0xff, 0xff, 0xff, 0, 0, 0];
const ENABLED: u8 = 1;
const ALL: u32 = u32::MAX;

/// What a guest may want to do.
#[derive(Clone, Copy)]
enum Action {
    BeginAnew = 1,
    QueryLeft = 4,
    QueryCount = 5,
    SetCount = 6,
    QueryRunning = 8,
    SetRunning = 9,
    QueryStopped = 10,
    SetStopped = 11,
}

/// How it does that.
#[derive(Clone, Copy)]
enum Instruction {
    ReadValue = 0,
    ReadCount = 1,
    WriteValue = 2,
    WriteCount = 3,
}

/// Action, instruction, register, value and mask.
const ENTRIES: [(Action, Instruction, u16, u32, u32); 8] = [
    (Action::BeginAnew, Instruction::WriteValue, CURRENT, 1, ALL),
    (Action::QueryLeft, Instruction::ReadCount, CURRENT, 0, ALL),
    (Action::QueryCount, Instruction::ReadCount, COUNTDOWN, 0, ALL),
    (Action::SetCount, Instruction::WriteCount, COUNTDOWN, 0, ALL),
    (Action::QueryRunning, Instruction::ReadValue, CONTROL, RUNNING, RUNNING),
    (Action::SetRunning, Instruction::WriteValue, CONTROL, RUNNING, RUNNING),
    (Action::QueryStopped, Instruction::ReadValue, CONTROL, 0, RUNNING),
    (Action::SetStopped, Instruction::WriteValue, CONTROL, 0, RUNNING),
];

/// The table.
pub(super) fn wdat() -> Vec<u8> {
    let mut wdat = table(*b"WDAT", REVISION);
    wdat.append_slice(&OWN_HEADER_BYTES.to_le_bytes());
    wdat.append_slice(&NO_PCI);
    for word in [PERIOD_MS, COUNT_MAX, COUNT_MIN] {
        wdat.append_slice(&word.to_le_bytes());
    }
    wdat.append_slice(&[ENABLED, 0, 0, 0]);
    wdat.append_slice(&(ENTRIES.len() as u32).to_le_bytes());
    for (action, instruction, register, value, mask) in ENTRIES {
        wdat.append_slice(&[action as u8, instruction as u8, 0, 0]);
        wdat.append_slice(&register_at(PORT + register));
        wdat.append_slice(&value.to_le_bytes());
        wdat.append_slice(&mask.to_le_bytes());
    }
    wdat.as_slice().to_vec()
}

fn register_at(port: u16) -> Vec<u8> {
    let register: &dyn Aml = &GAS::new(AddressSpace::SystemIo, 32, 0, AccessSize::DwordAccess, port.into());
    bytes(register)
}
