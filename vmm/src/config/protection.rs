//! Where the epochs of a VM are committed, and what comes when that fails.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::choice::choice;
use super::error::ConfigError;
use super::names::{out_of_range, rooted_endpoint};
use super::options::group;
use super::units::as_text;
use protect::OnDegraded;
use protect::local::backing::{LocalLog, Survival};
use protect::transport::Endpoint;

group! {
    /// What may be typed of protection.
    #[command(next_help_heading = "Protection")]
    pub struct ProtectionOptions {
        /// Where epochs are committed: none, local (the state directory: `outlast resume` continues the guest after a crash
        /// of this program) or tcp:HOST:PORT (a backup; unix:PATH for one on this host). Give local and a backup to commit to both [default:
        /// none]
        #[arg(long, value_name = "none|local|tcp:HOST:PORT|unix:PATH")]
        protect: Vec<Protect>,
        /// How epochs are written to the state directory (with --protect local) [default: auto]
        #[arg(long, value_parser = choice::<LocalLog>())]
        local_log: Option<LocalLog>,
        /// Refuse to start if epochs in the state directory, or the disk images, survive less than this (with --protect
        /// local) [default: process]
        #[arg(long, value_parser = choice::<Survival>())]
        require_survives: Option<Survival>,
        /// What to do when the state directory takes no more epochs (with --protect local) [default: continue]
        #[arg(long, value_parser = choice::<OnDegraded>())]
        on_degraded: Option<OnDegraded>,
        /// What to do when an epoch cannot end because a vCPU waits for this host's storage [default: continue]
        #[arg(long, value_enum)]
        on_boundary_late: Option<OnBoundaryLate>,
    }
}

/// Where the epochs of a VM are committed, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionConfig {
    /// Where epochs are committed: never empty, `None` only alone, at most one `Backup`.
    pub protect: Vec<Protect>,
    /// How epochs are committed to the state directory, where they are.
    #[serde(default)]
    pub local: LocalConfig,
    /// What happens to the guest when a boundary does not come.
    #[serde(default)]
    pub on_boundary_late: OnBoundaryLate,
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

impl ProtectionOptions {
    pub(super) fn fill(self) -> ProtectionConfig {
        let Self { protect, local_log, require_survives, on_degraded, on_boundary_late } = self;
        ProtectionConfig {
            protect: local_once(protect.into_iter().map(Protect::rooted)),
            local: LocalConfig {
                log: local_log.unwrap_or_default(),
                require_survives: require_survives.unwrap_or_default(),
                on_degraded: on_degraded.unwrap_or_default(),
            },
            on_boundary_late: on_boundary_late.unwrap_or_default(),
        }
    }
}

/// The state directory is one however often it is named. Without a target epochs are committed nowhere.
fn local_once(targets: impl Iterator<Item = Protect>) -> Vec<Protect> {
    let mut once = Vec::new();
    for target in targets {
        if target != Protect::Local || !once.contains(&target) {
            once.push(target);
        }
    }
    if once.is_empty() { vec![Protect::None] } else { once }
}

impl ProtectionConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let backups = self.protect.iter().filter(|target| matches!(target, Protect::Backup(_))).count();
        match self.protect.as_slice() {
            [] => Err(out_of_range("protect", "of nothing", "none, local or tcp:HOST:PORT")),
            _ if backups > 1 => {
                let count = format!("with {backups} backups");
                Err(out_of_range("protect", count, "at most one tcp:HOST:PORT or unix:PATH"))
            }
            all if all.len() > 1 && all.contains(&Protect::None) => {
                let why = "none excludes every other".into();
                Err(ConfigError::Contradiction { first: "protect", second: "protect", why })
            }
            _ => Ok(()),
        }
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

    /// Whether epochs are committed anywhere.
    pub fn is_protected(&self) -> bool {
        self.protect != [Protect::None]
    }
}

/// Where the epochs of a VM are committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protect {
    /// Nowhere: an ordinary VM. Nothing is held back, and nothing survives.
    None,
    /// Persistent memory of this host. Survives the VMM and the kernel, not the loss of the host.
    Local,
    /// A backup.
    Backup(Endpoint),
}

impl Protect {
    /// The same, whatever directory it is read in.
    pub fn rooted(self) -> Self {
        match self {
            Self::Backup(endpoint) => Self::Backup(rooted_endpoint(endpoint)),
            Self::None | Self::Local => self,
        }
    }
}

impl FromStr for Protect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Protect::None),
            "local" => Ok(Protect::Local),
            _ if text.starts_with("tcp:") || text.starts_with("unix:") => text.parse().map(Protect::Backup),
            _ => Err("use none, local or tcp:HOST:PORT; or unix:PATH for a backup on this host".into()),
        }
    }
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protect::None => f.write_str("none"),
            Protect::Local => f.write_str("local"),
            Protect::Backup(endpoint) => endpoint.fmt(f),
        }
    }
}

/// What happens to a guest whose boundary does not come, because one of its vCPUs stays in the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBoundaryLate {
    /// The guest waits; event `boundary-late` after 2 s.
    #[default]
    Continue,
    /// After 10 s this program ends as if it had crashed: the backup takes over, or `outlast resume` continues the
    /// guest.
    HandOver,
    /// After 10 s its protection by a backup ends, as `outlast ctl unprotect` ends it; it waits here, for its own storage only.
    Unprotect,
}

as_text!(Protect);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protect_text_round_trips() {
        for text in ["none", "local", "tcp:b.example:7000", "unix:/run/vm0.sock"] {
            assert_eq!(text.parse::<Protect>().expect("well formed").to_string(), text);
        }
    }
}
