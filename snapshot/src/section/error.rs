//! Why saved state cannot be read.

use super::{STATE_BYTES_MAX, STATE_FORMAT, STATE_MAGIC, SectionId};

/// Why saved state cannot be read. Always the fault of the input or of a version mismatch, never of this binary.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The bytes do not begin as saved state does.
    #[error("this is not saved machine state (it does not begin with {STATE_MAGIC:?})")]
    NotState,
    /// Another layout around the sections.
    #[error(
        "saved state has layout {found}; this binary reads layout {STATE_FORMAT}: use the version of outlast that wrote it"
    )]
    Format {
        /// The layout found.
        found: u16,
    },
    /// More bytes than a state may have.
    #[error("saved state of {len} bytes is longer than the {STATE_BYTES_MAX} allowed")]
    TooLong {
        /// Length found.
        len: usize,
    },
    /// The bytes end inside a section.
    #[error("saved state is cut off at byte {at}: take it again")]
    CutOff {
        /// Where bytes were missing.
        at: usize,
    },
    /// A header that no writer makes.
    #[error("saved state is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the section begins.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The bytes are not the bytes that were written.
    #[error("section {id} is damaged: its checksum does not match; take the state again")]
    Checksum {
        /// The section.
        id: SectionId,
    },
    /// The same section twice.
    #[error("section {id} is there twice")]
    Duplicate {
        /// The section.
        id: SectionId,
    },
    /// A section that this machine needs is not there.
    #[error("section {id} is missing: the state was saved from a machine with other devices")]
    Missing {
        /// The section.
        id: SectionId,
    },
    /// A section of another version.
    #[error(
        "section {id} has version {found}; this binary reads version {reads}: use the version of outlast that wrote it"
    )]
    Version {
        /// The section.
        id: SectionId,
        /// The version found.
        found: u16,
        /// The version this binary reads.
        reads: u16,
    },
    /// The body is not an encoding of the section's struct.
    #[error("section {id} does not decode: {why}")]
    Body {
        /// The section.
        id: SectionId,
        /// What the decoder said.
        why: String,
    },
    /// Sections that nobody took.
    #[error("sections that this machine has no use for: {ids}: the state was saved from a machine with other devices")]
    Leftover {
        /// The sections, separated by commas.
        ids: String,
    },
}
