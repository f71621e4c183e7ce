//! virtio-net with a driver on one side and frames on the other.

use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::virtio::driver::{Driver, Part, SIZE, desc_table, kick, nobody, read, used_ring, write};
use crate::virtio::mmio::{F_EVENT_IDX, INTERRUPT_CONFIG, INTERRUPT_USED, status};

const MAC: [u8; 6] = [0x02, 0x00, 0x5e, 0x10, 0x20, 0x30];
const MERGES: u64 = 1 << wire::VIRTIO_NET_F_MRG_RXBUF;

/// A card whose driver takes all that a card without offloads has.
fn started(features: u64) -> (MmioTransport<Net>, Driver) {
    start(Net::new(MAC, false), features)
}

fn start(net: Net, features: u64) -> (MmioTransport<Net>, Driver) {
    let plain = FEATURES.iter().fold(features, |all, bit| all | 1 << bit);
    let mut device = MmioTransport::new(net);
    let mut driver = Driver::new();
    driver.start(&mut device, plain);
    assert!(device.is_running());
    (device, driver)
}

/// One whose driver takes all offloads but for `without`.
fn with_offloads(without: &[u32]) -> (MmioTransport<Net>, Driver) {
    let offloads = OFFLOAD_FEATURES.iter().filter(|bit| !without.contains(bit));
    start(Net::new(MAC, true), offloads.fold(0, |all, bit| all | 1 << bit))
}

/// The header of a frame of TCP over IPv4 that is to be cut into segments of 1448 bytes.
const LARGE: [u8; HEADER_BYTES] = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];

fn packet(header: [u8; HEADER_BYTES], frame: &[u8]) -> Vec<u8> {
    [&header, frame].concat()
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8).collect()
}

fn send(device: &mut MmioTransport<Net>, driver: &mut Driver, parts: &[Part]) {
    driver.add(TX_QUEUE, parts);
    kick(device, TX_QUEUE, &driver.memory, &mut ());
}

#[test]
fn transmit_frame_comes_out_behind_its_header() {
    let (mut device, mut driver) = started(0);
    send(&mut device, &mut driver, &[Part::Out(vec![0; 12]), Part::Out(frame(60))]);
    let mut joined = vec![0; 12];
    joined.extend(frame(1514));
    send(&mut device, &mut driver, &[Part::Out(joined)]);
    assert_eq!(device.poll_output(), Some(with_empty_header(&frame(60))));
    assert_eq!(device.poll_output(), Some(with_empty_header(&frame(1514))));
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
    give_packet(device, &with_empty_header(frame), driver)
}

fn give_packet(device: &mut MmioTransport<Net>, packet: &[u8], driver: &Driver) -> RxResult {
    device.handle_frame(packet, &driver.memory, &mut Turn::new(&mut nobody))
}

#[test]
fn handle_frame_whose_turn_is_over_stays_with_the_caller_and_the_queue_is_owed() {
    let (mut device, mut driver) = started(0);
    for len in [71, 71, 1600] {
        driver.add(RX_QUEUE, &[Part::In(len)]);
    }
    let packet = with_empty_header(&frame(60));
    let given = device.handle_frame(&packet, &driver.memory, &mut Turn::new(&mut |done| done >= 2));
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
    assert_eq!(device.poll_output(), Some(with_empty_header(&frame(60))));
}

#[test]
fn restore_keeps_frames_that_were_not_polled() {
    let (mut device, mut driver) = started(0);
    send(&mut device, &mut driver, &[Part::Out(vec![0; 12]), Part::Out(frame(60))]);
    let mut device = MmioTransport::<Net>::restore(device.save()).unwrap();
    assert_eq!(device.poll_output(), Some(with_empty_header(&frame(60))));
}

#[test]
fn restore_impossible_states_are_refused() {
    let good = Net::new(MAC, true).save();
    fn packets(len: usize, count: usize) -> Vec<Bytes> {
        vec![Bytes(vec![0; len]); count]
    }
    let refused = |change: fn(&mut NetState)| {
        let mut state = good.clone();
        change(&mut state);
        Net::restore(state).is_err()
    };
    assert!(refused(|state| state.status = 4));
    assert!(refused(|state| state.output = packets(0, OUTPUT_FRAMES_MAX + 1)));
    assert!(refused(|state| state.output = packets(PACKET_MAX + 1, 1)));
    assert!(refused(|state| state.output = packets(PACKET_MAX, OUTPUT_BYTES_MAX / PACKET_MAX + 1)));
    assert!(!refused(|state| state.output = packets(PACKET_MAX, OUTPUT_BYTES_MAX / PACKET_MAX)));
}

