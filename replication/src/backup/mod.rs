//! The backup's side: what is complete, what is acked, when it may take over.
//!
//! ```text
//!             Hello             accepted              base whole
//!   Waiting ─────────▶ Greeting ─────────▶ Syncing ───────────────▶ Protected ──── Goodbye: guest ended ──▶ Ended
//!    ▲  ▲                 │ lost              │ lost                  │ lost
//!    │  └─────────────────┴───────────────────┘                       ▼
//!    │         applied              claim denied                   Claiming
//!    └────────────────── Keeping ◀─────────────────────────────────┘  │ granted
//!                                                                     ▼
//!                                    durable and applied          TakingOver ─────▶ TookOver
//!
//!   Protected ── Handover: all is here ──▶ TakingOver, and the claim comes when the guest is restored ([`crate::pipeline::inheritance`])
//!
//!   Waiting, with a kept epoch that is still listed ── no primary comes ──▶ Claiming
//!   Waiting, with a kept epoch ── the operator overrides ──▶ Overriding ── granted ──▶ TookOver
//! ```
//!
//! The invariants:
//!
//! - An epoch is acked only when it is complete here, verified, and as durable as the primary asked for.
//! - An epoch is applied only when it is known to be committed, or when it is settled who goes on with the guest: what was
//!   applied last is overwritten by nothing that could be dropped.
//! - Once a claim was asked for, nothing is acked any more; what is taken over contains all that was ever acked.
//! - The guest runs here only after the witness gave the session to this side. It is asked for only when the base was
//!   found to run here. That a primary hands its guest over is a reason to ask, as silence is, and no right.
//! - A guest is taken from a primary that lives only whole: its last epoch is acked, and its output has left.
//! - A copy whose claim was denied is kept complete until a primary fills this backup again. It runs only by an
//!   override, or by another claim: as long as the register lists it, whoever won may die before it has removed or filled it.
//! - A peer that breaks the protocol loses its connection. What was complete before stays complete.
//!
//! The driver's duties, in their order:
//!
//! 1. Actions are done in the order given, those about one session before those of the next.
//!    [`BackupAction::ReadMemory`] is answered by `handle_memory` before anything else is done or reported.
//! 2. Every [`BackupAction::Persist`] is answered by `handle_durable`, every [`BackupAction::Apply`] by
//!    `handle_applied`; that of a base which cannot run here by `handle_base_refused`.
//!    A driver whose log or image fails stops: it must not answer, and so never acks nor takes over.
//! 3. Every [`BackupAction::Claim`] is answered by one `handle_claim`; no answer in time is `Unreachable`.
//! 4. One connection at a time; to others, send `refusal` and close them.
//! 5. After [`BackupAction::Disconnect`] the connection is gone for this core; its end is not reported any more.

mod handover;
mod machine;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::assembly::AssembledEpoch;
use crate::id::{EpochId, SessionId, Term, Time, VmId};
use crate::lineage::EpochMark;
use crate::output::{Input, Output};
use crate::page::PageBatch;
use crate::pointers::BackupPointers;
use crate::wire::{DiskOffer, Forswear, Hello, ResyncDisk};
use session::Session;

/// How a backup behaves. Times in the driver's clock.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// The VM's name; both sides must say the same.
    pub vm_name: String,
    /// Program and version, for the peer's log.
    pub writer: String,
    /// A heartbeat goes out when nothing else was sent for so long. A fraction of the primary's `detect`.
    pub heartbeat: Duration,
    /// Nothing heard for so long: the peer is lost.
    pub detect: Duration,
    /// The connection is gone for so long: the peer is lost. Shorter than `detect`; gives the primary the first claim.
    pub disconnect_grace: Duration,
    /// Between two claims while the witness does not answer.
    pub claim_retry: Duration,
    /// Bytes received and not yet applied or released, at most, beyond the guest's memory as the Hello tells it: an
    /// epoch can touch every page. Larger than what is in flight.
    pub staged_bytes_beyond_ram: usize,
    /// Acks wait while more than this could be applied and is not: back-pressure on the primary.
    pub ack_bytes_max: usize,
}

