//! Protection: the drivers of the replication cores. Here sockets, clocks, logs and threads meet the protocol.
//!
//! ```text
//!  boundary ──sealed──▶ Guardian ──channel──▶ ship thread ──frames──▶ socket ──▶ backup::serve
//!                          │  ▲                                          │            │
//!       egress ◀──Release──┘  └───────────── link thread ◀──────acks─────┴────────────┘
//! ```
//!
//! [`guardian`] drives a primary, [`backup`] a backup; [`resync`] fills a new backup while the guest runs.

pub mod backup;
mod boot;
pub mod clock;
mod collected;
mod courtesy;
pub mod guardian;
pub mod lease;
pub(crate) mod local;
pub(crate) mod log;
mod preflight;
mod queue;
mod resync;
pub(crate) mod room;
mod shadow;
mod ship;
mod socket;
mod upkeep;

pub(crate) use boot::this_boot;
pub(crate) use guardian::IN_FLIGHT_EPOCHS_MAX;
pub use guardian::{Afterwards, Guardian, GuardianConfig, Life, Parted};
pub use lease::{Begun, Lease};
