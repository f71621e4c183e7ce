//! A crash of the guest and what was tried against it, in a file of the state directory: `crash.json`.
//!
//! ```text
//!   (no file) ──crash──▶ Open ──policy──▶ GoingBack ──done──▶ Tried ──crash soon──▶ Open
//!                          │                                    └──crash much later──▶ Open, counted anew
//!                          └──stop, or nothing left──▶ Stopped
//! ```
//!
//! The file is written before the epoch in which the guest crashed is committed: a process that finds that epoch finds
//! the file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use replication::{EpochId, EpochName, Fork, Term};
use serde::{Deserialize, Serialize};
use snapshot::statedir::{self, Item};
use snapshot::within::Within;

use crate::exit::{Exit, Failure};
use machine::crash::Crash;

/// What is to be done, or was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Standing {
    /// The guest crashed; nothing was decided yet.
    Open,
    /// It is being rolled back to the last epoch of `tried`.
    GoingBack,
    /// It runs, after the last attempt.
    Tried,
    /// It was stopped for good.
    Stopped,
}

/// Milliseconds since 1970, until the year 10000.
pub(super) type UnixMs = Within<0, 253_402_300_800_000>;
/// Milliseconds that an attempt went back: a hundred years at most.
pub(super) type BackMs = Within<0, 3_155_760_000_000>;
/// Crashes that are counted; more count as so many.
pub(super) type Crashes = Within<0, 1_000_000>;

/// A crash, and the crashes that followed the attempts to avoid it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Incident {
    /// What happened last.
    pub(super) what: Crash,
    /// The number of the epoch that ran then.
    pub(super) epoch: EpochId,
    /// Its branch; none: it was written by a version before branches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) branch: Option<Term>,
    /// When, in milliseconds since 1970.
    pub(super) at_ms: UnixMs,
    /// How often it happened in this incident.
    pub(super) crashes: Crashes,
    /// Epochs that the guest was rolled back to in this incident, in this order.
    pub(super) tried: Vec<Fork>,
    /// How far back the last attempt went, in milliseconds before the crash; of a boot, nothing.
    pub(super) back_ms: BackMs,
    /// What is to be done, or was done.
    pub(super) standing: Standing,
}

impl From<Incident> for outlast_api::Incident {
    fn from(incident: Incident) -> Self {
        let epoch_id = incident.running().to_string();
        let Incident { what, epoch, branch: _, at_ms, crashes, tried, back_ms, standing } = incident;
        Self {
            what: what.into(),
            epoch: epoch.0,
            epoch_id,
            at_ms: at_ms.get(),
            crashes: crashes.get(),
            tried: tried.iter().map(|fork| fork.count().0).collect(),
            tried_ids: tried.iter().map(|fork| fork.name().to_string()).collect(),
            back_ms: back_ms.get(),
            standing: match standing {
                Standing::Open => outlast_api::Standing::Open,
                Standing::GoingBack => outlast_api::Standing::GoingBack,
                Standing::Tried => outlast_api::Standing::Tried,
                Standing::Stopped => outlast_api::Standing::Stopped,
            },
        }
    }
}

impl Incident {
    /// The epoch that ran.
    pub(super) fn running(&self) -> EpochName {
        EpochName { branch: self.branch, count: self.epoch }
    }

    /// The guest crashed in the running epoch `name`. `before` is what was known; `ran` how long the guest has run since the last attempt.
    pub(super) fn crashed(before: Option<Self>, what: Crash, name: EpochName, ran: Duration) -> Self {
        let EpochName { branch, count: epoch } = name;
        let at_ms = UnixMs::nearest(unix_ms());
        let (crashes, back_ms) = (Crashes::nearest(0), BackMs::nearest(0));
        let fresh = Self { what, epoch, branch, at_ms, crashes, tried: Vec::new(), back_ms, standing: Standing::Open };
        let again = before.filter(|before| before.standing == Standing::Tried && ran <= before.relapse());
        let before = again.unwrap_or(fresh);
        let crashes = Crashes::nearest(before.crashes.get() + 1);
        Self { what, epoch, branch, at_ms, crashes, standing: Standing::Open, ..before }
    }

    /// A crash within this time after an attempt is the same one come back. It is due after `back_ms`, if it depends on
    /// nothing but what the guest does; what it depends on besides may delay it.
    pub(super) fn relapse(&self) -> Duration {
        Duration::from_millis(2 * self.back_ms.get()) + Duration::from_secs(60)
    }
}

pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Reads what anybody may have written.
fn decode(text: &[u8]) -> Result<Incident, serde_json::Error> {
    serde_json::from_slice(text)
}

/// The incident of one state directory.
#[derive(Debug)]
pub(super) struct IncidentFile {
    dir: PathBuf,
}

