//! What a release sets off: output leaves, disk writes reach the images, and the core hears when output has.
//!
//! Output leaves at once, on the thread that heard the backup's ack; nothing there waits. Images are written by a
//! thread of their own, `ft-disk`, which is woken only for epochs that wrote to a disk. It may be as slow as its
//! storage, or wait for room: the guest is stopped when too much lies beside the images ([`IMAGE_LAG_BYTES_MAX`]), and
//! nobody else.
//!
//! An image gets no byte of an epoch before the log has all of it: after a kill in the middle it is found there.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::EpochId;
use replication::primary::PrimaryState;
use serde_json::json;

use super::{CONSOLE_LAG_MAX, Guardian};
use crate::exit::Failure;
use crate::machine::End;
use crate::machine::disk::SharedDisk;
use crate::machine::trouble::News;
use crate::protect::local::fault;
use crate::protect::room::{ROOM_RETRY, Trouble};
use crate::protect::upkeep::{self, Upkeep};

/// Disk writes of released epochs that the images lack, at most: beyond that the guest waits at its next boundary.
const IMAGE_LAG_BYTES_MAX: usize = 64 << 20;

/// Before a request of the guest is tried again that waits for room or for a commit.
const REQUEST_RETRY: Duration = Duration::from_millis(100);

/// How far the images are behind.
#[derive(Debug)]
pub(super) struct Images {
    /// Sealed epochs with disk writes that the images do not have, in order.
    lacking: VecDeque<EpochId>,
    /// The last epoch whose disk writes may go to the images.
    released: EpochId,
    /// The last epoch whose disk writes are in the log.
    logged: EpochId,
    /// An image without room, which an epoch waits for.
    full: Option<PathBuf>,
    /// A log without room, which an epoch waits for.
    log_full: Option<PathBuf>,
    /// An image without room, which a request of the guest waits for.
    guest_full: Option<PathBuf>,
}

/// What there is no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protect) enum Lacks {
    /// Disk writes of a committed epoch.
    Image,
    /// Those of an epoch that is to be committed.
    Log,
    /// A request of a guest that writes its images directly.
    Guest,
}

impl Images {
    /// Images that have everything up to `epoch`.
    pub(super) fn with_all(epoch: EpochId) -> Self {
        Self { lacking: VecDeque::new(), released: epoch, logged: epoch, full: None, log_full: None, guest_full: None }
    }

    /// The last epoch that they have, of those that were released.
    pub(super) fn performed(&self) -> EpochId {
        self.lacking.front().map_or(self.released, |first| first.prev().min(self.released))
    }

    /// Up to where they can be brought now, if they are not there.
    fn due(&self) -> Option<EpochId> {
        let upto = self.released.min(self.logged);
        self.lacking.front().filter(|first| **first <= upto).map(|_| upto)
    }

    /// Files without room that something waits for.
    pub(super) fn full(&self) -> impl Iterator<Item = &PathBuf> {
        self.full.iter().chain(&self.log_full).chain(&self.guest_full)
    }

    fn lacks(&mut self, what: Lacks) -> &mut Option<PathBuf> {
        match what {
            Lacks::Image => &mut self.full,
            Lacks::Log => &mut self.log_full,
            Lacks::Guest => &mut self.guest_full,
        }
    }

    fn applied(&mut self, upto: EpochId) {
        while self.lacking.pop_front_if(|epoch| *epoch <= upto).is_some() {}
    }
}

impl Guardian {
    pub(super) fn release(&self, upto: EpochId) {
        let leaves_with = self.machine.egress().release(upto);
        let mut inner = self.lock();
        // Two threads may release, and the later epoch come first.
        inner.images.released = inner.images.released.max(upto);
        if inner.images.due().is_some() {
            self.disk_work.notify_one();
        }
        inner.leaving.push_back((leaves_with, Instant::now(), upto));
        while inner.unreleased.front().is_some_and(|(epoch, _)| *epoch <= upto) {
            let sealed_at = inner.unreleased.pop_front().map(|(_, at)| at);
            self.machine.stats().record_commit(sealed_at.expect("the front was there").elapsed());
        }
        drop(inner);
        self.note_left();
    }

