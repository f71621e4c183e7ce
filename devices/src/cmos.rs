//! The real-time clock and CMOS memory: an MC146818 behind an index and a data port.
//!
//! The time of day is an argument, in seconds since 1970 UTC. The chip keeps no running clock, only the difference that
//! the guest made by setting it, so a saved chip shows the right time wherever and whenever it is restored.
//!
//! While the guest holds SET in register B the fields stand still in a latch; when it lets go, the latch becomes the
//! new time if it is a date, and is forgotten if it is not.
//!
//! Deviations: no alarm, no periodic and no update interrupt, and no interrupt line at all; the update-in-progress bit
//! is never seen, as the fields of one second are given whole.

#[cfg(test)]
mod tests;

use acpi_tables::aml;
use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::Tables;
use crate::bus::Range;
use crate::chip::{Chip, Clock};
use crate::counters::Counters;

/// Index port; the data port follows.
pub const PORT: u16 = 0x70;

/// Bytes behind the index port.
pub const CMOS_BYTES: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// Index of the century; the FADT names it to the guest.
pub const CENTURY: u8 = 0x32;

const A_DIVIDER_32KHZ: u8 = 0x26;
const A_UPDATE_IN_PROGRESS: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const D_VALID: u8 = 0x80;
const PM: u8 = 0x80;

const DAY_SECONDS: i64 = 86_400;
/// Two digits of century and two of year.
const YEAR_MAX: u16 = 9999;
/// Year 9999 ends before this; keeps all sums far from overflow.
const SECONDS_MAX: i64 = 253_402_300_800;

/// A date and time, fields as a person writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DateTime {
    /// Four digits.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// Saved form of [`Cmos`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmosState {
    /// Index port.
    pub index: u8,
    /// Register A without the update bit.
    pub register_a: u8,
    /// Register B.
    pub register_b: u8,
    /// Seconds that the guest's clock is ahead of the time that the chip is given.
    pub ahead_s: i64,
    /// The fields while SET is held.
    pub latch: Option<DateTime>,
    /// The bytes that are no clock registers; [`CMOS_BYTES`] of them.
    pub memory: Vec<u8>,
}

impl Section for CmosState {
    const NAME: &'static str = "cmos";
    const VERSION: u16 = 1;
}

/// An MC146818.
#[derive(Debug)]
pub struct Cmos {
    index: u8,
    register_a: u8,
    register_b: u8,
    ahead_s: i64,
    latch: Option<DateTime>,
    memory: [u8; CMOS_BYTES],
    counters: Counters,
}

impl Default for Cmos {
    /// A clock that shows the time it is given, in BCD and 24 hours.
    fn default() -> Self {
        Self {
            index: 0,
            register_a: A_DIVIDER_32KHZ,
            register_b: B_24_HOURS,
            ahead_s: 0,
            latch: None,
            memory: [0; CMOS_BYTES],
            counters: Counters::default(),
        }
    }
}

impl Cmos {
    fn read(&self, now_s: i64) -> u8 {
        let time = self.latch.unwrap_or_else(|| self.time(now_s));
        match self.index {
            SECONDS => self.encode(time.second),
            MINUTES => self.encode(time.minute),
            HOURS => self.encode_hour(time.hour),
            DAY_OF_WEEK => self.encode(day_of_week(time)),
            DAY => self.encode(time.day),
            MONTH => self.encode(time.month),
            YEAR => self.encode((time.year % 100) as u8),
            CENTURY => self.encode((time.year / 100) as u8),
            REGISTER_A => self.register_a,
            REGISTER_B => self.register_b,
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            index => self.memory[usize::from(index)],
        }
    }

    fn write(&mut self, value: u8, now_s: i64) {
        match self.index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK | DAY | MONTH | YEAR | CENTURY => self.write_time(value, now_s),
            REGISTER_A => self.register_a = value & !A_UPDATE_IN_PROGRESS,
            REGISTER_B => self.write_register_b(value, now_s),
            REGISTER_C | REGISTER_D => self.counters.bad_accesses += 1,
            index => self.memory[usize::from(index)] = value,
        }
    }

    fn write_register_b(&mut self, value: u8, now_s: i64) {
        self.register_b = value;
        if value & B_SET != 0 {
            let time = self.time(now_s);
            self.latch.get_or_insert(time);
        } else if let Some(time) = self.latch.take() {
            self.set_time(time, now_s);
        }
    }

    /// Changes one field, in the latch if SET is held and in the running clock otherwise.
    fn write_time(&mut self, value: u8, now_s: i64) {
        let held = self.latch;
        let mut time = held.unwrap_or_else(|| self.time(now_s));
        match self.index {
            SECONDS => time.second = self.decode(value),
            MINUTES => time.minute = self.decode(value),
            HOURS => time.hour = self.decode_hour(value),
            DAY => time.day = self.decode(value),
            MONTH => time.month = self.decode(value),
            YEAR => time.year = time.year / 100 * 100 + u16::from(self.decode(value) % 100),
            CENTURY => time.year = time.year % 100 + 100 * u16::from(self.decode(value) % 100),
            // The day of the week follows from the date.
            _ => {}
        }
        if held.is_some() {
            self.latch = Some(time);
        } else {
            self.set_time(time, now_s);
        }
    }

    fn set_time(&mut self, time: DateTime, now_s: i64) {
        match to_seconds(time) {
            Some(seconds) => self.ahead_s = seconds - now_s.clamp(0, SECONDS_MAX),
            None => self.counters.bad_requests += 1,
        }
    }

    fn time(&self, now_s: i64) -> DateTime {
        from_seconds(now_s.clamp(0, SECONDS_MAX) + self.ahead_s)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.register_b & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.register_b & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0x0f) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.register_b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let of_twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(of_twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.register_b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let of_twelve = self.decode(value & !PM) % 12;
        of_twelve + if value & PM != 0 { 12 } else { 0 }
    }
}

