//! What a resume does for a guest that crashed: it goes back to an earlier epoch first, or it does not continue the
//! guest.

use std::time::Instant;

use outlast_api::Occurrence;
use replication::EpochId;
use snapshot::disk::OverlayDisk;

use super::incident::{BackMs, Incident, IncidentFile, Standing, unix_ms};
use crate::config::{OnGuestPanic, VmConfig};
use crate::exit::{Exit, Failure};
use protect::events::Events;
use protect::local::{Anew, KeptEpoch, Limits, LocalStore};

/// What is kept of earlier epochs.
pub(super) fn limits_of(config: &VmConfig) -> Option<Limits> {
    config.retain.map(|retain| Limits { count: retain.epochs, bytes: retain.bytes })
}

/// An epoch to go back to, and why.
#[derive(Debug)]
pub(super) struct Back {
    incident: Incident,
    to: EpochId,
}

/// Whether the guest continues (`None`), goes back, or was stopped for good, which is the failure.
pub(super) fn decide(
    policy: OnGuestPanic,
    file: &IncidentFile,
    store: &mut LocalStore,
) -> Result<Option<Back>, Failure> {
    let Some(incident) = file.read()? else { return Ok(None) };
    match (incident.standing, incident.tried.last()) {
        (Standing::Tried, _) => {
            store.rest_earlier(incident.relapse());
            Ok(None)
        }
        (Standing::GoingBack, Some(&to)) if store.earlier().iter().any(|kept| kept.epoch == to.0) => {
            Ok(Some(Back { incident, to }))
        }
        (Standing::GoingBack, _) => Err(half_way(file, &incident)),
        (Standing::Open, last) if policy == OnGuestPanic::Rollback => {
            match choose(&store.earlier(), incident.epoch, last.copied()) {
                Some(kept) => begin(file, incident, &kept).map(Some),
                None => {
                    let incident = Incident { standing: Standing::Stopped, ..incident };
                    file.write(&incident)?;
                    Err(stopped(file, &incident))
                }
            }
        }
        _ => Err(stopped(file, &incident)),
    }
}

/// The youngest from before the crash: the epoch that ended with it may be kept too. After an attempt, the youngest
/// that is older than what was tried. What was kept after the attempt does not count: the crash that has come back was
/// on its way then, for all that is known.
pub(super) fn choose(kept: &[KeptEpoch], crashed: EpochId, tried: Option<EpochId>) -> Option<KeptEpoch> {
    let is_before = |kept: &KeptEpoch| kept.epoch < crashed.0 && tried.is_none_or(|tried| kept.epoch < tried.0);
    kept.iter().rev().find(|kept| is_before(kept)).cloned()
}

fn begin(file: &IncidentFile, mut incident: Incident, kept: &KeptEpoch) -> Result<Back, Failure> {
    let since_ms = unix_ms().saturating_sub(incident.at_ms.get());
    incident.back_ms = BackMs::nearest(kept.age_ms.saturating_sub(since_ms));
    incident.tried.push(EpochId(kept.epoch));
    incident.standing = Standing::GoingBack;
    file.write(&incident)?;
    Ok(Back { incident, to: EpochId(kept.epoch) })
}

fn stopped(file: &IncidentFile, incident: &Incident) -> Failure {
    let Incident { what, epoch, crashes, tried, .. } = incident;
    let mut message = format!("the guest crashed in epoch {epoch}: {what}");
    if !tried.is_empty() {
        let tried: Vec<String> = tried.iter().map(EpochId::to_string).collect();
        let tried = tried.join(", ");
        message = format!(
            "{message}; it crashed {} times, was rolled back to {tried}, and no older epoch is kept",
            crashes.get()
        );
    }
    Failure::new(Exit::GuestCrashed, message).with_hint(format!(
        "its last epoch is kept; to continue from there all the same, remove {} and use `outlast resume`; to give \
         the guest up, remove the directory",
        file.path().display()
    ))
}

/// What it was to go back to survived the death of the process, and it was more that happened.
fn half_way(file: &IncidentFile, incident: &Incident) -> Failure {
    let what = format!(
        "the guest crashed in epoch {}, and its rollback was half done when the earlier epoch went missing",
        incident.epoch
    );
    Failure::new(Exit::Incompatible, what).with_hint(format!(
        "it cannot continue: memory and disks are of two moments; remove {} with its directory",
        file.path().display()
    ))
}

impl Back {
    /// Puts memory and disks back, to which the log of their writes was applied. That is committed as epoch `anew`.
    pub(super) fn perform(
        self,
        file: &IncidentFile,
        mut store: LocalStore,
        anew: Anew,
        disks: &mut [OverlayDisk],
        events: &Events,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let Self { mut incident, to } = self;
        store.go_back(to, anew, disks)?;
        let anew = anew.count;
        incident.standing = Standing::Tried;
        file.write(&incident)?;
        let attempt = incident.tried.len();
        tracing::warn!(
            epoch = to.0,
            attempt,
            back_ms = incident.back_ms.get(),
            "the guest was rolled back; what it acknowledged since is lost"
        );
        events.note(Occurrence::Rollback {
            epoch: to.0,
            anew: anew.0,
            attempt: attempt as u64,
            back_ms: incident.back_ms.get(),
            what: incident.what.into(),
            took_ms: started.elapsed().as_secs_f64() * 1e3,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn youngest_is_chosen_and_after_an_attempt_an_older_one_until_none_is_left() {
        let kept: Vec<KeptEpoch> = [10, 20, 30].map(|epoch| KeptEpoch { epoch, age_ms: 1, bytes: 1 }).into();
        let chosen = |tried: Option<u64>| choose(&kept, EpochId(35), tried.map(EpochId)).map(|kept| kept.epoch);
        assert_eq!(
            [None, Some(30), Some(20), Some(15), Some(10)].map(chosen),
            [Some(30), Some(20), Some(10), Some(10), None]
        );
    }

    #[test]
    fn epoch_that_ended_with_the_crash_is_not_gone_back_to() {
        // It was the youngest where a second had passed since the one before it was kept: the guest went on behind its
        // report, and stood still for ever.
        let kept: Vec<KeptEpoch> = [10, 20, 30].map(|epoch| KeptEpoch { epoch, age_ms: 1, bytes: 1 }).into();
        assert_eq!(
            [31, 30, 10].map(|crashed| choose(&kept, EpochId(crashed), None).map(|kept| kept.epoch)),
            [Some(30), Some(20), None]
        );
    }
}
