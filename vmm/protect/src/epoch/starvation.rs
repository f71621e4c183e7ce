//! What epochs take from a guest that has no rest: a rule of the pace ([`super::pace`]).

use std::time::Duration;

use super::usage::Usage;

/// How long an epoch lasts at least so that its guest gets a share of a processor that it always wants.
///
/// The pace knows what this program does for an epoch. It does not know what the guest itself pays for one: faults on pages that it
/// writes first in an epoch, and the time in which other threads have its only processor. On a slow host with one processor that is
/// several times as much, and epochs that are as short as that allows leave the guest time for a single answer, whose output
/// then demands the next boundary. What the guest slept is taken off: one that waits for its client lacks nothing.
///
/// The kernel counts only a part of a fault: to leave the guest, and to find again the translations that the processor lost by that,
/// count as the guest's own time. So a guest that writes much first is measured by how many such writes it made, once it is known what
/// one costs ([`machine::kvm::first_write_cost`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Starvation {
    /// Boundaries since the last stretch ended, and processor time that was worked for epochs.
    boundaries: u32,
    worked: Duration,
    /// First writes of the epochs that were sealed since, and what one costs, if that is known.
    first_writes: u32,
    first_write: Duration,
    /// It had no rest, and its first writes were many.
    wants_cost: bool,
    least: Duration,
}

impl Starvation {
    /// Of an epoch's time, what is taken from the guest is at most a half.
    const OVER_TAKEN: f64 = 2.0;
    /// Threads that send, read acks and wake others work about as much for an epoch as the one that ships it, whose time is known.
    const WORK_COUNTS: u32 = 2;
    /// So many times what it slept is taken off: a guest that sleeps for more than a tenth of its time is not starved.
    const SLEEP_COUNTS: u32 = 4;
    /// So many first writes in an epoch are many: on hardware they take a guest 0.2 ms.
    const FIRST_WRITES_MANY: u32 = 64;

    /// Another session begins. What a first write costs on this host does not change.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { first_write: self.first_write, ..Self::default() };
    }

    /// How long an epoch lasts at least.
    pub(super) fn least(&self) -> Duration {
        self.least
    }

    /// A boundary is over.
    pub(super) fn note_boundary(&mut self) {
        self.boundaries += 1;
    }

    /// An epoch took so much of a processor's time.
    pub(super) fn note_worked(&mut self, worked: Duration) {
        self.worked += worked;
    }

    /// An epoch was sealed in which the guest paid for so many first writes.
    pub(super) fn note_first_writes(&mut self, count: u32) {
        self.first_writes = self.first_writes.saturating_add(count);
    }

    /// Whether it matters what a first write costs, and is not known.
    pub(super) fn wants_first_write_cost(&self) -> bool {
        self.wants_cost && self.first_write.is_zero()
    }

    /// What a guest pays on this host for the first write to a page.
    pub(super) fn set_first_write_cost(&mut self, cost: Duration) {
        self.first_write = cost;
    }

    /// What the vCPUs did since the last call, or since epochs began.
    pub(super) fn note_usage(&mut self, usage: Usage) {
        let (boundaries, worked) = (std::mem::take(&mut self.boundaries), std::mem::take(&mut self.worked));
        let first_writes = std::mem::take(&mut self.first_writes);
        let Usage { passed, ran, in_kernel, waited, vcpus } = usage;
        if boundaries == 0 || passed.is_zero() {
            return;
        }
        let slept = passed.saturating_sub(ran + waited);
        self.wants_cost = slept * Self::SLEEP_COUNTS < passed && first_writes / boundaries >= Self::FIRST_WRITES_MANY;
        // The kernel's part of them is in both.
        let in_kernel = in_kernel.max(self.first_write * (first_writes / vcpus.max(1)));
        // For others than epochs it would wait as long in longer epochs.
        let waited = waited.min(worked * Self::WORK_COUNTS);
        let taken = (in_kernel + waited).saturating_sub(slept * Self::SLEEP_COUNTS);
        let least = (taken / boundaries).mul_f64(Self::OVER_TAKEN);
        self.least = (self.least + least) / 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_that_is_not_starved_any_more_is_given_half_as_much_at_each_look() {
        let second = Duration::from_secs(1);
        let mut starved = Starvation { least: second, ..Starvation::default() };
        let mut leasts = Vec::new();
        for _ in 0..12 {
            starved.boundaries = 50;
            let (ran, in_kernel) = (second, second / 10);
            starved.note_usage(Usage { passed: second, ran, in_kernel, waited: Duration::ZERO, vcpus: 1 });
            leasts.push(starved.least.as_millis());
        }
        assert_eq!(leasts[..3], [502, 253, 128]);
        assert_eq!(leasts[11], 4, "what it still lacks");
    }
}
