//! Fault injection: the process kills itself at a named step of a commit or of a recovery, or a commit fails, or storage is
//! slow.
//!
//! `OUTLAST_KILL_AT=STEP` or `STEP:N` (the Nth time, 1 without it) in the environment of `outlast run --protect local` and
//! `outlast resume` ([`END_UNRECORDED`], [`GOODBYE`]: of every `outlast run`). Steps are those of recoverable memory ([`recoverable::Step`]) and the ones of [`OWN`].
//! `OUTLAST_FAIL_AT=LocalCommit:N`: the Nth commit to the state directory finds that its medium takes nothing (EIO);
//! `FillingDiskLog:N`: so does the log of disk writes, the Nth time while a backup is being filled; `LogAppend:N` and
//! `ImageWrite:N`: the log or the images of either side, at the Nth epoch; `ImageSync:N`: an image that is looked after, the Nth time.
//! `OUTLAST_SLOW_AT=LogSync:N:MS`: the Nth sync of the log of disk writes takes MS milliseconds, on either side; so do `LogAppend`,
//! and `ImageSync` and `ImageWrite` of the images; `GuestRead` and `GuestSync` are a read of the guest's, and a sync for its flush,
//! straight from its image; with `OUTLAST_SLOW_FROM=PATH` counted only once that file is there. Not for production: it is how
//! the tests prove that a kill at any moment loses nothing, and a failing medium neither.

#![expect(clippy::disallowed_methods, reason = "what is to happen is asked for in the environment")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use machine::step;
use recoverable::Step;
use snapshot::disk::DiskError;

const VARIABLE: &str = "OUTLAST_KILL_AT";
const FAIL_VARIABLE: &str = "OUTLAST_FAIL_AT";
const SLOW_VARIABLE: &str = "OUTLAST_SLOW_AT";
const SLOW_FROM_VARIABLE: &str = "OUTLAST_SLOW_FROM";

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
/// The guest has ended, the witness knows it, and the backup has not been told.
pub(crate) const GOODBYE: &str = "Goodbye";

/// Going back: pages and blocks of disks are as they were, nothing says so yet.
pub(crate) const WENT_BACK_IN_PART: &str = "WentBackInPart";
/// Going back: the earlier epoch is committed, what came later is still there to go back to.
pub(crate) const WENT_BACK: &str = "WentBack";

const OWN: [&str; 11] = [
    DISK_LOGGED,
    LOCALLY_COMMITTED,
    SESSION_RECORDED,
    SESSION_FORGOTTEN,
    SESSION_CLAIMED,
    DISKS_RECOVERED,
    EMITTED_AGAIN,
    END_UNRECORDED,
    GOODBYE,
    WENT_BACK_IN_PART,
    WENT_BACK,
];

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

/// A read of the guest's.
const GUEST_READ: &str = "GuestRead";
/// Syncing an image for a flush of the guest's.
const GUEST_SYNC: &str = "GuestSync";

const SLOW_STEPS: [&str; 6] = [LOG_APPEND, LOG_SYNC, IMAGE_SYNC, IMAGE_WRITE, GUEST_READ, GUEST_SYNC];

/// What the environment asks for is nothing that can be made to happen.
#[derive(Debug, thiserror::Error)]
#[error("{variable}={asked} names no step")]
pub struct FaultError {
    variable: &'static str,
    asked: String,
    /// What it takes.
    pub takes: String,
}

