//! Output commit: what the guest sent waits here until its epoch commits.
//!
//! The queue knows nothing of the network or of commits: the primary's `Release { upto }` is the only reason to drain it.

use std::collections::VecDeque;
use std::sync::Arc;

use thiserror::Error;

use crate::id::EpochId;

/// Something the guest sent to the world: a network frame, console bytes, a visible act of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which device of the machine sent it.
    pub device: u16,
    /// What the device calls it; the device's own number space.
    pub kind: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Something the host accepted for the guest: a network frame, console bytes. Logged before the guest consumes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Which device of the machine gets it.
    pub device: u16,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What an earlier epoch of a line `held`, in production order, and may not have left when its `last` epoch was committed, which held that:
/// the longest end of the one that the other begins with. So what is like another output may be repeated, and nothing is left out.
pub fn still_held<'a>(held: &'a [Output], last: &[Output]) -> &'a [Output] {
    let ends = (0..held.len()).map(|from| &held[from..]);
    ends.into_iter().find(|end| last.starts_with(end)).unwrap_or_default()
}

/// The queue is at its limit. The output comes back; the caller pauses the guest and offers it again.
#[derive(Debug, Error)]
#[error("held output is at its limit of {hold_bytes_max} bytes; the guest must wait for a commit")]
pub struct HoldFull {
    /// What was not taken.
    pub output: Output,
    /// The limit.
    pub hold_bytes_max: usize,
}

/// Holds guest output until its epoch commits.
///
/// Bytes held never exceed `hold_bytes_max`, with one exception: into an empty queue one output of any size is taken,
/// so that the guest cannot be stuck for ever. At the limit `hold` refuses; nothing is dropped, ever.
/// Order: release order equals production order, over all devices.
#[derive(Debug)]
pub struct OutputQueue {
    /// Shared: an epoch is shipped while its output waits here, and neither copies it.
    held: VecDeque<(EpochId, Arc<Output>)>,
    held_bytes: usize,
    hold_bytes_max: usize,
    released: Option<EpochId>,
}

impl OutputQueue {
    /// An empty queue with a limit in bytes (payload plus [`OutputQueue::OVERHEAD`] for each output).
    pub fn new(hold_bytes_max: usize) -> Self {
        OutputQueue { held: VecDeque::new(), held_bytes: 0, hold_bytes_max, released: None }
    }

    /// What one output costs besides its bytes, so that empty outputs are bounded too.
    pub const OVERHEAD: usize = 64;

    /// Takes an output that epoch `epoch` produced.
    ///
    /// # Panics
    /// If `epoch` is below that of an earlier output or was already released: the caller lost count of its epochs.
    pub fn hold(&mut self, epoch: EpochId, output: Output) -> Result<(), HoldFull> {
        assert!(
            self.held.back().is_none_or(|(last, _)| *last <= epoch),
            "output of epoch {epoch} held after a later one"
        );
        assert!(self.released.is_none_or(|upto| upto < epoch), "output held for epoch {epoch}, which was released");
        let cost = output.bytes.len() + Self::OVERHEAD;
        if !self.held.is_empty() && self.held_bytes + cost > self.hold_bytes_max {
            return Err(HoldFull { output, hold_bytes_max: self.hold_bytes_max });
        }
        self.held_bytes += cost;
        self.held.push_back((epoch, Arc::new(output)));
        Ok(())
    }

    /// Drains what epochs up to and including `upto` produced, in production order.
    ///
    /// What the caller does not take from the iterator is gone: finish it.
    pub fn release(&mut self, upto: EpochId) -> impl Iterator<Item = Arc<Output>> + use<> {
        self.released = self.released.max(Some(upto));
        let count = self.held.partition_point(|(epoch, _)| *epoch <= upto);
        let gone: Vec<Arc<Output>> = self.held.drain(..count).map(|(_, output)| output).collect();
        self.held_bytes -= gone.iter().map(|output| output.bytes.len() + Self::OVERHEAD).sum::<usize>();
        assert!(self.held.is_empty() == (self.held_bytes == 0), "bytes and outputs held are counted together");
        gone.into_iter()
    }

