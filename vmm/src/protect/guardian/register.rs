//! Questions to the witness. They are asked on a separate thread, because the storage may take as long as it likes, and
//! threads that keep time must not wait for it.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use replication::view::{Nonce, Place};
use replication::{ClaimResult, SessionId};
use serde_json::json;

use super::Guardian;
use super::fault;
use crate::machine::End;

/// Between two looks at the register of a VM about which nothing is asked: a witness that is away, or another primary,
/// shows that long after at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the core, or the ship thread, wants to know of the witness.
#[derive(Debug)]
pub(super) enum Question {
    /// Does the backup, which left this there, see the same one?
    Meet { session: SessionId, nonce: Option<Nonce> },
    /// Is the backup listed?
    Enlist { session: SessionId, place: Option<Box<Place>> },
    /// Is the backup, which never was whole, not listed?
    Delist { session: SessionId },
    /// Is the backup, which could take over, out?
    Claim { session: SessionId },
    /// Is the state directory, which takes no more epochs, not listed?
    DelistStore,
    /// Is this still the primary?
    Look,
    /// Is it known that the guest has ended?
    RecordEnd,
}

impl Guardian {
    /// Has a question answered: at once if there is no witness, else by the thread for it.
    pub(super) fn ask(&self, question: Question) {
        if !self.lease.is_witnessed() {
            self.answer(question);
        } else if self.to_witness.send(question).is_err() {
            tracing::debug!("the witness is not asked any more");
        }
    }

    /// The body of the witness thread.
    pub(super) fn run_witness(&self, questions: &Receiver<Question>) {
        let mut was_away = false;
        let mut looked = Instant::now();
        while !self.is_finished() {
            match questions.recv_timeout(Duration::from_millis(100)) {
                Ok(question) => self.answer(question),
                Err(RecvTimeoutError::Timeout) if looked.elapsed() < LOOK_EVERY => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.look_by_itself();
                    looked = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.note_witness(&mut was_away);
        }
    }

    fn look_by_itself(&self) {
        if let ClaimResult::Denied { holder } = self.lease.look()
            && self.machine.ended().is_none()
        {
            self.with_core(|core| core.handle_deposed(&holder));
        }
    }

    fn note_witness(&self, was_away: &mut bool) {
        let is_away = self.lease.away_since().is_some();
        if is_away != std::mem::replace(was_away, is_away) {
            let event = if is_away { "witness-away" } else { "witness-back" };
            self.note(event, json!({ "witness": self.lease.witness().to_string() }));
        }
    }

    fn answer(&self, question: Question) {
        match question {
            Question::Meet { session, nonce } => {
                let meeting = self.lease.meet(nonce);
                let now = self.clock.now();
                self.with_core(|core| core.handle_met(now, session, meeting));
            }
            Question::Enlist { session, place } => {
                let result = self.lease.enlist(session, place.map(|place| *place));
                let now = self.clock.now();
                self.with_core(|core| core.handle_enlisted(now, session, result));
            }
            Question::Delist { session } => {
                let result = self.lease.remove(session);
                let now = self.clock.now();
                self.with_core(|core| core.handle_delisted(now, session, result));
            }
            Question::Claim { session } => self.answer_claim(session),
            Question::DelistStore => {
                let result = self.lease.remove_store();
                let now = self.clock.now();
                self.with_core(|core| core.handle_store_delisted(now, result));
            }
            Question::Look => {
                let result = self.lease.look();
                let now = self.clock.now();
                self.with_core(|core| core.handle_looked(now, result));
            }
            Question::RecordEnd => {
                fault::reached(fault::END_UNRECORDED);
                let result = self.lease.end(self.keeps_last_epoch());
                let now = self.clock.now();
                self.with_core(|core| core.handle_end_recorded(now, result));
            }
        }
    }

    fn answer_claim(&self, session: SessionId) {
        if let Some(End::Failed(_)) = self.machine.ended() {
            return;
        }
        let result = self.lease.remove(session);
        if let ClaimResult::Denied { holder } = &result {
            tracing::error!(holder, "the witness gave the guest to the other side");
        }
        let now = self.clock.now();
        self.with_core(|core| core.handle_claim(now, session, result));
    }
}
