//! What may be typed, on the command line and in the `--config` file: one struct for both, so that they cannot differ.
//!
//! Each field's comment is its `--help`. [`RunOptions::over`] and [`BackupOptions::over`] put flags over a file.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum, ValueHint};
use serde::{Deserialize, Serialize};

use super::crash::OnGuestPanic;
use super::device::{Console, DiskConfig, NetOption};
use replication::Protocol;

use super::choice::choice;
use super::ft::{EpochLength, Interrupts, OnBoundaryLate, Protect};
use super::group::{Group, GroupError};
use super::names::rooted;
use super::units::{ByteSize, TimeSpan, as_text};
use protect::epoch::capture::Mode;
use protect::local::backing::{LocalLog, Survival};
use protect::transport::Endpoint;
use protect::witness::WitnessName;
use protect::{CommitDurability, OnDegraded};

/// The form of the log on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where events go as JSON lines, written `path=FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventMonitor {
    /// The file, appended to.
    pub path: PathBuf,
}

impl EventMonitor {
    pub(super) fn rooted(self) -> Self {
        Self { path: rooted(self.path) }
    }
}

impl FromStr for EventMonitor {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let group = Group::parse(text, &["path"])?;
        Ok(EventMonitor { path: group.need("path")?.into() })
    }
}

impl std::fmt::Display for EventMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "path={}", self.path.display())
    }
}

as_text!(EventMonitor);

