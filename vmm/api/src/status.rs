//! How a VM is protected: what a primary says of itself, and what a backup says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::figures::{Counters, Distributions, Summary};

/// How a VM is protected; `role` says who answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Status {
    /// The guest runs here.
    Primary(Box<PrimaryStatus>),
    /// The guest runs elsewhere, and this side can take it over.
    Backup(Box<BackupStatus>),
}

impl Status {
    /// What is said of the VM on this host, whoever it is.
    pub fn host(&self) -> &Host {
        match self {
            Status::Primary(primary) => &primary.host,
            Status::Backup(backup) => &backup.host,
        }
    }

    /// `primary` or `backup`.
    pub fn role(&self) -> &'static str {
        match self {
            Status::Primary(_) => "primary",
            Status::Backup(_) => "backup",
        }
    }

    /// What a primary says.
    pub fn primary(self) -> Option<PrimaryStatus> {
        match self {
            Status::Primary(primary) => Some(*primary),
            Status::Backup(_) => None,
        }
    }

    /// What a backup says.
    pub fn backup(self) -> Option<BackupStatus> {
        match self {
            Status::Backup(backup) => Some(*backup),
            Status::Primary(_) => None,
        }
    }

    /// For how long the witness has not answered, in milliseconds.
    pub fn witness_away_ms(&self) -> Option<u64> {
        match self {
            Status::Primary(primary) => primary.protecting.witness_away_ms,
            Status::Backup(backup) => backup.following.witness_away_ms,
        }
    }

    /// A file without room that something waits for.
    pub fn disk_full(&self) -> Option<&str> {
        match self {
            Status::Primary(primary) => primary.protecting.disk_full.as_deref(),
            Status::Backup(backup) => backup.following.disk_full.as_deref(),
        }
    }

    /// What is allowed but risky, and what is wrong now, for people.
    pub fn warnings(&self) -> &[String] {
        &self.host().warnings
    }
}

/// The status of a primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrimaryStatus {
    /// Whom it ships to and how far that is.
    #[serde(flatten)]
    pub protecting: Protecting,
    /// Its epochs and what they cost.
    pub epochs: EpochFigures,
    /// How its console takes what is written to it.
    pub console: ConsoleStatus,
    /// What is on its host.
    #[serde(flatten)]
    pub host: Host,
}

/// The status of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupStatus {
    /// How far it follows.
    #[serde(flatten)]
    pub following: Following,
    /// What is on its host.
    #[serde(flatten)]
    pub host: Host,
}

/// What either role says of its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Name of the VM.
    pub name: String,
    /// Where the log of disk writes lies, if there is one.
    pub disk_log: Option<DiskLog>,
    /// The crash of the guest that is dealt with, or was last.
    pub incident: Option<Incident>,
    /// What is allowed but risky, and what is wrong now, for people.
    pub warnings: Vec<String>,
}

/// Where a log of disk writes lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskLog {
    /// Its file.
    pub path: String,
    /// The medium.
    pub on: String,
    /// What it survives.
    pub survives: String,
}

/// Whom a primary ships to and how far that is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Protecting {
    /// Where it stands with its backup.
    pub state: PrimaryState,
    /// What epochs in the state directory survive; absent if it takes none.
    pub local: Option<String>,
    /// How the state directory takes them: `undo` or `redo`.
    pub local_log: Option<String>,
    /// Epochs that the guest can be rolled back to.
    pub earlier: Vec<KeptEpoch>,
    /// The filling of a backup that is under way.
    pub filling: Option<Filling>,
    /// The figures of that filling, or of the last.
    #[serde(default)]
    pub filling_figures: FillingFigures,
    /// The share of its processors' time that the guest may use now, in percent; less than 100 only while a backup is filled.
    #[serde(default = "whole")]
    pub guest_percent: u8,
    /// Which life of the guest this is, counted by the witness.
    pub term: u64,
    /// The backup that is wanted.
    pub target: Option<String>,
    /// The pointers as an inequality, for people.
    pub pointers: String,
    /// The last epoch whose output was released.
    pub released: u64,
    /// The last epoch that ended.
    pub sealed: u64,
    /// The last epoch that the backup has.
    pub acked: Option<u64>,
    /// Epochs that the backup has not acknowledged.
    pub in_flight_epochs: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// How long ago the oldest epoch ended that is not committed everywhere, in milliseconds; absent if all are.
    #[serde(default)]
    pub uncommitted_ms: Option<u64>,
    /// What peers said that they must not.
    pub peer_errors: u64,
    /// The witness.
    pub witness: String,
    /// For how long it has not answered, in milliseconds.
    pub witness_away_ms: Option<u64>,
    /// Why the guest went on with no backup, the last time that it did.
    pub solo_reason: Option<String>,
    /// Why the backup is not reached.
    pub connect_error: Option<String>,
    /// A file without room that something waits for.
    pub disk_full: Option<String>,
}

fn whole() -> u8 {
    100
}

/// Where a primary stands with its backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrimaryState {
    /// No backup.
    Solo,
    /// A backup is being greeted.
    Greeting,
    /// Whether the backup sees the same witness is being looked at.
    Meeting,
    /// The backup is being filled.
    Syncing,
    /// The base is sealed and not acknowledged: output waits.
    Basing,
    /// The backup is whole and follows.
    Protected,
    /// The backup is lost, and the witness decides: output waits.
    Arbitrating,
    /// The backup has the guest.
    Fenced,
    /// The guest ended.
    Ended,
}

