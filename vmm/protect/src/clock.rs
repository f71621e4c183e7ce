//! The clock of the cores: nanoseconds of the host's monotonic clock since this process made it.

use std::time::{Duration, Instant};

use replication::Time;

/// Gives the time to the cores; copies share the origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock {
    /// Now.
    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// From now until `deadline`, at least a millisecond: for a wait that looks again afterwards.
    pub(crate) fn until(&self, deadline: Time) -> Duration {
        deadline.since(self.now()).max(Duration::from_millis(1))
    }
}
