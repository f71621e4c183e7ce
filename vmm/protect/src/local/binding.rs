//! Which disks a guest's epochs belong to, kept beside them: memory alone is half a guest.
//!
//! Written once in a guest's life, before its first epoch is committed; each record of an epoch names the life. So a state
//! directory whose binding is another life's, or is missing, is known. What changes while the guest runs (how far its images
//! are, and who wrote to them last) is in the log of disk writes, which is named here and names the life in turn.
//!
//! The file is a sealed line; it is replaced whole.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapshot::disk::{DiskError, OverlayDisk};
use snapshot::disklog::{Asked, Boot, DiskIdentity, LifeId, Line, LogId};
use snapshot::statedir::sealed::Sealed;
use snapshot::statedir::{self, Item};

use super::line;

/// What a guest is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The guest, from its boot on.
    pub life: LifeId,
    /// The log of its disk writes; none if it has no disk that it can write to.
    log: Option<LogId>,
    /// The boot of the host in which this was written.
    boot: [u8; 16],
    /// Its disks, by number, as they were then.
    disks: Vec<BoundDisk>,
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundDisk {
    /// Where its image was.
    path: PathBuf,
    /// The guest could only read it.
    readonly: bool,
    /// What it is known by.
    identity: DiskIdentity,
}

/// Why a guest's disks are not those that it is bound to.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// The file could not be replaced.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written, or of another guest.
    #[error("{} {what}: which disks this guest's memory belongs to is not known", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A disk could not be looked at.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another number of disks.
    #[error("the guest ran with {was} disks and is to continue with {now}")]
    Count {
        /// Disks that it ran with.
        was: usize,
        /// Disks that there are.
        now: usize,
    },
    /// A disk is not the one that the guest ran with.
    #[error("disk {number}, {}, is not the one that the guest ran with: {what}", path.display())]
    OtherDisk {
        /// Its number.
        number: usize,
        /// Where it is now.
        path: PathBuf,
        /// What tells so.
        what: String,
    },
}

impl Binding {
    /// Of a guest that is about to start on `disks`, whose writes go through `log`.
    pub fn new(life: LifeId, log: Option<LogId>, boot: &Boot, disks: &[OverlayDisk]) -> Result<Self, BindingError> {
        let bound = |disk: &OverlayDisk| {
            let identity = DiskIdentity::of(disk.image())?;
            Ok(BoundDisk { path: disk.path().to_owned(), readonly: disk.is_readonly(), identity })
        };
        let disks = disks.iter().map(bound).collect::<Result<_, DiskError>>()?;
        Ok(Self { life, log, boot: boot.id, disks })
    }

    /// What is asked of the log of the guest's disk writes, which was at `line` at its last epoch.
    pub fn asks_of_log(&self, line: Line) -> Asked {
        self.log.map_or(Asked::Start, |log| Asked::Resume { log, life: self.life, line })
    }

    /// Whether `disks` are those that the guest ran with. For those that it can write to, their log shows what was
    /// written.
    pub fn check(&self, disks: &[OverlayDisk], boot: &Boot) -> Result<(), BindingError> {
        if disks.len() != self.disks.len() {
            return Err(BindingError::Count { was: self.disks.len(), now: disks.len() });
        }
        for (number, (was, disk)) in self.disks.iter().zip(disks).enumerate() {
            let now = DiskIdentity::of(disk.image())?;
            if let Some(what) = was.differs(&now, self.boot == boot.id) {
                return Err(BindingError::OtherDisk { number, path: disk.path().to_owned(), what });
            }
        }
        Ok(())
    }

    /// What was `found` in `dir`, where there must be one.
    pub(super) fn of(found: &Sealed, dir: &Path) -> Result<Self, BindingError> {
        let damaged = |what| BindingError::Damaged { path: Item::Binding.path_in(dir), what };
        line::decode(found).map_err(|line::Damage| damaged("is damaged"))?.ok_or(damaged("is missing"))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), BindingError> {
        let written = statedir::replace(dir, Item::Binding, line::encode(self).as_bytes());
        written.map_err(|source| BindingError::Io { path: Item::Binding.path_in(dir), source })
    }
}

impl BoundDisk {
    /// What tells `now` from the disk of this number.
    fn differs(&self, now: &DiskIdentity, same_boot: bool) -> Option<String> {
        let Self { path: _, readonly, identity: was } = self;
        if was.len != now.len {
            return Some(format!("that had {} bytes, this has {}", was.len, now.len));
        }
        let is_it = was.origin.is(&now.origin, same_boot);
        // One that is only read may be a copy; its content counts.
        match readonly {
            true if is_it && was.modified == now.modified => None,
            true if was.samples == now.samples => None,
            true => Some("its content differs".into()),
            false if is_it => None,
            false => Some(format!("that was {was}, this is {now}")),
        }
    }
}

