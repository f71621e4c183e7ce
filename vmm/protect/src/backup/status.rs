//! What a backup says of itself for `status`, in the words of the control interface.

use outlast_api::{Following, KeptCopy};
use replication::EpochMark;
use replication::backup::BackupState;

use super::Standby;
use super::perform::no_room;

impl Standby {
    /// Shows others how it is.
    pub(super) fn publish(&self) {
        let core = self.pipeline.core();
        let full = self.pipeline.full();
        let following = Following {
            state: word(core.state()),
            pointers: match core.branch() {
                Some(branch) => format!("branch {branch}: {}", core.pointers()),
                None => core.pointers().to_string(),
            },
            epochs_applied: self.pipeline.epochs_applied(),
            waiting_bytes: core.waiting_bytes() as u64,
            peer_errors: core.peer_errors(),
            can_take_over: core.state() == BackupState::Protected,
            kept: core.kept().map(|(epoch, holder)| kept_copy(epoch, holder)),
            witness: self.registrant.witness().to_string(),
            // Told when it is asked: it changes without this loop.
            witness_away_ms: None,
            disk_full: full.map(|path| path.display().to_string()),
        };
        self.view.publish(following, full.map(|path| no_room(path)).into_iter().collect());
    }
}

fn kept_copy(epoch: EpochMark, holder: &str) -> KeptCopy {
    KeptCopy { epoch: epoch.count.0, epoch_id: epoch.name().to_string(), guest_is_at: holder.into() }
}

/// The state of the core in the interface's words, which stay when the core's change.
fn word(state: BackupState) -> outlast_api::BackupState {
    match state {
        BackupState::Waiting => outlast_api::BackupState::Waiting,
        BackupState::Greeting => outlast_api::BackupState::Greeting,
        BackupState::Syncing => outlast_api::BackupState::Syncing,
        BackupState::Protected => outlast_api::BackupState::Protected,
        BackupState::Claiming => outlast_api::BackupState::Claiming,
        BackupState::Keeping => outlast_api::BackupState::Keeping,
        BackupState::Overriding => outlast_api::BackupState::Overriding,
        BackupState::TakingOver => outlast_api::BackupState::TakingOver,
        BackupState::TookOver => outlast_api::BackupState::TookOver,
        BackupState::Ended => outlast_api::BackupState::Ended,
    }
}
