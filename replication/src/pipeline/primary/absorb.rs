//! What the session core wants: some of it is performed at once, the rest becomes work of a lane.

use super::{Action, Doing, Note, Outgoing, PrimaryPipeline, Question};
use crate::id::Time;
use crate::primary::{PeerId, PrimaryAction, PrimaryState};
use crate::wire::{DiskWant, Kind};

impl PrimaryPipeline {
    /// The connection to that backup is no good any more.
    pub(super) fn break_connection(&mut self, now: Time, peer: PeerId) {
        let connection = self.connection(peer);
        self.actions.push_back(Action::Close { connection });
        self.with(now, |core| core.handle_disconnected(now, peer));
    }

    /// Takes what the session core wants.
    pub(super) fn absorb(&mut self, now: Time) {
        // What is said in one go with the end of a connection is said before it.
        while let Some((peer, frames)) = self.core.poll_transmit() {
            self.say(now, peer, frames);
        }
        while let Some(action) = self.core.poll_action() {
            self.take(now, action);
        }
        while let Some((peer, frames)) = self.core.poll_transmit() {
            self.say(now, peer, frames);
        }
    }

    fn say(&mut self, now: Time, peer: PeerId, frames: Vec<u8>) {
        let connection = self.connection(peer);
        // The lane may be waiting for a disk; the backup must hear from a primary that lives, but not before its Hello.
        let is_beat = Kind::of_frame(&frames) == Some(Kind::Heartbeat);
        if is_beat && self.core.peer_state(peer) != PrimaryState::Greeting {
            // Storage that is stuck for as long as a mute backup is waited for makes a dead primary.
            if !self.is_stuck(now) {
                self.actions.push_back(Action::Beat { connection, frame: frames });
            }
            return;
        }
        self.outgoing.push_back(Outgoing::Frames(connection, frames));
    }

    fn take(&mut self, now: Time, action: PrimaryAction) {
        match action {
            PrimaryAction::Release { upto } => {
                let until = now.after(self.config.primary.detect);
                self.actions.push_back(Action::Release { upto, until });
            }
            PrimaryAction::EmitAgain => {
                self.wants_settling |= self.core.is_alone();
                self.actions.push_back(Action::EmitAgain);
            }
            PrimaryAction::Resync { link } => self.begin_filling(now, link),
            PrimaryAction::DiskWanted(want) => self.take_want(want),
            PrimaryAction::FillingStalls { phase } => self.note(Note::FillingStalls { phase }),
            PrimaryAction::FillingDiverges { figures } => self.note(Note::FillingDiverges { figures }),
            PrimaryAction::GuestShare { percent } => self.actions.push_back(Action::GuestShare { percent }),
            PrimaryAction::Protected { .. } => self.note(Note::Protected),
            PrimaryAction::Ask(question) => self.ask(question),
            PrimaryAction::RemoveStore => self.store.handle_delisted(),
            PrimaryAction::Conflict { text } => self.actions.push_back(Action::Conflict { text }),
            PrimaryAction::Fenced { holder } => self.actions.push_back(Action::Fenced { holder }),
            PrimaryAction::HandedOver { holder } => self.actions.push_back(Action::HandedOver { holder }),
            PrimaryAction::WentSolo { peer: _, reason } => {
                self.wants_settling |= self.core.is_alone();
                self.note(Note::Solo { reason });
            }
            PrimaryAction::Disconnect { peer } => self.disconnect(peer),
            PrimaryAction::ExchangeRefused { text } => self.note(Note::ExchangeRefused { text }),
            PrimaryAction::ExchangeSettled(settlement) => self.note(Note::ExchangeSettled(settlement)),
            PrimaryAction::Ended => {}
        }
    }

    fn ask(&mut self, question: Question) {
        // A witness that does not answer is asked again, and that is no news.
        if let Question::Claim { session } = question
            && self.claims_noted.insert(session)
            && !(self.has_failed || self.core.is_offered())
        {
            self.note(if self.core.is_parting(session) { Note::Unprotecting } else { Note::PeerLost });
        }
        self.questions.push_back(question);
    }

    /// Behind what is still to be said, if anything is.
    fn disconnect(&mut self, peer: PeerId) {
        let connection = self.connection(peer);
        let says = |outgoing: &Outgoing| matches!(outgoing, Outgoing::Frames(to, _) if *to == connection);
        let ends = |outgoing: &Outgoing| matches!(outgoing, Outgoing::End(to) if *to == connection);
        if self.outgoing.iter().any(ends) {
            // It was said before.
        } else if self.outgoing.iter().any(says) || self.doing == Some(Doing::Send(connection)) {
            self.outgoing.push_back(Outgoing::End(connection));
        } else {
            self.actions.push_back(Action::Close { connection });
        }
    }

    fn take_want(&mut self, want: DiskWant) {
        // Of a session that is over nobody waits for it any more.
        if let Some(filling) = &mut self.filling {
            filling.handle_want(want);
        }
    }
}
