//! What a resume does for a guest that crashed and goes back to an earlier epoch. Whether it does is decided in
//! [`replication::pipeline::resuming`].

use std::time::Instant;

use outlast_api::Occurrence;
use replication::Fork;
use replication::pipeline::resuming::CrashStanding;

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
    match incident.standing {
        Standing::GoingBack => {
            kept.iter().find(|kept| incident.tried.last().is_some_and(|to| is_it(kept, *to))).copied()
        }
        Standing::Open => choose(kept, incident),
        Standing::Tried | Standing::Stopped => None,
    }
}

/// The youngest from before the crash: the epoch that ended with it may be kept too. After an attempt, the youngest
/// that is older than what was tried. What was kept after the attempt does not count: the crash that has come back was
/// on its way then, for all that is known.
///
/// All of them are of one line: those that are kept are before the crash, and what was tried is where the line went on from.
pub(super) fn choose(kept: &[KeptEpoch], incident: &Incident) -> Option<KeptEpoch> {
    let (crashed, tried) = (Fork::Number(incident.epoch), incident.tried.last());
    let is_older = |kept: &KeptEpoch| tried.is_none_or(|tried| kept.fork.is_before(*tried));
    kept.iter().rev().find(|kept| kept.fork.is_before(crashed) && is_older(kept)).copied()
}

/// Whether that is the epoch that was tried. A version before branches noted its number.
fn is_it(kept: &KeptEpoch, tried: Fork) -> bool {
    match tried {
        Fork::Number(count) => kept.fork.count() == count,
        Fork::Mark(_) => kept.fork == tried,
    }
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

    /// The epoch that it goes back to.
    pub(super) fn to(&self) -> Fork {
        self.to
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use replication::{ChainHash, EpochId, EpochMark, EpochName, Term};

    use super::*;
    use machine::crash::Crash;

    fn mark(branch: u64, count: u64) -> Fork {
        Fork::Mark(EpochMark { branch: Term(branch), count: EpochId(count), chain: ChainHash([count as u8; 16]) })
    }

    /// Of a guest that was resumed after its second kept epoch.
    fn kept() -> Vec<KeptEpoch> {
        [mark(1, 10), mark(1, 20), mark(4, 30)].map(|fork| KeptEpoch { fork, age_ms: 1, bytes: 1 }).into()
    }

    fn incident(crashed: u64, tried: Option<Fork>) -> Incident {
        let running = EpochName { branch: Some(Term(4)), count: EpochId(crashed) };
        Incident {
            tried: tried.into_iter().collect(),
            ..Incident::crashed(None, Crash::Panicked, running, Duration::ZERO)
        }
    }

    fn chosen(crashed: u64, tried: Option<Fork>) -> Option<u64> {
        choose(&kept(), &incident(crashed, tried)).map(|kept| kept.fork.count().0)
    }

    #[test]
    fn youngest_is_chosen_and_after_an_attempt_an_older_one_until_none_is_left() {
        let tried = [None, Some(mark(4, 30)), Some(mark(1, 20)), Some(Fork::Number(EpochId(15))), Some(mark(1, 10))];
        assert_eq!(tried.map(|tried| chosen(35, tried)), [Some(30), Some(20), Some(10), Some(10), None]);
    }

    #[test]
    fn epoch_that_ended_with_the_crash_is_not_gone_back_to() {
        // It was the youngest where a second had passed since the one before it was kept: the guest went on behind its
        // report, and stood still for ever.
        assert_eq!([31, 30, 10].map(|crashed| chosen(crashed, None)), [Some(30), Some(20), None]);
    }

    #[test]
    fn attempt_that_was_broken_off_is_done_again_with_the_epoch_that_was_noted_and_no_other_of_its_number() {
        let going_back = |tried| Incident { standing: Standing::GoingBack, ..incident(35, Some(tried)) };
        let older = |tried| older(Some(&going_back(tried)), &kept()).map(|kept| kept.fork);
        assert_eq!([mark(1, 20), Fork::Number(EpochId(20))].map(older), [Some(mark(1, 20)); 2]);
        assert_eq!(older(mark(4, 20)), None);
    }
}
