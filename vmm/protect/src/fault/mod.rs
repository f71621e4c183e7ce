//! Fault injection, for tests: the process kills itself at a named step of a commit or of a recovery, or a commit fails, or storage
//! is slow. So they prove that a kill at any moment loses nothing, and a failing medium neither.
//!
//! It is part of a program only where the cargo feature `faults` is on: of `outlast-faults`, which is `outlast` in all else. In
//! `outlast` the calls are empty (`docs/decisions/0032-faults-are-another-program.md`).
//!
//! `OUTLAST_KILL_AT=STEP` or `STEP:N` (the Nth time, 1 without it) in the environment of `run --protect local` and
//! `resume` ([`END_UNRECORDED`], [`EXCHANGE_NOTED`], [`MOVE_UNASKED`], [`GOODBYE`]: of every `run`; [`HANDOVER_UNCLAIMED`]: of `backup`). Steps are those of recoverable memory ([`recoverable::Step`]) and those
//! named here.
//! `OUTLAST_FAIL_AT=LocalCommit:N`: the Nth commit to the state directory finds that its medium takes nothing (EIO);
//! `FillingDiskLog:N`: so does the log of disk writes, the Nth time while a backup is being filled; `LogAppend:N` and
//! `ImageWrite:N`: the log or the images of either side, at the Nth epoch; `ImageSync:N`: an image that is looked after, the Nth time.
//! `OUTLAST_SLOW_AT=LogSync:N:MS`: the Nth sync of the log of disk writes takes MS milliseconds, on either side; so do `LogAppend`,
//! and `ImageSync` and `ImageWrite` of the images; `GuestRead` and `GuestSync` are a read of the guest's, and a sync for its flush,
//! straight from its image; `HandoverUnclaimed` is the claim of a guest that was offered; with `OUTLAST_SLOW_FROM=PATH` counted only once that file is there.

#[cfg(feature = "faults")]
mod armed;
#[cfg(not(feature = "faults"))]
mod none;

use std::path::Path;

use snapshot::disk::DiskError;

#[cfg(feature = "faults")]
use armed as when;
#[cfg(feature = "faults")]
pub use armed::{FaultError, arm};
#[cfg(not(feature = "faults"))]
use none as when;
pub(crate) use when::fails;
pub use when::reached;

/// The epoch's disk writes are in the synced log, its memory is not committed.
pub(crate) const DISK_LOGGED: &str = "DiskLogged";
/// The epoch is committed; nothing of it has left.
pub(crate) const LOCALLY_COMMITTED: &str = "LocallyCommitted";
/// The session of a backup is in the state directory, its base is not sealed.
pub(crate) const SESSION_RECORDED: &str = "SessionRecorded";
/// The guest is alone by right, and the state directory says so.
pub(crate) const SESSION_FORGOTTEN: &str = "SessionForgotten";
/// Resuming: the witness gave the session to this side, and the state directory does not say so yet.
pub const SESSION_CLAIMED: &str = "SessionClaimed";
/// Resuming: memory is whole, the disks' log was applied.
pub const DISKS_RECOVERED: &str = "DisksRecovered";
/// Resuming: held output went out again, the guest does not run yet.
pub const EMITTED_AGAIN: &str = "EmittedAgain";

/// The guest has ended, all of it is committed, and the witness has not been told.
pub(crate) const END_UNRECORDED: &str = "EndUnrecorded";
/// An exchange of the witness is noted here, and nobody was asked.
pub(crate) const EXCHANGE_NOTED: &str = "ExchangeNoted";
/// All have forsworn the old witness, and the new one was not asked.
pub(crate) const MOVE_UNASKED: &str = "MoveUnasked";
/// A guest that is handed over is restored at its backup, and the witness was not asked for it.
pub(crate) const HANDOVER_UNCLAIMED: &str = "HandoverUnclaimed";
/// The guest has ended, the witness knows it, and the backup has not been told.
pub(crate) const GOODBYE: &str = "Goodbye";

/// Going back: pages and blocks of disks are as they were, nothing says so yet.
pub(crate) const WENT_BACK_IN_PART: &str = "WentBackInPart";
/// Going back: the earlier epoch is committed, what came later is still there to go back to.
pub(crate) const WENT_BACK: &str = "WentBack";
/// After a crash: the state directory says that the guest is to boot again, and nobody boots it yet.
pub const RESET_ASKED: &str = "ResetAsked";

/// What can be made to fail.
pub(crate) const LOCAL_COMMIT: &str = "LocalCommit";
/// The same.
pub(crate) const FILLING_DISK_LOG: &str = "FillingDiskLog";

/// What can be slow: putting an epoch into the log of disk writes.
pub(crate) const LOG_APPEND: &str = "LogAppend";
/// Syncing it.
pub(crate) const LOG_SYNC: &str = "LogSync";
/// Syncing the images.
pub(crate) const IMAGE_SYNC: &str = "ImageSync";
/// Writing an epoch to the images.
pub(crate) const IMAGE_WRITE: &str = "ImageWrite";

/// An error of an image that is written, where one was asked for.
pub(crate) fn fails_image(path: &Path) -> Result<(), DiskError> {
    let failed = |source| DiskError::Io { what: "writing", path: path.to_owned(), source };
    fails(IMAGE_WRITE).map_err(failed)
}

/// The same of one that is looked after.
pub(crate) fn fails_image_sync(path: &Path) -> Result<(), DiskError> {
    let failed = |source| DiskError::Io { what: "syncing", path: path.to_owned(), source };
    fails(IMAGE_SYNC).map_err(failed)
}

/// A step of storage: takes the time that was asked for.
#[inline]
pub(crate) fn lasts(name: &'static str) {
    #[cfg(test)]
    trace::STEPS.with_borrow_mut(|steps| steps.push(name));
    when::lasts(name);
}

/// The steps of storage of one thread, in order, for tests of what comes before what.
#[cfg(test)]
pub(crate) mod trace {
    use std::cell::RefCell;

    thread_local! {
        pub(super) static STEPS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// Those since the last call.
    pub(crate) fn take() -> Vec<&'static str> {
        STEPS.take()
    }
}
