//! Whose a generation of the log is, and for which disks: records name disks by number, and a number is not a disk.
//!
//! A disk is known again by what it is ([`Origin`]), by its length, by the moment of its last change, and by its
//! content in some places, all as they were when the generation began. Its name is kept for messages only: an image
//! that is restored, or copied again, gets the old one's name. Formats 1 and 2 of the log knew nothing, or name, length
//! and inode.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::BLOCK_BYTES;
use crate::disk::{DiskError, Image, Kind, Origin, OverlayDisk};

/// Blocks of a disk whose content is remembered.
pub const SAMPLE_COUNT: usize = 32;
/// Of these the first ones of the disk: there lies what nearly every file system and partition table changes when it is used.
const SAMPLES_AT_START: u64 = 8;
/// Bytes of a disk's entry in a table.
pub(super) const ENTRY_LEN: usize = 384;
/// Bytes of a file's name that are kept: the last ones.
const NAME_LEN: usize = 48;
/// In nanoseconds.
const SECOND: i64 = 1_000_000_000;
/// Bytes of an owner's name.
pub const OWNER_BYTES_MAX: usize = 63;

/// Which log: a random number that it keeps for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct LogId(pub [u8; 16]);

/// One guest from its boot on, through all its resumes: a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct LifeId(pub [u8; 16]);

/// The hash over an epoch and all before it, as the program that writes the log knows it. Here it is compared and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Chain(pub [u8; 16]);

/// Where in its guest's history a log is: at the last epoch that had disk writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Line {
    /// Nobody knows: a version wrote it that kept no chain hashes.
    #[default]
    Unknown,
    /// At its begin: no epoch of the guest had disk writes.
    Nothing,
    /// At the epoch of this chain hash.
    At(Chain),
}

impl Line {
    /// Whether a guest that was `here` when its epoch was committed was at the same point of the same history.
    pub fn is(self, here: Line) -> bool {
        self == here || [self, here].contains(&Line::Unknown)
    }
}

/// Whose writes a generation holds.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owner {
    /// The VM's name, at most [`OWNER_BYTES_MAX`] bytes.
    pub name: String,
    /// Which life of it.
    pub life: LifeId,
}

/// Which boot of which host this is, and when it began. The crate has no clock and looks nothing up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's random number for it.
    pub id: [u8; 16],
    /// Its begin, in nanoseconds since 1970.
    pub began: i64,
}

/// What a disk is known by, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskIdentity {
    /// Name of the image without its directory, for people.
    pub name: String,
    /// Which file or device it is.
    pub origin: Origin,
    /// Length of the disk in bytes.
    pub len: u64,
    /// When its content changed last, in nanoseconds since 1970; 0 if unknown.
    pub modified: i64,
    /// Hashes of the blocks at [`sample_offsets`].
    pub samples: [u64; SAMPLE_COUNT],
}

impl DiskIdentity {
    /// The identity of `image` now.
    pub fn of(image: &Image) -> Result<Self, DiskError> {
        let name = image.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (origin, len, modified) = (image.origin()?, image.len_bytes(), image.modified()?);
        let mut samples = [0; SAMPLE_COUNT];
        for (sample, offset) in samples.iter_mut().zip(sample_offsets(len)) {
            *sample = sample_of(image, offset)?;
        }
        Ok(Self { name, origin, len, modified, samples })
    }

    pub(super) fn encode(&self) -> [u8; ENTRY_LEN] {
        let Self { name, origin: Origin { kind, device, inode, birth, hardware }, len, modified, samples } = self;
        let mut bytes = [0; ENTRY_LEN];
        bytes[0] = match kind {
            Kind::File => 1,
            Kind::Device => 2,
        };
        let words = [*device, *inode, *birth as u64, *len, *modified as u64];
        for (slot, word) in bytes[8..48].as_chunks_mut().0.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
        bytes[48..64].copy_from_slice(hardware);
        bytes[64..64 + NAME_LEN].copy_from_slice(&kept_name(name.as_bytes()));
        for (slot, sample) in bytes[128..].as_chunks_mut().0.iter_mut().zip(samples) {
            *slot = sample.to_le_bytes();
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; ENTRY_LEN]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let kind = match bytes[0] {
            1 => Kind::File,
            2 => Kind::Device,
            _ => return None,
        };
        let hardware = bytes[48..64].try_into().expect("sixteen bytes");
        let origin = Origin { kind, device: word(8), inode: word(16), birth: word(24) as i64, hardware };
        let name = shown_name(&bytes[64..64 + NAME_LEN]);
        let samples = std::array::from_fn(|index| word(128 + 8 * index));
        Some(Self { name, origin, len: word(32), modified: word(40) as i64, samples })
    }
}

impl fmt::Display for DiskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, origin, len, .. } = self;
        match origin.kind {
            Kind::File if origin.birth == 0 => write!(f, "{name} (inode {}, {len} bytes)", origin.inode),
            Kind::File => {
                let (seconds, rest) = (origin.birth.div_euclid(SECOND), origin.birth.rem_euclid(SECOND));
                write!(f, "{name} (inode {}, made @{seconds}.{rest:09}, {len} bytes)", origin.inode)
            }
            Kind::Device => write!(f, "{name} (a block device of {len} bytes)"),
        }
    }
}

