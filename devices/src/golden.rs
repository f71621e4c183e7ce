//! Golden bytes: what each version of each section looks like, and that this binary still reads it. They are what is written: a state
//! has these sections.
//!
//! A failure here means that an encoding changed. Then the section's version goes up, the bytes below stay as the old
//! version's, and new ones are added for the new version.

use std::fmt::Debug;

use snapshot::section::{Bytes, Section};

use crate::chip::Chip;
use crate::cmos::{Cmos, CmosState, DateTime};
use crate::generation::{Generation, GenerationState};
use crate::i8042::{I8042, I8042State};
use crate::power::{Power, PowerEvent, PowerState};
use crate::pvpanic::{PanicEvent, Pvpanic, PvpanicState};
use crate::serial::{Serial, SerialState};
use crate::virtio::balloon::{Balloon, BalloonState};
use crate::virtio::block::{Block, BlockConfig, BlockState};
use crate::virtio::mmio::{MmioState, MmioTransport};
use crate::virtio::net::{Net, NetState, NetStateV1};
use crate::virtio::queue::QueueState;
use crate::virtio::rng::{Rng, RngState};
use crate::watchdog::{Watchdog, WatchdogState};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The state encodes to the golden bytes, and they decode to the state.
fn assert_golden<S: Section + PartialEq + Debug>(state: &S, golden: &str) {
    let bytes = postcard::to_stdvec(state).unwrap();
    assert_eq!(hex(&bytes), golden, "section {} version {}", S::NAME, S::VERSION);
    assert_eq!(postcard::from_bytes::<S>(&bytes).unwrap(), *state);
}

fn queue(max_size: u16, number: u64) -> QueueState {
    QueueState {
        max_size,
        size: 128,
        ready: true,
        event_idx: true,
        next_avail: 0x1234,
        next_used: 0x1233,
        desc_table: 0x10_0000 * number,
        avail_ring: 0x10_0000 * number + 0x1000,
        used_ring: 0x10_0000 * number + 0x2000,
    }
}

fn running<S>(device: S, queues: Vec<QueueState>) -> MmioState<S> {
    MmioState {
        status: 15,
        device_features_sel: 1,
        driver_features_sel: 1,
        driver_features: 1 << 32 | 1 << 29,
        queue_sel: 2,
        interrupt_status: 1,
        edge_due: true,
        config_generation: 3,
        queues,
        device,
    }
}

#[test]
fn watchdog_version_1_golden() {
    let state = WatchdogState { running: true, count: 300, left_ms: 29_900, expired: false };
    assert_golden(&state, "01ac02cce90100");
    assert_eq!(Watchdog::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn serial_version_1_golden() {
    let state = SerialState {
        divisor: 1,
        ier: 5,
        fcr: 0xc1,
        lcr: 0x13,
        mcr: 0x0b,
        scr: 0x5a,
        transmitter_empty_pending: true,
        edge_due: true,
        input: b"in".to_vec(),
        output: b"out".to_vec(),
    };
    assert_golden(&state, "0105c1130b5a010102696e036f7574");
    assert_eq!(Serial::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn cmos_version_1_golden() {
    let latch = DateTime { year: 2031, month: 2, day: 28, hour: 23, minute: 59, second: 58 };
    let mut memory = vec![0; 128];
    memory[0x40] = 0x5a;
    let state = CmosState { index: 0x40, register_a: 0x26, register_b: 0x82, ahead_s: -7, latch: Some(latch), memory };
    let golden = ["4026820d01ef0f021c173b3a8001", &"00".repeat(64), "5a", &"00".repeat(63)].concat();
    assert_golden(&state, &golden);
    assert_eq!(Cmos::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn generation_version_1_golden() {
    let id = std::array::from_fn(|at| 0xa0 + at as u8);
    let state = GenerationState { id, write_due: false, edge_due: true };
    assert_golden(&state, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf0001");
    assert_eq!(Generation::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn i8042_version_1_golden() {
    let state = I8042State { config: 0x47, command: Some(0xd1), output: Some(0x55), reset: true };
    assert_golden(&state, "4701d1015501");
    assert_eq!(I8042::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn power_and_pvpanic_version_1_golden() {
    let power = PowerState { event: Some(PowerEvent::PowerOff) };
    assert_golden(&power, "0100");
    assert_eq!(Power::restore(power.clone()).unwrap().save(), power);
    let pvpanic = PvpanicState { event: Some(PanicEvent::CrashLoaded) };
    assert_golden(&pvpanic, "0101");
    assert_eq!(Pvpanic::restore(pvpanic.clone()).unwrap().save(), pvpanic);
}

#[test]
fn virtio_balloon_version_1_golden() {
    let state = running(BalloonState { actual: 300 }, vec![queue(128, 1), queue(128, 2), queue(128, 3)]);
    assert_golden(
        &state,
        "0f010180808080120201010303800180010101b424b32480804080a04080c040800180010101b424b3248080800180a0800180c08001800180010101b424b3248080c00180a0c00180c0c001ac02",
    );
    assert_eq!(MmioTransport::<Balloon>::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn virtio_block_version_1_golden() {
    let config = BlockConfig { sectors: 4096, read_only: false, id: b"root".to_vec() };
    let state = running(BlockState { config }, vec![queue(256, 1)]);
    assert_golden(&state, "0f010180808080120201010301800280010101b424b32480804080a04080c04080200004726f6f74");
    assert_eq!(MmioTransport::<Block>::restore(state.clone()).unwrap().save(), state);
}

const NET_V1: &str = "0f010180808080120201010303800280010101b424b32480804080a04080c040800280010101b424b3248080800180a0800180c0800110100101b424b3248080c00180a0c00180c0c00102005e102030030103070707";

fn net_queues() -> Vec<QueueState> {
    vec![queue(256, 1), queue(256, 2), QueueState { size: 16, ..queue(16, 3) }]
}

#[test]
fn virtio_net_version_1_golden() {
    let mac = [2, 0, 0x5e, 0x10, 0x20, 0x30];
    let state = running(NetStateV1 { mac, status: 3, output: vec![Bytes(vec![7; 3])] }, net_queues());
    assert_golden(&state, NET_V1);
    let now: MmioState<NetState> = state.with_device(NetState::from);
    let output = vec![Bytes([&[0; 12][..], &[7; 3]].concat())];
    assert_eq!(now.device, NetState { mac, status: 3, has_offloads: false, output });
    assert_eq!(MmioTransport::<Net>::restore(now.clone()).unwrap().save(), now);
}

#[test]
fn virtio_net_version_2_golden() {
    let packet = Bytes([&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0][..], &[7; 14]].concat());
    let device = NetState { mac: [2, 0, 0x5e, 0x10, 0x20, 0x30], status: 3, has_offloads: true, output: vec![packet] };
    let state = running(device, net_queues());
    let golden =
        [&NET_V1[..NET_V1.len() - 10], "01", "01", "1a", "010000000000220006000000", &"07".repeat(14)].concat();
    assert_golden(&state, &golden);
    assert_eq!(MmioTransport::<Net>::restore(state.clone()).unwrap().save(), state);
}

#[test]
fn virtio_rng_version_1_golden() {
    let state = running(RngState {}, vec![QueueState { size: 64, ..queue(64, 1) }]);
    assert_golden(&state, "0f01018080808012020101030140400101b424b32480804080a04080c040");
    assert_eq!(MmioTransport::<Rng>::restore(state.clone()).unwrap().save(), state);
}