impl Chip for Cmos {
    type State = CmosState;

    const PORTS: &'static [Range] = &[Range::new(PORT as u64, 2)];

    /// The guest reads the index port (offset 0) or the data port (offset 1).
    fn handle_read(&mut self, offset: u64, data: &mut [u8], clock: Clock<'_>) {
        match (offset, data) {
            (1, [byte]) => *byte = self.read(clock()),
            // The index port cannot be read back on a PC.
            (0, [byte]) => *byte = 0xff,
            (_, data) => {
                data.fill(0xff);
                self.counters.bad_accesses += 1;
            }
        }
    }

    /// The guest writes the index port (offset 0) or the data port (offset 1).
    fn handle_write(&mut self, offset: u64, data: &[u8], clock: Clock<'_>) {
        match (offset, data) {
            // The top bit of the index port masks NMIs on a PC and is no part of the index.
            (0, &[value]) => self.index = value & 0x7f,
            (1, &[value]) => self.write(value, clock()),
            _ => self.counters.bad_accesses += 1,
        }
    }

    fn describe(tables: &mut Tables) {
        tables.fadt.century = CENTURY;
        tables.plain_device("RTC_", &aml::EISAName::new("PNP0B00"), 0, &[&aml::IO::new(PORT, PORT, 1, 2)]);
    }

    fn save(&self) -> CmosState {
        let Self { index, register_a, register_b, ahead_s, latch, memory, counters: _ } = self;
        CmosState {
            index: *index,
            register_a: *register_a,
            register_b: *register_b,
            ahead_s: *ahead_s,
            latch: *latch,
            memory: memory.to_vec(),
        }
    }

    fn save_over(&self, state: &mut CmosState) {
        let Self { index, register_a, register_b, ahead_s, latch, memory, counters: _ } = self;
        let mut spare = std::mem::take(&mut state.memory);
        spare.clear();
        spare.extend_from_slice(memory);
        *state = CmosState {
            index: *index,
            register_a: *register_a,
            register_b: *register_b,
            ahead_s: *ahead_s,
            latch: *latch,
            memory: spare,
        };
    }

    fn restore(state: CmosState) -> Result<Self, RestoreError> {
        let CmosState { index, register_a, register_b, ahead_s, latch, memory } = state;
        let refuse = |register, value| Err(RestoreError::Register { device: CmosState::NAME, register, value });
        if index & 0x80 != 0 {
            return refuse("index", index.into());
        }
        if register_a & A_UPDATE_IN_PROGRESS != 0 {
            return refuse("A", register_a.into());
        }
        if ahead_s.unsigned_abs() > SECONDS_MAX.unsigned_abs() {
            return refuse("difference in seconds", ahead_s as u64);
        }
        if latch.is_some() != (register_b & B_SET != 0) {
            return refuse("B", register_b.into());
        }
        if let Some(time) = latch.filter(|time| time.year > YEAR_MAX) {
            return refuse("year", time.year.into());
        }
        let len = memory.len();
        let Ok(memory) = memory.try_into() else {
            return Err(RestoreError::TooLong { device: CmosState::NAME, buffer: "memory", len, max: CMOS_BYTES });
        };
        Ok(Self { index, register_a, register_b, ahead_s, latch, memory, counters: Counters::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// Sunday is 1.
fn day_of_week(time: DateTime) -> u8 {
    let days = days_from_civil(time.year, time.month.clamp(1, 12), time.day.max(1));
    // 1 January 1970 was a Thursday.
    (days + 4).rem_euclid(7) as u8 + 1
}

/// `None` if the fields are no date between 1970 and 9999.
fn to_seconds(time: DateTime) -> Option<i64> {
    let DateTime { year, month, day, hour, minute, second } = time;
    let date = (1970..=YEAR_MAX).contains(&year) && (1..=12).contains(&month);
    let valid = date && (1..=days_in_month(year, month)).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    valid.then(|| days_from_civil(year, month, day) * DAY_SECONDS + of_day)
}

/// Times outside 1970 to 9999 are shown as the nearest end.
fn from_seconds(seconds: i64) -> DateTime {
    let seconds = seconds.clamp(0, SECONDS_MAX - 1);
    let (mut days, of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    // The mean year is 365.2425 days; this start is never late and at most one year early.
    let mut year = 1970 + (days / 366) as u16;
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    days -= days_from_civil(year, 1, 1);
    let mut month = 1;
    while days >= i64::from(days_in_month(year, month)) {
        days -= i64::from(days_in_month(year, month));
        month += 1;
    }
    DateTime {
        year,
        month,
        day: days as u8 + 1,
        hour: (of_day / 3600) as u8,
        minute: (of_day / 60 % 60) as u8,
        second: (of_day % 60) as u8,
    }
}

/// Days from 1 January 1970 to a date of the Gregorian calendar.
fn days_from_civil(year: u16, month: u8, day: u8) -> i64 {
    let before = i64::from(year) - 1;
    let leaps = before / 4 - before / 100 + before / 400;
    let to_1970 = 1969 * 365 + 1969 / 4 - 1969 / 100 + 1969 / 400;
    let of_year: i64 = (1..month).map(|month| i64::from(days_in_month(year, month))).sum();
    before * 365 + leaps - to_1970 + of_year + i64::from(day) - 1
}

fn days_in_month(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
