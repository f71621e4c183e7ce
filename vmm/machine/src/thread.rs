//! Threads with names, and what they used.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Starts a thread without which nothing works: a machine is being made.
pub fn spawn<T: Send + 'static>(name: String, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    try_spawn(name, body).expect("the host can start a thread")
}

/// Starts a thread, if the host has one more: for what can be done later, or not at all.
pub fn try_spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name).spawn(body)
}

/// Processor time of the thread that asks; of a vCPU's thread, its guest's included.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a clock of processor time begins at zero")
}
