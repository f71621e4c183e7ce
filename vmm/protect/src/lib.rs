//! What protects a guest: its epochs, and the drivers of the replication cores. Here sockets, clocks, logs and threads meet the
//! protocol.
//!
//! ```text
//!  boundary ──sealed──▶ Guardian ───steps───▶ ship thread ──frames──▶ transport ──▶ Standby::serve
//!                          │  ▲                                          │            │
//!       egress ◀──Release──┘  └───────────── link thread ◀──────acks─────┴────────────┘
//! ```
//!
//! [`epoch`] turns a machine's run into epochs; [`guardian`] drives a primary, [`backup`] a backup. Both perform what the pipelines of
//! `replication` say, on [`log`], [`local`], [`registrant`] with its [`witness`], and [`transport`].
//!
//! Not here: configuration, the command line, exit codes, the control interface. What a user chose comes as plain types; what failed
//! goes back as [`ProtectError`] and the errors that it is made of.

pub mod backup;
mod boot;
mod clock;
mod courtesy;
pub mod epoch;
mod error;
pub mod events;
pub mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod guardian;
pub mod local;
pub mod log;
mod mailbox;
mod preflight;
mod registrant;
mod room;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;
mod unwitnessed;
mod upkeep;
pub mod witness;

pub use boot::this_boot;
pub use error::{ProtectError, Words};
pub use guardian::{
    CommitDurability, Guardian, GuardianConfig, HandedOver, NotExchanged, NotHandedOver, NotPaused, NotProtected,
    NotResumed, NotSnapshot, OnDegraded, Parting, Sequel,
};
pub use local::reset::Life;
pub use preflight::Misfit;
pub use registrant::{Begun, ExchangeError, Inspection, Named, Registrant, RightError, StartAnswer};
pub use unwitnessed::Unwitnessed;
