//! virtio-net with a driver on one side and frames on the other.

use super::*;
use crate::virtio::driver::{Driver, Part, kick, nobody, read, write};
use crate::virtio::mmio::{F_EVENT_IDX, INTERRUPT_CONFIG, INTERRUPT_USED, status};

const MAC: [u8; 6] = [0x02, 0x00, 0x5e, 0x10, 0x20, 0x30];

fn started(features: u64) -> (MmioTransport<Net>, Driver) {
    let mut device = MmioTransport::new(Net::new(MAC));
    let mut driver = Driver::new();
    let features = features | device.device().features();
    driver.start(&mut device, features);
    (device, driver)
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8).collect()
}

fn send(device: &mut MmioTransport<Net>, driver: &mut Driver, parts: &[Part]) {
    driver.add(TX_QUEUE, parts);
    kick(device, TX_QUEUE, &driver.memory, &mut ());
}

#[test]
fn transmit_frame_comes_out_without_its_header() {
    let (mut device, mut driver) = started(0);
    send(&mut device, &mut driver, &[Part::Out(vec![0; 12]), Part::Out(frame(60))]);
    let mut joined = vec![0; 12];
    joined.extend(frame(1514));
    send(&mut device, &mut driver, &[Part::Out(joined)]);
    assert_eq!(device.poll_output(), Some(frame(60)));
    assert_eq!(device.poll_output(), Some(frame(1514)));
    assert_eq!(device.poll_output(), None);
    assert_eq!(driver.used(TX_QUEUE), [(0, 0), (2, 0)]);
}

#[test]
fn transmit_nonsense_is_completed_counted_and_not_sent() {
    let (mut device, mut driver) = started(0);
    let mut segmented = vec![0, 1];
    segmented.extend(vec![0; 100]);
    for parts in [
        vec![Part::Out(vec![0; 12])],
        vec![Part::Out(vec![0; 25])],
        vec![Part::Out(vec![0; 12 + FRAME_MAX + 1])],
        vec![Part::Out(segmented)],
        vec![Part::In(100)],
    ] {
        send(&mut device, &mut driver, &parts);
    }
    assert_eq!(device.poll_output(), None);
    assert_eq!(driver.used(TX_QUEUE).len(), 5);
    assert_eq!(device.counters().bad_requests, 5);
    assert!(device.is_running());
}

fn give(device: &mut MmioTransport<Net>, frame: &[u8], driver: &Driver) -> RxResult {
    device.handle_frame(frame, &driver.memory, &mut Turn::new(&mut nobody))
}

#[test]
fn handle_frame_whose_turn_is_over_stays_with_the_caller_and_the_queue_is_owed() {
    let (mut device, mut driver) = started(0);
    for len in [71, 71, 1600] {
        driver.add(RX_QUEUE, &[Part::In(len)]);
    }
    let given = device.handle_frame(&frame(60), &driver.memory, &mut Turn::new(&mut |done| done >= 2));
    assert_eq!((given, device.owes_work()), (RxResult::NoBuffers, true), "a guest has any number of bad buffers");
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Delivered);
}

#[test]
fn handle_frame_lies_behind_a_header_with_one_buffer() {
    let (mut device, mut driver) = started(0);
    let addr = driver.add(RX_QUEUE, &[Part::In(1600)])[0];
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Delivered);
    assert_eq!(driver.read(addr, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(driver.read(addr + 12, 60), frame(60));
    assert_eq!(driver.used(RX_QUEUE), [(0, 72)]);
    assert_eq!(read(&mut device, 0x60), INTERRUPT_USED);
    assert!(device.poll_interrupt());
}

#[test]
fn handle_frame_without_buffers_stays_with_the_caller() {
    let (mut device, mut driver) = started(F_EVENT_IDX);
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::NoBuffers);
    driver.add(RX_QUEUE, &[Part::In(1600)]);
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Delivered);
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::NoBuffers);
    assert_eq!(device.counters().dropped, 0);
}

#[test]
fn handle_frame_skips_buffers_that_are_too_small() {
    let (mut device, mut driver) = started(0);
    driver.add(RX_QUEUE, &[Part::In(71)]);
    driver.add(RX_QUEUE, &[Part::In(72)]);
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Delivered);
    assert_eq!(driver.used(RX_QUEUE), [(0, 0), (1, 72)]);
    assert_eq!(device.counters().bad_requests, 1);
}

