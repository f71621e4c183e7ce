//! SIGINT and SIGTERM: a clean stop, as `outlast ctl stop` does it.
//!
//! A VMM that simply died would look like a crash to its backup, which would take over: an operator who stops a VM does
//! not want that.

#![expect(unsafe_code, reason = "waiting for signals of this process")]

use std::sync::Arc;

use vmm_sys_util::signal::{Error as SignalError, block_signal};

use super::node::Node;
use crate::api::ApiHandler;
use crate::exit::{Exit, Failure};
use crate::machine::spawn;

const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Keeps the signals from ending the process. Before any thread is started: threads inherit it.
pub(super) fn block() -> Result<(), Failure> {
    SIGNALS
        .into_iter()
        .try_for_each(|signal| match block_signal(signal) {
            // A process that starts anew in itself inherits it.
            Err(SignalError::SignalAlreadyBlocked(_)) => Ok(()),
            result => result,
        })
        .map_err(|error| Failure::new(Exit::Error, format!("cannot take over SIGINT and SIGTERM: {error:?}")))
}

/// Stops `node` when a signal comes. A second one ends the process at once, for a stop that does not come to an end.
pub(super) fn stop_on_signal(node: Arc<Node>) {
    spawn("signals".into(), move || {
        let signal = wait();
        tracing::info!(signal, "stopping; once more ends at once, without telling the backup");
        if let Err(error) = node.stop() {
            tracing::warn!(%error, "cannot stop");
        }
        let signal = wait();
        std::process::exit(128 + signal);
    });
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
