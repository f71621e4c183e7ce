//! What the control interface asks of the machine behind it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{EpochLength, Protect};
use crate::exit::{Exit, Failure};
use protect::events::Event;

/// Why the machine did not do what it was asked. It is in the state that it was in before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What was tried, on what, why it failed.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The exit code that `outlast ctl` ends with; the HTTP status follows from it.
    pub exit: Exit,
}

impl ApiError {
    /// The state that the VM is in forbids the request.
    pub fn conflict(message: impl Into<String>) -> Self {
        ApiError { message: message.into(), hint: None, exit: Exit::Conflict }
    }

    /// The request asks for something that cannot be.
    pub fn bad_request(message: impl Into<String>) -> Self {
        ApiError { message: message.into(), hint: None, exit: Exit::Usage }
    }

    /// The request asks for something that is designed but not built.
    pub fn not_in_this_version(what: &str) -> Self {
        Failure::not_in_this_version(what).into()
    }

    /// The same error, with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// 400 for what is wrong with the request, 409 for what is wrong with the moment, 5xx for the rest.
    pub fn http_status(&self) -> u16 {
        match self.exit {
            Exit::Usage => 400,
            Exit::NotFound => 404,
            Exit::Conflict | Exit::SplitBrain | Exit::SelfFenced | Exit::Incompatible => 409,
            Exit::Timeout => 504,
            Exit::Ok | Exit::Error | Exit::GuestCrashed | Exit::MappingLost => 500,
        }
    }
}

impl From<Failure> for ApiError {
    fn from(Failure { message, hint, exit }: Failure) -> Self {
        ApiError { message, hint, exit }
    }
}

/// `PUT /ft`: where the epochs of the running VM are committed from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectRequest {
    /// The new target, added to what is there.
    pub protect: Protect,
    /// The new epoch length; absent leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochLength>,
}

/// `PUT /ft/take-over`: a backup whose copy was kept is to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeOverRequest {
    /// Every place that the witness lists, by the beginnings of their ids: the operator says that they are dead.
    pub dead: Vec<String>,
}

/// `PUT /snapshot/create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The directory to make; it must not exist.
    pub snapshot_path: PathBuf,
}

/// The machine, as the control interface sees it.
///
/// `pause`, `resume` and `snapshot_create` may take long. They are called on a thread of their own, one at a time, and the
/// others on the control thread meanwhile, also one at a time: what tells how the machine is, and what stops it, does not
/// wait for them. The guest waits for none. An error leaves the machine in the state before the call.
pub trait ApiHandler: Send + Sync + 'static {
    /// What it is: name, state (`Running`, `Pausing`, `Paused`), configuration, version.
    fn info(&self) -> Value;
    /// How it is protected: role, term, pointers, peer, lag, warnings.
    fn status(&self) -> Value;
    /// Stops the guest at a boundary; returns when that is committed. Pausing a paused VM is fine.
    fn pause(&self) -> Result<(), ApiError>;
    /// Runs the guest on. Resuming a running VM is fine.
    fn resume(&self) -> Result<(), ApiError>;
    /// Ends the VM cleanly. Returns when it is under way.
    fn stop(&self) -> Result<(), ApiError>;
    /// Writes a snapshot; gives what it wrote and the length of the pause.
    fn snapshot_create(&self, request: SnapshotRequest) -> Result<Value, ApiError>;
    /// Adds a target for epochs. Returns when the change is under way; `status` tells when it is done. Asking for the target
    /// that there is already is fine; then it gives what is under way.
    fn protect(&self, request: ProtectRequest) -> Result<Option<Value>, ApiError>;
    /// The guest goes on unprotected.
    fn unprotect(&self) -> Result<(), ApiError>;
    /// A backup whose claim was denied runs what it kept, because the operator names the places that have the guest as
    /// dead.
    fn take_over(&self, request: TakeOverRequest) -> Result<(), ApiError>;
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// Events numbered `since` and later, oldest first. Old ones may be gone.
    fn events(&self, since: u64) -> Vec<Event>;
}
