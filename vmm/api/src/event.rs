//! What an operator should hear of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Crash;

/// Something that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number, from 0, without gaps.
    pub seq: u64,
    /// Microseconds since the program started.
    pub time_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub occurrence: Occurrence,
}

/// What happened, and what there is to say about it: `{"event": NAME, "properties": {…}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", content = "properties", rename_all = "kebab-case")]
pub enum Occurrence {
    /// A guest is booted or restored from a snapshot.
    Booting {
        /// The VM.
        name: String,
        /// Its processors.
        cpus: u8,
    },
    /// A guest continues from its state directory.
    Resumed {
        /// The VM.
        name: String,
        /// The epoch that it continues after.
        epoch: u64,
        /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        epoch_id: String,
        /// Outputs that are emitted again.
        reemitted: u64,
        /// How long it took, in milliseconds.
        restore_ms: f64,
    },
    /// A guest went back to an earlier epoch, because it crashed.
    Rollback {
        /// The epoch that it went back to.
        epoch: u64,
        /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        epoch_id: String,
        /// The number that this state has from now on.
        #[serde(rename = "as")]
        anew: u64,
        /// The same with its branch.
        #[serde(rename = "as_id", default, skip_serializing_if = "String::is_empty")]
        anew_id: String,
        /// How many attempts this crash has had.
        attempt: u64,
        /// How far back, in milliseconds before the crash.
        back_ms: u64,
        /// How it crashed.
        what: Crash,
        /// How long it took, in milliseconds.
        took_ms: f64,
    },
    /// A guest is booted anew, because it crashed.
    Reset {
        /// How many crashes this incident has had.
        attempt: u64,
    },
    /// The guest crashed.
    GuestPanic {
        /// How.
        what: Crash,
        /// The epoch that ran.
        epoch: u64,
        /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        epoch_id: String,
        /// What is done about it.
        policy: String,
        /// Crashes in this incident.
        crashes: u64,
    },
    /// The guest stands still.
    Paused {
        /// Who wanted that.
        by: String,
        /// It was paused before this program ran it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        before: bool,
    },
    /// The guest runs again.
    Unpaused {},
    /// The VM is over.
    Ended {
        /// How, for people.
        how: String,
    },
    /// A backup listens for a primary.
    Waiting {
        /// Where.
        listen: String,
    },
    /// A backup is being filled.
    ResyncStarted {
        /// On the primary: its term.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        term: Option<u64>,
        /// On the backup: the program that fills it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        primary: Option<String>,
    },
    /// A filling does nothing.
    ResyncStalled {
        /// In which phase.
        phase: String,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// The guest writes faster than its backup is filled.
    ResyncDiverging {
        /// The round of memory.
        round: u32,
        /// Bytes left in it.
        left_bytes: u64,
        /// How fast they are sent.
        bytes_per_s: Option<u64>,
        /// How fast the guest writes.
        dirty_bytes_per_s: Option<u64>,
        /// The share of its processors' time that the guest gets meanwhile.
        guest_percent: u8,
    },
    /// A backup was filled.
    ResyncFinished {
        /// Rounds of memory.
        rounds: u32,
        /// Pages sent.
        pages: u64,
        /// Bytes sent.
        bytes: u64,
        /// How long it took, in milliseconds.
        ms: u64,
        /// Why the rounds ended.
        end: Option<String>,
        /// Bytes left to the base.
        left_bytes: u64,
        /// How long the base was to take, in milliseconds.
        estimated_pause_ms: Option<u64>,
        /// The share of its processors' time that the guest had at the end.
        guest_percent: u8,
    },
    /// A backup could not be filled.
    ResyncFailed {
        /// In which phase.
        phase: String,
        /// Why.
        error: String,
    },
    /// A complete backup follows.
    Protected {
        /// On the backup: the epoch of the base.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        /// Its branch and number, as `3/78`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch_id: Option<String>,
    },
    /// The backup is lost.
    PeerLost {
        /// The witness is asked for the guest.
        claiming: bool,
    },
    /// Protection by a backup is being ended.
    Unprotecting {},
    /// The guest continues with no backup.
    Solo {
        /// Why.
        reason: String,
    },
    /// A place does not protect the guest any more.
    Degraded {
        /// Which: `local`.
        protection: String,
        /// Why.
        reason: String,
    },
    /// No connection to the backup.
    BackupUnreachable {
        /// Where it was looked for.
        target: Option<String>,
        /// Why.
        error: String,
    },
    /// A peer said what it must not, and was sent away.
    PeerError {
        /// On a primary: where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// On a primary: what was wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// On a backup: what was wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A primary that does not fit was sent away.
    Refused {
        /// Why.
        reason: String,
    },
    /// The witness does not answer.
    WitnessAway {
        /// The witness.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        witness: Option<String>,
        /// The backup that cannot be filled meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// What went wrong with that backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The VM's register is continued at another witness: that one counts, and no other.
    WitnessExchanged {
        /// It.
        witness: String,
    },
    /// An exchange of the witness came to nothing.
    WitnessKept {
        /// The one that counts, as before.
        witness: String,
        /// Why, where the backup said it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The witness answers again.
    WitnessBack {
        /// The witness.
        witness: String,
    },
    /// Another side has the guest: it is stopped here.
    Fenced {
        /// Who has it.
        holder: String,
    },
    /// An operator has the guest handed over to its backup: it stands still.
    SwitchoverStarted {},
    /// The guest was handed over, and runs elsewhere.
    SwitchoverFinished {
        /// Who has it.
        holder: String,
        /// How long it stood still, at most, in milliseconds.
        stood_ms: f64,
    },
    /// The guest was not handed over.
    SwitchoverCalledOff {
        /// Why.
        reason: String,
    },
    /// A backup begins to take the guest over.
    FailoverStarted {
        /// For how long the primary was not heard, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silence_ms: Option<u64>,
        /// The places that the operator named dead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        named_dead: Option<Vec<String>>,
    },
    /// A backup runs the guest.
    FailoverFinished {
        /// The last epoch of the primary that counts.
        epoch: u64,
        /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        epoch_id: String,
        /// Outputs that are emitted again.
        reemitted: u64,
        /// Inputs that are delivered again.
        redelivered: u64,
        /// How long the restore took, in milliseconds.
        restore_ms: f64,
        /// From the loss to the running guest, in milliseconds.
        takeover_ms: f64,
        /// The new term.
        term: u64,
    },
    /// Another side has the guest; the copy here is kept.
    Kept {
        /// Its last epoch.
        epoch: u64,
        /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        epoch_id: String,
        /// Who has the guest.
        holder: String,
    },
    /// A backup gave up its copy.
    Discarded {
        /// Why.
        reason: String,
    },
    /// A backup that is to stop decides about the guest first.
    StopDeferred {
        /// What it does.
        state: String,
    },
    /// The guest's disk request failed.
    DiskFailed {
        /// How.
        error: String,
    },
    /// There is no room for disk writes: they wait.
    DiskFull {
        /// Where.
        path: String,
    },
    /// There is room again.
    DiskHasRoom {
        /// Where.
        path: String,
    },
    /// Somebody changed the length of an image.
    DiskResized {
        /// Which.
        path: String,
        /// Its length when it was opened.
        was_bytes: u64,
        /// Its length now.
        now_bytes: u64,
    },
    /// The console refuses bytes, which are lost.
    ConsoleLost {
        /// How many so far.
        lost_bytes: u64,
        /// Why.
        reason: String,
    },
    /// The console takes bytes again.
    ConsoleBack {
        /// How many were lost.
        lost_bytes: u64,
    },
    /// The guest cannot be stopped for a boundary.
    BoundaryLate {
        /// For how long, in milliseconds.
        late_ms: u64,
        /// Processors that do not come out.
        vcpus: u64,
    },
    /// The guest was stopped after all.
    BoundaryCame {
        /// For how long it could not be, in milliseconds.
        late_ms: u64,
    },
    /// Earlier epochs were dropped.
    EarlierGivenUp {
        /// How many are left.
        left: u64,
        /// Why.
        reason: String,
    },
}

impl Occurrence {
    /// The witness went away, or came back.
    pub fn of_witness(witness: &str, is_away: bool) -> Self {
        match is_away {
            true => Self::WitnessAway { witness: Some(witness.into()), target: None, error: None },
            false => Self::WitnessBack { witness: witness.into() },
        }
    }

    /// What happened, as `event` says it.
    pub fn name(&self) -> String {
        match serde_json::to_value(self).expect("an occurrence is plain data")["event"].take() {
            serde_json::Value::String(name) => name,
            other => unreachable!("its tag is a text and not {other}"),
        }
    }

    /// Every name that there is.
    pub fn names() -> Vec<String> {
        let schema = schemars::schema_for!(Self).to_value();
        let variants = schema["oneOf"].as_array().expect("an enum is one of its variants");
        let name = |variant: &serde_json::Value| variant["properties"]["event"]["const"].as_str().map(String::from);
        variants.iter().map(|variant| name(variant).expect("a variant has its name")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_variants() {
        let names = Occurrence::names();
        for occurrence in [
            Occurrence::Unpaused {},
            Occurrence::Protected { epoch: None, epoch_id: None },
            Occurrence::EarlierGivenUp { left: 1, reason: "x".into() },
        ] {
            assert!(names.contains(&occurrence.name()), "{occurrence:?}");
        }
        let mut once = names.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), names.len(), "a name twice");
    }

    #[test]
    fn occurrence_without_properties_has_an_empty_object() {
        let json = serde_json::to_string(&Occurrence::Protected { epoch: None, epoch_id: None }).expect("plain data");
        assert_eq!(json, r#"{"event":"protected","properties":{}}"#);
    }
}
