//! How a VM is protected: where its epochs go, and how long they are.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::names::rooted_endpoint;
use super::units::{as_text, format_time, parse_time};
use protect::epoch::pace::{EpochTime, Length};
use protect::transport::Endpoint;

/// Where the epochs of a VM are committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protect {
    /// Nowhere: an ordinary VM. Nothing is held back, and nothing survives.
    None,
    /// Persistent memory of this host. Survives the VMM and the kernel, not the loss of the host.
    Local,
    /// A backup.
    Backup(Endpoint),
}

impl Protect {
    /// The same, whatever directory it is read in.
    pub fn rooted(self) -> Self {
        match self {
            Self::Backup(endpoint) => Self::Backup(rooted_endpoint(endpoint)),
            Self::None | Self::Local => self,
        }
    }
}

impl FromStr for Protect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Protect::None),
            "local" => Ok(Protect::Local),
            _ if text.starts_with("tcp:") || text.starts_with("unix:") => text.parse().map(Protect::Backup),
            _ => Err("use none, local or tcp:HOST:PORT; or unix:PATH for a backup on this host".into()),
        }
    }
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protect::None => f.write_str("none"),
            Protect::Local => f.write_str("local"),
            Protect::Backup(endpoint) => endpoint.fmt(f),
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

/// How long an epoch lasts at most, as it is typed.
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
        Self::Fixed(EpochTime::nearest(Duration::from_millis(ms)))
    }
}

impl From<EpochLength> for Length {
    fn from(length: EpochLength) -> Self {
        match length {
            EpochLength::Fixed(length) => Self::Fixed(length.get()),
            EpochLength::Auto => Self::Auto,
        }
    }
}

impl FromStr for EpochLength {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(EpochLength::Auto),
            _ => {
                let time = parse_time(text).map_err(|error| error.to_string()).and_then(|time| {
                    EpochTime::try_from(time).map_err(|_| format!("{}: must be 1ms to 10s", format_time(time)))
                });
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

as_text!(Protect, EpochLength);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protect_text_round_trips() {
        for text in ["none", "local", "tcp:b.example:7000", "unix:/run/vm0.sock"] {
            assert_eq!(text.parse::<Protect>().expect("well formed").to_string(), text);
        }
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
        for text in ["0us", "999us", "10000001us", "11s", "18446744073709551615s"] {
            let error = text.parse::<EpochLength>().expect_err("out of range");
            assert!(error.ends_with(": must be 1ms to 10s, or auto"), "{error}");
        }
        for text in ["1ms", "10s"] {
            text.parse::<EpochLength>().expect("in range");
        }
    }
}
