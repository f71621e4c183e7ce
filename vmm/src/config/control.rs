//! How the program is controlled, and where it tells what happens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ValueEnum, ValueHint};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::key_values::{KeyValueError, KeyValues};
use super::names::{check_name, default_state_dir, out_of_range, rooted};
use super::options::group;
use super::units::as_text;

/// `sun_path` less its terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

group! {
    /// What may be typed of control.
    #[command(next_help_heading = "Control")]
    pub struct ControlOptions {
        /// Control socket, for `outlast ctl` [default: api.sock in the state directory]
        #[arg(long, alias = "api-sock", value_name = "PATH")]
        api_socket: Option<PathBuf>,
        /// Read these options from a TOML file; flags on the command line override it
        #[arg(long, value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
        #[serde(skip)]
        config: Option<PathBuf>,
        /// Format of the log on standard error [default: text]
        #[arg(long, value_enum)]
        log_format: Option<LogFormat>,
        /// Least important messages that the log has. The environment variable OUTLAST_LOG, if it is set, wins [default: info]
        #[arg(long, value_enum)]
        log_level: Option<LogLevel>,
        /// Append events as JSON lines to a file or named pipe
        #[arg(long, value_name = "path=FILE")]
        event_monitor: Option<EventMonitor>,
    }
}

/// How a VM is controlled, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlConfig {
    /// The control socket, at most 106 bytes.
    pub api_socket: PathBuf,
    /// The form of the log.
    pub log_format: LogFormat,
    /// What it has, where the environment does not say.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Where events are appended as JSON lines.
    pub event_monitor: Option<EventMonitor>,
}

impl ControlOptions {
    /// For a VM with this state directory, as it was typed.
    pub(super) fn fill(self, state_dir: &Path) -> Result<ControlConfig, ConfigError> {
        let Self { api_socket: typed_socket, config: _, log_format, log_level, event_monitor } = self;
        Ok(ControlConfig {
            api_socket: api_socket(typed_socket, state_dir)?,
            log_format: log_format.unwrap_or(LogFormat::Text),
            log_level: log_level.unwrap_or_default(),
            event_monitor: event_monitor.map(EventMonitor::rooted),
        })
    }
}

impl ControlConfig {
    /// The same for a state directory that may have been moved, or mounted elsewhere, since it was configured as `old`.
    pub(super) fn moved(self, old: &Path, new: &Path) -> Result<Self, ConfigError> {
        let stays = (self.api_socket.parent() != Some(old)).then(|| self.api_socket.clone());
        Ok(Self { api_socket: api_socket(stays, new)?, ..self })
    }
}

/// The control socket of the VM called `name` when nothing else was typed for it.
pub fn control_socket(name: &str) -> Result<PathBuf, ConfigError> {
    check_name(name)?;
    api_socket(None, &default_state_dir(name))
}

/// The socket that was typed, or `api.sock` in the state directory.
fn api_socket(typed: Option<PathBuf>, state_dir: &Path) -> Result<PathBuf, ConfigError> {
    let typed = typed.unwrap_or_else(|| state_dir.join("api.sock"));
    // From a deep directory a short path may be possible where the whole one is not.
    let path =
        Some(rooted(typed.clone())).filter(|path| path.as_os_str().len() < SOCKET_PATH_BYTES_MAX).unwrap_or(typed);
    match path.as_os_str().len() {
        0 | SOCKET_PATH_BYTES_MAX.. => {
            Err(out_of_range("api-socket", path.display(), "a path of 1 to 106 bytes (a limit of unix sockets)"))
        }
        _ => Ok(path),
    }
}

/// The form of the log on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How important a message must be to be in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What failed
    Error,
    /// And what an operator should look at
    Warn,
    /// And each change of state
    #[default]
    Info,
    /// And single steps, for who looks for a fault
    Debug,
}

impl LogLevel {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// Where events go as JSON lines, written `path=FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventMonitor {
    /// The file, appended to.
    pub path: PathBuf,
}

impl EventMonitor {
    pub(super) fn rooted(self) -> Self {
        Self { path: rooted(self.path) }
    }
}

impl FromStr for EventMonitor {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<Self, KeyValueError> {
        let pairs = KeyValues::parse(text, &["path"])?;
        Ok(EventMonitor { path: pairs.need("path")?.into() })
    }
}

impl fmt::Display for EventMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path={}", self.path.display())
    }
}

as_text!(EventMonitor);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_socket_beyond_sun_path_is_refused() {
        let long = PathBuf::from(format!("/{}", "x".repeat(107)));
        assert!(api_socket(Some(long), Path::new("/s")).is_err());
        assert_eq!(api_socket(None, Path::new("/s")).expect("short"), Path::new("/s/api.sock"));
    }
}
