//! The clock as a guest's kernel reads and sets it.

use proptest::prelude::*;

use super::*;

fn read(cmos: &mut Cmos, index: u8, now_s: i64) -> u8 {
    cmos.handle_write(0, &[index], &|| now_s);
    let mut data = [0];
    cmos.handle_read(1, &mut data, &|| now_s);
    data[0]
}

fn write(cmos: &mut Cmos, index: u8, value: u8, now_s: i64) {
    cmos.handle_write(0, &[index], &|| now_s);
    cmos.handle_write(1, &[value], &|| now_s);
}

/// The fields in the order of a date: century, year, month, day, hour, minute, second.
fn fields(cmos: &mut Cmos, now_s: i64) -> [u8; 7] {
    [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS].map(|index| read(cmos, index, now_s))
}

/// 21 November 2026, 08:35:07 UTC, a Saturday.
const NOW_S: i64 = 1_795_250_107;

#[test]
fn read_time_in_bcd_is_the_given_time() {
    let mut cmos = Cmos::default();
    assert_eq!(fields(&mut cmos, NOW_S), [0x20, 0x26, 0x11, 0x21, 0x08, 0x35, 0x07]);
    assert_eq!(read(&mut cmos, DAY_OF_WEEK, NOW_S), 7);
}

#[test]
fn read_time_in_binary_and_twelve_hours() {
    let mut cmos = Cmos::default();
    write(&mut cmos, REGISTER_B, B_BINARY, NOW_S);
    assert_eq!(read(&mut cmos, MINUTES, NOW_S), 35);
    assert_eq!(read(&mut cmos, HOURS, NOW_S), 8);
    assert_eq!(read(&mut cmos, HOURS, NOW_S + 12 * 3600), PM | 8);
    assert_eq!(read(&mut cmos, HOURS, NOW_S - 8 * 3600), 12);
    assert_eq!(read(&mut cmos, HOURS, NOW_S + 4 * 3600), PM | 12);
}

#[test]
fn registers_say_no_update_in_progress_and_valid() {
    let mut cmos = Cmos::default();
    assert_eq!(read(&mut cmos, REGISTER_A, NOW_S), A_DIVIDER_32KHZ);
    assert_eq!(read(&mut cmos, REGISTER_B, NOW_S), B_24_HOURS);
    assert_eq!(read(&mut cmos, REGISTER_C, NOW_S), 0);
    assert_eq!(read(&mut cmos, REGISTER_D, NOW_S), D_VALID);
    write(&mut cmos, REGISTER_A, 0xff, NOW_S);
    assert_eq!(read(&mut cmos, REGISTER_A, NOW_S), 0x7f);
}

#[test]
fn set_time_under_set_takes_effect_when_set_is_let_go() {
    let mut cmos = Cmos::default();
    write(&mut cmos, REGISTER_B, B_24_HOURS | B_SET, NOW_S);
    for (index, value) in [(YEAR, 0x31), (MONTH, 0x02), (DAY, 0x28), (HOURS, 0x23), (MINUTES, 0x59), (SECONDS, 0x58)] {
        write(&mut cmos, index, value, NOW_S);
    }
    assert_eq!(read(&mut cmos, SECONDS, NOW_S + 40), 0x58, "the fields stand still");
    write(&mut cmos, REGISTER_B, B_24_HOURS, NOW_S + 40);
    assert_eq!(fields(&mut cmos, NOW_S + 42), [0x20, 0x31, 0x03, 0x01, 0x00, 0x00, 0x00]);
}

#[test]
fn set_time_to_no_date_is_forgotten_and_counted() {
    let mut cmos = Cmos::default();
    write(&mut cmos, REGISTER_B, B_24_HOURS | B_SET, NOW_S);
    write(&mut cmos, MONTH, 0x13, NOW_S);
    write(&mut cmos, REGISTER_B, B_24_HOURS, NOW_S);
    assert_eq!(fields(&mut cmos, NOW_S), [0x20, 0x26, 0x11, 0x21, 0x08, 0x35, 0x07]);
    assert_eq!(cmos.counters().bad_requests, 1);
}

#[test]
fn memory_keeps_bytes_and_ignores_the_nmi_bit() {
    let mut cmos = Cmos::default();
    write(&mut cmos, 0x80 | 0x40, 0x5a, NOW_S);
    assert_eq!(read(&mut cmos, 0x40, NOW_S), 0x5a);
}

#[test]
fn set_time_survives_a_restore_at_another_time() {
    let mut cmos = Cmos::default();
    write(&mut cmos, YEAR, 0x40, NOW_S);
    let mut cmos = Cmos::restore(cmos.save()).unwrap();
    assert_eq!(fields(&mut cmos, NOW_S + 3), [0x20, 0x40, 0x11, 0x21, 0x08, 0x35, 0x10]);
}

#[test]
fn restore_impossible_states_are_refused() {
    let good = Cmos::default().save();
    let refused = |change: fn(&mut CmosState)| {
        let mut state = good.clone();
        change(&mut state);
        Cmos::restore(state).is_err()
    };
    assert!(refused(|state| state.index = 0x80));
    assert!(refused(|state| state.register_a = 0x80));
    assert!(refused(|state| state.register_b = B_SET));
    assert!(refused(|state| state.ahead_s = i64::MIN));
    assert!(refused(|state| {
        state.register_b = B_SET;
        state.latch = Some(DateTime { year: 10_000, ..from_seconds(0) });
    }));
    assert!(refused(|state| state.memory = vec![0; 127]));
}

#[test]
fn from_seconds_known_dates() {
    let date = |seconds| {
        let time = from_seconds(seconds);
        (time.year, time.month, time.day)
    };
    assert_eq!(date(0), (1970, 1, 1));
    assert_eq!(date(951_782_400), (2000, 2, 29));
    assert_eq!(date(951_868_800), (2000, 3, 1));
    assert_eq!(date(4_107_542_400), (2100, 3, 1));
    assert_eq!(date(i64::MAX), (9999, 12, 31));
    assert_eq!(date(-5), (1970, 1, 1));
}

proptest! {
    #[test]
    fn seconds_to_date_and_back_is_the_same(seconds in 0..SECONDS_MAX) {
        prop_assert_eq!(to_seconds(from_seconds(seconds)), Some(seconds));
    }
}
