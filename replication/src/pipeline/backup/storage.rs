//! What a backup does with images and log, and what comes before what.
//!
//! ```text
//!   chunks ─▶ images      epoch ─▶ log, synced ─▶ complete ─▶ images ─▶ synced ─▶ out of the log
//! ```
//!
//! - An epoch is in the log before any image has a byte of it.
//! - The images get an epoch only when it is known to be committed: what is above stays apart in the log, and a log without
//!   room for it waits.
//! - The log is emptied only when the images have all that is in it, and are synced; or when nothing in it counts.
//! - What is noted beside the images while a filling overwrites them stays as long as it is true ([`super::wholeness`]).
//! - A base is complete only when the chunks that were filled in before it are on their medium.
//! - What was not durable is not logged. It goes to the images when it is applied, and is synced when it is kept or handed over.
//! - What there is no room for is done again later, and what comes after it waits.
//!   A sync that finds none has failed: what the host had in memory may be gone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::steps::{StorageDone, StorageStep};
use super::wholeness::Wholeness;
use crate::assembly::AssembledEpoch;
use crate::id::{EpochId, SessionId, Time};
use crate::lineage::EpochMark;
use crate::wire::{DiskOffer, DiskWant, ResyncDisk};

/// How much may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub struct StorageLimits {
    /// Before a step that found no room is tried again.
    pub room_retry: Duration,
    /// Filled chunks are synced whenever so many bytes came: the base, which the primary's guest waits for, syncs the rest.
    pub unsynced_bytes_max: usize,
    /// Filled bytes that wait for storage at most; beyond that the primary is not read.
    pub filling_bytes_max: usize,
}

/// What is to be done, in this order. Each takes the steps that it needs.
#[derive(Debug)]
pub(super) enum Job {
    Compare { session: SessionId, offer: Arc<DiskOffer> },
    WriteChunk { chunk: Arc<ResyncDisk>, durable: bool },
    Persist { epoch: Arc<AssembledEpoch>, durable: bool },
    Apply(Arc<AssembledEpoch>),
    Discard,
    Keep { epoch: EpochMark, holder: String },
    HandOver,
}

/// A job that is done, or what came of it.
#[derive(Debug)]
pub(super) enum Finished {
    Compared { session: SessionId, want: DiskWant },
    Differs { session: SessionId, text: String },
    Durable(Arc<AssembledEpoch>),
    Unfit { session: SessionId, text: String },
    Applied(Arc<AssembledEpoch>),
    Kept { epoch: EpochMark, holder: String },
    HandedOver,
}

/// A word for the operator.
#[derive(Debug)]
pub(super) enum Room {
    None(PathBuf),
    Again(PathBuf),
}

/// Which steps of the first job were done.
#[derive(Debug, Default)]
struct Progress {
    is_rehearsed: bool,
    is_written: bool,
    is_appended: bool,
    /// The log has no room for its record.
    is_log_full: bool,
    is_truncated: bool,
    is_handed_over: bool,
    /// Its session is over.
    is_void: bool,
    /// It is over before its steps are.
    answer: Option<StorageDone>,
}

/// What the first job needs.
#[derive(Debug)]
enum Next {
    Step(StorageStep),
    /// Until more is known to be committed.
    Wait,
    Finished,
}

/// A step that is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Compare,
    BeginFilling,
    EndFilling,
    WriteChunk,
    Rehearse,
    Append,
    Apply,
    SyncImages,
    TruncateLog,
    HandOver,
}

/// The rules.
#[derive(Debug)]
pub(super) struct Storage {
    limits: StorageLimits,
    jobs: VecDeque<Job>,
    /// Of the first job.
    progress: Progress,
    given: Option<Given>,
    /// Complete epochs whose disk writes the images do not have, in order. Durable ones are in the log.
    pending: VecDeque<Arc<AssembledEpoch>>,
    /// The images were not written since they were synced.
    is_synced: bool,
    wholeness: Wholeness,
    /// The sync beside all else began when they had the base of their filling.
    is_base_in_upkeep: bool,
    is_log_half_full: bool,
    /// Filled in since the images were synced, and to be durable with the base.
    unsynced_bytes: usize,
    filling_bytes: usize,
    /// What has no room, while a step waits for some.
    full: Option<PathBuf>,
    retry_at: Option<Time>,
    has_failed: bool,
    /// Known to be committed: the images get no epoch above.
    committed: EpochId,
}

