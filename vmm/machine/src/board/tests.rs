//! The board as a guest and the world use it.

use std::collections::VecDeque;

use devices::layout::VIRTIO_MMIO_BASE;
use devices::serial::PORT as COM1_PORT;
use devices::virtio::net::with_empty_header;
use snapshot::section::{StateReader, StateWriter};

use super::*;
use crate::egress::{Sinks, WITH_HEADER};
use crate::ingress::{INGRESS_AT_ONCE_MAX, INGRESS_FRAMES_MAX};
use crate::memory::Ram;
use crate::shape::Shape;
use crate::slot::{self, IngressState};
use crate::stats::Stats;
use replication::Protocol;

fn protected(inputs_wait: bool) -> Rules {
    Rules::Protected { protocol: Protocol::Epoch, inputs_wait }
}

fn board() -> Board {
    let egress = Egress::new(Sinks { console: None, taps: vec![None] }, Arc::new(Stats::default()));
    let ram = Ram::new(1 << 20).expect("1 MiB fits");
    let slots = vec![slot::net([2; 6], true)];
    let mut board = Board::new(ram.memory().clone(), slots, Arc::new(egress)).expect("each has a place of its own");
    board.set_rules(protected(true));
    board
}

fn shape() -> Shape {
    Shape::new((1 << 20).try_into().expect("whole pages"), 1, vec!["virtio-net".into()])
}

fn save(board: &mut Board) -> StateWriter {
    let mut sections = StateWriter::new();
    board.save(&mut sections);
    sections
}

fn waiting(board: &mut Board) -> (Vec<u8>, Vec<Vec<u8>>) {
    let sections = save(board);
    let mut reader = StateReader::parse(sections.bytes()).expect("ours");
    let BoardState { console_input, pending: _ } = reader.take(0).expect("a board has one");
    let IngressState { packets } = reader.take(0).expect("a card has one");
    (console_input, packets.into_iter().map(|packet| packet.0).collect())
}

fn input(device: u16, bytes: &[u8]) -> Input {
    Input { device, bytes: bytes.to_vec() }
}

#[test]
fn redeliver_of_what_still_waits_does_not_double_it() {
    // Input that had come before the last commit, and that the guest got after it, is in the committed state and in
    // the log of the epoch that broke off: it reached the guest twice.
    let mut board = board();
    let _ = board.handle_console(b"ls");
    let _ = board.handle_frames(0, &mut VecDeque::from([vec![1; 60], vec![2; 60]]));
    let card = FIRST_SLOT | WITH_HEADER;
    let log = [input(CONSOLE, b"l"), input(CONSOLE, b"s -a"), input(card, &[2; 60]), input(card, &[2; 60])];
    board.redeliver(log.to_vec());
    assert_eq!(waiting(&mut board), (b"ls -a".to_vec(), vec![vec![1; 60], vec![2; 60], vec![2; 60]]));
}

const LSR: u16 = COM1_PORT + 5;

/// What a guest reads that takes what there is, until there is nothing.
fn read_all(board: &mut Board) -> Vec<u8> {
    let mut register = |port| {
        let mut byte = [0];
        let _ = board.handle_pio_read(port, &mut byte);
        byte[0]
    };
    let mut read = Vec::new();
    while register(LSR) & 1 != 0 {
        read.push(register(COM1_PORT));
    }
    read
}

#[test]
fn pasted_line_reaches_a_guest_without_epochs_whole_and_nothing_of_it_is_kept() {
    // What did not fit into the receiver came only with the next key; and all of it was kept for ever for a log that a
    // guest without epochs does not have.
    let mut board = board();
    board.set_rules(Rules::Unprotected);
    let line: Vec<u8> = (0..140).map(|n| b'a' + n % 26).collect();
    assert_eq!(board.handle_console(&line).0, 140);
    assert_eq!(read_all(&mut board), line);
    assert_eq!((board.take_consumed(), waiting(&mut board).0), (vec![], vec![]));
}

#[test]
fn line_that_waits_in_a_restored_state_reaches_a_guest_without_epochs_whole() {
    let mut before = board();
    let line = vec![b'x'; 140];
    let _ = before.handle_console(&line);
    let sections = save(&mut before);
    let mut board = board();
    board.set_rules(Rules::Unprotected);
    board.restore(&shape(), &sections).expect("ours");
    let _ = board.deliver_inputs();
    assert_eq!(read_all(&mut board), line);
}

