//! The backup's storage: steps on images and log, that take their time, find no room, fail, or are cut short.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use replication::backup::BackupState;
use replication::pipeline::backup::{StorageDone, StorageStep};
use replication::wire::{DiskOffer, DiskWant};
use replication::{AssembledEpoch, Backup, EpochId, SessionId};

use crate::disk::CHUNK;
use crate::env::{Crashed, Env};
use crate::fault::Step;
use crate::oracle::Rule;
use crate::plan::Break;
use crate::shipping::chunk_hash;
use crate::storage::{Image, Log, Record};

/// Image and log of a backup.
pub(super) struct Files {
    image: Image,
    log: Log,
    /// The step that is being done.
    step: Option<StorageStep>,
    /// The one before it was the rehearsal of a base.
    is_base_next: bool,
    /// A sync beside all else lasts until then: the image takes no write meanwhile.
    syncs_until: u64,
    /// The last base: of which session, and of which life of the guest.
    base: Option<(SessionId, EpochId, u32)>,
    /// An epoch was written to the image since the oracle looked.
    is_written: Cell<bool>,
    /// Broken: a session was forgotten, and its log is not.
    is_forgotten: bool,
    /// Broken: an epoch that was to be applied before the next one.
    late: Option<Arc<AssembledEpoch>>,
}

impl Files {
    pub(super) fn new(image: Vec<u8>, log_room: usize) -> Self {
        Files {
            image: Image::new(image),
            log: Log::new(log_room),
            step: None,
            is_base_next: false,
            syncs_until: 0,
            base: None,
            is_written: Cell::new(false),
            is_forgotten: false,
            late: None,
        }
    }

    pub(super) fn image(&self) -> Vec<u8> {
        self.image.bytes()
    }

    pub(super) fn note_forgotten(&mut self) {
        self.is_forgotten = true;
    }

    /// A step begins; when it is done. What strikes before it is done strikes in the middle of it.
    pub(super) fn begin(
        &mut self,
        host: usize,
        step: StorageStep,
        core: &Backup,
        env: &mut Env,
    ) -> Result<u64, Crashed> {
        let place = place_of(&step);
        let delay = match &step {
            // It is seen before anything is written.
            StorageStep::Append(epoch) if !self.log.has_room(&record_of(epoch)) => 0,
            StorageStep::Append(_) | StorageStep::SyncImages | StorageStep::TruncateLog => env.disk_delay(host),
            StorageStep::Apply(_) => env.rng.range(0, env.plan.apply_delay),
            // As fast as a link brings them.
            StorageStep::WriteChunk(_) => env.rng.range(0, env.plan.apply_delay / 8),
            StorageStep::Compare(_) | StorageStep::Rehearse(_) | StorageStep::HandOver => 0,
        };
        let writes_image = matches!(step, StorageStep::Apply(_) | StorageStep::WriteChunk(_) | StorageStep::SyncImages);
        let from = if writes_image { self.syncs_until.max(env.now) } else { env.now };
        if let (Some(Break::BackupImageBeforeLog), StorageStep::Append(epoch)) = (env.plan.broken, &step) {
            write(&mut self.image, epoch);
        }
        if let (StorageStep::TruncateLog, true) = (&step, is_unchecked(env, core)) {
            // Broken: it is left out.
            return Ok(from);
        }
        self.step = Some(step);
        env.step(host, place, false)?;
        Ok(from + delay)
    }

    /// It is done; how it went.
    pub(super) fn finish(&mut self, host: usize, env: &mut Env) -> Result<StorageDone, Crashed> {
        let Some(step) = self.step.take() else { return Ok(StorageDone::Done) };
        let is_base_next = std::mem::replace(&mut self.is_base_next, matches!(step, StorageStep::Rehearse(_)));
        env.whisper(|| format!("host {host} has done {}", words_of(&step)));
        let place = place_of(&step);
        let done = match self.trouble(host, &step, env) {
            Some(done) => done,
            None => self.perform(host, step, is_base_next, env),
        };
        env.step(host, place, true)?;
        Ok(done)
    }

