//! The `--config` file: the long options as TOML, unknown keys are errors.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::error::ConfigError;

/// Reads what is typed in `path`. `T` is [`super::RunOptions`] or [`super::BackupOptions`].
pub fn read_options<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::BadFile { path: path.into(), reason: error.to_string().trim_end().into() })
}
