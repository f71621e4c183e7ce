//! The steps of the pipeline, performed: by the loop itself, by the thread that has the disks, by one that asks the witness.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use outlast_api::Occurrence;
use replication::pipeline::backup::{
    Answer, Introduction, Leaving, LoopDone, LoopStep, Note, Question, StorageDone, StorageStep,
};
use replication::wire::{Hello, RefuseCode};
use replication::{AssembledEpoch, ClaimResult, EpochId, PageBatch, SessionId};

use super::fitness::{check_cpu, check_machine, make_memory};
use super::storage::{Done, Order, Rehearsal};
use super::{Outcome, Standby, Successor};
use crate::error::ProtectError;
use crate::registrant::Registrant;
use machine::memory::{PAGE_SIZE, Ram};
use machine::spawn;

impl Standby {
    /// Does what there is to do, in its order.
    pub(super) fn act(&mut self) -> Result<Option<Outcome>, ProtectError> {
        loop {
            self.transmit();
            self.give();
            match self.pipeline.poll_loop_step() {
                Some(LoopStep::Leave(leaving)) => {
                    self.tell();
                    return self.leave(leaving).map(Some);
                }
                Some(step) => self.perform(step),
                None => {
                    self.tell();
                    return Ok(None);
                }
            }
        }
    }

    /// Gives the lanes that are free their next steps.
    fn give(&mut self) {
        let now = self.clock.now();
        if let Some(step) = self.pipeline.poll_storage_step(now) {
            let is_rehearsal = matches!(step, StorageStep::Rehearse(_));
            let rehearsal = self.rehearsal.as_ref().filter(|_| is_rehearsal).cloned();
            self.storage.order(Order { step, rehearsal });
        }
        if let Some(question) = self.pipeline.poll_question() {
            self.ask(question);
        }
        if self.pipeline.poll_upkeep(now) {
            self.storage.sync_beside();
        }
    }

    pub(super) fn transmit(&mut self) {
        while let Some(frames) = self.pipeline.poll_transmit() {
            let Some(connection) = &mut self.connection else { continue };
            if !connection.write(&frames) {
                self.disconnected();
            }
        }
    }

    /// Keeps time while the loop is at work: the primary hears of this side.
    pub(super) fn keep_time(&mut self) {
        self.pipeline.handle_working(self.clock.now());
        self.transmit();
        self.give();
    }

    fn perform(&mut self, step: LoopStep) {
        let done = match step {
            LoopStep::Examine(hello) => {
                let fits = check_machine(&hello, self.config.nets, self.storage.disks());
                LoopDone::Examined(fits.map_err(|misfit| (self.config.words)(&misfit.into())))
            }
            LoopStep::MakeMemory { session, hello } => LoopDone::MadeMemory(self.make_memory(session, &hello)),
            LoopStep::ApplyBatch(batch) => self.apply_pages(&batch),
            LoopStep::ReadMemory { session, epoch } => return self.read_memory(session, epoch),
            LoopStep::ApplyPages(epoch) => self.apply_epoch(&epoch),
            LoopStep::Forget { void, is_memory_kept } => self.forget(void, is_memory_kept),
            LoopStep::Disconnect => {
                self.connection.take().into_iter().for_each(super::Connection::close);
                LoopDone::Done
            }
            LoopStep::Leave(_) => unreachable!("the caller took it"),
        };
        self.pipeline.handle_loop_done(self.clock.now(), done);
    }

    fn make_memory(&mut self, session: SessionId, hello: &Hello) -> Result<(), String> {
        let (ram, machine) = make_memory(hello)?;
        self.vigil.handle_joined(session, hello.register.as_ref());
        self.rehearsal = Some(Rehearsal { ram, machine });
        Ok(())
    }

    fn ram(&self) -> &Ram {
        &self.rehearsal.as_ref().expect("pages come only after a session was accepted").ram
    }

    fn apply_epoch(&mut self, epoch: &AssembledEpoch) -> LoopDone {
        for (index, batch) in epoch.pages.iter().enumerate() {
            if index > 0 {
                // A large one: no lane waits for the end of it.
                self.take_messages();
            }
            self.apply_pages(batch);
            self.keep_time();
        }
        LoopDone::Done
    }

    fn apply_pages(&self, batch: &PageBatch) -> LoopDone {
        let ram = self.ram();
        let mut page = [0; PAGE_SIZE];
        for update in batch.pages() {
            assert!(ram.read_page(update.gfn.0, &mut page), "the core checked that every page is guest memory");
            update.apply_to(&mut page);
            ram.write_page(update.gfn.0, &page);
        }
        LoopDone::Done
    }

    fn read_memory(&mut self, session: SessionId, epoch: EpochId) {
        let ram = &self.rehearsal.as_ref().expect("an epoch comes only after a session was accepted").ram;
        self.pipeline.handle_memory(self.clock.now(), session, epoch, |gfn, page| {
            assert!(ram.read_page(gfn.0, page), "the core checked that every page is guest memory");
        });
    }

    fn forget(&mut self, void: Option<SessionId>, is_memory_kept: bool) -> LoopDone {
        if let Some(session) = void {
            self.vigil.handle_void(session);
        }
        if !is_memory_kept {
            self.rehearsal = None;
        }
        LoopDone::Done
    }

