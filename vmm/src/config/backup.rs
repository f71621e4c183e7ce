//! The backup of one VM: what `outlast backup` takes ([`BackupOptions`]), and what is meant by it ([`BackupVmConfig`]).

use std::net::IpAddr;

use serde::Serialize;

use super::control::{ControlConfig, ControlOptions};
use super::detection::{DetectionConfig, DetectionOptions};
use super::devices::{DeviceConfig, DeviceOptions};
use super::error::ConfigError;
use super::guest::NameOptions;
use super::names::{out_of_range, rooted, rooted_endpoint};
use super::options::{command, group};
use super::state::{StateConfig, StateOptions};
use protect::transport::Endpoint;

group! {
    /// What may be typed of where a backup is reached.
    #[command(next_help_heading = "Guest")]
    pub struct ListenOptions {
        /// Address that the primary connects to. Port 0 takes a free port and prints it. A socket unix:PATH is for a primary of
        /// the same user on this host
        #[arg(long, value_name = "tcp:HOST:PORT|unix:PATH")]
        listen: Option<Endpoint>,
    }
}

group! {
    /// What may be typed of the time after a takeover.
    #[command(next_help_heading = "Protection")]
    pub struct SuccessionOptions {
        /// Backup that protects the guest once it runs here; it is tried until it answers. A place for the host that failed, when
        /// it is back [default: none]
        #[arg(long, value_name = "tcp:HOST:PORT|unix:PATH")]
        protect: Vec<Endpoint>,
    }
}

command! {
    /// What may be typed for `outlast backup`.
    pub struct BackupOptions {
        /// Where it is reached.
        listen: ListenOptions,
        /// Which VM it is of.
        name: NameOptions,
        /// The replicas, and what is attached to the guest after a takeover.
        devices: DeviceOptions,
        /// What it keeps on this host.
        state: StateOptions,
        /// How a lost primary is noticed.
        detection: DetectionOptions,
        /// What comes after a takeover.
        succession: SuccessionOptions,
        /// How the program is controlled.
        control: ControlOptions,
    }
}

/// The backup of one VM. CPUs, memory and kernel are the primary's; they come over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupVmConfig {
    /// Where the primary connects to; port 0 takes a free one.
    pub listen: Endpoint,
    /// The VM's name; a primary of another name is refused.
    pub name: String,
    /// The replicas, and what is attached to the guest after a takeover.
    #[serde(flatten)]
    pub devices: DeviceConfig,
    /// What it keeps on this host.
    #[serde(flatten)]
    pub state: StateConfig,
    /// How a lost primary is noticed.
    #[serde(flatten)]
    pub detection: DetectionConfig,
    /// The backup that protects the guest once it runs here: at most one.
    pub protect: Vec<Endpoint>,
    /// How the program is controlled.
    #[serde(flatten)]
    pub control: ControlConfig,
}

impl TryFrom<BackupOptions> for BackupVmConfig {
    type Error = ConfigError;

    /// Fills in defaults, checks every range, and makes every path one from the root. It looks at no file.
    fn try_from(typed: BackupOptions) -> Result<Self, ConfigError> {
        let BackupOptions { listen, name, devices, state, detection, succession, control } = typed;
        let (ListenOptions { listen }, SuccessionOptions { protect }) = (listen, succession);
        let name = name.fill()?;
        let listen = rooted_endpoint(listen.ok_or(ConfigError::Missing("listen"))?);
        if detection.witness.is_none() {
            return Err(ConfigError::Missing("witness"));
        }
        let StateConfig { dir, disk_log } = state.fill(&name);
        let config = BackupVmConfig {
            listen,
            devices: devices.fill(&name),
            detection: detection.fill(),
            protect: protect.into_iter().map(rooted_endpoint).collect(),
            control: control.fill(&dir)?,
            state: StateConfig { dir: rooted(dir), disk_log },
            name,
        };
        config.devices.check()?;
        config.detection.check()?;
        config.detection.check_channel("listen", &config.listen)?;
        config.check_succession()?;
        Ok(config)
    }
}

impl BackupVmConfig {
    fn check_succession(&self) -> Result<(), ConfigError> {
        if self.protect.len() > 1 {
            let count = format!("with {} backups", self.protect.len());
            return Err(out_of_range("protect", count, "at most one tcp:HOST:PORT or unix:PATH"));
        }
        if self.protect.contains(&self.listen) {
            let why = "the guest would be its own backup: name another host".into();
            return Err(ConfigError::Contradiction { first: "protect", second: "listen", why });
        }
        self.protect.iter().try_for_each(|next| self.detection.check_channel("protect", next))
    }

    /// What is allowed but risky, each as one sentence that names the risk. For the log and for `status`.
    pub fn warnings(&self) -> Vec<String> {
        let open = self.listens_everywhere().then(|| {
            "--listen names every address of this host, and replication is not encrypted: anybody who reaches the \
             port can read and alter the guest; give it the address of the network between the two hosts, or --tls-dir"
                .to_owned()
        });
        self.detection.split_brain_warning().into_iter().chain(open).collect()
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
