//! Memory, disk and log of one guest and one moment: what does not belong together is refused, and says what to do; what was
//! only moved is known again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use guests::place::{SmallDisk, disk, wait_progress};
use guests::{Guest, Launch, Place, Vm, console, needs, said};
use outlast_api::DiskLog;

const ERROR: i32 = 1;
const USAGE: i32 = 2;
const CONFLICT: i32 = 4;
const INCOMPATIBLE: i32 = 163;

fn local(place: &Place, guest: &Guest) -> Launch {
    place.alone("a", guest).with("--protect", "local").with("--epoch", "2ms")
}

/// A journal's guest with local protection, killed in the middle of its work.
fn crashed(place: &Place) -> Guest {
    let guest = Guest::disk_journal();
    let mut vm = local(place, &guest).start();
    wait_progress(&vm, &guest, 300);
    vm.kill();
    guest
}

#[track_caller]
fn assert_refused(mut vm: Vm, code: i32, says: &[&str]) {
    let ended = vm.wait();
    let log = vm.log();
    assert_eq!(ended, code, "{log}");
    assert!(says.iter().all(|part| log.contains(part)), "{says:?}: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

fn resume(place: &Place) -> Vm {
    Launch::resume(&place.path("a")).start()
}

/// The journal's guest started on `image` under another name, to its first new record.
fn second(place: &Place, image: &Path) -> Vm {
    let guest = Guest { disk_bytes: None, ..Guest::disk_journal().with("limit=5") };
    place.alone("second", &guest).instead("--name", "second").with("--disk", disk(image)).start()
}

/// The crashed guest goes on as if nothing had happened.
#[track_caller]
fn assert_goes_on(place: &Place, guest: &Guest) {
    let before = fs::read_to_string(place.path("a/console")).expect("it spoke");
    let vm = resume(place);
    wait_progress(&vm, guest, 20);
    console::join(guest, &before, &vm.console()[before.len()..]).unwrap_or_else(|e| panic!("{e}"));
}

fn disk_log(vm: &Vm) -> DiskLog {
    vm.status().host().disk_log.clone().expect("it has a log of disk writes")
}

#[test]
fn guest_is_not_resumed_on_a_disk_that_another_vm_used_since() {
    needs!(Kvm);
    let place = Place::in_memory();
    crashed(&place);
    let mut other = second(&place, &place.path("a.img"));
    assert_eq!(other.wait(), 0, "{}", other.log());
    assert_refused(resume(&place), INCOMPATIBLE, &["'second'", "a.img.epochs", "hint:"]);
}

#[test]
fn guest_is_not_resumed_on_a_disk_that_another_program_wrote() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = crashed(&place);
    let image = File::options().write(true).open(place.path("a.img")).expect("the test's own image");
    // The guest never writes its last block.
    image.write_all_at(&[1], (4 << 20) - 100).expect("room");
    assert_refused(resume(&place), INCOMPATIBLE, &["a.img", "written by somebody else", "hint:"]);
    image.write_all_at(&[0], (4 << 20) - 100).expect("room");
    assert_goes_on(&place, &guest);
}

#[test]
fn guest_is_not_resumed_on_a_copy_or_on_a_disk_of_another_length_or_without_its_log() {
    needs!(Kvm);
    let place = Place::in_memory();
    crashed(&place);
    let (image, kept) = (place.path("a.img"), place.path("kept.img"));
    fs::rename(&image, &kept).expect("renamed");
    fs::copy(&kept, &image).expect("copied");
    assert_refused(resume(&place), INCOMPATIBLE, &["a.img", "is not the one that the guest ran with"]);
    fs::rename(&kept, &image).expect("renamed");
    let resize = |len| File::options().write(true).open(&image).and_then(|file| file.set_len(len)).expect("ours");
    resize(5 << 20);
    assert_refused(resume(&place), INCOMPATIBLE, &["that had 4194304 bytes, this has 5242880"]);
    resize(4 << 20);
    let (log, away) = (place.path("a.img.epochs"), place.path("away"));
    fs::rename(&log, &away).expect("renamed");
    assert_refused(resume(&place), INCOMPATIBLE, &["a.img.epochs", "is not there"]);
    // Somebody else begins one.
    let mut other = second(&place, &image);
    assert_eq!(other.wait(), 0, "{}", other.log());
    assert_refused(resume(&place), INCOMPATIBLE, &["is not the disk log that the guest's state belongs to"]);
}

/// Files as they were: what is put back has the inode and the time of change that it had.
struct Kept(Vec<(PathBuf, Vec<u8>, SystemTime)>);

impl Kept {
    fn of(place: &Place, names: &[&str]) -> Kept {
        let there = names.iter().map(|name| place.path(name)).filter(|path| path.exists());
        Kept(there.map(|path| (path.clone(), fs::read(&path).expect("ours"), modified(&path))).collect())
    }

    fn put_back(&self) {
        for (path, bytes, at) in &self.0 {
            fs::write(path, bytes).expect("room");
            File::options().write(true).open(path).and_then(|file| file.set_modified(*at)).expect("ours");
        }
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|of| of.modified()).expect("it is there")
}

/// What the guest's memory is of, at its last epoch.
const STATE: [&str; 4] = ["a/state/ram", "a/state/state", "a/state/undo", "a/state/redo"];
const DISK: [&str; 2] = ["a.img", "a.img.epochs"];

/// It continues from its last epoch, and is killed again.
fn live_on(place: &Place, guest: &Guest) {
    let mut vm = resume(place);
    wait_progress(&vm, guest, 20);
    vm.kill();
}

#[test]
fn guest_is_not_resumed_from_an_earlier_epoch_than_its_disks_are_of() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = crashed(&place);
    let earlier = Kept::of(&place, &STATE);
    live_on(&place, &guest);
    let last = Kept::of(&place, &STATE);
    earlier.put_back();
    assert_refused(resume(&place), INCOMPATIBLE, &["a.img.epochs", "of an earlier moment", "hint:"]);
    last.put_back();
    live_on(&place, &guest);
}