    /// A witness that is slow to answer must not keep heartbeats waiting: who asks it has a thread.
    fn ask(&mut self, question: Question) {
        let failover = match &question {
            Question::Introduce { .. } | Question::Forswear { .. } => None,
            Question::TakeOver { .. } => {
                self.lost_at = Instant::now();
                None
            }
            Question::Override { .. } => {
                self.lost_at = Instant::now();
                let failover = self.view.take_failover();
                if let Some(failover) = &failover {
                    self.events.note(Occurrence::FailoverStarted {
                        silence_ms: None,
                        named_dead: Some(failover.named.dead.clone()),
                    });
                }
                failover
            }
        };
        let (registrant, done) = (Arc::clone(&self.registrant), self.done.postbox());
        spawn("standby-witness".into(), move || {
            done.post(Done::Answered(match question {
                Question::Introduce { hello, .. } => Answer::Introduced(introduce(&registrant, &hello)),
                Question::TakeOver { session, fork } => {
                    Answer::Claimed(registrant.take_over(session, fork, BTreeSet::new(), None))
                }
                Question::Forswear { session, forswear } => Answer::Forsworn(registrant.forswear(session, &forswear)),
                // Who wanted it may have given up.
                Question::Override { session, fork } => Answer::Claimed(
                    failover.map_or(ClaimResult::Unreachable, |failover| failover.perform(&registrant, session, fork)),
                ),
            }));
        });
    }

    /// Tells the pipeline what the other lanes have done.
    pub(super) fn take_messages(&mut self) {
        while let Some(done) = self.done.take() {
            let now = self.clock.now();
            match done {
                Done::Storage(done) => self.pipeline.handle_storage_done(now, done),
                Done::HandedOver { disks, log } => {
                    self.given_back = Some((disks, log));
                    self.pipeline.handle_storage_done(now, StorageDone::Done);
                }
                Done::Failed(failure) => {
                    self.failure = Some(failure);
                    self.pipeline.handle_storage_done(now, StorageDone::Failed);
                }
                Done::Upkeep(synced) => {
                    let is_done = synced.is_ok();
                    self.failure = synced.err().or_else(|| self.failure.take());
                    self.pipeline.handle_upkeep_done(now, is_done);
                }
                Done::Answered(answer) => self.pipeline.handle_answer(now, answer),
            }
        }
    }

    fn leave(&mut self, leaving: Leaving) -> Result<Outcome, ProtectError> {
        match leaving {
            Leaving::Ended(text) => Ok(Outcome::Ended(text)),
            Leaving::Failed => Err(self.failure.take().expect("a failure of storage comes with its reason")),
            Leaving::TakeOver { over, durable } => {
                if over.handover.is_some() {
                    self.view.begin_inheritance();
                }
                let (disks, log) = self.given_back.take().expect("they were given back before");
                let ram = self.rehearsal.take().expect("a session that can be taken over has its memory").ram;
                let (takeover, log, lost_at) = (*over, *log, self.lost_at);
                let predecessor = self.predecessor_of(&takeover);
                Ok(Outcome::TookOver(Box::new(Successor { takeover, ram, disks, log, predecessor, durable, lost_at })))
            }
        }
    }

    /// Passes on what an operator should hear.
    pub(super) fn tell(&mut self) {
        while let Some(note) = self.pipeline.poll_note() {
            self.events.note(match note {
                Note::PeerError(reason) => {
                    warn_sent_away(&reason);
                    Occurrence::PeerError { target: None, error: None, reason: Some(reason) }
                }
                Note::Refused(reason) => {
                    warn_sent_away(&reason);
                    Occurrence::Refused { reason }
                }
                Note::ResyncStarted { writer } => Occurrence::ResyncStarted { term: None, primary: Some(writer) },
                Note::Protected(epoch) => {
                    self.vigil.handle_whole();
                    Occurrence::Protected { epoch: Some(epoch.count.0), epoch_id: Some(epoch.name().to_string()) }
                }
                Note::Full(path) => {
                    tracing::warn!("{}", no_room(&path));
                    Occurrence::DiskFull { path: path.display().to_string() }
                }
                Note::HasRoom(path) => Occurrence::DiskHasRoom { path: path.display().to_string() },
                // What was followed stays as it is, until a primary fills this backup anew.
                Note::Kept { epoch, holder } => {
                    let name = epoch.name();
                    tracing::warn!(epoch = %name, holder, "another side has the guest; the copy here is kept");
                    Occurrence::Kept { epoch: epoch.count.0, epoch_id: name.to_string(), holder }
                }
                Note::Offered => {
                    self.lost_at = Instant::now();
                    Occurrence::SwitchoverStarted {}
                }
                Note::FailoverStarted { silence } => {
                    Occurrence::FailoverStarted { silence_ms: Some(silence.as_millis() as u64), named_dead: None }
                }
                Note::Discarded(reason) => Occurrence::Discarded { reason: format!("{reason:?}") },
                Note::StopDeferred(state) => {
                    tracing::warn!(
                        "this backup is taking the guest over and does not stop now: it stops if another side has the \
                         guest; if the guest runs here, stop it again"
                    );
                    Occurrence::StopDeferred { state: format!("{state:?}") }
                }
            });
        }
    }
}

fn warn_sent_away(reason: &str) {
    tracing::warn!(reason, "a peer was sent away");
}

/// For an operator: what waits, and for what.
pub(super) fn no_room(path: &Path) -> String {
    format!("there is no room for {}: nothing is acknowledged until there is some", path.display())
}

/// Here, where nobody keeps time: KVM makes a virtual processor for it.
fn introduce(registrant: &Registrant, hello: &Hello) -> Result<Introduction, (RefuseCode, String)> {
    check_cpu(&hello.machine).map_err(|text| (RefuseCode::Machine, text))?;
    registrant.introduce(hello.register.as_ref())
}
