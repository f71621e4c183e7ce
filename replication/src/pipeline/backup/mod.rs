//! What a backup does with memory, images, log and witness, and what comes before what.
//!
//! ```text
//!            frames, time, wishes                       LoopStep
//!   loop ─────────────────────────▶ BackupPipeline ──────────────────▶ loop: memory, connection
//!                                     │  core        StorageStep
//!                                     │  storage   ──────────────────▶ standby-disk: log, images
//!                                     │              Question
//!                                     └──────────────────────────────▶ standby-witness
//! ```
//!
//! It owns the session core ([`Backup`]) and gives each of its actions to a lane. The lanes are the loop, which feeds it; the
//! storage; the witness; and the upkeep of the images, which nobody waits for. The content of an epoch comes with its steps,
//! since the core assembled it.
//!
//! The invariants, beside those of the core and those of [`storage`]:
//!
//! - The core's actions begin in its order: none while the loop has a step.
//! - An epoch that asks nothing of storage is complete at once while storage has nothing to do, and in its turn else.
//! - Memory has an epoch only when it is complete here and known to be committed; the images get it after that.
//! - The witness is asked one question at a time. A primary that greets while one waits is refused.
//! - A machine whose base could not run here is not filled in again.
//! - While this side does not read, its primary is not lost.
//! - After a failure of storage nothing is done any more, and nothing is answered.
//! - Who leaves gets images and log when all is applied and on the medium, and the log is empty. Where the guest ended, and
//!   what storage waits for has no room, nothing is waited for.
//!
//! The executors' duties:
//!
//! 1. The loop gives frames, and reports connections, only while it has no step. While it does one that lasts, it calls
//!    `handle_working` now and then.
//! 2. After each `handle_*`: send what `poll_transmit` gives, then poll each lane that is free. What is to be sent is sent
//!    before the next step of the loop is done.
//! 3. Every step is answered once. The loop's answer to [`LoopStep::ReadMemory`] is `handle_memory`.

mod greeting;
mod steps;
mod storage;
mod wholeness;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::assembly::AssembledEpoch;
use crate::backup::{Backup, BackupAction, BackupConfig, DiscardReason};
use crate::id::{EpochId, Gfn, SessionId, Time};
use crate::page::Page;
use crate::view::Record;
use crate::wire::{Frame, Hello, MachineInfo, RefuseCode, WireError};
pub use steps::{Answer, Introduction, Leaving, LoopDone, LoopStep, Note, Question, StorageDone, StorageStep};
pub use storage::StorageLimits;
use storage::{Finished, Job, Room, Storage};

/// How a backup's pipeline behaves.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// How its core does.
    pub core: BackupConfig,
    /// What may wait.
    pub storage: StorageLimits,
    /// A filling of the images did not end, as is noted beside them.
    pub is_half_filled: bool,
    /// Images whose epochs are to be durable are synced so often beside all else, so that failing storage is found while the
    /// primary still has the guest.
    pub upkeep: Duration,
}

/// The rules of a backup's host.
#[derive(Debug)]
pub struct BackupPipeline {
    core: Backup,
    storage: Storage,
    loop_lane: LoopLane,
    witness: WitnessLane,
    upkeep: Upkeep,
    /// Epochs of the session are to survive the host.
    is_durable: bool,
    /// The machine of the Hello that was accepted last.
    greeted: Option<MachineInfo>,
    /// A machine whose base could not run here, and why.
    unfit: Option<(MachineInfo, String)>,
    /// What this backup ends with when storage has given images and log back.
    leaving: Option<Leaving>,
    is_handed_over: bool,
    has_left: bool,
    last_heard: Time,
    /// Until then what comes is not read, because others want the processor.
    rests_until: Option<Time>,
    epochs_applied: u64,
    /// Why the last peer was sent away.
    trouble: Option<String>,
    /// Why something was discarded last, since a primary was accepted.
    discarded: Option<DiscardReason>,
    is_stop_told: bool,
    /// What a peer is told whose frames cannot be read.
    refusal: Option<Vec<u8>>,
    notes: VecDeque<Note>,
}

/// What the loop is to do, and does.
#[derive(Debug, Default)]
struct LoopLane {
    next: Option<LoopStep>,
    given: Option<Given>,
}

