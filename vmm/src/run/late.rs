//! A boundary that does not come: a vCPU stays in the host's kernel, for storage that hangs, or in KVM.
//!
//! Nothing is committed meanwhile, nothing leaves, and the backup hears a primary that lives. So the operator is told, and may
//! have chosen that the guest goes on elsewhere (`--on-boundary-late hand-over`): this program then ends as if it had crashed. Or that
//! its backup is let go (`unprotect`), by the same claim as when the operator says so: what was sealed is released once the
//! register does not list the backup any more, and not before.

use std::time::Duration;

use outlast_api::Occurrence;

use crate::config::OnBoundaryLate;
use machine::Machine;
use machine::gate::Late;
use protect::Guardian;
use protect::events::Events;

/// What is late.
const LATE: Duration = Duration::from_secs(2);
/// What is too late for the policy to wait.
const TOO_LATE: Duration = Duration::from_secs(10);

/// Tells of a gate that does not close, once, and that it closed after all.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    policy: OnBoundaryLate,
    told: Option<Duration>,
    /// The policy was carried out in this lateness.
    is_done: bool,
}

impl Lateness {
    pub(super) fn with(policy: OnBoundaryLate) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Looks at the gate of `machine`.
    pub(super) fn look(&mut self, machine: &Machine, guardian: &Guardian, events: &Events) {
        if !self.is_too_late(machine.gate().late(), events) || machine.ended().is_some() {
            return;
        }
        let why = format!("for {} s a virtual processor has not come out of the host's kernel", TOO_LATE.as_secs());
        match self.policy {
            OnBoundaryLate::Continue => {}
            OnBoundaryLate::HandOver => {
                machine.fail(format!("{why}: the guest is left to its backup, or to `outlast resume`"));
            }
            OnBoundaryLate::Unprotect => {
                tracing::warn!("{why}: its backup is let go, as --on-boundary-late says");
                guardian.unprotect(&why);
            }
        }
    }

    /// Tells what there is to tell. Whether the policy is to be carried out, which is once in a lateness.
    fn is_too_late(&mut self, late: Option<Late>, events: &Events) -> bool {
        let Some(Late { time, vcpus }) = late.filter(|late| late.time >= LATE) else {
            self.is_done = false;
            if let Some(time) = self.told.take() {
                events.note(Occurrence::BoundaryCame { late_ms: time.as_millis() as u64 });
            }
            return false;
        };
        if self.told.replace(time).is_none() {
            tracing::warn!(vcpus, "the guest cannot be stopped: look at the storage of its disks");
            events.note(Occurrence::BoundaryLate { late_ms: time.as_millis() as u64, vcpus: vcpus as u64 });
        }
        self.policy != OnBoundaryLate::Continue && time >= TOO_LATE && !std::mem::replace(&mut self.is_done, true)
    }
}

/// For an operator: what is late now.
pub(super) fn warning(machine: &Machine) -> Option<String> {
    let Late { time, vcpus } = machine.gate().late().filter(|late| late.time >= LATE)?;
    Some(format!(
        "for {} s {vcpus} virtual processors have not come out of the host's kernel: nothing is committed meanwhile; look at the storage of the disks",
        time.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(time: Duration) -> Option<Late> {
        Some(Late { vcpus: 1, time })
    }

    fn names(events: &Events) -> Vec<String> {
        events.since(0).into_iter().map(|event| event.occurrence.name()).collect()
    }

    #[test]
    fn late_boundary_is_told_once_and_that_it_came() {
        let (mut lateness, events) = (Lateness::default(), Events::new(None));
        for ms in [0, 1999, 2000, 3000, 60_000] {
            assert!(!lateness.is_too_late(late(Duration::from_millis(ms)), &events), "its operator has it wait");
        }
        assert_eq!(names(&events), ["boundary-late"]);
        assert!(!lateness.is_too_late(None, &events));
        assert!(!lateness.is_too_late(None, &events));
        assert_eq!(names(&events), ["boundary-late", "boundary-came"]);
    }

    #[test]
    fn policy_is_carried_out_once_in_a_lateness_and_when_it_is_too_late() {
        for policy in [OnBoundaryLate::HandOver, OnBoundaryLate::Unprotect] {
            let (mut lateness, events) = (Lateness::with(policy), Events::new(None));
            for _ in 0..2 {
                assert!(!lateness.is_too_late(late(TOO_LATE - Duration::from_millis(1)), &events));
                assert!(lateness.is_too_late(late(TOO_LATE), &events));
                assert!(!lateness.is_too_late(late(2 * TOO_LATE), &events));
                assert!(!lateness.is_too_late(None, &events));
            }
        }
    }
}
