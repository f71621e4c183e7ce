//! The replication protocol: primary, backup, pages, output, wire. No input or output of its own.
//!
//! A primary runs the guest in epochs and ships each to a backup; what the guest sent to the world leaves only after
//! the epoch that produced it is committed. This crate decides *when* (what may be released, who may run), and *in which
//! bytes*. It has no clock, no sockets, no threads and no files: time is an argument, bytes come in and go out. The
//! driver that owns those lives elsewhere; a simulator drives the same code with virtual time.
//!
//! Everything that has state speaks one grammar:
//!
//! - `handle_*` puts an input in: a frame, a disconnect, a timer, a finished write;
//! - `poll_*` takes a result out: an action, bytes to send, the next time a timer wants to be called.
//!
//! After each `handle_*`, poll `poll_action` until it is empty, then `poll_transmit` until it is empty, then read
//! `poll_timeout`. Nothing is lost by polling late except time. Times given must not go backwards.
//!
//! ```text
//!            sealed epochs                          frames                          epochs to apply
//!   driver ───────────────▶ Primary ─ ─ ─ ─ ▶ EpochWriter ═══════▶ FrameDecoder ▶ Backup ─────▶ driver
//!      ▲                       │                                                    │
//!      │    Release { upto }   │◀════════════════════ Ack ══════════════════════════│◀─ handle_durable
//!      └───────────────────────┘
//! ```
//!
//! What rests on what (see [`pointers`]):
//!
//! ```text
//! released ≤ committed ≤ shipped ≤ sealed < running        on the primary
//! applied ≤ committed ≤ assembled,  acked ≤ complete       on the backup, of what it knows
//! released ≤ committed ≤ acked ≤ complete                  across both, while protected
//! ```
//!
//! The bytes, the states and the argument why two sides never both let output out are in `docs/PROTOCOL.md`.
#![forbid(unsafe_code)]

pub mod assembly;
pub mod backup;
pub mod commit;
pub mod id;
pub mod lineage;
pub mod output;
pub mod page;
pub mod peer;
pub mod pipeline;
pub mod pointers;
pub mod primary;
pub mod protocol;
pub mod ship;
pub mod state;
pub mod view;
pub mod wire;

pub use assembly::AssembledEpoch;
pub use backup::{Backup, BackupAction, BackupConfig, TakeOver};
pub use id::{ClaimResult, EpochId, Gfn, SessionId, Term, Time, VmId};
pub use lineage::{BranchSeed, ChainHash, EpochMark, EpochName, Fork, Linked, Origin, StateDigest};
pub use output::{HoldFull, Input, Output, OutputQueue};
pub use page::{PAGE_SIZE, PageBatch, PageEncoder};
pub use peer::PeerError;
pub use pointers::{BackupPointers, Pointers};
pub use primary::{EpochMeta, Primary, PrimaryAction, PrimaryConfig};
pub use protocol::{Event, Protocol, Rules};
pub use ship::EpochWriter;
pub use state::ShippedState;
pub use wire::{Frame, FrameDecoder, Link, Message, WireError};
