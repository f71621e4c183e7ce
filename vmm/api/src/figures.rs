//! The table of what is recorded and counted of a machine. A row makes a field where it is recorded, a field of the status, lines
//! of [`metrics`](crate::metrics), its part of a reset, and columns of the benches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A distribution in six numbers; the unit is its row's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// What a distribution is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds; seconds for Prometheus, microseconds for benches.
    Nanoseconds,
    /// Pages or bytes.
    Count,
}

impl Unit {
    /// How many of them are Prometheus' unit.
    pub fn per_base(self) -> f64 {
        match self {
            Unit::Nanoseconds => 1e9,
            Unit::Count => 1.0,
        }
    }

    /// How many of them are the benches' unit.
    fn per_column(self) -> f64 {
        match self {
            Unit::Nanoseconds => 1e3,
            Unit::Count => 1.0,
        }
    }
}

/// A number of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Values recorded.
    Count,
    /// Arithmetic mean.
    Mean,
    /// Median.
    P50,
    /// 99th percentile.
    P99,
    /// Largest.
    Max,
}

impl Statistic {
    fn of(self, summary: &Summary, unit: Unit) -> f64 {
        match self {
            Statistic::Count => summary.count as f64,
            Statistic::Mean => summary.mean / unit.per_column(),
            Statistic::P50 => summary.p50 as f64 / unit.per_column(),
            Statistic::P99 => summary.p99 as f64 / unit.per_column(),
            Statistic::Max => summary.max as f64 / unit.per_column(),
        }
    }
}

/// A column of the benches.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// Its value.
    pub of: fn(&Distributions<Summary>) -> f64,
}

/// A row as Prometheus has it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The metric's name behind `outlast_`.
    pub name: &'static str,
    /// What it is, as a sentence.
    pub help: &'static str,
    /// What its values are.
    pub unit: Unit,
}

macro_rules! distributions {
    ($(
        #[doc = $help:literal]
        $field:ident: $json:literal $name:literal $unit:ident [$($statistic:ident $column:literal),*];
    )*) => {
        /// What is measured of a machine again and again: a recorder for each row where it is measured, a [`Summary`] where
        /// it is told.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        #[schemars(bound = "T: Default + Serialize + JsonSchema")]
        #[serde(bound(deserialize = "T: Default + Deserialize<'de>"))]
        pub struct Distributions<T> {
            $(
                #[doc = $help]
                #[serde(rename = $json)]
                pub $field: T,
            )*
        }

        impl<T> Distributions<T> {
            /// The same rows with what `make` makes of each value.
            pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> Distributions<U> {
                Distributions { $($field: make(&self.$field)),* }
            }
        }

        /// The columns of the benches, in the order of the table.
        pub const COLUMNS: &[Column] = &[$($(
            Column { name: $column, of: |all| Statistic::$statistic.of(&all.$field, Unit::$unit) },
        )*)*];

        impl Distributions<Summary> {
            /// The rows of the table with what was measured.
            pub fn rows(&self) -> Vec<(Row, Summary)> {
                vec![$((Row { name: $name, help: $help.trim_ascii(), unit: Unit::$unit }, self.$field)),*]
            }
        }
    };
}

macro_rules! counters {
    ($(
        #[doc = $help:literal]
        $field:ident: $name:literal;
    )*) => {
        /// What is counted of a machine: an atomic for each row where it is counted, a number where it is told.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        #[schemars(bound = "T: Default + Serialize + JsonSchema")]
        #[serde(bound(deserialize = "T: Default + Deserialize<'de>"))]
        pub struct Counters<T> {
            $(
                #[doc = $help]
                pub $field: T,
            )*
        }

        impl<T> Counters<T> {
            /// The same rows with what `make` makes of each value.
            pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> Counters<U> {
                Counters { $($field: make(&self.$field)),* }
            }
        }

        impl Counters<u64> {
            /// The rows of the table with what was counted.
            pub fn rows(&self) -> Vec<(Row, u64)> {
                vec![$((Row { name: $name, help: $help.trim_ascii(), unit: Unit::Count }, self.$field)),*]
            }
        }
    };
}

distributions! {
    /// From one boundary to the next: shorter than asked where something waited for the end, longer where the host was not done.
    length: "length_ns" "epoch_length_seconds" Nanoseconds [];
    /// Guest stopped for a boundary, from the first vCPU out to the gate open.
    pause: "pause_ns" "epoch_pause_seconds" Nanoseconds
        [Count "epochs", P50 "pause_p50_us", P99 "pause_p99_us", Max "pause_max_us"];
    /// Part of the pause for saving vCPUs, chips and devices.
    save: "save_ns" "epoch_save_seconds" Nanoseconds [P50 "save_p50_us"];
    /// Part of the pause for harvesting the dirty log.
    harvest: "harvest_ns" "epoch_harvest_seconds" Nanoseconds [P50 "harvest_p50_us"];
    /// Part of the pause for copying dirty pages.
    copy: "copy_ns" "epoch_copy_seconds" Nanoseconds [P50 "copy_p50_us"];
    /// Guest stopped by back-pressure at a boundary.
    stall: "stall_ns" "guest_stall_seconds" Nanoseconds [P99 "stall_p99_us", Max "stall_max_us"];
    /// Pages written in an epoch.
    dirty_pages: "dirty_pages" "epoch_dirty_pages" Count
        [Mean "dirty_mean", P50 "dirty_p50", P99 "dirty_p99", Max "dirty_max"];
    /// Bytes shipped for an epoch, headers included.
    epoch_bytes: "epoch_bytes" "epoch_bytes" Count
        [Mean "bytes_mean", P50 "bytes_p50", P99 "bytes_p99", Max "bytes_max"];
    /// From the seal of an epoch to its commit.
    commit: "commit_ns" "epoch_commit_seconds" Nanoseconds
        [P50 "commit_p50_us", P99 "commit_p99_us", Max "commit_max_us"];
    /// From an epoch's first output to its release.
    hold: "hold_ns" "output_hold_seconds" Nanoseconds
        [Count "holds", P50 "hold_p50_us", P99 "hold_p99_us", Max "hold_max_us"];
    /// Part of the pause for protecting pages that are copied later.
    arm: "arm_ns" "epoch_arm_seconds" Nanoseconds [P50 "arm_p50_us"];
    /// Serving a write that came before the copy of its page.
    fault: "fault_ns" "capture_fault_seconds" Nanoseconds [P50 "fault_p50_us"];
    /// Pages of an epoch that are copied after its pause.
    armed_pages: "armed_pages" "epoch_armed_pages" Count [Mean "armed_mean"];
}

counters! {
    /// Epochs sealed.
    epochs: "epochs_total";
    /// Outputs let out.
    outputs: "outputs_total";
    /// Bytes of output released.
    output_bytes: "output_bytes_total";
    /// Outputs that the host's tap or console refused.
    outputs_lost: "outputs_lost_total";
    /// Bytes sent to a backup.
    shipped_bytes: "replicated_bytes_total";
    /// Exits of vCPUs to the VMM.
    exits: "exits_total";
    /// Bytes that the guest wrote to its console, whether let out yet or not.
    console_bytes: "console_bytes_total";
    /// Dirty pages copied in the pause.
    pages_copied_in_pause: "epoch_pages_copied_in_pause_total";
    /// Dirty pages protected in the pause and copied later.
    pages_armed: "epoch_pages_armed_total";
    /// Writes that came before the copy of their page, and waited for it.
    capture_faults: "epoch_pages_faulted_total";
}
