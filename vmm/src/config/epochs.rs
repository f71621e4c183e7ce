//! How long an epoch lasts, how it is captured, and what its commit waits for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use replication::Protocol;
use serde::{Deserialize, Serialize};

use super::choice::choice;
use super::error::ConfigError;
use super::names::out_of_range;
use super::options::group;
use super::units::{TimeSpan, as_text, format_time, parse_time, time_text};
use protect::CommitDurability;
use protect::epoch::Pace;
use protect::epoch::capture::CaptureMode;
use protect::epoch::pace::{EpochTime, Length};

group! {
    /// What may be typed of epochs.
    #[command(next_help_heading = "Protection")]
    pub struct EpochOptions {
        /// Longest epoch, 1ms to 10s, or auto. Short: output leaves sooner, but more time goes into pauses. Long: replies
        /// wait longer, and epochs have more pages [default: 20ms]
        #[arg(long, value_name = "TIME|auto")]
        epoch: Option<EpochLength>,
        /// Shortest epoch, up to --epoch, when output waits to leave. The guest always gets at least as much time as its
        /// epochs cost [default: 0us]
        #[arg(long, value_name = "TIME")]
        min_epoch: Option<TimeSpan>,
        /// When the pages of an epoch are copied [default: stop-and-copy]
        #[arg(long, value_parser = choice::<CaptureMode>())]
        capture: Option<CaptureMode>,
        /// Recovery protocol, which says when an epoch ends: epoch (after --epoch, or when a frame waits and that is worth its
        /// cost) or cpvs (whenever output waits, at once; without output after a second) [default: epoch]
        #[arg(long, value_name = "epoch|cpvs")]
        protocol: Option<Protocol>,
        /// When input and device interrupts reach the guest [default: immediate]
        #[arg(long, value_enum)]
        interrupts: Option<Interrupts>,
        /// What a commit waits for [default: disk]
        #[arg(long, value_parser = choice::<CommitDurability>())]
        commit_durability: Option<CommitDurability>,
    }
}

/// The epochs of a VM, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochConfig {
    /// 1 ms to 10 s, or chosen. Too short: the guest's time goes into pauses. Too long: output waits, epochs are big.
    pub epoch: EpochLength,
    /// Up to `epoch`. Too short: a guest with much output spends its time in pauses, as far as what epochs cost lets it. Too
    /// long: output waits.
    #[serde(with = "time_text")]
    pub min_epoch: Duration,
    /// When the pages of an epoch are copied.
    pub capture: CaptureMode,
    /// When an epoch ends.
    #[serde(default)]
    pub protocol: Protocol,
    /// When device interrupts reach the guest.
    pub interrupts: Interrupts,
    /// What a commit waits for.
    pub commit_durability: CommitDurability,
}

impl EpochOptions {
    pub(super) fn fill(self) -> EpochConfig {
        let Self { epoch, min_epoch, capture, protocol, interrupts, commit_durability } = self;
        EpochConfig {
            epoch: epoch.unwrap_or(EpochLength::Fixed(EpochTime::DEFAULT)),
            min_epoch: min_epoch.map_or(Duration::ZERO, |time| time.0),
            capture: capture.unwrap_or_default(),
            protocol: protocol.unwrap_or_default(),
            interrupts: interrupts.unwrap_or(Interrupts::Immediate),
            commit_durability: commit_durability.unwrap_or(CommitDurability::Disk),
        }
    }
}

impl EpochConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let longest = match self.epoch {
            EpochLength::Auto => EpochTime::MAX.get(),
            EpochLength::Fixed(length) => length.get(),
        };
        match self.min_epoch <= longest {
            true => Ok(()),
            false => {
                let range = format!("0us to {}", format_time(longest));
                Err(out_of_range("min-epoch", format_time(self.min_epoch), range))
            }
        }
    }

    /// How a machine runs such epochs.
    pub fn pace(&self) -> Pace {
        let &Self { epoch, min_epoch, capture, protocol, interrupts, commit_durability: _ } = self;
        let inputs_wait = interrupts == Interrupts::Boundary;
        Pace { length: epoch.into(), min_epoch, capture, protocol, inputs_wait }
    }
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

as_text!(EpochLength);

#[cfg(test)]
mod tests {
    use super::*;

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
