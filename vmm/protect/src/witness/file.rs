//! A witness in a directory that the hosts share.
//!
//! ```text
//! DIR/NAME.view-1, -2, …    the records: written whole and synced under another name, then link(2)
//! DIR/NAME.dead-ID          a later process on its host proved that this place is gone
//! DIR/NAME.void-JOIN        the backup of this join, which a record lists, was not whole, and can never be. The backup
//!                           removes it when no later record can list the join
//! DIR/.NAME.met-NONCE       what one side leaves for the other to find, while they meet
//! ```
//!
//! Assumed of the storage: link(2) is atomic and fails if the name exists, what was synced stays, and all hosts see
//! one directory. NFS, cluster file systems and 9p without a cache do that; a directory that is copied between hosts
//! does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::WitnessError;
use super::name::Kind;
use super::records::Records;
use super::shared::SharedWitness;

pub(super) static KIND: Kind = Kind {
    name: "file",
    usage: "file:DIR",
    check: |place| match place {
        None | Some("") => Err("a directory is missing".into()),
        Some(_) => Ok(()),
    },
    // A name that is not text cannot be written down: the directory stays as it was typed.
    with_paths: |dir, change| {
        change(PathBuf::from(dir)).into_os_string().into_string().unwrap_or_else(|_| dir.to_owned())
    },
    open: |dir| Ok(Some(Arc::new(open(Path::new(dir))?))),
    failed: |dir, source| WitnessError::Open { dir: dir.into(), source },
};

/// Longer than shared storage needs when it works, much shorter than an operator's patience.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A witness in a directory that both hosts share.
pub(super) type FileWitness = SharedWitness<Records>;

/// The witness in `dir`, which must exist: a missing one is more likely a missing mount, and a directory made in its place
/// would be seen by one host only.
pub(super) fn open(dir: &Path) -> Result<FileWitness, WitnessError> {
    let path = dir.to_owned();
    let opened = SharedWitness::open(ANSWER_TIME_MAX, move || Records::open(&path));
    opened.map_err(|source| WitnessError::Open { dir: dir.into(), source })
}