    /// Why a step is not done, or in part.
    fn trouble(&mut self, host: usize, step: &StorageStep, env: &mut Env) -> Option<StorageDone> {
        let writes = matches!(
            step,
            StorageStep::Append(_) | StorageStep::Apply(_) | StorageStep::WriteChunk(_) | StorageStep::TruncateLog
        );
        let touches = writes || *step == StorageStep::SyncImages;
        if touches && std::mem::take(&mut env.disk_fails[host]) {
            env.say(|| format!("the disk of host {host} fails"));
            match step {
                StorageStep::SyncImages => self.image.fail_sync(&mut env.rng),
                step => interrupt(&mut self.image, &mut self.log, step, env),
            }
            return Some(StorageDone::Failed);
        }
        if writes && env.full_until[host] > env.now {
            let is_log = matches!(step, StorageStep::Append(_) | StorageStep::TruncateLog);
            if !is_log {
                interrupt(&mut self.image, &mut self.log, step, env);
            }
            return Some(match (env.plan.broken, step) {
                (Some(Break::AckWithoutRoom), StorageStep::Append(_)) => StorageDone::Appended { is_half_full: false },
                _ => StorageDone::NoRoom(PathBuf::from(if is_log { "log" } else { "image" })),
            });
        }
        None
    }

    fn perform(&mut self, host: usize, step: StorageStep, is_base_next: bool, env: &mut Env) -> StorageDone {
        match step {
            StorageStep::Compare(offer) => return StorageDone::Compared(self.compare(&offer)),
            StorageStep::WriteChunk(chunk) => self.image.write(chunk.offset as usize, &chunk.data),
            StorageStep::Rehearse(epoch) => {
                if std::mem::take(&mut env.unfit_base[host]) {
                    return StorageDone::Unfit("the simulator says so".to_owned());
                }
                let life = env.oracle.generation_of(epoch.epoch, &epoch.state);
                self.base = life.map(|life| (epoch.session, epoch.epoch, life));
            }
            StorageStep::Append(epoch) => return self.append(&epoch, env),
            StorageStep::Apply(epoch) => self.apply(epoch, env),
            StorageStep::SyncImages => match env.plan.broken {
                Some(Break::BaseUnsynced) if is_base_next => {}
                Some(Break::TruncateUnsynced) if !is_base_next => {}
                _ => self.image.sync(),
            },
            StorageStep::TruncateLog => {
                let is_kept = std::mem::take(&mut self.is_forgotten) && env.plan.broken == Some(Break::DiscardedLogged);
                if !is_kept {
                    self.log.truncate();
                }
            }
            StorageStep::HandOver => {
                if let Some(late) = self.late.take() {
                    write(&mut self.image, &late);
                }
                self.check_at_rest(host, "gives its files to the guest", env);
            }
        }
        StorageDone::Done
    }

    fn compare(&self, offer: &DiskOffer) -> DiskWant {
        let DiskOffer { disk, first_chunk, ref hashes, .. } = *offer;
        let image = self.image.bytes();
        let wanted = image.chunks(CHUNK).zip(hashes).map(|(chunk, hash)| chunk_hash(chunk) != *hash).collect();
        DiskWant { disk, first_chunk, wanted }
    }

    fn append(&mut self, epoch: &AssembledEpoch, env: &Env) -> StorageDone {
        let record = record_of(epoch);
        if !self.log.has_room(&record) {
            return StorageDone::LogFull;
        }
        self.log.append(record);
        if env.plan.broken != Some(Break::AppendUnsynced) {
            self.log.sync();
        }
        if env.plan.broken == Some(Break::ApplyUncommitted) {
            write(&mut self.image, epoch);
            self.is_written.set(true);
        }
        StorageDone::Appended { is_half_full: self.log.is_half_full() }
    }

    fn apply(&mut self, epoch: Arc<AssembledEpoch>, env: &Env) {
        self.is_written.set(true);
        match env.plan.broken {
            Some(Break::ForgetDiskWrites) if !epoch.base => {}
            Some(Break::ApplyOutOfOrder) if self.late.is_none() && !epoch.base => self.late = Some(epoch),
            _ => {
                write(&mut self.image, &epoch);
                if let Some(late) = self.late.take() {
                    write(&mut self.image, &late);
                }
            }
        }
    }

    /// The image, if an epoch was written to it since this was asked last and all that a filling brought is committed.
    pub(super) fn written(&self, core: &Backup, life: u32) -> Option<Vec<u8>> {
        let is_of =
            |(session, base, of)| core.session_id() == Some(session) && core.pointers().applied() >= base && of == life;
        (self.base.is_some_and(is_of) && self.is_written.take()).then(|| self.image.bytes())
    }

    /// The image is synced beside all else from now on; until when.
    pub(super) fn begin_upkeep(&mut self, host: usize, env: &mut Env) -> u64 {
        self.syncs_until = env.now + env.disk_delay(host);
        self.syncs_until
    }

    /// Whether that went well.
    pub(super) fn finish_upkeep(&mut self, host: usize, env: &mut Env) -> bool {
        let fails = std::mem::take(&mut env.disk_fails[host]);
        match fails {
            true => self.image.fail_sync(&mut env.rng),
            false if matches!(env.plan.broken, Some(Break::TruncateUnsynced | Break::BaseUnsynced)) => {}
            false => self.image.sync(),
        }
        !fails
    }