    /// An epoch with disk writes was sealed.
    pub(super) fn note_disk_writes(&self, epoch: EpochId) {
        self.lock().images.lacking.push_back(epoch);
    }

    /// The log has the disk writes of all epochs up to `epoch`.
    pub(super) fn note_logged(&self, epoch: EpochId) {
        let mut inner = self.lock();
        inner.images.logged = inner.images.logged.max(epoch);
        if inner.images.due().is_some() {
            self.disk_work.notify_one();
        }
    }

    /// Brings the images up to what may go there, until the guardian is finished. The body of the disk thread.
    pub(super) fn run_disk(&self) {
        while let Some(upto) = self.wait_for_disk_writes() {
            match self.write_images(upto) {
                Ok(()) => {
                    self.note_applied(upto);
                    if self.machine.troubles().is_waiting() {
                        self.machine.retry_disks();
                    }
                }
                Err(Trouble::Full { path }) => {
                    self.note_full(Lacks::Image, path);
                    drop(self.disk_work.wait_timeout(self.lock(), ROOM_RETRY).expect("no holder of the core panics"));
                }
                // The log and the backup have the writes; this host's image cannot be trusted any more.
                Err(Trouble::Other(failure)) => {
                    return self.fail_images(&failure.while_doing("committed disk writes could not be applied"));
                }
            }
        }
    }

    /// Finds out whether the images' storage still takes what was written. The body of a thread.
    pub(super) fn keep_images(&self) {
        let images = self.machine.disks().iter().map(|disk| Arc::clone(disk.lock().image()));
        let mut upkeep = Upkeep::of(images.collect::<Vec<_>>());
        while !self.machine.ends_within(upkeep::PERIOD) && !self.is_finished() {
            // Written directly the guest has its own flushes, and is told itself.
            if !(self.is_durable() && self.machine.epochs().is_protected()) {
                continue;
            }
            if let Err(error) = upkeep.sync()
                && self.machine.epochs().is_protected()
            {
                return self
                    .fail_images(&Failure::of(&error).while_doing("committed disk writes are not on their disk"));
            }
        }
    }

    /// This host's images cannot be trusted any more; that is recorded for the next start.
    fn fail_images(&self, failure: &Failure) {
        self.notes.doubt(self.machine.disks().iter().map(SharedDisk::image));
        self.machine.fail(failure.to_string());
    }

    fn wait_for_disk_writes(&self) -> Option<EpochId> {
        let mut inner = self.lock();
        while !self.is_finished() {
            if let Some(upto) = inner.images.due() {
                return Some(upto);
            }
            inner = self.disk_work.wait(inner).expect("no holder of the core panics");
        }
        None
    }

    /// What was written in part before is written again as a whole.
    fn write_images(&self, upto: EpochId) -> Result<(), Trouble> {
        fault::lasts(fault::IMAGE_WRITE);
        for disk in self.machine.disks() {
            fault::fails_image(disk.image().path())?;
            disk.commit(upto.0)?;
        }
        Ok(())
    }

    fn note_applied(&self, upto: EpochId) {
        let mut inner = self.lock();
        inner.images.applied(upto);
        let (is_awaited, was_full) = (inner.waiters > 0, inner.images.full.is_some());
        drop(inner);
        if is_awaited {
            self.changed.notify_all();
        }
        if was_full {
            self.note_room(Lacks::Image);
        }
    }

    /// There is no room for `path`; what is to be written there waits. One event, however often it is tried.
    pub(in crate::protect) fn note_full(&self, what: Lacks, path: PathBuf) {
        if self.lock().images.lacks(what).replace(path.clone()).is_some() {
            return;
        }
        self.changed.notify_all();
        tracing::warn!(path = %path.display(), "no room: disk writes wait, and the guest with them");
        self.note("disk-full", json!({ "path": path }));
    }

    /// What waited for room is written.
    pub(in crate::protect) fn note_room(&self, what: Lacks) {
        let full = self.lock().images.lacks(what).take();
        if let Some(path) = full {
            self.note("disk-has-room", json!({ "path": path }));
        }
    }

