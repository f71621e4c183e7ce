//! A directory for one test, and the pair of programs that most tests start in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Guest, Launch, Vm, console, wait};

/// The name of the VM in all tests: each has a place of its own.
pub const NAME: &str = "guest";

/// Silence until a peer counts as lost: longer than the default, because tests run on busy machines. What ends a
/// connection, as a kill does, is noticed at once all the same.
const DETECT: &str = "1s";

/// A directory that goes away with the test: a witness, images, and one directory for each program.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A new one.
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// A new one whose files never wait for a disk.
    pub fn in_memory() -> Self {
        Self::under(Path::new("/dev/shm"))
    }

    fn under(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("outlast-").tempdir_in(parent).expect("a temporary directory");
        let place = Self { dir };
        fs::create_dir(place.witness()).expect("a directory in the test's own place");
        place
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of the witness.
    pub fn witness(&self) -> PathBuf {
        self.path("witness")
    }

    /// Makes an empty image.
    pub fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).expect("a file in the test's own place");
        file.set_len(bytes).expect("a sparse file");
        path
    }

    fn common(&self, launch: Launch, side: &str, guest: &Guest) -> Launch {
        let launch = launch.with("--name", NAME).with("--detect", DETECT);
        match guest.disk_bytes {
            Some(bytes) => {
                let image = self.path(&format!("{side}.img"));
                if !image.exists() {
                    self.image(&format!("{side}.img"), bytes);
                }
                launch.with("--disk", disk(&image))
            }
            None => launch,
        }
    }

    /// `--witness` for it.
    pub fn witness_option(&self) -> String {
        format!("file:{}", self.witness().display())
    }

    /// A machine that runs `guest`, with the disk of `side`; not protected.
    pub fn alone(&self, side: &str, guest: &Guest) -> Launch {
        let launch = self
            .common(Launch::new("run", &self.path(side)), side, guest)
            .with("--kernel", guest.kernel())
            .with("--cpus", guest.cpus.to_string())
            .with("--memory", format!("{}M", guest.memory_mib));
        if guest.cmdline.is_empty() { launch } else { launch.with("--cmdline", guest.cmdline.as_str()) }
    }

    /// A machine that runs `guest`, protected by the backup at `port`.
    pub fn primary(&self, side: &str, guest: &Guest, port: u16) -> Launch {
        self.alone(side, guest)
            .with("--witness", self.witness_option())
            .with("--protect", format!("tcp:127.0.0.1:{port}"))
    }

    /// A backup for `guest`, on a free port.
    pub fn backup(&self, side: &str, guest: &Guest) -> Launch {
        self.backup_on(side, guest, 0)
    }

    /// A backup for `guest`, on port `port`.
    pub fn backup_on(&self, side: &str, guest: &Guest, port: u16) -> Launch {
        self.common(Launch::new("backup", &self.path(side)), side, guest)
            .with("--witness", self.witness_option())
            .with("--listen", format!("tcp:127.0.0.1:{port}"))
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// A small file system in memory; unmounted with this value.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

/// Enough for whatever a guest of these tests writes until its file system is filled.
const SMALL_BYTES: &str = "size=64m";

impl SmallDisk {
    /// Mounts one at a new directory. It takes root.
    pub fn mount(dir: &Path) -> Self {
        Self::mount_of(dir, SMALL_BYTES)
    }

    /// The same of another size, `size=…`.
    pub fn mount_of(dir: &Path, size: &str) -> Self {
        fs::create_dir_all(dir).expect("the test's own directory");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", size, "outlast-test"]).arg(dir).status();
        assert!(mount.expect("mount is there").success());
        Self(dir.to_owned())
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).expect("room for a name");
        let block = vec![1; 1 << 20];
        let full = (0..).find_map(|_| ballast.write_all(&block).err()).expect("it has an end");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives it `size`, in which everything has room.
    pub fn grow(&self, size: &str) {
        let options = format!("remount,{size}");
        let mount = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(mount.expect("mount is there").success());
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").args(["--lazy"]).arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

/// `--disk` for an image.
pub fn disk(image: &Path) -> String {
    format!("path={}", image.display())
}

/// A primary and a backup that has everything.
#[derive(Debug)]
pub struct Pair {
    /// Where they run; dropped last.
    pub primary: Vm,
    /// The other side.
    pub backup: Vm,
}

impl Pair {
    /// Starts both and waits until the guest is protected.
    pub fn start(place: &Place, guest: &Guest) -> Self {
        Self::start_with(place, guest, |launch| launch)
    }

    /// The same, with more options for both.
    pub fn start_with(place: &Place, guest: &Guest, more: impl Fn(Launch) -> Launch) -> Self {
        let backup = more(place.backup("b", guest)).start();
        let primary = more(place.primary("a", guest, backup.port())).start();
        let pair = Self { primary, backup };
        pair.primary.wait_event("protected");
        pair.backup.wait_event("protected");
        pair
    }
}

/// Waits until `vm` shows a value of the guest's key that is at least `value`.
#[track_caller]
pub fn wait_value(vm: &Vm, guest: &Guest, value: u64) -> u64 {
    wait::until_within(wait::PATIENCE, || console::latest(guest, &vm.console()).filter(|seen| *seen >= value))
        .unwrap_or_else(|| panic!("the guest does not come to {value:#x}; it said: {}", tail(&vm.console())))
}

/// Waits until the guest has said `count` lines more than now.
#[track_caller]
pub fn wait_progress(vm: &Vm, guest: &Guest, lines: u64) -> u64 {
    let now = console::latest(guest, &vm.console()).unwrap_or(0);
    wait_value(vm, guest, now + lines * guest.step)
}

fn tail(text: &str) -> &str {
    let mut begin = text.len().saturating_sub(200);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    &text[begin..]
}

/// The newest record in a witness's directory.
#[track_caller]
pub fn newest_record(witness: &Path) -> Value {
    let path = |number: u32| witness.join(format!("{NAME}.view-{number}"));
    let last = (1..).take_while(|number| path(*number).exists()).last().expect("the VM was started");
    serde_json::from_slice(&fs::read(path(last)).expect("there")).expect("a record is JSON")
}
