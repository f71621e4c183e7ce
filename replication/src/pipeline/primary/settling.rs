//! The end of a guest's epochs, when it is alone by right; and the end of the guest.
//!
//! ```text
//!   Applied ─▶ Sync ─▶ Hold ─▶ SealLast ─▶ AppliedHeld ─▶ EndEpochs ─▶ EmptyLog ─▶ WriteDirectly ─▶ LetGo
//!     ▲                                        │ an image has no room
//!     └──────────────── let go ◀───────────────┘
//! ```
//!
//! Most of the images' dirty data goes out while the guest runs; the rest when the log is emptied, while it is stopped. A
//! record that came into the log behind that would be put over what the guest writes to the images from then on: so the last
//! epochs go through the log before it is emptied, and none comes after.

use super::epochs::Store;
use super::{Doing, Failing, GuestMode, Note, Outcome, PrimaryPipeline, Step};
use crate::id::{EpochId, Time};
use crate::primary::PrimaryState;

/// How far the end of the epochs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settling {
    /// The images get what could leave when this began.
    Applied {
        mark: EpochId,
    },
    Sync,
    Hold,
    SealLast,
    /// The images get what was sealed last.
    AppliedHeld,
    EndEpochs,
    EmptyLog,
    WriteDirectly,
    LetGo {
        is_over: bool,
    },
}

/// The guest has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) keeps_last: bool,
    /// Nobody waits any longer for the parting from its backup.
    pub(super) is_given_up: bool,
}

/// How far the removal of what is left of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Remove,
    Applied,
    EmptyLog,
    Closed,
}

impl PrimaryPipeline {
    pub(super) fn next_of_settling(&mut self, now: Time) -> Option<(Doing, Step)> {
        if self.settling.is_none() && std::mem::take(&mut self.wants_settling) {
            match self.store {
                // Its epochs continue without a backup.
                Store::Present if self.core.state().waits_for_backup() => {}
                Store::Present => return Some((Doing::Recording, Step::Record { session: None })),
                // What was sealed since may not leave yet. This is wanted again when it may.
                Store::Lost { .. } => {}
                // A backup that was refused, or lost before anything was sent: there is no reason to stop the guest.
                Store::Absent if self.mode == GuestMode::Direct => {}
                Store::Absent => {
                    // What is settled has no epochs to fill a backup from.
                    self.end_filling_first(now);
                    self.settling = Some(self.begin_settling());
                }
            }
        }
        let step = self.step_of_settling()?;
        Some((Doing::Settling, step))
    }

    fn begin_settling(&self) -> Settling {
        Settling::Applied { mark: self.core.pointers().released() }
    }

    fn step_of_settling(&mut self) -> Option<Step> {
        loop {
            let has_epochs = self.mode == GuestMode::Epochs;
            let next = match self.settling? {
                _ if self.has_ended && !self.is_held => {
                    self.settling = None;
                    return None;
                }
                Settling::LetGo { .. } => return Some(Step::LetGo),
                _ if self.has_ended => Settling::LetGo { is_over: true },
                Settling::Applied { mark } if self.images.performed() < mark => return None,
                Settling::Applied { .. } => Settling::Sync,
                Settling::Sync => return Some(Step::SyncImages),
                Settling::Hold => return Some(Step::Hold { session: None }),
                // The guest stands still, so they end.
                _ if !self.epochs.is_empty() => return None,
                Settling::SealLast if has_epochs => return Some(Step::SealLast),
                Settling::SealLast => Settling::WriteDirectly,
                Settling::AppliedHeld if self.images.performed() == self.core.pointers().sealed() => {
                    Settling::EndEpochs
                }
                Settling::AppliedHeld if self.images.is_full() => Settling::LetGo { is_over: false },
                Settling::AppliedHeld => return None,
                Settling::EndEpochs => return Some(Step::EndEpochs),
                Settling::EmptyLog => return Some(Step::EmptyLog),
                Settling::WriteDirectly => return Some(Step::WriteDirectly),
            };
            self.settling = Some(next);
        }
    }

