//! The executor of a backup's lane Storage: performs its steps on the models of image and log.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use replication::backup::BackupState;
use replication::pipeline::backup::{StorageDone, StorageStep};
use replication::wire::{DiskOffer, DiskWant};
use replication::{AssembledEpoch, Backup, EpochId, SessionId, Term};

use crate::disk::CHUNK;
use crate::env::{Crashed, Env};
use crate::fault::Step;
use crate::oracle::Rule;
use crate::plan::Break;
use crate::shipping::chunk_hash;
use crate::storage::{Done, Files, Op, Record, Worker};

/// Image and log of a backup.
pub(super) struct Storage {
    pub(super) files: Files,
    /// The step that is being done.
    step: Option<StorageStep>,
    /// The last base: of which session, and of which life of the guest.
    base: Option<(SessionId, EpochId, u32)>,
    /// Of which epochs the image can be, where a filling has just ended.
    ends_at: Option<((Term, EpochId), EpochId)>,
    /// An epoch was written to the image since the oracle looked.
    is_written: Cell<bool>,
    breaking: Breaking,
}

/// What broken rules have to remember.
#[derive(Default)]
struct Breaking {
    /// The step before was the rehearsal of a base.
    is_base_next: bool,
    /// A session was forgotten, and its log is not.
    is_forgotten: bool,
    /// An epoch that was to be applied before the next one.
    late: Option<Arc<AssembledEpoch>>,
}

impl Storage {
    pub(super) fn new(files: Files) -> Self {
        Storage {
            files,
            step: None,
            base: None,
            ends_at: None,
            is_written: Cell::new(false),
            breaking: Breaking::default(),
        }
    }

    pub(super) fn note_forgotten(&mut self) {
        self.breaking.is_forgotten = true;
    }

    /// A step begins; when it is done.
    pub(super) fn begin(
        &mut self,
        host: usize,
        step: StorageStep,
        core: &Backup,
        env: &mut Env,
    ) -> Result<u64, Crashed> {
        let op = self.op_of(&step, core, env);
        let is_noted = matches!(step, StorageStep::BeginFilling | StorageStep::EndFilling);
        self.files.is_half_filled |= matches!(step, StorageStep::WriteChunk(_));
        let base = self.base.filter(|(session, ..)| core.session_id() == Some(*session)).map(|(_, base, _)| base);
        self.ends_at = base.and_then(|base| Some(((core.branch()?, base), core.pointers().assembled())));
        self.step = Some(step);
        match op {
            None if is_noted => Ok(env.now),
            Some(op) => self.files.begin(host, Worker::Log, op, env),
            None => env.step(host, Step::Rehearse, false).map(|()| env.now),
        }
    }

    /// What of the files a step needs; none: nothing, or a rule is broken.
    fn op_of(&mut self, step: &StorageStep, core: &Backup, env: &Env) -> Option<Op> {
        let broken = env.plan.broken;
        let is_base_next = std::mem::replace(&mut self.breaking.is_base_next, matches!(step, StorageStep::Rehearse(_)));
        match step {
            StorageStep::Append(epoch) => {
                if broken == Some(Break::BackupImageBeforeLog) {
                    self.write(epoch);
                }
                Some(Op::Append { record: record_of(epoch), is_synced: broken != Some(Break::AppendUnsynced) })
            }
            StorageStep::Apply(epoch) => {
                let writes = self.writes_of(epoch, broken);
                Some(Op::Write { writes, time_max: env.plan.apply_delay })
            }
            // As fast as a link brings them.
            StorageStep::WriteChunk(chunk) => {
                let writes = vec![(chunk.offset as usize, chunk.data.clone())];
                Some(Op::Write { writes, time_max: env.plan.apply_delay / 8 })
            }
            StorageStep::SyncImages => match broken {
                Some(Break::BaseUnsynced) if is_base_next => None,
                Some(Break::TruncateUnsynced) if !is_base_next => None,
                _ => Some(Op::Sync),
            },
            StorageStep::TruncateLog => {
                let is_kept = match broken {
                    Some(Break::HandOverLogged) => core.state() == BackupState::TookOver,
                    Some(Break::KeepLogged) => core.kept().is_some() && core.state() == BackupState::Waiting,
                    _ => false,
                };
                (!is_kept).then_some(Op::Truncate { syncs: false })
            }
            StorageStep::Compare(_)
            | StorageStep::Rehearse(_)
            | StorageStep::HandOver
            | StorageStep::BeginFilling
            | StorageStep::EndFilling => None,
        }
    }

