//! The primary's side: when an epoch is committed, when output may leave, who goes on when the peer is lost.
//!
//! It sees numbers, not pages: the driver runs the guest, seals, encodes, ships, and holds the output; this core says
//! what may leave and when the guest must wait.
//!
//! ```text
//!                  HelloAck         same witness        enlisted, base sealed     base acked
//!   Solo ──▶ Greeting ────▶ Meeting ──────────▶ Syncing ─────────────▶ Basing ─────────────▶ Protected
//!    ▲  ▲       │              │ another, lost    │ lost                │ lost                  │ lost
//!    │  └───────┴──────────────┴──────────────────┘                     └──────────┬────────────┘
//!    │                        claim granted                                        ▼
//!    └─────────────────────────────────────────────────────────────────────── Arbitrating ── claim denied ──▶ Fenced
//! ```
//!
//! The invariants:
//!
//! - A filling ends: one without progress after a time, one that does not converge after rounds. Only time tells a stuck one from
//!   a slow one. A guest is slowed only while it is filled from.
//! - Until the base is sealed no backup can take over: commit is sealed, and losing the backup needs no arbitration.
//! - From the seal of the base on, an epoch commits when the backup has acked it, or when the witness has removed it from the
//!   view. There is no third way.
//! - A base is sealed only after the register lists its backup.
//! - While `Arbitrating`, and once `Fenced`, nothing is released.
//! - After a pause of this host nothing is released before the witness, or an ack of something sealed since, says that
//!   nobody took over meanwhile. That is a narrowing: what was committed before may repeat, and never contradicts.
//! - The backup is told of the guest's end only after the register says so.
//! - An epoch commits when every backup that counts has it. While one of them is to be removed, nothing commits.
//! - After a takeover nothing leaves, and nothing is sent again, before every other backup that its record lists is out.
//! - A guest that was offered to its backup is run by nobody before the witness has said whose it is.
//! - Nothing is released that a lost local store does not have before the register does not list it.
//!
//! The driver's duties, in their order:
//!
//! 1. Call `handle_sealed` at the boundary. Only if it gives a [`Link`], ship the epoch, with that link. In particular no
//!    byte of a base goes out before: a base that the backup has and this core does not know of makes two primaries.
//!    Before any of its bytes go out, `handle_identified`, for every epoch and in order.
//! 2. Output leaves, and disk writes reach the images, only by [`PrimaryAction::Release`]. When the output has left, and not
//!    before, `handle_released`: the backup forgets what it is told has left. An image gets nothing of an epoch that the
//!    local log does not have, whether or not `log_counts` makes commits wait for it.
//! 3. While `may_seal` is false the guest waits at the boundary.
//! 4. Every question to the witness ([`PrimaryAction::Ask`]) is answered once; no answer in time is `Unreachable`. None is asked
//!    on a thread that keeps time.
//! 5. `handle_shipping` before the first byte of an epoch goes to the socket, `handle_shipped` after the last: a backup
//!    that takes bytes and heartbeats but never acks would otherwise stop the guest for ever.
//! 6. Before an offer of disk chunks goes out, `handle_disk_offered`; one offer at a time. While a backup is filled,
//!    `handle_filling` whenever something was done for it. Whatever the driver waits for then, it stops when the session ends.
//!    Before each round of memory, `handle_fill_left`, and no base before it says so: all that was left then goes with the base.
//! 7. A permission to release that could not be used at once is given back: `handle_release_late`.
//! 8. When a session ends, nothing more of its epochs goes out; what `poll_transmit` gave goes out at once.
//! 9. After [`PrimaryAction::Disconnect`] the connection is gone for this core; its end is not reported any more.
//! 10. `handle_handover_begun` only of a guest that stands still, all of which is sealed; it stands still until `is_handing_over` says no.

mod errands;
mod exchange;
mod few;
mod filling;
mod frames;
mod handover;
mod machine;
mod peer;
mod register;
mod rounds;
mod session;
mod siblings;
mod store;

use std::collections::VecDeque;
use std::time::Duration;

use crate::commit::Commit;
use crate::id::{EpochId, SessionId, Term, Time, VmId};
use crate::lineage::{Lineage, Origin};
use crate::view::Settlement;
use crate::wire::{DiskWant, Link, MachineInfo, RefuseCode};
use errands::Errands;
pub use errands::Question;
use exchange::Exchanging;
pub use exchange::NotNow;
pub use few::{Few, PEERS_MAX};
pub use filling::FillPhase;
use handover::HandoverPhase;
pub use handover::NoHandover;
pub use peer::PeerId;
use peer::Peers;
pub use rounds::{FillFigures, Left, NextRound, NotConverging, RoundsConfig, RoundsEnd};
use siblings::Siblings;