#[derive(Debug)]
struct Armed {
    step: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();
static FAILING: OnceLock<Armed> = OnceLock::new();
static SLOW: OnceLock<Slow> = OnceLock::new();

/// A step that is going to take long.
#[derive(Debug)]
struct Slow {
    armed: Armed,
    time: Duration,
    /// It counts once this file is there.
    from: Option<PathBuf>,
}

/// A step's name on its way from the hook; the hook may run in any thread.
static NAME: Mutex<String> = Mutex::new(String::new());

/// Takes what the environment asks for.
pub fn arm() -> Result<(), FaultError> {
    let steps = || OWN.iter().map(ToString::to_string).chain(Step::ALL.iter().map(|step| format!("{step:?}")));
    if let Some(armed) = asked(VARIABLE, &steps().collect::<Vec<_>>())? {
        tracing::warn!(?armed, "this process is going to kill itself");
        if ARMED.set(armed).is_ok() {
            recoverable::set_hook(Some(reached_step));
        }
    }
    arm_storage()
}

/// The same, of storage alone: what `outlast backup` takes.
pub fn arm_storage() -> Result<(), FaultError> {
    let failing = [LOCAL_COMMIT, FILLING_DISK_LOG, LOG_APPEND, IMAGE_WRITE, IMAGE_SYNC];
    if let Some(armed) = asked(FAIL_VARIABLE, &failing.map(str::to_owned))? {
        tracing::warn!(?armed, "a commit is going to fail");
        FAILING.get_or_init(|| armed);
    }
    if let Some(slow) = asked_slow()? {
        tracing::warn!(?slow, "storage is going to be slow");
        SLOW.get_or_init(|| slow);
        step::set_hook(|step| {
            lasts(match step {
                machine::step::Step::GuestRead => GUEST_READ,
                machine::step::Step::GuestSync => GUEST_SYNC,
            });
        });
    }
    Ok(())
}

fn asked(variable: &'static str, known: &[String]) -> Result<Option<Armed>, FaultError> {
    let Ok(asked) = std::env::var(variable) else { return Ok(None) };
    let (step, count) = asked.split_once(':').unwrap_or((&asked, "1"));
    let count = count.parse().ok().filter(|count| *count > 0 && known.iter().any(|known| known == step));
    let armed = count.map(|count| Armed { step: step.to_owned(), left: AtomicU64::new(count) });
    let takes = || format!("it takes STEP or STEP:N; steps are {}", known.join(", "));
    armed.map(Some).ok_or_else(|| FaultError { variable, asked: asked.clone(), takes: takes() })
}

/// What is to be slow, and for how long.
fn asked_slow() -> Result<Option<Slow>, FaultError> {
    let Ok(asked) = std::env::var(SLOW_VARIABLE) else { return Ok(None) };
    let parts: Vec<&str> = asked.split(':').collect();
    let slow = match parts[..] {
        [step, nth, ms] if SLOW_STEPS.contains(&step) => nth.parse().ok().zip(ms.parse().ok()).map(|(nth, ms)| {
            let armed = Armed { step: step.to_owned(), left: AtomicU64::new(nth) };
            let from = std::env::var_os(SLOW_FROM_VARIABLE).map(PathBuf::from);
            Slow { armed, time: Duration::from_millis(ms), from }
        }),
        _ => None,
    };
    let takes = || format!("it takes STEP:N:MS; steps are {}", SLOW_STEPS.join(", "));
    slow.map(Some).ok_or_else(|| FaultError { variable: SLOW_VARIABLE, asked: asked.clone(), takes: takes() })
}

impl Armed {
    /// Whether it is time.
    fn is_due(&self, name: &str) -> bool {
        self.step == name && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// An error where one was asked for.
pub(crate) fn fails(name: &str) -> std::io::Result<()> {
    match FAILING.get() {
        Some(armed) if armed.is_due(name) => Err(rustix::io::Errno::IO.into()),
        _ => Ok(()),
    }
}

/// The same of an image that is written.
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
pub(crate) fn lasts(name: &'static str) {
    #[cfg(test)]
    trace::STEPS.with_borrow_mut(|steps| steps.push(name));
    if let Some(Slow { armed, time, from }) = SLOW.get()
        && from.as_ref().is_none_or(|from| from.exists())
        && armed.is_due(name)
    {
        std::thread::sleep(*time);
        tracing::warn!(name, ?time, "storage was slow");
    }
}

fn reached_step(step: Step) {
    let mut name = NAME.lock().expect("no holder of the name panics");
    name.clear();
    std::fmt::Write::write_fmt(&mut *name, format_args!("{step:?}")).expect("a string takes everything");
    reached(&name);
}

/// Step `name` is reached.
pub fn reached(name: &str) {
    if ARMED.get().is_some_and(|armed| armed.is_due(name)) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .expect("a process may kill itself");
    }
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
