//! What a release sets off: disk writes reach the images, output leaves, and the core hears when it has.

use std::time::Instant;

use replication::EpochId;

use super::{CONSOLE_LAG_MAX, Guardian};
use crate::exit::Failure;

impl Guardian {
    pub(super) fn release(&self, upto: EpochId) {
        for disk in self.machine.disks() {
            let committed = disk.commit(upto.0);
            if let Err(error) = committed {
                // The log and the backup have the writes; this host's image cannot be trusted any more.
                let failure = Failure::of(&error).while_doing("committed disk writes could not be applied");
                return self.machine.fail(failure.to_string());
            }
        }
        let leaves_with = self.machine.egress().release(upto);
        let mut inner = self.lock();
        // Two threads may release, and the later epoch come first.
        inner.performed = inner.performed.max(upto);
        inner.leaving.push_back((leaves_with, Instant::now(), upto));
        while inner.unreleased.front().is_some_and(|(epoch, _)| *epoch <= upto) {
            let sealed_at = inner.unreleased.pop_front().map(|(_, at)| at);
            self.machine.stats().record_commit(sealed_at.expect("the front was there").elapsed());
        }
        drop(inner);
        self.note_left();
    }

    /// Tells the core what has left. A console that is slow keeps the output of its epochs from counting, and what came
    /// after it: whoever goes on with the guest must emit it again. One that is stuck does so for a while only, because
    /// frames that were let out long ago would have to be kept with its bytes.
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
        self.lock().performed
    }

    /// The last epoch of which all output has left.
    pub(in crate::protect) fn left(&self) -> EpochId {
        self.lock().core.left()
    }
}
