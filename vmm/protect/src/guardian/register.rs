//! Questions to the witness. They are asked on a separate thread, because the storage may take as long as it likes, and
//! threads that keep time must not wait for it.

use std::time::{Duration, Instant};

use outlast_api::Occurrence;
use replication::ClaimResult;
use replication::pipeline::primary::Question;

use super::Guardian;
use crate::fault;
use machine::End;

/// Between two looks at the register of a VM about which nothing is asked: a witness that is away, or another primary,
/// shows that long after at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Guardian {
    /// Has the questions answered: at once if there is no witness, else by the thread for it.
    pub(super) fn ask(&self) {
        if self.registrant.is_witnessed() {
            return self.questions.notify_one();
        }
        while let Some(question) = self.next_question() {
            self.answer(question);
        }
    }

    /// The next question, as things are now.
    fn next_question(&self) -> Option<Question> {
        let has_failed = matches!(self.machine.ended(), Some(End::Failed(_)));
        let pipeline = &mut self.lock().pipeline;
        if has_failed {
            pipeline.handle_machine_ended(true);
        }
        pipeline.poll_question()
    }

    /// The body of the witness thread.
    pub(super) fn run_witness(&self) {
        let mut was_away = false;
        let mut looked = Instant::now();
        while !self.is_finished() {
            if let Some(question) = self.next_question() {
                self.answer(question);
            } else if looked.elapsed() >= LOOK_EVERY {
                self.look_by_itself();
                looked = Instant::now();
            } else {
                self.wait_for_question(looked + LOOK_EVERY);
            }
            self.note_witness(&mut was_away);
        }
    }

    /// Until there is one, somebody else heard of the witness, or it is time to look.
    fn wait_for_question(&self, until: Instant) {
        let inner = self.lock();
        if !inner.pipeline.has_questions() && !self.is_finished() {
            let left = until.saturating_duration_since(Instant::now());
            drop(self.questions.wait_timeout(inner, left).expect("no holder of the pipeline panics"));
        }
    }

    /// The witness was asked, or its answer was missed, by another thread than this.
    pub(super) fn heard_of_witness(&self) {
        self.questions.notify_one();
    }

    fn look_by_itself(&self) {
        let result = self.registrant.look();
        self.note_settlement();
        self.with_core(|core, _| core.handle_unasked_look(result));
        // The witness that was left may have been away.
        self.registrant.depart_aside();
    }

    fn note_witness(&self, was_away: &mut bool) {
        let is_away = self.registrant.away_since().is_some();
        if is_away != std::mem::replace(was_away, is_away) {
            self.note(Occurrence::of_witness(&self.registrant.witness().to_string(), is_away));
        }
    }

    /// What any question showed of an exchange: before its answer counts.
    pub(super) fn note_settlement(&self) {
        if let Some(settlement) = self.registrant.take_settlement() {
            self.with_core(|core, _| core.handle_exchange_settled(settlement));
        }
    }

    fn answer(&self, question: Question) {
        self.perform_question(question);
        self.note_settlement();
    }

    fn perform_question(&self, question: Question) {
        match question {
            Question::Meet { session, nonce } => {
                let meeting = self.registrant.meet(nonce);
                self.with_core(|core, now| core.handle_met(now, session, meeting));
            }
            Question::Enlist { session, place, beside } => {
                let result = self.registrant.enlist(session, place.map(|place| *place), &beside);
                self.with_core(|core, now| core.handle_enlisted(now, session, result));
            }
            Question::Delist { session } => {
                let result = self.registrant.remove(session);
                self.with_core(|core, now| core.handle_delisted(now, session, result));
            }
            Question::Claim { session } => {
                let result = self.registrant.remove(session);
                if let ClaimResult::Denied { holder } = &result {
                    tracing::error!(holder, "the witness gave the guest to the other side");
                }
                self.with_core(|core, now| core.handle_claim(now, session, result));
            }
            Question::DelistStore => {
                let result = self.registrant.remove_store();
                self.with_core(|core, now| core.handle_store_delisted(now, result));
            }
            Question::Look => {
                let result = self.registrant.look();
                self.with_core(|core, now| core.handle_looked(now, result));
            }
            ref question @ Question::Move { heir, ref nonces } => {
                fault::reached(fault::MOVE_UNASKED);
                let result = self.registrant.move_to(heir, nonces);
                self.note_settlement();
                self.with_core(|core, now| core.handle_move_answered(now, question, result));
            }
            ref question @ Question::CallOff { heir } => {
                let result = self.registrant.call_off(heir);
                self.note_settlement();
                self.with_core(|core, now| core.handle_move_answered(now, question, result));
            }
            Question::RecordEnd => {
                fault::reached(fault::END_UNRECORDED);
                let keeps_last = self.lock().pipeline.keeps_last();
                let result = self.registrant.end(keeps_last);
                self.with_core(|core, now| core.handle_end_recorded(now, result));
            }
        }
    }
}
