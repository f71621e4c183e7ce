//! What a primary's pipeline asks of its executors, and how they answer.

use crate::id::{EpochId, SessionId, Time};
use crate::lineage::{EpochMark, Linked, StateDigest};
use crate::primary::{FillFigures, FillPhase, Left, SoloReason};
use crate::view::Settlement;
use crate::wire::Link;

use super::filling::FillStep;

/// What the lane Ship does next. It is answered by [`super::PrimaryPipeline::handle_done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these frames to that connection, if it stands. Answers: `Done`, `Broken`.
    Send {
        /// The connection.
        connection: u64,
        /// The frames.
        frames: Vec<u8>,
    },
    /// End our half of that connection. Answer: `Done`.
    Part {
        /// The connection.
        connection: u64,
    },
    /// Digest the machine's state at the end of this epoch. Answer: `Digested`.
    Digest {
        /// The epoch.
        epoch: EpochId,
    },
    /// Keep what this epoch wrote for the rounds of the filling. Answer: `Done`.
    Collect {
        /// The epoch.
        epoch: EpochId,
    },
    /// Write the epoch to the connection of `link`, as long as [`super::PrimaryPipeline::is_current`]. Answers: `Done`, `Broken`,
    /// `SessionOver`.
    Ship {
        /// What its frames carry.
        link: Link,
        /// It is the base of that session.
        is_base: bool,
        /// The epoch, and what it continues.
        linked: Linked,
        /// The last epoch of which all output has left.
        left: EpochId,
    },
    /// Put the epoch's disk writes into the log, as durably as is configured. Answers: `Logged`, `LogFull`, `NoRoom`, `Failed`.
    Log {
        /// The epoch.
        mark: EpochMark,
    },
    /// Sync the images. Answers: `Done`, `Failed`.
    SyncImages,
    /// Commit the epoch to the state directory. Answers: `Done`, `Failed`.
    CommitLocally {
        /// The epoch.
        mark: EpochMark,
        /// The last epoch of which all output has left.
        left: EpochId,
    },
    /// Write into the state directory that the backup of this session could continue the guest, or that none could.
    /// Answers: `Done`, `Failed`.
    Record {
        /// The session.
        session: Option<SessionId>,
    },
    /// Remove what the lost state directory has; then, if that is asked for, put an empty log in the place of one that took no
    /// more. Answer: `StoreRemoved`.
    RemoveStore {
        /// The log begins anew.
        renew_log: bool,
    },
    /// Sync the images and empty the log. Answers: `Done`, `Failed`.
    EmptyLog,
    /// A filling begins: set room aside for the log, and forget what an earlier filling left. If the guest has epochs, `Collect`
    /// comes for each from here on. Answers: `Done`, `Failed`.
    BeginFilling {
        /// The session.
        link: Link,
        /// The guest has epochs.
        has_epochs: bool,
    },
    /// From now on disk writes go to the images and are collected, and written pages are noted. Answers: `Done`, `Failed`.
    Mirror,
    /// A piece of a filling. Answers: those that [`FillStep`] names, `Broken`, `SessionOver`, `Failed`.
    Fill {
        /// The session.
        link: Link,
        /// What.
        step: FillStep,
    },
    /// Stop the guest; of a session only as long as it is current. What was sealed before is handed over before this is
    /// answered. Answers: `Done`, `NotHeld`.
    Hold {
        /// For the base of this session.
        session: Option<SessionId>,
    },
    /// Let the guest run. Answer: `Done`.
    LetGo,
    /// The held guest's epochs begin. Answers: `Done`, `Failed`.
    BeginEpochs,
    /// Seal the base of this session while the guest is held, unless [`super::PrimaryPipeline::may_seal_base`] says no at the last
    /// moment. Answers: `Done`, `SessionOver`, `Failed`.
    SealBase {
        /// The session.
        session: SessionId,
    },
    /// End the running epoch of the held guest without capturing it, and say so with
    /// [`super::PrimaryPipeline::handle_sealed_last`] before anything else can be sealed; its disk writes are logged like those of
    /// every other. Answer: `Done`.
    SealLast,
    /// The held guest has no epochs any more: its output leaves at once. Answers: `Done`, `Failed`.
    EndEpochs,
    /// The held guest writes to its images directly. Answer: `Done`.
    WriteDirectly,
    /// The guest has ended: remove what the state directory has of it. Answer: `Done`.
    RemoveEnded,
}

