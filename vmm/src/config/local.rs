//! How epochs are committed to the state directory (`--protect local`), and what comes when that fails.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// What happens to the guest when the state directory takes no more epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnDegraded {
    /// The guest keeps running without this protection; event `degraded`.
    #[default]
    Continue,
    /// This program ends before anything of the epoch leaves; `outlast resume` continues from the epoch before.
    Stop,
}

/// By which log epochs are committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LocalLog {
    /// Redo on an ordinary file system, undo elsewhere.
    #[default]
    Auto,
    /// In place, with an undo log, for tmpfs and persistent memory. On an ordinary file system nothing is synced.
    Undo,
    /// A redo log that is synced at each commit, for ordinary disks.
    Redo,
}

/// What a committed epoch survives at least, each including those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Survival {
    /// The end of this program.
    #[default]
    Process,
    /// A crash of the host's kernel.
    Kernel,
    /// A loss of power.
    Power,
}

/// What is chosen for `--protect local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct LocalConfig {
    /// By which log epochs are committed.
    pub log: LocalLog,
    /// What they must survive, or nothing is started.
    pub require_survives: Survival,
    /// What happens to the guest when the state directory takes no more epochs.
    pub on_degraded: OnDegraded,
}

impl LocalConfig {
    /// From what was typed.
    pub(super) fn new(
        is_local: bool,
        log: Option<LocalLog>,
        survives: Option<Survival>,
        on_degraded: Option<OnDegraded>,
    ) -> Result<Self, ConfigError> {
        let typed = [
            ("local-log", log.is_some()),
            ("require-survives", survives.is_some()),
            ("on-degraded", on_degraded.is_some()),
        ];
        if let Some((first, _)) = typed.into_iter().find(|(_, given)| *given && !is_local) {
            let why = "it concerns epochs in the state directory: give --protect local".into();
            return Err(ConfigError::Contradiction { first, second: "protect", why });
        }
        Ok(Self {
            log: log.unwrap_or_default(),
            require_survives: survives.unwrap_or_default(),
            on_degraded: on_degraded.unwrap_or_default(),
        })
    }
}
