//! A primary's lanes: each gets a step, which takes its time, and reports how it went.

use replication::pipeline::primary::{FillStep, Outcome, Step as Does};

use super::PrimaryNode;
use crate::env::{Crashed, Env, Event, Lane};
use crate::plan::{Break, MS};
use crate::storage::{Done, Op, Worker};

impl PrimaryNode {
    /// Gives the lanes what they are to do next.
    pub(super) fn set_to_work(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let (id, now) = (self.id, env.time());
        if let Some(does) = self.pipeline.poll_step(now) {
            self.does = Some(does.clone());
            let at = self.begin_step(&does, env)?;
            env.at(at, Event::Lane { to: id, lane: Lane::Ship });
        }
        if let Some(upto) = self.pipeline.poll_images(now) {
            self.writes = Some(upto);
            let is_left_out = env.plan.broken == Some(Break::ImagesUnwritten);
            let writes = if is_left_out { Vec::new() } else { self.machine.disk.due(upto) };
            let op = Op::Write { writes, time_max: env.plan.disk_delay };
            let at = self.machine.disk.files.begin(id.host, Worker::Images, op, env)?;
            env.at(at, Event::Lane { to: id, lane: Lane::Images });
        }
        if self.pipeline.poll_upkeep(now) {
            self.is_syncing = true;
            let at = match env.plan.broken {
                Some(Break::BaseUnsyncedHere | Break::LogEmptiedUnsynced) => env.now,
                _ => self.machine.disk.files.begin(id.host, Worker::Upkeep, Op::Sync, env)?,
            };
            env.at(at, Event::Lane { to: id, lane: Lane::Upkeep });
        }
        Ok(())
    }

    /// A lane has done its step, or a part of it.
    pub fn handle_lane(&mut self, lane: Lane, env: &mut Env) -> Result<(), Crashed> {
        match lane {
            Lane::Ship => self.handle_ship(env),
            Lane::Images => self.handle_images(env),
            // It was a backup when that began.
            Lane::Upkeep if !std::mem::take(&mut self.is_syncing) => Ok(()),
            Lane::Upkeep => {
                let done = self.machine.disk.files.finish(self.id.host, Worker::Upkeep, env)?;
                let done = if done == Done::Done { Ok(()) } else { Err("the disk failed".to_owned()) };
                self.pipeline.handle_upkeep_done(env.time(), done);
                self.pump(env)
            }
            // It was a backup when they began.
            Lane::Loop | Lane::Storage => Ok(()),
        }
    }

    /// The lane Images has written.
    fn handle_images(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let Some(upto) = self.writes.take() else { return Ok(()) };
        match self.machine.disk.files.finish(self.id.host, Worker::Images, env)? {
            Done::NoRoom(path) => self.pipeline.handle_images_full(env.time(), path.to_owned()),
            Done::Failed => self.pipeline.handle_images_failed("the disk failed".to_owned()),
            Done::Done | Done::LogFull => {
                self.machine.disk.drop_written(upto);
                self.pipeline.handle_images_written(upto);
            }
        }
        let (committed, image) = (self.core().pointers().committed(), self.machine.disk.files.image.bytes());
        let committed = (self.branch(), committed);
        env.oracle.check_committed_image(self.id.host, self.generation, committed, &image);
        self.pump(env)
    }

    /// The lane Ship does what it was given.
    fn handle_ship(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let Some(does) = self.does.take() else { return Ok(()) };
        let outcome = match self.outcome.take() {
            Some(outcome) => Some(outcome),
            None => self.perform(does.clone(), env)?,
        };
        match outcome {
            // What it set off may be back before it is reported.
            Some(outcome) if !self.is_reported && env.rng.percent(20) => {
                (self.outcome, self.is_reported, self.does) = (Some(outcome), true, Some(does));
                let delay = env.rng.range(0, 3 * MS);
                env.after(delay, Event::Lane { to: self.id, lane: Lane::Ship });
            }
            Some(outcome) => {
                self.is_reported = false;
                let digested = matches!(outcome, Outcome::Digested(_));
                self.pipeline.handle_done(env.time(), outcome);
                if digested {
                    let mark = self.core().last_mark();
                    env.oracle.identified(self.id.host, mark, &self.machine.sealed(mark.count).guest);
                }
            }
            None => {
                self.does = Some(does);
                let delay = env.rng.range(0, MS / 2);
                env.after(delay, Event::Lane { to: self.id, lane: Lane::Ship });
            }
        }
        self.pump(env)
    }

    /// A step begins; when it is done.
    fn begin_step(&mut self, does: &Does, env: &mut Env) -> Result<u64, Crashed> {
        match self.op_of(does, env) {
            Some(op) => self.machine.disk.files.begin(self.id.host, Worker::Log, op, env),
            None => Ok(env.now + self.time_of(does, env)),
        }
    }

    /// What of the files a step needs; none: nothing, or a rule is broken.
    fn op_of(&mut self, does: &Does, env: &Env) -> Option<Op> {
        let broken = env.plan.broken;
        match does {
            Does::Log { .. } if broken == Some(Break::DegradedUnlogged) && !self.pipeline.has_store() => None,
            Does::Log { mark } => {
                let record = self.machine.disk.record(mark.count);
                Some(Op::Append { record, is_synced: self.syncs_log && broken != Some(Break::LogUnsynced) })
            }
            Does::SyncImages if broken == Some(Break::BaseUnsyncedHere) => None,
            Does::SyncImages => Some(Op::Sync),
            Does::EmptyLog if broken == Some(Break::LogKept) => None,
            Does::EmptyLog => Some(Op::Truncate { syncs: broken != Some(Break::LogEmptiedUnsynced) }),
            Does::RemoveStore { renew_log: true } => {
                self.machine.disk.files.forget_log_failure();
                Some(Op::Truncate { syncs: true })
            }
            _ => None,
        }
    }

    /// How long a step takes.
    fn time_of(&mut self, does: &Does, env: &mut Env) -> u64 {
        match does {
            Does::Fill { step: FillStep::Round, .. } => {
                let took = self.filled_shipping().bytes_of_round() * MS / env.plan.load.link;
                self.sends = self.filled_shipping().bytes_of_round();
                let share = self.share;
                self.filled_shipping().write_beside(env.plan.load, share, took);
                took
            }
            // It reads what is there.
            Does::Fill { step: FillStep::Compare, .. } => env.rng.range(0, MS / 2) + env.slowness(self.id.host),
            Does::CommitLocally { .. } => env.disk_delay(self.id.host),
            Does::Send { .. } | Does::Part { .. } | Does::Ship { .. } | Does::Fill { .. } | Does::Hold { .. } => {
                env.rng.range(0, MS / 2)
            }
            _ => 0,
        }
    }
}
