//! States of versions before: their sections are turned into those of today, and then read like these.
//!
//! Until the shape of a machine was a list, the board's chips were one section, `board` in version 1, and a virtio device with its
//! host's side another, `virtio-slot` in versions 1 and 2.

use devices::cmos::CmosState;
use devices::i8042::I8042State;
use devices::power::PowerState;
use devices::pvpanic::PvpanicState;
use devices::serial::SerialState;
use devices::virtio::block::BlockState;
use devices::virtio::mmio::MmioState;
use devices::virtio::net::{NetState, NetStateV1, with_empty_header};
use devices::virtio::rng::RngState;
use devices::watchdog::WatchdogState;
use serde::{Deserialize, Serialize};
use snapshot::section::{Bytes, Section, StateReader, StateWriter};

use super::StateRefused;
use crate::board::BoardState;
use crate::shape::ShapeV1;
use crate::slot::IngressState;

/// Version 1 of the board: its chips too.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct BoardStateV1 {
    serial: SerialState,
    cmos: CmosState,
    i8042: I8042State,
    power: PowerState,
    pvpanic: PvpanicState,
    console_input: Vec<u8>,
    pending: u32,
}

impl Section for BoardStateV1 {
    const NAME: &'static str = BoardState::NAME;
    const VERSION: u16 = 1;
}

/// Version 2 of a virtio device in its slot. No later one was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum SlotStateV2 {
    Block(MmioState<BlockState>),
    Net(MmioState<NetState>, Vec<Bytes>),
    Rng(MmioState<RngState>),
}

impl Section for SlotStateV2 {
    const NAME: &'static str = "virtio-slot";
    const VERSION: u16 = 2;
}

/// Version 1 of it: network cards without offloads, frames without headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum SlotStateV1 {
    Block(MmioState<BlockState>),
    Net(MmioState<NetStateV1>, Vec<Bytes>),
    Rng(MmioState<RngState>),
}

impl Section for SlotStateV1 {
    const NAME: &'static str = SlotStateV2::NAME;
    const VERSION: u16 = 1;
}

impl From<SlotStateV1> for SlotStateV2 {
    fn from(old: SlotStateV1) -> Self {
        match old {
            SlotStateV1::Block(state) => Self::Block(state),
            SlotStateV1::Net(state, frames) => {
                let packets = frames.into_iter().map(|frame| Bytes(with_empty_header(&frame.0))).collect();
                Self::Net(state.with_device(NetState::from), packets)
            }
            SlotStateV1::Rng(state) => Self::Rng(state),
        }
    }
}

/// The state that is in `bytes`, with sections of today, if those there are older.
pub(super) fn renew(bytes: &[u8]) -> Result<Option<Vec<u8>>, StateRefused> {
    let mut reader = StateReader::parse(bytes)?;
    if !reader.contains_version::<ShapeV1>(0) {
        return Ok(None);
    }
    let mut shape = reader.take::<ShapeV1>(0)?.into_list().map_err(StateRefused::Invalid)?;
    if reader.contains::<WatchdogState>(0) {
        shape.chips.push(WatchdogState::NAME.into());
    }
    let mut writer = StateWriter::new();
    writer.put(0, &shape);
    renew_board(reader.take(0)?, &mut writer);
    for slot in 0..shape.slots.len() as u16 {
        renew_slot(slot, reader.take_or_older::<_, SlotStateV1>(slot)?, &mut writer);
    }
    let rest = reader.take_rest();
    if let Some(both) = writer.first_of_both(&rest) {
        return Err(StateRefused::Invalid(format!("it has both {both} and an older form of it")));
    }
    writer.put_all(&rest);
    Ok(Some(writer.finish()))
}

fn renew_board(old: BoardStateV1, writer: &mut StateWriter) {
    let BoardStateV1 { serial, cmos, i8042, power, pvpanic, console_input, pending } = old;
    writer.put(0, &serial);
    writer.put(0, &cmos);
    writer.put(0, &i8042);
    writer.put(0, &power);
    writer.put(0, &pvpanic);
    writer.put(0, &BoardState { console_input, pending });
}

