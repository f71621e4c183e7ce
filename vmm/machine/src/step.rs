//! Steps of storage that work for the guest, for tests that make them slow. Without the feature `faults` they are no more than a name.

#[cfg(feature = "faults")]
use std::sync::OnceLock;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A read of the guest's, straight from its image.
    GuestRead,
    /// A sync of the image for the guest's flush.
    GuestSync,
}

#[cfg(feature = "faults")]
static HOOK: OnceLock<fn(Step)> = OnceLock::new();

/// From now on `hook` is called before each step. Only the first one counts.
#[cfg(feature = "faults")]
pub fn set_hook(hook: fn(Step)) {
    HOOK.get_or_init(|| hook);
}

/// `step` begins.
#[cfg(feature = "faults")]
pub(crate) fn begin(step: Step) {
    if let Some(hook) = HOOK.get() {
        hook(step);
    }
}

/// `step` begins.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn begin(_: Step) {}