/// What may be typed for `outlast run`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RunOptions {
    /// Name of the VM: 1 to 63 letters, digits, '-', '_', '.'. Give the backup the same name
    #[arg(long, help_heading = "Guest", value_name = "NAME")]
    pub name: Option<String>,
    /// Kernel: a bzImage (as in /boot) or an ELF with a PVH entry
    #[arg(long, help_heading = "Guest", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, help_heading = "Guest", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub initramfs: Option<PathBuf>,
    /// Start from a snapshot (see `outlast ctl snapshot create`) instead of booting a kernel. CPUs and memory come from
    /// the snapshot; give the same disks and network interfaces as then
    #[arg(long, help_heading = "Guest", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub restore: Option<PathBuf>,
    /// Kernel command line, passed to the guest unchanged [default: console=ttyS0]
    #[arg(long, help_heading = "Guest", value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Virtual CPUs, 1 to 8. More than the host's makes every pause longer [default: 1]
    #[arg(long, help_heading = "Guest", value_name = "N")]
    pub cpus: Option<u8>,
    /// Guest memory, 2M to 8G, in whole pages. Linux needs 128M [default: 512M]
    #[arg(long, help_heading = "Guest", value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Raw disk image, locked while the VM runs; repeatable: path=FILE[,readonly=on]
    #[arg(long, help_heading = "Devices", value_name = "path=FILE[,readonly=on]")]
    pub disk: Vec<DiskConfig>,
    /// Network interface on a tap of this host; repeatable: tap=NAME[,mac=..]. The default MAC address is derived from
    /// --name. With offload=off the guest makes all checksums and segments itself, which is slower
    #[arg(long, help_heading = "Devices", value_name = "tap=NAME[,mac=MAC][,offload=off]")]
    pub net: Vec<NetOption>,
    /// Serial console: stdio, file=PATH (appended, output only) or off [default: stdio]
    #[arg(long, help_heading = "Devices", value_name = "stdio|file=PATH|off")]
    pub console: Option<Console>,
    /// Directory for vm.json and the control socket. With --protect local also for the last committed epoch, which
    /// takes twice the guest's memory and 80 MiB. On tmpfs that survives the end of this program; on persistent memory
    /// with DAX or on a disk it survives a loss of power. Logs of disk writes lie beside the images [default:
    /// /dev/shm/outlast/NAME]
    #[arg(long, help_heading = "Protection", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Directory for the log of disk writes. It should survive what the images survive [default: beside the first
    /// writable image; for a block device: the state directory]
    #[arg(long, help_heading = "Protection", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub disk_log: Option<PathBuf>,
    /// Where epochs are committed: none, local (the state directory: `outlast resume` continues the guest after a crash
    /// of this program) or tcp:HOST:PORT (a backup; unix:PATH for one on this host). Give local and a backup to commit to both [default:
    /// none]
    #[arg(long, help_heading = "Protection", value_name = "none|local|tcp:HOST:PORT|unix:PATH")]
    pub protect: Vec<Protect>,
    /// How epochs are written to the state directory (with --protect local) [default: auto]
    #[arg(long, help_heading = "Protection", value_parser = choice::<LocalLog>())]
    pub local_log: Option<LocalLog>,
    /// Refuse to start if epochs in the state directory, or the disk images, survive less than this (with --protect
    /// local) [default: process]
    #[arg(long, help_heading = "Protection", value_parser = choice::<Survival>())]
    pub require_survives: Option<Survival>,
    /// What to do when the state directory takes no more epochs (with --protect local) [default: continue]
    #[arg(long, help_heading = "Protection", value_parser = choice::<OnDegraded>())]
    pub on_degraded: Option<OnDegraded>,
    /// What to do when an epoch cannot end because a vCPU waits for this host's storage [default: continue]
    #[arg(long, help_heading = "Protection", value_enum)]
    pub on_boundary_late: Option<OnBoundaryLate>,
    /// Longest epoch, 1ms to 10s, or auto. Short: output leaves sooner, but more time goes into pauses. Long: replies
    /// wait longer, and epochs have more pages [default: 20ms]
    #[arg(long, help_heading = "Protection", value_name = "TIME|auto")]
    pub epoch: Option<EpochLength>,
    /// Shortest epoch, up to --epoch, when output waits to leave. The guest always gets at least as much time as its
    /// epochs cost [default: 0us]
    #[arg(long, help_heading = "Protection", value_name = "TIME")]
    pub min_epoch: Option<TimeSpan>,
    /// When the pages of an epoch are copied [default: stop-and-copy]
    #[arg(long, help_heading = "Protection", value_parser = choice::<Mode>())]
    pub capture: Option<Mode>,
    /// Recovery protocol, which says when an epoch ends: epoch (after --epoch, or when a frame waits and that is worth its
    /// cost) or cpvs (whenever output waits, at once; without output after a second) [default: epoch]
    #[arg(long, help_heading = "Protection", value_name = "epoch|cpvs")]
    pub protocol: Option<Protocol>,
    /// When input and device interrupts reach the guest [default: immediate]
    #[arg(long, help_heading = "Protection", value_enum)]
    pub interrupts: Option<Interrupts>,
    /// What a commit waits for [default: disk]
    #[arg(long, help_heading = "Protection", value_parser = choice::<CommitDurability>())]
    pub commit_durability: Option<CommitDurability>,
    /// Who decides which side runs the guest when the two lose each other: file:DIR (a directory that both hosts share)
    /// or none. With none both sides may run the guest after a network cut, or after a host hangs for longer than
    /// --detect and comes back; its disks and clients then see two guests. Required with a backup
    #[arg(long, help_heading = "Protection", value_name = "file:DIR|none")]
    pub witness: Option<WitnessName>,
    /// Directory with certificates for TLS between the two hosts: ca-cert.pem, server-cert.pem, server-key.pem,
    /// client-cert.pem, client-key.pem, as for Cloud Hypervisor. Without it a backup beyond this host needs
    /// tcp:HOST:PORT,clear
    #[arg(long, help_heading = "Protection", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub tls_dir: Option<PathBuf>,
    /// Silence after which the peer counts as lost, 50ms to 60s, at least three heartbeats. Too short: a loaded host is
    /// taken for dead. Too long: the guest is away that much longer [default: 500ms]
    #[arg(long, help_heading = "Protection", value_name = "TIME")]
    pub detect: Option<TimeSpan>,
    /// Time between heartbeats, 1ms to 10s. Shorter ones wake both hosts more often [default: 50ms]
    #[arg(long, help_heading = "Protection", value_name = "TIME")]
    pub heartbeat: Option<TimeSpan>,
    /// What to do when the guest crashes: it reports a panic through pvpanic, a vCPU shuts down after a triple fault,
    /// or the watchdog that the guest started runs out. With a backup, reset and rollback need --witness: the backup
    /// discards its copy and is filled again [default: stop]
    #[arg(long, help_heading = "Protection", value_enum)]
    pub on_guest_panic: Option<OnGuestPanic>,
    /// Earlier epochs to keep for --on-guest-panic rollback, 1 to 16: the youngest about 1 s old, each older one about
    /// twice as old. A guest that crashes again goes back to an older one each time; then it is stopped [default: 6]
    #[arg(long, help_heading = "Protection", value_name = "N")]
    pub retain: Option<u8>,
    /// Room for earlier epochs in the state directory, at least 1M. If they need more, the oldest are dropped [default:
    /// as much as the guest's memory, at least 64M]
    #[arg(long, help_heading = "Protection", value_name = "SIZE")]
    pub retain_bytes: Option<ByteSize>,
    /// Control socket, for `outlast ctl` [default: api.sock in the state directory]
    #[arg(long, alias = "api-sock", help_heading = "Control", value_name = "PATH")]
    pub api_socket: Option<PathBuf>,
    /// Read these options from a TOML file; flags on the command line override it
    #[arg(long, help_heading = "Control", value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Format of the log on standard error; OUTLAST_LOG=debug shows more [default: text]
    #[arg(long, help_heading = "Control", value_enum)]
    pub log_format: Option<LogFormat>,
    /// Append events as JSON lines to a file or named pipe
    #[arg(long, help_heading = "Control", value_name = "path=FILE")]
    pub event_monitor: Option<EventMonitor>,
}

