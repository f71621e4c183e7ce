//! What a VM keeps on this host: its state directory, and the log of its disk writes.

use std::path::PathBuf;

use clap::ValueHint;
use serde::{Deserialize, Serialize};

use super::names::{default_state_dir, rooted};
use super::options::group;

group! {
    /// What may be typed of the state directory.
    #[command(next_help_heading = "Protection")]
    pub struct StateOptions {
        /// Directory for vm.json and the control socket. With `outlast run --protect local` also for the last committed
        /// epoch, which takes twice the guest's memory and 80 MiB. On tmpfs that survives the end of this program; on
        /// persistent memory with DAX or on a disk it survives a loss of power. Logs of disk writes lie beside the images
        /// [default: /dev/shm/outlast/NAME]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        state_dir: Option<PathBuf>,
        /// Directory for the log of disk writes. It should survive what the images survive [default: beside the first
        /// writable image; for a block device: the state directory]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        disk_log: Option<PathBuf>,
    }
}

/// What a VM keeps on this host, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateConfig {
    /// `vm.json`, the control socket; with `--protect local` guest memory and its log too.
    #[serde(rename = "state_dir")]
    pub dir: PathBuf,
    /// Directory for the log of disk writes; `None`: where it is by default.
    #[serde(default)]
    pub disk_log: Option<PathBuf>,
}

impl StateOptions {
    /// Of the VM called `name`. The directory is as it was typed.
    pub(super) fn fill(self, name: &str) -> StateConfig {
        let Self { state_dir, disk_log } = self;
        StateConfig { dir: state_dir.unwrap_or_else(|| default_state_dir(name)), disk_log: disk_log.map(rooted) }
    }
}
