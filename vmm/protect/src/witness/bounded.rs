//! A call that ends in time, whatever the storage does.
//!
//! A file operation on a server that does not answer can hang for ever and cannot be interrupted. So it runs on its own
//! thread. If it does not answer in time the thread is left behind, and until it comes back nothing else is tried, so
//! there is at most one such thread. Callers wait for each other as long as one of them may take.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Runs calls one at a time, each for a bounded time.
#[derive(Debug)]
pub(super) struct Bounded {
    time_max: Duration,
    turn: Arc<Turn>,
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turn {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

impl Bounded {
    pub(super) fn new(time_max: Duration) -> Self {
        Bounded { time_max, turn: Arc::default() }
    }

    /// How long a call takes at most.
    pub(super) fn time_max(&self) -> Duration {
        self.time_max
    }

    /// The result of `work`, or `TimedOut`; then the work may still happen later. Takes no longer than the time in all.
    pub(super) fn call<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let timed_out = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what);
        let deadline = Instant::now() + self.time_max;
        let busy = self.turn.take(deadline).ok_or_else(|| timed_out("an earlier request still hangs"))?;
        let (tell, told) = sync_channel(1);
        thread::Builder::new().name("witness".into()).spawn(move || {
            let result = work();
            drop(busy);
            // The caller may have given up.
            let _ = tell.send(result);
        })?;
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(timed_out("it does not answer")),
            Err(RecvTimeoutError::Disconnected) => panic!("the work of a witness thread panicked"),
        }
    }
}

impl Turn {
    fn take(self: &Arc<Self>, deadline: Instant) -> Option<Busy> {
        let is_taken = self.is_taken.lock().expect("no holder panics");
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut is_taken, _) =
            self.freed.wait_timeout_while(is_taken, left, |is_taken| *is_taken).expect("no holder panics");
        if std::mem::replace(&mut *is_taken, true) { None } else { Some(Busy(Arc::clone(self))) }
    }
}

/// Ends the turn when the work is over, however it ends, also when its thread could not be started.
struct Busy(Arc<Turn>);

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.is_taken.lock().expect("no holder panics") = false;
        self.0.freed.notify_one();
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
        assert_eq!(Bounded { time_max: Duration::from_secs(10), ..bounded }.call(|| Ok(1)).expect("free"), 1);
    }

    #[test]
    fn call_waits_for_another_that_does_not_hang() {
        let bounded = Arc::new(Bounded::new(Duration::from_secs(10)));
        let (release, wait) = channel::<()>();
        let (begun, has_begun) = channel();
        let first = Arc::clone(&bounded);
        let first = thread::spawn(move || {
            first.call(move || {
                begun.send(()).expect("the test waits");
                wait.recv().map_err(io::Error::other)
            })
        });
        has_begun.recv().expect("it begins");
        let second = thread::spawn(move || bounded.call(|| Ok(1)));
        release.send(()).expect("it waits");
        first.join().expect("no panic").expect("released");
        assert_eq!(second.join().expect("no panic").expect("its turn comes"), 1);
    }

    #[test]
    fn call_gives_the_result_or_the_error_of_the_work() {
        let bounded = Bounded::new(Duration::from_secs(10));
        assert_eq!(bounded.call(|| Ok(7)).expect("ok"), 7);
        let error = bounded.call::<(), _>(|| Err(io::ErrorKind::StorageFull.into())).expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
