//! The files of a host's disk, and what threads do with them: each thing takes its time, finds no room, fails, or is cut short.

use super::{Image, Log, Record};
use crate::env::{Crashed, Env};
use crate::fault::Step;
use crate::plan::Break;
use crate::rng::Rng;
use replication::EpochId;
use replication::pipeline::opening::{Opening, OpeningStep};

/// Beyond the end of any run.
const HANGS: u64 = 1 << 50;

/// Who works on the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// The lane that has the log: a primary's Ship, a backup's Storage.
    Log,
    /// A primary's lane Images.
    Images,
    /// Syncs the image beside all else.
    Upkeep,
}

/// What it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Puts a record into the log, which is synced or not.
    Append {
        /// It.
        record: Record,
        /// The log is synced.
        is_synced: bool,
    },
    /// Writes to the image, in so much time at most.
    Write {
        /// Where and what, in order.
        writes: Vec<(usize, Vec<u8>)>,
        /// As long as a write may take.
        time_max: u64,
    },
    /// Syncs the image.
    Sync,
    /// Begins the log anew; the image is synced before, or not.
    Truncate {
        /// It is.
        syncs: bool,
    },
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// As it should.
    Done,
    /// The log holds too much to take the record. Nothing was written.
    LogFull,
    /// The file system has no room for that file. An image may have a part.
    NoRoom(&'static str),
    /// It failed, as all that follows on that file will.
    Failed,
}

impl Op {
    /// The place at which faults strike.
    pub fn place(&self) -> Step {
        match self {
            Op::Append { .. } => Step::Persist,
            Op::Write { .. } => Step::ImageWrite,
            Op::Sync => Step::ImageSync,
            Op::Truncate { .. } => Step::LogTruncate,
        }
    }

    fn syncs_image(&self) -> bool {
        matches!(self, Op::Sync | Op::Truncate { syncs: true })
    }

    fn is_of_image(&self) -> bool {
        self.syncs_image() || matches!(self, Op::Write { .. })
    }

    fn is_of_log(&self) -> bool {
        matches!(self, Op::Append { .. } | Op::Truncate { .. })
    }
}

/// An image and its log.
#[derive(Clone)]
pub struct Files {
    /// The image.
    pub image: Image,
    /// The log.
    pub log: Log,
    /// What is noted beside the image, durably: a filling overwrites it. Nobody but a backup starts with it.
    pub is_filling_noted: bool,
    /// What is so: a filling was writing to it, and no end of that was seen to be true.
    pub is_half_filled: bool,
    under_way: [Option<Op>; 3],
    /// The image is being synced until then, and takes no write.
    syncs_until: u64,
    /// What this process knows to have failed.
    is_image_poisoned: bool,
    is_log_poisoned: bool,
}

impl Files {
    /// An image on its medium, and an empty log that is full at so many bytes.
    pub fn new(image: Vec<u8>, log_room: usize) -> Self {
        Files {
            image: Image::new(image),
            log: Log::new(log_room),
            is_filling_noted: false,
            is_half_filled: false,
            under_way: [const { None }; 3],
            syncs_until: 0,
            is_image_poisoned: false,
            is_log_poisoned: false,
        }
    }

    /// A worker begins; when it is done. What strikes before that strikes in the middle of it.
    pub fn begin(&mut self, host: usize, worker: Worker, op: Op, env: &mut Env) -> Result<u64, Crashed> {
        let delay = match &op {
            // It is seen before anything is written.
            Op::Append { record, .. } if !self.log.has_room(record) => 0,
            Op::Write { time_max, .. } => env.rng.range(0, *time_max),
            Op::Append { .. } | Op::Sync | Op::Truncate { .. } => env.disk_delay(host),
        };
        let delay = if env.disk_hangs[host] { HANGS } else { delay };
        let from = if op.is_of_image() { self.syncs_until.max(env.now) } else { env.now };
        if op.syncs_image() {
            self.syncs_until = from + delay;
        }
        let place = op.place();
        self.under_way[worker as usize] = Some(op);
        env.step(host, place, false)?;
        Ok(from + delay)
    }

    /// It is done; how that went.
    pub fn finish(&mut self, host: usize, worker: Worker, env: &mut Env) -> Result<Done, Crashed> {
        let Some(op) = self.under_way[worker as usize].take() else { return Ok(Done::Done) };
        let place = op.place();
        let done = match self.trouble(host, &op, env) {
            Some(done) => done,
            None => self.perform(op),
        };
        env.step(host, place, true)?;
        Ok(done)
    }

    /// Others work on the files from now on.
    pub fn hand_over(&mut self) {
        self.under_way = Default::default();
    }

    /// Broken: what a worker has begun is not done.
    pub fn leave_out(&mut self, worker: Worker) {
        self.under_way[worker as usize] = None;
    }

    /// Why it is not done, or in part.
    fn trouble(&mut self, host: usize, op: &Op, env: &mut Env) -> Option<Done> {
        if (op.is_of_image() && self.is_image_poisoned) || (op.is_of_log() && self.is_log_poisoned) {
            return Some(Done::Failed);
        }
        if std::mem::take(&mut env.disk_fails[host]) {
            env.say(|| format!("the disk of host {host} fails"));
            self.is_image_poisoned |= op.is_of_image();
            self.is_log_poisoned |= op.is_of_log() && !op.syncs_image();
            match op.syncs_image() {
                true => self.image.fail_sync(&mut env.rng),
                false => self.interrupt(op, &mut env.rng),
            }
            return Some(Done::Failed);
        }
        let is_full = env.is_full(host);
        match op {
            Op::Append { .. } | Op::Truncate { syncs: false } if is_full => Some(Done::NoRoom("log")),
            Op::Write { .. } if is_full => {
                self.interrupt(op, &mut env.rng);
                Some(Done::NoRoom("image"))
            }
            _ => None,
        }
    }