/// A guest that was continued twice from one epoch has two histories with the same numbers, and both in the name of one log and one
/// life. With numbers alone the memory of one went on with the disk of the other.
#[test]
fn guest_is_not_resumed_with_the_disk_of_another_history_that_began_as_its_own() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = crashed(&place);
    let (state, disk) = (Kept::of(&place, &STATE), Kept::of(&place, &DISK));
    live_on(&place, &guest);
    let first = Kept::of(&place, &STATE);
    disk.put_back();
    state.put_back();
    live_on(&place, &guest);
    let second = Kept::of(&place, &STATE);
    first.put_back();
    assert_refused(resume(&place), INCOMPATIBLE, &["a.img.epochs", "another history", "hint:"]);
    second.put_back();
    live_on(&place, &guest);
}

#[test]
fn crashed_guest_is_not_started_over_with_or_without_protection_nor_by_a_backup() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = crashed(&place);
    let before = fs::read(place.path("a/state/vm.json")).expect("it was started");
    for launch in [place.alone("a", &guest), local(&place, &guest), place.backup("a", &guest)] {
        assert_refused(launch.start(), CONFLICT, &["outlast resume --state-dir", "to give it up, remove"]);
        assert_eq!(fs::read(place.path("a/state/vm.json")).expect("it is there"), before, "it is not written over");
    }
    assert_goes_on(&place, &guest);
}

#[test]
fn log_of_an_image_that_was_replaced_is_not_put_over_the_new_one() {
    needs!(Kvm);
    let place = Place::new();
    crashed(&place);
    fs::remove_dir_all(place.path("a/state")).expect("the guest was given up");
    let (image, log) = (place.path("a.img"), place.path("a.img.epochs"));
    // As often as the file system gives the new one the old one's inode.
    for _ in 0..3 {
        fs::remove_file(&image).expect("it was there");
        place.image("a.img", 4 << 20);
        assert_refused(second(&place, &image), INCOMPATIBLE, &["a.img.epochs", "hint:", "remove"]);
        assert_eq!(fs::read(&image).expect("there"), vec![0; 4 << 20]);
    }
    fs::remove_file(&log).expect("as it says");
    let mut fresh = second(&place, &image);
    assert_eq!(fresh.wait(), 0, "{}", fresh.log());
}

