//! What can go wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use super::CHECKPOINT_FORMAT;

/// What went wrong with a checkpoint, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The target is there.
    #[error("{} exists: a checkpoint is never overwritten; name another directory or remove this one", dir.display())]
    Exists {
        /// The target.
        dir: PathBuf,
    },
    /// There is no such directory.
    #[error("there is no checkpoint at {}", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has no manifest, or one of another kind.
    #[error("{} is not a checkpoint: {why}", dir.display())]
    NotACheckpoint {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        why: String,
    },
    /// Another layout.
    #[error(
        "checkpoint {} has format {found} and was written by outlast {writer}; this binary reads format {CHECKPOINT_FORMAT}: \
         use the version that wrote it", dir.display()
    )]
    Format {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
        /// Who wrote it.
        writer: String,
    },
    /// A file has another length than the manifest says.
    #[error(
        "{file} is {} bytes {} than MANIFEST says: the checkpoint was {}; take another",
        found.abs_diff(*expected), if found < expected { "shorter" } else { "longer" },
        if found < expected { "cut off" } else { "written to afterwards" }
    )]
    Length {
        /// The file's name.
        file: &'static str,
        /// Its length.
        found: u64,
        /// The length it should have.
        expected: u64,
    },
    /// A file's bytes are not those that were written.
    #[error("{file} is damaged: its hash is not the one in MANIFEST; take another checkpoint")]
    Hash {
        /// The file's name.
        file: &'static str,
    },
    /// Something is longer than a checkpoint may hold.
    #[error("{what} has {len} bytes; a checkpoint holds at most {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The machine's memory is laid out otherwise than the checkpoint's.
    #[error("the checkpoint's memory is {found}, the machine's is {wanted}: give the machine the memory that it had")]
    Layout {
        /// The checkpoint's regions.
        found: String,
        /// The machine's regions.
        wanted: String,
    },
    /// The host's storage failed.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl CheckpointError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