    pub(super) fn settling_done(&mut self, outcome: Outcome) {
        let Some(settling) = self.settling else { return };
        let next = match (settling, outcome) {
            // The log alone has for sure what the images may have lost: it must not be emptied, and the guest cannot go past it.
            (Settling::Sync, Outcome::Failed { text }) if self.log.last() > EpochId(0) => {
                return self.fail(Failing::Storage { text });
            }
            (Settling::Sync, outcome) => {
                if let Outcome::Failed { text } = outcome {
                    self.note(Note::Warning { doing: "an image could not be synced", text });
                }
                Some(Settling::Hold)
            }
            (Settling::Hold, Outcome::NotHeld) => None,
            (Settling::Hold, _) => {
                self.is_held = true;
                Some(Settling::SealLast)
            }
            (Settling::SealLast, _) => Some(Settling::AppliedHeld),
            (Settling::LetGo { is_over }, _) => {
                self.is_held = false;
                (!is_over).then(|| self.begin_settling())
            }
            (_, Outcome::Failed { text }) => {
                self.fail(Failing::Machine { text });
                None
            }
            (Settling::EndEpochs, _) => Some(Settling::EmptyLog),
            (Settling::EmptyLog, _) => {
                self.log.handle_emptied();
                Some(Settling::WriteDirectly)
            }
            (Settling::WriteDirectly, _) => {
                self.mode = GuestMode::Direct;
                Some(Settling::LetGo { is_over: true })
            }
            (stage, other) => unreachable!("{other:?} is no answer in {stage:?}"),
        };
        self.settling = next;
    }

    /// Whether a guest that is to be settled waits for room in its images: it does not fill a backup meanwhile.
    pub(super) fn is_unsettled(&self) -> bool {
        self.settling.is_some() && self.images.is_full()
    }

    pub(super) fn recorded(&mut self, outcome: Outcome) {
        if let Outcome::Failed { text } = outcome {
            // Whoever resumes asks the witness in vain, or is told what this side was told.
            self.note(Note::Warning { doing: "the state directory still names a session that is over", text });
        }
    }

    /// Whether an ended guest needs nothing any more of what is here.
    fn is_parted(&self) -> bool {
        let is_decided = matches!(self.core.state(), PrimaryState::Ended | PrimaryState::Fenced);
        self.ending.is_some_and(|ending| is_decided || ending.is_given_up)
    }

    /// An image that another program changes before the next start must not get old writes: the log is emptied, if all that is in
    /// it went to the images.
    pub(super) fn next_of_closing(&mut self) -> Option<(Doing, Step)> {
        if self.closing.is_none() && self.is_parted() {
            self.closing = Some(if self.keeps_last() { Closing::Applied } else { Closing::Remove });
        }
        loop {
            let next = match self.closing? {
                Closing::Remove if self.store != Store::Absent => return Some((Doing::Closing, Step::RemoveEnded)),
                Closing::Remove => Closing::Applied,
                Closing::Applied if !self.are_images_up() && !self.images.is_full() => return None,
                Closing::Applied if self.images.performed() < self.log.last() => Closing::Closed,
                Closing::Applied => Closing::EmptyLog,
                Closing::EmptyLog => return Some((Doing::Closing, Step::EmptyLog)),
                Closing::Closed => return None,
            };
            self.closing = Some(next);
        }
    }

    pub(super) fn closing_done(&mut self, outcome: Outcome) {
        match self.closing {
            Some(Closing::Remove) => (self.store, self.closing) = (Store::Absent, Some(Closing::Applied)),
            Some(Closing::EmptyLog) => {
                if let Outcome::Failed { text } = outcome {
                    let doing = "the log of disk writes was not emptied; the next start applies it again";
                    self.note(Note::Warning { doing, text });
                }
                self.closing = Some(Closing::Closed);
            }
            other => unreachable!("{other:?} has no step"),
        }
    }
}
