//! Counters and histograms of a running machine: what `status`, `/metrics` and the benchmarks read.
//!
//! Times are kept in nanoseconds with three significant digits; nothing is logged per epoch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Values up to this have room in a histogram from the beginning: a minute, in ns.
const EXPECTED_MAX: u64 = 60_000_000_000;

/// A histogram that threads share.
#[derive(Debug)]
pub struct Recorder(Mutex<Histogram<u64>>);

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
    pub fn summary(&self) -> Summary {
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
    pub fn reset(&self) {
        self.0.lock().expect("no holder of a histogram panics").reset();
    }
}

/// A distribution in six numbers; the unit is the recorder's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    /// Values recorded.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// All numbers of one machine.
#[derive(Debug, Default)]
pub struct Stats {
    /// An epoch from the boundary before it to its own, in ns: shorter than asked where something waited for its end,
    /// longer where the host was not done with the one before.
    pub length: Recorder,
    /// Guest stopped for a boundary, from the first vCPU out to the gate open, in ns.
    pub pause: Recorder,
    /// Part of the pause spent saving vCPUs, chips and devices, in ns.
    pub save: Recorder,
    /// Part of the pause spent harvesting the dirty log, in ns.
    pub harvest: Recorder,
    /// Part of the pause spent copying dirty pages, in ns.
    pub copy: Recorder,
    /// Part of the pause spent protecting pages that are copied later, in ns.
    pub arm: Recorder,
    /// Serving a write that came before the copy of its page, in ns.
    pub fault: Recorder,
    /// Pages of an epoch that are copied after its pause.
    pub armed_pages: Recorder,
    /// Dirty pages of an epoch.
    pub dirty_pages: Recorder,
    /// Bytes shipped for an epoch, headers included.
    pub epoch_bytes: Recorder,
    /// From the seal to the commit, in ns.
    pub commit: Recorder,
    /// From the first output of an epoch to its release, in ns.
    pub hold: Recorder,
    /// Guest stopped by back-pressure at one boundary, in ns.
    pub stall: Recorder,
    epochs: AtomicU64,
    outputs: AtomicU64,
    output_bytes: AtomicU64,
    outputs_lost: AtomicU64,
    shipped_bytes: AtomicU64,
    exits: AtomicU64,
    console_bytes: AtomicU64,
    pages_copied: AtomicU64,
    pages_armed: AtomicU64,
    faults: AtomicU64,
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

/// What [`Stats`] has counted.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Counts {
    /// Epochs sealed.
    pub epochs: u64,
    /// Outputs let out.
    pub outputs: u64,
    /// Their bytes.
    pub output_bytes: u64,
    /// Outputs that the host's tap or console refused.
    pub outputs_lost: u64,
    /// Bytes sent to a backup.
    pub shipped_bytes: u64,
    /// Exits of vCPUs to this process.
    pub exits: u64,
    /// Bytes that the guest wrote to its console, whether let out yet or not.
    pub console_bytes: u64,
    /// Pages of epochs that were copied in the pause.
    pub pages_copied_in_pause: u64,
    /// Pages of epochs that were protected in the pause and copied later.
    pub pages_armed: u64,
    /// Writes that came before the copy of their page, and waited for it.
    pub capture_faults: u64,
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
        self.pause.record(nanos(pause));
        self.save.record(nanos(save));
        self.harvest.record(nanos(harvest));
        self.copy.record(nanos(copy));
        self.dirty_pages.record(dirty_pages as u64);
        self.epochs.fetch_add(1, Ordering::Relaxed);
    }

    /// An epoch comes to its end, this long after the one before.
    pub fn record_length(&self, length: Duration) {
        self.length.record(nanos(length));
    }

    /// The pages of an epoch were captured; to protect those that are copied later took `arming`.
    pub fn record_capture(&self, pages: CaptureCounts, arming: Duration) {
        let CaptureCounts { copied, armed } = pages;
        self.pages_copied.fetch_add(copied, Ordering::Relaxed);
        self.pages_armed.fetch_add(armed, Ordering::Relaxed);
        self.armed_pages.record(armed);
        self.arm.record(nanos(arming));
    }

    /// A write came before the copy of its page.
    pub fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// A write that came before the copy of its page was served, in this time.
    pub fn record_fault(&self, took: Duration) {
        self.fault.record(nanos(took));
    }

    /// An epoch was shipped.
    pub fn record_shipped(&self, bytes: u64) {
        self.epoch_bytes.record(bytes);
        self.shipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An epoch was committed, this long after its seal.
    pub fn record_commit(&self, latency: Duration) {
        self.commit.record(nanos(latency));
    }

    /// An epoch's output was released, this long after the first of it.
    pub fn record_hold(&self, time: Duration) {
        self.hold.record(nanos(time));
    }

    /// The guest waited for the backup at a boundary.
    pub fn record_stall(&self, time: Duration) {
        self.stall.record(nanos(time));
    }

    /// An output went out.
    pub fn output_sent(&self, bytes: usize) {
        self.outputs.fetch_add(1, Ordering::Relaxed);
        self.output_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// An output was refused by the host.
    pub fn output_lost(&self) {
        self.outputs_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Resynchronization bytes went to the backup.
    pub fn record_resync(&self, bytes: u64) {
        self.shipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A vCPU came out to this process.
    pub fn count_exit(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
    }

    /// The guest wrote to its console.
    pub fn console_written(&self, bytes: usize) {
        self.console_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
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
        let Self {
            length,
            pause,
            save,
            harvest,
            copy,
            arm,
            fault,
            armed_pages,
            dirty_pages,
            epoch_bytes,
            commit,
            hold,
            stall,
            ..
        } = self;
        for recorder in
            [length, pause, save, harvest, copy, arm, fault, armed_pages, dirty_pages, epoch_bytes, commit, hold, stall]
        {
            recorder.reset();
        }
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            epochs: get(&self.epochs),
            outputs: get(&self.outputs),
            output_bytes: get(&self.output_bytes),
            outputs_lost: get(&self.outputs_lost),
            shipped_bytes: get(&self.shipped_bytes),
            exits: get(&self.exits),
            console_bytes: get(&self.console_bytes),
            pages_copied_in_pause: get(&self.pages_copied),
            pages_armed: get(&self.pages_armed),
            capture_faults: get(&self.faults),
        }
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
