//! The UART as the driver of a guest uses it.

use super::*;
use crate::chip::midnight;

fn read(serial: &mut Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.handle_read(offset, &mut data, &midnight);
    data[0]
}

fn write(serial: &mut Serial, offset: u64, value: u8) {
    serial.handle_write(offset, &[value], &midnight);
}

#[test]
fn transmit_bytes_come_out_in_order_once() {
    let mut serial = Serial::default();
    b"boot".iter().for_each(|&byte| write(&mut serial, DATA, byte));
    assert_eq!(serial.poll_output().unwrap(), b"boot");
    assert_eq!(serial.poll_output(), None);
}

#[test]
fn transmit_beyond_the_bound_is_dropped_and_counted() {
    let mut serial = Serial::default();
    (0..OUTPUT_BYTES_MAX + 3).for_each(|_| write(&mut serial, DATA, b'x'));
    assert_eq!(serial.poll_output().unwrap().len(), OUTPUT_BYTES_MAX);
    assert_eq!(serial.counters().dropped, 3);
}

#[test]
fn handle_input_beyond_the_fifo_stays_with_the_caller() {
    let mut serial = Serial::default();
    let data: Vec<u8> = (0..100).collect();
    assert_eq!(serial.handle_input(&data), INPUT_BYTES_MAX);
    assert_eq!(serial.handle_input(&data), 0);
    let read: Vec<u8> = (0..INPUT_BYTES_MAX).map(|_| read(&mut serial, DATA)).collect();
    assert_eq!(read, data[..INPUT_BYTES_MAX]);
    assert_eq!(serial.handle_input(&data), INPUT_BYTES_MAX);
}

#[test]
fn received_data_raises_one_edge_and_reads_as_its_cause() {
    let mut serial = Serial::default();
    write(&mut serial, IIR_FCR, FCR_ENABLE);
    write(&mut serial, IER, IER_RECEIVED);
    serial.handle_input(b"a");
    assert!(serial.poll_interrupt());
    serial.handle_input(b"b");
    assert!(!serial.poll_interrupt(), "the line was high already");
    assert_eq!(read(&mut serial, IIR_FCR), IIR_FIFO | IIR_RECEIVED);
    assert_eq!(read(&mut serial, LSR), LSR_TRANSMITTER_EMPTY | LSR_DATA_READY);
    assert_eq!([read(&mut serial, DATA), read(&mut serial, DATA)], *b"ab");
    assert_eq!(read(&mut serial, IIR_FCR), IIR_FIFO | IIR_NONE);
    assert!(!serial.line());
}

/// A console that masks the interrupts while it prints must see input that came in the meantime.
#[test]
fn enabling_received_data_with_input_waiting_raises_an_edge() {
    let mut serial = Serial::default();
    serial.handle_input(b"a");
    assert!(!serial.poll_interrupt());
    write(&mut serial, IER, IER_RECEIVED);
    assert!(serial.poll_interrupt());
}

/// Linux looks twice whether the interrupt comes again when it is enabled anew, and polls by a timer if not.
#[test]
fn enabling_transmitter_empty_again_raises_it_again() {
    let mut serial = Serial::default();
    for _ in 0..2 {
        write(&mut serial, IER, IER_TRANSMITTER_EMPTY);
        assert!(serial.poll_interrupt());
        assert_eq!(read(&mut serial, IIR_FCR), IIR_TRANSMITTER_EMPTY);
        assert_eq!(read(&mut serial, IIR_FCR), IIR_NONE);
        write(&mut serial, IER, 0);
    }
}

#[test]
fn transmit_with_interrupt_enabled_raises_an_edge_for_each_byte() {
    let mut serial = Serial::default();
    write(&mut serial, IER, IER_TRANSMITTER_EMPTY);
    for _ in 0..2 {
        serial.poll_interrupt();
        write(&mut serial, DATA, b'x');
        assert!(serial.poll_interrupt());
    }
}