/// A step that the loop does.
#[derive(Debug)]
enum Given {
    Plain,
    Examine(Arc<Hello>),
    MakeMemory(Met),
    ReadMemory,
    ApplyPages(Arc<AssembledEpoch>),
}

#[derive(Debug, Default)]
struct WitnessLane {
    wanted: VecDeque<Question>,
    asked: Option<Question>,
    /// The primary that may be followed, for whose guest there is no memory yet.
    met: Option<Met>,
}

#[derive(Debug)]
struct Met {
    session: SessionId,
    hello: Arc<Hello>,
    introduction: Introduction,
}

impl WitnessLane {
    fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.asked.is_none()
    }
}

/// When the images are synced beside all else.
#[derive(Debug)]
struct Upkeep {
    period: Duration,
    at: Option<Time>,
    is_given: bool,
}

impl BackupPipeline {
    /// For a backup that waits for a primary. What a crash left in the log was applied to the images.
    pub fn new(config: PipelineConfig) -> Self {
        let PipelineConfig { core, storage, is_half_filled, upkeep } = config;
        Self {
            core: Backup::new(core),
            storage: Storage::new(storage, is_half_filled),
            loop_lane: LoopLane::default(),
            witness: WitnessLane::default(),
            upkeep: Upkeep { period: upkeep, at: None, is_given: false },
            is_durable: false,
            greeted: None,
            unfit: None,
            leaving: None,
            is_handed_over: false,
            has_left: false,
            last_heard: Time(0),
            rests_until: None,
            epochs_applied: 0,
            trouble: None,
            discarded: None,
            is_stop_told: false,
            refusal: None,
            notes: VecDeque::new(),
        }
    }

    /// A connection from somebody stands, and no other one does.
    pub fn handle_connected(&mut self, now: Time) {
        self.core.handle_connected(now);
        self.advance(now);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        self.refusal = None;
        self.core.handle_disconnected(now);
        self.advance(now);
    }

    /// Bytes arrived, even if no whole frame yet.
    pub fn handle_alive(&mut self, now: Time) {
        self.last_heard = now;
        self.core.handle_alive(now);
    }

    /// A frame arrived. The loop has no step.
    pub fn handle_frame(&mut self, now: Time, frame: Frame) {
        assert!(self.loop_lane.is_free(), "frames come while the loop has nothing to do");
        if let Err(error) = self.core.handle_frame(now, frame) {
            self.note_trouble(Note::PeerError(error.to_string()));
        }
        self.advance(now);
    }

