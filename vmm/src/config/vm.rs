//! [`VmConfig`]: one VM, checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use replication::Protocol;
use snapshot::statedir::Item;

use super::crash::{self, OnGuestPanic, Retain};
use super::device::{Console, DiskConfig, NetConfig};
use super::error::ConfigError;
use super::ft::{EpochLength, Interrupts, OnBoundaryLate, Protect};
use super::local::LocalConfig;
use super::names::{api_socket, check_name, default_state_dir, out_of_range, resolve_nets, rooted, rooted_witness};
use super::options::{EventMonitor, LogFormat, RunOptions};
use super::units::{ByteSize, format_size, format_time, time_text};
use machine::memory::{RAM_BYTES_MAX, RamBytes};
use protect::CommitDurability;
use protect::epoch::capture::Mode;
use protect::epoch::pace::EpochTime;
use protect::transport::Endpoint;
use protect::witness::Witness;

/// Bare guests run in as little.
const MEMORY_BYTES_MIN: u64 = 2 << 20;
const CPUS_MAX: u8 = 8;
/// As many as the machine has virtio-mmio slots for, less rng.
const DEVICES_MAX: usize = 7;
/// What the kernel takes on x86 (COMMAND_LINE_SIZE), less the terminating zero.
const CMDLINE_BYTES_MAX: usize = 2047;
const DETECT_MIN: Duration = Duration::from_millis(50);
const DETECT_MAX: Duration = Duration::from_secs(60);
const HEARTBEAT_MIN: Duration = Duration::from_millis(1);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
/// Fewer, and one lost datagram or one busy moment looks like a dead host.
const HEARTBEATS_PER_DETECT: u32 = 3;

/// One VM: its parts and its protection. Every value is within its range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// 1 to 63 bytes that are fit for a file name. Primary and backup agree on it.
    pub name: String,
    /// What the guest starts from.
    pub start: StartFrom,
    /// 1 to 8. Every vCPU must be out of the guest before an epoch can be sealed, so more of them than the host has
    /// CPUs makes each pause longer.
    pub cpus: u8,
    /// 2 MiB to 8 GiB, whole pages. Too small: the guest does not boot. Too large for the file system of the state
    /// directory: refused at start, because a later write to the mapping would kill the VMM.
    pub memory_bytes: u64,
    /// At most 7 with the interfaces.
    pub disks: Vec<DiskConfig>,
    /// At most 7 with the disks.
    pub nets: Vec<NetConfig>,
    /// The serial console.
    pub console: Console,
    /// Guest memory, logs, `vm.json`.
    pub state_dir: PathBuf,
    /// Directory for the log of disk writes; `None`: where it is by default.
    #[serde(default)]
    pub disk_log: Option<PathBuf>,
    /// Where epochs are committed: never empty, `None` only alone, at most one `Backup`.
    pub protect: Vec<Protect>,
    /// How epochs are committed to the state directory, where they are.
    #[serde(default)]
    pub local: LocalConfig,
    /// What happens to the guest when a boundary does not come.
    #[serde(default)]
    pub on_boundary_late: OnBoundaryLate,
    /// 1 ms to 10 s, or chosen. Too short: the guest's time goes into pauses. Too long: output waits, epochs are big.
    pub epoch: EpochLength,
    /// 100 µs to `epoch`. Too short: a guest with much output spends its time in pauses. Too long: output waits.
    #[serde(with = "time_text")]
    pub min_epoch: Duration,
    /// When the pages of an epoch are copied.
    pub capture: Mode,
    /// When an epoch ends.
    #[serde(default)]
    pub protocol: Protocol,
    /// When device interrupts reach the guest.
    pub interrupts: Interrupts,
    /// What a commit waits for.
    pub commit_durability: CommitDurability,
    /// Who decides which side runs after the two lost each other.
    pub witness: Witness,
    /// No witness was named, not even `none`: then no backup may be added later either.
    #[serde(default)]
    pub unnamed_witness: bool,
    /// 50 ms to 60 s of silence until the peer counts as lost. Too short: a loaded host is taken for dead. Too long:
    /// the guest is away for as long.
    #[serde(with = "time_text")]
    pub detect: Duration,
    /// 1 ms to 10 s between heartbeats, at most a third of `detect`.
    #[serde(with = "time_text")]
    pub heartbeat: Duration,
    /// What is done with a guest that crashed.
    #[serde(default)]
    pub on_guest_panic: OnGuestPanic,
    /// Earlier epochs that are kept to roll it back; `None` where it is not.
    #[serde(default)]
    pub retain: Option<Retain>,
    /// The control socket, at most 106 bytes.
    pub api_socket: PathBuf,
    /// The form of the log.
    pub log_format: LogFormat,
    /// Where events are appended as JSON lines.
    pub event_monitor: Option<EventMonitor>,
}

