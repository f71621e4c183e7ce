//! The records of all VMs' registers, as keys of an etcd cluster.
//!
//! ```text
//! outlast/NAME/view/N      the record N, its number in twenty digits: made once, never changed, never removed
//! outlast/NAME/dead-ID     statements, as in a directory
//! outlast/NAME/void-JOIN
//! outlast/NAME/met-NONCE   what one side leaves for the other to find, while they meet
//! ```
//!
//! To append record N is one transaction: if there is no N, and there is N - 1, then N is made. Of many that append to one
//! number exactly one succeeds, and there is no gap. Reads are linearizable, so each goes through a majority. No leases,
//! no watches, no time.
//!
//! Requests go through etcd's JSON gateway (3.4 or newer) to the first address that answers ([`gateway`]); one that is silent is not
//! waited for. After an error nobody knows
//! whether a request took place, so an append is followed by a look. Every answer says which cluster gave it: for records that goes to
//! the register's core, which compares; all else is of the cluster that answered first, or no answer. A record goes to no other cluster
//! than the one that it names.

mod address;
mod credentials;
mod error;
mod gateway;
mod message;
mod roster;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use replication::view::evidence::Statement;
use replication::view::{Entry, Excerpt, Nonce, Record, RecordHash, WitnessId};

use self::address::Target;
pub use self::error::EtcdError;
use self::gateway::{Dialogue, Gateway};
use self::message::{Compare, Header, Op, Pair, Put, Range, Txn, decode, encode};
use super::name::Kind;
use super::shared::{SharedWitness, Store};
use super::{Facts, Trial, WitnessError, random};

pub(super) static KIND: Kind = Kind {
    name: "etcd",
    usage: "etcd:URL[,URL…][,credentials=DIR]",
    check: |place| {
        let place = place.ok_or_else(|| "addresses are missing".to_owned())?;
        place.parse::<Target>().map(drop).map_err(|error| error.to_string())
    },
    with_paths: |place, change| {
        let Ok(Target { addresses, credentials }) = place.parse() else { return place.to_owned() };
        let credentials = credentials.map(|dir: PathBuf| change(dir));
        // A name that is not text cannot be written down: the directory stays as it was typed.
        match credentials.as_deref().map(Path::to_str) {
            Some(None) => place.to_owned(),
            _ => Target { addresses, credentials }.to_string(),
        }
    },
    open: |place| Ok(Some(Arc::new(open(place)?))),
    failed,
};

/// For all addresses and requests of a call together: two addresses that hang, and one that answers.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(6);
const PAGE_RECORDS: u32 = 256;

