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
//! Requests go through etcd's JSON gateway (3.4 or newer) to the first address that answers. After an error nobody knows
//! whether a request took place, so an append is followed by a look. Every answer says which cluster gave it, and all must
//! be the same one: two addresses of different clusters would be two witnesses.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use replication::view::evidence::Statement;
use replication::view::{Entry, Nonce, Record, RecordHash};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::Agent;

use super::WitnessError;
use super::name::Kind;
use super::shared::{SharedWitness, Store};

pub(super) static KIND: Kind = Kind {
    name: "etcd",
    usage: "etcd:http://HOST:PORT[,http://HOST:PORT…]",
    is_place: |place| place.is_some_and(|addresses| addresses.parse::<Addresses>().is_ok()),
    with_paths: |place, _| place.to_owned(),
    open: |place| Ok(Some(Arc::new(open(place)?))),
};

/// For all addresses and requests of a call together: two addresses that hang, and one that answers.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(6);
/// For one address. A cluster that lost its leader answers again after one to two seconds, and does not answer until then.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// An answer has [`PAGE_RECORDS`] records at most, each far smaller than 16 KiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const PAGE_RECORDS: u32 = 256;
/// An error's text that is passed on.
const ERROR_CHARS_MAX: usize = 300;

/// Client addresses of an etcd cluster, written `http://HOST:PORT[,http://HOST:PORT…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addresses(Vec<String>);

/// Text that is no list of client addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no client address of etcd: write http://HOST:PORT, and several with commas between them")]
struct NoAddress(String);

impl FromStr for Addresses {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let checked = |address: &str| {
            let place = address.strip_prefix("http://").map(|place| place.trim_end_matches('/'));
            let port = place.and_then(|place| place.rsplit_once(':')).and_then(|(host, port)| {
                let is_host = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
                port.parse::<u16>().ok().filter(|port| is_host && *port != 0)
            });
            port.map(|_| address.trim_end_matches('/').to_owned()).ok_or_else(|| NoAddress(address.to_owned()))
        };
        text.split(',').map(checked).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

fn open(place: &str) -> Result<SharedWitness<Cluster>, WitnessError> {
    let failed = |source| WitnessError::Etcd { addresses: place.to_owned(), source };
    let addresses = place.parse().map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    SharedWitness::open(ANSWER_TIME_MAX, move || Ok(Cluster::new(addresses))).map_err(failed)
}

/// An etcd cluster. Clones share their connections.
#[derive(Clone, Debug)]
struct Cluster {
    addresses: Addresses,
    agent: Agent,
    /// The one that answered first.
    id: Arc<OnceLock<u64>>,
    /// Which address answered last.
    answers: Arc<AtomicUsize>,
}

impl Store for Cluster {
    /// Writes, reads and removes a key, as an append will.
    fn probe(&self) -> io::Result<()> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let key = format!("outlast/.probe-{}", id.trim());
        self.put(&key, b"probe\n")?;
        let found = self.has(&key)?;
        self.delete(&key)?;
        if found { Ok(()) } else { Err(io::Error::other("what was written there is not found")) }
    }

    fn newest(&self, vm: &str) -> io::Result<Option<Entry>> {
        let range = Range { limit: Some(1), sort_order: Some("DESCEND"), ..Range::of_records(vm, 0) };
        let found = self.post::<Found>("kv/range", &range)?;
        found.kvs.into_iter().next().map(|pair| entry(vm, pair)).transpose()
    }

