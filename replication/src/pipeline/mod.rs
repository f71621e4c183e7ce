//! What a host does next, and in which order: the rules of the drivers, as cores that the simulator runs.
//!
//! A session core ([`crate::Primary`], [`crate::Backup`]) decides what is committed and who may run. A pipeline owns one and
//! decides the rest of what a driver could get wrong: what is shipped, logged, synced, committed locally, applied, recorded,
//! sealed as a base, settled, emptied, and what comes before what. Whoever performs its steps decides nothing: it does one
//! thing, waits for it, and reports how it went.
//!
//! ```text
//!   sealed, frames, time, wishes ──handle_*──▶ pipeline ──poll_step(lane)──▶ executor of that lane ──┐
//!                                                 ▲                                                  │
//!                                                 └──────────────── handle_done(lane, how) ◀─────────┘
//! ```
//!
//! [`opening`] is what both do first: how a host comes to trust its images. [`resuming`] is what a host does about a guest that its state
//! directory holds; [`inheritance`] about one that it followed.
//!
//! The grammar, beside that of the session cores:
//!
//! - A *lane* is one executor: a thread with the files or the socket that it owns. Each lane has a pair of methods that give a step and take
//!   its answer (`poll_step` and `handle_done`, `poll_images` and `handle_images_written`, `poll_storage_step` and
//!   `handle_storage_done`, `poll_upkeep` and `handle_upkeep_done`). A lane has one step at a time: none is given while the last one is not answered, and it is answered exactly
//!   once.
//! - A step names epochs, sessions and connections. Their content (pages, disk writes, frames of an epoch) stays with the
//!   executor, which keeps a sealed or assembled epoch until the pipeline says that it is spent.
//! - A step that finds no room is answered so, changes nothing, and is given again later: `poll_timeout` says when. Any other
//!   failure of storage is answered as such; what follows from it is decided here.
//! - What an operator should hear comes out as a note, of a primary among its actions. Nothing depends on when it is told.
//! - What is permitted at one moment may be wrong at a later one. Such a step carries the time until which it may be begun.

pub mod backup;
pub mod inheritance;
pub mod opening;
pub mod primary;
pub mod resuming;
