//! What a primary leaves behind, and whether that is what was promised.

use replication::EpochId;
use replication::pipeline::primary::GuestMode;

use super::PrimaryNode;
use crate::env::Env;
use crate::state_dir::StateDir;
use crate::storage::Files;

impl PrimaryNode {
    /// This process is gone. What its host finds when it starts again.
    pub fn into_files_after(mut self, power: bool, env: &mut Env) -> (Files, Option<StateDir>) {
        // What is not synced is lost with the power, and with a disk that fails.
        let is_lost = power || self.machine.disk.files.has_image_failed();
        self.machine.disk.files.crash(power, &mut env.rng);
        self.check_survivor(power, is_lost, env);
        (self.machine.disk.files, self.store.or(self.lost_store))
    }

    /// What was committed as durable is here after the crash.
    fn check_survivor(&self, power: bool, is_lost: bool, env: &mut Env) {
        let (host, life, pointers) = (self.id.host, self.generation, self.core().pointers());
        let found = self.machine.disk.files.recovered(EpochId(u64::MAX));
        let is_kept = !power || env.plan.local_survives_power;
        if let Some(last) = self.store.as_ref().and_then(|store| store.last.as_ref()).filter(|_| is_kept) {
            let found = self.machine.disk.files.recovered(last.epoch.count());
            let (branch, count) = (last.epoch.branch().unwrap_or(self.branch()), last.epoch.count());
            env.oracle.check_survivor(host, life, ((branch, count), count), &found);
        }
        let has_committed = self.machine.mode == GuestMode::Epochs && pointers.committed() >= self.first_epoch;
        // Before a base, nobody said that what the guest wrote directly is on the medium, and the log alone is not enough.
        let is_durable = self.has_base && (env.plan.durable || self.store.is_some());
        if has_committed && (!is_lost || is_durable) {
            let committed = pointers.committed().min(self.pipeline.through());
            env.oracle.check_survivor(host, life, ((self.branch(), committed), pointers.sealed()), &found);
        } else if env.plan.durable || !is_lost {
            env.oracle.check_not_older(host, life, &found);
        }
    }
}
