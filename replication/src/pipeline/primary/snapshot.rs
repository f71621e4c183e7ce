//! A snapshot that an operator asked for: it is answered when what it holds is committed.
//!
//! What is written while the guest is held belongs to the running epoch, which may never be committed: its backup may go on from the
//! one before, and has then never been where the snapshot is. So the snapshot is kept when that epoch is committed and all output up to
//! its end has left; if that does not come in time it is removed again, and the operator is told.
//!
//! A guest that stands still by its operator's will runs no epoch: what is written of it was committed with its pause. A guest without
//! epochs cannot be continued elsewhere, so there is nothing to wait for.

use super::{GuestMode, PrimaryPipeline};
use crate::id::{EpochId, Time};

/// What becomes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// It is of a committed guest: tell the operator.
    Keep,
    /// Its guest was not committed in time, or has ended: remove it, and tell the operator.
    Remove,
}

/// A snapshot that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// The last epoch that it holds a part of.
    epoch: EpochId,
    until: Time,
}

impl PrimaryPipeline {
    /// The guest was held in epoch `running` while a snapshot of it was written. The operator waits for the answer until then.
    pub fn handle_snapshot(&mut self, running: EpochId, is_paused: bool, until: Time) {
        let epoch = if is_paused { running.prev() } else { running };
        self.snapshot = Some(Snapshot { epoch, until });
    }

    /// What becomes of the snapshot; none: that is not known, or there is none.
    pub fn poll_snapshot(&mut self, now: Time) -> Option<SnapshotStep> {
        let Snapshot { epoch, until } = self.snapshot?;
        let step = match () {
            () if self.mode == GuestMode::Epochs && self.core.left() >= epoch => SnapshotStep::Keep,
            () if self.has_ended || now >= until => SnapshotStep::Remove,
            () if self.mode != GuestMode::Epochs => SnapshotStep::Keep,
            () => return None,
        };
        self.snapshot = None;
        Some(step)
    }

    /// Until when the operator waits for a snapshot, if it is to be answered.
    pub fn snapshot_until(&self) -> Option<Time> {
        self.snapshot.map(|snapshot| snapshot.until)
    }
}
