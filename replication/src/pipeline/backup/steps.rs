//! What a backup's executors are told, and what they answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::assembly::AssembledEpoch;
use crate::backup::{BackupState, DiscardReason, TakeOver};
use crate::id::{ClaimResult, EpochId, SessionId};
use crate::lineage::EpochMark;
use crate::page::PageBatch;
use crate::view::{Nonce, Place};
use crate::wire::{DiskOffer, DiskWant, Forswear, Forsworn, Hello, RefuseCode, ResyncDisk};

/// For the loop: it has the guest's memory and the connection, and feeds the pipeline with frames while it has no step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoopStep {
    /// Look whether the machine of this Hello fits here; [`LoopDone::Examined`].
    Examine(Arc<Hello>),
    /// Make memory for its guest, and remember that the register may list this place under `session` from now on;
    /// [`LoopDone::MadeMemory`].
    MakeMemory {
        /// The session.
        session: SessionId,
        /// Whose guest.
        hello: Arc<Hello>,
    },
    /// Put these pages into the memory: a filling brought them.
    ApplyBatch(PageBatch),
    /// Disk writes of the epoch are in the memory: `handle_memory` answers.
    ReadMemory {
        /// The session.
        session: SessionId,
        /// The epoch.
        epoch: EpochId,
    },
    /// Put the pages of the epoch into the memory. It is complete here.
    ApplyPages(Arc<AssembledEpoch>),
    /// The session is over and nothing of it counts. The register may list this place under `void`: the witness must hear
    /// that it can never be whole.
    Forget {
        /// The session, if the register may list it.
        void: Option<SessionId>,
        /// The memory holds another copy, which counts.
        is_memory_kept: bool,
    },
    /// Close the connection, after what `poll_transmit` gives is sent. Its end is not reported.
    Disconnect,
    /// There is nothing left to follow. No step comes after it.
    Leave(Leaving),
}

/// Why a backup is to end as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The guest is to run here. Storage gave images and log back: all is applied, on the medium, and the log is empty.
    TakeOver {
        /// What from.
        over: Box<TakeOver>,
        /// Whether its epochs were to be durable.
        durable: bool,
    },
    /// The guest ended on the primary, which said this.
    Ended(String),
    /// Storage failed; its executor knows how.
    Failed,
}

/// How a step of the loop went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoopDone {
    /// Done.
    Done,
    /// The machine fits, or why it does not.
    Examined(Result<(), String>),
    /// There is memory, or why there is none.
    MadeMemory(Result<(), String>),
}

/// For the storage: it has the images and their log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageStep {
    /// Say which of these chunks the images lack; [`StorageDone::Compared`], or `Differs` of a read-only image.
    Compare(Arc<DiskOffer>),
    /// Note durably, beside the images, that a filling overwrites them: nobody may start from them.
    BeginFilling,
    /// Forget that durably: they have the whole base of a filling.
    EndFilling,
    /// Put these bytes into an image.
    WriteChunk(Arc<ResyncDisk>),
    /// Load the state of a base into a machine that never runs; `Unfit` if it cannot run here.
    Rehearse(Arc<AssembledEpoch>),
    /// Put the epoch's disk writes into the log, and sync it; [`StorageDone::Appended`]. `LogFull`, and nothing changed, if the
    /// log has records and this one would be too many: an empty log takes any.
    Append(Arc<AssembledEpoch>),
    /// Put the epoch's disk writes into the images. Of one that was put there in part, all of them again.
    Apply(Arc<AssembledEpoch>),
    /// What the images were written is on their media.
    SyncImages,
    /// Forget every record of the log, for good.
    TruncateLog,
    /// Give images and log back. Nothing comes after it.
    HandOver,
}

/// How a step of the storage went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageDone {
    /// Done.
    Done,
    /// Which chunks are wanted.
    Compared(DiskWant),
    /// A read-only image is another one, in these words.
    Differs(String),
    /// The base cannot run here, in these words.
    Unfit(String),
    /// Done; and whether the log is so full that it should be emptied when it can be.
    Appended {
        /// More than half.
        is_half_full: bool,
    },
    /// The log must be emptied before it takes this record.
    LogFull,
    /// There was no room for it where this file lies. All of the step is to be done again.
    NoRoom(PathBuf),
    /// It failed otherwise; what the images and the log have is not known.
    Failed,
}

/// For whoever asks the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether this primary may be followed, and whether its processor's promises can be kept here.
    Introduce {
        /// The session that it began.
        session: SessionId,
        /// What it said.
        hello: Arc<Hello>,
    },
    /// Whether the guest may run here.
    TakeOver {
        /// The session.
        session: SessionId,
        /// The last epoch that is whole here.
        fork: EpochMark,
    },
    /// Whether this place forswears its register, for one that is to continue it.
    Forswear {
        /// The session.
        session: SessionId,
        /// What the primary says.
        forswear: Box<Forswear>,
    },
    /// The same as a takeover, against the newest record: an operator named every place there as dead.
    Override {
        /// The session.
        session: SessionId,
        /// The last epoch that is whole here.
        fork: EpochMark,
    },
}

/// What the witness says about the question, or that it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// About [`Question::Introduce`].
    Introduced(Result<Introduction, (RefuseCode, String)>),
    /// About [`Question::Forswear`].
    Forsworn(Forsworn),
    /// About the others.
    Claimed(ClaimResult),
}

/// What a backup lets its primary know of it; nothing without a witness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Where it is.
    pub place: Option<Place>,
    /// What it left at the witness.
    pub nonce: Option<Nonce>,
}

/// What an operator should hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A peer broke the protocol. Told once for each new reason.
    PeerError(String),
    /// A primary was sent away. Told once for each new reason.
    Refused(String),
    /// A primary fills this backup.
    ResyncStarted {
        /// Its program and version.
        writer: String,
    },
    /// The base is applied.
    Protected(EpochMark),
    /// A file has no room: nothing is acked until it has some.
    Full(PathBuf),
    /// It has some.
    HasRoom(PathBuf),
    /// Another side has the guest; the copy here is on its medium, up to this epoch.
    Kept {
        /// The last one.
        epoch: EpochMark,
        /// Who has it.
        holder: String,
    },
    /// The witness is asked for the guest after so long a silence.
    FailoverStarted {
        /// How long.
        silence: Duration,
    },
    /// The primary hands its guest over.
    Offered,
    /// What was here is worth nothing. Told once for each new reason, since a primary was accepted.
    Discarded(DiscardReason),
    /// This backup does not stop now: the guest may be about to run here and nowhere else. Told once.
    StopDeferred(BackupState),
}
