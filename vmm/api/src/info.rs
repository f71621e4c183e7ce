//! What a VM is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a VM is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// Its name.
    pub id: String,
    /// What its guest does here.
    pub state: RunState,
    /// Version of the VMM.
    pub vmm_version: String,
    /// `outlast`.
    pub app_name: String,
    /// What was configured.
    pub config: Config,
}

/// What a guest does in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunState {
    /// It runs.
    Running,
    /// It stands still for its operator, and that is not committed yet.
    Pausing,
    /// It stands still for its operator.
    Paused,
    /// It is over.
    Ended,
    /// It runs elsewhere: this is its backup.
    Standby,
}

/// The configuration as it is in `vm.json`: what clients ask for has a type, and the rest is what the version knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// Of a primary: where its epochs are committed; `none`, `local`, or backups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<String>,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Versions of a VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Of the program.
    pub version: String,
}
