//! Which file or device an image is, whatever its name and content.
//!
//! A file is known again by its inode and the moment of its birth, since inode numbers are used again; on this host and in
//! this boot by its file system's device number too, which another boot gives to others. A block device is known by what its
//! hardware or its mapping says of itself under `/sys`, and where that says nothing by its number.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// What a device says of itself, relative to `/sys/dev/block/MAJOR:MINOR`; a partition's number and its disk's are in it.
const OF_HARDWARE: [&str; 10] = [
    "wwid",
    "dm/uuid",
    "md/uuid",
    "serial",
    "device/wwid",
    "device/serial",
    "loop/backing_file",
    "partition",
    "../wwid",
    "../serial",
];

/// What an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A block device.
    Device,
}

/// Which file or device an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// What it is.
    pub kind: Kind,
    /// Device number of the file system, or of the block device itself. Means nothing in another boot.
    pub device: u64,
    /// Inode of a file, else 0.
    pub inode: u64,
    /// When the file was made, in nanoseconds since 1970; 0 where the file system does not tell.
    pub birth: i64,
    /// Hash of what a block device says of itself; zeros where it says nothing, and of a file.
    pub hardware: [u8; 16],
}

impl Origin {
    /// Whether `now` is what this was. `same_boot`: both were seen in one boot of one host.
    pub fn is(&self, now: &Self, same_boot: bool) -> bool {
        if self.kind != now.kind {
            return false;
        }
        match self.kind {
            Kind::File => {
                self.inode == now.inode && self.birth == now.birth && (!same_boot || self.device == now.device)
            }
            // Only a boot may turn one's number into another's.
            Kind::Device if self.hardware == [0; 16] || now.hardware == [0; 16] => self.device == now.device,
            Kind::Device => self.hardware == now.hardware,
        }
    }
}

pub(super) fn of(file: &File) -> io::Result<Origin> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let (device, hardware) = (metadata.rdev(), hardware_of(metadata.rdev()));
        return Ok(Origin { kind: Kind::Device, device, inode: 0, birth: 0, hardware });
    }
    let (device, inode, birth) = (metadata.dev(), metadata.ino(), birth_of(file)?);
    Ok(Origin { kind: Kind::File, device, inode, birth, hardware: [0; 16] })
}

pub(super) fn modified(file: &File) -> io::Result<i64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        return Ok(0);
    }
    Ok(nanoseconds(metadata.mtime(), metadata.mtime_nsec() as u32))
}

/// When `file` was made, in nanoseconds since 1970; zero: its file system does not say.
///
/// # Errors
/// What the kernel says.
pub fn birth_of(file: &File) -> io::Result<i64> {
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
    let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(if is_told { nanoseconds(found.stx_btime.tv_sec, found.stx_btime.tv_nsec) } else { 0 })
}

fn nanoseconds(seconds: i64, rest: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(rest))
}

fn hardware_of(device: u64) -> [u8; 16] {
    let dir = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let read = |name: &'static str| {
        fs::read_to_string(format!("{dir}/{name}")).ok().map(|text| (name, text.trim().to_owned()))
    };
    let said: Vec<_> = OF_HARDWARE.into_iter().filter_map(read).filter(|(_, text)| !text.is_empty()).collect();
    // The number of a partition alone is that of one on every disk.
    if said.iter().all(|(name, _)| *name == "partition") {
        return [0; 16];
    }
    let text: Vec<String> = said.into_iter().map(|(name, text)| format!("{name}={text}\n")).collect();
    xxh3_128(text.concat().as_bytes()).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(device: u64, inode: u64, birth: i64) -> Origin {
        Origin { kind: Kind::File, device, inode, birth, hardware: [0; 16] }
    }

    fn device(device: u64, hardware: u8) -> Origin {
        Origin { kind: Kind::Device, device, inode: 0, birth: 0, hardware: [hardware; 16] }
    }

    #[test]
    fn file_is_known_by_inode_and_birth_and_in_one_boot_by_its_file_system() {
        let was = file(1, 7, 100);
        assert!(was.is(&was, true));
        assert!(was.is(&file(9, 7, 100), false), "another boot numbers devices anew");
        assert!(!was.is(&file(9, 7, 100), true), "another file system");
        assert!(!was.is(&file(1, 7, 101), true), "its inode was used again");
        assert!(!was.is(&file(1, 8, 100), false));
        assert!(!was.is(&device(1, 0), true));
    }

    #[test]
    fn device_is_known_by_its_hardware_and_without_by_its_number() {
        assert!(device(1, 5).is(&device(2, 5), true), "under another number");
        assert!(!device(1, 5).is(&device(1, 6), true), "another disk under its number");
        assert!(device(1, 0).is(&device(1, 6), false));
        assert!(!device(1, 0).is(&device(2, 0), true));
    }

    #[test]
    fn renamed_file_is_the_same_and_a_copy_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let origin = |name: &str| of(&File::open(path(name)).unwrap()).unwrap();
        fs::write(path("a"), "content").unwrap();
        let was = origin("a");
        fs::copy(path("a"), path("copy")).unwrap();
        fs::rename(path("a"), path("b")).unwrap();
        assert!(was.is(&origin("b"), true));
        assert!(!was.is(&origin("copy"), true));
    }
}
