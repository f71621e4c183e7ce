//! The thread that truncates the log when much of it is in use.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::log::Log;

#[derive(Debug, Default)]
pub(super) struct Truncator {
    thread: Option<JoinHandle<()>>,
}

impl Truncator {
    pub(super) fn start(&mut self, log: &Arc<Log>) -> std::io::Result<()> {
        if self.thread.is_none() {
            let log = Arc::clone(log);
            let thread = std::thread::Builder::new().name("rvm-truncate".into()).spawn(move || run(&log))?;
            self.thread = Some(thread);
        }
        Ok(())
    }

    /// Returns when it has ended; a truncation that has begun is finished.
    pub(super) fn stop(&mut self, log: &Log) {
        log.state().stops = true;
        log.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It cannot panic but by a bug of ours, which has been reported on its standard error then.
            let _ = thread.join();
        }
    }
}

fn run(log: &Log) {
    let mut state = log.state();
    loop {
        if state.stops {
            return;
        }
        let is_due = state.poison.is_none()
            && state.failure.is_none()
            && state.threshold_percent.is_some_and(|percent| state.durable() * 100 >= log.ring * u64::from(percent));
        if !is_due {
            state = log.wait(state);
            continue;
        }
        drop(state);
        let result = log.truncate();
        state = log.state();
        // Not tried again by itself: the next truncation that is asked for, when the log is full, says why it fails.
        state.failure = result.err().map(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
    }
}
