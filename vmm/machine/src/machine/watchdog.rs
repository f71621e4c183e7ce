//! Telling the guest's watchdog how long the guest could run.
//!
//! Time in which the guest stood still does not count: while it is held or paused, at boundaries, however long they
//! wait for a commit, while its console takes nothing or a disk request waits for room, while this host did not run
//! this program, between a seal and the takeover or the resume from it. So the watchdog finds a guest that hangs, and
//! no host that is slow; it may be late.
//!
//! What it cannot tell from a guest that hangs: a guest whose virtual processors the host gives no time although this program
//! gets some.

use std::time::{Duration, Instant};

use super::{End, Machine};

/// Between two looks while it runs, which is its own period; and while it does not.
const PERIOD: Duration = Duration::from_millis(devices::watchdog::PERIOD_MS as u64);
const REST: Duration = Duration::from_secs(1);
/// What counts at most between two looks: when more has passed, this program did not run, and its guest may not have either.
const PASSED_MAX: Duration = Duration::from_millis(2 * devices::watchdog::PERIOD_MS as u64);

/// What part of the time that the gate was open counts.
#[derive(Debug)]
struct Passed {
    /// The time that the gate was open up to which everything has counted, or does not.
    until: Duration,
}

impl Passed {
    fn since(time_open: Duration) -> Self {
        Self { until: time_open }
    }

    /// Milliseconds that count since the last call. What is less than one counts next time.
    fn up_to(&mut self, time_open: Duration, counts: bool) -> u32 {
        let passed = time_open.saturating_sub(self.until);
        if !counts || passed > PASSED_MAX {
            self.until = time_open;
            return if counts { PASSED_MAX.as_millis() as u32 } else { 0 };
        }
        let ms = passed.as_millis() as u32;
        self.until += Duration::from_millis(ms.into());
        ms
    }
}

/// Tells it until the machine ends. The body of its thread.
pub(super) fn run(machine: &Machine) {
    let mut passed = Passed::since(machine.gate().time_open());
    let mut running = machine.board().is_watched();
    loop {
        let (rest, began) = (if running { PERIOD } else { REST }, Instant::now());
        if machine.ends_within(rest) {
            return;
        }
        machine.program_stops().note(rest, began.elapsed());
        // One that was started since the last look begins to count now.
        let counts = running && !machine.egress().is_console_full() && !machine.troubles().is_waiting();
        let ms = passed.up_to(machine.gate().time_open(), counts);
        let given = machine.input(|board| {
            let (is_watched, effects) = (board.is_watched(), board.handle_time(ms));
            ((is_watched, effects.end), effects)
        });
        match given {
            Ok((is_watched, end)) => {
                running = is_watched;
                end.into_iter().for_each(|how| machine.end(End::Guest(how)));
            }
            Err(error) => machine.fail(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn passed_is_what_the_gate_was_open_to_the_millisecond() {
        let mut passed = Passed::since(7 * MS);
        let parts: Vec<u32> = (1..=100).map(|look| passed.up_to(7 * MS + look * 100_300 * MS / 1000, true)).collect();
        assert_eq!(parts.iter().sum::<u32>(), 10_030);
        assert_eq!(passed.up_to(7 * MS + 10_030 * MS, true), 0, "a gate that did not open in between");
    }

    #[test]
    fn program_that_was_stopped_for_an_hour_has_lost_two_periods() {
        let mut passed = Passed::since(Duration::ZERO);
        assert_eq!(passed.up_to(Duration::from_secs(3600), true), 200);
        assert_eq!(passed.up_to(Duration::from_secs(3600) + 100 * MS, true), 100);
    }

    #[test]
    fn time_that_does_not_count_never_counts_later() {
        let mut passed = Passed::since(Duration::ZERO);
        assert_eq!(passed.up_to(150 * MS, false), 0);
        assert_eq!(passed.up_to(250 * MS, true), 100);
    }
}