/// How a primary behaves. Times in the driver's clock.
#[derive(Clone, Debug)]
pub struct PrimaryConfig {
    /// The VM's name; both sides must say the same.
    pub vm_name: String,
    /// Program and version, for the peer's log.
    pub writer: String,
    /// The machine, for the backup to check.
    pub machine: MachineInfo,
    /// This primary's term: 1 for a fresh VM, what [`crate::TakeOver`] says after a takeover. It is the branch of its epochs.
    pub term: Term,
    /// What that branch begins with.
    pub origin: Origin,
    /// A heartbeat goes out when nothing else was sent for so long. A fraction of the backup's `detect`.
    pub heartbeat: Duration,
    /// Nothing heard for so long: the peer is lost.
    pub detect: Duration,
    /// An epoch is being sent, or was sent, and for so long no ack came: the peer is lost though it is heard. Far longer
    /// than `detect`: a backup may wait for its disk.
    pub ack_wait: Duration,
    /// A filling that has done nothing for so long is told of ...
    pub fill_notice: Duration,
    /// ... and given up after so long; it is tried again. More than `fill_notice`, and than storage may take for one step.
    pub fill_wait: Duration,
    /// How rounds of memory are judged.
    pub rounds: RoundsConfig,
    /// How long no backup is connected to after a filling that failed; twice as long after each that follows, ...
    pub fill_rest: Duration,
    /// ... but no longer than this.
    pub fill_rest_max: Duration,
    /// Between two claims while the witness does not answer.
    pub claim_retry: Duration,
    /// Epochs sealed and not acked, at most; then the guest waits. At most [`crate::id::IN_FLIGHT_EPOCHS_MAX`].
    pub in_flight_epochs_max: u32,
    /// Bytes sealed and not acked; at or above it the guest waits.
    pub in_flight_bytes_max: u64,
    /// An epoch commits only when its disk writes are in the local log too (`handle_logged`).
    pub log_counts: bool,
    /// ... and when the local store has it (`handle_stored`).
    pub has_store: bool,
    /// The backup acks only what is in its synced log.
    pub backup_durable: bool,
    /// The joins of the other backups that the record of a takeover lists: each counts from the fork on.
    pub members: Vec<SessionId>,
    /// The guest was booted by this process. Then a backup that has another one is not its own.
    pub begins_afresh: bool,
    /// Questions are put to a witness. If not, the driver grants everything.
    pub is_witnessed: bool,
}

/// What the primary needs to know of a sealed epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochMeta {
    /// Its number: the one that was running.
    pub epoch: EpochId,
    /// It is the base of this session: with it the backup is whole. Only if `may_seal_base`.
    pub base: Option<SessionId>,
    /// Bytes to ship, about.
    pub ship_bytes: u64,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryAction {
    /// Output of all epochs up to `upto` may leave; disk writes up to it may go to the images.
    Release {
        /// The last such epoch.
        upto: EpochId,
    },
    /// What the predecessor of a takeover held may be sent again. Comes once, if [`Primary::may_emit_again`] said no at first.
    EmitAgain,
    /// Put this question to the witness.
    Ask(Question),
    /// Remove the files of the local store, then `handle_store_removed`. If they cannot be removed, that may be called all
    /// the same where there is a witness.
    RemoveStore,
    /// The backup of this VM has another guest of it, or will, or knows another register of it: stop this one.
    Conflict {
        /// In the backup's words.
        text: String,
    },
    /// The backup is there: send it everything, then `handle_filled`, then seal a base. Frames carry `link`.
    Resync {
        /// What the frames carry.
        link: Link,
    },
    /// The backup says which chunks it needs.
    DiskWanted(DiskWant),
    /// The filling has done nothing for `fill_notice`. Said once for each time that it stops.
    FillingStalls {
        /// Where it stands.
        phase: FillPhase,
    },
    /// The guest writes faster than it can be sent: it is slowed, or slowed more.
    FillingDiverges {
        /// How the filling stands.
        figures: FillFigures,
    },
    /// The guest gets this share of its processors' time from now on.
    GuestShare {
        /// In percent; 100: all.
        percent: u8,
    },
    /// The base is acked: from now on the guest outlasts this host.
    Protected {
        /// The session.
        session: SessionId,
    },
    /// The guest goes on without the backup at this peer; with no backup, if it was the last.
    WentSolo {
        /// Which.
        peer: PeerId,
        /// Why.
        reason: SoloReason,
    },
    /// The backup took over. Nothing leaves any more; stop the guest.
    Fenced {
        /// Who has it.
        holder: String,
    },
    /// The guest was handed over, and runs at its backup or with who continued it since. Nothing leaves any more; end it here.
    HandedOver {
        /// Who has it.
        holder: String,
    },
    /// The backup does not take part in the exchange of the witness, which is called off.
    ExchangeRefused {
        /// In its words.
        text: String,
    },
    /// An exchange of the witness was settled: which one counts from now on.
    ExchangeSettled(Settlement),
    /// The guest's end is committed and the backup was told. Nothing is left to do.
    Ended,
    /// Close the connection to this peer, after what `poll_transmit` gives for it is sent.
    Disconnect {
        /// Which.
        peer: PeerId,
    },
}

