//! Numbers from files, peers and the API that have their bounds in their type.
//!
//! Computing with such a number cannot overflow, and allocating that size is never huge: nobody has to remember to
//! check.

use serde::{Deserialize, Serialize};

/// A number from `MIN` to `MAX`. It is made by `try_from`, which is also how it is deserialized, or by [`Within::nearest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Within<const MIN: u64, const MAX: u64>(u64);

/// A number that is out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not from {min} to {max}")]
pub struct OutOfBounds {
    /// The number.
    pub value: u64,
    /// The least that is allowed.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
}

impl<const MIN: u64, const MAX: u64> Within<MIN, MAX> {
    /// The number itself, or the bound that is nearest to it.
    pub const fn nearest(value: u64) -> Self {
        if value < MIN {
            Self(MIN)
        } else if value > MAX {
            Self(MAX)
        } else {
            Self(value)
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Within<MIN, MAX> {
    type Error = OutOfBounds;

    fn try_from(value: u64) -> Result<Self, OutOfBounds> {
        if (MIN..=MAX).contains(&value) { Ok(Self(value)) } else { Err(OutOfBounds { value, min: MIN, max: MAX }) }
    }
}

impl<const MIN: u64, const MAX: u64> From<Within<MIN, MAX>> for u64 {
    fn from(within: Within<MIN, MAX>) -> u64 {
        within.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_out_of_its_bounds_is_refused_also_when_it_is_read() {
        type Few = Within<1, 16>;
        for good in [1, 7, 16] {
            assert_eq!(Few::try_from(good).map(Few::get), Ok(good));
            assert_eq!(serde_json::from_str::<Few>(&good.to_string()).expect("in bounds").get(), good);
        }
        for (bad, nearest) in [(0, 1), (17, 16), (u64::MAX, 16)] {
            assert_eq!(Few::try_from(bad), Err(OutOfBounds { value: bad, min: 1, max: 16 }));
            assert!(serde_json::from_str::<Few>(&bad.to_string()).is_err());
            assert_eq!(Few::nearest(bad).get(), nearest);
        }
    }
}
