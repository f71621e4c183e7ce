//! Threads with names.

use std::thread::JoinHandle;

/// Starts a thread.
pub fn spawn<T: Send + 'static>(name: String, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::Builder::new().name(name).spawn(body).expect("the host can start a thread")
}
