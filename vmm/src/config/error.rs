//! What can be wrong with a configuration.

use std::path::PathBuf;

use crate::exit::{Advice, Exit};
use protect::transport::ChannelError;

/// A configuration that is refused. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field that has no default was not given.
    #[error("--{0} is missing")]
    Missing(&'static str),
    /// A value outside its range.
    #[error("--{field} {value}: must be {range}")]
    OutOfRange {
        /// The option.
        field: &'static str,
        /// What was given.
        value: String,
        /// What it takes, as text.
        range: String,
    },
    /// Two values that do not go together.
    #[error("--{first} and --{second} do not go together: {why}")]
    Contradiction {
        /// One option.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The reason.
        why: String,
    },
    /// The guest would go to, or come from, a place without protection on the way.
    #[error("--{field} {source}")]
    Channel {
        /// The option.
        field: &'static str,
        /// Why not.
        source: ChannelError,
    },
    /// The configuration file could not be read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("configuration file {path}: {reason}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What the TOML reader says, with the line.
        reason: String,
    },
    /// What a state directory says of its VM is not what was written there.
    #[error("{} is not the configuration of a VM: {reason}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Advice for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            ConfigError::Missing("witness") => Some(
                "give --witness file:DIR, a directory on storage that both hosts share and that outlives either; or, if you accept \
                 that a network cut makes two guests, --witness none"
                    .into(),
            ),
            ConfigError::Missing(field) => Some(format!("give --{field}, or {field} = … in the --config file")),
            ConfigError::BadFile { .. } => Some("the keys are the long options without the dashes in front".into()),
            ConfigError::OutOfRange { .. } | ConfigError::Contradiction { .. } => {
                Some("`outlast run --help` and `outlast backup --help` explain the options".into())
            }
            ConfigError::BadState { .. } => Some(
                "`outlast run` writes this file: put back a copy of it. If `outlast backup` wrote it, there is no \
                 VM to resume here"
                    .into(),
            ),
            ConfigError::Channel { source, .. } => source.hint(),
            ConfigError::Unreadable { .. } => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            ConfigError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
            ConfigError::Unreadable { .. } => Exit::Error,
            ConfigError::BadState { .. } => Exit::Incompatible,
            _ => Exit::Usage,
        }
    }
}
