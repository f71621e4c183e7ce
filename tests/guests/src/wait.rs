//! Waiting for a condition, never for time to pass.

use std::time::{Duration, Instant};

/// Far longer than anything here takes; only a failure waits so long. A kernel under these tests was seen to take 20 s to make a
/// virtual machine, while guests that never rest had its processors.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Looks until `look` gives something.
///
/// # Panics
/// If it does not within [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, &mut look).unwrap_or_else(|| panic!("waited {} s in vain: {what}", PATIENCE.as_secs()))
}

/// Looks until `look` gives something, or `time` is over.
pub fn until_within<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        match look() {
            Some(seen) => return Some(seen),
            None if Instant::now() > deadline => return None,
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
}
