//! A watchdog of the kind that ACPI's WDAT table describes: three registers of 32 bits on I/O ports.
//!
//! ```text
//!   0  control    bit 0: it runs. Written: starts it with the full count, or stops it
//!   4  countdown  the full count, in periods of 100 ms. Written: sets it, and begins anew
//!   8  current    what is left of it. Written, whatever: begins anew
//! ```
//!
//! It has no clock: [`Chip::handle_time`] gives it time, and the caller gives it only time in which the guest could
//! have run. So a guest that was stopped, saved or moved has not come nearer to the end. When nothing is left it stops
//! running and reports that to the caller once.
//!
//! Source: Microsoft, "Hardware Watchdog Timers Design Specification", 2006, which ACPI refers to.

mod wdat;

use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use crate::RestoreError;
use crate::acpi::Tables;
use crate::bus::Range;
use crate::chip::{Chip, Clock, Effect};
use crate::counters::Counters;

/// Its first port.
pub const PORT: u16 = 0x610;

/// Milliseconds of one count.
pub const PERIOD_MS: u32 = 100;
/// Shortest full count: one second.
pub const COUNT_MIN: u32 = 10;
/// Longest full count: ten minutes.
pub const COUNT_MAX: u32 = 6000;

/// Offset of the control register.
pub const CONTROL: u16 = 0;
/// Offset of the countdown register.
pub const COUNTDOWN: u16 = 4;
/// Offset of the current register.
pub const CURRENT: u16 = 8;
/// The control register's bit that says that it runs.
pub const RUNNING: u32 = 1;

/// Saved form of [`Watchdog`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogState {
    /// It runs.
    pub running: bool,
    /// The full count, [`COUNT_MIN`] to [`COUNT_MAX`].
    pub count: u32,
    /// Milliseconds left of it.
    pub left_ms: u32,
    /// It ran out and the caller has not heard of it.
    pub expired: bool,
}

impl Section for WatchdogState {
    const NAME: &'static str = "watchdog";
    const VERSION: u16 = 1;
}

/// A watchdog.
#[derive(Debug)]
pub struct Watchdog {
    running: bool,
    count: u32,
    left_ms: u32,
    expired: bool,
    counters: Counters,
}

impl Default for Watchdog {
    fn default() -> Self {
        let count = COUNT_MAX;
        Self { running: false, count, left_ms: count * PERIOD_MS, expired: false, counters: Counters::default() }
    }
}

impl Chip for Watchdog {
    type State = WatchdogState;

    const PORTS: &'static [Range] = &[Range::new(PORT as u64, 12)];

