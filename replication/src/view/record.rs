//! What the register holds.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

use crate::id::{SessionId, bytes_of_hex, hex_id};
use crate::lineage::Fork;

hex_id! {
    /// Tells this register from every other one.
    RegisterId
}
hex_id! {
    /// One life of a place: a process, or a store from its making to its removal.
    Incarnation
}
hex_id! {
    /// One try to append: whose record it is that stands there.
    Attempt
}
hex_id! {
    /// The digest of a record as the witness stores it.
    RecordHash
}
hex_id! {
    /// A fresh random value that one side leaves at the witness for the other to find.
    Nonce
}

/// What tells one witness from another, where it can say: of an etcd cluster its id. That two are equal proves nothing, since
/// a register can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(try_from = "String", into = "String")]
pub struct WitnessId(pub u64);

impl fmt::Display for WitnessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<WitnessId> for String {
    fn from(id: WitnessId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for WitnessId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = is_hex.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        id.map(WitnessId).ok_or("not 16 hexadecimal digits")
    }
}

impl RecordHash {
    /// The digest of a record's bytes. It finds another record in its place, not a forger.
    pub fn of(bytes: &[u8]) -> RecordHash {
        RecordHash(xxh3_128(bytes).to_be_bytes())
    }
}

mod join {
    //! A join id, stored like the other random numbers.

    use super::*;

    pub(super) fn serialize<S: Serializer>(id: &SessionId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SessionId, D::Error> {
        let text = String::deserialize(deserializer)?;
        bytes_of_hex(&text).map(SessionId).ok_or_else(|| serde::de::Error::custom("not 32 hexadecimal digits"))
    }
}

/// Whether the guest may be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It runs, or can be continued by a place that the record lists.
    Running,
    /// It was stopped, or it ended. Anybody may start it afresh.
    Ended,
}

/// What kind of place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaceKind {
    /// The memory of a process: gone with it.
    Process,
    /// A state directory: it outlasts the process that writes it.
    Store,
}

/// Where a place is, so that its death can be proved there and an operator can find it. Compared by nobody here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The host's name, for people.
    pub host: String,
    /// What tells the host from others, across its boots; empty if nothing does.
    pub machine: String,
    /// The boot of that host.
    pub boot: String,
    /// The lock file that its process holds, an absolute path on that host.
    pub lock: String,
}

impl Location {
    /// Whether both are of one host, as far as they tell. For an operator: nothing is proved by it.
    pub fn is_same_host(&self, other: &Location) -> bool {
        match (self.machine.is_empty(), other.machine.is_empty()) {
            (false, false) => self.machine == other.machine,
            _ => !self.host.is_empty() && self.host == other.host,
        }
    }
}

/// Where a VM's state can survive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its life. This alone decides which is which.
    pub id: Incarnation,
    /// Its kind.
    pub kind: PlaceKind,
    /// Where to look for it.
    pub location: Location,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PlaceKind::Process => "process",
            PlaceKind::Store => "state directory",
        };
        write!(f, "{kind} {} on host {}", &self.id.to_string()[..8], self.location.host)
    }
}

/// How durable an epoch is at a place that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// It outlasts the other places.
    Memory,
    /// It outlasts a loss of power too.
    Disk,
}

/// What an operator answers for: why a record was appended although listed places might have continued the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// The user, and the host.
    pub who: String,
    /// The reason, as it was given; empty if none was.
    pub why: String,
    /// In seconds since 1970, by that host's clock. It decides nothing.
    pub at: u64,
}

/// Where a register ends that is continued at another witness.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departure {
    /// The other witness, as it is given to `--witness`.
    pub witness: String,
    /// The register there.
    pub register: RegisterId,
    /// Its generation.
    pub generation: u64,
}

/// A backup that could succeed the primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Where.
    pub place: Place,
    /// Under which pairing it was filled. A backup that returns gets another.
    #[serde(with = "join")]
    pub join: SessionId,
}