    fn writes_of(&mut self, epoch: &Arc<AssembledEpoch>, broken: Option<Break>) -> Vec<(usize, Vec<u8>)> {
        match broken {
            Some(Break::ForgetDiskWrites) if !epoch.base => Vec::new(),
            Some(Break::ApplyOutOfOrder) if self.breaking.late.is_none() && !epoch.base => {
                self.breaking.late = Some(Arc::clone(epoch));
                Vec::new()
            }
            _ => {
                let mut writes = record_of(epoch).writes;
                writes.extend(self.breaking.late.take().into_iter().flat_map(|late| record_of(&late).writes));
                writes
            }
        }
    }

    fn write(&mut self, epoch: &AssembledEpoch) {
        for write in &epoch.disk_writes {
            self.files.image.write(write.offset as usize, &write.data);
        }
    }

    /// It is done; how it went.
    pub(super) fn finish(&mut self, host: usize, env: &mut Env) -> Result<StorageDone, Crashed> {
        let Some(step) = self.step.take() else { return Ok(StorageDone::Done) };
        env.whisper(|| format!("host {host} has done {}", words_of(&step)));
        let is_forgotten = step == StorageStep::TruncateLog && std::mem::take(&mut self.breaking.is_forgotten);
        if is_forgotten && env.plan.broken == Some(Break::DiscardedLogged) {
            self.files.leave_out(Worker::Log);
        }
        let done = match (self.files.finish(host, Worker::Log, env)?, &step) {
            (Done::Done, _) => self.done(host, &step, env),
            (Done::LogFull, _) => StorageDone::LogFull,
            (Done::Failed, _) => StorageDone::Failed,
            (Done::NoRoom(_), StorageStep::Append(_)) if env.plan.broken == Some(Break::AckWithoutRoom) => {
                StorageDone::Appended { is_half_full: false }
            }
            (Done::NoRoom(file), _) => StorageDone::NoRoom(PathBuf::from(file)),
        };
        if matches!(step, StorageStep::Compare(_) | StorageStep::Rehearse(_) | StorageStep::HandOver) {
            env.step(host, Step::Rehearse, true)?;
        }
        Ok(done)
    }

    fn done(&mut self, host: usize, step: &StorageStep, env: &mut Env) -> StorageDone {
        match step {
            StorageStep::Compare(offer) => return StorageDone::Compared(self.compare(offer)),
            StorageStep::Rehearse(epoch) => {
                if std::mem::take(&mut env.unfit_base[host]) {
                    return StorageDone::Unfit("the simulator says so".to_owned());
                }
                let life = env.oracle.generation_of(epoch.mark, &epoch.state);
                self.base = life.map(|life| (epoch.session, epoch.mark.count, life));
            }
            StorageStep::Append(epoch) => {
                if env.plan.broken == Some(Break::ApplyUncommitted) {
                    self.write(epoch);
                    self.is_written.set(true);
                }
                return StorageDone::Appended { is_half_full: self.files.log.is_half_full() };
            }
            StorageStep::BeginFilling => self.files.is_filling_noted = env.plan.broken != Some(Break::FillingUnnoted),
            StorageStep::EndFilling => {
                if let (Some(epochs), Some((_, _, life))) = (self.ends_at, self.base) {
                    env.oracle.check_survivor(host, life, epochs, &self.files.on_medium());
                }
                (self.files.is_filling_noted, self.files.is_half_filled) = (false, false);
            }
            StorageStep::Apply(_) => self.is_written.set(true),
            StorageStep::HandOver => {
                if let Some(late) = self.breaking.late.take() {
                    self.write(&late);
                }
                self.check_at_rest(host, "gives its files to the guest", env);
            }
            StorageStep::WriteChunk(_) | StorageStep::SyncImages | StorageStep::TruncateLog => {}
        }
        StorageDone::Done
    }