/// Where a disk of `len` bytes is sampled: its first blocks, its last one, and some between them, at odd places because file
/// systems use even ones for copies of one thing.
pub fn sample_offsets(len: u64) -> [u64; SAMPLE_COUNT] {
    let blocks = len.div_ceil(BLOCK_BYTES).max(1);
    let spread = SAMPLE_COUNT as u64 - SAMPLES_AT_START - 1;
    std::array::from_fn(|index| {
        let index = index as u64;
        let block = match index {
            _ if index < SAMPLES_AT_START => index,
            _ if index == SAMPLE_COUNT as u64 - 1 => blocks - 1,
            _ => {
                let part = blocks / spread;
                let within = xxh3_64(&index.to_le_bytes()) % part.max(1);
                (index - SAMPLES_AT_START) * part + within
            }
        };
        block.min(blocks - 1) * BLOCK_BYTES
    })
}

/// Hash of the block at `offset`; what lies past the end counts as zeros, and so does a block that somebody cut off.
pub(super) fn sample_of(image: &Image, offset: u64) -> Result<u64, DiskError> {
    let mut block = [0; BLOCK_BYTES as usize];
    let held = image.len_bytes().saturating_sub(offset).min(BLOCK_BYTES) as usize;
    match image.read_at(offset, &mut block[..held]) {
        Err(DiskError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => block.fill(0),
        read => read?,
    }
    Ok(xxh3_64(&block))
}

/// What format 2 knows a disk by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedDisk {
    inode: u64,
    len: u64,
    name: [u8; NAME_LEN],
}

/// Bytes of it in a head.
pub(super) const NAMED_LEN: usize = 16 + NAME_LEN;

impl NamedDisk {
    /// What `disk` is known by.
    pub fn of(disk: &OverlayDisk) -> io::Result<Self> {
        let name = disk.path().file_name().unwrap_or_default();
        Ok(Self::new(fs::metadata(disk.path())?.ino(), disk.len_bytes(), name))
    }

    /// A disk of `len` bytes whose image is called `name`, without its directory.
    pub fn new(inode: u64, len: u64, name: &OsStr) -> Self {
        Self { inode, len, name: kept_name(name.as_bytes()) }
    }

    /// Inode of the image.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Whether `now` is the disk that this was written for; `all` are the disks of that time.
    pub(super) fn is_of(&self, now: &Self, all: &[Self]) -> bool {
        let is_another = all.iter().any(|other| other.inode == now.inode) && self.inode != now.inode;
        self.len == now.len && !is_another && (self.inode == now.inode || self.name == now.name)
    }

    pub(super) fn decode(bytes: &[u8; NAMED_LEN]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self { inode: word(0), len: word(8), name: bytes[16..].try_into().expect("the rest is the name") }
    }
}

impl fmt::Display for NamedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", shown_name(&self.name), self.len)
    }
}

fn kept_name(name: &[u8]) -> [u8; NAME_LEN] {
    let kept = &name[name.len().saturating_sub(NAME_LEN)..];
    let mut padded = [0; NAME_LEN];
    padded[..kept.len()].copy_from_slice(kept);
    padded
}

fn shown_name(padded: &[u8]) -> String {
    let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(inode: u64, len: u64, name: &str) -> NamedDisk {
        NamedDisk::new(inode, len, name.as_ref())
    }

    #[test]
    fn named_disk_that_was_moved_or_renamed_is_known_again_and_another_is_not() {
        let (a, b) = (named(1, 4096, "a.img"), named(2, 4096, "b.img"));
        let all = [a, b];
        assert!(a.is_of(&a, &all));
        assert!(a.is_of(&named(9, 4096, "a.img"), &all), "copied to another directory");
        assert!(a.is_of(&named(1, 4096, "root.img"), &all), "renamed");
        assert!(!a.is_of(&b, &all), "another place");
        assert!(!a.is_of(&named(2, 4096, "a.img"), &all), "another place, with the names exchanged");
        assert!(!a.is_of(&named(1, 8192, "a.img"), &all), "another length");
        assert!(!a.is_of(&named(9, 4096, "c.img"), &all), "another disk");
    }

    fn identity() -> DiskIdentity {
        let origin = Origin { kind: Kind::File, device: 5, inode: 7, birth: 3_000_000_009, hardware: [3; 16] };
        let samples = std::array::from_fn(|index| index as u64 * 11);
        DiskIdentity { name: "root.img".into(), origin, len: 1 << 30, modified: 1 << 60, samples }
    }

    #[test]
    fn encoded_identity_is_read_back_and_an_unknown_kind_is_none() {
        let mut bytes = identity().encode();
        assert_eq!(DiskIdentity::decode(&bytes), Some(identity()));
        bytes[0] = 3;
        assert_eq!(DiskIdentity::decode(&bytes), None);
        assert_eq!(identity().to_string(), "root.img (inode 7, made @3.000000009, 1073741824 bytes)");
    }

    #[test]
    fn samples_lie_on_the_disk_begin_and_end_with_it_and_are_spread() {
        for len in [512, 4096, 100_000, 4 << 20, 1 << 40] {
            let offsets = sample_offsets(len);
            assert!(offsets.iter().all(|offset| *offset < len && offset % BLOCK_BYTES == 0), "{len}: {offsets:?}");
            assert_eq!((offsets[0], offsets[31] / BLOCK_BYTES), (0, (len - 1) / BLOCK_BYTES));
        }
        let spread = &sample_offsets(1 << 40)[8..31];
        assert!(spread.is_sorted() && spread.windows(2).all(|two| two[0] < two[1]));
    }
}
