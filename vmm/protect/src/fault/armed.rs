//! What the environment asks for happens: in programs of the tests only.

#![expect(clippy::disallowed_methods, reason = "what is to happen is asked for in the environment")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use machine::step;
use recoverable::Step;

use super::{
    DISK_LOGGED, DISKS_RECOVERED, EMITTED_AGAIN, END_UNRECORDED, EXCHANGE_NOTED, FILLING_DISK_LOG, GOODBYE,
    HANDOVER_UNCLAIMED, IMAGE_SYNC, IMAGE_WRITE, LOCAL_COMMIT, LOCALLY_COMMITTED, LOG_APPEND, LOG_SYNC, MOVE_UNASKED,
    RESET_ASKED, SESSION_CLAIMED, SESSION_FORGOTTEN, SESSION_RECORDED, WENT_BACK, WENT_BACK_IN_PART,
};

const VARIABLE: &str = "OUTLAST_KILL_AT";
const FAIL_VARIABLE: &str = "OUTLAST_FAIL_AT";
const SLOW_VARIABLE: &str = "OUTLAST_SLOW_AT";
const SLOW_FROM_VARIABLE: &str = "OUTLAST_SLOW_FROM";

const OWN: [&str; 15] = [
    DISK_LOGGED,
    LOCALLY_COMMITTED,
    SESSION_RECORDED,
    SESSION_FORGOTTEN,
    SESSION_CLAIMED,
    DISKS_RECOVERED,
    EMITTED_AGAIN,
    END_UNRECORDED,
    EXCHANGE_NOTED,
    MOVE_UNASKED,
    GOODBYE,
    HANDOVER_UNCLAIMED,
    WENT_BACK_IN_PART,
    WENT_BACK,
    RESET_ASKED,
];

/// A read of the guest's.
const GUEST_READ: &str = "GuestRead";
/// Syncing an image for a flush of the guest's.
const GUEST_SYNC: &str = "GuestSync";

const SLOW_STEPS: [&str; 7] =
    [LOG_APPEND, LOG_SYNC, IMAGE_SYNC, IMAGE_WRITE, GUEST_READ, GUEST_SYNC, HANDOVER_UNCLAIMED];

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

/// The same, of storage alone.
fn arm_storage() -> Result<(), FaultError> {
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

/// A step that may be slow: takes the time that was asked for.
pub(crate) fn lasts(name: &'static str) {
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
