//! What the bench is asked to do, and its command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum, ValueHint};
use protect::transport::Endpoint;
use serde::Serialize;
use vmm::config::{EpochLength, TimeSpan};

/// A question that `outlast bench` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BenchKind {
    /// Run time relative to the unprotected guest, over the epoch length.
    EpochSweep,
    /// Run time relative to the unprotected guest, over the time between two local commits.
    LocalSweep,
    /// Throughput, request and answer, and lost datagrams over the network, relative to the unprotected guest.
    Network,
    /// System calls, heap allocations, wake-ups and bytes of an epoch; fails where one is above the most that is allowed.
    /// Needs `strace`.
    Counts,
    /// Length of a pause, over the number of dirty pages.
    Pause,
    /// What the ways to a backup carry: a unix socket, TCP, and TLS, on loopback. Needs no guest.
    Channel,
    /// Transactions on recoverable memory, compared with plain stores, LMDB and libpmemobj. Needs no guest.
    Recoverable,
    /// A large file written and then synced, and small writes each synced, relative to the unprotected guest.
    SyncedWrites,
}

/// Measure what protection costs; writes CSV, SVG and an HTML page
#[derive(Parser, Clone, Debug, PartialEq, Eq, Serialize)]
#[command(name = "outlast-bench", bin_name = "outlast bench", version, max_term_width = 110)]
pub(crate) struct BenchConfig {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) kind: BenchKind,
    /// Directory for the results. Results of an interrupted run in it are kept, and the run continues
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Fewer points; takes under five minutes, `network` about a minute for each epoch length
    #[arg(long)]
    pub(crate) quick: bool,
    /// Repetitions of each point; a single one shows no spread
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: Option<u32>,
    /// Guest kernel; without it, bare guests are measured
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM file system for --kernel
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
    pub(crate) initramfs: Option<PathBuf>,
    /// Command line for --kernel [default: console=ttyS0]
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub(crate) cmdline: Option<String>,
    /// The guest serves redis on port 6379: measure that too
    #[arg(long, requires = "kernel")]
    pub(crate) redis: bool,
    /// The guest serves PostgreSQL on port 5432, with the tables of `pgbench`: measure that too
    #[arg(long, requires = "kernel")]
    pub(crate) postgres: bool,
    /// Image with an ext4 file system for the guest; it is copied. Without it the disk is not measured
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
    pub(crate) disk: Option<PathBuf>,
    /// Protect the guest with this running `outlast backup --name bench`, instead of one that the bench starts
    #[arg(long, value_name = "tcp:HOST:PORT", requires = "kernel", requires = "tap")]
    pub(crate) backup: Option<Endpoint>,
    /// Tap for the guest, instead of a network namespace that the bench makes. This host must reach 10.77.0.10 through
    /// it
    #[arg(long, value_name = "NAME", requires = "backup")]
    pub(crate) tap: Option<String>,
    /// Directory of the bare guests [default: $OUTLAST_BARE, else beside the build of this program]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) guests: Option<PathBuf>,
    /// Measure only epochs of this length; repeatable
    #[arg(long = "epoch", value_name = "TIME|auto")]
    pub(crate) epochs: Vec<EpochLength>,
    /// Shortest epoch of `network`, however much waits for a boundary, as `outlast run --min-epoch`
    #[arg(long, value_name = "TIME")]
    pub(crate) min_epoch: Option<TimeSpan>,
    /// Measure only this workload of a sweep (cpu, memory, network, disk-write, disk-read, …), this flow of `network`
    /// (tcp-from-1, or tcp-from for all of its kind), or these writes of `synced-writes` (small, bulk-300); repeatable
    #[arg(long = "workload", value_name = "NAME")]
    pub(crate) workloads: Vec<String>,
}

impl BenchConfig {
    /// An option that this question does not take, as it was typed. To ignore it would measure something else than was asked for.
    pub(crate) fn stray_option(&self) -> Option<&'static str> {
        let takes_workloads = !matches!(self.kind, BenchKind::Pause | BenchKind::Channel | BenchKind::Recoverable);
        let takes_epochs = takes_workloads && self.kind != BenchKind::Counts;
        match () {
            () if !takes_workloads && !self.workloads.is_empty() => Some("--workload"),
            () if !takes_epochs && !self.epochs.is_empty() => Some("--epoch"),
            () if self.kind != BenchKind::Network && self.min_epoch.is_some() => Some("--min-epoch"),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_another_question_are_named() {
        let stray = |line: &str| BenchConfig::try_parse_from(line.split(' ')).expect("it is a question").stray_option();
        assert_eq!(stray("b network --out o --epoch 20ms --workload ask-64-1"), None);
        assert_eq!(stray("b network --out o --min-epoch 20ms"), None);
        assert_eq!(stray("b epoch-sweep --out o --min-epoch 20ms"), Some("--min-epoch"));
        assert_eq!(stray("b counts --out o --workload idle"), None);
        assert_eq!(stray("b counts --out o --epoch 20ms"), Some("--epoch"));
        assert_eq!(stray("b pause --out o --workload nope"), Some("--workload"));
        assert_eq!(stray("b pause --out o --quick"), None);
    }
}