#[test]
fn guest_with_epochs_gets_input_at_boundaries_only_and_it_is_logged() {
    let mut board = board();
    board.set_rules(protected(true));
    let _ = board.handle_console(&[b'x'; 140]);
    assert_eq!(read_all(&mut board), b"");
    let mut read = Vec::new();
    for _ in 0..3 {
        let _ = board.deliver_inputs();
        read.extend(read_all(&mut board));
    }
    assert_eq!(read, [b'x'; 140]);
    assert_eq!(board.take_consumed(), [input(CONSOLE, &[b'x'; 140])]);
    let _ = board.handle_console(b"y");
    let _ = board.deliver_inputs();
    board.set_rules(Rules::Unprotected);
    assert_eq!(board.take_consumed(), [], "its epochs have ended");
}

#[test]
fn guest_with_epochs_gets_input_at_once_if_asked_and_it_is_logged() {
    let mut board = board();
    board.set_rules(protected(false));
    assert!(board.handle_console(b"ls").1.demand == Demand::No, "it needs no boundary");
    assert_eq!(read_all(&mut board), b"ls");
    assert_eq!(board.take_consumed(), [input(CONSOLE, b"ls")]);
}

#[test]
fn frames_beyond_the_room_stay_with_the_caller_in_their_order() {
    let mut board = board();
    let mut frames: VecDeque<Vec<u8>> = (0..INGRESS_FRAMES_MAX + 2).map(|n| vec![n as u8; 60]).collect();
    assert!(board.handle_frames(0, &mut frames).demand != Demand::No);
    assert_eq!(frames, [vec![0; 60], vec![1; 60]]);
    assert!(board.handle_frames(0, &mut frames).demand == Demand::No, "nothing came in");
    let waiting = waiting(&mut board).1;
    assert_eq!((waiting.len(), waiting[0][0], waiting[255][0]), (INGRESS_FRAMES_MAX, 0, 255));
}

#[test]
fn redeliver_of_a_frame_that_a_version_without_headers_logged_has_an_empty_one() {
    let mut board = board();
    board.redeliver(vec![input(FIRST_SLOT, &[2; 60]), input(FIRST_SLOT | WITH_HEADER, &[3; 72])]);
    assert_eq!(waiting(&mut board).1, [with_empty_header(&[2; 60]), vec![3; 72]]);
}

fn write(board: &mut Board, offset: u64, value: u32) -> Effects {
    board.handle_mmio_write(VIRTIO_MMIO_BASE + offset, &value.to_le_bytes(), &mut Turn::new(&mut nobody))
}

/// Starts the card's driver, with no buffer to receive into, and with a frame of 60 bytes in the ring of its transmit queue that
/// was not kicked yet.
fn start_card(board: &mut Board) {
    let (table, avail, used, buffer) = (0x1000, 0x2000, 0x3000, 0x4000_u32);
    let agree = [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)];
    let queue = |n, table, avail, used| [(0x30, n), (0x38, 16), (0x80, table), (0x90, avail), (0xa0, used), (0x44, 1)];
    let queues = [queue(0, 0x5000, 0x6000, 0x7000), queue(1, table, avail, used)].concat();
    for (offset, value) in agree.into_iter().chain(queues).chain([(0x70, 15)]) {
        let _ = write(board, offset, value);
    }
    let descriptor = [u64::from(buffer).to_le_bytes(), [72, 0, 0, 0, 0, 0, 0, 0]].concat();
    let put = |bytes: &[u8], at: u32| board.memory.write_slice(bytes, GuestAddress(at.into())).expect("in memory");
    put(&descriptor, table);
    put(&[0, 0, 1, 0, 0, 0], avail);
}

