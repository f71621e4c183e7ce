//! Output that was let out and may still be in this process: a console that is slow keeps the output of its epochs from
//! counting as left, and what came after it. The side that continues the guest must emit it again.
//!
//! One that is stuck does so for a while only, because frames that were let out long ago would have to be kept with its bytes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::{EpochId, Time};

/// Epochs whose output is on its way out, in order.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// How much the console must have written, since when it could, and the epoch.
    epochs: VecDeque<(u64, Time, EpochId)>,
    written: u64,
}

impl Leaving {
    /// The output of all epochs up to `upto` was let out.
    pub(super) fn handle_let_out(&mut self, now: Time, upto: EpochId, console_mark: u64) {
        self.epochs.push_back((console_mark, now, upto));
    }

    /// The last epoch that has left, if that is news.
    pub(super) fn poll_left(&mut self, now: Time, written: Option<u64>, wait: Duration) -> Option<EpochId> {
        self.written = self.written.max(written.unwrap_or(0));
        let written = self.written;
        let has_left = |(mark, since, _): &mut (u64, Time, EpochId)| *mark <= written || now >= since.after(wait);
        let mut left = None;
        while let Some((_, _, epoch)) = self.epochs.pop_front_if(has_left) {
            left = left.max(Some(epoch));
        }
        left
    }

    /// When the first of them is not waited for any longer.
    pub(super) fn timeout(&self, wait: Duration) -> Option<Time> {
        self.epochs.front().map(|(_, since, _)| since.after(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_nanos(100);

    #[test]
    fn epoch_has_left_when_the_console_wrote_its_bytes_or_is_stuck() {
        let mut leaving = Leaving::default();
        leaving.handle_let_out(Time(0), EpochId(1), 0);
        leaving.handle_let_out(Time(0), EpochId(2), 7);
        leaving.handle_let_out(Time(0), EpochId(3), 7);
        assert_eq!(leaving.poll_left(Time(0), Some(6), WAIT), Some(EpochId(1)));
        assert_eq!(leaving.poll_left(Time(99), None, WAIT), None);
        assert_eq!(leaving.poll_left(Time(100), None, WAIT), Some(EpochId(3)), "it is stuck");
        leaving.handle_let_out(Time(200), EpochId(4), 9);
        assert_eq!(leaving.poll_left(Time(201), Some(9), WAIT), Some(EpochId(4)));
        assert_eq!(leaving.timeout(WAIT), None);
    }
}
