//! Values in sealed lines of a state directory ([`snapshot::statedir::sealed`]).

use serde::Serialize;
use serde::de::DeserializeOwned;
use snapshot::statedir::sealed::{Sealed, seal};

/// It is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage;

/// The sealed line that says `value`.
pub(super) fn encode(value: &impl Serialize) -> String {
    seal(&serde_json::to_string(value).expect("what is kept has string keys only"))
}

/// What the line says, if there is one.
pub(super) fn decode<T: DeserializeOwned>(found: &Sealed) -> Result<Option<T>, Damage> {
    match found {
        Sealed::Absent => Ok(None),
        Sealed::Whole(json) => serde_json::from_str(json).map(Some).map_err(|_| Damage),
        Sealed::Damaged => Err(Damage),
    }
}
