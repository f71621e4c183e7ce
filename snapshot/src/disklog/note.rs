//! The note: up to which epoch the images have what the log holds, and when they were written last.
//!
//! It is written in its place over the one before, and not synced: the kernel keeps it when the process ends, and after
//! a loss of power nothing that it says of epochs would hold anyway. So that counts in the boot in which its generation
//! began, and for that generation alone. A write to an image after the last note was not ours. That images are written
//! past the log is noted durably, before.
//!
//! A disk that fails takes what the kernel had of an image in memory, as a loss of power does, and the host is not
//! rebooted: then a note that says so, durably, makes those before it void.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::record::{IDENTITIES_MAX, NOTE_AT};
use crate::disk::{DiskError, Image};

/// Bytes of a note; within one block.
pub(super) const NOTE_LEN: usize = MODIFIED_AT + 8 * IDENTITIES_MAX;
const MAGIC: [u8; 8] = *b"OLDLOGN\0";
const MODIFIED_AT: usize = 48;
const BESIDE: u64 = 1;
const DOUBT: u64 = 2;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The generation that it belongs to.
    pub generation: u64,
    /// The images have the records up to and including this epoch.
    pub applied: u64,
    /// The images were written past the log, on purpose.
    pub beside: bool,
    /// An image's disk failed: what was written to it may be lost.
    pub doubt: bool,
    /// When each disk's content changed last, by number, in nanoseconds since 1970.
    pub modified: Vec<i64>,
}

impl Note {
    pub(super) fn encode(&self) -> [u8; NOTE_LEN] {
        let Self { generation, applied, beside, doubt, modified } = self;
        assert!(modified.len() <= IDENTITIES_MAX, "a note on {} disks", modified.len());
        let mut bytes = [0; NOTE_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        let flags = (u64::from(*beside) * BESIDE) | (u64::from(*doubt) * DOUBT);
        let words = [*generation, *applied, flags, modified.len() as u64];
        for (slot, word) in bytes[8..40].as_chunks_mut().0.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
        for (slot, modified) in bytes[MODIFIED_AT..].as_chunks_mut().0.iter_mut().zip(modified) {
            *slot = modified.to_le_bytes();
        }
        let sum = sum_of(&bytes);
        bytes[40..48].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; NOTE_LEN]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..8] != MAGIC || word(40) != sum_of(bytes) {
            return None;
        }
        let count = usize::try_from(word(32)).ok().filter(|count| *count <= IDENTITIES_MAX)?;
        let modified = (0..count).map(|index| word(MODIFIED_AT + 8 * index) as i64).collect();
        let (beside, doubt) = (word(24) & BESIDE != 0, word(24) & DOUBT != 0);
        Some(Self { generation: word(8), applied: word(16), beside, doubt, modified })
    }
}

fn sum_of(bytes: &[u8; NOTE_LEN]) -> u64 {
    xxh3_64(&[&bytes[..40], &bytes[MODIFIED_AT..]].concat())
}

/// Writes notes for one generation, for the code that applies its records.
#[derive(Debug)]
pub struct NoteWriter {
    file: File,
    generation: u64,
    images: Vec<Arc<Image>>,
    /// Said once, it stays said for this generation.
    doubt: bool,
}

/// Why a note was not written. Nothing is lost by that but what the next start could have known.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The log.
    #[error("a note could not be written: {0}")]
    Io(#[from] io::Error),
    /// An image.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl NoteWriter {
    pub(super) fn new(file: File, generation: u64, images: Vec<Arc<Image>>) -> Self {
        Self { file, generation, images, doubt: false }
    }

    /// The images have all records up to and including epoch `applied`; nobody is writing to them.
    pub fn note_applied(&self, applied: u64) -> Result<(), NoteError> {
        self.write(applied, false)
    }

    /// The images are about to be written past the log: what they hold from now on says nothing against them. Durable.
    pub fn note_beside(&self) -> Result<(), NoteError> {
        self.write(0, true)?;
        Ok(self.file.sync_data()?)
    }

    /// An image's disk failed: whatever was noted as applied may not be there when the disk works again. Durable.
    pub fn note_doubt(&mut self) -> Result<(), NoteError> {
        self.doubt = true;
        self.write(0, false)?;
        Ok(self.file.sync_data()?)
    }

    fn write(&self, applied: u64, beside: bool) -> Result<(), NoteError> {
        let modified = self.images.iter().map(|image| image.modified()).collect::<Result<_, _>>()?;
        let note = Note { generation: self.generation, applied, beside, doubt: self.doubt, modified };
        Ok(self.file.write_all_at(&note.encode(), NOTE_AT)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_read_back_and_no_flipped_bit_is() {
        let note = Note { generation: 3, applied: 77, beside: true, doubt: true, modified: vec![5, -1, 1 << 60] };
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes), Some(note));
        for at in 0..bytes.len() {
            let mut bytes = bytes;
            bytes[at] ^= 1 << (at % 8);
            assert_eq!(Note::decode(&bytes), None, "byte {at}");
        }
        assert!(NOTE_LEN <= 4096 && Note::decode(&[0; NOTE_LEN]).is_none());
    }
}