impl IncidentFile {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.to_owned() }
    }

    pub(super) fn path(&self) -> PathBuf {
        Item::Crash.path_in(&self.dir)
    }

    /// What is known; `None` if nothing happened.
    pub(super) fn read(&self) -> Result<Option<Incident>, Failure> {
        let found = statedir::read(&self.dir, Item::Crash).map_err(|error| self.failed("read", &error))?;
        self.parse(found.as_deref())
    }

    /// What is known by the `text` that was found there.
    pub(super) fn parse(&self, text: Option<&[u8]>) -> Result<Option<Incident>, Failure> {
        text.map(decode).transpose().map_err(|error| {
            Failure::new(Exit::Incompatible, format!("{} is not a record of a crash: {error}", self.path().display()))
                .with_hint("put it back as it was; without it the guest continues as if it had not crashed")
        })
    }

    /// Replaces it; after a crash of this program, or of its host, it is the old one or the new one.
    pub(super) fn write(&self, incident: &Incident) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(incident).expect("an incident is plain data");
        statedir::replace(&self.dir, Item::Crash, &text).map_err(|error| self.failed("write", &error))
    }

    /// There is no incident any more.
    pub(super) fn forget(&self) -> Result<(), Failure> {
        statedir::remove(&self.dir, Item::Crash).map_err(|error| self.failed("remove", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        Failure::new(Exit::Error, format!("cannot {what} {}: {error}", self.path().display()))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
fn kept(count: u64) -> Fork {
    use replication::{ChainHash, EpochMark};
    Fork::Mark(EpochMark { branch: Term(3), count: EpochId(count), chain: ChainHash([7; 16]) })
}

#[cfg(any(test, feature = "fuzzing"))]
fn name(count: u64) -> EpochName {
    EpochName { branch: Some(Term(3)), count: EpochId(count) }
}

/// A record as it is written.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzing_valid() -> Vec<u8> {
    let incident = Incident::crashed(None, Crash::Panicked, name(100), Duration::from_secs(5));
    let tried = kept(80);
    let incident = Incident { standing: Standing::Tried, tried: vec![tried], back_ms: BackMs::nearest(7), ..incident };
    serde_json::to_vec_pretty(&incident).expect("an incident is plain data")
}

/// Reads any bytes as one, and counts the next crash on it.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzing_read(file: &[u8]) {
    let Ok(incident) = decode(file) else { return };
    assert!(incident.relapse() >= Duration::from_secs(60));
    let again = Incident::crashed(Some(incident), Crash::Panicked, name(200), Duration::ZERO);
    assert!(again.crashes.get() > 0);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tried(back_ms: u64) -> Incident {
        let first = Incident::crashed(None, Crash::Panicked, name(100), Duration::from_secs(5));
        Incident { standing: Standing::Tried, tried: vec![kept(80)], back_ms: BackMs::nearest(back_ms), ..first }
    }

    #[test]
    fn crash_soon_after_an_attempt_is_the_same_incident_and_much_later_another() {
        let again = Incident::crashed(Some(tried(1000)), Crash::TripleFault, name(200), Duration::from_secs(62));
        assert_eq!((again.crashes.get(), &again.tried[..], again.standing), (2, &[kept(80)][..], Standing::Open));
        assert_eq!((again.what, again.running()), (Crash::TripleFault, name(200)));
        let later = Incident::crashed(Some(tried(1000)), Crash::Panicked, name(200), Duration::from_millis(62_001));
        assert_eq!((later.crashes.get(), later.tried.len()), (1, 0));
    }

    #[test]
    fn what_was_stopped_or_never_decided_is_not_counted_on() {
        for standing in [Standing::Open, Standing::Stopped, Standing::GoingBack] {
            let before = Incident { standing, ..tried(1000) };
            assert_eq!(Incident::crashed(Some(before), Crash::Panicked, name(200), Duration::ZERO).crashes.get(), 1);
        }
    }

    #[test]
    fn numbers_that_no_crash_has_are_refused_when_they_are_read() {
        // They overflowed when the next crash was counted, or the time until it.
        let whole = serde_json::to_value(tried(7)).expect("plain data");
        for (field, value) in [
            ("back_ms", u64::MAX),
            ("back_ms", u64::MAX / 2),
            ("crashes", u64::from(u32::MAX)),
            ("epoch", u64::MAX),
            ("at_ms", u64::MAX),
        ] {
            let mut altered = whole.clone();
            altered[field] = value.into();
            decode(altered.to_string().as_bytes()).expect_err(field);
        }
        let mut altered = whole.clone();
        altered["tried"] = serde_json::json!([80, u64::MAX]);
        decode(altered.to_string().as_bytes()).expect_err("tried");
        let most = Incident { crashes: Crashes::nearest(u64::MAX), ..tried(u64::MAX) };
        let again = decode(&serde_json::to_vec(&most).expect("plain data")).expect("the largest that is allowed");
        let again = Incident::crashed(Some(again), Crash::Panicked, name(200), Duration::from_secs(1));
        assert_eq!(again.crashes, most.crashes);
        assert!(again.relapse() > Duration::from_secs(60));
    }

    /// As the version before branches wrote it.
    #[test]
    fn record_with_numbers_alone_is_read() {
        let text =
            br#"{"what":"panicked","epoch":100,"at_ms":5,"crashes":2,"tried":[80,70],"back_ms":7,"standing":"tried"}"#;
        let incident = decode(text).expect("a record of a crash");
        assert_eq!(incident.tried, [80, 70].map(|count| Fork::Number(EpochId(count))));
        assert_eq!((incident.running().to_string(), incident.crashes.get()), ("100".into(), 2));
    }

    #[test]
    fn written_incident_is_read_back_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = IncidentFile::of(dir.path());
        assert_eq!(file.read().expect("nothing is there"), None);
        let incident = tried(7);
        file.write(&incident).expect("written");
        assert_eq!(file.read().expect("readable"), Some(incident));
        file.forget().expect("removed");
        file.forget().expect("nothing is there");
        fs::write(file.path(), "{}").expect("written");
        assert!(file.read().expect_err("no record").message.contains("crash.json"));
    }
}