/// An epoch that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptEpoch {
    /// Its number.
    pub epoch: u64,
    /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub epoch_id: String,
    /// Since its end, in milliseconds.
    pub age_ms: u64,
    /// Of its file.
    pub bytes: u64,
}

/// The filling of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Filling {
    /// Where it is.
    pub phase: String,
    /// For how long it has done nothing, in milliseconds.
    pub idle_ms: u64,
    /// How it proceeds.
    #[serde(flatten)]
    pub figures: FillingFigures,
    /// What is done, for people.
    pub doing: String,
}

/// How a filling proceeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FillingFigures {
    /// The round of memory.
    pub round: u32,
    /// Bytes sent of memory and disks.
    pub sent_bytes: u64,
    /// Bytes to send in this round, or of disks to compare.
    pub left_bytes: u64,
    /// How fast they are sent.
    pub bytes_per_s: Option<u64>,
    /// How fast the guest wrote during the last round.
    pub dirty_bytes_per_s: Option<u64>,
    /// How long until the base, in seconds; absent: never, or not known.
    pub estimate_s: Option<f64>,
    /// Rounds leave less and less.
    pub converges: bool,
    /// The share of its processors' time that the guest gets meanwhile.
    pub guest_percent: u8,
}

/// Epochs and what they cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpochFigures {
    /// The epoch that runs.
    pub running: u64,
    /// Its branch and number, as `3/78`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub running_id: String,
    /// How pages are captured.
    pub capture: Capture,
    /// The length of epochs now, in milliseconds.
    pub length_ms: f64,
    /// Output that is held.
    pub held_bytes: u64,
    /// Repeated kicks of processors that had not stopped for a boundary.
    #[serde(default)]
    pub gate_rekicks: u64,
    /// Since the start of the program.
    pub counts: Counters<u64>,
    /// Since the start of the program, or the last reset.
    #[serde(flatten)]
    pub distributions: Distributions<Summary>,
}

/// How pages are captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capture {
    /// What was asked for.
    pub mode: String,
    /// Why the host refuses it; pages are copied in the pause then.
    pub refused: Option<String>,
}

/// How a console takes what is written to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleStatus {
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// For how long it has taken nothing although something waits, in milliseconds.
    pub stopped_ms: u64,
    /// Bytes that it refused: what it shows has gaps.
    pub lost_bytes: u64,
    /// Why it refuses them now, if it does.
    pub refusal: Option<String>,
}

/// How far a backup follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Following {
    /// Where it stands with its primary.
    pub state: BackupState,
    /// The pointers as an inequality, for people.
    pub pointers: String,
    /// Epochs applied since its start.
    pub epochs_applied: u64,
    /// Bytes received and not applied.
    pub waiting_bytes: u64,
    /// What peers said that they must not.
    pub peer_errors: u64,
    /// It has a whole copy and follows.
    pub can_take_over: bool,
    /// The copy that was kept when another side won the guest.
    pub kept: Option<KeptCopy>,
    /// The witness.
    pub witness: String,
    /// For how long it has not answered, in milliseconds.
    pub witness_away_ms: Option<u64>,
    /// A file without room that something waits for.
    pub disk_full: Option<String>,
}

/// Where a backup stands with its primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupState {
    /// No primary.
    #[default]
    Waiting,
    /// A primary is here; its machine is checked.
    Greeting,
    /// Memory and disks are being filled. No takeover is possible.
    Syncing,
    /// Whole, and following.
    Protected,
    /// The primary is lost; the witness decides.
    Claiming,
    /// Another side has the guest; the last epochs are being applied, to be kept.
    Keeping,
    /// The operator overrides the witness; it is being told.
    Overriding,
    /// The last epochs are being applied, to be run.
    TakingOver,
    /// The guest runs here.
    TookOver,
    /// The guest ended, or the backup left.
    Ended,
}

/// A copy that a backup keeps although another side has the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptCopy {
    /// Its last epoch.
    pub epoch: u64,
    /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub epoch_id: String,
    /// Who has the guest.
    pub guest_is_at: String,
}

/// A crash of the guest, and the crashes that followed the attempts to avoid it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// What happened last.
    pub what: Crash,
    /// The epoch that ran then.
    pub epoch: u64,
    /// Its branch and number, as `3/78`; its number alone where a version before branches wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub epoch_id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How often it happened in this incident.
    pub crashes: u64,
    /// Epochs that the guest was rolled back to, in this order.
    pub tried: Vec<u64>,
    /// Their branches and numbers, as `3/78`.
    #[serde(default)]
    pub tried_ids: Vec<String>,
    /// How far back the last attempt went, in milliseconds before the crash.
    pub back_ms: u64,
    /// What is to be done, or was done.
    pub standing: Standing,
}

/// How a guest crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Crash {
    /// Its kernel said so.
    Panicked,
    /// A processor shut down.
    TripleFault,
    /// Its watchdog ran out.
    Watchdog,
}

/// What is done about a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Nothing was decided yet.
    Open,
    /// The guest is being rolled back.
    GoingBack,
    /// It runs, after the last attempt.
    Tried,
    /// It was stopped for good.
    Stopped,
}
