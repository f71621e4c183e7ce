//! [`BackupConfig`]: what a backup needs to take over one VM, checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::device::{Console, DiskConfig, NetConfig};
use super::error::ConfigError;
use super::names::{api_socket, check_name, default_state_dir, resolve_nets, rooted, rooted_endpoint, rooted_witness};
use super::options::{BackupOptions, EventMonitor, LogFormat};
use super::units::time_text;
use super::vm::{check_channel, check_detection, split_brain_warning};
use protect::transport::Endpoint;
use protect::witness::WitnessName;

/// The backup of one VM. CPUs, memory and kernel are the primary's; they come over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// Where the primary connects to; port 0 takes a free one.
    pub listen: Endpoint,
    /// The VM's name; a primary of another name is refused.
    pub name: String,
    /// One replica per disk of the primary, in its order, exactly as long.
    pub disks: Vec<DiskConfig>,
    /// One tap per interface of the primary, in its order. The guest keeps the primary's addresses.
    pub nets: Vec<NetConfig>,
    /// The serial console after a takeover.
    pub console: Console,
    /// The control socket and `vm.json`.
    pub state_dir: PathBuf,
    /// Directory for the log of disk writes; `None`: where it is by default.
    #[serde(default)]
    pub disk_log: Option<PathBuf>,
    /// Who proves the primary fenced; the same as the primary's.
    pub witness: WitnessName,
    /// Certificates for TLS with the primary. `None`: clear text, which leaves this host only where it is named.
    #[serde(default)]
    pub tls_dir: Option<PathBuf>,
    /// 50 ms to 60 s of silence until the primary counts as lost.
    #[serde(with = "time_text")]
    pub detect: Duration,
    /// 1 ms to 10 s between heartbeats, at most a third of `detect`.
    #[serde(with = "time_text")]
    pub heartbeat: Duration,
    /// The control socket, at most 106 bytes.
    pub api_socket: PathBuf,
    /// The form of the log.
    pub log_format: LogFormat,
    /// Where events are appended as JSON lines.
    pub event_monitor: Option<EventMonitor>,
}

impl TryFrom<BackupOptions> for BackupConfig {
    type Error = ConfigError;

    /// Fills in defaults, checks every range, and makes every path one from the root. It looks at no file.
    fn try_from(typed: BackupOptions) -> Result<Self, ConfigError> {
        let BackupOptions {
            listen,
            name,
            disk,
            net,
            console,
            state_dir,
            disk_log,
            witness,
            tls_dir,
            detect,
            heartbeat,
            api_socket: typed_socket,
            config: _,
            log_format,
            event_monitor,
        } = typed;
        let name = name.ok_or(ConfigError::Missing("name"))?;
        check_name(&name)?;
        let typed_state_dir = state_dir.unwrap_or_else(|| default_state_dir(&name));
        let (detect, heartbeat) = check_detection(detect.map(|t| t.0), heartbeat.map(|t| t.0))?;
        let listen = rooted_endpoint(listen.ok_or(ConfigError::Missing("listen"))?);
        check_channel("listen", &listen, tls_dir.is_some())?;
        Ok(BackupConfig {
            listen,
            disks: disk.into_iter().map(DiskConfig::rooted).collect(),
            nets: resolve_nets(&name, net)?,
            console: console.unwrap_or(Console::Stdio).rooted(),
            disk_log: disk_log.map(rooted),
            witness: rooted_witness(witness.ok_or(ConfigError::Missing("witness"))?),
            tls_dir: tls_dir.map(rooted),
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

impl BackupConfig {
    /// What is allowed but risky, each as one sentence that names the risk. For the log and for `status`.
    pub fn warnings(&self) -> Vec<String> {
        let unwitnessed = (self.witness.is_none()).then(split_brain_warning);
        let open = self.listens_everywhere().then(|| {
            "--listen names every address of this host, and replication is not encrypted: anybody who reaches the \
             port can read and alter the guest; give it the address of the network between the two hosts, or --tls-dir"
                .to_owned()
        });
        unwitnessed.into_iter().chain(open).collect()
    }

    fn listens_everywhere(&self) -> bool {
        match &self.listen {
            Endpoint::Tcp { host, is_clear: true, .. } => {
                host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
            }
            Endpoint::Tcp { .. } | Endpoint::Unix(_) => false,
        }
    }
}