#[test]
fn features_without_offloads_are_those_of_version_1() {
    let bits = |net: Net| net.features();
    assert_eq!(bits(Net::new(MAC, false)), 1 << 5 | 1 << 16 | 1 << 17 | 1 << 21);
    let offloads = 0b11 | 0b111 << 7 | 0b111 << 11 | 1 << 15;
    assert_eq!(bits(Net::new(MAC, true)), bits(Net::new(MAC, false)) | offloads);
}

#[test]
fn transmit_large_frame_passes_with_its_header() {
    let (mut device, mut driver) = with_offloads(&[]);
    let large = frame(LARGE_FRAME_MAX);
    let parts = [&LARGE[..], &large[..54], &large[54..40_000], &large[40_000..]].map(|part| Part::Out(part.to_vec()));
    send(&mut device, &mut driver, &parts);
    assert_eq!(device.poll_output(), Some(packet(LARGE, &large)));
    assert_eq!(device.device().output_bytes, 0);
}

#[test]
fn transmit_checksum_alone_passes_if_agreed_to() {
    let header = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    for (without, passes) in [(vec![], true), (vec![wire::VIRTIO_NET_F_CSUM], false)] {
        let (mut device, mut driver) = with_offloads(&without);
        send(&mut device, &mut driver, &[Part::Out(packet(header, &frame(60)))]);
        assert_eq!(device.poll_output(), passes.then(|| packet(header, &frame(60))));
        assert_eq!(device.counters().bad_requests, u64::from(!passes));
    }
}

#[test]
fn transmit_header_that_is_not_to_be_believed_is_completed_counted_and_not_sent() {
    let change = |changes: &[(usize, u8)]| {
        let mut header = LARGE;
        changes.iter().for_each(|&(at, byte)| header[at] = byte);
        header
    };
    let headers = [
        change(&[(0, 0)]),            // no checksum
        change(&[(1, 3)]),            // segments of UDP
        change(&[(1, 0x42)]),         // no kind at all
        change(&[(3, 0xff)]),         // headers longer than the frame
        change(&[(4, 1), (5, 0)]),    // 2,000 segments
        change(&[(7, 0xff)]),         // a checksum over what is not there
        change(&[(8, 0xff), (9, 8)]), // or in what is not there
    ];
    let (mut device, mut driver) = with_offloads(&[]);
    for header in headers {
        send(&mut device, &mut driver, &[Part::Out(packet(header, &frame(2000)))]);
    }
    send(&mut device, &mut driver, &[Part::Out(packet(LARGE, &frame(LARGE_FRAME_MAX + 1)))]);
    send(&mut device, &mut driver, &[Part::Out(packet(EMPTY_HEADER, &frame(FRAME_MAX + 1)))]);
    assert_eq!(device.poll_output(), None);
    assert_eq!((device.counters().bad_requests, driver.used(TX_QUEUE).len()), (9, 9));
    send(&mut device, &mut driver, &[Part::Out(packet(LARGE, &frame(2000)))]);
    assert!(device.poll_output().is_some(), "the driver goes on");
}

/// A guest that makes the longest frames that there are, one after the other: a turn has its bytes, and so has the device.
#[test]
fn transmit_of_one_turn_is_bounded_in_bytes_and_none_of_it_is_dropped() {
    let (mut device, mut driver) = with_offloads(&[]);
    let len = PACKET_MAX as u32;
    driver.memory.write_slice(&LARGE, GuestAddress(0x1_0000)).unwrap();
    let mut turn_others = nobody;
    let mut turn = Turn::new(&mut turn_others);
    let mut rounds = 0;
    while !turn.is_over() {
        for index in 0..SIZE {
            driver.descriptor(desc_table(TX_QUEUE), index, 0x1_0000, len, 0, 0);
            driver.publish(TX_QUEUE, index);
        }
        write(&mut device, 0x50, TX_QUEUE as u32);
        while !turn.is_over()
            && let Some(queue) = device.poll_notify()
        {
            device.handle_notify(queue, &driver.memory, &mut (), &mut turn);
        }
        rounds += 1;
        assert!(rounds < 100, "a turn without end");
    }
    assert_eq!(device.counters().dropped, 0);
    let sent = std::iter::from_fn(|| device.poll_output()).map(|packet| packet.len()).sum::<usize>();
    assert_eq!(sent as u64, BYTES_MAX.next_multiple_of(len.into()));
    assert!(sent <= OUTPUT_BYTES_MAX);
    driver.used(TX_QUEUE);
}

/// The frame as the driver puts it together, and how many bytes each buffer got.
fn gathered(driver: &mut Driver, addrs: &[u64]) -> (Vec<u8>, Vec<u32>) {
    let lens: Vec<u32> = driver.used(RX_QUEUE).into_iter().map(|(_, len)| len).collect();
    assert_eq!(lens.len(), addrs.len());
    (addrs.iter().zip(&lens).flat_map(|(addr, len)| driver.read(*addr, *len as usize)).collect(), lens)
}

