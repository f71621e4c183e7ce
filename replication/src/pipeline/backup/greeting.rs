//! Whom a backup lets fill it.

use std::sync::Arc;

use super::steps::{Introduction, LoopStep, Note, Question};
use super::{BackupPipeline, Met};
use crate::id::{SessionId, Time};
use crate::wire::{Hello, RefuseCode};

impl BackupPipeline {
    pub(super) fn greeted(&mut self, now: Time, hello: Arc<Hello>) {
        match self.objection(&hello) {
            Some(text) => self.refuse(now, RefuseCode::Machine, &text),
            None => self.loop_lane.next = Some(LoopStep::Examine(hello)),
        }
    }

    /// Why its machine is not looked at.
    fn objection(&self, hello: &Hello) -> Option<String> {
        if let Some((_, why)) = self.unfit.as_ref().filter(|(machine, _)| *machine == hello.machine) {
            return Some(why.clone());
        }
        // What waits for room is of an earlier session; a new one would wait behind it, with the guest's output.
        let full = self.storage.full()?;
        Some(format!("the backup has no room for {}: make some there", full.display()))
    }

    pub(super) fn examined(&mut self, now: Time, hello: Arc<Hello>, fits: Result<(), String>) {
        let Some(session) = self.core.session_id() else { return };
        if let Err(text) = fits {
            return self.refuse(now, RefuseCode::Machine, &text);
        }
        if !self.witness.is_idle() {
            let text = "the backup's witness has not answered about an earlier primary";
            return self.refuse(now, RefuseCode::Witness, text);
        }
        self.witness.wanted.push_back(Question::Introduce { session, hello });
    }

    /// The witness knows the primary, or does not. One that is gone meanwhile waits for no answer.
    pub(super) fn introduced(
        &mut self,
        now: Time,
        session: SessionId,
        hello: Arc<Hello>,
        introduction: Result<Introduction, (RefuseCode, String)>,
    ) {
        if self.core.session_id() != Some(session) {
            return;
        }
        match (introduction, self.objection(&hello)) {
            (Err((code, text)), _) => self.refuse(now, code, &text),
            (Ok(_), Some(text)) => self.refuse(now, RefuseCode::Machine, &text),
            (Ok(introduction), None) => self.witness.met = Some(Met { session, hello, introduction }),
        }
    }

    /// Memory for the guest of a primary that was met. One that is gone meanwhile needs none.
    pub(super) fn next_memory(&mut self) -> Option<LoopStep> {
        let current = self.core.session_id();
        self.witness.met.take_if(|met| Some(met.session) != current);
        let Met { session, hello, .. } = self.witness.met.as_ref()?;
        Some(LoopStep::MakeMemory { session: *session, hello: Arc::clone(hello) })
    }

    pub(super) fn made_memory(
        &mut self,
        now: Time,
        Met { session, hello, introduction: Introduction { place, nonce } }: Met,
        made: Result<(), String>,
    ) {
        if self.core.session_id() != Some(session) {
            return;
        }
        if let Err(text) = made {
            return self.refuse(now, RefuseCode::Machine, &text);
        }
        self.is_durable = hello.durable;
        self.greeted = Some(hello.machine.clone());
        self.epochs_applied = 0;
        (self.trouble, self.discarded) = (None, None);
        self.core.handle_accept(now, place, nonce);
        self.notes.push_back(Note::ResyncStarted { writer: hello.writer.clone() });
    }

    fn refuse(&mut self, now: Time, code: RefuseCode, text: &str) {
        self.note_trouble(Note::Refused(text.to_owned()));
        self.core.handle_refuse(now, code, text);
    }

    /// What is here of the session is worth nothing. The primary would fill this backup with the same guest again.
    pub(super) fn refuse_base(&mut self, now: Time, session: SessionId, text: &str) {
        let text = format!("the guest cannot run here: {text}; fix that and start this backup again");
        if self.core.session_id() == Some(session) {
            self.unfit = self.greeted.take().map(|machine| (machine, text.clone()));
            self.note_trouble(Note::Refused(text.clone()));
        }
        self.core.handle_base_refused(now, session, &text);
    }

    pub(super) fn differs(&mut self, now: Time, session: SessionId, text: &str) {
        if self.core.session_id() == Some(session) {
            self.refuse(now, RefuseCode::Machine, text);
        }
    }
}