/// What may be typed for `outlast backup`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BackupOptions {
    /// Address that the primary connects to. Port 0 takes a free port and prints it. A socket unix:PATH is for a primary of
    /// the same user on this host
    #[arg(long, help_heading = "Guest", value_name = "tcp:HOST:PORT|unix:PATH")]
    pub listen: Option<Endpoint>,
    /// Name of the VM, the same as the primary's
    #[arg(long, help_heading = "Guest", value_name = "NAME")]
    pub name: Option<String>,
    /// Replica of each disk, in the primary's order and exactly as long. A read-only disk is not replicated: copy it
    /// here before. Repeatable: path=FILE[,readonly=on]
    #[arg(long, help_heading = "Devices", value_name = "path=FILE[,readonly=on]")]
    pub disk: Vec<DiskConfig>,
    /// Tap for each network interface, in the primary's order; repeatable: tap=NAME[,mac=..]. With offload=off a guest
    /// that was booted with offloads is refused
    #[arg(long, help_heading = "Devices", value_name = "tap=NAME[,mac=MAC][,offload=off]")]
    pub net: Vec<NetOption>,
    /// Serial console after a takeover: stdio, file=PATH or off [default: stdio]
    #[arg(long, help_heading = "Devices", value_name = "stdio|file=PATH|off")]
    pub console: Option<Console>,
    /// Directory of this VM on this host, for the control socket and vm.json [default: /dev/shm/outlast/NAME]
    #[arg(long, help_heading = "Protection", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Directory for the log of disk writes, see `outlast run --help` [default: beside the first writable replica]
    #[arg(long, help_heading = "Protection", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub disk_log: Option<PathBuf>,
    /// Who decides which side runs the guest when the two lose each other: file:DIR, the same directory as the
    /// primary's, or none (dangerous, see `outlast run --help`)
    #[arg(long, help_heading = "Protection", value_name = "file:DIR|none")]
    pub witness: Option<WitnessName>,
    /// Directory with certificates for TLS between the two hosts, see `outlast run --help`. Without it --listen beyond this
    /// host needs tcp:HOST:PORT,clear
    #[arg(long, help_heading = "Protection", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub tls_dir: Option<PathBuf>,
    /// Silence after which the primary counts as lost, 50ms to 60s, at least three heartbeats [default: 500ms]
    #[arg(long, help_heading = "Protection", value_name = "TIME")]
    pub detect: Option<TimeSpan>,
    /// Time between heartbeats, 1ms to 10s [default: 50ms]
    #[arg(long, help_heading = "Protection", value_name = "TIME")]
    pub heartbeat: Option<TimeSpan>,
    /// Control socket, for `outlast ctl` [default: api.sock in the state directory]
    #[arg(long, alias = "api-sock", help_heading = "Control", value_name = "PATH")]
    pub api_socket: Option<PathBuf>,
    /// Read these options from a TOML file; flags on the command line override it
    #[arg(long, help_heading = "Control", value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Format of the log on standard error; OUTLAST_LOG=debug shows more [default: text]
    #[arg(long, help_heading = "Control", value_enum)]
    pub log_format: Option<LogFormat>,
    /// Append events as JSON lines to a file or named pipe
    #[arg(long, help_heading = "Control", value_name = "path=FILE")]
    pub event_monitor: Option<EventMonitor>,
}

