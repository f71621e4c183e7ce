//! A disk that does not take what its host had in memory, and works again: the host takes for written what is not there, until somebody
//! has it look.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use guests::place::{SmallDisk, disk, wait_progress};
use guests::{Guest, Place, needs};

const ERROR: i32 = 1;
const MIB: usize = 1 << 20;
const IMAGE_BYTES: usize = 16 * MIB;
/// Of the image that no guest of these tests writes to.
const TAIL: usize = 8 * MIB;
const STALE: u8 = 7;

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
}

impl FailingDisk {
    /// One with an image of zeros, for whose content it has no room.
    fn mount(place: &Place) -> Self {
        let medium = SmallDisk::mount_of(&place.path("medium"), "size=128m");
        let (backing, dir) = (place.path("medium/disk"), place.path("failing"));
        File::create(&backing).and_then(|file| file.set_len(64 << 20)).expect("room");
        fs::create_dir_all(&dir).expect("the test's own directory");
        let (backing, mount) = (backing.to_str().expect("UTF-8"), dir.to_str().expect("UTF-8"));
        // Without a journal, which would fail first.
        command("mkfs.ext4", &["-q", "-O", "^has_journal", backing]);
        let device = String::from_utf8(command("losetup", &["--find", "--show", backing])).expect("UTF-8");
        let device = device.trim().to_owned();
        command("mount", &[&device, mount]);
        let this = Self { medium, device, dir };
        let image = File::create(this.image()).expect("room");
        image.write_all_at(&vec![0; IMAGE_BYTES], 0).and_then(|()| image.sync_all()).expect("room");
        command("fallocate", &["--dig-holes", backing]);
        let used = String::from_utf8(command("du", &["--block-size=1M", "--total", backing])).expect("UTF-8");
        let used: usize = used.split_whitespace().next().and_then(|mib| mib.parse().ok()).expect("a number");
        this.medium.grow(&format!("size={}m", used + 2));
        this
    }

    fn image(&self) -> PathBuf {
        self.dir.join("a.img")
    }

    /// From here on it takes what it promised.
    fn mend(&self) {
        self.medium.grow("size=128m");
    }

    /// What is on the disk, whatever its host had in memory.
    fn on_medium(&self) -> Vec<u8> {
        let mount = self.dir.to_str().expect("UTF-8");
        command("umount", &[mount]);
        command("mount", &[&self.device, mount]);
        as_read(&self.image())
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

fn as_read(image: &Path) -> Vec<u8> {
    fs::read(image).expect("there")
}

#[test]
fn image_is_read_from_its_disk_by_a_vm_that_did_not_write_it() {
    needs!(Kvm, Root);
    let place = Place::new();
    let failing = FailingDisk::mount(&place);
    let before = File::options().write(true).open(failing.image()).expect("there");
    before.write_all_at(&vec![STALE; IMAGE_BYTES], 0).expect("the host takes it");
    // Its process ends without hearing of it.
    drop(before);
    let synced = Command::new("sync").arg("--file-system").arg(&failing.dir).output().expect("sync is there");
    assert!(!synced.status.success(), "there was room");
    failing.mend();
    let is_stale = |image: &Path| as_read(image) == vec![STALE; IMAGE_BYTES];
    assert!(is_stale(&failing.image()), "the host believes what it could not write");
    let guest = Guest { disk_bytes: None, ..Guest::disk_journal() };
    let start = || place.alone("a", &guest).with("--disk", disk(&failing.image())).start();
    // Whoever syncs next is told, once.
    let mut told = start();
    assert_eq!(told.wait(), ERROR, "{}", told.log());
    assert!(told.log().contains("syncing") && told.log().contains("a.img"), "{}", told.log());
    assert!(is_stale(&failing.image()), "nobody had the host look");
    let mut vm = start();
    wait_progress(&vm, &guest, 20);
    let seen = as_read(&failing.image());
    let (code, said) = vm.ctl(&["stop"]);
    assert_eq!((code, vm.wait()), (0, 0), "{said}");
    let on_medium = failing.on_medium();
    assert!(on_medium[TAIL..].iter().any(|byte| *byte != STALE), "there was room for all of it");
    assert!(seen[TAIL..] == on_medium[TAIL..], "the guest saw what is not on its disk");
}
