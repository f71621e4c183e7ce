//! Signals. SIGINT and SIGTERM: a clean stop, as `outlast ctl stop` does it; a second one ends the process whatever it waits for.
//!
//! A VMM that simply died would look like a crash to its backup, which would take over: an operator who stops a VM does
//! not want that.
//!
//! One thread waits for signals from the first moment on, because a start can wait too: for a named pipe that nobody reads, for
//! storage, for a witness. Before a guest can run here a signal ends the process at once.
//!
//! SIGHUP stops nothing: a VM outlives the terminal that it was started in, and whoever rotates logs may send it. SIGXFSZ would end
//! the process at its limit of file size (`ulimit -f`): ignored, the write fails, and is treated as one that finds no room.
//!
//! SIGBUS is a mapped file that lost its pages: it is named, and the process ends as in a crash ([`recoverable::lost`]).

#![expect(unsafe_code, reason = "waiting for signals of this process, and ignoring one")]

use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::signal::{Error as SignalError, block_signal};

use super::node::Node;
use crate::exit::{Exit, Failure};
use machine::spawn;

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// What a signal stops.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing runs here yet.
    #[default]
    Starting,
    /// This.
    Runs(Arc<Node>),
    /// Nothing more: it was told.
    Stopping,
}

/// The thread that waits for signals.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals(Arc<Mutex<Stage>>);

impl Signals {
    /// Waits for signals from now on. Before any other thread is started: threads inherit that signals do not end the process.
    pub(super) fn take() -> Result<Self, Failure> {
        SIGNALS.into_iter().try_for_each(block)?;
        // SAFETY: changes the disposition of a signal, of which nothing here has a handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        recoverable::lost::end_on_loss(Exit::MappingLost.code())
            .map_err(|error| Failure::new(Exit::Error, format!("cannot take over SIGBUS: {error}")))?;
        let signals = Self::default();
        let waiter = signals.clone();
        spawn("signals".into(), move || waiter.run());
        Ok(signals)
    }

    /// From now on they stop `node`.
    pub(super) fn stop(&self, node: &Arc<Node>) {
        *self.stage() = Stage::Runs(Arc::clone(node));
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().expect("no holder of the stage panics")
    }

    fn run(&self) {
        loop {
            let signal = wait();
            if signal == libc::SIGHUP {
                tracing::info!("SIGHUP stops nothing; `outlast ctl stop` and SIGTERM end the VM");
                continue;
            }
            match std::mem::replace(&mut *self.stage(), Stage::Stopping) {
                Stage::Runs(node) => {
                    tracing::info!(signal, "stopping; a second signal ends at once, without telling the backup");
                    // What this waits for must not keep the next signal waiting.
                    spawn("stop".into(), move || node.stop());
                }
                Stage::Starting => {
                    tracing::info!(signal, "ended while starting; no guest ran here");
                    std::process::exit(128 + signal);
                }
                Stage::Stopping => std::process::exit(128 + signal),
            }
        }
    }
}

fn block(signal: libc::c_int) -> Result<(), Failure> {
    match block_signal(signal) {
        // A process that starts anew in itself inherits it.
        Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => Ok(()),
        Err(error) => Err(Failure::new(Exit::Error, format!("cannot take over signal {signal}: {error:?}"))),
    }
}

fn wait() -> libc::c_int {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut signal = 0;
    // SAFETY: sigemptyset initializes the set before anything reads it; the numbers are valid; sigwait writes `signal`.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for number in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        libc::sigwait(set.as_ptr(), &raw mut signal);
    }
    signal
}
