//! One VM: what `outlast run` takes ([`RunOptions`]), and what is meant by it ([`VmConfig`]).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use snapshot::statedir::Item;

use super::control::{ControlConfig, ControlOptions};
use super::crash::{CrashConfig, CrashOptions};
use super::detection::{DetectionConfig, DetectionOptions};
use super::devices::{DeviceConfig, DeviceOptions};
use super::epochs::{EpochConfig, EpochOptions};
use super::error::ConfigError;
use super::guest::{GuestConfig, GuestOptions, NameOptions};
use super::names::{check_name, default_state_dir, rooted};
use super::options::command;
use super::protection::{ProtectionConfig, ProtectionOptions};
use super::rules;
use super::state::{StateConfig, StateOptions};
use protect::CommitDurability;

command! {
    /// What may be typed for `outlast run`.
    pub struct RunOptions {
        /// Which VM it is.
        name: NameOptions,
        /// What its guest starts from.
        guest: GuestOptions,
        /// What is attached to it.
        devices: DeviceOptions,
        /// What it keeps on this host.
        state: StateOptions,
        /// Where its epochs are committed.
        protection: ProtectionOptions,
        /// How long they last.
        epochs: EpochOptions,
        /// How a lost peer is noticed.
        detection: DetectionOptions,
        /// What is done when the guest crashes.
        crash: CrashOptions,
        /// How the program is controlled.
        control: ControlOptions,
    }
}

/// One VM: its parts and its protection. Every value is within its range. `vm.json` has all keys in one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// 1 to 63 bytes that are fit for a file name. Primary and backup agree on it.
    pub name: String,
    /// What its guest starts from, and how large it is.
    #[serde(flatten)]
    pub guest: GuestConfig,
    /// What is attached to it.
    #[serde(flatten)]
    pub devices: DeviceConfig,
    /// What it keeps on this host.
    #[serde(flatten)]
    pub state: StateConfig,
    /// Where its epochs are committed.
    #[serde(flatten)]
    pub protection: ProtectionConfig,
    /// How long they last.
    #[serde(flatten)]
    pub epochs: EpochConfig,
    /// How a lost peer is noticed.
    #[serde(flatten)]
    pub detection: DetectionConfig,
    /// No witness was named, not even `none`: then no backup may be added later either.
    #[serde(default)]
    pub unnamed_witness: bool,
    /// What is done when the guest crashes.
    #[serde(flatten)]
    pub crash: CrashConfig,
    /// How the program is controlled.
    #[serde(flatten)]
    pub control: ControlConfig,
}

impl TryFrom<RunOptions> for VmConfig {
    type Error = ConfigError;

    /// Fills in defaults, checks every range, and makes every path one from the root. It looks at no file.
    fn try_from(typed: RunOptions) -> Result<Self, ConfigError> {
        let name = typed.name.clone().fill()?;
        rules::check_typed(&typed)?;
        let RunOptions { name: _, guest, devices, state, protection, epochs, detection, crash, control } = typed;
        let guest = guest.fill()?;
        let StateConfig { dir, disk_log } = state.fill(&name);
        let config = VmConfig {
            devices: devices.fill(&name),
            protection: protection.fill(),
            epochs: epochs.fill(),
            unnamed_witness: detection.witness.is_none(),
            detection: detection.fill(),
            crash: crash.fill(guest.memory_bytes)?,
            control: control.fill(&dir)?,
            state: StateConfig { dir: rooted(dir), disk_log },
            guest,
            name,
        };
        config.check()?;
        Ok(config)
    }
}

impl VmConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let Self {
            name,
            guest,
            devices,
            state: _,
            protection,
            epochs,
            detection,
            unnamed_witness: _,
            crash,
            control: _,
        } = self;
        check_name(name)?;
        guest.check()?;
        devices.check()?;
        protection.check()?;
        epochs.check()?;
        detection.check()?;
        crash.check()?;
        rules::check_meant(self)
    }

    /// What the `vm.json` of a state directory says, `text` of the one in `dir`. Checked
    /// like what is typed, since anybody may have written it.
    pub fn of_state_dir(text: &[u8], dir: &Path) -> Result<Self, ConfigError> {
        let bad = |reason: String| ConfigError::BadState { path: Item::Config.path_in(dir), reason };
        let config: Self = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        config.refuse_unknown(text).map_err(bad)?;
        config.in_dir(dir.to_owned()).map_err(|error| bad(error.to_string()))
    }

    /// The state directory that was given, or the default one of the VM called `name`.
    pub fn state_dir_of(name: Option<&str>, state_dir: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
        match (state_dir, name) {
            (Some(dir), _) => Ok(dir),
            (None, Some(name)) => check_name(name).map(|()| default_state_dir(name)),
            (None, None) => Err(ConfigError::Missing("state-dir")),
        }
    }

    /// Refuses a key that this configuration, read from `text`, does not have: a flattened structure reads over it.
    fn refuse_unknown(&self, text: &[u8]) -> Result<(), String> {
        let read: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let known = serde_json::to_value(self).expect("a configuration is plain data");
        let unknown = read.as_object().and_then(|read| read.keys().find(|key| known.get(key).is_none()));
        unknown.map_or(Ok(()), |key| Err(format!("unknown field `{key}`")))
    }

    /// This configuration, checked, for the state directory that it was read from: it may have been moved, or mounted elsewhere.
    fn in_dir(self, dir: PathBuf) -> Result<Self, ConfigError> {
        self.check()?;
        let Self { state: StateConfig { dir: old, disk_log }, control, .. } = self;
        let control = control.moved(&old, &dir)?;
        Ok(Self { state: StateConfig { dir: rooted(dir), disk_log }, control, ..self })
    }

    /// What is allowed but risky, each as one sentence that names the risk. For the log and for `status`.
    pub fn warnings(&self) -> Vec<String> {
        if self.protection.backup().is_none() {
            return Vec::new();
        }
        let mut warnings: Vec<String> = self.detection.split_brain_warning().into_iter().collect();
        if self.epochs.commit_durability == CommitDurability::Memory {
            warnings.push(
                "commit durability is memory: a power cut of both hosts loses disk writes that the guest flushed"
                    .into(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