#[test]
fn transmit_while_the_line_is_high_for_received_data_is_no_edge() {
    let mut serial = Serial::default();
    write(&mut serial, IER, IER_RECEIVED | IER_TRANSMITTER_EMPTY);
    serial.handle_input(b"a");
    serial.poll_interrupt();
    write(&mut serial, DATA, b'x');
    assert!(!serial.poll_interrupt());
    assert!(serial.line());
}

#[test]
fn reading_received_data_does_not_take_transmitter_empty_back() {
    let mut serial = Serial::default();
    write(&mut serial, IER, IER_RECEIVED | IER_TRANSMITTER_EMPTY);
    serial.handle_input(b"a");
    assert_eq!(read(&mut serial, IIR_FCR), IIR_RECEIVED);
    read(&mut serial, DATA);
    assert_eq!(read(&mut serial, IIR_FCR), IIR_TRANSMITTER_EMPTY);
}

#[test]
fn divisor_latch_is_behind_dlab() {
    let mut serial = Serial::default();
    write(&mut serial, LCR, LCR_DLAB | 3);
    write(&mut serial, DATA, 0x34);
    write(&mut serial, IER, 0x12);
    assert_eq!([read(&mut serial, DATA), read(&mut serial, IER)], [0x34, 0x12]);
    write(&mut serial, LCR, 3);
    assert_eq!(read(&mut serial, IER), 0);
    assert_eq!(serial.poll_output(), None);
}

#[test]
fn loopback_returns_bytes_and_modem_lines() {
    let mut serial = Serial::default();
    write(&mut serial, MCR, MCR_LOOP | 0x0a);
    assert_eq!(read(&mut serial, MSR), 0x90);
    write(&mut serial, DATA, b'l');
    assert_eq!(serial.handle_input(b"x"), 0);
    assert_eq!(read(&mut serial, DATA), b'l');
    assert_eq!(serial.poll_output(), None);
}

#[test]
fn clearing_the_receiver_fifo_empties_it() {
    let mut serial = Serial::default();
    serial.handle_input(b"abc");
    write(&mut serial, IIR_FCR, FCR_ENABLE | FCR_CLEAR_RECEIVER);
    assert_eq!(read(&mut serial, LSR), LSR_TRANSMITTER_EMPTY);
}

#[test]
fn wide_reads_change_nothing_and_are_counted() {
    let mut serial = Serial::default();
    serial.handle_input(b"abc");
    let before = serial.save();
    let mut data = [0; 4];
    serial.handle_read(DATA, &mut data, &midnight);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(serial.save(), before);
    assert_eq!(serial.counters().bad_accesses, 1);
}

#[test]
fn bytes_of_a_string_instruction_go_to_the_one_register() {
    let mut serial = Serial::default();
    serial.handle_write(DATA, b"abc", &midnight);
    assert_eq!(serial.poll_output().unwrap(), b"abc");
}

#[test]
fn restore_pending_edge_is_neither_lost_nor_doubled() {
    let mut serial = Serial::default();
    write(&mut serial, IER, IER_RECEIVED);
    serial.handle_input(b"a");
    let mut restored = Serial::restore(serial.save()).unwrap();
    assert!(restored.poll_interrupt());
    let mut again = Serial::restore(restored.save()).unwrap();
    assert!(!again.poll_interrupt());
    assert!(again.line());
}

#[test]
fn restore_impossible_states_are_refused() {
    let good = Serial::default().save();
    let refused = |change: fn(&mut SerialState)| {
        let mut state = good.clone();
        change(&mut state);
        Serial::restore(state).is_err()
    };
    assert!(refused(|state| state.input = vec![0; INPUT_BYTES_MAX + 1]));
    assert!(refused(|state| state.output = vec![0; OUTPUT_BYTES_MAX + 1]));
    assert!(refused(|state| state.ier = 0x10));
    assert!(refused(|state| state.fcr = 0x02));
    assert!(refused(|state| state.mcr = 0x20));
}
