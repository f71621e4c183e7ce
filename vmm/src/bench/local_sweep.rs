//! The sweep of local checkpoints: run time relative to the unprotected guest, over the time between two commits.
//!
//! ```text
//!   unprotected guest: every workload │ the same under local protection, every length │ unprotected again
//! ```
//!
//! A guest is committed locally from its start to its end, so each stretch has a guest of its own that boots anew.

use std::path::PathBuf;
use std::time::Duration;

use super::load::Sample;
use super::session::{GuestSpec, Session};
use super::sweep::{Plan, Sweep, row};
use crate::epoch::pacer::Length;
use crate::exit::Failure;

/// While the guest boots.
const BOOT_LENGTH: Length = Length::Fixed(Duration::from_millis(100));

/// In memory, as the product's default is.
fn state_dir() -> PathBuf {
    format!("/dev/shm/outlast-bench-{}", std::process::id()).into()
}

impl Sweep<'_> {
    /// Measures what is missing of a repetition.
    pub(super) fn measure_sessions(&mut self, plan: &mut Plan, repeat: u32) -> Result<(), Failure> {
        let missing: Vec<_> = plan.workloads.iter().map(|workload| self.missing(plan, workload.name, repeat)).collect();
        if missing.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let before = self.unprotected(plan)?;
        let mut seen = Vec::new();
        let session = self.boot(plan, GuestSpec { state_dir: Some(state_dir()), ..plan.spec.clone() })?;
        session.set_length(BOOT_LENGTH);
        for (index, lengths) in missing.iter().enumerate() {
            for &epoch in lengths {
                let workload = &mut plan.workloads[index];
                self.progress.begin(&format!("{} {}: a commit every {epoch}", plan.guest, workload.name));
                session.set_length(BOOT_LENGTH);
                workload.load.sample(&session, self.windows.base / 8)?;
                session.set_length(epoch.into());
                std::thread::sleep(self.windows.settle);
                session.stats().reset_distributions();
                let sample = workload.load.sample(&session, self.windows.protected)?;
                seen.push((index, epoch, sample, session.figures()));
            }
            plan.workloads[index].load.disconnect();
        }
        drop(session);
        let after = self.unprotected(plan)?;
        for (index, epoch, sample, figures) in seen {
            let name = plan.workloads[index].name;
            let row = row(self.key(plan, name, epoch, repeat), before[index], sample, after[index], figures);
            self.progress.done(&format!("{} {name} {epoch}", plan.guest), &format!("{:.3}", row.get("relative")));
            self.table.add(row)?;
        }
        Ok(())
    }

    fn boot(&mut self, plan: &Plan, spec: GuestSpec) -> Result<Session, Failure> {
        self.progress.begin(&format!("{}: boot", plan.guest));
        Session::boot(spec, &self.config.out.join("work"))
    }

    /// Every workload in a guest that is left alone.
    fn unprotected(&mut self, plan: &mut Plan) -> Result<Vec<Sample>, Failure> {
        let session = self.boot(plan, plan.spec.clone())?;
        let mut samples = Vec::new();
        for workload in &mut plan.workloads {
            self.progress.begin(&format!("{} {}: unprotected", plan.guest, workload.name));
            workload.load.sample(&session, self.windows.base / 4)?;
            samples.push(workload.load.sample(&session, self.windows.base)?);
            workload.load.disconnect();
        }
        Ok(samples)
    }
}