    /// Tells the operator what the guest's own requests find wrong with its disks, and has those that wait tried again.
    /// The body of a thread.
    pub(super) fn tell_troubles(&self) {
        while let Some((news, waits)) = self.machine.troubles().wait() {
            for news in news {
                match news {
                    News::Full(path) => self.note_full(Lacks::Guest, path),
                    News::HasRoom(_) => self.note_room(Lacks::Guest),
                    News::Failed(error) => self.note("disk-failed", json!({ "error": error })),
                    News::Withheld(error) => self.leave_to_backup(&error),
                }
            }
            if waits {
                if self.machine.ends_within(REQUEST_RETRY) {
                    return;
                }
                self.machine.retry_disks();
            }
        }
    }

    /// The guest's own request met an error of this host's storage, and waits. A backup that follows has the same disk
    /// on storage that may be sound: the guest continues there, from before the request. While the witness is asked who
    /// continues the guest, the request waits; alone, the guest is told.
    fn leave_to_backup(&self, error: &str) {
        if matches!(self.state(), PrimaryState::Basing | PrimaryState::Protected) {
            self.machine.fail(format!("a disk request of the guest failed; its backup can serve it: {error}"));
        }
    }

    /// Whether disk writes of committed epochs wait for room in an image.
    pub(in crate::protect) fn is_image_full(&self) -> bool {
        self.lock().images.full.is_some()
    }

    /// Waits while the images are too far behind. False if `give_up` says so before.
    pub(super) fn wait_for_images(&self, give_up: impl Fn() -> bool) -> bool {
        while self.image_lag_bytes() > IMAGE_LAG_BYTES_MAX && !self.is_finished() {
            if give_up() {
                return false;
            }
            self.wait_for_change();
        }
        true
    }

    fn image_lag_bytes(&self) -> usize {
        if self.lock().images.due().is_none() {
            return 0;
        }
        self.machine.disks().iter().map(|disk| disk.lock().sealed_bytes()).sum()
    }

    /// Waits until the images have what they may have now. False if there is no room for it, or nobody to write it.
    pub(in crate::protect) fn wait_for_applied(&self) -> bool {
        loop {
            let (due, is_full) = {
                let images = &self.lock().images;
                (images.due(), images.full.is_some())
            };
            if due.is_none() {
                return true;
            }
            if is_full || self.is_finished() || matches!(self.machine.ended(), Some(End::Failed(_))) {
                return false;
            }
            self.wait_for_change();
        }
    }

    /// Tells the core what has left. A console that is slow keeps the output of its epochs from counting, and what came
    /// after it: the side that continues the guest must emit it again. One that is stuck does so for a while only,
    /// because frames that were let out long ago would have to be kept with its bytes.
    pub(super) fn note_left(&self) {
        let written = self.machine.egress().console_written();
        let mut inner = self.lock();
        let mut left = None;
        let has_left =
            |(bytes, since, _): &mut (u64, Instant, EpochId)| *bytes <= written || since.elapsed() > CONSOLE_LAG_MAX;
        while let Some((_, _, epoch)) = inner.leaving.pop_front_if(has_left) {
            left = left.max(Some(epoch));
        }
        drop(inner);
        if let Some(epoch) = left {
            let now = self.clock.now();
            self.with_core(|core| core.handle_released(now, epoch));
        }
    }

    /// The last epoch whose output has left and whose disk writes are in the images.
    pub(in crate::protect) fn performed(&self) -> EpochId {
        self.lock().images.performed()
    }

    /// The last epoch of which all output has left.
    pub(in crate::protect) fn left(&self) -> EpochId {
        self.lock().core.left()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(lacking: &[u64], released: u64, logged: u64) -> Images {
        let mut images = Images::with_all(EpochId(4));
        images.lacking = lacking.iter().copied().map(EpochId).collect();
        (images.released, images.logged) = (EpochId(released), EpochId(logged));
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
        images.applied(EpochId(5));
        assert_eq!(images.performed(), EpochId(6));
        images.released = EpochId(9);
        assert_eq!(images.performed(), EpochId(6));
        images.applied(EpochId(9));
        assert_eq!(images.performed(), EpochId(9));
    }
}