/// One view: the content of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The register that it is of.
    pub register: RegisterId,
    /// How many registers this VM has had, with this one. A higher one counts more.
    #[serde(default = "first_generation", skip_serializing_if = "is_first_generation")]
    pub generation: u64,
    /// For each register that this one continues, the last record that it kept; the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Known>,
    /// Its place at the witness, counted from 1.
    pub number: u64,
    /// So many views are not counted by `number`: those of the registers that this one continues.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub views_before: u64,
    /// The record before it at this witness; zeros in the first.
    pub previous: RecordHash,
    /// Who tried to append it, and when: one try.
    pub attempt: Attempt,
    /// Whether the guest may be continued.
    pub standing: Standing,
    /// Who runs it.
    pub primary: Place,
    /// The primary's state directory, if epochs are committed to one.
    pub store: Option<Place>,
    /// Backups that may be whole.
    pub backups: Vec<Member>,
    /// The commit rule: an epoch is committed when the state directory has it and every listed backup does, from its base on, this
    /// durably. A record of a version before 7 does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// The view that began this line of history.
    pub branch: u64,
    /// The line that it left, if it continues one.
    pub parent: Option<u64>,
    /// The last epoch that it keeps of its parent.
    pub fork: Option<Fork>,
    /// Places that an operator named as dead, so that this record could be appended.
    pub named_dead: Vec<Incarnation>,
    /// The witness that it was appended to, if that can say which one it is. Earlier versions did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessId>,
    /// Who named them, when, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<Word>,
    /// Where the register is continued: nothing more is appended to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Departure>,
}

fn first_generation() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_first_generation(generation: &u64) -> bool {
    *generation == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Record {
    /// The first record of a VM's first register: `primary` runs it.
    pub fn first(register: RegisterId, attempt: Attempt, primary: Place) -> Record {
        Record {
            register,
            generation: first_generation(),
            ancestors: Vec::new(),
            number: 1,
            views_before: 0,
            previous: RecordHash::default(),
            attempt,
            standing: Standing::Running,
            primary,
            store: None,
            backups: Vec::new(),
            durability: None,
            branch: 1,
            parent: None,
            fork: None,
            named_dead: Vec::new(),
            witness: None,
            word: None,
            moved: None,
        }
    }

    /// The number of this view, over all registers that the VM has had. What is later has a higher one.
    pub fn view(&self) -> u64 {
        self.views_before.saturating_add(self.number)
    }

    /// Whether the register of this record continues one from `known` or from a later record of it.
    pub fn continues(&self, known: &Known) -> bool {
        let of = |kept: &&Known| kept.register == known.register;
        let is_kept = |kept: &Known| kept.number > known.number || kept == known;
        self.ancestors.iter().rfind(of).is_some_and(is_kept)
    }

    /// Whether it is of that register, or of one that continues it.
    pub fn is_of_line(&self, register: RegisterId) -> bool {
        self.register == register || self.ancestors.iter().any(|kept| kept.register == register)
    }

    /// Every place that it lists, the primary first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let backups = self.backups.iter().map(|member| &member.place);
        std::iter::once(&self.primary).chain(&self.store).chain(backups)
    }
}

/// A record as the witness has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The record.
    pub record: Record,
    /// The digest of its bytes there.
    pub hash: RecordHash,
}

/// What a witness answered: a part of the register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// Which one it is, if it can say.
    pub by: Option<WitnessId>,
    /// The records of it, in order.
    pub entries: Vec<Entry>,
}

impl From<Vec<Entry>> for Excerpt {
    /// An answer of a witness that cannot say which one it is.
    fn from(entries: Vec<Entry>) -> Self {
        Self { by: None, entries }
    }
}

/// The newest record that a node has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The register.
    pub register: RegisterId,
    /// The register's generation.
    #[serde(default = "first_generation", skip_serializing_if = "is_first_generation")]
    pub generation: u64,
    /// The record's number.
    pub number: u64,
    /// Its digest.
    pub hash: RecordHash,
}

impl Known {
    /// What a node knows that has seen `entry`.
    pub fn of(entry: &Entry) -> Known {
        let Record { register, generation, number, .. } = entry.record;
        Known { register, generation, number, hash: entry.hash }
    }

    /// Whether whoever knows `other` knows more.
    pub fn is_before(&self, other: &Known) -> bool {
        (self.generation, self.number) < (other.generation, other.number)
    }

    /// Whether the two are of registers that stand beside each other: somebody overrode a register twice.
    pub fn is_rival_of(&self, other: &Known) -> bool {
        // Of the first generation are all that were begun afresh, one after the other, and no override made them.
        self.generation > 1 && self.generation == other.generation && self.register != other.register
    }
}

/// What a primary says of its register in a Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Greeting {
    /// The newest record that it has seen.
    pub known: Known,
    /// Who it is in that record.
    pub primary: Incarnation,
    /// What it left at the witness for this backup to find.
    pub nonce: Nonce,
}