/// A file as it is written.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzing_valid() -> Vec<u8> {
    line::encode(&Binding { life: LifeId([3; 16]), log: Some(LogId([1; 16])), boot: [2; 16], disks: Vec::new() })
        .into_bytes()
}

/// Reads any bytes as such a file.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzing_read(file: &[u8]) {
    let Ok(binding) = Binding::of(&statedir::sealed::open(file), Path::new("/s")) else { return };
    let _ = (binding.asks_of_log(Line::Unknown), binding.check(&[], &Boot { id: [2; 16], began: 0 }));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BINDING: &str = "disks";
    const BOOT: Boot = Boot { id: [1; 16], began: 0 };

    fn binding(disks: &[OverlayDisk]) -> Binding {
        Binding::new(LifeId([2; 16]), Some(LogId([3; 16])), &BOOT, disks).expect("they can be read")
    }

    fn read(dir: &Path) -> Result<Binding, BindingError> {
        let bytes = statedir::read(dir, Item::Binding).expect("readable");
        Binding::of(&bytes.map_or(Sealed::Absent, |bytes| statedir::sealed::open(&bytes)), dir)
    }

    fn open(path: &Path, readonly: bool) -> OverlayDisk {
        OverlayDisk::open(path, readonly).expect("it is free")
    }

    #[test]
    fn binding_is_read_back_and_every_cut_and_flip_is_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("a.img");
        fs::write(&image, [1; 8192]).expect("room");
        let written = binding(&[open(&image, false)]);
        written.write(dir.path()).expect("room");
        assert_eq!(read(dir.path()).expect("whole"), written);
        let whole = line::encode(&written).into_bytes();
        for at in (0..whole.len()).step_by(3) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [&flipped[..], &whole[..at]] {
                fs::write(dir.path().join(BINDING), bytes).expect("room");
                let error = read(dir.path()).expect_err("damaged");
                assert!(matches!(error, BindingError::Damaged { .. }), "byte {at}: {error}");
            }
        }
        fs::remove_file(dir.path().join(BINDING)).expect("it was there");
        let error = read(dir.path()).expect_err("missing");
        assert!(matches!(error, BindingError::Damaged { what: "is missing", .. }), "{error}");
        assert!(error.to_string().contains("disks is missing"), "{error}");
    }

    #[test]
    fn line_of_every_version_so_far_is_read_and_written_as_ever() {
        let golden = include_str!("../../../../tests/golden/state-dir-disks.txt");
        let read = Binding::of(&statedir::sealed::open(golden.as_bytes()), Path::new("/s")).expect("whole");
        assert_eq!((read.life, read.log), (LifeId([3; 16]), Some(LogId([1; 16]))));
        assert_eq!(line::encode(&read), golden);
    }

    #[test]
    fn replaced_disk_is_refused_and_a_renamed_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), [1; 8192]).expect("room");
        let binding = binding(&[open(&path("a"), false)]);
        fs::rename(path("a"), path("b")).expect("renamed");
        fs::copy(path("b"), path("a")).expect("copied");
        binding.check(&[open(&path("b"), false)], &BOOT).expect("it is the one");
        let error = binding.check(&[open(&path("a"), false)], &BOOT).expect_err("a copy");
        assert!(error.to_string().contains("disk 0") && error.to_string().contains("inode"), "{error}");
        assert!(matches!(binding.check(&[], &BOOT), Err(BindingError::Count { was: 1, now: 0 })));
        fs::write(path("b"), [1; 4096]).expect("room");
        let error = binding.check(&[open(&path("b"), false)], &BOOT).expect_err("cut");
        assert!(error.to_string().contains("8192 bytes"), "{error}");
    }

    #[test]
    fn disk_that_is_only_read_may_be_a_copy_of_the_same_content() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), [1; 8192]).expect("room");
        let binding = binding(&[open(&path("a"), true)]);
        fs::copy(path("a"), path("copy")).expect("copied");
        binding.check(&[open(&path("copy"), true)], &BOOT).expect("its content is the same");
        fs::write(path("copy"), [2; 8192]).expect("room");
        let error = binding.check(&[open(&path("copy"), true)], &BOOT).expect_err("another content");
        assert!(error.to_string().contains("content differs"), "{error}");
    }
}