    fn perform(&mut self, op: Op) -> Done {
        match op {
            Op::Append { record, .. } if !self.log.has_room(&record) => return Done::LogFull,
            Op::Append { record, is_synced } => {
                self.log.append(record);
                if is_synced {
                    self.log.sync();
                }
            }
            Op::Write { writes, .. } => self.write(&writes),
            Op::Sync => self.image.sync(),
            Op::Truncate { syncs } => {
                if syncs {
                    self.image.sync();
                }
                self.log.truncate();
            }
        }
        Done::Done
    }

    fn write(&mut self, writes: &[(usize, Vec<u8>)]) {
        writes.iter().for_each(|(offset, data)| self.image.write(*offset, data));
    }

    /// A part of it was done.
    fn interrupt(&mut self, op: &Op, rng: &mut Rng) {
        match op {
            // One sync after the other, and none behind one that failed.
            op if op.syncs_image() && self.is_image_poisoned => {}
            Op::Append { record, .. } if self.log.has_room(record) && rng.percent(50) => {
                self.log.append(record.clone())
            }
            Op::Append { .. } => {}
            Op::Write { writes, .. } => {
                let count = rng.range(0, writes.len() as u64) as usize;
                self.write(&writes[..count]);
            }
            Op::Sync if rng.percent(50) => self.image.sync(),
            Op::Sync => {}
            Op::Truncate { syncs } => {
                let is_synced = *syncs && rng.percent(50);
                if is_synced {
                    self.image.sync();
                }
                if is_synced == *syncs && rng.percent(50) {
                    self.log.truncate();
                }
            }
        }
    }

    /// Another file takes the place of the log.
    pub fn forget_log_failure(&mut self) {
        self.is_log_poisoned = false;
    }

    /// Whether nobody can write to the image now, because it is being synced.
    pub fn is_syncing(&self, now: u64) -> bool {
        self.syncs_until > now
    }

    /// Whether the image takes no write of this process any more.
    pub fn has_image_failed(&self) -> bool {
        self.is_image_poisoned
    }

    /// The process is gone, in the middle of what it did; with the power, all that was not synced is in doubt. What its host takes for
    /// written it goes on taking for written.
    pub fn crash(&mut self, power: bool, rng: &mut Rng) {
        for op in std::mem::take(&mut self.under_way).into_iter().flatten() {
            self.interrupt(&op, rng);
        }
        (self.syncs_until, self.is_image_poisoned, self.is_log_poisoned) = (0, false, false);
        if power {
            self.image.cut(rng);
            self.log.cut(rng);
        }
    }

    /// What a start finds that applies the log up to epoch `upto`.
    pub fn recovered(&self, upto: EpochId) -> Vec<u8> {
        self.with_log(self.image.afresh(), upto)
    }

    /// What a start of a copy finds, which is made now: whoever copies reads what the host has in memory.
    pub fn copied(&self, upto: EpochId) -> Vec<u8> {
        self.with_log(self.image.bytes(), upto)
    }

    /// What a loss of power leaves for certain, for a start that applies the log.
    pub fn on_medium(&self) -> Vec<u8> {
        self.with_log(self.image.on_medium(), EpochId(u64::MAX))
    }

    fn with_log(&self, mut bytes: Vec<u8>, upto: EpochId) -> Vec<u8> {
        for (offset, data) in self.log.writes(upto) {
            bytes[*offset..][..data.len()].copy_from_slice(data);
        }
        bytes
    }

    /// A process opens them, whose guest continues from epoch `upto` at most. Whether it could.
    pub fn open(&mut self, host: usize, upto: EpochId, env: &mut Env) -> bool {
        let mut opening = Opening::default();
        std::iter::from_fn(|| opening.poll_step()).all(|step| self.perform_opening(step, (host, upto), env))
    }

    fn perform_opening(&mut self, step: OpeningStep, (host, upto): (usize, EpochId), env: &mut Env) -> bool {
        match step {
            OpeningStep::Sync if std::mem::take(&mut env.disk_fails[host]) => {
                env.say(|| format!("the disk of host {host} fails when its image is opened"));
                self.image.fail_sync(&mut env.rng);
                return false;
            }
            OpeningStep::Sync => self.image.sync(),
            OpeningStep::ReadAfresh if env.plan.broken == Some(Break::CacheBelieved) => {}
            OpeningStep::ReadAfresh => self.image.forget_lost(),
            // What is here is what was left here.
            OpeningStep::Examine => {}
            OpeningStep::Apply => self.log.writes(upto).for_each(|(offset, data)| self.image.write(*offset, data)),
            OpeningStep::BeginLog => self.log.truncate(),
        }
        true
    }

    /// Whether the image alone has everything, on its medium.
    pub fn is_at_rest(&self) -> bool {
        self.log.is_empty() && self.image.is_synced()
    }
}