#[test]
fn handle_frame_without_driver_or_of_impossible_length_is_dropped() {
    let (mut device, mut driver) = started(0);
    driver.add(RX_QUEUE, &[Part::In(4096)]);
    assert_eq!(give(&mut device, &frame(13), &driver), RxResult::Dropped);
    assert_eq!(give(&mut device, &frame(FRAME_MAX + 1), &driver), RxResult::Dropped);
    assert_eq!(give(&mut device, &frame(FRAME_MAX), &driver), RxResult::Delivered);
    write(&mut device, 0x70, 0);
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Dropped);
    assert_eq!(device.counters().dropped, 3);
}

#[test]
fn handle_frame_into_a_broken_ring_needs_reset() {
    let (mut device, driver) = started(0);
    driver.publish(RX_QUEUE, 0xffff);
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Dropped);
    assert_eq!(read(&mut device, 0x70) & status::NEEDS_RESET, status::NEEDS_RESET);
}

#[test]
fn announce_sets_the_bit_and_the_guest_acknowledges() {
    let (mut device, mut driver) = started(0);
    device.announce();
    assert!(device.poll_interrupt());
    assert_eq!(read(&mut device, 0x60), INTERRUPT_CONFIG);
    assert_eq!(read(&mut device, 0xfc), 1);
    assert_eq!(read(&mut device, 0x104) >> 16, u32::from(LINK_UP | ANNOUNCE));
    let addrs = driver.add(CONTROL_QUEUE, &[Part::Out(vec![3, 0]), Part::In(1)]);
    kick(&mut device, CONTROL_QUEUE, &driver.memory, &mut ());
    assert_eq!(driver.read(addrs[1], 1), [0]);
    assert_eq!(read(&mut device, 0x104) >> 16, u32::from(LINK_UP));
}

#[test]
fn reset_takes_an_announcement_back() {
    let (mut device, _) = started(0);
    device.announce();
    write(&mut device, 0x70, 0);
    assert_eq!(read(&mut device, 0x104) >> 16, u32::from(LINK_UP));
}

#[test]
fn announce_is_remembered_by_a_restored_device() {
    let (mut device, _) = started(0);
    device.announce();
    device.poll_interrupt();
    let mut device = MmioTransport::<Net>::restore(device.save()).unwrap();
    assert!(device.poll_interrupt());
    assert_eq!(read(&mut device, 0x104) >> 16, u32::from(LINK_UP | ANNOUNCE));
}

#[test]
fn control_unknown_command_is_refused() {
    let (mut device, mut driver) = started(0);
    let addrs = driver.add(CONTROL_QUEUE, &[Part::Out(vec![1, 0, 0]), Part::In(1)]);
    kick(&mut device, CONTROL_QUEUE, &driver.memory, &mut ());
    assert_eq!(driver.read(addrs[1], 1), [1]);
}

#[test]
fn config_space_tells_the_address_and_the_link() {
    let (mut device, _) = started(0);
    let mut data = [0; 8];
    device.handle_read(0x100, &mut data);
    assert_eq!(data[..6], MAC);
    assert_eq!(data[6..], [1, 0]);
}

#[test]
fn reset_keeps_what_was_already_sent() {
    let (mut device, mut driver) = started(0);
    send(&mut device, &mut driver, &[Part::Out(vec![0; 12]), Part::Out(frame(60))]);
    write(&mut device, 0x70, 0);
    assert_eq!(device.poll_output(), Some(frame(60)));
}

#[test]
fn restore_keeps_frames_that_were_not_polled() {
    let (mut device, mut driver) = started(0);
    send(&mut device, &mut driver, &[Part::Out(vec![0; 12]), Part::Out(frame(60))]);
    let mut device = MmioTransport::<Net>::restore(device.save()).unwrap();
    assert_eq!(device.poll_output(), Some(frame(60)));
}

#[test]
fn restore_impossible_states_are_refused() {
    let good = Net::new(MAC).save();
    let refused = |change: fn(&mut NetState)| {
        let mut state = good.clone();
        change(&mut state);
        Net::restore(state).is_err()
    };
    assert!(refused(|state| state.status = 4));
    assert!(refused(|state| state.output = vec![Vec::new(); OUTPUT_FRAMES_MAX + 1]));
    assert!(refused(|state| state.output = vec![vec![0; FRAME_MAX + 1]]));
}
