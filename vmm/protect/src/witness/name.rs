//! Which witness a VM has, as it is typed and as files keep it; and the table of the kinds that there are.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Witness, WitnessError, etcd, file, none};

/// The kinds of witnesses. A new one is a file beside them, and a row here.
static KINDS: &[&Kind] = &[&none::KIND, &etcd::KIND, &file::KIND];

/// What becomes of a path.
type PathChange = fn(PathBuf) -> PathBuf;
/// A witness; `None`: there is nobody who decides.
pub(crate) type Opened = Result<Option<Arc<dyn Witness>>, WitnessError>;

/// One kind of witness.
pub(super) struct Kind {
    /// What stands before the colon.
    pub(super) name: &'static str,
    /// How it is typed.
    pub(super) usage: &'static str,
    /// What is wrong with what stands behind the colon, if it is no place of this kind; `None`: there is no colon.
    pub(super) check: fn(Option<&str>) -> Result<(), String>,
    /// The same place, with each of its paths replaced.
    pub(super) with_paths: fn(&str, PathChange) -> String,
    /// Opens the witness at a place. Nobody is asked yet.
    pub(super) open: fn(&str) -> Opened,
    /// That the witness at a place failed.
    pub(super) failed: fn(&str, io::Error) -> WitnessError,
}

/// The third party that decides which side may run after the two lost each other: `KIND:PLACE`, or `none`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WitnessName {
    kind: &'static Kind,
    place: String,
}

impl WitnessName {
    /// Nobody. After a cut of the network both sides may run the guest.
    pub const NONE: Self = Self { kind: &none::KIND, place: String::new() };

    /// Whether there is nobody.
    pub fn is_none(&self) -> bool {
        std::ptr::eq(self.kind, &none::KIND)
    }

    /// The same witness, named by the paths that `change` makes of its own.
    #[must_use]
    pub fn with_paths(&self, change: PathChange) -> Self {
        Self { kind: self.kind, place: (self.kind.with_paths)(&self.place, change) }
    }

    /// Opens it, if an append can take place there.
    pub(crate) fn open(&self) -> Opened {
        let witness = self.open_unasked()?;
        match witness.as_ref().map(|witness| witness.probe()) {
            Some(Err(error)) => Err(self.failed(error)),
            _ => Ok(witness),
        }
    }

    /// Opens it, and asks for nothing.
    pub(crate) fn open_unasked(&self) -> Opened {
        (self.kind.open)(&self.place)
    }

    /// That it failed.
    pub(crate) fn failed(&self, error: io::Error) -> WitnessError {
        (self.kind.failed)(&self.place, error)
    }
}

impl PartialEq for WitnessName {
    fn eq(&self, other: &Self) -> bool {
        (self.kind.name, &self.place) == (other.kind.name, &other.place)
    }
}

impl Eq for WitnessName {}

impl fmt::Debug for WitnessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WitnessName({self})")
    }
}

impl fmt::Display for WitnessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true => f.write_str(self.kind.name),
            false => write!(f, "{}:{}", self.kind.name, self.place),
        }
    }
}

impl FromStr for WitnessName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = text.split_once(':').map_or((text, None), |(name, place)| (name, Some(place)));
        let usages = || KINDS.iter().rev().map(|kind| kind.usage).collect::<Vec<_>>().join(" or ");
        let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| format!("use {}", usages()))?;
        (kind.check)(place).map_err(|why| format!("{why} (use {})", kind.usage))?;
        Ok(Self { kind, place: place.unwrap_or_default().to_owned() })
    }
}

impl TryFrom<String> for WitnessName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<WitnessName> for String {
    fn from(value: WitnessName) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WitnessName {
        text.parse().expect("well formed")
    }

    #[test]
    fn witness_text_round_trips() {
        let tls = "etcd:https://a:2379,https://b:2379,credentials=/etc/outlast/etcd";
        for text in ["none", "file:/shared/witness", "file:a:b", "etcd:http://a:2379,http://b:2379", tls] {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("none"), WitnessName::NONE);
        assert!(name("none").is_none() && !name("file:none").is_none());
    }

    #[test]
    fn witness_of_no_kind_is_refused_with_those_that_there_are() {
        for text in ["", "files:/a", "/a"] {
            let error = text.parse::<WitnessName>().expect_err("not a witness");
            assert_eq!(error, "use file:DIR or etcd:URL[,URL…][,credentials=DIR] or none", "{text}");
        }
        for (text, why) in [
            ("file", "a directory is missing (use file:DIR)"),
            ("file:", "a directory is missing (use file:DIR)"),
            ("none:x", "there is nothing behind none (use none)"),
            ("etcd", "addresses are missing (use etcd:URL[,URL…][,credentials=DIR])"),
            (
                "etcd:https://a:1",
                "https needs ,credentials=DIR behind the addresses: a directory with ca-cert.pem, the certificate of who signed the \
                 members' (use etcd:URL[,URL…][,credentials=DIR])",
            ),
        ] {
            assert_eq!(text.parse::<WitnessName>().expect_err("not a witness"), why, "{text}");
        }
    }

    #[test]
    fn paths_of_a_witness_are_those_that_it_is_given() {
        let rooted = |text: &str| name(text).with_paths(|path| PathBuf::from("/root").join(path)).to_string();
        assert_eq!((rooted("none"), rooted("file:w")), ("none".into(), "file:/root/w".into()));
        assert_eq!(rooted("etcd:http://a:1"), "etcd:http://a:1");
        assert_eq!(rooted("etcd:https://a:1,credentials=c"), "etcd:https://a:1,credentials=/root/c");
    }
}
