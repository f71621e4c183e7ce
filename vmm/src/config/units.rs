//! Sizes and times as people write them: `512M`, `20ms`.
//!
//! A size is a whole number of bytes with K, M or G (powers of 1024) or none. A time is a whole number with us, ms or
//! s; it has no default unit, because a forgotten one would be wrong by a thousand.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Why a size or a time could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing in front of the unit, or something that is no whole number.
    #[error("'{0}' does not start with a whole number")]
    NoNumber(String),
    /// A unit that is not known for this quantity.
    #[error("unknown unit '{unit}'; use {known}")]
    UnknownUnit {
        /// What stood behind the number.
        unit: String,
        /// The units that would do.
        known: &'static str,
    },
    /// A time without its unit.
    #[error("'{0}' has no unit; write {0}us, {0}ms or {0}s")]
    MissingUnit(String),
    /// More than 64 bits hold.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

fn split_number(text: &str) -> Result<(u64, &str), UnitError> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(UnitError::NoNumber(text.into()));
    }
    let number = digits.parse().map_err(|_| UnitError::TooLarge(text.into()))?;
    Ok((number, unit))
}

/// Reads a size in bytes: `4096`, `64K`, `512M`, `2G`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split_number(text)?;
    let factor = match unit {
        "" => 1,
        "K" | "k" => KIB,
        "M" | "m" => MIB,
        "G" | "g" => GIB,
        other => return Err(UnitError::UnknownUnit { unit: other.into(), known: "K, M or G" }),
    };
    number.checked_mul(factor).ok_or_else(|| UnitError::TooLarge(text.into()))
}

/// Reads a time: `500us`, `20ms`, `1s`.
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split_number(text)?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "" => Err(UnitError::MissingUnit(text.into())),
        other => Err(UnitError::UnknownUnit { unit: other.into(), known: "us, ms or s" }),
    }
}

/// Writes a size with the largest unit that keeps it a whole number.
pub fn format_size(bytes: u64) -> String {
    for (factor, unit) in [(GIB, 'G'), (MIB, 'M'), (KIB, 'K')] {
        if bytes != 0 && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Writes a time with the largest unit that keeps it a whole number of microseconds.
pub fn format_time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0 => "0us".into(),
        m if m.is_multiple_of(1_000_000) => format!("{}s", m / 1_000_000),
        m if m.is_multiple_of(1_000) => format!("{}ms", m / 1_000),
        m => format!("{m}us"),
    }
}

/// A size in bytes that is typed, stored and printed with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

/// A time that is typed, stored and printed with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(pub Duration);

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_size(text).map(ByteSize)
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_time(text).map(TimeSpan)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_size(self.0))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_time(self.0))
    }
}

/// The two conversions that serde asks for, from the two above.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = <$type as FromStr>::Err;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )*};
}
pub(super) use as_text;

as_text!(ByteSize, TimeSpan);

/// `#[serde(with)]` for a `Duration` that is stored with its unit.
pub(super) mod time_text {
    use super::{Duration, TimeSpan};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
        TimeSpan(*time).serialize(out)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        TimeSpan::deserialize(from).map(|span| span.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_size_with_each_unit_gives_bytes() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64K", 65536), ("512M", 512 << 20), ("8G", 8 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn parse_size_unknown_unit_names_the_known_ones() {
        let error = parse_size("512Q").expect_err("Q is no unit");
        assert_eq!(error.to_string(), "unknown unit 'Q'; use K, M or G");
    }

    #[test]
    fn parse_size_without_number_is_refused() {
        for text in ["", "M", "-1", "x5"] {
            assert_eq!(parse_size(text), Err(UnitError::NoNumber(text.into())));
        }
    }

    #[test]
    fn parse_size_beyond_64_bits_is_too_large() {
        for text in ["18446744073709551616", "17179869184G"] {
            assert_eq!(parse_size(text), Err(UnitError::TooLarge(text.into())));
        }
    }

    #[test]
    fn parse_time_without_unit_asks_for_one() {
        let error = parse_time("20").expect_err("no unit");
        assert_eq!(error.to_string(), "'20' has no unit; write 20us, 20ms or 20s");
    }

    #[test]
    fn parse_time_with_each_unit_gives_duration() {
        assert_eq!(parse_time("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(parse_time("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_time("3s"), Ok(Duration::from_secs(3)));
        assert!(matches!(parse_time("3min"), Err(UnitError::UnknownUnit { .. })));
    }

    #[test]
    fn format_then_parse_gives_the_value_back() {
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1, 3 << 30] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        for micros in [0, 1, 999, 1000, 1500, 1_000_000, 90_000_000] {
            let time = Duration::from_micros(micros);
            assert_eq!(parse_time(&format_time(time)), Ok(time));
        }
    }
}