/// Why a primary has no backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SoloReason {
    /// The backup refused.
    Refused {
        /// Why, for the program.
        code: RefuseCode,
        /// Why, for people.
        text: String,
    },
    /// The backup was lost before it was whole; no arbitration was needed.
    LostBeforeBase,
    /// The backup was lost, and the witness gave the session to us.
    ClaimGranted,
    /// The operator wants no backup any more.
    Unprotected,
    /// The backup was heard but acked nothing for `ack_wait`, and the witness gave the session to us.
    Mute,
    /// The backup does not see the same witness.
    OtherWitness,
    /// The witness did not say whether the backup sees it too.
    WitnessAway,
    /// Filling the backup made no progress for `fill_wait`; it is tried again.
    FillingStalled {
        /// The session.
        session: SessionId,
        /// Where it stood.
        phase: FillPhase,
    },
    /// The guest wrote faster than the backup could be filled; it is tried again.
    NotConverging {
        /// The session.
        session: SessionId,
        /// In figures.
        why: NotConverging,
    },
    /// Filling the backup failed for a reason that the driver knows; it is tried again.
    FillingFailed {
        /// The session.
        session: SessionId,
    },
}

/// Whether both sides see the same witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// What the other side left there was found.
    Same,
    /// It was not, or one side has no witness and the other has.
    Other,
    /// The witness did not answer.
    NoAnswer,
}

/// Where the primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryState {
    /// No backup. Commit is sealed (and locally durable).
    Solo,
    /// A Hello was sent.
    Greeting,
    /// The backup accepted; whether it sees the same witness is being looked at.
    Meeting,
    /// Everything is being sent. Commit as in `Solo` until the base is sealed.
    Syncing,
    /// The base is sealed but not acked: output waits for the ack.
    Basing,
    /// The backup is whole and follows.
    Protected,
    /// The backup is lost; the witness decides. Output waits.
    Arbitrating,
    /// The backup took over. For ever.
    Fenced,
    /// The guest ended.
    Ended,
}

impl PrimaryState {
    /// A backup could take over: what it has not acked is not committed.
    pub fn waits_for_backup(self) -> bool {
        matches!(
            self,
            PrimaryState::Basing | PrimaryState::Protected | PrimaryState::Arbitrating | PrimaryState::Fenced
        )
    }

    /// A connection is in use.
    pub fn is_connected(self) -> bool {
        use PrimaryState::*;
        matches!(self, Greeting | Meeting | Syncing | Basing | Protected)
    }
}

/// The primary's side of the protocol.
#[derive(Debug)]
pub struct Primary {
    config: PrimaryConfig,
    vm: VmId,
    standing: Standing,
    /// The commit rule: over which places an epoch must be.
    commit: Commit,
    /// The identity of its epochs.
    lineage: Lineage,
    /// The backups, each with what is its own.
    peers: Peers,
    /// Those that the record of a takeover lists, until each is out.
    siblings: Siblings,
    /// The last epoch whose output the driver has let out; it follows the pointer `released`, which permits it.
    left: EpochId,
    /// What the witness is asked.
    errands: Errands,
    /// Time jumped, and whether another side took over meanwhile is not known.
    doubt: Option<Doubt>,
    /// The last time that this core was told.
    last_told: Option<Time>,
    /// The local store takes no more epochs, and the register or its files still say that it does.
    lost_store: Option<LostStore>,
    /// The witness is being exchanged.
    exchanging: Option<Exchanging>,
    /// The guest stands still, to be handed over to its backup.
    handover: Option<HandoverPhase>,
    /// A backup accepted this life of the guest.
    was_accepted: bool,
    /// The guest ended: say so when all of it is committed. Both may wait at once: a guest may end while the witness is
    /// asked.
    guest_ended: Option<GuestEnd>,
    peer_errors: u64,
    actions: VecDeque<PrimaryAction>,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEnd {
    /// In words, for the backup.
    pub text: String,
    /// It begins anew on this host: the register goes on with it.
    pub begins_anew: bool,
}

/// Why a session is about to end by our own will: say so when the session is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parting {
    /// The operator wants no backup any more.
    Unprotect { text: String },
    /// The backup acks nothing.
    Mute,
}

/// Whether the guest may go on here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It runs, with whatever backups the peers say.
    Running,
    /// The backup took over.
    Fenced,
    /// The guest ended.
    Ended,
}

/// What is held back until it is known that nobody took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// An ack of a later epoch than this is proof too: a backup that asked for the guest acks nothing more.
    sealed: EpochId,
    /// A permission that was given before, and not used.
    late: Option<EpochId>,
}

use store::LostStore;

#[cfg(test)]
pub(crate) mod tests;
