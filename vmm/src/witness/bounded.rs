//! A call that ends in time, whatever the storage does.
//!
//! A file operation on a server that is away can hang for ever and cannot be interrupted. It runs on a thread of its
//! own; when it does not answer in time the thread is left behind, and until it comes back nothing else is tried, so
//! that there is one such thread at most.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// Runs calls one at a time, each for a bounded time.
#[derive(Debug)]
pub(super) struct Bounded {
    time_max: Duration,
    busy: Arc<AtomicBool>,
}

impl Bounded {
    pub(super) fn new(time_max: Duration) -> Self {
        Bounded { time_max, busy: Arc::default() }
    }

    /// The result of `work`, or `TimedOut`; then the work may still happen later.
    pub(super) fn call<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let timed_out = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what);
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(timed_out("an earlier request still hangs"));
        }
        let (tell, told) = sync_channel(1);
        let busy = Busy(self.busy.clone());
        thread::Builder::new().name("witness".into()).spawn(move || {
            let result = work();
            drop(busy);
            // The caller may have given up.
            let _ = tell.send(result);
        })?;
        match told.recv_timeout(self.time_max) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(timed_out("it does not answer")),
            Err(RecvTimeoutError::Disconnected) => panic!("the work of a witness thread panicked"),
        }
    }
}

/// Clears the flag when the work is over, however it ends, also when its thread could not be started.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn call_that_hangs_times_out_and_blocks_the_next_until_it_returns() {
        let bounded = Bounded::new(Duration::from_millis(20));
        let (release, wait) = channel::<()>();
        let (returned, ended) = channel();
        let hung = bounded.call(move || {
            wait.recv().expect("released");
            returned.send(()).expect("the test waits");
            Ok(())
        });
        assert_eq!(hung.expect_err("hangs").kind(), io::ErrorKind::TimedOut);
        assert_eq!(bounded.call(|| Ok(1)).expect_err("busy").kind(), io::ErrorKind::TimedOut);
        release.send(()).expect("it waits");
        ended.recv().expect("it returns");
        while bounded.busy.load(Ordering::Acquire) {
            thread::yield_now();
        }
        assert_eq!(Bounded { time_max: Duration::from_secs(10), ..bounded }.call(|| Ok(1)).expect("free"), 1);
    }

    #[test]
    fn call_gives_the_result_or_the_error_of_the_work() {
        let bounded = Bounded::new(Duration::from_secs(10));
        assert_eq!(bounded.call(|| Ok(7)).expect("ok"), 7);
        let error = bounded.call::<(), _>(|| Err(io::ErrorKind::StorageFull.into())).expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
