//! A disk that does not take what its host had in memory, and works again: the host takes for written what is not there, until somebody
//! has it look.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use guests::place::{SmallDisk, disk, wait_progress};
use guests::{Guest, Launch, Place, needs};

const ERROR: i32 = 1;
const MIB: usize = 1 << 20;
const IMAGE_BYTES: usize = 16 * MIB;
/// Of the image that no guest of these tests writes to.
const TAIL: usize = 8 * MIB;
const STALE: u8 = 7;
/// Of the medium of a disk that works.
const ROOM: &str = "size=320m";

fn command(program: &str, args: &[&str]) -> Vec<u8> {
    let ran = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    ran.stdout
}

/// A file system on a disk that promises more room than it has.
struct FailingDisk {
    medium: SmallDisk,
    device: String,
    dir: PathBuf,
    backing: PathBuf,
}

impl FailingDisk {
    /// One that promises `bytes`, and has room for them until it is starved.
    fn mount(place: &Place, bytes: u64) -> Self {
        let medium = SmallDisk::mount_of(&place.path("medium"), ROOM);
        let (backing, dir) = (place.path("medium/disk"), place.path("failing"));
        File::create(&backing).and_then(|file| file.set_len(bytes)).expect("room");
        fs::create_dir_all(&dir).expect("the test's own directory");
        let (file, mount) = (backing.to_str().expect("UTF-8"), dir.to_str().expect("UTF-8"));
        // Without a journal, which would fail first.
        command("mkfs.ext4", &["-q", "-O", "^has_journal", file]);
        let device = String::from_utf8(command("losetup", &["--find", "--show", file])).expect("UTF-8");
        let device = device.trim().to_owned();
        command("mount", &[&device, mount]);
        Self { medium, device, dir, backing }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// From here on it has no room for what is zeros so far.
    fn starve(&self) {
        let backing = self.backing.to_str().expect("UTF-8");
        command("sync", &["--file-system", self.dir.to_str().expect("UTF-8")]);
        command("fallocate", &["--dig-holes", backing]);
        let used = String::from_utf8(command("du", &["--block-size=1M", "--total", backing])).expect("UTF-8");
        let used: usize = used.split_whitespace().next().and_then(|mib| mib.parse().ok()).expect("a number");
        self.medium.grow(&format!("size={}m", used + 2));
    }

    /// From here on it takes what it promised.
    fn mend(&self) {
        self.medium.grow(ROOM);
    }

    /// Some process writes to `bytes` of the file, which the disk does not take, and ends without hearing of it. Then the disk works
    /// again, and the host has in memory what is not there.
    fn lose(&self, file: &Path, bytes: Range<usize>) {
        self.starve();
        let written = File::options().write(true).open(file).expect("there");
        written.write_all_at(&vec![STALE; bytes.len()], bytes.start as u64).expect("the host takes it");
        drop(written);
        let synced = Command::new("sync").arg("--file-system").arg(&self.dir).output().expect("sync is there");
        assert!(!synced.status.success(), "there was room");
        self.mend();
        assert!(is_stale(file, bytes), "the host believes what it could not write");
    }

    /// What is on the disk, whatever its host had in memory.
    fn on_medium(&self, file: &Path) -> Vec<u8> {
        let mount = self.dir.to_str().expect("UTF-8");
        command("umount", &[mount]);
        command("mount", &[&self.device, mount]);
        as_read(file)
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let mount = self.dir.to_str().expect("UTF-8");
        for (program, args) in [("umount", vec![mount]), ("losetup", vec!["--detach", &self.device])] {
            let given_back = Command::new(program).args(args).status();
            assert!(given_back.is_ok_and(|status| status.success()) || std::thread::panicking(), "{mount} stays");
        }
    }
}

fn as_read(file: &Path) -> Vec<u8> {
    fs::read(file).expect("there")
}

fn is_stale(file: &Path, bytes: Range<usize>) -> bool {
    as_read(file)[bytes].iter().all(|byte| *byte == STALE)
}

/// What was read as `seen` while a VM used it is on the disk, which did not take all that was written.
#[track_caller]
fn assert_on_medium(failing: &FailingDisk, file: &Path, seen: &[u8], bytes: Range<usize>) {
    let on_medium = failing.on_medium(file);
    assert!(on_medium[bytes.clone()].iter().any(|byte| *byte != STALE), "there was room for all of it");
    assert!(seen[bytes.clone()] == on_medium[bytes], "the guest saw what is not on its disk");
}

#[test]
fn image_is_read_from_its_disk_by_a_vm_that_did_not_write_it() {
    needs!(Kvm, Root);
    let place = Place::new();
    let failing = FailingDisk::mount(&place, 64 << 20);
    let path = failing.path("a.img");
    let image = File::create(&path).expect("room");
    image.write_all_at(&vec![0; IMAGE_BYTES], 0).and_then(|()| image.sync_all()).expect("room");
    drop(image);
    failing.lose(&path, 0..IMAGE_BYTES);
    let guest = Guest { disk_bytes: None, ..Guest::disk_journal() };
    let start = || place.alone("a", &guest).with("--disk", disk(&path)).start();
    // Whoever syncs next is told, once.
    let mut told = start();
    assert_eq!(told.wait(), ERROR, "{}", told.log());
    assert!(told.log().contains("syncing") && told.log().contains("a.img"), "{}", told.log());
    assert!(is_stale(&path, 0..IMAGE_BYTES), "nobody had the host look");
    let mut vm = start();
    wait_progress(&vm, &guest, 20);
    let seen = as_read(&path);
    let (code, said) = vm.ctl(&["stop"]);
    assert_eq!((code, vm.wait()), (0, 0), "{said}");
    assert_on_medium(&failing, &path, &seen, TAIL..IMAGE_BYTES);
}

#[test]
fn memory_of_a_guest_is_read_from_its_disk_by_the_vm_that_resumes_it() {
    // Its image was, and its memory and the log of its epochs were not.
    needs!(Kvm, Root);
    let place = Place::new();
    let failing = FailingDisk::mount(&place, 300 << 20);
    let (guest, state) = (Guest::counter(), failing.path("state"));
    let launch = place.alone("a", &guest).instead("--state-dir", &state).with("--protect", "local");
    let mut vm = launch.with("--local-log", "redo").start();
    wait_progress(&vm, &guest, 20);
    vm.kill();
    let ram = state.join("ram");
    let end = as_read(&ram).len();
    // Of its memory, what the guest does not use.
    let unused = end - 8 * MIB..end;
    failing.lose(&ram, unused.clone());
    let resume = || Launch::resume(&place.path("a")).instead("--state-dir", &state).start();
    let mut told = resume();
    assert_eq!(told.wait(), ERROR, "{}", told.log());
    assert!(told.log().contains("syncing") && told.log().contains("ram"), "{}", told.log());
    assert!(is_stale(&ram, unused.clone()), "nobody had the host look");
    let mut vm = resume();
    wait_progress(&vm, &guest, 20);
    let seen = as_read(&ram);
    vm.kill();
    assert_on_medium(&failing, &ram, &seen, unused);
}
