//! Fault injection: the process kills itself at a named step of a commit or of a recovery.
//!
//! `OUTLAST_KILL_AT=STEP` or `STEP:N` (the Nth time, 1 without it) in the environment of `outlast run --protect local` and
//! `outlast resume`. Steps are those of recoverable memory ([`recoverable::Step`]) and the ones of [`OWN`]. Not for
//! production: it is how the tests prove that a kill at any moment loses nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use recoverable::Step;

use crate::exit::{Exit, Failure};

const VARIABLE: &str = "OUTLAST_KILL_AT";

/// The epoch's disk writes are in the synced log, its memory is not committed.
pub(crate) const DISK_LOGGED: &str = "DiskLogged";
/// The epoch is committed; nothing of it has left.
pub(crate) const LOCALLY_COMMITTED: &str = "LocallyCommitted";
/// Resuming: memory is whole, the disks' log was applied.
pub(crate) const DISKS_RECOVERED: &str = "DisksRecovered";
/// Resuming: held output went out again, the guest does not run yet.
pub(crate) const EMITTED_AGAIN: &str = "EmittedAgain";

const OWN: [&str; 4] = [DISK_LOGGED, LOCALLY_COMMITTED, DISKS_RECOVERED, EMITTED_AGAIN];

struct Armed {
    step: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();
/// A step's name on its way from the hook; the hook may run in any thread.
static NAME: Mutex<String> = Mutex::new(String::new());

/// Takes what the environment asks for.
pub(crate) fn arm() -> Result<(), Failure> {
    let Ok(asked) = std::env::var(VARIABLE) else { return Ok(()) };
    let (step, count) = asked.split_once(':').unwrap_or((&asked, "1"));
    let known = OWN.contains(&step) || Step::ALL.iter().any(|known| format!("{known:?}") == step);
    let count = count.parse().ok().filter(|count| *count > 0);
    let (true, Some(count)) = (known, count) else {
        return Err(Failure::new(Exit::Usage, format!("{VARIABLE}={asked} names no step")).with_hint(format!(
            "it takes STEP or STEP:N; steps are {} and {:?}",
            OWN.join(", "),
            Step::ALL
        )));
    };
    tracing::warn!(step, count, "this process is going to kill itself");
    if ARMED.set(Armed { step: step.to_owned(), left: AtomicU64::new(count) }).is_ok() {
        recoverable::set_hook(Some(reached_step));
    }
    Ok(())
}

fn reached_step(step: Step) {
    let mut name = NAME.lock().expect("no holder of the name panics");
    name.clear();
    std::fmt::Write::write_fmt(&mut *name, format_args!("{step:?}")).expect("a string takes everything");
    reached(&name);
}

/// Step `name` is reached.
pub(crate) fn reached(name: &str) {
    if let Some(armed) = ARMED.get()
        && armed.step == name
        && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .expect("a process may kill itself");
    }
}
