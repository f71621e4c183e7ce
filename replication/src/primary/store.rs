//! The primary's local store is a member like a backup: one that takes no more epochs is removed from the register before
//! anything is released that it does not have.
//!
//! ```text
//!   lost ──▶ DelistStore asked ──granted──▶ RemoveStore ──▶ removed: commits no longer wait for it
//!              ▲      │ no answer
//!              └──────┘ again later; meanwhile nothing commits beyond what the store has
//! ```
//!
//! The record comes first, since a store that it lists may be resumed. Its files come next: where there is no witness, they
//! alone say that nobody may go back.

use super::{Errand, Primary, PrimaryAction, PrimaryState};
use crate::commit::CommitPlace;
use crate::id::{ClaimResult, Time};

/// A local store that takes no more epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostStore {
    /// The question to the register; idle when that is settled and the files are being removed.
    pub(super) errand: Errand,
}

impl Primary {
    /// The local store takes no more epochs. Until it is removed nothing commits beyond what it has.
    pub fn handle_store_lost(&mut self) {
        if matches!(self.state, PrimaryState::Fenced | PrimaryState::Ended) || self.lost_store.is_some() {
            return;
        }
        self.lost_store = Some(LostStore { errand: Errand::Asked });
        self.actions.push_back(PrimaryAction::DelistStore);
    }

    /// The answer to [`PrimaryAction::DelistStore`].
    pub fn handle_store_delisted(&mut self, now: Time, result: ClaimResult) {
        let Some(LostStore { errand: errand @ Errand::Asked }) = &mut self.lost_store else { return };
        match result {
            ClaimResult::Granted => {
                *errand = Errand::Idle;
                self.actions.push_back(PrimaryAction::RemoveStore);
            }
            ClaimResult::Unreachable => *errand = Errand::Again { at: now.after(self.config.claim_retry) },
            ClaimResult::Denied { holder } => self.fence(holder),
        }
    }

    /// [`PrimaryAction::RemoveStore`] is done: nobody resumes from there.
    pub fn handle_store_removed(&mut self, now: Time) {
        if self.lost_store.take_if(|lost| lost.errand == Errand::Idle).is_some() {
            self.commit.leave(CommitPlace::Store);
            self.advance();
            self.end_if_released(now);
        }
    }

    /// Whether the store is lost and may still be resumed from: commits wait.
    pub fn is_removing_store(&self) -> bool {
        self.lost_store.is_some()
    }
}
