//! What a file lies on, and which failures that survives.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use crate::mapping::{PAGE, maps_sync};

/// A failure that memory outlasts, each including those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Survives {
    /// The process ends, by whatever signal.
    ProcessDeath,
    /// The kernel stops, and the machine starts again without losing power.
    KernelCrash,
    /// The power goes.
    PowerLoss,
}

impl fmt::Display for Survives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcessDeath => "the death of a process",
            Self::KernelCrash => "a kernel crash",
            Self::PowerLoss => "a loss of power",
        })
    }
}

/// What a file lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Pages of the kernel's memory.
    Tmpfs,
    /// The same, in huge pages.
    Hugetlbfs,
    /// Persistent memory mapped with `MAP_SYNC`: a flushed cache line is durable.
    Dax,
    /// The same, on memory that only a kernel crash leaves alone (`memmap=`, a device that is not known to keep it).
    VolatileDax,
    /// An ordinary file system on a disk.
    Disk,
    /// A file system of which nothing is known here (its type as `statfs` gives it).
    Unknown(u64),
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Hugetlbfs => f.write_str("hugetlbfs"),
            Self::Dax => f.write_str("persistent memory"),
            Self::VolatileDax => f.write_str("DAX on memory that is not known to survive a loss of power"),
            Self::Disk => f.write_str("a file system on a disk"),
            Self::Unknown(magic) => write!(f, "a file system of type {magic:#x}"),
        }
    }
}

const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
/// ext2 to ext4, XFS, Btrfs, F2FS, ZFS: `fdatasync` reaches the disk, if the disk is honest.
const DISKS: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x2FC1_2FC1];

impl Medium {
    /// The medium of an open file. `maps_sync` tells whether `MAP_SYNC` was granted for it.
    pub(crate) fn of(file: &File, maps_sync: bool) -> std::io::Result<Self> {
        let magic = rustix::fs::fstatfs(file)?.f_type as u64;
        Ok(match magic {
            TMPFS => Self::Tmpfs,
            HUGETLBFS => Self::Hugetlbfs,
            _ if maps_sync && keeps_without_power(file) => Self::Dax,
            _ if maps_sync => Self::VolatileDax,
            magic if DISKS.contains(&magic) => Self::Disk,
            magic => Self::Unknown(magic),
        })
    }

    /// What files made in this directory will lie on.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn of_directory(directory: &Path) -> std::io::Result<Self> {
        let opened = File::open(directory)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        // Where no such file can be made, none can be mapped directly either.
        let nameless = openat(&opened, ".", flags, Mode::RUSR | Mode::WUSR).map(File::from);
        let maps_sync = nameless.is_ok_and(|file| file.set_len(PAGE as u64).is_ok() && maps_sync(&file, PAGE));
        Self::of(&opened, maps_sync)
    }

    /// The most that it can give.
    pub fn survives(self) -> Survives {
        match self {
            // A file system that is not known may sync to nowhere; that the kernel keeps its pages is all that is sure.
            Self::Tmpfs | Self::Hugetlbfs | Self::Unknown(_) => Survives::ProcessDeath,
            Self::VolatileDax => Survives::KernelCrash,
            Self::Dax | Self::Disk => Survives::PowerLoss,
        }
    }

    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Tmpfs | Self::Hugetlbfs => "put the file on persistent memory mounted with dax, or on a disk",
            Self::VolatileDax => "put the file on real persistent memory, or on a disk",
            Self::Unknown(_) => {
                "put the file on ext4, XFS, Btrfs, F2FS or ZFS, or on persistent memory mounted with dax"
            }
            Self::Dax | Self::Disk => "require what it gives",
        }
    }
}

/// Whether the block device below is a memory module and not ordinary memory set aside at boot or by a hypervisor.
fn keeps_without_power(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let Ok(device) = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { return false };
    let device = device.to_string_lossy();
    device.contains("/ndbus") && !device.contains("e820_pmem") && !device.contains("virtio")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_lies_on_what_its_files_lie_on() {
        assert_eq!(Medium::of_directory(Path::new("/dev/shm")).unwrap(), Medium::Tmpfs);
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        assert_eq!(Medium::of_directory(directory.path()).unwrap(), Medium::of(&file, false).unwrap());
    }
}
