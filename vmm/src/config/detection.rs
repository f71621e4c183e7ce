//! The two hosts: who decides which side runs the guest, how they speak to each other, and how a lost one is noticed.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::names::{out_of_range, rooted, rooted_witness};
use super::options::group;
use super::units::{TimeSpan, format_time, time_text};
use protect::transport::Endpoint;
use protect::witness::WitnessName;

const DETECT_MIN: Duration = Duration::from_millis(50);
const DETECT_MAX: Duration = Duration::from_secs(60);
const DETECT_DEFAULT: Duration = Duration::from_millis(500);
const HEARTBEAT_MIN: Duration = Duration::from_millis(1);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
const HEARTBEAT_DEFAULT: Duration = Duration::from_millis(50);
/// Fewer, and one lost datagram or one busy moment looks like a dead host.
const HEARTBEATS_PER_DETECT: u32 = 3;

group! {
    /// What may be typed of detection.
    #[command(next_help_heading = "Protection")]
    pub struct DetectionOptions {
        /// Who decides which side runs the guest when the two lose each other: file:DIR (a directory that both hosts share),
        /// etcd:http://HOST:PORT[,…] or etcd:https://HOST:PORT[,…],credentials=DIR (client addresses of one cluster, 3.4 or newer;
        /// DIR has ca-cert.pem, and if the cluster asks for them client-cert.pem, client-key.pem and `user`, a line
        /// NAME:PASSWORD) or none. With none both sides may run the guest after a network cut, or after a host hangs for longer than
        /// --detect and comes back; its disks and clients then see two guests. Required with a backup, and the same on both hosts; none must be said
        #[arg(long, value_name = "file:DIR|etcd:URL[,URL…]|none")]
        witness: Option<WitnessName>,
        /// Directory with certificates for TLS between the two hosts: ca-cert.pem, server-cert.pem, server-key.pem,
        /// client-cert.pem, client-key.pem, as for Cloud Hypervisor. Without it a backup beyond this host, and --listen beyond
        /// it, need tcp:HOST:PORT,clear
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        tls_dir: Option<PathBuf>,
        /// Silence after which the peer counts as lost, 50ms to 60s, at least three heartbeats. Too short: a loaded host is
        /// taken for dead. Too long: the guest is away that much longer [default: 500ms]
        #[arg(long, value_name = "TIME")]
        detect: Option<TimeSpan>,
        /// Time between heartbeats, 1ms to 10s. Shorter ones wake both hosts more often [default: 50ms]
        #[arg(long, value_name = "TIME")]
        heartbeat: Option<TimeSpan>,
    }
}

/// How a lost peer is noticed, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionConfig {
    /// Who decides which side runs after the two lost each other; the same on both.
    pub witness: WitnessName,
    /// Certificates for TLS between the two. `None`: clear text, which leaves this host only where it is named.
    #[serde(default)]
    pub tls_dir: Option<PathBuf>,
    /// 50 ms to 60 s of silence until the peer counts as lost. Too short: a loaded host is taken for dead. Too long:
    /// the guest is away for as long.
    #[serde(with = "time_text")]
    pub detect: Duration,
    /// 1 ms to 10 s between heartbeats, at most a third of `detect`.
    #[serde(with = "time_text")]
    pub heartbeat: Duration,
}

impl DetectionOptions {
    pub(super) fn fill(self) -> DetectionConfig {
        let Self { witness, tls_dir, detect, heartbeat } = self;
        let detect = detect.map_or(DETECT_DEFAULT, |time| time.0);
        let heartbeat = heartbeat.map_or_else(|| HEARTBEAT_DEFAULT.min(detect / HEARTBEATS_PER_DETECT), |time| time.0);
        let witness = rooted_witness(witness.unwrap_or(WitnessName::NONE));
        DetectionConfig { witness, tls_dir: tls_dir.map(rooted), detect, heartbeat }
    }
}

impl DetectionConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let &Self { witness: _, tls_dir: _, detect, heartbeat } = self;
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
        Ok(())
    }

    /// Takes the certificates from `dir` from now on, if it is named.
    pub fn name_tls_dir(&mut self, dir: Option<PathBuf>) {
        self.tls_dir = dir.map(rooted).or(self.tls_dir.take());
    }

    /// Whether the guest may go to `endpoint`, or come from there, which `field` names.
    pub(super) fn check_channel(&self, field: &'static str, endpoint: &Endpoint) -> Result<(), ConfigError> {
        endpoint.check(self.tls_dir.is_some()).map_err(|source| ConfigError::Channel { field, source })
    }

    /// What goes wrong with a backup and no witness, if there is none.
    pub(super) fn split_brain_warning(&self) -> Option<String> {
        self.witness.is_none().then(|| {
            "no witness: if the network between the hosts is cut, or one of them hangs for longer than --detect and comes back, \
             both may run the guest, and its clients and disks see two guests; give both sides --witness file:DIR on \
              storage that they share"
                .into()
        })
    }
}
