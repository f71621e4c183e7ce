//! Which witness a VM has.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The third party that decides which side may run after the two lost each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Witness {
    /// Nobody. After a cut of the network both sides may run the guest.
    None,
    /// An atomic test-and-set in a directory that both hosts share.
    File(PathBuf),
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

impl TryFrom<String> for Witness {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Witness> for String {
    fn from(value: Witness) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witness_text_round_trips() {
        for text in ["none", "file:/shared/witness"] {
            assert_eq!(text.parse::<Witness>().expect("well formed").to_string(), text);
        }
    }

    #[test]
    fn witness_etcd_is_refused_as_not_in_this_version() {
        let error = "etcd:http://e:2379".parse::<Witness>().expect_err("not built");
        assert!(error.contains("not in this version"), "{error}");
    }
}
