//! Telling the guest's watchdog how long the guest could run.
//!
//! Time in which the guest stood still does not count: while it is held or paused, while a boundary waits, while this host
//! did not run this program. So the watchdog finds a guest that hangs, and no host that is slow; it may be late.

use std::time::{Duration, Instant};

use super::board::GuestEnd;
use super::crash::Crash;
use super::{End, Machine};

/// Between two looks while it runs, which is its own period; and while it does not.
const PERIOD: Duration = Duration::from_millis(devices::watchdog::PERIOD_MS as u64);
const REST: Duration = Duration::from_secs(1);

/// Tells it until the machine ends. The body of its thread.
pub(super) fn run(machine: &Machine) {
    let mut looked = Instant::now();
    let mut running = false;
    while !machine.ends_within(if running { PERIOD } else { REST }) {
        let now = Instant::now();
        let passed = if running && machine.gate().is_open() { (now - looked).min(2 * PERIOD) } else { Duration::ZERO };
        looked = now;
        let expired = {
            let mut board = machine.board();
            running = board.is_watched();
            board.handle_time(passed.as_millis() as u32)
        };
        if expired {
            machine.end(End::Guest(GuestEnd::Crashed(Crash::Watchdog)));
        }
    }
}