fn either<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

/// Puts one options struct over another. It destructures every field, so that a forgotten one does not compile.
macro_rules! over {
    ($type:ident: one { $($one:ident),* } many { $($many:ident),* }) => {
        impl $type {
            /// These flags over what `file` says: a flag wins, a list given as flags replaces the file's list.
            #[must_use]
            pub fn over(self, file: $type) -> $type {
                let $type { $($one,)* $($many,)* } = self;
                $type { $($one: $one.or(file.$one),)* $($many: either($many, file.$many),)* }
            }
        }
    };
}

over!(RunOptions:
    one { name, kernel, initramfs, restore, cmdline, cpus, memory, console, state_dir, disk_log, epoch, min_epoch, capture,
          protocol, interrupts, commit_durability, witness, tls_dir, detect, heartbeat, on_guest_panic, retain, retain_bytes,
          api_socket, config, log_format, event_monitor, local_log, require_survives, on_degraded, on_boundary_late }
    many { disk, net, protect });
over!(BackupOptions:
    one { listen, name, console, state_dir, disk_log, witness, tls_dir, detect, heartbeat, api_socket, config, log_format,
          event_monitor }
    many { disk, net });

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "vm0"
        kernel = "/boot/vmlinuz"
        cpus = 2
        memory = "1G"
        protect = ["local", "tcp:b:7000"]
        epoch = "auto"
        commit-durability = "memory"
        witness = "file:/shared"
        [[disk]]
        path = "root.img"
        [[net]]
        tap = "tap0"
    "#;

    #[test]
    fn toml_file_gives_the_same_options_as_flags() {
        let options: RunOptions = toml::from_str(FILE).expect("well formed");
        assert_eq!(options.memory, Some(ByteSize(1 << 30)));
        assert_eq!(options.protect, ["local".parse(), "tcp:b:7000".parse()].map(|p| p.expect("well formed")));
        assert_eq!(options.epoch, Some(EpochLength::Auto));
        assert_eq!(options.disk[0].path, PathBuf::from("root.img"));
    }

    #[test]
    fn toml_unknown_key_is_an_error_that_names_it() {
        for text in ["colour = 1", "[[disk]]\npath = 'a'\nro = true"] {
            let error = toml::from_str::<RunOptions>(text).expect_err("unknown key");
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn over_flag_wins_and_list_replaces() {
        let file: RunOptions = toml::from_str(FILE).expect("well formed");
        let flags = RunOptions { cpus: Some(1), protect: vec![Protect::None], ..Default::default() };
        let both = flags.over(file);
        assert_eq!((both.cpus, both.name.as_deref()), (Some(1), Some("vm0")));
        assert_eq!((both.protect, both.disk.len()), (vec![Protect::None], 1));
    }
}
