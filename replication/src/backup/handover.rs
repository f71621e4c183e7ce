//! A primary that lives hands its guest over.
//!
//! All of the guest is here then, and none of its output is to be sent again. The witness is asked as after a loss, but later: when the
//! guest is restored ([`crate::pipeline::inheritance`]). So whatever fails before that leaves the guest to its primary.

use super::{Backup, BackupAction, BackupState, Offer};
use crate::id::EpochId;
use crate::peer::PeerError;
use crate::wire::{Frame, Goodbye, GoodbyeReason, Handover, Link, Message};

impl Backup {
    pub(super) fn take_handover(&mut self, frame: Frame) -> Result<(), PeerError> {
        let kind = frame.kind;
        let Message::Handover(Handover { last, chain }) =
            frame.into_message().map_err(|source| PeerError::Body { kind, source })?
        else {
            unreachable!("the caller passes handovers")
        };
        let limit = self.pointers.acked();
        let session = self.session.as_ref().expect("a protected backup has a session");
        if last != limit || last != self.pointers.assembled() || session.assembly.is_open() {
            return Err(PeerError::Impossible { what: "handed over", theirs: last, limit });
        }
        let ours = session.mark_of(last).expect("what is acked waits here, or was applied last").chain;
        if ours != chain {
            return Err(PeerError::OtherLine { epoch: last, ours, theirs: chain });
        }
        self.actions.push_back(BackupAction::Offered);
        self.take_released(last)?;
        self.session.as_mut().expect("seen above").is_handed_over = true;
        self.state = BackupState::TakingOver;
        self.commit_all();
        Ok(())
    }
}

impl Offer {
    /// Of the session that frames with this link are of.
    pub(super) fn of(link: &Link) -> Offer {
        let text = "the guest runs here".to_owned();
        let farewell = Message::Goodbye(Goodbye { reason: GoodbyeReason::Continued, text });
        Offer { farewell: farewell.to_frame(link, EpochId(0)) }
    }
}
