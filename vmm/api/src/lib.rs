//! The control interface of Outlast as types. A program that talks to a VM needs this crate and a unix socket, and no KVM.
//!
//! [`verbs`] is the table of what can be asked: each verb has a method, a path, a request and an answer. Routing
//! ([`face::answer`]), the OpenAPI document ([`openapi::document`]) and the paths of `outlast ctl` come from it. [`figures`] is
//! the table of what is measured: each row gives a field of [`Status`], lines of Prometheus text ([`metrics`]), and columns of the
//! benches.
//!
//! ```text
//!  bytes ─▶ Request ─▶ face::answer ─▶ Service<V>::serve ─▶ V::Answer ─▶ Reply ─▶ bytes
//!                        (verbs)         (the VMM)            (types)
//! ```
//!
//! Compatibility: a field or a verb may be added, and a field of an answer that older VMs lack has a default. None is renamed
//! or removed, and none changes its type or unit. Requests refuse fields that they do not know; answers ignore them.
//!
//! Not here: sockets, HTTP, who serves a verb, and what a configuration may say.

#![forbid(unsafe_code)]

mod answer;
mod event;
mod exit;
pub mod face;
mod fault;
pub mod figures;
mod info;
pub mod metrics;
pub mod openapi;
mod request;
mod service;
mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verb;
pub mod verbs;

pub use answer::{Answer, PrometheusText, Reply};
pub use event::{Event, Occurrence};
pub use exit::Exit;
pub use fault::Fault;
pub use info::{Config, Info, RunState, Version};
pub use request::{
    Action, ActionType, GoalState, Parameters, ProtectRequest, Protection, Since, Snapshot, SnapshotRequest,
    Switchover, SwitchoverRequest, TakeOverRequest, VmState, WitnessRequest,
};
pub use service::{Request, Service};
pub use status::{
    BackupState, BackupStatus, Capture, ConsoleStatus, Crash, DiskLog, EpochFigures, Filling, FillingFigures,
    Following, Host, Incident, KeptCopy, KeptEpoch, PrimaryState, PrimaryStatus, Protecting, Standing, Status,
};
pub use verb::{Description, Method, Pace, Verb};
pub use verbs::Face;
