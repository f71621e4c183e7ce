//! How far the images are: which epochs' disk writes they lack, and which of those may be written now.

use std::collections::VecDeque;

use crate::id::{EpochId, Time};

/// How far the images are behind.
#[derive(Debug)]
pub(super) struct Images {
    /// Sealed epochs with disk writes that the images do not have, in order.
    lacking: VecDeque<EpochId>,
    /// The last epoch whose output was let out: its disk writes may go to the images.
    released: EpochId,
    /// The last epoch that is durable here.
    durable: EpochId,
    /// The lane writes them.
    is_writing: bool,
    /// A file without room, which the lane waits for, and when it tries again.
    full: Option<(String, Time)>,
}

impl Images {
    /// Images that have everything up to `epoch`.
    pub(super) fn with_all(epoch: EpochId) -> Self {
        Self { lacking: VecDeque::new(), released: epoch, durable: epoch, is_writing: false, full: None }
    }

    /// An epoch with disk writes was sealed.
    pub(super) fn handle_sealed(&mut self, epoch: EpochId) {
        self.lacking.push_back(epoch);
    }

    /// Two threads may let epochs out, and the later one come first.
    pub(super) fn handle_released(&mut self, upto: EpochId) {
        self.released = self.released.max(upto);
    }

    /// The log has the disk writes of all epochs up to `epoch`. An image gets no byte of an epoch before: after a kill in the
    /// middle it is found there.
    pub(super) fn handle_durable(&mut self, epoch: EpochId) {
        self.durable = self.durable.max(epoch);
    }

    /// The last epoch that they have, of those that were released.
    pub(super) fn performed(&self) -> EpochId {
        self.lacking.front().map_or(self.released, |first| first.prev().min(self.released))
    }

    /// Up to where they can be brought now, if they are not there.
    pub(super) fn due(&self) -> Option<EpochId> {
        let upto = self.released.min(self.durable);
        self.lacking.front().filter(|first| **first <= upto).map(|_| upto)
    }

    /// Whether what is due waits for room.
    pub(super) fn is_full(&self) -> bool {
        self.full.is_some()
    }

    pub(super) fn full(&self) -> Option<&str> {
        self.full.as_ref().map(|(path, _)| path.as_str())
    }

    /// When the lane, which does nothing, tries again.
    pub(super) fn retry_at(&self) -> Option<Time> {
        self.full.as_ref().filter(|_| !self.is_writing).map(|(_, at)| *at)
    }

    /// What the lane does next.
    pub(super) fn poll(&mut self, now: Time) -> Option<EpochId> {
        if self.is_writing || self.retry_at().is_some_and(|at| now < at) {
            return None;
        }
        let upto = self.due()?;
        self.is_writing = true;
        Some(upto)
    }

    /// It did; the file that has room now, if it had none before.
    pub(super) fn handle_written(&mut self, upto: EpochId) -> Option<String> {
        self.is_writing = false;
        while self.lacking.pop_front_if(|epoch| *epoch <= upto).is_some() {}
        self.full.take().map(|(path, _)| path)
    }

    /// It found no room, and tries again at `retry_at`; whether that is news.
    pub(super) fn handle_full(&mut self, retry_at: Time, path: String) -> bool {
        self.is_writing = false;
        self.full.replace((path, retry_at)).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(lacking: &[u64], released: u64, durable: u64) -> Images {
        let mut images = Images::with_all(EpochId(4));
        images.lacking = lacking.iter().copied().map(EpochId).collect();
        (images.released, images.durable) = (EpochId(released), EpochId(durable));
        images
    }

    #[test]
    fn images_get_an_epoch_when_it_is_released_and_logged() {
        // With durability memory a release may come before the log has the epoch: killed then, the image had a part of
        // it.
        assert_eq!(images(&[5, 7], 4, 7).due(), None);
        assert_eq!(images(&[5, 7], 7, 4).due(), None);
        assert_eq!(images(&[5, 7], 7, 6).due(), Some(EpochId(6)));
        assert_eq!(images(&[], 7, 7).due(), None, "epochs without disk writes wake nobody");
    }

    #[test]
    fn performed_is_what_was_released_up_to_the_first_epoch_that_the_images_lack() {
        let mut images = images(&[5, 7], 6, 7);
        assert_eq!(images.performed(), EpochId(4));
        images.handle_written(EpochId(5));
        assert_eq!(images.performed(), EpochId(6));
        images.handle_released(EpochId(9));
        assert_eq!(images.performed(), EpochId(6));
        images.handle_written(EpochId(9));
        assert_eq!(images.performed(), EpochId(9));
    }

    #[test]
    fn what_found_no_room_is_tried_again_later_and_told_once() {
        let mut images = images(&[5], 5, 5);
        assert_eq!(images.poll(Time(0)), Some(EpochId(5)));
        assert_eq!(images.poll(Time(0)), None, "one step at a time");
        assert!(images.handle_full(Time(10), "disk.img".into()));
        assert_eq!(images.poll(Time(9)), None);
        assert_eq!(images.poll(Time(10)), Some(EpochId(5)));
        assert_eq!(images.retry_at(), None, "it is being tried");
        assert!(!images.handle_full(Time(20), "disk.img".into()));
        assert_eq!(images.poll(Time(20)), Some(EpochId(5)));
        assert_eq!(images.handle_written(EpochId(5)).as_deref(), Some("disk.img"));
    }
}