#[test]
fn handle_frame_is_spread_over_as_many_buffers_as_it_needs() {
    let (mut device, mut driver) = with_offloads(&[]);
    let large = frame(4000);
    let addrs: Vec<u64> = (0..4).map(|_| driver.add(RX_QUEUE, &[Part::In(1500)])[0]).collect();
    assert_eq!(give_packet(&mut device, &packet(LARGE, &large), &driver), RxResult::Delivered);
    let mut expected = packet(LARGE, &large);
    expected[COUNT_AT] = 3;
    assert_eq!(gathered(&mut driver, &addrs[..3]), (expected, vec![1500, 1500, 1012]));
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Delivered);
    let mut small = with_empty_header(&frame(60));
    small[COUNT_AT] = 1;
    assert_eq!(gathered(&mut driver, &addrs[3..]), (small, vec![72]), "the fourth buffer was not lost");
    assert!(device.poll_interrupt());
}

#[test]
fn handle_frame_of_the_greatest_length_is_delivered_and_a_header_may_lie_in_two_buffers() {
    let (mut device, mut driver) = with_offloads(&[]);
    let large = frame(LARGE_FRAME_MAX);
    let mut addrs = vec![driver.add(RX_QUEUE, &[Part::In(5), Part::In(6)])[0]];
    addrs.push(driver.add(RX_QUEUE, &[Part::In(0x1_0000)])[0]);
    addrs.push(driver.add(RX_QUEUE, &[Part::In(18)])[0]);
    assert_eq!(give_packet(&mut device, &packet(LARGE, &large), &driver), RxResult::Delivered);
    let used: Vec<u32> = driver.used(RX_QUEUE).iter().map(|used| used.1).collect();
    assert_eq!(used, [11, 0x1_0000, 18]);
    assert_eq!(driver.read(addrs[1] + 1, LARGE_FRAME_MAX - 18), large[..LARGE_FRAME_MAX - 18]);
    assert_eq!(driver.read(addrs[2], 18), large[LARGE_FRAME_MAX - 18..]);
}

/// All or nothing: a driver that saw half of a frame would take the next one's beginning for its end.
#[test]
fn handle_frame_with_too_few_buffers_takes_none_and_comes_whole_when_there_are_more() {
    for event_idx in [0, F_EVENT_IDX] {
        let (mut device, mut driver) = with_offloads(&[]);
        let features = OFFLOAD_FEATURES.iter().fold(event_idx, |all, bit| all | 1 << bit);
        driver.start(&mut device, features);
        let large = packet(LARGE, &frame(4000));
        let mut addrs: Vec<u64> = (0..2).map(|_| driver.add(RX_QUEUE, &[Part::In(1500)])[0]).collect();
        let before = driver.bytes();
        for _ in 0..3 {
            assert_eq!(give_packet(&mut device, &large, &driver), RxResult::NoBuffers);
        }
        let avail_event = used_ring(RX_QUEUE) as usize + 4 + 8 * usize::from(SIZE);
        let mut after = driver.bytes();
        if event_idx != 0 {
            assert_eq!(after[avail_event], 2, "the driver is to kick for the third");
            after[avail_event] = before[avail_event];
        }
        assert!(after == before, "nothing was written");
        assert_eq!(device.save().queues[RX_QUEUE].next_avail, 0);
        let mut device = MmioTransport::<Net>::restore(device.save()).unwrap();
        addrs.push(driver.add(RX_QUEUE, &[Part::In(1500)])[0]);
        assert_eq!(give_packet(&mut device, &large, &driver), RxResult::Delivered);
        assert_eq!(gathered(&mut driver, &addrs).1, [1500, 1500, 1012]);
        assert_eq!(device.counters().dropped, 0);
    }
}

#[test]
fn handle_frame_that_all_buffers_together_cannot_hold_is_dropped() {
    let (mut device, mut driver) = with_offloads(&[]);
    (0..SIZE).for_each(|_| drop(driver.add(RX_QUEUE, &[Part::In(100)])));
    assert_eq!(give_packet(&mut device, &packet(LARGE, &frame(4000)), &driver), RxResult::Dropped);
    assert_eq!((device.counters().dropped, driver.used(RX_QUEUE)), (1, vec![]));
    assert_eq!(give(&mut device, &frame(60), &driver), RxResult::Delivered, "the next one is not behind it for ever");
}

