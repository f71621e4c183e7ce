//! A snapshot of a protected guest: it is one when what it holds is committed
//! ([`replication::pipeline::primary::SnapshotStep`]).

use replication::EpochId;
use replication::pipeline::primary::{PrimaryPipeline, SnapshotStep};
use replication::primary::PrimaryState;

use super::Guardian;
use super::pausing::{COMMIT_TIME_MAX, why};

/// Why a snapshot that was written is none.
#[derive(Debug, thiserror::Error)]
pub enum NotSnapshot {
    /// The guest ended before.
    #[error("no snapshot was made: the machine has ended, and what it was at the end of is not known to be committed")]
    Ended,
    /// It was not in time.
    #[error("no snapshot was made: within {} s {}", COMMIT_TIME_MAX.as_secs(), why(*.state))]
    NotCommitted {
        /// How the guest was protected in the end.
        state: PrimaryState,
    },
}

impl Guardian {
    /// Waits until what was written of the guest, held in `epoch`, is committed. The guest runs meanwhile.
    pub fn commit_snapshot(&self, epoch: EpochId, is_paused: bool) -> Result<(), NotSnapshot> {
        // The pipeline answers one at a time.
        let _one = self.snapshots.lock().expect("nobody panics while a snapshot is committed");
        let until = self.clock.now().after(COMMIT_TIME_MAX);
        self.with_pipeline(|pipeline, _| pipeline.handle_snapshot(epoch, is_paused, until));
        self.machine.gate().request_boundary();
        match self.wait_for_answer(until, PrimaryPipeline::poll_snapshot) {
            SnapshotStep::Keep => Ok(()),
            SnapshotStep::Remove if self.machine.ended().is_some() => Err(NotSnapshot::Ended),
            SnapshotStep::Remove => Err(NotSnapshot::NotCommitted { state: self.state() }),
        }
    }
}