fn renew_slot(slot: u16, old: SlotStateV2, writer: &mut StateWriter) {
    match old {
        SlotStateV2::Block(state) => writer.put(slot, &state),
        SlotStateV2::Net(state, packets) => {
            writer.put(slot, &state);
            writer.put(slot, &IngressState { packets });
        }
        SlotStateV2::Rng(state) => writer.put(slot, &state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::check;
    use crate::shape::Shape;

    const BOARD_1_SLOT_2: &str = include_str!("../../../../tests/golden/machine-board-v1-slot-v2.txt");
    const BOARD_1_SLOT_1: &str = include_str!("../../../../tests/golden/machine-board-v1-slot-v1.txt");

    /// Rows of 16 bytes as `offset: hex`; rows of zeros are left out, the length comes last.
    fn from_text(text: &str) -> Vec<u8> {
        let length = text.lines().last().and_then(|line| line.strip_prefix("length ")).expect("the length comes last");
        let mut bytes = vec![0; length.parse().expect("a number")];
        for (offset, row) in text.lines().filter_map(|line| line.split_once(": ")) {
            let offset = usize::from_str_radix(offset, 16).expect("a number");
            for (index, byte) in row.split(' ').enumerate() {
                bytes[offset + index] = u8::from_str_radix(byte, 16).expect("a byte");
            }
        }
        bytes
    }

    /// What the binaries that wrote these states had in them.
    fn assert_renewed(bytes: &[u8], has_watchdog: bool, has_offloads: bool, output: Vec<Bytes>) {
        let renewed = renew(bytes).expect("it can be read").expect("it is old");
        assert_eq!(renew(&renewed).expect("ours"), None, "once is enough");
        let mut reader = StateReader::parse(&renewed).expect("ours");
        let shape: Shape = reader.take(0).expect("a shape");
        assert_eq!((shape.vcpus, shape.memory_bytes.get()), (2, 1 << 20));
        assert_eq!(shape.slots, ["virtio-block", "virtio-net", "virtio-rng"]);
        assert_eq!(shape.has_chip("watchdog"), has_watchdog);
        let rest = reader.take_rest();
        check(&shape, &rest).expect("all of it can be restored, and nothing is left");
        let mut reader = StateReader::parse(rest.bytes()).expect("ours");
        let BoardState { console_input, pending } = reader.take(0).expect("the board");
        assert_eq!((&console_input[..], pending), (&b"ls -la"[..], 1 << 16));
        let serial: SerialState = reader.take(0).expect("COM1");
        assert_eq!((serial.ier, serial.scr), (5, 0x5a));
        let cmos: CmosState = reader.take(0).expect("the RTC");
        assert_eq!((cmos.index, cmos.memory[0x40]), (0x40, 0x77));
        let i8042: I8042State = reader.take(0).expect("the keyboard controller");
        assert_eq!((i8042.config, i8042.command), (0x47, Some(0xd1)));
        let pvpanic: PvpanicState = reader.take(0).expect("pvpanic");
        assert!(pvpanic.event.is_some());
        if has_watchdog {
            let watchdog: WatchdogState = reader.take(0).expect("the watchdog");
            assert_eq!((watchdog.running, watchdog.count, watchdog.left_ms), (true, 20, 2000));
        }
        let block: MmioState<BlockState> = reader.take(0).expect("the disk");
        assert_eq!((block.device.config.sectors, &block.device.config.id[..]), (4096, &b"outlast-disk0"[..]));
        let net: MmioState<NetState> = reader.take(1).expect("the card");
        assert_eq!((net.status, net.interrupt_status, net.queues[0].size), (15, 2, 16));
        assert_eq!((net.device.mac, net.device.has_offloads), ([2, 0, 0, 0, 0, 1], has_offloads));
        assert_eq!(net.device.output, output);
        let IngressState { packets } = reader.take(1).expect("what waits for the card");
        let without = |packet: &Bytes| packet.0[12..].to_vec();
        assert_eq!(packets.iter().map(without).collect::<Vec<_>>(), [vec![1; 48], vec![2; 60]]);
        let is_empty = |packet: &Bytes| packet.0[..12] == [0; 12];
        assert_eq!(packets.iter().all(is_empty), !has_offloads, "a version without headers had none to give");
        let _: MmioState<RngState> = reader.take(2).expect("the source of entropy");
    }

    #[test]
    fn board_1_with_slot_2_is_read_from_its_golden_bytes() {
        assert_renewed(&from_text(BOARD_1_SLOT_2), true, true, vec![]);
    }

    #[test]
    fn board_1_with_slot_1_is_read_from_its_golden_bytes() {
        let output = Bytes(with_empty_header(&[9; 20]));
        assert_renewed(&from_text(BOARD_1_SLOT_1), false, false, vec![output]);
    }

    #[test]
    fn old_state_that_has_something_of_today_beside_it_is_refused() {
        let old = from_text(BOARD_1_SLOT_2);
        let mut writer = StateReader::parse(&old).expect("whole").take_rest();
        writer.put(0, &I8042State { config: 0, command: None, output: None, reset: false });
        let error = renew(writer.bytes()).expect_err("two keyboard controllers");
        assert!(error.to_string().contains("i8042/0"), "{error}");
    }

    #[test]
    fn old_state_without_one_of_its_slots_is_refused() {
        let old = from_text(BOARD_1_SLOT_1);
        let mut reader = StateReader::parse(&old).expect("whole");
        let _: SlotStateV1 = reader.take(2).expect("the source of entropy");
        let error = renew(reader.take_rest().bytes()).expect_err("it lacks a device");
        assert!(error.to_string().contains("virtio-slot/2"), "{error}");
    }
}