#[test]
fn handle_frame_with_event_idx_interrupts_if_any_of_its_buffers_was_waited_for() {
    for (wanted, interrupts) in [(0, true), (1, true), (2, true), (3, false)] {
        let (mut device, mut driver) = with_offloads(&[]);
        driver.start(&mut device, OFFLOAD_FEATURES.iter().fold(F_EVENT_IDX, |all, bit| all | 1 << bit));
        (0..3).for_each(|_| drop(driver.add(RX_QUEUE, &[Part::In(1500)])));
        driver.set_used_event(RX_QUEUE, wanted);
        assert_eq!(give_packet(&mut device, &packet(LARGE, &frame(4000)), &driver), RxResult::Delivered);
        assert_eq!(device.poll_interrupt(), interrupts, "entry {wanted}");
    }
}

#[test]
fn handle_frame_counts_its_buffers_and_bytes_in_the_turn_but_is_not_given_up_halfway() {
    let (mut device, mut driver) = with_offloads(&[]);
    (0..9).for_each(|_| drop(driver.add(RX_QUEUE, &[Part::In(1500)])));
    let mut others = |requests| requests >= 4;
    let mut turn = Turn::new(&mut others);
    let large = packet(LARGE, &frame(4000));
    let results: Vec<RxResult> = (0..3).map(|_| device.handle_frame(&large, &driver.memory, &mut turn)).collect();
    assert_eq!(results, [RxResult::Delivered, RxResult::Delivered, RxResult::NoBuffers]);
    assert!(turn.is_over() && device.owes_work());
    let mut others = nobody;
    let mut turn = Turn::new(&mut others);
    turn.spend(BYTES_MAX - 1);
    let results: Vec<RxResult> = (0..2).map(|_| device.handle_frame(&large, &driver.memory, &mut turn)).collect();
    assert_eq!(results, [RxResult::Delivered, RxResult::NoBuffers]);
}

#[test]
fn handle_frame_asks_the_guest_for_nothing_that_it_did_not_agree_to() {
    let valid = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let partial = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    let given = |without: &[u32], header: [u8; HEADER_BYTES], len| {
        let (mut device, mut driver) = with_offloads(without);
        let addr = driver.add(RX_QUEUE, &[Part::In(4096)])[0];
        let result = give_packet(&mut device, &packet(header, &frame(len)), &driver);
        (result, driver.read(addr, 2))
    };
    let no_checksum = [wire::VIRTIO_NET_F_GUEST_CSUM];
    assert_eq!(given(&[], partial, 60), (RxResult::Delivered, vec![1, 0]));
    assert_eq!(given(&no_checksum, partial, 60).0, RxResult::Dropped);
    assert_eq!(given(&[], valid, 60), (RxResult::Delivered, vec![2, 0]));
    assert_eq!(given(&no_checksum, valid, 60), (RxResult::Delivered, vec![0, 0]));
    assert_eq!(given(&[], LARGE, 2000), (RxResult::Delivered, vec![1, 1]));
    assert_eq!(given(&no_checksum, LARGE, 2000).0, RxResult::Dropped);
    assert_eq!(given(&[wire::VIRTIO_NET_F_GUEST_TSO4], LARGE, 2000).0, RxResult::Dropped);
    let without_merging = given(&[wire::VIRTIO_NET_F_MRG_RXBUF], LARGE, 2000);
    assert_eq!(without_merging, (RxResult::Delivered, vec![1, 1]), "one buffer is long enough");
}

#[test]
fn offloads_are_told_at_the_start_at_each_change_and_after_a_restore() {
    let all = Offloads { checksum: true, tcp4: true, tcp6: true, ecn: true };
    let (mut device, mut driver) = with_offloads(&[]);
    assert_eq!([device.poll_offloads(), device.poll_offloads()], [Some(all), None]);
    let mut again = MmioTransport::<Net>::restore(device.save()).unwrap();
    assert_eq!([again.poll_offloads(), again.poll_offloads()], [Some(all), None]);
    driver.add(RX_QUEUE, &[Part::In(4096)]);
    assert_eq!(give_packet(&mut again, &packet(LARGE, &frame(2000)), &driver), RxResult::Delivered);
    write(&mut device, 0x70, 0);
    assert_eq!(device.poll_offloads(), Some(Offloads::default()));
    driver.start(&mut device, 1 << wire::VIRTIO_NET_F_GUEST_CSUM | MERGES);
    assert_eq!(device.poll_offloads(), Some(Offloads { checksum: true, ..Offloads::default() }));
    let (mut plain, _) = started(0);
    assert_eq!(plain.poll_offloads(), Some(Offloads::default()));
}

#[test]
fn restore_with_features_that_the_card_does_not_have_is_refused() {
    let (device, _) = with_offloads(&[]);
    let mut state = device.save();
    state.device.has_offloads = false;
    assert!(MmioTransport::<Net>::restore(state).is_err());
}
