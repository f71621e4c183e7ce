//! The syncs of the images beside all else, by which a disk that is gone is found while the backup can still continue the guest.

use std::time::Duration;

use super::{Failing, GuestMode, PrimaryPipeline};
use crate::id::Time;

/// The syncs of the images beside all else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upkeep {
    period: Duration,
    /// When the next one is due.
    at: Time,
    /// The lane syncs.
    is_given: bool,
}

impl Upkeep {
    pub(super) fn every(period: Duration) -> Self {
        Self { period, at: Time(0).after(period), is_given: false }
    }

    /// They were synced, for this or another reason.
    pub(super) fn put_off(&mut self, now: Time) {
        self.at = now.after(self.period);
    }
}

impl PrimaryPipeline {
    /// When the images are to be synced beside all else, if they are.
    pub fn upkeep_at(&self) -> Option<Time> {
        let is_wanted = self.config.is_durable && self.mode == GuestMode::Epochs && !self.has_ended;
        (is_wanted && !self.upkeep.is_given).then_some(self.upkeep.at)
    }

    /// Whether that is to be done now.
    pub fn poll_upkeep(&mut self, now: Time) -> bool {
        let is_due = self.upkeep_at().is_some_and(|at| at <= now);
        self.upkeep.is_given |= is_due;
        is_due
    }

    /// It was done, or why not.
    ///
    /// # Panics
    /// If it was not to be done.
    pub fn handle_upkeep_done(&mut self, now: Time, done: Result<(), String>) {
        assert!(self.upkeep.is_given, "the lane answers what it was given");
        self.upkeep.is_given = false;
        self.upkeep.put_off(now);
        if let Err(text) = done
            && self.mode == GuestMode::Epochs
        {
            self.fail(Failing::Images { text });
        }
    }
}
