//! `outlast bench` and `outlast demo`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Commands, logging};
use crate::config::{BenchConfig, BenchKind, DemoConfig, DemoGuest, Endpoint, EpochLength, LogFormat};
use crate::exit::{Exit, Failure};

/// Measure what protection costs; writes CSV, SVG and an HTML page
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    kind: BenchKind,
    /// Directory for the results. Results of an interrupted run in it are kept, and the run continues
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Fewer points; takes under five minutes, `network` about a minute for each epoch length
    #[arg(long)]
    quick: bool,
    /// Repetitions of each point; a single one shows no spread
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
    /// Guest kernel; without it, bare guests are measured
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,
    /// Initial RAM file system for --kernel
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
    initramfs: Option<PathBuf>,
    /// Command line for --kernel [default: console=ttyS0]
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
    /// The guest serves redis on port 6379: measure that too
    #[arg(long, requires = "kernel")]
    redis: bool,
    /// The guest serves PostgreSQL on port 5432, with the tables of `pgbench`: measure that too
    #[arg(long, requires = "kernel")]
    postgres: bool,
    /// Image with an ext4 file system for the guest; it is copied. Without it the disk is not measured
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
    disk: Option<PathBuf>,
    /// Protect the guest with this running `outlast backup --name bench`, instead of one that the bench starts
    #[arg(long, value_name = "tcp:HOST:PORT", requires = "kernel", requires = "tap")]
    backup: Option<Endpoint>,
    /// Tap for the guest, instead of a network namespace that the bench makes. This host must reach 10.77.0.10 through
    /// it
    #[arg(long, value_name = "NAME", requires = "backup")]
    tap: Option<String>,
    /// Directory of the bare guests [default: $OUTLAST_BARE, else beside the build of this program]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    guests: Option<PathBuf>,
    /// Measure only epochs of this length; repeatable
    #[arg(long, value_name = "TIME|auto")]
    epoch: Vec<EpochLength>,
    /// Measure only this workload of a sweep (cpu, memory, network, disk-write, disk-read, …), this flow of `network`
    /// (tcp-from-1, or tcp-from for all of its kind), or these writes of `synced-writes` (small, bulk-300); repeatable
    #[arg(long, value_name = "NAME")]
    workload: Vec<String>,
}

/// Show the whole story on one screen: a guest, a backup, a power cut, and a client that loses nothing
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Directory for report.json, and for the logs if it fails
    #[arg(long, value_name = "DIR", default_value = "target/demo", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Seed of the random moments; the summary shows it [default: a new one]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Root file system of the guest; the kernel is Debian's stock cloud kernel with either [default: debian, busybox
    /// on a busy machine]
    #[arg(long, value_enum)]
    guest: Option<DemoGuest>,
}

pub(super) fn execute(args: BenchArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    // Protection comes and goes by the hundred here: only what fails is worth a line.
    logging::start_at(LogFormat::Text, "error");
    commands.bench(BenchConfig {
        kind: args.kind,
        out: args.out,
        quick: args.quick,
        repeat: args.repeat,
        kernel: args.kernel,
        initramfs: args.initramfs,
        cmdline: args.cmdline,
        redis: args.redis,
        postgres: args.postgres,
        disk: args.disk,
        backup: args.backup,
        tap: args.tap,
        guests: args.guests,
        epochs: args.epoch,
        workloads: args.workload,
    })
}

pub(super) fn execute_demo(args: DemoArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    logging::start(LogFormat::Text);
    let DemoArgs { out, seed, guest } = args;
    commands.demo(DemoConfig { out, seed, guest })
}