impl Storage {
    /// Over images that have all that a crash left in their log, which is empty. `is_half_filled`: a filling of them did not end.
    pub(super) fn new(limits: StorageLimits, is_half_filled: bool) -> Self {
        Self {
            limits,
            jobs: VecDeque::new(),
            progress: Progress::default(),
            given: None,
            pending: VecDeque::new(),
            is_synced: false,
            wholeness: Wholeness::found(is_half_filled),
            is_base_in_upkeep: false,
            is_log_half_full: false,
            unsynced_bytes: 0,
            filling_bytes: 0,
            full: None,
            retry_at: None,
            has_failed: false,
            committed: EpochId(0),
        }
    }

    /// Puts a job behind the others.
    pub(super) fn push(&mut self, job: Job) {
        if matches!(job, Job::Discard) {
            self.drop_void();
            if matches!(self.jobs.back(), Some(Job::Discard)) {
                // A primary that is refused comes again and again.
                return;
            }
        }
        if let Job::WriteChunk { chunk, .. } = &job {
            self.filling_bytes += chunk.data.len();
        }
        self.jobs.push_back(job);
    }

    /// The session is over: what it brought is not begun any more, and what was begun ends with its step. A step that waits for
    /// room is waited for, so that the next primary is told.
    fn drop_void(&mut self) {
        let waits = self.retry_at.is_some();
        let has_begun = waits || self.given.is_some() || self.progress.has_begun();
        self.progress.is_void |= has_begun && !waits && self.jobs.front().is_some_and(Job::is_of_session);
        let mut at = usize::from(has_begun);
        while at < self.jobs.len() {
            match self.jobs[at].is_of_session().then(|| self.jobs.remove(at)).flatten() {
                Some(Job::WriteChunk { chunk, .. }) => self.filling_bytes -= chunk.data.len(),
                Some(_) => {}
                None => at += 1,
            }
        }
    }

    /// Nothing is to be done: what needs no storage comes in its order without a step.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// An epoch is complete that is not logged.
    pub(super) fn handle_unlogged(&mut self, epoch: &Arc<AssembledEpoch>) {
        if !epoch.disk_writes.is_empty() {
            self.pending.push_back(Arc::clone(epoch));
        }
    }

    /// More of what fills the images may come.
    pub(super) fn takes_more(&self) -> bool {
        self.filling_bytes < self.limits.filling_bytes_max
    }

    /// What has no room, if a step waits for some.
    pub(super) fn full(&self) -> Option<&PathBuf> {
        self.full.as_ref()
    }