/// What the driver must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupAction {
    /// A primary wants in. Check the machine and that the witness knows the primary and shows what it left there, then
    /// `handle_accept` or `handle_refuse`.
    Greeted(Box<Hello>),
    /// Put these pages into the shadow memory.
    ResyncPages(PageBatch),
    /// Put these bytes into the replica image.
    ResyncDisk(ResyncDisk),
    /// Compare with the replica image, then `handle_disk_compared`; of a read-only disk that differs, `handle_refuse`.
    DiskOffered(DiskOffer),
    /// Disk writes of this epoch are in the guest's memory: call `handle_memory` at once.
    ReadMemory {
        /// The session.
        session: SessionId,
        /// The epoch.
        epoch: EpochId,
    },
    /// Write the disk writes into the synced log (or nothing, if durability is memory), then `handle_durable`.
    Persist(Arc<AssembledEpoch>),
    /// Apply pages to the shadow memory and disk writes to the images, then `handle_applied`.
    Apply(Arc<AssembledEpoch>),
    /// Ask the witness for the session; answer with `handle_claim`, whatever happens.
    Claim {
        /// The session.
        session: SessionId,
        /// The last epoch that is whole here.
        fork: EpochMark,
    },
    /// Ask the witness for the session against its newest record: the operator named every place there as dead.
    Override {
        /// The session.
        session: SessionId,
        /// The last epoch that is whole here.
        fork: EpochMark,
    },
    /// The witness is to be exchanged: look whether this side sees the same new one, forswear the register as durably as this place
    /// knows it, and answer with `handle_forsworn`, whatever happens.
    Forswear {
        /// The session.
        session: SessionId,
        /// What the primary says.
        forswear: Box<Forswear>,
    },
    /// The primary hands its guest over. Nothing is to be done yet.
    Offered,
    /// Run the guest; first claim it, if it was handed over.
    TakeOver(Box<TakeOver>),
    /// The session is over, and what it brought is kept as it is: all is durable and applied.
    Keep {
        /// The last epoch of it.
        epoch: EpochMark,
        /// Who has the guest.
        holder: String,
    },
    /// What the session brought is worth nothing any more; wait for another primary. Logged epochs are void. The
    /// register may list this place under it: state at the witness that it can never be whole, or nobody may start the
    /// VM.
    Discard {
        /// The session, if the register may list this place under it.
        session: Option<SessionId>,
        /// Why.
        reason: DiscardReason,
    },
    /// The guest ended; there is nothing to protect.
    Ended {
        /// In the primary's words.
        text: String,
    },
    /// Close the connection, after what `poll_transmit` gives is sent.
    Disconnect,
}

/// Why a session's state is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscardReason {
    /// The connection was lost before the base was whole.
    LostBeforeBase,
    /// A primary fills this backup again.
    Superseded,
    /// The primary ended the session.
    Unprotected,
    /// The machine of the Hello does not fit here, or its base does not.
    Refused,
}

/// Everything that a takeover starts from. All epochs up to `fork` were applied before this is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// The session that was claimed.
    pub session: SessionId,
    /// The epoch whose end state the guest continues from.
    pub fork: EpochMark,
    /// The term of the new primary.
    pub term: Term,
    /// The state of the machine at the end of `fork`.
    pub state: Arc<Vec<u8>>,
    /// Output to send again, in order: all that the old primary is not known to have released, up to `fork`.
    pub reemit: Vec<Output>,
    /// Input to deliver again, in order: what epochs after `fork` were known to consume.
    pub redeliver: Vec<Input>,
    /// The primary handed the guest over: the right to run it is still to be claimed, and the primary waits to hear of it. None: the
    /// claim was won.
    pub handover: Option<Offer>,
}

/// A guest that its primary handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Bytes for the connection to the primary, when the guest runs here.
    pub farewell: Vec<u8>,
}

/// Where the backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// No primary.
    Waiting,
    /// A primary is here; the driver checks its machine.
    Greeting,
    /// Memory and disks are being filled. No takeover is possible.
    Syncing,
    /// Whole, and following.
    Protected,
    /// The primary is lost; the witness decides.
    Claiming,
    /// Another side has the guest; the last epochs are being persisted and applied, to be kept.
    Keeping,
    /// The operator overrides the witness; it is being told.
    Overriding,
    /// The session is ours, or its primary hands it over; the last epochs are being persisted and applied.
    TakingOver,
    /// The guest runs here. This object has done its part.
    TookOver,
    /// The guest ended.
    Ended,
}

/// The backup's side of the protocol.
#[derive(Debug)]
pub struct Backup {
    config: BackupConfig,
    vm: VmId,
    state: BackupState,
    pointers: BackupPointers,
    /// From a Hello until it is settled who continues the guest.
    session: Option<Session>,
    /// A copy whose claim was denied.
    kept: Option<GuestCopy>,
    /// The last session that was here. One that was settled never comes back.
    settled: Option<SessionId>,
    term_seen: Term,
    connection: Connection,
    last_heard: Time,
    last_sent: Time,
    claim_retry_at: Option<Time>,
    /// The register lists the kept copy still: when it is claimed, if nobody fills this backup before.
    reclaim_at: Option<Time>,
    peer_errors: u64,
    actions: VecDeque<BackupAction>,
    transmits: VecDeque<Vec<u8>>,
}

/// A whole copy of a guest that another side has.
#[derive(Debug)]
struct GuestCopy {
    holder: String,
    over: TakeOver,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    /// Nobody, since then.
    None { since: Time },
    /// Somebody who has not said Hello, since then.
    Stranger { since: Time },
    /// The primary of the session.
    Primary,
}

#[cfg(test)]
mod tests;