    /// The process is gone, in the middle of what it did; with the power, all that was not synced is in doubt.
    pub(super) fn crash(&mut self, power: bool, env: &mut Env) {
        if let Some(step) = self.step.take() {
            interrupt(&mut self.image, &mut self.log, &step, env);
        }
        if power {
            self.image.cut(&mut env.rng);
            self.log.cut(&mut env.rng);
        }
    }

    /// The host starts again.
    pub(super) fn recover(&mut self) -> Vec<u8> {
        self.log.recover(&mut self.image);
        self.image.bytes()
    }

    /// Whoever has the files next relies on them as they are.
    pub(super) fn check_at_rest(&self, host: usize, what: &str, env: &mut Env) {
        let text = || format!("host {host} {what} with records in its log, or an image that is not on its medium");
        if !self.log.is_empty() || !self.image.is_synced() {
            env.oracle.fail(Rule::SurvivesHere, host, text);
        }
    }

    /// What was acked as durable is here after the crash: the disks are as they were at the end of an epoch, the last one that
    /// was acked or a later one.
    pub(super) fn check_survivor(&self, host: usize, core: &Backup, image: &[u8], env: &mut Env) {
        let Some((session, base, life)) = self.base.filter(|_| env.plan.backup_durable) else { return };
        let pointers = core.pointers();
        if core.session_id() == Some(session) && pointers.acked() >= base {
            env.oracle.check_survivor(host, life, (pointers.acked(), pointers.assembled()), image);
        }
        if let Some((epoch, _)) = core.kept().filter(|_| core.state() == BackupState::Waiting) {
            env.oracle.check_survivor(host, life, (epoch, epoch), image);
        }
    }
}

/// Broken: the log is not emptied before somebody relies on that.
fn is_unchecked(env: &Env, core: &Backup) -> bool {
    match env.plan.broken {
        Some(Break::HandOverLogged) => core.state() == BackupState::TookOver,
        Some(Break::KeepLogged) => core.kept().is_some() && core.state() == BackupState::Waiting,
        _ => false,
    }
}

fn place_of(step: &StorageStep) -> Step {
    match step {
        StorageStep::Append(_) => Step::Persist,
        StorageStep::Apply(_) | StorageStep::WriteChunk(_) => Step::ImageWrite,
        StorageStep::SyncImages => Step::ImageSync,
        StorageStep::TruncateLog => Step::LogTruncate,
        StorageStep::Compare(_) | StorageStep::Rehearse(_) | StorageStep::HandOver => Step::Rehearse,
    }
}

fn words_of(step: &StorageStep) -> String {
    match step {
        StorageStep::Compare(_) => "a comparison of chunks".to_owned(),
        StorageStep::WriteChunk(_) => "the write of a chunk".to_owned(),
        StorageStep::Rehearse(epoch) => format!("the rehearsal of base {}", epoch.epoch),
        StorageStep::Append(epoch) => format!("the record of epoch {}", epoch.epoch),
        StorageStep::Apply(epoch) => format!("epoch {}'s writes to its image", epoch.epoch),
        StorageStep::SyncImages => "a sync of its image".to_owned(),
        StorageStep::TruncateLog => "the truncation of its log".to_owned(),
        StorageStep::HandOver => "its part: image and log are given back".to_owned(),
    }
}

fn record_of(epoch: &AssembledEpoch) -> Record {
    let writes = epoch.disk_writes.iter().map(|write| (write.offset as usize, write.data.clone())).collect();
    Record { epoch: epoch.epoch, writes }
}

fn write(image: &mut Image, epoch: &AssembledEpoch) {
    for write in &epoch.disk_writes {
        image.write(write.offset as usize, &write.data);
    }
}

/// Part of a step was done.
fn interrupt(image: &mut Image, log: &mut Log, step: &StorageStep, env: &mut Env) {
    match step {
        StorageStep::Append(epoch) => {
            let record = record_of(epoch);
            if log.has_room(&record) && env.rng.percent(50) {
                log.append(record);
            }
        }
        StorageStep::Apply(epoch) => {
            let count = env.rng.range(0, epoch.disk_writes.len() as u64) as usize;
            for write in &epoch.disk_writes[..count] {
                image.write(write.offset as usize, &write.data);
            }
        }
        StorageStep::WriteChunk(chunk) if env.rng.percent(50) => image.write(chunk.offset as usize, &chunk.data),
        StorageStep::SyncImages if env.rng.percent(50) => image.sync(),
        StorageStep::TruncateLog if env.rng.percent(50) => log.truncate(),
        _ => {}
    }
}
