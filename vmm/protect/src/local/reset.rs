//! That a guest is to boot again after a crash, and as which life: the file `reset` of its state directory.
//!
//! The process whose guest crashed writes it, when it has the right to begin the guest anew, and starts the program again, which
//! finds it. Until the new life runs it stands, so another process finds it too, should this one die before. It is removed,
//! durably, before the guest runs: so it never asks for a boot of a guest that has done something since.
//!
//! | field | meaning |
//! |---|---|
//! | `version` | 1 |
//! | `term` | the term of the new life, where no witness counts them |
//! | `target` | the backup to fill, or null |

use std::io;
use std::path::{Path, PathBuf};

use replication::Term;
use serde::{Deserialize, Serialize};
use snapshot::statedir::sealed::Sealed;
use snapshot::statedir::{self, Item};

use super::line;
use crate::transport::Endpoint;

const VERSION: u64 = 1;

/// What the next life of a guest on this host must know of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Its term, where no witness counts them.
    pub term: Term,
    /// The backup to fill.
    pub target: Option<Endpoint>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u64,
    term: u64,
    target: Option<Endpoint>,
}

/// Why it is not known how the guest is to begin.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The file could not be replaced or removed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written, or of another version of this program.
    #[error("{} is damaged, or of another version: the guest was to boot again, and as which life is not known", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Has the next process in `dir` boot the guest again, as `life`; durably.
pub fn ask(dir: &Path, life: &Life) -> Result<(), ResetError> {
    let Life { term, target } = life;
    let text = line::encode(&Text { version: VERSION, term: term.0, target: target.clone() });
    statedir::replace(dir, Item::Reset, text.as_bytes()).map_err(failed("write", dir))
}

/// The life as which the guest is to boot, by what was `found` in `dir`; none: nobody asked for that.
pub fn asked(found: &Sealed, dir: &Path) -> Result<Option<Life>, ResetError> {
    let damaged = || ResetError::Damaged { path: Item::Reset.path_in(dir) };
    let text: Option<Text> = line::decode(found).map_err(|line::Damage| damaged())?;
    let Some(Text { version, term, target }) = text else { return Ok(None) };
    if version == VERSION { Ok(Some(Life { term: Term(term), target })) } else { Err(damaged()) }
}

/// Nobody asks for it any more, durably: the guest is about to run.
pub fn settle(dir: &Path) -> Result<(), ResetError> {
    statedir::remove(dir, Item::Reset).map_err(failed("remove", dir))
}

/// A file as it is written.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzing_valid() -> Vec<u8> {
    line::encode(&Text { version: VERSION, term: 7, target: None }).into_bytes()
}

/// Reads any bytes as such a file, and has the life begin.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzing_read(file: &[u8]) {
    let Ok(Some(life)) = asked(&statedir::sealed::open(file), Path::new("/s")) else { return };
    let _ = life.term.next();
}

fn failed(what: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> ResetError {
    let path = Item::Reset.path_in(dir);
    move |source| ResetError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use snapshot::statedir::sealed;

    use super::*;

    const GOLDEN: &str = include_str!("../../../../tests/golden/state-dir-reset-v1.txt");

    fn life() -> Life {
        Life { term: Term(7), target: Some("tcp:b.example:7000".parse().expect("well formed")) }
    }

    fn found(dir: &Path) -> Result<Option<Life>, ResetError> {
        let bytes = statedir::read(dir, Item::Reset).expect("readable");
        asked(&bytes.map_or(Sealed::Absent, |bytes| sealed::open(&bytes)), dir)
    }

    #[test]
    fn life_is_found_as_it_was_asked_for_until_it_is_settled() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(found(dir.path()).expect("nothing is there"), None);
        for life in [life(), Life { target: None, ..life() }] {
            ask(dir.path(), &life).expect("room");
            assert_eq!(found(dir.path()).expect("whole"), Some(life));
        }
        settle(dir.path()).expect("removed");
        settle(dir.path()).expect("nothing is there");
        assert_eq!(found(dir.path()).expect("nothing is there"), None);
    }

    #[test]
    fn line_of_version_one_is_read_and_written_as_ever() {
        let dir = tempfile::tempdir().expect("a directory");
        ask(dir.path(), &life()).expect("room");
        assert_eq!(std::fs::read_to_string(Item::Reset.path_in(dir.path())).expect("there"), GOLDEN);
        assert_eq!(asked(&sealed::open(GOLDEN.as_bytes()), dir.path()).expect("whole"), Some(life()));
    }

    #[test]
    fn another_version_and_an_unknown_field_are_named_and_not_guessed_at() {
        for json in
            ["{\"version\":2,\"term\":7,\"target\":null}", "{\"version\":1,\"term\":7,\"target\":null,\"x\":1}", "{}"]
        {
            let error = asked(&Sealed::Whole(json.into()), Path::new("/s")).expect_err("of another version");
            assert!(error.to_string().contains("/s/reset"), "{error}");
        }
        assert!(asked(&Sealed::Damaged, Path::new("/s")).is_err());
    }
}