/// How a step of the lane Ship went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// The digest of the state.
    Digested(StateDigest),
    /// The log has the epoch, and is half full now or not.
    Logged {
        /// It is.
        is_half_full: bool,
    },
    /// The log holds too much to take it. Nothing was written.
    LogFull,
    /// A file system has no room. Nothing was changed.
    NoRoom {
        /// For which file.
        path: String,
        /// The same, for people.
        text: String,
    },
    /// Writing to the connection failed.
    Broken,
    /// The session ended meanwhile; nothing more of it went out.
    SessionOver,
    /// The machine has ended, or the session.
    NotHeld,
    /// It failed.
    Failed {
        /// Why.
        text: String,
    },
    /// The lost state directory's files are removed, and the log begun anew, or not.
    StoreRemoved {
        /// Why the files were not removed.
        kept: Option<String>,
        /// Why the log was not begun anew.
        not_renewed: Option<String>,
    },
    /// A piece of the filling is done, and more of the same is left.
    More,
    /// Chunks were compared: their hashes are to be offered.
    Offer {
        /// The disk.
        disk: u16,
        /// The first chunk.
        first_chunk: u64,
        /// How many.
        count: usize,
    },
    /// What the backup lacks.
    Left(Left),
}

/// What whoever called the pipeline performs at once, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the output of all epochs up to `upto` out, and say so with [`super::PrimaryPipeline::handle_let_out`]; after `until`, give the
    /// permission back with [`super::PrimaryPipeline::handle_release_late`].
    Release {
        /// The last such epoch.
        upto: EpochId,
        /// The last moment at which this may be begun.
        until: Time,
    },
    /// Send what the predecessor of a takeover held again.
    EmitAgain,
    /// Send this frame without waiting for anything, if nothing else is being sent.
    Beat {
        /// The connection.
        connection: u64,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Close that connection.
    Close {
        /// The connection.
        connection: u64,
    },
    /// The guest gets this share of its processors' time.
    GuestShare {
        /// In percent.
        percent: u8,
    },
    /// End the machine: it cannot continue the guest.
    Fail(Failing),
    /// End the machine: another side has the guest.
    Fenced {
        /// Who.
        holder: String,
    },
    /// End the machine: its guest was handed over.
    HandedOver {
        /// Who has it.
        holder: String,
    },
    /// End the machine: its guest was booted in error.
    Conflict {
        /// In the backup's words.
        text: String,
    },
    /// For an operator.
    Note(Note),
}

/// Why a machine cannot continue its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The log, or an image, takes no more.
    Storage {
        /// Why.
        text: String,
    },
    /// Committed disk writes were not written to an image, which cannot be trusted any more.
    Images {
        /// Why.
        text: String,
    },
    /// A request of the guest failed here, and its backup can serve it.
    Request {
        /// Why.
        text: String,
    },
    /// The state directory takes no more epochs, and the policy is to end then.
    Store {
        /// Why.
        text: String,
    },
    /// What a lost state directory has could not be removed, and nothing else keeps others from resuming it.
    StoreStays {
        /// Why.
        text: String,
    },
    /// The gate or KVM.
    Machine {
        /// Why.
        text: String,
    },
}

/// What an operator should hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A backup is being filled.
    FillingBegins {
        /// Its session.
        link: Link,
    },
    /// The filling does nothing.
    FillingStalls {
        /// Where it stands.
        phase: FillPhase,
    },
    /// The guest is slowed.
    FillingDiverges {
        /// How the filling stands.
        figures: FillFigures,
    },
    /// A filling failed.
    FillingFailed {
        /// Of this session.
        session: SessionId,
        /// Where it was.
        phase: FillPhase,
        /// Why.
        text: String,
    },
    /// The base is sealed.
    Filled,
    /// The base is acked.
    Protected,
    /// The backup is lost, and the witness is asked.
    PeerLost,
    /// The operator wants no backup, and the witness is asked.
    Unprotecting,
    /// The guest is alone.
    Solo {
        /// Why.
        reason: SoloReason,
    },
    /// The state directory does not protect the guest any more.
    StoreLost {
        /// Why.
        text: String,
    },
    /// What a lost state directory has was not removed; the register keeps others from resuming it.
    StoreStays {
        /// Why.
        text: String,
    },
    /// Something that does not stop anything failed.
    Warning {
        /// What was done.
        doing: &'static str,
        /// Why.
        text: String,
    },
    /// The backup does not take part in the exchange of the witness, which is called off.
    ExchangeRefused {
        /// In its words.
        text: String,
    },
    /// An exchange of the witness was settled.
    ExchangeSettled(Settlement),
    /// Disk writes wait for room for this file.
    Full {
        /// The file.
        path: String,
    },
    /// They do not any more.
    HasRoom {
        /// The file.
        path: String,
    },
}
