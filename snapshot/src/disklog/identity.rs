//! Which disks a log was written for: records name disks by number, and a number is not a disk.
//!
//! A disk is known again by its length and its file's name, or its inode: so images may be moved together with their log,
//! or renamed in place, and not change places.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use crate::disk::OverlayDisk;

/// Bytes of an identity in a head.
pub(super) const IDENTITY_LEN: usize = 64;
/// Bytes of a file's name that are kept: the last ones.
const NAME_LEN: usize = IDENTITY_LEN - 16;

/// What a disk is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// Inode of the image.
    inode: u64,
    /// Length of the disk in bytes.
    len: u64,
    /// Name of the image without its directory, padded with zeros.
    name: [u8; NAME_LEN],
}

impl DiskIdentity {
    /// The identity of `disk`.
    pub fn of(disk: &OverlayDisk) -> io::Result<Self> {
        let name = disk.path().file_name().unwrap_or_default();
        Ok(Self::new(fs::metadata(disk.path())?.ino(), disk.len_bytes(), name))
    }

    /// The identity of a disk of `len` bytes whose image is called `name`, without its directory.
    pub fn new(inode: u64, len: u64, name: &OsStr) -> Self {
        let bytes = name.as_bytes();
        let kept = &bytes[bytes.len().saturating_sub(NAME_LEN)..];
        let mut name = [0; NAME_LEN];
        name[..kept.len()].copy_from_slice(kept);
        Self { inode, len, name }
    }

    /// Whether `now` is the disk that this was written for; `all` are the disks of that time.
    pub(super) fn is_of(&self, now: &Self, all: &[Self]) -> bool {
        let is_another = all.iter().any(|other| other.inode == now.inode) && self.inode != now.inode;
        self.len == now.len && !is_another && (self.inode == now.inode || self.name == now.name)
    }

    pub(super) fn encode(&self) -> [u8; IDENTITY_LEN] {
        let Self { inode, len, name } = self;
        let mut bytes = [0; IDENTITY_LEN];
        bytes[..8].copy_from_slice(&inode.to_le_bytes());
        bytes[8..16].copy_from_slice(&len.to_le_bytes());
        bytes[16..].copy_from_slice(name);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; IDENTITY_LEN]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self { inode: word(0), len: word(8), name: bytes[16..].try_into().expect("the rest is the name") }
    }
}

impl fmt::Display for DiskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        write!(f, "{} of {} bytes", String::from_utf8_lossy(name), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64, len: u64, name: &str) -> DiskIdentity {
        DiskIdentity::new(inode, len, name.as_ref())
    }

    #[test]
    fn disk_that_was_moved_or_renamed_is_known_again_and_another_is_not() {
        let (a, b) = (identity(1, 4096, "a.img"), identity(2, 4096, "b.img"));
        let all = [a, b];
        assert!(a.is_of(&a, &all));
        assert!(a.is_of(&identity(9, 4096, "a.img"), &all), "copied to another directory");
        assert!(a.is_of(&identity(1, 4096, "root.img"), &all), "renamed");
        assert!(!a.is_of(&b, &all), "another place");
        assert!(!a.is_of(&identity(2, 4096, "a.img"), &all), "another place, with the names exchanged");
        assert!(!a.is_of(&identity(1, 8192, "a.img"), &all), "another length");
        assert!(!a.is_of(&identity(9, 4096, "c.img"), &all), "another disk");
    }

    #[test]
    fn encoded_identity_is_read_back() {
        let identity = identity(7, 1 << 30, "root.img");
        assert_eq!(DiskIdentity::decode(&identity.encode()), identity);
        assert_eq!(identity.to_string(), "root.img of 1073741824 bytes");
    }
}
