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

use super::{Primary, PrimaryAction, Question};
use crate::commit::CommitPlace;
use crate::id::{ClaimResult, Time};

/// A local store that takes no more epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostStore {
    /// The register lists it, or may.
    Listed,
    /// Its files are being removed.
    Removing,
}

impl Primary {
    /// The local store takes no more epochs. Until it is removed nothing commits beyond what it has.
    pub fn handle_store_lost(&mut self) {
        if !self.is_over() && self.lost_store.is_none() {
            self.lost_store = Some(LostStore::Listed);
            self.ask(Question::DelistStore);
        }
    }

    /// The answer to [`Question::DelistStore`].
    pub fn handle_store_delisted(&mut self, now: Time, result: ClaimResult) {
        if self.is_granted(now, &Question::DelistStore, result) {
            self.lost_store = Some(LostStore::Removing);
            self.actions.push_back(PrimaryAction::RemoveStore);
        }
    }

    /// [`PrimaryAction::RemoveStore`] is done: nobody resumes from there.
    pub fn handle_store_removed(&mut self, now: Time) {
        if self.lost_store.take_if(|lost| *lost == LostStore::Removing).is_some() {
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
