//! What the commands `bench` and `demo` are asked to do.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::ft::{Endpoint, EpochLength};

/// A question that `outlast bench` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BenchKind {
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
    /// Transactions on recoverable memory, compared with plain stores, LMDB and libpmemobj. Needs no guest.
    Recoverable,
    /// A large file written and then synced, and small writes each synced, relative to the unprotected guest.
    SyncedWrites,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BenchConfig {
    /// The question.
    pub kind: BenchKind,
    /// Where CSV, SVG and the page go. What is there from an interrupted run is kept and continued.
    pub out: PathBuf,
    /// Fewer lengths and repetitions: under five minutes; for the network, about a minute for each length.
    pub quick: bool,
    /// Repetitions of each point, at least 1; none means the bench's own choice. One alone shows no spread.
    pub repeat: Option<u32>,
    /// Guest kernel; none means a bare guest that comes with the bench.
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system of that kernel.
    pub initramfs: Option<PathBuf>,
    /// Its command line; none means a console only.
    pub cmdline: Option<String>,
    /// The guest serves redis on its usual port: measure that too.
    pub redis: bool,
    /// The guest serves PostgreSQL on its usual port, with the tables of `pgbench`: measure that too.
    pub postgres: bool,
    /// Image with an ext4 file system for that kernel's guest; copied, not written.
    pub disk: Option<PathBuf>,
    /// A running backup named `bench`, on another host, to protect the guest of that kernel; none means one that the bench
    /// starts beside itself.
    pub backup: Option<Endpoint>,
    /// The tap for the guest's network card, with this host's way to the guest behind it; none means a network
    /// namespace of the bench's own.
    pub tap: Option<String>,
    /// Directory of the bare guests; none means `$OUTLAST_BARE`, or beside the build of this program.
    pub guests: Option<PathBuf>,
    /// Epoch lengths of a sweep, or of the network's flows; empty means the bench's own choice.
    pub epochs: Vec<EpochLength>,
    /// Workloads of a sweep, or flows of the network, by name; empty means all.
    pub workloads: Vec<String>,
}

/// One demonstration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DemoConfig {
    /// Where the report goes.
    pub out: PathBuf,
    /// Of the random moments; none means a new one.
    pub seed: Option<u32>,
    /// Which root the guest boots; none means Debian, or the small one on a busy machine.
    pub guest: Option<DemoGuest>,
}

/// The root of the demo's guest. The kernel is Debian's stock cloud kernel with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DemoGuest {
    /// A root file system with a few programs; boots in seconds.
    Busybox,
    /// Debian 12 with systemd and redis-server.
    Debian,
}

impl std::fmt::Display for DemoGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DemoGuest::Busybox => "busybox",
            DemoGuest::Debian => "debian",
        })
    }
}
