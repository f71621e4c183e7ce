//! No file has two uses. A console that is appended to a disk image, or a log that a guest overwrites, would be damage
//! that nobody sees until the data is needed.
//!
//! Files are compared by what they are and not by their names, so links, mounts and other spellings do not hide one. A file
//! that is not there yet is known by the directory that it will be made in and its name. Two uses that only read may share.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use snapshot::statedir::Item;

use super::local;
use crate::config::{BackupVmConfig, Console, ControlConfig, DeviceConfig, StartFrom, VmConfig};
use crate::exit::{Exit, Failure};

/// A chain of links this long is a circle.
const LINKS_MAX: usize = 40;

/// One use of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    /// As it is given: an option, or what it is.
    what: String,
    path: PathBuf,
    writes: bool,
}

/// What a file is, by whatever name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    Inode {
        device: u64,
        inode: u64,
    },
    BlockDevice(u64),
    /// Not there yet: the rest of the path below a directory that is.
    Absent {
        device: u64,
        inode: u64,
        rest: PathBuf,
    },
}

/// Refuses a VM of which two uses have one file.
pub(super) fn check(config: &VmConfig) -> Result<(), Failure> {
    let log = local::log_path(&config.devices, &config.state);
    let mut uses = common(&config.devices, &config.control, log);
    match &config.guest.start {
        StartFrom::Kernel { kernel, initramfs, cmdline: _ } => {
            uses.push(reads("--kernel", kernel));
            uses.extend(initramfs.iter().map(|path| reads("--initramfs", path)));
        }
        StartFrom::Snapshot(dir) => {
            let files = ["config.json", "state.bin", "memory.bin", "MANIFEST"];
            uses.extend(files.map(|name| reads("the snapshot's file", &dir.join(name))));
        }
    }
    refuse_shared(&uses, &config.state.dir)
}

/// The same for a backup.
pub(super) fn check_backup(config: &BackupVmConfig) -> Result<(), Failure> {
    let log = local::log_path(&config.devices, &config.state);
    refuse_shared(&common(&config.devices, &config.control, log), &config.state.dir)
}

fn writes(what: &str, path: &Path) -> Use {
    Use { what: what.into(), path: path.to_owned(), writes: true }
}

fn reads(what: &str, path: &Path) -> Use {
    Use { writes: false, ..writes(what, path) }
}

fn common(
    DeviceConfig { disks, nets: _, console, balloon: _ }: &DeviceConfig,
    ControlConfig { api_socket, event_monitor, .. }: &ControlConfig,
    log: Option<PathBuf>,
) -> Vec<Use> {
    let mut uses: Vec<Use> =
        disks.iter().map(|disk| Use { writes: !disk.readonly, ..writes("--disk", &disk.path) }).collect();
    uses.extend(log.map(|path| writes("the log of disk writes", &path)));
    if let Console::File(path) = console {
        uses.push(writes("--console", path));
    }
    uses.extend(event_monitor.iter().map(|monitor| writes("--event-monitor", &monitor.path)));
    uses.push(writes("--api-socket", api_socket));
    uses
}

fn refuse_shared(uses: &[Use], state_dir: &Path) -> Result<(), Failure> {
    let known: Vec<(&Use, Identity)> = uses.iter().filter_map(|one| Some((one, identity_of(&one.path)?))).collect();
    for (index, (one, identity)) in known.iter().enumerate() {
        let other = known[..index].iter().find(|(other, also)| also == identity && (one.writes || other.writes));
        if let Some((other, _)) = other {
            return Err(shared(other, one));
        }
    }
    for name in Item::file_names() {
        let kept = writes("the state directory's file", &state_dir.join(name));
        let Some(identity) = identity_of(&kept.path) else { continue };
        if let Some((one, _)) = known.iter().find(|(_, also)| *also == identity) {
            return Err(shared(&kept, one));
        }
    }
    Ok(())
}