fn open(place: &str) -> Result<SharedWitness<Cluster>, WitnessError> {
    let target = place.parse().map_err(|error| failed(place, io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    SharedWitness::open(ANSWER_TIME_MAX, move || Ok(Cluster::new(Gateway::new(target)?)))
        .map_err(|source| failed(place, source))
}

fn failed(place: &str, source: io::Error) -> WitnessError {
    WitnessError::Etcd { addresses: place.to_owned(), source }
}

/// An etcd cluster. Clones share their connections.
#[derive(Clone, Debug)]
struct Cluster {
    gateway: Gateway,
    /// The one that answered first.
    first: Arc<OnceLock<u64>>,
}

impl Store for Cluster {
    /// Writes, reads and removes a key, as an append will.
    fn probe(&self) -> io::Result<()> {
        let key = format!("outlast/.probe-{}", Nonce(random()));
        self.put(&key, b"probe\n")?;
        let found = self.has(&key)?;
        self.delete(&key)?;
        if found { Ok(()) } else { Err(io::Error::other("what was written there is not found")) }
    }

    fn trial(&self) -> io::Result<Trial> {
        let key = format!("outlast/.trial-{}", Nonce(random()));
        let mut dialogue = Dialogue::default();
        let begun = Instant::now();
        self.make(&mut dialogue, Put::new(&key, b"one\n"), vec![Compare::created(&key, "EQUAL")])?;
        let appended = Instant::now();
        let read = || self.post::<message::Found>("kv/range", &Range::of_key(&key));
        read()?;
        let (append, read_time) = (appended - begun, appended.elapsed());
        self.make(&mut dialogue, Put::new(&key, b"two\n"), vec![Compare::created(&key, "EQUAL")])?;
        let found = read()?.kvs.pop().map(|pair| pair.value);
        self.delete(&key)?;
        match found == Some(encode("one\n")) {
            true => Ok(Trial { append, read: read_time, id: self.id_of(&dialogue) }),
            false => Err(wrong("a key that was made once is not what it was made as".into())),
        }
    }

    fn facts(&self) -> io::Result<Facts> {
        Ok(Facts::Cluster((0..self.gateway.target.addresses.len()).map(|at| self.gateway.member(at)).collect()))
    }

    fn newest(&self, vm: &str) -> io::Result<Excerpt> {
        let range = Range { limit: Some(1), sort_order: Some("DESCEND"), ..of_records(vm, 0) };
        let mut dialogue = Dialogue::default();
        let found: message::Found = self.gateway.post(&mut dialogue, "kv/range", &range)?;
        let entries = found.kvs.into_iter().map(|pair| entry(vm, pair)).collect::<io::Result<_>>()?;
        Ok(Excerpt { by: self.id_of(&dialogue), entries })
    }

    fn from(&self, vm: &str, first: u64) -> io::Result<Excerpt> {
        let (mut dialogue, mut entries) = (Dialogue::default(), Vec::<Entry>::new());
        loop {
            let next = first.saturating_add(entries.len() as u64);
            let range = Range { limit: Some(PAGE_RECORDS), sort_order: Some("ASCEND"), ..of_records(vm, next) };
            let found: message::Found = self.gateway.post(&mut dialogue, "kv/range", &range)?;
            let is_empty = found.kvs.is_empty();
            for pair in found.kvs {
                let entry = entry(vm, pair)?;
                let expected = first.saturating_add(entries.len() as u64);
                if entry.record.number != expected {
                    return Err(wrong(format!("record {expected} of {vm} is missing: somebody removed it")));
                }
                entries.push(entry);
            }
            if !found.more {
                return Ok(Excerpt { by: self.id_of(&dialogue), entries });
            }
            if is_empty {
                return Err(wrong(format!("there is more of {vm}, and none of it is given")));
            }
        }
    }

    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Excerpt> {
        let put = self.put_record(vm, record);
        // Whether it took place is seen by reading it back, after an error too.
        let found = Store::from(self, vm, first)?;
        match put {
            Err(error) if found.entries.iter().all(|entry| entry.record.number != record.number) => Err(error),
            _ => Ok(found),
        }
    }

    fn leave(&self, vm: &str, nonce: Nonce) -> io::Result<()> {
        self.put(&meeting_key(vm, nonce), b"met\n")
    }

    fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool> {
        self.has(&meeting_key(vm, nonce))
    }

    fn take_away(&self, vm: &str, nonce: Nonce) -> io::Result<()> {
        self.delete(&meeting_key(vm, nonce))
    }

    fn state(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.put(&statement_key(vm, statement), b"stated\n")
    }

    fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.delete(&statement_key(vm, statement))
    }

    fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool> {
        self.has(&statement_key(vm, statement))
    }
}

impl Cluster {
    fn new(gateway: Gateway) -> Self {
        Self { gateway, first: Arc::default() }
    }

    fn put_record(&self, vm: &str, record: &Record) -> io::Result<()> {
        let key = record_key(vm, record.number);
        let absent = Compare::created(&key, "EQUAL");
        let there = (record.number > 1).then(|| Compare::created(&record_key(vm, record.number - 1), "GREATER"));
        let value = serde_json::to_vec_pretty(record).expect("a record has string keys only");
        let mut dialogue = Dialogue { cluster: record.witness.map(|id| id.0) };
        self.make(&mut dialogue, Put::new(&key, &value), std::iter::once(absent).chain(there).collect())
    }

    /// Writes a key if all that is compared holds.
    fn make(&self, dialogue: &mut Dialogue, put: Put, compare: Vec<Compare>) -> io::Result<()> {
        let probe = Range { serializable: true, ..Range::of_key("outlast/") };
        let txn = Txn { compare, success: vec![Op { request_put: put }] };
        self.gateway.write::<Header>(dialogue, ("kv/txn", &txn), ("kv/range", &probe)).map(drop)
    }

    fn put(&self, key: &str, value: &[u8]) -> io::Result<()> {
        self.post::<Header>("kv/put", &Put::new(key, value)).map(drop)
    }

    fn has(&self, key: &str) -> io::Result<bool> {
        Ok(!self.post::<message::Found>("kv/range", &Range::of_key(key))?.kvs.is_empty())
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.post::<Header>("kv/deleterange", &Range::of_key(key)).map(drop)
    }

    /// What is no record is of the cluster that answered first.
    fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &'static str,
        request: &impl serde::Serialize,
    ) -> io::Result<T> {
        let mut dialogue = Dialogue { cluster: self.first.get().copied() };
        let answer = self.gateway.post(&mut dialogue, path, request)?;
        self.id_of(&dialogue);
        Ok(answer)
    }

    /// The cluster that answered.
    fn id_of(&self, dialogue: &Dialogue) -> Option<WitnessId> {
        let id = dialogue.cluster?;
        self.first.get_or_init(|| id);
        Some(WitnessId(id))
    }
}

fn wrong(what: String) -> io::Error {
    EtcdError::Garbled(what).into()
}

/// A record as it is there: a value that is none proves nothing, so it is an error and not the end.
fn entry(vm: &str, pair: Pair) -> io::Result<Entry> {
    let key = decode(&pair.key).ok().and_then(|key| String::from_utf8(key).ok());
    let key = key.ok_or_else(|| wrong("a key that was not asked for".into()))?;
    let failed = |why: String| wrong(format!("{key}: {why}"));
    let bytes = decode(&pair.value).map_err(|error| failed(error.to_string()))?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    if key != record_key(vm, record.number) {
        return Err(failed(format!("it is record {}", record.number)));
    }
    Ok(Entry { record, hash: RecordHash::of(&bytes) })
}

/// The records from `first` on.
fn of_records(vm: &str, first: u64) -> Range {
    // The character behind the slash ends the range.
    let range_end = Some(encode(format!("outlast/{vm}/view0")));
    Range { range_end, ..Range::of_key(&record_key(vm, first)) }
}

fn record_key(vm: &str, number: u64) -> String {
    format!("outlast/{vm}/view/{number:020}")
}

fn meeting_key(vm: &str, nonce: Nonce) -> String {
    format!("outlast/{vm}/met-{nonce}")
}

fn statement_key(vm: &str, statement: Statement) -> String {
    match statement {
        Statement::Dead(id) => format!("outlast/{vm}/dead-{id}"),
        Statement::Void(join) => format!("outlast/{vm}/void-{join}"),
    }
}

#[cfg(test)]
mod guarded_tests;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod server;
#[cfg(test)]
mod tests;
