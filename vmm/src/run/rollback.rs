//! What a resume does for a guest that crashed and goes back to an earlier epoch. Whether it does is decided in
//! [`replication::pipeline::resuming`].

use std::time::Instant;

use outlast_api::Occurrence;
use replication::Fork;
use replication::pipeline::resuming::{Attempts, CrashStanding};

use super::incident::{BackMs, Incident, IncidentFile, Standing, unix_ms};
use crate::config::CrashConfig;
use crate::exit::Failure;
use protect::events::Events;
use protect::local::{KeptEpoch, Limits, LocalStore, RETAIN_MAX, RetainCount};

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
    let attempts = Attempts { standing: standing_of(Some(incident)), crashed: incident.epoch, tried: &incident.tried };
    let forks: Vec<Fork> = kept.iter().map(|kept| kept.fork).collect();
    let to = attempts.older(&forks)?;
    kept.iter().find(|kept| kept.fork == to).copied()
}

/// The way of a guest back to an earlier epoch.
#[derive(Debug)]
pub(super) struct Return {
    file: IncidentFile,
    incident: Incident,
    to: Fork,
    began: Instant,
}

impl Return {
    /// After `incident`, to `kept`. One that was broken off is the same attempt.
    pub(super) fn new(file: IncidentFile, mut incident: Incident, kept: &KeptEpoch) -> Self {
        if incident.standing != Standing::GoingBack {
            let since_ms = unix_ms().saturating_sub(incident.at_ms.get());
            incident.back_ms = BackMs::nearest(kept.age_ms.saturating_sub(since_ms));
            incident.tried.push(kept.fork);
            incident.standing = Standing::GoingBack;
        }
        Self { file, incident, to: kept.fork, began: Instant::now() }
    }

    /// From here on the guest goes back, whoever resumes it.
    pub(super) fn note(&mut self) -> Result<(), Failure> {
        self.began = Instant::now();
        self.file.write(&self.incident)
    }

    /// It went back, as epoch `anew`; earlier epochs are not kept until the crash would have come back.
    pub(super) fn note_end(self, store: &mut LocalStore, anew: Fork, events: &Events) -> Result<(), Failure> {
        let Self { file, mut incident, to, began } = self;
        incident.standing = Standing::Tried;
        file.write(&incident)?;
        store.rest_earlier(incident.relapse());
        let attempt = incident.tried.len();
        tracing::warn!(
            epoch = %to.name(),
            anew = %anew.name(),
            attempt,
            back_ms = incident.back_ms.get(),
            "the guest was rolled back; what it acknowledged since is lost"
        );
        events.note(Occurrence::Rollback {
            epoch: to.count().0,
            epoch_id: to.name().to_string(),
            anew: anew.count().0,
            anew_id: anew.name().to_string(),
            attempt: attempt as u64,
            back_ms: incident.back_ms.get(),
            what: incident.what.into(),
            took_ms: began.elapsed().as_secs_f64() * 1e3,
        });
        Ok(())
    }
}
