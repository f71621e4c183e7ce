//! How a VM is protected: where its epochs go, how long they are, who proves that the other side is fenced.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::names::rooted;
use super::units::{as_text, format_time, parse_time};

/// Where the epochs of a VM are committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protect {
    /// Nowhere: an ordinary VM. Nothing is held back, and nothing survives.
    None,
    /// Persistent memory of this host. Survives the VMM and the kernel, not the loss of the host.
    Local,
    /// A backup on another host.
    Tcp(Endpoint),
}

impl FromStr for Protect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Protect::None),
            "local" => Ok(Protect::Local),
            _ if text.starts_with("tcp:") => text.parse().map(Protect::Tcp),
            _ => Err("use none, local or tcp:HOST:PORT".into()),
        }
    }
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protect::None => f.write_str("none"),
            Protect::Local => f.write_str("local"),
            Protect::Tcp(endpoint) => endpoint.fmt(f),
        }
    }
}

/// A host and a TCP port, written `tcp:HOST:PORT`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// The pair that the standard library resolves and connects to.
    pub fn as_pair(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not tcp:HOST:PORT");
        let (host, port) = text.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        let bracketed = bare.len() != host.len();
        if bare.is_empty() || (bare.contains(':') && !bracketed) {
            return Err(wrong());
        }
        let port = port.parse().map_err(|_| format!("'{port}' is not a port; use 0 to 65535"))?;
        Ok(Endpoint { host: bare.into(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "tcp:[{}]:{}", self.host, self.port),
            false => write!(f, "tcp:{}:{}", self.host, self.port),
        }
    }
}

/// What happens to a guest whose boundary does not come, because one of its vCPUs stays in the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBoundaryLate {
    /// The guest waits; event `boundary-late` after 2 s.
    #[default]
    Continue,
    /// After 10 s this program ends as if it had crashed: the backup takes over, or `outlast resume` continues the
    /// guest.
    HandOver,
    /// After 10 s its protection by a backup ends, as `outlast ctl unprotect` ends it; it waits here, for its own storage only.
    Unprotect,
}

/// The length of an epoch: 1 ms to 10 s. Too short: the guest's time goes into pauses. Too long: output waits, epochs are big.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochTime(Duration);

impl EpochTime {
    /// The shortest.
    pub const MIN: Self = Self(Duration::from_millis(1));
    /// The longest.
    pub const MAX: Self = Self(Duration::from_secs(10));
    /// What is used where nothing else is asked for.
    pub const DEFAULT: Self = Self(Duration::from_millis(20));

    /// The time.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for EpochTime {
    type Error = String;

    fn try_from(time: Duration) -> Result<Self, String> {
        match (Self::MIN.0..=Self::MAX.0).contains(&time) {
            true => Ok(Self(time)),
            false => Err(format!("{}: must be 1ms to 10s", format_time(time))),
        }
    }
}

/// How long an epoch lasts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EpochLength {
    /// Always this long, unless output or an interrupt asks for a boundary earlier.
    Fixed(EpochTime),
    /// Chosen from the measured cost of the last epochs.
    Auto,
}

impl EpochLength {
    /// One that is fixed, at the nearest length that an epoch may have.
    pub fn of_ms(ms: u64) -> Self {
        Self::Fixed(EpochTime(Duration::from_millis(ms).clamp(EpochTime::MIN.0, EpochTime::MAX.0)))
    }
}

impl FromStr for EpochLength {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(EpochLength::Auto),
            _ => {
                let time = parse_time(text).map_err(|error| error.to_string()).and_then(EpochTime::try_from);
                time.map(EpochLength::Fixed).map_err(|error| format!("{error}, or auto"))
            }
        }
    }
}

impl fmt::Display for EpochLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EpochLength::Fixed(time) => f.write_str(&format_time(time.get())),
            EpochLength::Auto => f.write_str("auto"),
        }
    }
}

/// When the interrupts of devices reach the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Interrupts {
    /// At epoch boundaries, with the inputs that caused them: a request and its answer take one epoch more.
    Boundary,
    /// When they come, inputs too. They are logged with the epoch.
    Immediate,
}

/// When the pages that an epoch wrote are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Capture {
    /// Whichever was measured to give the shorter pause, chosen at each boundary.
    Auto,
    /// In the pause.
    StopAndCopy,
    /// While the guest runs, each page before it is overwritten. Long pauses become short; the guest does less work.
    CopyOnWrite,
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CommitDurability {
    /// Both sides have the epoch's disk writes in a synced log.
    Disk,
    /// The backup has the epoch in RAM. A power cut of both hosts loses it, and may leave images that mix writes of
    /// several moments.
    Memory,
}

/// The third party that decides which side may run after the two lost each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Witness {
    /// Nobody. After a cut of the network both sides may run the guest.
    None,
    /// An atomic test-and-set in a directory that both hosts share.
    File(PathBuf),
}

impl Witness {
    pub(super) fn rooted(self) -> Self {
        match self {
            Self::File(dir) => Self::File(rooted(dir)),
            Self::None => self,
        }
    }
}

impl FromStr for Witness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Witness::None),
            Some(("file", dir)) if !dir.is_empty() => Ok(Witness::File(dir.into())),
            Some(("etcd", _)) => Err("an etcd witness is not in this version; use file:DIR".into()),
            _ => Err("use file:DIR or none".into()),
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Witness::None => f.write_str("none"),
            Witness::File(dir) => write!(f, "file:{}", dir.display()),
        }
    }
}

as_text!(Protect, Endpoint, EpochLength, Witness);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protect_text_round_trips() {
        for text in ["none", "local", "tcp:b.example:7000", "tcp:10.0.0.2:1", "tcp:[fe80::1]:7000"] {
            assert_eq!(text.parse::<Protect>().expect("well formed").to_string(), text);
        }
    }

    #[test]
    fn endpoint_odd_shapes_are_refused() {
        for text in ["tcp:", "tcp::1", "tcp:host", "tcp:host:", "tcp:host:70000", "tcp:fe80::1:7000", "udp:h:1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn witness_etcd_is_refused_as_not_in_this_version() {
        let error = "etcd:http://e:2379".parse::<Witness>().expect_err("not built");
        assert!(error.contains("not in this version"), "{error}");
    }

    #[test]
    fn epoch_text_round_trips_and_errors_mention_auto() {
        for text in ["auto", "1500us", "20ms", "1s"] {
            assert_eq!(text.parse::<EpochLength>().expect("well formed").to_string(), text);
        }
        assert!("20".parse::<EpochLength>().expect_err("no unit").ends_with("or auto"));
    }

    #[test]
    fn epoch_out_of_its_range_is_refused_wherever_it_comes_from() {
        // `PUT /ft` took any: of 2^64 s the pacer's arithmetic overflowed, and the guest ended.
        for text in ["0us", "999us", "10000001us", "11s", "18446744073709551615s"] {
            let error = text.parse::<EpochLength>().expect_err("out of range");
            assert!(error.ends_with(": must be 1ms to 10s, or auto"), "{error}");
            let body = format!(r#"{{"protect":"tcp:b:7000","epoch":"{text}"}}"#);
            serde_json::from_str::<crate::api::ProtectRequest>(&body).expect_err("out of range");
        }
        for text in ["1ms", "10s"] {
            text.parse::<EpochLength>().expect("in range");
        }
    }
}