fn shared(one: &Use, other: &Use) -> Failure {
    let [one, other] = [one, other].map(|used| format!("{} {}", used.what, used.path.display()));
    Failure::new(
        Exit::Usage,
        format!("{one} and {other} are one file: what one use writes, the other takes for its own"),
    )
    .with_hint("give each a file of its own")
}

/// What the file at `path` is, or will be; none of a device that any number of uses may share, and where that cannot be seen.
fn identity_of(path: &Path) -> Option<Identity> {
    let path = followed(path);
    if let Ok(metadata) = fs::metadata(&path) {
        let kind = metadata.file_type();
        return match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => None,
            (_, true) => Some(Identity::BlockDevice(metadata.rdev())),
            _ => Some(Identity::Inode { device: metadata.dev(), inode: metadata.ino() }),
        };
    }
    // What lies above it must be made too.
    let above = path.ancestors().skip(1).find(|above| fs::metadata(above).is_ok())?;
    let metadata = fs::metadata(above).ok()?;
    let rest = path.strip_prefix(above).ok()?.to_owned();
    Some(Identity::Absent { device: metadata.dev(), inode: metadata.ino(), rest })
}

/// Where links lead that lead to nothing yet: there the file is made.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a directory"));
            fs::write(place.path("a.img"), "image").expect("room");
            fs::create_dir(place.path("state")).expect("room");
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn check(&self, uses: &[Use]) -> Result<(), Failure> {
            refuse_shared(uses, &self.path("state"))
        }

        #[track_caller]
        fn assert_refused(&self, uses: &[Use]) {
            let failure = self.check(uses).expect_err("one file");
            assert_eq!(failure.exit, Exit::Usage);
            assert!(uses.iter().any(|one| failure.message.contains(&one.path.display().to_string())), "{failure}");
        }
    }

    #[test]
    fn image_is_found_behind_every_name() {
        let place = Place::new();
        std::os::unix::fs::symlink("a.img", place.path("link")).expect("room");
        fs::hard_link(place.path("a.img"), place.path("hard")).expect("room");
        for name in ["a.img", "link", "hard", "state/../a.img"] {
            place.assert_refused(&[writes("--disk", &place.path("a.img")), writes("--console", &place.path(name))]);
        }
        place.check(&[writes("--disk", &place.path("a.img")), writes("--console", &place.path("c"))]).expect("two");
    }

    #[test]
    fn file_that_is_not_there_yet_is_known_by_its_place() {
        let place = Place::new();
        std::os::unix::fs::symlink("new", place.path("dangling")).expect("room");
        std::os::unix::fs::symlink("state", place.path("other")).expect("room");
        for (one, other) in [("new", "new"), ("new", "dangling"), ("state/x", "other/x"), ("no/such/x", "no/such/x")] {
            place.assert_refused(&[
                writes("--console", &place.path(one)),
                writes("--event-monitor", &place.path(other)),
            ]);
        }
        let two = [writes("--console", &place.path("new")), writes("--event-monitor", &place.path("no/new"))];
        place.check(&two).expect("two");
    }

    #[test]
    fn state_files_are_nobody_elses() {
        let place = Place::new();
        for name in Item::file_names() {
            place.assert_refused(&[writes("--console", &place.path("state").join(&name))]);
            place.assert_refused(&[reads("--kernel", &place.path("state").join(name))]);
        }
        place.check(&[writes("--console", &place.path("state/console"))]).expect("it is only in the same directory");
    }

    #[test]
    fn who_only_reads_may_share_and_so_may_all_of_a_device_without_content() {
        let place = Place::new();
        let (kernel, image) = (reads("--kernel", &place.path("a.img")), place.path("a.img"));
        place.check(&[kernel.clone(), reads("--initramfs", &image), reads("--disk", &image)]).expect("all read");
        place.assert_refused(&[kernel, writes("--disk", &image)]);
        let null = Path::new("/dev/null");
        place.check(&[writes("--console", null), writes("--event-monitor", null)]).expect("it keeps nothing");
    }
}