    fn compare(&self, offer: &DiskOffer) -> DiskWant {
        let DiskOffer { disk, first_chunk, ref hashes, .. } = *offer;
        let image = self.files.image.bytes();
        let wanted = image.chunks(CHUNK).zip(hashes).map(|(chunk, hash)| chunk_hash(chunk) != *hash).collect();
        DiskWant { disk, first_chunk, wanted }
    }

    /// The image, if an epoch was written to it since this was asked last and all that a filling brought is committed.
    pub(super) fn written(&self, core: &Backup, life: u32) -> Option<Vec<u8>> {
        let is_of =
            |(session, base, of)| core.session_id() == Some(session) && core.pointers().applied() >= base && of == life;
        (self.base.is_some_and(is_of) && self.is_written.take()).then(|| self.files.image.bytes())
    }

    /// The image is synced beside all else from now on; until when.
    pub(super) fn begin_upkeep(&mut self, host: usize, env: &mut Env) -> Result<u64, Crashed> {
        match env.plan.broken {
            Some(Break::TruncateUnsynced | Break::BaseUnsynced) => Ok(env.now),
            _ => self.files.begin(host, Worker::Upkeep, Op::Sync, env),
        }
    }

    /// Whether that went well.
    pub(super) fn finish_upkeep(&mut self, host: usize, env: &mut Env) -> Result<bool, Crashed> {
        Ok(self.files.finish(host, Worker::Upkeep, env)? == Done::Done)
    }

    /// Whoever has the files next relies on them as they are.
    pub(super) fn check_at_rest(&self, host: usize, what: &str, env: &mut Env) {
        let text = || format!("host {host} {what} with records in its log, or an image that is not on its medium");
        if !self.files.is_at_rest() {
            env.oracle.fail(Rule::SurvivesHere, host, text);
        }
    }

    /// Whoever starts on the image next must know that a filling left it half-way.
    pub(super) fn check_noted(&self, host: usize, env: &mut Env) {
        if self.files.is_half_filled && !self.files.is_filling_noted {
            env.oracle
                .fail(Rule::WholeDisk, host, || format!("host {host} has a half-filled image, and nothing says so"));
        }
    }

    /// What was acked as durable is here after the crash: the disks are as they were at the end of an epoch, the last one that
    /// was acked or a later one.
    pub(super) fn check_survivor(&self, host: usize, core: &Backup, env: &mut Env) {
        let Some((session, base, life)) = self.base.filter(|_| env.plan.durable) else { return };
        let (pointers, image) = (core.pointers(), self.files.recovered(EpochId(u64::MAX)));
        if let Some(branch) = core.branch().filter(|_| core.session_id() == Some(session) && pointers.acked() >= base) {
            env.oracle.check_survivor(host, life, ((branch, pointers.acked()), pointers.assembled()), &image);
        }
        if let Some((epoch, _)) = core.kept().filter(|_| core.state() == BackupState::Waiting) {
            env.oracle.check_survivor(host, life, ((epoch.branch, epoch.count), epoch.count), &image);
        }
    }
}

fn words_of(step: &StorageStep) -> String {
    match step {
        StorageStep::Compare(_) => "a comparison of chunks".to_owned(),
        StorageStep::BeginFilling => "the note that a filling overwrites its image".to_owned(),
        StorageStep::EndFilling => "the removal of the note that its image is half filled".to_owned(),
        StorageStep::WriteChunk(_) => "the write of a chunk".to_owned(),
        StorageStep::Rehearse(epoch) => format!("the rehearsal of base {}", epoch.mark.count),
        StorageStep::Append(epoch) => format!("the record of epoch {}", epoch.mark.count),
        StorageStep::Apply(epoch) => format!("epoch {}'s writes to its image", epoch.mark.count),
        StorageStep::SyncImages => "a sync of its image".to_owned(),
        StorageStep::TruncateLog => "the truncation of its log".to_owned(),
        StorageStep::HandOver => "its part: image and log are given back".to_owned(),
    }
}

fn record_of(epoch: &AssembledEpoch) -> Record {
    let writes = epoch.disk_writes.iter().map(|write| (write.offset as usize, write.data.clone())).collect();
    Record { epoch: epoch.mark.count, writes }
}