#[test]
fn few_frames_wait_for_a_guest_that_gets_them_at_once_and_the_others_hear_of_room() {
    // What waits is part of each epoch's state: 256 frames were shipped again and again.
    let mut board = board();
    board.set_rules(Rules::Unprotected);
    start_card(&mut board);
    let mut frames: VecDeque<Vec<u8>> = (0..64).map(|_| vec![0; 72]).collect();
    assert!(!board.handle_frames(0, &mut frames).has_room, "it has no buffers");
    assert_eq!((frames.len(), waiting(&mut board).1.len()), (64 - INGRESS_AT_ONCE_MAX, INGRESS_AT_ONCE_MAX));
    let put = |bytes: &[u8], at: u64| board.memory.write_slice(bytes, GuestAddress(at)).expect("in memory");
    put(&[0x8000_u64.to_le_bytes(), [0, 8, 0, 0, 2, 0, 0, 0]].concat(), 0x5000);
    put(&[0, 0, 1, 0, 0, 0], 0x6000);
    assert!(write(&mut board, 0x50, 0).has_room, "it took one of them");
    assert!(!write(&mut board, 0x50, 0).has_room, "that was said");
    let _ = board.handle_frames(0, &mut frames);
    assert_eq!((frames.len(), waiting(&mut board).1.len()), (63 - INGRESS_AT_ONCE_MAX, INGRESS_AT_ONCE_MAX));
}

#[test]
fn card_sends_nothing_while_the_guest_is_pressed_and_goes_on_by_itself() {
    // Of 8 vCPUs each may have one more exit, with a turn of 8 MiB each: that is more than the rest of what can be held.
    let mut board = board();
    start_card(&mut board);
    board.egress.begin(replication::EpochId(1));
    while !board.egress.is_pressed() {
        board.egress.emit(FIRST_SLOT, vec![0; 1 << 20]);
    }
    let held = board.egress.held_bytes();
    assert!(write(&mut board, 0x50, 1).owes_work);
    assert!(board.serve_owed(&mut Turn::new(&mut nobody)).owes_work);
    assert_eq!(board.egress.held_bytes(), held, "nothing was produced");
    board.egress.seal(replication::EpochId(2));
    board.egress.release(replication::EpochId(1));
    assert!(!board.serve_owed(&mut Turn::new(&mut nobody)).owes_work);
    let sent = board.egress.seal(replication::EpochId(3));
    assert_eq!(sent.iter().map(|output| output.bytes.len()).collect::<Vec<_>>(), [72]);
}

#[test]
fn epoch_with_much_input_asks_for_its_boundary_however_the_guest_got_it() {
    // A guest that makes room in its ring gets what waits by that kick, and nobody asked for a boundary then.
    let mut board = board();
    board.set_rules(protected(false));
    assert!(write(&mut board, 0x50, 0).demand == Demand::No);
    board.consumed_bytes = EPOCH_INPUT_BYTES + 1;
    assert!(write(&mut board, 0x50, 0).demand != Demand::No);
    board.take_consumed();
    assert!(write(&mut board, 0x50, 0).demand == Demand::No);
}

#[test]
fn redeliver_of_less_than_what_waits_keeps_all_of_it() {
    let mut board = board();
    let _ = board.handle_console(b"halt");
    board.redeliver(vec![input(CONSOLE, b"ha"), input(77, b"no such device")]);
    assert_eq!(waiting(&mut board).0, b"halt");
}

/// What a guest did with every chip, and what waits.
fn used() -> Board {
    let mut board = board();
    for (port, value) in [(0x3ff_u16, 0x5a_u8), (0x70, 0x40), (0x71, 0x77), (0x64, 0x60), (0x60, 0x47), (0x505, 1)] {
        let _ = board.handle_pio_write(port, &[value]);
    }
    let _ = board.handle_pio_write(0x614, &20_u32.to_le_bytes());
    let _ = board.handle_pio_write(0x610, &1_u32.to_le_bytes());
    start_card(&mut board);
    let _ = board.handle_console(b"ls");
    let _ = board.handle_frames(0, &mut VecDeque::from([vec![0; 72]]));
    board
}

#[test]
fn restored_board_saves_what_it_was_given() {
    let saved = save(&mut used());
    check(&shape(), &saved).expect("ours");
    let mut board = board();
    assert_ne!(save(&mut board), saved);
    board.restore(&shape(), &saved).expect("ours");
    assert_eq!(save(&mut board), saved);
    assert!(board.is_watched());
}

