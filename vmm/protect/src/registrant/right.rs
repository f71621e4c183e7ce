//! Why there is no right to run the guest here, in words.

use std::collections::BTreeSet;
use std::io;

use replication::view::{Incarnation, Place, Record, Refusal, WitnessId, evidence};

use crate::witness::{WitnessError, WitnessName};

/// Why there is no right to run the guest here. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum RightError {
    /// Which process on which host this is could not be determined.
    #[error("cannot write the state directory's lock or read this host's identity: {0}")]
    NoIdentity(#[source] io::Error),
    /// The witness cannot be used.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The witness does not answer.
    #[error("the witness {witness} does not answer, so whether {vm} runs elsewhere is not known: {why}")]
    NoAnswer {
        /// The witness.
        witness: WitnessName,
        /// The VM.
        vm: String,
        /// What came instead.
        why: String,
    },
    /// The witness answers with something that is no record.
    #[error("a record of {vm} at the witness {witness} is damaged: {why}")]
    Damaged {
        /// The witness.
        witness: WitnessName,
        /// The VM.
        vm: String,
        /// What is there.
        why: String,
    },
    /// The witness has lost records, or is another one.
    #[error("the witness {witness} does not have what was seen there before: it is another one, or was restored")]
    Forgotten {
        /// The witness.
        witness: WitnessName,
    },
    /// By what it says itself, the witness is another one.
    #[error("the register of {vm} is kept by cluster {expected}, and the witness {witness} is {}", of_witness(*found))]
    OtherWitness {
        /// The VM.
        vm: String,
        /// The witness.
        witness: WitnessName,
        /// The one that the register is kept by.
        expected: WitnessId,
        /// Which one it is, if it can say.
        found: Option<WitnessId>,
    },
    /// The register was continued at another witness.
    #[error("the witness of {vm} was exchanged: {witness} does not count any more")]
    Exchanged {
        /// The VM.
        vm: String,
        /// The old witness.
        witness: WitnessName,
        /// The new one, as it was given where the exchange was asked for; none: that is not known here.
        now: Option<String>,
    },
    /// Two registers were made of one.
    #[error(
        "{vm} has two registers of one generation: somebody overrode its witness twice, and two guests may have run"
    )]
    Rival {
        /// The VM.
        vm: String,
        /// The witness that was asked.
        witness: WitnessName,
    },
    /// An override that does not name every other listed place.
    #[error("an override for {vm} must name every other place that the newest view lists")]
    Unnamed {
        /// The VM.
        vm: String,
        /// All of them.
        listed: Vec<Place>,
    },
    /// An override that names the place that is to go on by it.
    #[error("{place} is the place that is to go on: an override names the others")]
    Own {
        /// That place.
        place: Box<Place>,
        /// The others.
        others: Vec<Place>,
    },
    /// An override could not begin.
    #[error("the register of this VM is not continued at another witness: {0}")]
    NoOverride(#[source] Box<super::ExchangeError>),
    /// The state directory is not where the guest ran last.
    #[error(
        "this state directory of {vm} was copied or moved: it may lack what was committed to the original since, and what clients \
         have seen"
    )]
    Copy {
        /// The VM.
        vm: String,
        /// What the newest record lists.
        listed: Vec<Place>,
    },
    /// The newest record has no place of that name.
    #[error("the newest record at the witness has no place {name}")]
    Unlisted {
        /// What was named.
        name: String,
        /// What the newest record lists.
        listed: Vec<Place>,
    },
    /// The last epoch of the guest is in this state directory: it is to be resumed, not booted.
    #[error("the last epoch of {vm} is in this state directory")]
    LastEpochHere {
        /// The VM.
        vm: String,
    },
    /// A backup that the newest record lists may have all of the guest.
    #[error("{vm} may be continued by its backup, {place}")]
    BackupMayBeWhole {
        /// The VM.
        vm: String,
        /// The backup.
        place: Box<Place>,
    },
    /// The rules of the register refuse it.
    #[error("{}", why(vm, witness, refusal))]
    Refused {
        /// The VM.
        vm: String,
        /// The witness.
        witness: WitnessName,
        /// By which rule.
        refusal: Refusal,
    },
}

pub(super) fn why(vm: &str, witness: &WitnessName, refusal: &Refusal) -> String {
    match refusal {
        Refusal::MayBeWhole { place } => format!("{vm} runs or may be continued elsewhere, by {place}"),
        Refusal::Elsewhere { place } => format!("{vm} ran last at another place, {place}: its newest disks are there"),
        Refusal::Primary { place } => format!("{vm} was continued by {place}; the copy here is older"),
        Refusal::Ended { place } => format!("{vm} has ended since, at {place}; the copy here is older"),
        Refusal::Moved { departure } => {
            format!("the register of {vm} at the witness {witness} was continued at another one, {}", departure.witness)
        }
        Refusal::CalledOff => format!("the register of {vm} is not continued at another witness"),
        Refusal::Taken { place } => {
            format!("the new witness already has a VM {vm} that runs or can be continued, {place}")
        }
        Refusal::Unknown => format!("the witness {witness} does not know {vm}, which was started with it"),
    }
}

pub(super) fn listed(record: &Record) -> Vec<Place> {
    record.places().cloned().collect()
}

/// The places that the operator means, of those that `newest` lists.
pub(super) fn named(newest: Option<&Record>, names: &[String]) -> Result<BTreeSet<Incarnation>, RightError> {
    named_of(newest.map_or_else(Vec::new, listed), names)
}

/// The places of `listed` that the operator means.
pub(super) fn named_of(listed: Vec<Place>, names: &[String]) -> Result<BTreeSet<Incarnation>, RightError> {
    evidence::named(&listed, names).map_err(|evidence::Unlisted { name }| RightError::Unlisted { name, listed })
}

pub(super) fn holder_of(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Primary { place }
        | Refusal::MayBeWhole { place }
        | Refusal::Elsewhere { place }
        | Refusal::Taken { place } => place.to_string(),
        Refusal::Moved { departure } => format!("a place that the witness {} names", departure.witness),
        Refusal::CalledOff => "nobody: what was asked for was called off".into(),
        Refusal::Ended { place } => format!("nobody: the guest has ended, at {place}"),
        Refusal::Unknown => "nobody".into(),
    }
}

fn of_witness(id: Option<WitnessId>) -> String {
    id.map_or_else(|| "one that cannot say which it is".into(), |id| format!("cluster {id}"))
}
