//! How epochs are committed to the state directory (`--protect local`), and what comes when that fails.

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use protect::OnDegraded;
use protect::local::backing::{LocalLog, Survival};

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