#[test]
fn log_of_an_image_that_was_copied_over_in_place_is_not_put_over_it() {
    // Its inode and its birth are those of the old one: what is noted as applied is not there.
    needs!(Kvm);
    let place = Place::in_memory();
    crashed(&place);
    fs::remove_dir_all(place.path("a/state")).expect("the guest was given up");
    let image = place.path("a.img");
    fs::write(&image, vec![0; 4 << 20]).expect("room");
    let mut vm = second(&place, &image);
    let code = vm.wait();
    // Where the image had everything, nothing is put over it, and the new guest runs; else it is refused.
    let said = console::latest(&Guest::disk_journal(), &vm.console());
    assert!(code == INCOMPATIBLE && said.is_none() || code == 0 && said == Some(5), "{code} {said:?}: {}", vm.log());
}

#[test]
fn image_and_log_that_were_moved_together_belong_together_and_a_log_that_stayed_behind_is_missed() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = crashed(&place);
    let promised = console::latest(&guest, &fs::read_to_string(place.path("a/console")).expect("it spoke"));
    fs::create_dir(place.path("elsewhere")).expect("room");
    let moved = place.path("elsewhere/b.img");
    fs::rename(place.path("a.img"), place.path("b.img")).expect("renamed");
    assert_refused(second(&place, &place.path("b.img")), CONFLICT, &["a.img.epochs", "rename", "b.img.epochs"]);
    fs::rename(place.path("b.img"), &moved).expect("renamed");
    fs::rename(place.path("a.img.epochs"), place.path("elsewhere/b.img.epochs")).expect("renamed");
    let mut vm = second(&place, &moved);
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    let said = vm.console();
    let last = said.lines().next().and_then(|line| line.strip_prefix("last=")).expect("it reads its disk first");
    assert!(u64::from_str_radix(last, 16).ok() >= promised, "{promised:?} was acknowledged: {said}");
}

#[test]
fn image_of_a_guest_that_ended_may_be_copied_with_or_without_its_log() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = Guest::disk_journal().with("limit=20");
    let mut vm = local(&place, &guest).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    for (name, with_log) in [("with.img", true), ("without.img", false)] {
        let copy = place.path(name);
        fs::copy(place.path("a.img"), &copy).expect("room");
        if with_log {
            fs::copy(place.path("a.img.epochs"), place.path(&format!("{name}.epochs"))).expect("room");
        }
        let mut vm = second(&place, &copy);
        assert_eq!(vm.wait(), 0, "{}", vm.log());
    }
}

#[test]
fn state_that_was_cut_or_damaged_is_refused_and_named() {
    needs!(Kvm);
    let place = Place::in_memory();
    let guest = crashed(&place);
    let damaged = |name: &str, content: Vec<u8>| {
        let path = place.path("a/state").join(name);
        let whole = fs::read(&path).ok();
        fs::write(&path, content).expect("room");
        assert_refused(resume(&place), INCOMPATIBLE, &[path.to_str().expect("UTF-8")]);
        match whole {
            Some(whole) => fs::write(&path, whole).expect("room"),
            None => fs::remove_file(&path).expect("it was made above"),
        }
    };
    let whole = |name: &str| fs::read(place.path("a/state").join(name)).expect("it is there");
    let config = String::from_utf8(whole("vm.json")).expect("JSON");
    damaged("vm.json", Vec::new());
    damaged("vm.json", config.as_bytes()[..config.len() / 2].to_vec());
    damaged("vm.json", config.replacen('{', "{ \"colour\": 1,", 1).into_bytes());
    damaged("crash.json", b"{".to_vec());
    damaged("pairing", b"{}\n".to_vec());
    for name in ["disks", "state", "ram", "undo"] {
        let bytes = whole(name);
        damaged(name, bytes[..bytes.len() / 2].to_vec());
        damaged(name, Vec::new());
    }
    assert_goes_on(&place, &guest);
}

#[test]
fn image_that_is_cut_while_its_vm_runs_is_told_and_stays_cut() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let mut vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 20);
    assert_eq!(disk_log(&vm).survives, "the death of a process");
    let image = place.path("a.img");
    let resize = |len| File::options().write(true).open(&image).and_then(|file| file.set_len(len)).expect("ours");
    resize(6 << 20);
    assert_eq!(said!(vm, "disk-resized", DiskResized { now_bytes }), 6 << 20);
    assert!(vm.warns_of("6291456"), "{:?}", vm.status());
    wait_progress(&vm, &guest, 20);
    resize(4 << 20);
    vm.wait_event_again("disk-resized", 2);
    assert!(!vm.warns_of("4194304"), "{:?}", vm.status());
    // Before the next records: the guest ends when its disk fails.
    resize(4096);
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    assert!(vm.log().contains("a disk request of the guest failed"), "{}", vm.log());
    assert_eq!(fs::metadata(&image).expect("there").len(), 4096);
}