    /// What `epoch` produced and is still held, in production order; for shipping it.
    pub fn of_epoch(&self, epoch: EpochId) -> impl Iterator<Item = &Arc<Output>> {
        let first = self.held.partition_point(|(held, _)| *held < epoch);
        self.held.iter().skip(first).take_while(move |(held, _)| *held == epoch).map(|(_, output)| output)
    }

    /// Bytes held, overhead included.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Outputs held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether an output of `len` bytes would be taken now.
    pub fn has_room(&self, len: usize) -> bool {
        self.held.is_empty() || self.held_bytes + len + Self::OVERHEAD <= self.hold_bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(tag: u8, len: usize) -> Output {
        Output { device: 1, kind: tag, bytes: vec![tag; len] }
    }

    #[test]
    fn release_gives_production_order_and_keeps_later_epochs() {
        let mut queue = OutputQueue::new(10_000);
        for (epoch, tag) in [(1, 10), (1, 11), (2, 20), (4, 40)] {
            queue.hold(EpochId(epoch), output(tag, 8)).unwrap();
        }
        assert_eq!(queue.release(EpochId(2)).map(|out| out.kind).collect::<Vec<_>>(), [10, 11, 20]);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.held_bytes(), 8 + OutputQueue::OVERHEAD);
        assert_eq!(queue.release(EpochId(3)).count(), 0);
        assert_eq!(queue.release(EpochId(4)).map(|out| out.kind).collect::<Vec<_>>(), [40]);
        assert!(queue.is_empty());
    }

    #[test]
    fn of_epoch_shows_only_that_epoch_and_keeps_it() {
        let mut queue = OutputQueue::new(10_000);
        for (epoch, tag) in [(1, 10), (2, 20), (2, 21), (3, 30)] {
            queue.hold(EpochId(epoch), output(tag, 8)).unwrap();
        }
        assert_eq!(queue.of_epoch(EpochId(2)).map(|out| out.kind).collect::<Vec<_>>(), [20, 21]);
        assert_eq!(queue.of_epoch(EpochId(9)).count(), 0);
        assert_eq!(queue.len(), 4);
    }

    #[test]
    fn hold_at_the_limit_refuses_and_gives_the_output_back() {
        let mut queue = OutputQueue::new(2 * (100 + OutputQueue::OVERHEAD));
        queue.hold(EpochId(1), output(1, 100)).unwrap();
        assert!(queue.has_room(100));
        queue.hold(EpochId(1), output(2, 100)).unwrap();
        assert!(!queue.has_room(0));
        let refused = queue.hold(EpochId(1), output(3, 0)).unwrap_err();
        assert_eq!(refused.output.kind, 3);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn hold_into_an_empty_queue_takes_an_output_above_the_limit() {
        let mut queue = OutputQueue::new(10);
        queue.hold(EpochId(1), output(1, 1000)).unwrap();
        assert!(queue.hold(EpochId(1), output(2, 1)).is_err());
    }

    #[test]
    fn earlier_epoch_still_holds_what_the_last_one_begins_with() {
        let of = |tags: &[u8]| -> Vec<Output> { tags.iter().map(|tag| output(*tag, 1)).collect() };
        for (held, last, still) in [
            (&[1, 2, 3][..], &[2, 3, 4, 5][..], &[2, 3][..]),
            (&[1, 2, 3], &[4, 5], &[]),
            (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2, 3], &[3], &[3]),
            (&[1, 2], &[2, 1], &[2]),
            (&[7, 7], &[7, 8], &[7]),
            (&[], &[1], &[]),
            (&[1], &[], &[]),
        ] {
            assert_eq!(still_held(&of(held), &of(last)), of(still), "{held:?}, {last:?}");
        }
    }

    #[test]
    #[should_panic(expected = "which was released")]
    fn hold_for_a_released_epoch_panics() {
        let mut queue = OutputQueue::new(1000);
        assert_eq!(queue.release(EpochId(3)).count(), 0);
        let _ = queue.hold(EpochId(3), output(1, 1));
    }
}
