//! Counters and histograms of a running machine: what `status`, `/metrics` and the benchmarks read.
//!
//! Times are kept in nanoseconds with three significant digits; nothing is logged per epoch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use outlast_api::figures::{Counters, Distributions, Summary};

/// Values up to this have room in a histogram from the beginning: a minute, in ns.
const EXPECTED_MAX: u64 = 60_000_000_000;

/// A histogram that threads share.
#[derive(Debug)]
struct Recorder(Mutex<Histogram<u64>>);

impl Default for Recorder {
    fn default() -> Self {
        // With room for all that may be expected: a boundary that is longer than those before allocates nothing.
        let mut histogram = Histogram::new_with_max(EXPECTED_MAX, 3).expect("three significant digits are valid");
        histogram.auto(true);
        Self(Mutex::new(histogram))
    }
}

impl Recorder {
    fn record(&self, value: u64) {
        // `record` grows the histogram; `saturating_record` would cut the value to what it holds today.
        self.0.lock().expect("no holder of a histogram panics").record(value).expect("it grows to any value");
    }

    /// The distribution so far.
    fn summary(&self) -> Summary {
        let histogram = self.0.lock().expect("no holder of a histogram panics");
        Summary {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        }
    }

    /// Forgets what was recorded.
    fn reset(&self) {
        self.0.lock().expect("no holder of a histogram panics").reset();
    }
}

/// All numbers of one machine. What there is is in the table of [`outlast_api::figures`].
#[derive(Debug, Default)]
pub struct Stats {
    distributions: Distributions<Recorder>,
    counters: Counters<AtomicU64>,
    work: [AtomicU64; Work::ALL.len()],
}

/// Work of an epoch that is counted and not timed: the same on every machine, so that a rise is a change of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Heap allocations of vCPU threads, from the moment at which they see the gate close until they enter the guest again.
    BoundaryAllocations,
    /// Heap allocations of the ship thread for epochs.
    ShipAllocations,
    /// Heap allocations of the link thread for what it reads, acks above all, and what follows from that.
    LinkAllocations,
    /// Frames that an epoch is on the wire.
    Frames,
    /// Bytes of the dirty log that were read.
    LogBytes,
}

impl Work {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::BoundaryAllocations, Self::ShipAllocations, Self::LinkAllocations, Self::Frames, Self::LogBytes];
}

/// How the pages of an epoch were captured.
#[derive(Debug, Clone, Copy)]
pub struct CaptureCounts {
    /// Copied in the pause.
    pub copied: u64,
    /// Protected in the pause, to be copied later.
    pub armed: u64,
}

/// A boundary: how long the guest was stopped, and the parts of that which are told apart.
#[derive(Debug, Clone, Copy)]
pub struct BoundaryTimes {
    /// Guest stopped.
    pub pause: Duration,
    /// Saving vCPUs, chips and devices.
    pub save: Duration,
    /// Harvesting the dirty log.
    pub harvest: Duration,
    /// Copying dirty pages.
    pub copy: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Stats {
    /// An epoch was sealed: how long the guest was stopped, and for what.
    pub fn record_boundary(&self, times: BoundaryTimes, dirty_pages: usize) {
        let BoundaryTimes { pause, save, harvest, copy } = times;
        self.distributions.pause.record(nanos(pause));
        self.distributions.save.record(nanos(save));
        self.distributions.harvest.record(nanos(harvest));
        self.distributions.copy.record(nanos(copy));
        self.distributions.dirty_pages.record(dirty_pages as u64);
        self.counters.epochs.fetch_add(1, Ordering::Relaxed);
    }

    /// An epoch comes to its end, this long after the one before.
    pub fn record_length(&self, length: Duration) {
        self.distributions.length.record(nanos(length));
    }

    /// The pages of an epoch were captured; to protect those that are copied later took `arming`.
    pub fn record_capture(&self, pages: CaptureCounts, arming: Duration) {
        let CaptureCounts { copied, armed } = pages;
        self.counters.pages_copied_in_pause.fetch_add(copied, Ordering::Relaxed);
        self.counters.pages_armed.fetch_add(armed, Ordering::Relaxed);
        self.distributions.armed_pages.record(armed);
        self.distributions.arm.record(nanos(arming));
    }

    /// A write came before the copy of its page.
    pub fn count_fault(&self) {
        self.counters.capture_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// A write that came before the copy of its page was served, in this time.
    pub fn record_fault(&self, took: Duration) {
        self.distributions.fault.record(nanos(took));
    }

    /// An epoch was shipped.
    pub fn record_shipped(&self, bytes: u64) {
        self.distributions.epoch_bytes.record(bytes);
        self.counters.shipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An epoch was committed, this long after its seal.
    pub fn record_commit(&self, latency: Duration) {
        self.distributions.commit.record(nanos(latency));
    }

    /// An epoch's output was released, this long after the first of it.
    pub fn record_hold(&self, time: Duration) {
        self.distributions.hold.record(nanos(time));
    }

    /// The guest waited for the backup at a boundary.
    pub fn record_stall(&self, time: Duration) {
        self.distributions.stall.record(nanos(time));
    }

    /// An output went out.
    pub fn output_sent(&self, bytes: usize) {
        self.counters.outputs.fetch_add(1, Ordering::Relaxed);
        self.counters.output_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// An output was refused by the host.
    pub fn output_lost(&self) {
        self.counters.outputs_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Resynchronization bytes went to the backup.
    pub fn record_resync(&self, bytes: u64) {
        self.counters.shipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A vCPU came out to this process.
    pub fn count_exit(&self) {
        self.counters.exits.fetch_add(1, Ordering::Relaxed);
    }

    /// The guest wrote to its console.
    pub fn console_written(&self, bytes: usize) {
        self.counters.console_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts work; the threads that do it call this now and then.
    pub fn count_work(&self, kind: Work, amount: u64) {
        if amount > 0 {
            self.work[kind as usize].fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Work of this kind so far.
    pub fn work(&self, kind: Work) -> u64 {
        self.work[kind as usize].load(Ordering::Relaxed)
    }

    /// Forgets all distributions, so that they cover only what follows. Counters keep their values.
    pub fn reset_distributions(&self) {
        self.distributions.map(Recorder::reset);
    }

    /// The distributions so far.
    pub fn distributions(&self) -> Distributions<Summary> {
        self.distributions.map(Recorder::summary)
    }

    /// The counters now.
    pub fn counts(&self) -> Counters<u64> {
        self.counters.map(|counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorder_keeps_large_values() {
        let recorder = Recorder::default();
        recorder.record(5_000_000);
        let Summary { count, max, .. } = recorder.summary();
        assert_eq!(count, 1);
        assert!(max.abs_diff(5_000_000) < 5_000, "{max}");
    }
}