    /// The guest reads a register.
    fn handle_read(&mut self, offset: u64, data: &mut [u8], _clock: Clock<'_>) {
        let value = match (offset, data.len()) {
            (0, 4) => u32::from(self.running) * RUNNING,
            (4, 4) => self.count,
            (8, 4) => self.left_ms.div_ceil(PERIOD_MS),
            _ => {
                data.fill(0xff);
                self.counters.bad_accesses += 1;
                return;
            }
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    /// The guest writes a register. A count out of its bounds is taken as the nearest one.
    fn handle_write(&mut self, offset: u64, data: &[u8], _clock: Clock<'_>) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            self.counters.bad_accesses += 1;
            return;
        };
        match offset {
            0 => self.running = value & RUNNING != 0,
            4 => self.count = value.clamp(COUNT_MIN, COUNT_MAX),
            8 => {}
            _ => {
                self.counters.bad_accesses += 1;
                return;
            }
        }
        self.left_ms = self.count * PERIOD_MS;
    }

    fn handle_time(&mut self, ms: u32) {
        if !self.running {
            return;
        }
        self.left_ms = self.left_ms.saturating_sub(ms);
        if self.left_ms == 0 {
            (self.running, self.expired) = (false, true);
        }
    }

    fn wants_time(&self) -> bool {
        self.running
    }

    fn poll_effects(&mut self, act: &mut dyn FnMut(Effect)) {
        if std::mem::take(&mut self.expired) {
            act(Effect::WatchdogExpired);
        }
    }

    fn describe(tables: &mut Tables) {
        tables.table(wdat::wdat());
    }

    fn save(&self) -> WatchdogState {
        let Self { running, count, left_ms, expired, counters: _ } = self;
        WatchdogState { running: *running, count: *count, left_ms: *left_ms, expired: *expired }
    }

    fn restore(state: WatchdogState) -> Result<Self, RestoreError> {
        let WatchdogState { running, count, left_ms, expired } = state;
        let refuse = |register, value: u32| RestoreError::Register {
            device: WatchdogState::NAME,
            register,
            value: value.into(),
        };
        if !(COUNT_MIN..=COUNT_MAX).contains(&count) {
            return Err(refuse("countdown", count));
        }
        if left_ms > count * PERIOD_MS || (running && left_ms == 0) {
            return Err(refuse("current", left_ms));
        }
        Ok(Self { running, count, left_ms, expired, counters: Counters::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::{effects, midnight};

    fn write(watchdog: &mut Watchdog, register: u16, value: u32) {
        watchdog.handle_write(register.into(), &value.to_le_bytes(), &midnight);
    }

    fn read(watchdog: &mut Watchdog, register: u16) -> u32 {
        let mut data = [0; 4];
        watchdog.handle_read(register.into(), &mut data, &midnight);
        u32::from_le_bytes(data)
    }

    fn running(count: u32) -> Watchdog {
        let mut watchdog = Watchdog::default();
        write(&mut watchdog, COUNTDOWN, count);
        write(&mut watchdog, CONTROL, RUNNING);
        watchdog
    }

    #[test]
    fn time_without_a_sign_of_life_ends_it_once() {
        let mut watchdog = running(20);
        watchdog.handle_time(1999);
        assert_eq!(effects(&mut watchdog), []);
        assert_eq!(read(&mut watchdog, CURRENT), 1);
        watchdog.handle_time(1);
        assert_eq!((effects(&mut watchdog), effects(&mut watchdog)), (vec![Effect::WatchdogExpired], vec![]));
        assert_eq!(read(&mut watchdog, CONTROL), 0);
        watchdog.handle_time(100_000);
        assert_eq!(effects(&mut watchdog), []);
    }

    #[test]
    fn sign_of_life_begins_anew_and_stopped_it_never_ends() {
        let mut watchdog = running(20);
        for _ in 0..10 {
            watchdog.handle_time(1900);
            write(&mut watchdog, CURRENT, 1);
        }
        assert_eq!(read(&mut watchdog, CURRENT), 20);
        write(&mut watchdog, CONTROL, 0);
        watchdog.handle_time(u32::MAX);
        assert_eq!(effects(&mut watchdog), []);
    }

    #[test]
    fn counts_out_of_bounds_are_taken_as_the_nearest() {
        for (asked, got) in [(0, COUNT_MIN), (300, 300), (u32::MAX, COUNT_MAX)] {
            assert_eq!(read(&mut running(asked), COUNTDOWN), got);
        }
    }

    #[test]
    fn accesses_of_other_widths_are_counted_and_change_nothing() {
        let mut watchdog = running(20);
        let before = watchdog.save();
        watchdog.handle_write(0, &[0], &midnight);
        watchdog.handle_write(12, &[0; 4], &midnight);
        watchdog.handle_read(4, &mut [0; 2], &midnight);
        assert_eq!((watchdog.save(), watchdog.counters().bad_accesses), (before, 3));
    }

    #[test]
    fn restore_of_what_cannot_be_is_refused() {
        let good = running(20).save();
        assert!(Watchdog::restore(good.clone()).is_ok());
        for bad in [
            WatchdogState { count: 0, ..good.clone() },
            WatchdogState { count: COUNT_MAX + 1, ..good.clone() },
            WatchdogState { left_ms: 2001, ..good.clone() },
            WatchdogState { left_ms: 0, ..good },
        ] {
            assert!(Watchdog::restore(bad).is_err());
        }
    }
}
