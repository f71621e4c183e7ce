//! What a resume does for a guest that crashed and goes back to an earlier epoch. Whether it does is decided in
//! [`replication::pipeline::resuming`].

use std::time::Instant;

use outlast_api::Occurrence;
use replication::EpochId;
use replication::pipeline::resuming::CrashStanding;
use snapshot::disk::OverlayDisk;

use super::incident::{BackMs, Incident, IncidentFile, Standing, unix_ms};
use crate::config::CrashConfig;
use crate::exit::Failure;
use protect::events::Events;
use protect::local::{Anew, KeptEpoch, LastEpoch, Limits, LocalStore, RETAIN_MAX, RetainCount};

/// What is kept of earlier epochs.
pub(super) fn limits_of(crash: &CrashConfig) -> Option<Limits> {
    crash.retain.map(|retain| Limits { count: retain.epochs, bytes: retain.bytes })
}

/// The same while it is not decided what comes of a crash: a guest that is going back needs what was kept for that, whatever is
/// configured now.
pub(super) fn limits_until_back(crash: &CrashConfig, incident: Option<&Incident>) -> Option<Limits> {
    let all = Limits { count: RetainCount::nearest(RETAIN_MAX), bytes: u64::MAX };
    limits_of(crash).or_else(|| (standing_of(incident) == CrashStanding::GoingBack).then_some(all))
}

/// How a crash stands, if there was one.
pub(super) fn standing_of(incident: Option<&Incident>) -> CrashStanding {
    incident.map_or(CrashStanding::None, |incident| match incident.standing {
        Standing::Open => CrashStanding::Open,
        Standing::GoingBack => CrashStanding::GoingBack,
        Standing::Tried => CrashStanding::Tried,
        Standing::Stopped => CrashStanding::Stopped,
    })
}

/// The epoch that the guest of `incident` goes back to, of those that are kept; none: there is none, or it does not go back.
pub(super) fn older(incident: Option<&Incident>, kept: &[KeptEpoch]) -> Option<KeptEpoch> {
    let incident = incident?;
    let last = incident.tried.last().copied();
    match incident.standing {
        Standing::GoingBack => kept.iter().find(|kept| last.is_some_and(|to| kept.epoch == to.0)).cloned(),
        Standing::Open => choose(kept, incident.epoch, last),
        Standing::Tried | Standing::Stopped => None,
    }
}

/// The youngest from before the crash: the epoch that ended with it may be kept too. After an attempt, the youngest
/// that is older than what was tried. What was kept after the attempt does not count: the crash that has come back was
/// on its way then, for all that is known.
pub(super) fn choose(kept: &[KeptEpoch], crashed: EpochId, tried: Option<EpochId>) -> Option<KeptEpoch> {
    let is_before = |kept: &KeptEpoch| kept.epoch < crashed.0 && tried.is_none_or(|tried| kept.epoch < tried.0);
    kept.iter().rev().find(|kept| is_before(kept)).cloned()
}

/// The way of a guest back to an earlier epoch.
#[derive(Debug)]
pub(super) struct Return {
    file: IncidentFile,
    incident: Incident,
    to: EpochId,
    began: Instant,
}

impl Return {
    /// After `incident`, to `kept`. One that was broken off is the same attempt.
    pub(super) fn new(file: IncidentFile, mut incident: Incident, kept: &KeptEpoch) -> Self {
        if incident.standing != Standing::GoingBack {
            let since_ms = unix_ms().saturating_sub(incident.at_ms.get());
            incident.back_ms = BackMs::nearest(kept.age_ms.saturating_sub(since_ms));
            incident.tried.push(EpochId(kept.epoch));
            incident.standing = Standing::GoingBack;
        }
        Self { file, incident, to: EpochId(kept.epoch), began: Instant::now() }
    }

    /// From here on the guest goes back, whoever resumes it.
    pub(super) fn note(&mut self) -> Result<(), Failure> {
        self.began = Instant::now();
        self.file.write(&self.incident)
    }

    /// Puts memory and disks back, to which the log of their writes was applied. That is committed as epoch `anew`.
    pub(super) fn perform(
        &self,
        store: &mut LocalStore,
        anew: Anew,
        disks: &[OverlayDisk],
    ) -> Result<LastEpoch, Failure> {
        Ok(store.go_back(self.to, anew, disks)?)
    }

    /// It went back, as epoch `anew`; earlier epochs are not kept until the crash would have come back.
    pub(super) fn note_end(self, store: &mut LocalStore, anew: EpochId, events: &Events) -> Result<(), Failure> {
        let Self { file, mut incident, to, began } = self;
        incident.standing = Standing::Tried;
        file.write(&incident)?;
        store.rest_earlier(incident.relapse());
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
            took_ms: began.elapsed().as_secs_f64() * 1e3,
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
