//! The numbers of the protocol, each its own type so that they cannot be mixed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A value of 128 bits, shown and stored as 32 hexadecimal digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as ::serde::Deserialize>::deserialize(deserializer)?;
                let bytes = $crate::id::bytes_of_hex(&text);
                bytes.map($name).ok_or_else(|| ::serde::de::Error::custom("not 32 hexadecimal digits"))
            }
        }
    };
}
pub(crate) use hex_id;

/// The bytes that 32 hexadecimal digits stand for.
pub(crate) fn bytes_of_hex(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok())??;
    Some(number.to_be_bytes())
}

/// The number of an epoch in its branch: one more than that of the epoch before it, across a fork too.
///
/// Two branches that leave one epoch use the same numbers. So numbers are compared inside one branch, or along one line of history,
/// and nowhere else; which epoch is meant says [`EpochMark`](crate::EpochMark).
///
/// What a peer or a file says is made one by `try_from` only, which is also how it is deserialized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct EpochId(pub u64);

/// Epochs a primary may have sealed above the last committed one.
pub const IN_FLIGHT_EPOCHS_MAX: u32 = 1024;

/// The largest epoch number that is accepted from a peer or a file; the rest is room for what comes after it.
pub const EPOCH_MAX: EpochId = EpochId(1 << 62);

/// A number from a peer or a file that no epoch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {0} is beyond the largest that can be")]
pub struct EpochTooLarge(pub u64);

impl TryFrom<u64> for EpochId {
    type Error = EpochTooLarge;

    fn try_from(number: u64) -> Result<Self, EpochTooLarge> {
        if number > EPOCH_MAX.0 { Err(EpochTooLarge(number)) } else { Ok(EpochId(number)) }
    }
}

impl EpochId {
    /// The epoch after this one.
    pub fn next(self) -> EpochId {
        EpochId(self.0.checked_add(1).expect("epochs are numbered from below EPOCH_MAX, one by one"))
    }

    /// The epoch before this one; zero stays zero.
    pub fn prev(self) -> EpochId {
        EpochId(self.0.saturating_sub(1))
    }

    /// The first number that a primary certainly did not use whose last committed epoch was this one: it may have sealed up to
    /// [`IN_FLIGHT_EPOCHS_MAX`] above, and run one more.
    pub fn past_in_flight(self) -> EpochId {
        EpochId(self.0 + u64::from(IN_FLIGHT_EPOCHS_MAX) + 2)
    }
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the takeovers of a VM: a primary that took over has a higher term than the one it replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One pairing of a primary with a backup, from Hello to the loss of the connection. Random, never reused.
///
/// The witness arbitrates about it: which of the two sides continues the guest after the pairing broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Guest frame number: guest physical address divided by the page size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gfn(pub u64);

/// Which VM a frame is about: a hash of the VM's name. It catches mistakes in configuration; it is not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub u64);

impl VmId {
    /// The id of the VM called `name`.
    pub fn of_name(name: &str) -> VmId {
        VmId(xxh3_64(name.as_bytes()))
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Nanoseconds of a monotonic clock of one host. Never compared between hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// `duration` after this instant.
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What the witness said to a claim of a session.
///
/// A claim is a test-and-set: the first of the two sides that asks gets the session, for ever. Asking again gives the
/// same answer to the same asker. A driver without a witness answers `Granted` and accepts the risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// The session is ours. The other side can never get it.
    Granted,
    /// The other side has it.
    Denied {
        /// Who holds the session, in words for the operator.
        holder: String,
    },
    /// No answer. The claim may or may not have taken effect; only asking again tells.
    Unreachable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_of_a_peer_or_a_file_leaves_room_for_what_comes_after_it_or_is_none() {
        assert_eq!(EpochId::try_from(EPOCH_MAX.0), Ok(EPOCH_MAX));
        assert!(EPOCH_MAX.past_in_flight() > EPOCH_MAX.next() && EPOCH_MAX.next() > EPOCH_MAX, "neither overflows");
        for number in [EPOCH_MAX.0 + 1, u64::MAX] {
            assert_eq!(EpochId::try_from(number), Err(EpochTooLarge(number)));
        }
    }

    #[test]
    fn time_after_the_end_of_the_clock_saturates() {
        assert_eq!(Time(u64::MAX).after(Duration::from_secs(1)), Time(u64::MAX));
        assert_eq!(Time(5).after(Duration::from_nanos(3)), Time(8));
        assert_eq!(Time(5).since(Time(8)), Duration::ZERO);
    }
}
