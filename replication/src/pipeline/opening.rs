//! What whoever opens a guest's images for writing does with them and with their log, before anything is read from them.
//!
//! ```text
//!   Sync ─▶ ReadAfresh ─▶ Examine ─▶ Apply ─▶ Sync ─▶ BeginLog ─▶ open
//! ```
//!
//! A kernel that cannot write a page to its medium says so once, to whoever syncs the file next, and takes the page for written from
//! then on: it is read from memory as if it were on the medium, and a later sync succeeds without it. So a process knows nothing of an
//! image that another one wrote before it. It syncs the image, which puts on the medium what can be put there; then it has the host
//! forget what it holds in memory. What it reads after that is on the medium, or was written since by itself.
//!
//! - Nothing is compared, applied or shown before the images are read afresh.
//! - The log is emptied only behind a sync of the images that came after its records were applied to them, also where a process
//!   before noted that they had them: what was noted may be what was lost.
//! - A step that fails ends it: the images are not used, and their log stays as it is.

/// What is done next. Each of them can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningStep {
    /// Sync the images.
    Sync,
    /// Have the host forget what it holds of them in memory.
    ReadAfresh,
    /// Look whether the log is for them. Nothing is changed.
    Examine,
    /// Put what the log has into them, up to the epoch that the guest continues from.
    Apply,
    /// Begin the log anew, without records.
    BeginLog,
}

const ORDER: [OpeningStep; 6] = [
    OpeningStep::Sync,
    OpeningStep::ReadAfresh,
    OpeningStep::Examine,
    OpeningStep::Apply,
    OpeningStep::Sync,
    OpeningStep::BeginLog,
];

/// Images that are being opened. Dropped, when a step failed.
#[derive(Debug, Default)]
pub struct Opening {
    given: usize,
}

impl Opening {
    /// What is done next, now that all that was given before is done; none: they are open.
    pub fn poll_step(&mut self) -> Option<OpeningStep> {
        let step = ORDER.get(self.given).copied();
        self.given += usize::from(step.is_some());
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_before_the_host_forgot_and_the_log_is_emptied_behind_a_sync() {
        let mut opening = Opening::default();
        let steps: Vec<_> = std::iter::from_fn(|| opening.poll_step()).collect();
        let at = |step| steps.iter().position(|given| *given == step).expect("it is done");
        assert!(at(OpeningStep::Sync) < at(OpeningStep::ReadAfresh));
        assert!(
            at(OpeningStep::ReadAfresh) < at(OpeningStep::Examine) && at(OpeningStep::Examine) < at(OpeningStep::Apply)
        );
        let [.., applied, synced, begun] = steps[..] else { panic!("{steps:?}") };
        assert_eq!([applied, synced, begun], [OpeningStep::Apply, OpeningStep::Sync, OpeningStep::BeginLog]);
        assert_eq!(opening.poll_step(), None, "and that once");
    }
}
