//! Protection: the drivers of the replication cores. Here sockets, clocks, logs and threads meet the protocol.
//!
//! ```text
//!  boundary ──sealed──▶ Guardian ───steps───▶ ship thread ──frames──▶ socket ──▶ backup::serve
//!                          │  ▲                                          │            │
//!       egress ◀──Release──┘  └───────────── link thread ◀──────acks─────┴────────────┘
//! ```
//!
//! [`guardian`] drives a primary, [`backup`] a backup; [`filling`] does the pieces of filling a new backup while the guest runs.

pub mod backup;
mod boot;
pub mod clock;
mod collected;
mod courtesy;
mod error;
mod filling;
pub mod guardian;
pub mod lease;
pub mod local;
pub mod log;
mod outbox;
mod preflight;
mod room;
mod shadow;
mod ship;
pub mod transport;
mod unwitnessed;
mod upkeep;

pub use boot::this_boot;
pub use error::{ProtectError, Words};
pub(crate) use guardian::IN_FLIGHT_EPOCHS_MAX;
pub use guardian::{
    Afterwards, CommitDurability, Guardian, GuardianConfig, Life, NotPaused, NotProtected, NotResumed, OnDegraded,
    Parting,
};
pub use lease::{Begun, Lease, LeaseError};
pub use unwitnessed::Unwitnessed;