    /// The stream of bytes broke. A peer of ours that is at the wrong place is told so; it repeats the reason in its own words.
    pub fn handle_broken_stream(&mut self, now: Time, error: &WireError) {
        let code = match error {
            WireError::WrongVm { .. } => Some(RefuseCode::WrongVm),
            WireError::VersionMismatch { .. } => Some(RefuseCode::Other),
            _ => None,
        };
        self.refusal = code.map(|code| self.core.refusal(code, &error.to_string()));
        self.note_trouble(Note::PeerError(error.to_string()));
        self.core.handle_broken_stream(now);
        self.advance(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.rests_until = self.rests_until.filter(|until| now < *until);
        if !self.wants_bytes(now) {
            // It is this side that does not listen. No takeover is possible while it is filled, so nobody waits for the news
            // that the primary is dead.
            self.core.handle_alive(now);
        }
        self.tick(now);
        self.advance(now);
    }

    /// The loop is at work, at a step or between two. What it works on came from a primary that lived; whether it still does
    /// shows when the work is done.
    pub fn handle_working(&mut self, now: Time) {
        self.core.handle_alive(now);
        self.tick(now);
        self.advance(now);
    }

    fn tick(&mut self, now: Time) {
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
    }

    /// Others want the processor: what comes is not read until then.
    pub fn handle_rest(&mut self, until: Time) {
        self.rests_until = Some(until);
    }

    /// The operator stops the backup. False: it must not stop now.
    pub fn handle_stop(&mut self, now: Time, text: &str) -> bool {
        let stops = self.core.handle_stop(now, text);
        if !stops && !std::mem::replace(&mut self.is_stop_told, true) {
            self.notes.push_back(Note::StopDeferred(self.core.state()));
        }
        stops
    }

    /// The operator wants the kept copy to run, against the newest record. False: there is none, or a primary is here.
    pub fn handle_override(&mut self, now: Time) -> bool {
        let is_done = self.core.handle_override();
        self.advance(now);
        is_done
    }

    /// The loop's step is done.
    pub fn handle_loop_done(&mut self, now: Time, done: LoopDone) {
        match (self.loop_lane.given.take().expect("a step is answered once"), done) {
            (Given::Plain, LoopDone::Done) => {}
            (Given::ApplyPages(epoch), LoopDone::Done) => self.apply_disks(now, epoch),
            (Given::Examine(hello), LoopDone::Examined(fits)) => self.examined(now, hello, fits),
            (Given::MakeMemory(met), LoopDone::MadeMemory(made)) => self.made_memory(now, met, made),
            (given, done) => panic!("{given:?} is not answered by {done:?}"),
        }
        self.advance(now);
    }

    /// The loop's answer to [`LoopStep::ReadMemory`]: `read` gives a page of the memory.
    pub fn handle_memory(&mut self, now: Time, session: SessionId, epoch: EpochId, read: impl FnMut(Gfn, &mut Page)) {
        assert!(
            matches!(self.loop_lane.given.take(), Some(Given::ReadMemory)),
            "memory is read when that is asked for"
        );
        self.core.handle_memory(session, epoch, read);
        self.advance(now);
    }

    /// The storage's step is done, or has no room.
    pub fn handle_storage_done(&mut self, now: Time, done: StorageDone) {
        match self.storage.handle_done(now, done) {
            Some(Room::None(path)) => self.notes.push_back(Note::Full(path)),
            Some(Room::Again(path)) => self.notes.push_back(Note::HasRoom(path)),
            None => {}
        }
        self.advance(now);
    }

    /// The images were synced beside all else, or could not be.
    pub fn handle_upkeep_done(&mut self, now: Time, is_done: bool) {
        assert!(std::mem::take(&mut self.upkeep.is_given), "a step is answered once");
        self.upkeep.at = self.upkeep.at.filter(|_| self.is_durable).map(|_| now.after(self.upkeep.period));
        match is_done {
            true => self.storage.handle_upkeep_done(),
            false => self.storage.fail(),
        }
        self.advance(now);
    }

    /// The witness said something about the question, or did not.
    pub fn handle_answer(&mut self, now: Time, answer: Answer) {
        match (self.witness.asked.take().expect("a question is answered once"), answer) {
            (Question::Introduce { session, hello }, Answer::Introduced(introduction)) => {
                self.introduced(now, session, hello, introduction);
            }
            (Question::Forswear { session, .. }, Answer::Forsworn(forsworn)) => {
                self.core.handle_forsworn(now, session, forsworn);
            }
            (Question::TakeOver { session, .. } | Question::Override { session, .. }, Answer::Claimed(result)) => {
                self.core.handle_claim(now, session, result);
            }
            (question, answer) => panic!("{question:?} is not answered by {answer:?}"),
        }
        self.advance(now);
    }

    /// The newest record, as it was read after a claim that was lost, and at each look.
    pub fn handle_newest(&mut self, now: Time, newest: &Record) {
        self.core.handle_newest(now, newest);
    }

    /// What the loop does next.
    pub fn poll_loop_step(&mut self) -> Option<LoopStep> {
        if self.loop_lane.given.is_some() {
            return None;
        }
        let step = self.loop_lane.next.take()?;
        self.loop_lane.given = Some(match &step {
            LoopStep::Examine(hello) => Given::Examine(Arc::clone(hello)),
            LoopStep::MakeMemory { .. } => {
                Given::MakeMemory(self.witness.met.take().expect("memory is made for somebody who was met"))
            }
            LoopStep::ReadMemory { .. } => Given::ReadMemory,
            LoopStep::ApplyPages(epoch) => Given::ApplyPages(Arc::clone(epoch)),
            LoopStep::ApplyBatch(_) | LoopStep::Forget { .. } | LoopStep::Disconnect | LoopStep::Leave(_) => {
                Given::Plain
            }
        });
        Some(step)
    }

    /// What storage does next.
    pub fn poll_storage_step(&mut self, now: Time) -> Option<StorageStep> {
        self.storage.poll_step(now)
    }

    /// What the witness is asked next.
    pub fn poll_question(&mut self) -> Option<Question> {
        if self.witness.asked.is_some() || self.storage.has_failed() {
            return None;
        }
        self.witness.asked = self.witness.wanted.pop_front();
        self.witness.asked.clone()
    }

    /// Whether the images are to be synced beside all else now.
    pub fn poll_upkeep(&mut self, now: Time) -> bool {
        let is_due = self.upkeep_at().is_some_and(|at| at <= now);
        if is_due {
            self.upkeep.is_given = true;
            self.storage.begin_upkeep();
        }
        is_due
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.refusal.take().or_else(|| self.core.poll_transmit())
    }

    /// The next word for the operator.
    pub fn poll_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// When `handle_timeout` wants to be called, and the lanes polled.
    pub fn poll_timeout(&self) -> Option<Time> {
        let times = [self.core.poll_timeout(), self.storage.retry_at(), self.rests_until, self.upkeep_at()];
        times.into_iter().flatten().min()
    }

    fn upkeep_at(&self) -> Option<Time> {
        self.upkeep.at.filter(|_| !self.upkeep.is_given && !self.storage.has_failed())
    }

    /// Whether what comes is to be read now.
    pub fn wants_bytes(&self, now: Time) -> bool {
        self.storage.takes_more() && self.rests_until.is_none_or(|until| until <= now)
    }

    /// Bytes for a connection that is not taken: no, and why.
    pub fn refusal(&self, code: RefuseCode, text: &str) -> Vec<u8> {
        self.core.refusal(code, text)
    }

    /// The session core, to be looked at.
    pub fn core(&self) -> &Backup {
        &self.core
    }

    /// What has no room, if a step waits for some.
    pub fn full(&self) -> Option<&PathBuf> {
        self.storage.full()
    }

    /// Epochs applied since a primary was accepted.
    pub fn epochs_applied(&self) -> u64 {
        self.epochs_applied
    }

    /// One word for each new reason, not one for each attempt.
    fn note_trouble(&mut self, note: Note) {
        let (Note::PeerError(reason) | Note::Refused(reason)) = &note else { unreachable!("what a peer did wrong") };
        if self.trouble.as_ref() != Some(reason) {
            self.trouble = Some(reason.clone());
            self.notes.push_back(note);
        }
    }

    /// Goes on as far as that takes no step.
    fn advance(&mut self, now: Time) {
        loop {
            self.storage.handle_committed(self.core.pointers().committed());
            if let Some(finished) = self.storage.poll_finished() {
                self.finish(now, finished);
                continue;
            }
            if self.storage.wants_upkeep() {
                self.upkeep.at.get_or_insert(now);
            }
            if !self.loop_lane.is_free() || self.has_left {
                return;
            }
            if let Some(leaving) = self.next_leaving() {
                self.has_left = true;
                return self.loop_lane.next = Some(LoopStep::Leave(leaving));
            }
            if let Some(step) = self.next_memory() {
                return self.loop_lane.next = Some(step);
            }
            match self.core.poll_action() {
                Some(action) => self.take_action(now, action),
                None => return,
            }
        }
    }

    /// What this backup ends with now. What waits for room is void where the guest ended before it was whole here.
    fn next_leaving(&mut self) -> Option<Leaving> {
        if self.storage.has_failed() {
            return Some(Leaving::Failed);
        }
        let (is_over, is_full) = (self.is_handed_over, self.storage.full().is_some());
        self.leaving.take_if(|leaving| is_over || (is_full && matches!(leaving, Leaving::Ended(_))))
    }

    fn take_action(&mut self, now: Time, action: BackupAction) {
        match action {
            BackupAction::Greeted(hello) => self.greeted(now, Arc::from(hello)),
            BackupAction::ResyncPages(batch) => self.loop_lane.next = Some(LoopStep::ApplyBatch(batch)),
            BackupAction::ResyncDisk(chunk) => {
                self.storage.push(Job::WriteChunk { chunk: Arc::new(chunk), durable: self.is_durable });
            }
            BackupAction::DiskOffered(offer) => {
                // Of a session that is gone already nobody waits for the answer.
                if let Some(session) = self.core.session_id() {
                    self.storage.push(Job::Compare { session, offer: Arc::new(offer) });
                }
            }
            BackupAction::ReadMemory { session, epoch } => {
                self.loop_lane.next = Some(LoopStep::ReadMemory { session, epoch });
            }
            BackupAction::Persist(epoch) => self.persist(now, epoch),
            BackupAction::Apply(epoch) if epoch.pages.is_empty() => self.apply_disks(now, epoch),
            BackupAction::Apply(epoch) => self.loop_lane.next = Some(LoopStep::ApplyPages(epoch)),
            BackupAction::Claim { session, fork } => {
                let silence = now.since(self.last_heard);
                self.notes.push_back(Note::FailoverStarted { silence });
                self.witness.wanted.push_back(Question::TakeOver { session, fork });
            }
            BackupAction::Override { session, fork } => {
                self.witness.wanted.push_back(Question::Override { session, fork });
            }
            BackupAction::Forswear { session, forswear } => {
                self.witness.wanted.push_back(Question::Forswear { session, forswear });
            }
            BackupAction::Keep { epoch, holder } => self.storage.push(Job::Keep { epoch, holder }),
            BackupAction::Offered => self.notes.push_back(Note::Offered),
            BackupAction::TakeOver(over) => {
                self.begin_to_leave(Leaving::TakeOver { over, durable: self.is_durable });
            }
            BackupAction::Discard { session, reason } => self.discard(session, reason),
            BackupAction::Ended { text } => self.begin_to_leave(Leaving::Ended(text)),
            BackupAction::Disconnect => self.loop_lane.next = Some(LoopStep::Disconnect),
        }
    }

    /// An epoch that is not logged asks nothing of storage before its ack: while that has nothing to do, it is complete as it
    /// is. A base waits for what was filled in before it.
    fn persist(&mut self, now: Time, epoch: Arc<AssembledEpoch>) {
        let is_logged = self.is_durable && !epoch.disk_writes.is_empty();
        if epoch.base {
            self.upkeep.at = self.is_durable.then(|| self.upkeep.at.unwrap_or(now.after(self.upkeep.period)));
        }
        if self.storage.is_idle() && !epoch.base && !is_logged {
            self.storage.handle_unlogged(&epoch);
            return self.core.handle_durable(now, epoch.session, epoch.mark.count);
        }
        self.storage.push(Job::Persist { epoch, durable: self.is_durable });
    }

    fn apply_disks(&mut self, now: Time, epoch: Arc<AssembledEpoch>) {
        if self.storage.is_idle() && epoch.disk_writes.is_empty() {
            return self.applied(now, &epoch);
        }
        self.storage.push(Job::Apply(epoch));
    }

    fn applied(&mut self, now: Time, epoch: &AssembledEpoch) {
        self.epochs_applied += 1;
        if epoch.base {
            self.notes.push_back(Note::Protected(epoch.mark));
        }
        self.core.handle_applied(now, epoch.session, epoch.mark.count);
    }

    fn finish(&mut self, now: Time, finished: Finished) {
        match finished {
            Finished::Compared { session, want } => {
                if self.core.session_id() == Some(session) {
                    self.core.handle_disk_compared(now, want);
                }
            }
            Finished::Differs { session, text } => self.differs(now, session, &text),
            Finished::Durable(epoch) => self.core.handle_durable(now, epoch.session, epoch.mark.count),
            Finished::Unfit { session, text } => self.refuse_base(now, session, &text),
            Finished::Applied(epoch) => self.applied(now, &epoch),
            Finished::Kept { epoch, holder } => self.notes.push_back(Note::Kept { epoch, holder }),
            Finished::HandedOver => self.is_handed_over = true,
        }
    }

    fn discard(&mut self, session: Option<SessionId>, reason: DiscardReason) {
        self.storage.push(Job::Discard);
        self.loop_lane.next = Some(LoopStep::Forget { void: session, is_memory_kept: self.core.needs_memory() });
        // A primary that is refused comes again twice a second, and had nothing here that could be discarded.
        if self.discarded.as_ref() != Some(&reason) {
            self.discarded = Some(reason.clone());
            self.notes.push_back(Note::Discarded(reason));
        }
    }

    /// From a takeover on the guest writes to the images directly: a record that stayed in the log would be put over that.
    /// And an image that another program changes after the guest's end must not get old writes at the next start.
    fn begin_to_leave(&mut self, leaving: Leaving) {
        self.leaving = Some(leaving);
        self.storage.push(Job::HandOver);
    }
}

impl LoopLane {
    fn is_free(&self) -> bool {
        self.next.is_none() && self.given.is_none()
    }
}

#[cfg(test)]
mod tests;
