//! What becomes of a guest that crashed by itself.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::vm::{StartFrom, refuse_unbuilt};

/// What is done with a guest that crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnGuestPanic {
    /// It is stopped, and what it was then is kept. Nothing that it acknowledged is taken back.
    #[default]
    Stop,
    /// It is booted anew, with the disks as it left them.
    Reset,
    /// It goes back to an earlier epoch. What it acknowledged after that is lost.
    Rollback,
}

/// Checks what is to be done against what the VM is made of.
pub(super) fn check(asked: Option<OnGuestPanic>, start: &StartFrom) -> Result<OnGuestPanic, ConfigError> {
    let policy = asked.unwrap_or_default();
    refuse_unbuilt(policy == OnGuestPanic::Rollback, "on-guest-panic=rollback")?;
    if policy == OnGuestPanic::Reset && matches!(start, StartFrom::Snapshot(_)) {
        let why = "a snapshot can be started only with the disks of its moment, and there is no kernel to boot".into();
        return Err(ConfigError::Contradiction { first: "on-guest-panic=reset", second: "restore", why });
    }
    Ok(policy)
}
