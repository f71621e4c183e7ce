//! The transport seen by a driver, well-behaved and hostile; the device behind it is the entropy source.

use super::*;
use crate::virtio::driver::{
    Driver, INDIRECT, NEXT, Part, SIZE, WRITE, avail_ring, desc_table, kick, nobody, read, serve, serve_turn,
    used_ring, write,
};
use crate::virtio::rng::Rng;

fn ones(data: &mut [u8]) {
    data.fill(1);
}

fn started(features: u64) -> (MmioTransport<Rng>, Driver) {
    let mut device = MmioTransport::new(Rng::new());
    let mut driver = Driver::new();
    driver.start(&mut device, features);
    (device, driver)
}

/// The device asked for a reset, told the driver by an interrupt, and counted it once.
fn assert_broken(device: &mut MmioTransport<Rng>) {
    assert_eq!(read(device, 0x70) & status::NEEDS_RESET, status::NEEDS_RESET);
    assert_eq!(read(device, 0x60) & INTERRUPT_CONFIG, INTERRUPT_CONFIG);
    assert!(device.poll_interrupt());
    assert_eq!(device.counters().broken_rings, 1);
}

#[test]
fn handle_read_identification_is_virtio_mmio_2() {
    let mut device = MmioTransport::new(Rng::new());
    assert_eq!(read(&mut device, 0x00).to_le_bytes(), *b"virt");
    assert_eq!(read(&mut device, 0x04), 2);
    assert_eq!(read(&mut device, 0x08), 4);
    assert_eq!(read(&mut device, 0xb0), u32::MAX);
    assert_eq!(device.counters().bad_accesses, 0);
}

#[test]
fn handle_read_wrong_width_or_offset_gives_zeroes_and_counts() {
    let mut device = MmioTransport::new(Rng::new());
    let mut byte = [7];
    device.handle_read(0, &mut byte);
    assert_eq!(byte, [0]);
    assert_eq!(read(&mut device, 0x0d0), 0);
    device.handle_write(0x70, &[1]);
    assert_eq!(read(&mut device, 0x70), 0);
    assert_eq!(device.counters().bad_accesses, 3);
}

#[test]
fn start_by_the_book_runs_the_device() {
    let (mut device, _) = started(F_EVENT_IDX | F_INDIRECT_DESC);
    assert!(device.is_running());
    assert_eq!(read(&mut device, 0x70), 0xf);
    assert_eq!(device.counters().bad_accesses, 0);
}

#[test]
fn write_status_features_not_offered_leaves_features_ok_clear() {
    let mut device = MmioTransport::new(Rng::new());
    write(&mut device, 0x70, 3);
    write(&mut device, 0x20, 1);
    write(&mut device, 0x70, 11);
    assert_eq!(read(&mut device, 0x70), 3);
}

#[test]
fn write_status_without_version_1_leaves_features_ok_clear() {
    let mut device = MmioTransport::new(Rng::new());
    write(&mut device, 0x70, 11);
    assert_eq!(read(&mut device, 0x70), 3);
}

#[test]
fn write_status_driver_ok_before_features_ok_is_refused() {
    let mut device = MmioTransport::new(Rng::new());
    write(&mut device, 0x70, 7);
    assert_eq!(read(&mut device, 0x70), 3);
    assert!(!device.is_running());
}

#[test]
fn write_status_clearing_a_bit_is_refused() {
    let (mut device, _) = started(0);
    write(&mut device, 0x70, 3);
    assert_eq!(read(&mut device, 0x70), 0xf);
    assert_eq!(device.counters().bad_accesses, 1);
}

#[test]
fn write_status_zero_resets_queues_and_interrupt() {
    let (mut device, mut driver) = started(0);
    driver.add(0, &[Part::In(4)]);
    kick(&mut device, 0, &driver.memory, &mut ones);
    write(&mut device, 0x70, 0);
    assert_eq!(read(&mut device, 0x60), 0);
    assert_eq!(read(&mut device, 0x44), 0);
    assert!(!device.poll_interrupt());
    assert_eq!(device.save(), MmioTransport::new(Rng::new()).save());
}

#[test]
fn write_queue_while_ready_is_refused() {
    let (mut device, _) = started(0);
    let before = device.save();
    write(&mut device, 0x80, 0x9000);
    write(&mut device, 0x38, 8);
    assert_eq!(device.save(), before);
    assert_eq!(device.counters().bad_accesses, 2);
}