#[test]
fn each_device_has_a_section_of_its_own_and_a_state_without_one_is_refused_by_its_name() {
    let saved = save(&mut used());
    let list = |bytes: &[u8]| -> Vec<String> {
        let reader = StateReader::parse(bytes).expect("ours");
        reader.list().map(|(id, version, _)| format!("{id} {version}")).collect()
    };
    let expected = [
        "board/0 2",
        "serial/0 1",
        "cmos/0 1",
        "power/0 1",
        "i8042/0 1",
        "pvpanic/0 1",
        "watchdog/0 1",
        "generation/0 1",
        "virtio-net/0 2",
        "ingress/0 1",
    ];
    assert_eq!(list(saved.bytes()), expected);
    let mut reader = StateReader::parse(saved.bytes()).expect("ours");
    let _: devices::power::PowerState = reader.take(0).expect("it is there");
    let error = check(&shape(), &reader.take_rest()).expect_err("it lacks one");
    assert!(error.to_string().contains("power/0"), "{error}");
    let mut more = saved.clone();
    more.put(1, &devices::power::PowerState { event: None });
    let error = check(&shape(), &more).expect_err("it has one too many");
    assert!(error.to_string().contains("power/1"), "{error}");
    let mut other = shape();
    other.slots[0] = "virtio-rng".into();
    let error = check(&other, &saved).expect_err("another device is in the slot");
    assert!(error.to_string().contains("virtio-rng/0"), "{error}");
}

#[test]
fn chip_that_the_saved_machine_lacks_is_at_power_on() {
    let mut before = shape();
    before.chips.retain(|chip| chip != "watchdog");
    let saved = save(&mut board());
    let mut reader = StateReader::parse(saved.bytes()).expect("ours");
    let _: devices::watchdog::WatchdogState = reader.take(0).expect("it is there");
    let saved = reader.take_rest();
    check(&before, &saved).expect("a machine without a watchdog");
    let mut board = used();
    board.restore(&before, &saved).expect("the same");
    assert!(!board.is_watched());
}

#[test]
fn watchdog_that_runs_out_ends_the_machine_once() {
    let mut board = used();
    let _ = board.forget_crash();
    assert_eq!(board.handle_time(1999).end, None);
    assert_eq!(board.handle_time(1).end, Some(GuestEnd::Crashed(Crash::Watchdog)));
    assert_eq!(board.handle_time(1).end, None);
}

#[test]
fn panic_stays_in_the_state_until_it_is_forgotten() {
    let saved = save(&mut used());
    let mut board = board();
    board.restore(&shape(), &saved).expect("ours");
    assert_eq!(board.handle_pio_write(0x80, &[0]).end, Some(GuestEnd::Crashed(Crash::Panicked)));
    assert_eq!(board.forget_crash(), Some(GuestEnd::Crashed(Crash::Panicked)));
    assert_eq!((board.forget_crash(), board.handle_pio_write(0x80, &[0]).end), (None, None));
}

#[test]
fn accesses_to_no_device_read_as_ones_and_are_lost() {
    let mut board = board();
    for port in [0x61, 0x63, 0x3f7, 0x400, 0xffff] {
        let mut data = [0; 4];
        let _ = board.handle_pio_read(port, &mut data);
        assert_eq!((data, board.handle_pio_write(port, &data)), ([0xff; 4], Effects::default()), "{port:#x}");
    }
    for address in [VIRTIO_MMIO_BASE - 1, VIRTIO_MMIO_BASE + 0x1000, 0, u64::MAX] {
        let mut data = [0; 4];
        let _ = board.handle_mmio_read(address, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
    }
}

#[test]
fn generation_is_in_memory_and_a_later_one_raises_the_line() {
    let mut board = board();
    let read = |board: &Board| {
        let mut bytes = [0; 16];
        board.memory.read_slice(&mut bytes, GuestAddress(devices::layout::GENERATION_ID)).expect("in memory");
        bytes
    };
    let _ = board.begin_generation([1; 16]);
    assert_eq!((read(&board), board.take_pending()), ([1; 16], 0));
    let saved = save(&mut board);
    board.restore(&shape(), &saved).expect("ours");
    assert_eq!((board.handle_pio_write(0x80, &[0]), board.take_pending()), (Effects::default(), 0));
    let _ = board.begin_generation([2; 16]);
    assert_eq!((read(&board), board.take_pending()), ([2; 16], 1 << devices::generation::GSI));
}
