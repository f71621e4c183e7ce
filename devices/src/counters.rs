//! Counters of a device for nonsense from the guest and refused work.

/// Counters of one device. They are not guest state: a restored device starts from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Register accesses of a wrong width, at an unknown offset, or out of order.
    pub bad_accesses: u64,
    /// Kicks of queues that do not exist or are not ready.
    pub bad_notifies: u64,
    /// Rings or descriptor chains that made the device ask for a reset.
    pub broken_rings: u64,
    /// Well-formed requests whose content made no sense; answered with an error.
    pub bad_requests: u64,
    /// Requests that failed because the host's backend failed.
    pub backend_errors: u64,
    /// Frames, bytes or requests completed.
    pub completed: u64,
    /// Frames dropped, in either direction.
    pub dropped: u64,
}