#[test]
fn log_in_a_directory_that_was_chosen_belongs_to_its_image_all_the_same() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let logs = place.path("logs");
    fs::create_dir(&logs).expect("room");
    let mut vm = local(&place, &guest).with("--disk-log", &logs).start();
    wait_progress(&vm, &guest, 50);
    let at = disk_log(&vm).path;
    assert!(at.starts_with(logs.to_str().expect("UTF-8")) && at.ends_with("-a.img.epochs"), "{at}");
    assert!(vm.warns_of(&at) && vm.warns_of("tmpfs"), "{:?}", vm.status());
    vm.kill();
    assert!(!place.path("a.img.epochs").exists());
    assert_goes_on(&place, &guest);
}

#[test]
fn log_for_which_there_is_no_room_is_refused_before_the_guest_starts() {
    needs!(Kvm, Root);
    let place = Place::new();
    let _small = SmallDisk::mount_of(&place.path("small"), "size=16m");
    let image = place.image("small/small.img", 4 << 20);
    let guest = Guest { disk_bytes: None, ..Guest::disk_journal() };
    let vm = local(&place, &guest).with("--disk", disk(&image)).start();
    assert_refused(vm, ERROR, &["reserving room for disk log", "small.img.epochs", "No space left", "hint: make room"]);
}

#[test]
fn file_of_two_uses_is_refused_by_run_and_backup() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let image = place.image("a.img", 4 << 20);
    fs::hard_link(&image, place.path("hard")).expect("room");
    let console = |path: &Path| format!("file={}", path.display());
    for launch in [place.alone("a", &guest), place.backup("a", &guest)] {
        let vm = launch.instead("--console", console(&place.path("hard"))).start();
        assert_refused(vm, USAGE, &["--disk", "a.img", "--console", "hard", "are one file"]);
    }
    let log = place.path("a.img.epochs");
    let vm = place.alone("a", &guest).instead("--console", console(&log)).start();
    assert_refused(vm, USAGE, &["the log of disk writes", "--console", "are one file"]);
    assert_eq!(fs::read(&image).expect("there"), vec![0; 4 << 20]);
}

/// A block device made of a file; given back with this value.
struct Device(String);

impl Device {
    fn of(image: &Path) -> Self {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(image).output().expect("losetup is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).expect("UTF-8").trim().to_owned())
    }

    /// Puts another disk under the same name.
    fn exchange(&self, image: &Path) {
        for args in [vec!["--detach".as_ref(), self.0.as_ref()], vec![self.0.as_ref(), image.as_os_str()]] {
            assert!(Command::new("losetup").args(args).status().expect("losetup is there").success());
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let given_back = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(given_back.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} stays", self.0);
    }
}

#[test]
fn log_of_a_block_device_lies_where_power_does_not_take_it_and_knows_its_device() {
    needs!(Kvm, Root);
    let (place, in_memory) = (Place::new(), Place::in_memory());
    let device = Device::of(&place.image("device.img", 4 << 20));
    let guest = Guest { disk_bytes: None, ..Guest::disk_journal() };
    let on = |place: &Place| local(place, &guest).with("--disk", format!("path={}", device.0));
    assert_refused(on(&in_memory).start(), USAGE, &[&device.0, "a loss of power takes", "--disk-log"]);
    let mut vm = on(&place).start();
    wait_progress(&vm, &guest, 100);
    let log = disk_log(&vm);
    let name = format!("{}.epochs", device.0.trim_start_matches('/').replace('/', "-"));
    let expected = place.path("a/state").join(name);
    assert_eq!(Some(&*log.path), expected.to_str());
    assert_eq!(log.survives, "a loss of power");
    vm.kill();
    // Under the same name there is another disk now.
    device.exchange(&place.image("other.img", 4 << 20));
    assert_refused(resume(&place), INCOMPATIBLE, &[&device.0, "is not the one that the guest ran with"]);
    device.exchange(&place.path("device.img"));
    assert_goes_on(&place, &guest);
}