    fn from(&self, vm: &str, first: u64) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let next = first.saturating_add(entries.len() as u64);
            let range = Range { limit: Some(PAGE_RECORDS), sort_order: Some("ASCEND"), ..Range::of_records(vm, next) };
            let found = self.post::<Found>("kv/range", &range)?;
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
                return Ok(entries);
            }
            if is_empty {
                return Err(wrong(format!("there is more of {vm}, and none of it is given")));
            }
        }
    }

    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Vec<Entry>> {
        let put = self.put_record(vm, record);
        // Whether it took place is seen by reading it back, after an error too.
        let found = self.from(vm, first)?;
        match put {
            Err(error) if found.iter().all(|entry| entry.record.number != record.number) => Err(error),
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
    fn new(addresses: Addresses) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_global(Some(REQUEST_TIME_MAX))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        Self { addresses, agent: config.new_agent(), id: Arc::default(), answers: Arc::default() }
    }

    fn put_record(&self, vm: &str, record: &Record) -> io::Result<()> {
        let absent = Compare::created(&record_key(vm, record.number), "EQUAL");
        let there = (record.number > 1).then(|| Compare::created(&record_key(vm, record.number - 1), "GREATER"));
        let value = serde_json::to_vec_pretty(record).expect("a record has string keys only");
        let put = Put { key: encode(&record_key(vm, record.number)), value: BASE64.encode(value) };
        let txn =
            Txn { compare: std::iter::once(absent).chain(there).collect(), success: vec![Op { request_put: put }] };
        self.post::<Header>("kv/txn", &txn).map(drop)
    }

    fn put(&self, key: &str, value: &[u8]) -> io::Result<()> {
        self.post::<Header>("kv/put", &Put { key: encode(key), value: BASE64.encode(value) }).map(drop)
    }

    fn has(&self, key: &str) -> io::Result<bool> {
        Ok(!self.post::<Found>("kv/range", &Range::of_key(key))?.kvs.is_empty())
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.post::<Header>("kv/deleterange", &Range::of_key(key)).map(drop)
    }

    /// The answer of the first address that gives one, beginning with the one that gave the last.
    fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> io::Result<T> {
        let body = serde_json::to_vec(request).expect("a request has string keys only");
        let (count, first) = (self.addresses.0.len(), self.answers.load(Ordering::Relaxed));
        let mut failed = None;
        for at in (0..count).map(|n| (first + n) % count) {
            let address = &self.addresses.0[at];
            match self.post_to(address, path, &body) {
                Ok(bytes) => {
                    self.answers.store(at, Ordering::Relaxed);
                    return self.accept(address, &bytes);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.expect("there is at least one address"))
    }

    fn post_to(&self, address: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let said = |error: ureq::Error| match error {
            ureq::Error::Io(error) => io::Error::new(error.kind(), format!("{address}: {error}")),
            ureq::Error::Timeout(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
            other => io::Error::other(format!("{address}: {other}")),
        };
        let mut answer = self.agent.post(format!("{address}/v3/{path}")).send(body).map_err(said)?;
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(said)?;
        if answer.status().is_success() {
            return Ok(bytes);
        }
        let text: String = String::from_utf8_lossy(&bytes).trim().chars().take(ERROR_CHARS_MAX).collect();
        Err(io::Error::other(format!("{address} answers {}: {text}", answer.status())))
    }

    /// An answer, if it is of the cluster that answered before.
    fn accept<T: DeserializeOwned>(&self, address: &str, bytes: &[u8]) -> io::Result<T> {
        let unread = |error: serde_json::Error| wrong(format!("{address} does not answer as etcd does: {error}"));
        let Header { header } = serde_json::from_slice(bytes).map_err(unread)?;
        let id: u64 = header.cluster_id.parse().map_err(|_| wrong(format!("{address} names no cluster")))?;
        let first = *self.id.get_or_init(|| id);
        if id != first {
            return Err(wrong(format!("{address} is of cluster {id:x}, and another answer was of {first:x}")));
        }
        serde_json::from_slice(bytes).map_err(unread)
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A record as it is there: a value that is none proves nothing, so it is an error and not the end.
fn entry(vm: &str, pair: Pair) -> io::Result<Entry> {
    let key = BASE64.decode(&pair.key).ok().and_then(|key| String::from_utf8(key).ok());
    let key = key.ok_or_else(|| wrong("a key that was not asked for".into()))?;
    let failed = |why: String| wrong(format!("{key}: {why}"));
    let bytes = BASE64.decode(&pair.value).map_err(|error| failed(error.to_string()))?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    if key != record_key(vm, record.number) {
        return Err(failed(format!("it is record {}", record.number)));
    }
    Ok(Entry { record, hash: RecordHash::of(&bytes) })
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

fn encode(key: &str) -> String {
    BASE64.encode(key)
}

/// What the gateway gets and gives. Bytes are in base64, and 64-bit numbers are text.
#[derive(Serialize)]
struct Put {
    key: String,
    value: String,
}

#[derive(Serialize)]
struct Txn {
    compare: Vec<Compare>,
    success: Vec<Op>,
}

#[derive(Serialize)]
struct Op {
    request_put: Put,
}

#[derive(Serialize)]
struct Compare {
    target: &'static str,
    key: String,
    result: &'static str,
    create_revision: &'static str,
}

impl Compare {
    /// A key that is not there has revision zero.
    fn created(key: &str, result: &'static str) -> Self {
        Self { target: "CREATE", key: encode(key), result, create_revision: "0" }
    }
}

#[derive(Serialize, Default)]
struct Range {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// By key.
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_order: Option<&'static str>,
}

impl Range {
    fn of_key(key: &str) -> Self {
        Self { key: encode(key), ..Self::default() }
    }

    /// The records from `first` on.
    fn of_records(vm: &str, first: u64) -> Self {
        // The character behind the slash ends the range.
        Self {
            key: encode(&record_key(vm, first)),
            range_end: Some(encode(&format!("outlast/{vm}/view0"))),
            ..Self::default()
        }
    }
}

#[derive(Deserialize)]
struct Header {
    header: HeaderFields,
}

#[derive(Deserialize)]
struct HeaderFields {
    cluster_id: String,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    kvs: Vec<Pair>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

#[cfg(any(test, feature = "testing"))]
pub(crate) mod server;
#[cfg(test)]
mod tests;
