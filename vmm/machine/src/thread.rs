//! Threads with names, and what they used.

use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Starts a thread.
pub fn spawn<T: Send + 'static>(name: String, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::Builder::new().name(name).spawn(body).expect("the host can start a thread")
}

/// Processor time of the thread that asks; of a vCPU's thread, its guest's included.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a clock of processor time begins at zero")
}