    /// When a step is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Time> {
        self.retry_at.filter(|_| !self.has_failed)
    }

    /// A step failed: none comes any more.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Nothing is asked of it any more.
    pub(super) fn fail(&mut self) {
        self.has_failed = true;
    }

    /// Every epoch up to `upto` is known to be committed.
    pub(super) fn handle_committed(&mut self, upto: EpochId) {
        self.committed = upto;
    }

    /// Whether the end of a filling waits for a sync that nothing else needs.
    pub(super) fn wants_upkeep(&self) -> bool {
        self.wholeness == Wholeness::Unsynced
    }

    /// The images are synced beside all else from now on.
    pub(super) fn begin_upkeep(&mut self) {
        self.is_base_in_upkeep = self.wants_upkeep();
    }

    /// They were.
    pub(super) fn handle_upkeep_done(&mut self) {
        if std::mem::take(&mut self.is_base_in_upkeep) {
            self.wholeness.handle_synced();
        }
    }

    /// The next step, if the last one is answered.
    pub(super) fn poll_step(&mut self, now: Time) -> Option<StorageStep> {
        if self.has_failed || self.given.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let Next::Step(step) = self.next_step() else { return None };
        let given = Given::of(&step);
        // Also of a write that fails half-way.
        self.is_synced &= !matches!(given, Given::WriteChunk | Given::Apply);
        if given == Given::WriteChunk {
            self.wholeness.handle_chunk();
            self.is_base_in_upkeep = false;
        }
        (self.given, self.retry_at) = (Some(given), None);
        Some(step)
    }

    /// How the step went; a word for the operator.
    pub(super) fn handle_done(&mut self, now: Time, done: StorageDone) -> Option<Room> {
        let given = self.given.take().expect("a step is answered once");
        match done {
            StorageDone::NoRoom(path) if given != Given::SyncImages => {
                self.retry_at = Some(now.after(self.limits.room_retry));
                return self.full.is_none().then(|| Room::None(self.full.insert(path).clone()));
            }
            StorageDone::NoRoom(_) | StorageDone::Failed => {
                self.fail();
                return None;
            }
            done => self.note_done(given, done),
        }
        self.full.take().map(Room::Again)
    }

    fn note_done(&mut self, given: Given, done: StorageDone) {
        match given {
            Given::Compare => self.progress.answer = Some(done),
            Given::BeginFilling => self.wholeness = Wholeness::Filling,
            Given::EndFilling => self.wholeness.handle_ended(),
            Given::WriteChunk => self.note_chunk(),
            Given::Rehearse => {
                self.progress.is_rehearsed = true;
                self.progress.answer = Some(done).filter(|done| matches!(done, StorageDone::Unfit(_)));
            }
            Given::Append => match done {
                StorageDone::Appended { is_half_full } => {
                    (self.progress.is_appended, self.is_log_half_full) = (true, is_half_full);
                }
                StorageDone::LogFull => {
                    assert!(!self.progress.is_truncated, "an empty log takes any record");
                    self.progress.is_log_full = true;
                }
                other => panic!("an append is not answered so: {other:?}"),
            },
            Given::Apply => {
                if self.pending.pop_front().is_some_and(|epoch| epoch.base) {
                    self.wholeness.handle_base(false);
                }
            }
            Given::SyncImages => {
                (self.is_synced, self.unsynced_bytes) = (true, 0);
                self.wholeness.handle_synced();
            }
            Given::TruncateLog => self.note_truncated(),
            Given::HandOver => self.progress.is_handed_over = true,
        }
    }

    fn note_truncated(&mut self) {
        (self.progress.is_truncated, self.progress.is_log_full) = (true, false);
        self.is_log_half_full = false;
        if matches!(self.jobs.front(), Some(Job::Discard)) {
            self.pending.clear();
            self.unsynced_bytes = 0;
        }
    }

    fn note_chunk(&mut self) {
        let Some(Job::WriteChunk { chunk, durable }) = self.jobs.front() else {
            unreachable!("the first job gave the step")
        };
        self.unsynced_bytes += if *durable { chunk.data.len() } else { 0 };
        self.progress.is_written = true;
    }

    /// The first job, if it needs no step any more.
    pub(super) fn poll_finished(&mut self) -> Option<Finished> {
        while !self.has_failed && self.given.is_none() && !self.jobs.is_empty() {
            match self.next_step() {
                Next::Finished => {}
                Next::Wait => return self.applied_behind(),
                Next::Step(_) => return None,
            }
            let job = self.jobs.pop_front().expect("there is one");
            // Also one that is void, and was never written.
            if let Job::WriteChunk { chunk, .. } = &job {
                self.filling_bytes -= chunk.data.len();
            }
            let Progress { answer, is_void, .. } = std::mem::take(&mut self.progress);
            let finished = if is_void { None } else { self.finish(job, answer) };
            if finished.is_some() {
                return finished;
            }
        }
        None
    }

    /// Behind what waits for a commit: what the images were given to make room counts as applied, or nothing more would be
    /// acked, and nothing committed.
    fn applied_behind(&mut self) -> Option<Finished> {
        let at = self.jobs.iter().position(|job| matches!(job, Job::Apply(_)))?;
        let Some(Job::Apply(epoch)) = self.jobs.get(at) else { return None };
        if self.pending.front().is_some_and(|first| first.mark.count <= epoch.mark.count) {
            return None;
        }
        let Some(Job::Apply(epoch)) = self.jobs.remove(at) else { return None };
        Some(Finished::Applied(epoch))
    }

    fn finish(&mut self, job: Job, answer: Option<StorageDone>) -> Option<Finished> {
        Some(match job {
            Job::Compare { session, .. } => match answer {
                Some(StorageDone::Compared(want)) => Finished::Compared { session, want },
                Some(StorageDone::Differs(text)) => Finished::Differs { session, text },
                other => panic!("an offer is not answered so: {other:?}"),
            },
            Job::Persist { epoch, .. } => {
                if let Some(StorageDone::Unfit(text)) = answer {
                    return Some(Finished::Unfit { session: epoch.session, text });
                }
                self.handle_unlogged(&epoch);
                if epoch.base && epoch.disk_writes.is_empty() {
                    self.wholeness.handle_base(self.is_synced);
                }
                Finished::Durable(epoch)
            }
            Job::Apply(epoch) => Finished::Applied(epoch),
            Job::Keep { epoch, holder } => Finished::Kept { epoch, holder },
            Job::HandOver => Finished::HandedOver,
            Job::WriteChunk { .. } | Job::Discard => return None,
        })
    }

    /// What the first job needs next.
    fn next_step(&self) -> Next {
        if self.wholeness == Wholeness::Based {
            return Next::Step(StorageStep::EndFilling);
        }
        let progress = &self.progress;
        let Some(job) = self.jobs.front().filter(|_| progress.answer.is_none() && !progress.is_void) else {
            return Next::Finished;
        };
        let step = match job {
            Job::Compare { offer, .. } => Some(StorageStep::Compare(Arc::clone(offer))),
            Job::WriteChunk { .. } if !self.wholeness.is_noted() && !progress.is_written => {
                Some(StorageStep::BeginFilling)
            }
            Job::WriteChunk { chunk, .. } if !progress.is_written => Some(StorageStep::WriteChunk(Arc::clone(chunk))),
            Job::WriteChunk { .. } => {
                (self.unsynced_bytes > self.limits.unsynced_bytes_max).then_some(StorageStep::SyncImages)
            }
            Job::Persist { epoch, durable } => {
                let is_base_new = epoch.base && !progress.is_rehearsed;
                let is_logged = *durable && !epoch.disk_writes.is_empty() && !progress.is_appended;
                match () {
                    () if is_base_new => Some(StorageStep::Rehearse(Arc::clone(epoch))),
                    () if epoch.base && *durable && !self.is_synced => Some(StorageStep::SyncImages),
                    () if is_logged && progress.is_log_full => return self.emptying(),
                    () if is_logged => Some(StorageStep::Append(Arc::clone(epoch))),
                    () if epoch.base && *durable && self.wholeness.is_noted() => Some(StorageStep::EndFilling),
                    () => None,
                }
            }
            Job::Apply(epoch) => match self.pending.front().filter(|first| first.mark.count <= epoch.mark.count) {
                Some(_) => return self.emptying(),
                None if self.is_log_half_full && self.pending.is_empty() => return self.emptying(),
                None => None,
            },
            // With the base that only the log has, the images are whole; without it they are not.
            Job::Discard if self.wholeness == Wholeness::Logged => Some(StorageStep::BeginFilling),
            // Nothing in the log counts, so nothing comes before this.
            Job::Discard => (!progress.is_truncated).then_some(StorageStep::TruncateLog),
            Job::Keep { .. } | Job::HandOver if !progress.is_truncated => return self.emptying(),
            Job::HandOver => (!progress.is_handed_over).then_some(StorageStep::HandOver),
            Job::Keep { .. } => None,
        };
        step.map_or(Next::Finished, Next::Step)
    }

    /// The next step until the log is empty.
    fn emptying(&self) -> Next {
        Next::Step(match self.pending.front() {
            Some(first) if first.mark.count > self.committed => return Next::Wait,
            Some(first) => StorageStep::Apply(Arc::clone(first)),
            None if !self.is_synced => StorageStep::SyncImages,
            None => StorageStep::TruncateLog,
        })
    }
}

impl Progress {
    /// A step of the job was done.
    fn has_begun(&self) -> bool {
        self.is_rehearsed || self.is_written || self.is_appended || self.is_log_full || self.is_truncated
    }
}

impl Job {
    /// It is about what one session brought.
    fn is_of_session(&self) -> bool {
        matches!(self, Job::Compare { .. } | Job::WriteChunk { .. } | Job::Persist { .. } | Job::Apply(_))
    }
}

impl Given {
    fn of(step: &StorageStep) -> Self {
        match step {
            StorageStep::Compare(_) => Self::Compare,
            StorageStep::BeginFilling => Self::BeginFilling,
            StorageStep::EndFilling => Self::EndFilling,
            StorageStep::WriteChunk(_) => Self::WriteChunk,
            StorageStep::Rehearse(_) => Self::Rehearse,
            StorageStep::Append(_) => Self::Append,
            StorageStep::Apply(_) => Self::Apply,
            StorageStep::SyncImages => Self::SyncImages,
            StorageStep::TruncateLog => Self::TruncateLog,
            StorageStep::HandOver => Self::HandOver,
        }
    }
}
