//! What the command `demo` is asked to do.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

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
