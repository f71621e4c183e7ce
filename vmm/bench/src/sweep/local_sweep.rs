//! The sweep of local checkpoints: run time relative to the unprotected guest, over the time between two commits.
//!
//! ```text
//!   unprotected guest │ the same work under local protection, every length │ unprotected again        for each workload
//! ```
//!
//! A guest is committed locally from its start to its end, so each stretch boots a new guest.

use std::path::PathBuf;
use std::time::Duration;

use crate::load::Sample;
use crate::session::{GuestSpec, Session};
use crate::sweep::{Plan, Sweep, row};
use protect::epoch::pace::Length;
use vmm::config::EpochLength;
use vmm::exit::Failure;

/// While the guest boots.
const BOOT_LENGTH: Length = Length::Fixed(Duration::from_millis(100));

/// In memory, as the product's default is.
fn state_dir() -> PathBuf {
    format!("/dev/shm/outlast-bench-{}", std::process::id()).into()
}

impl Sweep<'_> {
    /// Measures what is missing of a repetition, one workload after the other: what is done is kept.
    pub(crate) fn measure_sessions(&mut self, plan: &mut Plan, repeat: u32) -> Result<(), Failure> {
        for index in 0..plan.workloads.len() {
            let missing = self.missing(plan, plan.workloads[index].name, repeat);
            if !missing.is_empty() {
                self.compare_sessions(plan, index, &missing, repeat)?;
            }
        }
        Ok(())
    }

    fn compare_sessions(
        &mut self,
        plan: &mut Plan,
        index: usize,
        lengths: &[EpochLength],
        repeat: u32,
    ) -> Result<(), Failure> {
        let name = plan.workloads[index].name;
        let before = self.unprotected(plan, index)?;
        let session = self.boot(plan, GuestSpec { state_dir: Some(state_dir()), ..plan.spec.clone() })?;
        let mut seen = Vec::new();
        for &epoch in lengths {
            self.progress.begin(&format!("{} {name}: a commit every {epoch}", plan.guest));
            let load = &mut plan.workloads[index].load;
            session.set_length(BOOT_LENGTH);
            load.sample(&session, self.windows.base / 8)?;
            session.set_length(epoch.into());
            std::thread::sleep(self.windows.settle);
            session.stats().reset_distributions();
            let sample = load.sample(&session, self.windows.protected)?;
            seen.push((epoch, sample, session.figures()));
        }
        plan.workloads[index].load.disconnect();
        drop(session);
        let after = self.unprotected(plan, index)?;
        for (epoch, sample, figures) in seen {
            let row = row(self.key(plan, name, epoch, repeat), before, sample, after, figures);
            self.progress.done(&format!("{} {name} {epoch}", plan.guest), &format!("{:.3}", row.get("relative")));
            self.table.add(row)?;
        }
        Ok(())
    }

    fn boot(&mut self, plan: &Plan, spec: GuestSpec) -> Result<Session, Failure> {
        self.progress.begin(&format!("{}: boot", plan.guest));
        let session = Session::boot(spec, &self.config.out.join("work"))?;
        session.set_length(BOOT_LENGTH);
        Ok(session)
    }

    /// One workload in a guest that is left alone.
    fn unprotected(&mut self, plan: &mut Plan, index: usize) -> Result<Sample, Failure> {
        let session = self.boot(plan, plan.spec.clone())?;
        let workload = &mut plan.workloads[index];
        self.progress.begin(&format!("{} {}: unprotected", plan.guest, workload.name));
        workload.load.sample(&session, self.windows.base / 4)?;
        let sample = workload.load.sample(&session, self.windows.base)?;
        workload.load.disconnect();
        Ok(sample)
    }
}
