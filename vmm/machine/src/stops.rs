//! Stops that a guest could notice: its kernel's watchdogs must not take them for a processor that hangs.
//!
//! Between two times in `KVM_RUN` a vCPU stands still: at a boundary that waits for a commit, while the guest is held or
//! paused, while its console takes nothing, while an access is served. And all vCPUs stand still when this program is
//! stopped. Before it enters the guest again after a long stop, a vCPU has KVM tell the guest (`KVM_KVMCLOCK_CTRL`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stop of this length or more is reported to the guest. Linux looks for skewed clocks twice a second, and for what
/// hangs after seconds.
pub(super) const NOTICED: Duration = Duration::from_millis(100);

/// Stops of the whole program, counted by a thread that should have run in time.
#[derive(Debug, Default)]
pub struct ProgramStops(AtomicU64);

impl ProgramStops {
    /// A thread that wanted to sleep for `asked` was away for `passed`.
    pub(super) fn note(&self, asked: Duration, passed: Duration) {
        if passed >= asked + NOTICED {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What one vCPU knows of its stops.
#[derive(Debug)]
pub(super) struct Stops {
    out_since: Instant,
    of_program: u64,
}

impl Stops {
    /// A vCPU whose guest was told when it started.
    pub(super) fn since(now: Instant) -> Self {
        Self { out_since: now, of_program: 0 }
    }

    /// It came out of the guest.
    pub(super) fn handle_exit(&mut self, now: Instant) {
        self.out_since = now;
    }

    /// Whether the guest is to be told before it runs again.
    pub(super) fn is_noticed(&mut self, now: Instant, program: &ProgramStops) -> bool {
        let count = program.count();
        let is_new = std::mem::replace(&mut self.of_program, count) != count;
        is_new || now.duration_since(self.out_since) >= NOTICED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn stop_is_noticed_by_its_length_whatever_it_was_for() {
        let (began, program) = (Instant::now(), ProgramStops::default());
        let mut stops = Stops::since(began);
        assert!(!stops.is_noticed(began + 99 * MS, &program));
        assert!(stops.is_noticed(began + 100 * MS, &program));
        stops.handle_exit(began + 500 * MS);
        assert!(!stops.is_noticed(began + 510 * MS, &program), "it ran in between");
        assert!(stops.is_noticed(began + 3600 * 1000 * MS, &program));
    }

    #[test]
    fn stop_of_the_program_is_noticed_once_by_each_vcpu_although_none_was_out_for_long() {
        let (began, program) = (Instant::now(), ProgramStops::default());
        let (mut first, mut second) = (Stops::since(began), Stops::since(began));
        program.note(1000 * MS, 1050 * MS);
        assert!(!first.is_noticed(began, &program), "a thread that woke a little late");
        program.note(1000 * MS, 5000 * MS);
        assert!(first.is_noticed(began, &program));
        assert!(!first.is_noticed(began, &program));
        assert!(second.is_noticed(began, &program));
    }
}