#[test]
fn handle_notify_fills_the_buffer_and_interrupts_once() {
    let (mut device, mut driver) = started(0);
    let addr = driver.add(0, &[Part::In(8)])[0];
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_eq!(driver.read(addr, 9), [1, 1, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(driver.used(0), [(0, 8)]);
    assert_eq!(read(&mut device, 0x60), INTERRUPT_USED);
    assert!(device.poll_interrupt());
    assert!(!device.poll_interrupt());
    write(&mut device, 0x64, INTERRUPT_USED);
    assert_eq!(read(&mut device, 0x60), 0);
}

#[test]
fn what_a_turn_leaves_is_owed_and_a_restored_device_owes_it_too() {
    let (mut device, mut driver) = started(0);
    for _ in 0..5 {
        driver.add(0, &[Part::In(8)]);
    }
    write(&mut device, 0x50, 0);
    serve_turn(&mut device, &driver.memory, &mut ones, 2);
    assert_eq!((driver.used(0).len(), device.owes_work()), (2, true));
    let mut restored = MmioTransport::<Rng>::restore(device.save()).expect("it was saved");
    let mut copy = driver.fork();
    serve_turn(&mut device, &driver.memory, &mut ones, 2);
    assert_eq!((driver.used(0).len(), device.owes_work()), (2, true));
    serve_turn(&mut restored, &copy.memory, &mut ones, 9);
    serve_turn(&mut device, &driver.memory, &mut ones, 9);
    assert_eq!((driver.used(0).len(), copy.used(0).len()), (1, 3));
    assert!(!device.owes_work() && !restored.owes_work());
    assert!(driver.bytes() == copy.bytes());
}

#[test]
fn queue_that_feeds_itself_comes_after_those_that_were_kicked() {
    let (mut device, mut driver) = started(0);
    for _ in 0..3 {
        driver.add(0, &[Part::In(8)]);
    }
    write(&mut device, 0x50, 0);
    serve_turn(&mut device, &driver.memory, &mut ones, 1);
    assert_eq!((device.kicks, device.unfinished), (0, 1));
    device.kicks = 1 << 5;
    assert_eq!([device.poll_notify(), device.poll_notify(), device.poll_notify()], [Some(5), Some(0), None]);
}

#[test]
fn handle_notify_unknown_or_stopped_queue_is_counted() {
    let (mut device, driver) = started(0);
    kick(&mut device, 9, &driver.memory, &mut ones);
    device.handle_notify(1, &driver.memory, &mut ones, &mut Turn::new(&mut nobody));
    assert_eq!((device.counters().bad_accesses, device.counters().bad_notifies), (1, 1));
    assert!(device.is_running());
}

#[test]
fn handle_notify_indirect_chain_is_served() {
    let (mut device, driver) = started(F_INDIRECT_DESC);
    let table = 0x2_0000;
    driver.descriptor(table, 0, 0x2_1000, 4, WRITE | NEXT, 1);
    driver.descriptor(table, 1, 0x2_2000, 4, WRITE, 0);
    driver.descriptor(desc_table(0), 0, table, 32, INDIRECT, 0);
    driver.publish(0, 0);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_eq!(driver.read(0x2_1000, 5), [1, 1, 1, 1, 0]);
    assert_eq!(driver.read(0x2_2000, 5), [1, 1, 1, 1, 0]);
}

#[test]
fn handle_notify_buffer_outside_memory_needs_reset() {
    let (mut device, driver) = started(0);
    driver.descriptor(desc_table(0), 0, 0xffff_ffff_ffff_f000, 0x1000, WRITE, 0);
    driver.publish(0, 0);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_looping_chain_needs_reset() {
    let (mut device, driver) = started(0);
    driver.descriptor(desc_table(0), 0, 0x2_0000, 4, WRITE | NEXT, 1);
    driver.descriptor(desc_table(0), 1, 0x2_0000, 4, WRITE | NEXT, 0);
    driver.publish(0, 0);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_next_outside_table_needs_reset() {
    let (mut device, driver) = started(0);
    driver.descriptor(desc_table(0), 0, 0x2_0000, 4, WRITE | NEXT, SIZE);
    driver.publish(0, 0);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

/// Makes a chain of `count` one-byte buffers in an indirect table available.
fn add_indirect(driver: &Driver, count: u16) {
    let table = 0x2_0000;
    for index in 0..count {
        let next = if index + 1 < count { NEXT } else { 0 };
        driver.descriptor(table, index, 0x3_0000, 1, WRITE | next, index + 1);
    }
    driver.descriptor(desc_table(0), 0, table, 16 * u32::from(count), INDIRECT, 0);
    driver.publish(0, 0);
}

#[test]
fn handle_notify_longest_chain_is_served() {
    let (mut device, mut driver) = started(F_INDIRECT_DESC);
    add_indirect(&driver, 256);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_eq!(driver.used(0), [(0, 256)]);
}

#[test]
fn handle_notify_chain_longer_than_the_bound_needs_reset() {
    let (mut device, driver) = started(F_INDIRECT_DESC);
    add_indirect(&driver, 257);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_readable_after_writable_needs_reset() {
    let (mut device, mut driver) = started(0);
    driver.add(0, &[Part::In(4), Part::Out(vec![1])]);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_head_outside_table_needs_reset() {
    let (mut device, driver) = started(0);
    driver.publish(0, SIZE);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_avail_index_too_far_needs_reset() {
    let (mut device, driver) = started(0);
    driver.write_u16(avail_ring(0) + 2, SIZE + 1);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_rings_outside_memory_need_reset() {
    let (mut device, driver) = started(0);
    write(&mut device, 0x44, 0);
    write(&mut device, 0xa4, 0xff);
    write(&mut device, 0x44, 1);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_broken(&mut device);
}

#[test]
fn handle_notify_after_needs_reset_touches_nothing_until_reset() {
    let (mut device, mut driver) = started(0);
    driver.publish(0, SIZE);
    kick(&mut device, 0, &driver.memory, &mut ones);
    driver.add(0, &[Part::In(4)]);
    let before = driver.bytes();
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_eq!(driver.bytes(), before);
    driver.start(&mut device, 0);
    driver.add(0, &[Part::In(4)]);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert_eq!(driver.used(0).len(), 1);
}

#[test]
fn handle_notify_event_idx_suppresses_interrupts_until_asked() {
    let (mut device, mut driver) = started(F_EVENT_IDX);
    driver.set_used_event(0, 2);
    for (added, interrupt) in [(1, false), (2, false), (3, true), (4, false)] {
        driver.add(0, &[Part::In(4)]);
        kick(&mut device, 0, &driver.memory, &mut ones);
        assert_eq!(device.poll_interrupt(), interrupt, "after {added} used entries");
        assert_eq!(driver.read_u16(used_ring(0) + 4 + 8 * u64::from(SIZE)), added, "avail_event follows");
    }
}

/// The ring's own saved form has no count of undecided used entries. A batch that was decided upon before the save must
/// be decided upon the same way after a restore, and a later one too.
#[test]
fn restore_event_idx_between_batches_decides_interrupts_as_before() {
    let (mut device, mut driver) = started(F_EVENT_IDX);
    driver.set_used_event(0, 3);
    driver.add(0, &[Part::In(4)]);
    kick(&mut device, 0, &driver.memory, &mut ones);
    let mut device = MmioTransport::<Rng>::restore(device.save()).unwrap();
    serve(&mut device, &driver.memory, &mut ones);
    assert!(!device.poll_interrupt());
    for interrupt in [false, false, true, false] {
        driver.add(0, &[Part::In(4)]);
        kick(&mut device, 0, &driver.memory, &mut ones);
        assert_eq!(device.poll_interrupt(), interrupt);
    }
}

#[test]
fn restore_running_device_owes_a_kick_of_each_ready_queue() {
    let (mut device, mut driver) = started(0);
    driver.add(0, &[Part::In(4)]);
    // The kick is lost with the crash: the register was written, the queue not served.
    write(&mut device, 0x50, 0);
    let mut device = MmioTransport::<Rng>::restore(device.save()).unwrap();
    serve(&mut device, &driver.memory, &mut ones);
    assert_eq!(driver.used(0), [(0, 4)]);
}

#[test]
fn restore_unacknowledged_interrupt_is_due_again() {
    let (mut device, mut driver) = started(0);
    driver.add(0, &[Part::In(4)]);
    kick(&mut device, 0, &driver.memory, &mut ones);
    assert!(device.poll_interrupt());
    let mut device = MmioTransport::<Rng>::restore(device.save()).unwrap();
    assert!(device.poll_interrupt());
    assert!(!device.poll_interrupt());
}

#[test]
fn restore_device_that_never_ran_owes_nothing() {
    let device = MmioTransport::new(Rng::new());
    let mut device = MmioTransport::<Rng>::restore(device.save()).unwrap();
    assert_eq!(device.poll_notify(), None);
    assert!(!device.poll_interrupt());
}

#[test]
fn restore_impossible_registers_are_refused_by_name() {
    let (device, _) = started(0);
    let good = device.save();
    let refused = |change: fn(&mut MmioState<_>)| {
        let mut state = good.clone();
        change(&mut state);
        MmioTransport::<Rng>::restore(state).unwrap_err().to_string()
    };
    assert!(refused(|state| state.status = 0x10).contains("Status"));
    assert!(refused(|state| state.status = status::DRIVER_OK).contains("Status"));
    assert!(refused(|state| state.interrupt_status = 4).contains("InterruptStatus"));
    assert!(refused(|state| state.driver_features |= 1).contains("DriverFeatures"));
    assert!(refused(|state| state.queues.clear()).contains("0 virtqueues"));
    assert!(refused(|state| state.queues[0].size = 3).contains("virtqueue 0"));
    assert!(refused(|state| state.queues[0].max_size = 32768).contains("max_size"));
    assert!(refused(|state| state.queues[0].avail_ring = 1).contains("virtqueue 0"));
    assert!(refused(|state| state.queues[0].event_idx = true).contains("event_idx"));
    assert!(refused(|state| state.status = 3).contains("ready before"));
    assert_eq!(MmioTransport::<Rng>::restore(good.clone()).unwrap().save(), good);
}
