//! How epochs are committed to the state directory (`--protect local`), and what comes when that fails.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What becomes of the guest when the state directory takes no more epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnDegraded {
    /// It goes on, without this protection; event `degraded`.
    #[default]
    Continue,
    /// Its VMM ends before anything of the epoch is shown; the one before can be resumed.
    Stop,
}

/// What is chosen for `--protect local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct LocalConfig {
    /// What becomes of the guest when the state directory takes no more epochs.
    pub on_degraded: OnDegraded,
}