/// What a guest starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFrom {
    /// Power-on.
    Kernel {
        /// A bzImage, or an ELF with a PVH entry.
        kernel: PathBuf,
        /// Initial RAM file system.
        initramfs: Option<PathBuf>,
        /// Kernel command line, at most 2047 bytes.
        cmdline: String,
    },
    /// A snapshot directory. CPUs and memory are the snapshot's.
    Snapshot(PathBuf),
}

fn refuse_beside_restore(options: &[(&'static str, bool)]) -> Result<(), ConfigError> {
    match options.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => {
            Err(ConfigError::Contradiction { first: "restore", second: option, why: "the snapshot has its own".into() })
        }
    }
}

impl TryFrom<RunOptions> for VmConfig {
    type Error = ConfigError;

    /// Fills in defaults, checks every range, and makes every path one from the root. It looks at no file.
    fn try_from(typed: RunOptions) -> Result<Self, ConfigError> {
        let RunOptions {
            name,
            kernel,
            initramfs,
            restore,
            cmdline,
            cpus,
            memory,
            disk,
            net,
            console,
            state_dir,
            disk_log,
            protect,
            local_log,
            require_survives,
            on_degraded,
            on_boundary_late,
            epoch,
            min_epoch,
            capture,
            protocol,
            interrupts,
            commit_durability,
            witness,
            detect,
            heartbeat,
            on_guest_panic,
            retain,
            retain_bytes,
            api_socket: typed_socket,
            config: _,
            log_format,
            event_monitor,
        } = typed;
        let name = name.ok_or(ConfigError::Missing("name"))?;
        let start = match restore {
            None => StartFrom::Kernel {
                kernel: rooted(kernel.ok_or(ConfigError::Missing("kernel"))?),
                initramfs: initramfs.map(rooted),
                cmdline: check_cmdline(cmdline.unwrap_or_else(|| "console=ttyS0".into()))?,
            },
            Some(dir) => {
                let given = [
                    ("kernel", kernel.is_some()),
                    ("initramfs", initramfs.is_some()),
                    ("cmdline", cmdline.is_some()),
                    ("cpus", cpus.is_some()),
                    ("memory", memory.is_some()),
                ];
                refuse_beside_restore(&given)?;
                StartFrom::Snapshot(rooted(dir))
            }
        };
        check_name(&name)?;
        let typed_state_dir = state_dir.unwrap_or_else(|| default_state_dir(&name));
        let protect = check_protect(protect.into_iter().map(Protect::rooted).collect())?;
        let is_local = protect.contains(&Protect::Local);
        let local = LocalConfig::new(is_local, local_log, require_survives, on_degraded)?;
        let protocol = check_protocol(protocol, epoch.is_some())?;
        let epoch = epoch.unwrap_or(EpochLength::Fixed(EpochTime::DEFAULT));
        let (detect, heartbeat) = check_detection(detect.map(|t| t.0), heartbeat.map(|t| t.0))?;
        let memory_bytes = check_memory(memory.map_or(512 << 20, |ByteSize(bytes)| bytes))?;
        let is_protected = protect != [Protect::None];
        let has_backup = protect.iter().any(|target| matches!(target, Protect::Backup(_)));
        let unnamed_witness = witness.is_none();
        if has_backup && unnamed_witness {
            return Err(ConfigError::Missing("witness"));
        }
        let witness = rooted_witness(witness.unwrap_or(Witness::None));
        let asked = crash::Asked { policy: on_guest_panic, retain, retain_bytes: retain_bytes.map(|bytes| bytes.0) };
        let (on_guest_panic, retain) = crash::check(&asked, &start, &protect, &witness, memory_bytes)?;
        Ok(VmConfig {
            on_guest_panic,
            retain,
            start,
            cpus: check_cpus(cpus.unwrap_or(1))?,
            memory_bytes,
            nets: check_devices(disk.len(), resolve_nets(&name, net)?)?,
            disks: disk.into_iter().map(DiskConfig::rooted).collect(),
            console: console.unwrap_or(Console::Stdio).rooted(),
            disk_log: disk_log.map(rooted),
            protect,
            local,
            on_boundary_late: check_late(on_boundary_late, is_protected, has_backup)?,
            min_epoch: check_epoch(epoch, min_epoch.map(|t| t.0))?,
            epoch,
            capture: capture.unwrap_or_default(),
            protocol,
            interrupts: interrupts.unwrap_or(Interrupts::Immediate),
            commit_durability: commit_durability.unwrap_or(CommitDurability::Disk),
            witness,
            unnamed_witness,
            detect,
            heartbeat,
            api_socket: api_socket(typed_socket, &typed_state_dir)?,
            state_dir: rooted(typed_state_dir),
            log_format: log_format.unwrap_or(LogFormat::Text),
            event_monitor: event_monitor.map(EventMonitor::rooted),
            name,
        })
    }
}

impl VmConfig {
    /// What the `vm.json` of a state directory says, `text` of the one in `dir`. Checked
    /// like what is typed, since anybody may have written it.
    pub fn of_state_dir(text: &[u8], dir: &Path) -> Result<Self, ConfigError> {
        let bad = |reason: String| ConfigError::BadState { path: Item::Config.path_in(dir), reason };
        let config: Self = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        config.in_dir(dir.to_owned()).map_err(|error| bad(error.to_string()))
    }

    /// The state directory that was given, or the default one of the VM called `name`.
    pub fn state_dir_of(name: Option<&str>, state_dir: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
        match (state_dir, name) {
            (Some(dir), _) => Ok(dir),
            (None, Some(name)) => check_name(name).map(|()| default_state_dir(name)),
            (None, None) => Err(ConfigError::Missing("state-dir")),
        }
    }

    /// This configuration, checked, for the state directory that it was read from.
    fn in_dir(self, dir: PathBuf) -> Result<Self, ConfigError> {
        check_name(&self.name)?;
        check_cpus(self.cpus)?;
        check_memory(self.memory_bytes)?;
        check_epoch(self.epoch, Some(self.min_epoch))?;
        check_detection(Some(self.detect), Some(self.heartbeat))?;
        check_devices(self.disks.len(), self.nets.clone())?;
        let protect = check_protect(self.protect)?;
        if let StartFrom::Kernel { cmdline, .. } = &self.start {
            check_cmdline(cmdline.clone())?;
        }
        crash::check(
            &crash::Asked {
                policy: Some(self.on_guest_panic),
                retain: self.retain.map(|retain| retain.epochs.get() as u8),
                retain_bytes: self.retain.map(|retain| retain.bytes),
            },
            &self.start,
            &protect,
            &self.witness,
            self.memory_bytes,
        )?;
        // The directory may have been moved, or mounted elsewhere.
        let api_socket = match self.api_socket.parent() == Some(&self.state_dir) {
            true => api_socket(None, &dir)?,
            false => api_socket(Some(self.api_socket.clone()), &dir)?,
        };
        Ok(Self { state_dir: rooted(dir), api_socket, protect, ..self })
    }

    /// The backup, if there is to be one.
    pub fn backup(&self) -> Option<&Endpoint> {
        self.protect.iter().find_map(|target| match target {
            Protect::Backup(endpoint) => Some(endpoint),
            Protect::None | Protect::Local => None,
        })
    }

    /// Whether epochs are committed to persistent memory of this host.
    pub fn is_local(&self) -> bool {
        self.protect.contains(&Protect::Local)
    }

    /// What is allowed but risky, each as one sentence that names the risk. For the log and for `status`.
    pub fn warnings(&self) -> Vec<String> {
        let unwitnessed = self.backup().is_some() && self.witness == Witness::None;
        let mut warnings: Vec<String> = unwitnessed.then(split_brain_warning).into_iter().collect();
        if self.backup().is_some() && self.commit_durability == CommitDurability::Memory {
            warnings.push(
                "commit durability is memory: a power cut of both hosts loses disk writes that the guest flushed"
                    .into(),
            );
        }
        warnings
    }
}

/// What goes wrong with a backup and no witness.
pub(super) fn split_brain_warning() -> String {
    "no witness: if the network between the hosts is cut, or one of them hangs for longer than --detect and comes back, \
     both may run the guest, and its clients and disks see two guests; give both sides --witness file:DIR on \
      storage that they share"
        .into()
}

/// An epoch that ends when output waits has no length of its own.
fn check_protocol(typed: Option<Protocol>, has_length: bool) -> Result<Protocol, ConfigError> {
    match typed.unwrap_or_default() {
        Protocol::Cpvs if has_length => Err(ConfigError::Contradiction {
            first: "protocol cpvs",
            second: "epoch",
            why: "its epochs end when output waits; --min-epoch is the shortest".into(),
        }),
        protocol => Ok(protocol),
    }
}

fn check_late(
    typed: Option<OnBoundaryLate>,
    is_protected: bool,
    has_backup: bool,
) -> Result<OnBoundaryLate, ConfigError> {
    match typed.unwrap_or_default() {
        OnBoundaryLate::HandOver if !is_protected => Err(ConfigError::Contradiction {
            first: "on-boundary-late hand-over",
            second: "protect none",
            why: "nobody has a copy of the guest that could be continued".into(),
        }),
        OnBoundaryLate::Unprotect if !has_backup => Err(ConfigError::Contradiction {
            first: "on-boundary-late unprotect",
            second: "protect without a backup",
            why: "there is nobody who could be let go".into(),
        }),
        policy => Ok(policy),
    }
}

fn check_cmdline(cmdline: String) -> Result<String, ConfigError> {
    match cmdline.len() <= CMDLINE_BYTES_MAX && !cmdline.contains('\0') {
        true => Ok(cmdline),
        false => Err(out_of_range("cmdline", format!("of {} bytes", cmdline.len()), "at most 2047 bytes, without NUL")),
    }
}

fn check_cpus(cpus: u8) -> Result<u8, ConfigError> {
    match cpus {
        1..=CPUS_MAX => Ok(cpus),
        _ => Err(out_of_range("cpus", cpus, format!("1 to {CPUS_MAX}"))),
    }
}

fn check_memory(bytes: u64) -> Result<u64, ConfigError> {
    let range = || format!("{} to {}", format_size(MEMORY_BYTES_MIN), format_size(RAM_BYTES_MAX));
    if !(MEMORY_BYTES_MIN..=RAM_BYTES_MAX).contains(&bytes) {
        return Err(out_of_range("memory", format_size(bytes), range()));
    }
    if RamBytes::try_from(bytes).is_err() {
        return Err(out_of_range("memory", bytes, "a multiple of 4K"));
    }
    Ok(bytes)
}

fn check_devices(disks: usize, nets: Vec<NetConfig>) -> Result<Vec<NetConfig>, ConfigError> {
    if disks + nets.len() > DEVICES_MAX {
        let count = format!("{} with {disks} of --disk", nets.len());
        return Err(out_of_range("net", count, format!("at most {DEVICES_MAX} together")));
    }
    for (index, net) in nets.iter().enumerate() {
        if nets[..index].iter().any(|other| other.tap == net.tap || other.mac == net.mac) {
            let why = format!("tap {} and address {} must each be used once", net.tap, net.mac);
            return Err(ConfigError::Contradiction { first: "net", second: "net", why });
        }
    }
    Ok(nets)
}

fn check_protect(protect: Vec<Protect>) -> Result<Vec<Protect>, ConfigError> {
    if protect.is_empty() {
        return Ok(vec![Protect::None]);
    }
    let backups = protect.iter().filter(|target| matches!(target, Protect::Backup(_))).count();
    if backups > 1 {
        return Err(out_of_range(
            "protect",
            format!("with {backups} backups"),
            "at most one tcp:HOST:PORT or unix:PATH",
        ));
    }
    if protect.len() > 1 && protect.contains(&Protect::None) {
        let why = "none excludes every other".into();
        return Err(ConfigError::Contradiction { first: "protect", second: "protect", why });
    }
    let mut unique: Vec<Protect> = Vec::new();
    for target in protect {
        if !unique.contains(&target) {
            unique.push(target);
        }
    }
    Ok(unique)
}

/// The shortest epoch: what was typed, or none; what epochs cost keeps them from being too short.
fn check_epoch(epoch: EpochLength, min_epoch: Option<Duration>) -> Result<Duration, ConfigError> {
    let longest = match epoch {
        EpochLength::Auto => EpochTime::MAX.get(),
        EpochLength::Fixed(length) => length.get(),
    };
    let min_epoch = min_epoch.unwrap_or_default();
    match min_epoch <= longest {
        true => Ok(min_epoch),
        false => Err(out_of_range("min-epoch", format_time(min_epoch), format!("0us to {}", format_time(longest)))),
    }
}

/// Detection time and heartbeat interval, checked against each other.
pub(super) fn check_detection(
    detect: Option<Duration>,
    heartbeat: Option<Duration>,
) -> Result<(Duration, Duration), ConfigError> {
    let detect = detect.unwrap_or(Duration::from_millis(500));
    let heartbeat = heartbeat.unwrap_or(Duration::from_millis(50).min(detect / HEARTBEATS_PER_DETECT));
    if !(DETECT_MIN..=DETECT_MAX).contains(&detect) {
        return Err(out_of_range("detect", format_time(detect), "50ms to 60s"));
    }
    if !(HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&heartbeat) {
        return Err(out_of_range("heartbeat", format_time(heartbeat), "1ms to 10s"));
    }
    if heartbeat * HEARTBEATS_PER_DETECT > detect {
        let why = format!(
            "{} of silence is less than three heartbeats of {}, so one late heartbeat would look like a dead host",
            format_time(detect),
            format_time(heartbeat)
        );
        return Err(ConfigError::Contradiction { first: "detect", second: "heartbeat", why });
    }
    Ok((detect, heartbeat))
}

#[cfg(test)]
mod tests;
