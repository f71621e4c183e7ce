//! Disks that fail under one side: that side is lost and says why, the other goes on with the guest, and the guest itself is
//! never told what only one host's storage did.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use guests::place::{SmallDisk, disk, wait_progress};
use guests::{Guest, Launch, Pair, Place, console, needs, said};

const ERROR: i32 = 1;
const SPLIT_BRAIN: i32 = 6;
const MAPPING_LOST: i32 = 165;
const FAIL_AT: &str = "OUTLAST_FAIL_AT";
/// Of an image that holds nothing of the guest's.
const CUT_BYTES: u64 = 4096;

/// The guest writes to one disk, which the test chooses.
fn journal() -> Guest {
    Guest { disk_bytes: None, ..Guest::disk_journal() }
}

/// What a guest finds whose image is not all there any more: each of its writes fails.
fn cut(image: &Path) {
    File::options().write(true).open(image).and_then(|file| file.set_len(CUT_BYTES)).expect("the test's own image");
}

/// A file that cannot be removed.
struct Pinned(PathBuf);

impl Pinned {
    fn at(path: PathBuf) -> Self {
        let bound = Command::new("mount").arg("--bind").arg(&path).arg(&path).status();
        assert!(bound.expect("mount is there").success());
        Self(path)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let unbound = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unbound.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// A state directory's disk that dies shows as SIGBUS at the next commit, of which nobody heard anything.
#[test]
fn mapped_file_that_loses_its_pages_is_named_and_the_backup_goes_on() {
    needs!(Kvm);
    for (file, log) in [("ram", "undo"), ("state", "undo"), ("ram", "redo")] {
        let (place, guest) = (Place::in_memory(), Guest::dirty());
        let local = |launch: Launch| launch.with("--protect", "local").with("--local-log", log);
        let backup = place.backup("b", &guest).start();
        let mut primary = local(place.primary("a", &guest, backup.port())).start();
        primary.wait_event("protected");
        backup.wait_event("protected");
        wait_progress(&primary, &guest, 20);
        let file = place.path("a").join("state").join(file);
        cut(&file);
        assert_eq!(primary.wait(), MAPPING_LOST, "{}", primary.log());
        let named = format!("cannot go on without {}, which is mapped", file.display());
        assert!(primary.log().contains(&named) && primary.log().contains("hint: "), "{}", primary.log());
        backup.wait_event("failover-finished");
        wait_progress(&backup, &guest, 50);
        console::join(&guest, &primary.console(), &backup.console()).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// A resumed guest's memory is read from the file when it is touched. KVM's error for that, or the crash that the guest takes it
/// for, was told instead: a guest that crashed would be ended for its backup too.
#[test]
fn resumed_guest_whose_memory_file_loses_its_pages_has_not_crashed() {
    needs!(Kvm);
    let guest = Guest { cmdline: "pages=20000 span=200 us=1000".into(), memory_mib: 256, ..Guest::dirty() };
    for _ in 0..3 {
        let place = Place::in_memory();
        let local = place.alone("a", &guest).with("--protect", "local").with("--local-log", "redo");
        let mut vm = local.start();
        wait_progress(&vm, &guest, 4);
        vm.kill();
        let mut resumed = Launch::resume(&place.path("a")).start();
        resumed.wait_event("resumed");
        let ram = place.path("a").join("state/ram");
        cut(&ram);
        assert_eq!(resumed.wait(), MAPPING_LOST, "{}", resumed.log());
        assert!(resumed.log().contains(&format!("cannot go on without {}", ram.display())), "{}", resumed.log());
        assert_eq!(resumed.count("guest-panic"), 0);
    }
}

/// The guest's own request met the error before any commit did: told of it, the guest carried it to the other host. Which of
/// the two meets it is chance; whichever it is, the guest does not hear of it.
#[test]
fn error_that_a_request_of_the_guest_meets_is_left_to_the_backup() {
    needs!(Kvm);
    let was_request = || {
        let (place, guest) = (Place::in_memory(), Guest::disk_journal());
        let Pair { mut primary, backup } = Pair::start(&place, &guest);
        wait_progress(&primary, &guest, 20);
        cut(&place.path("a.img"));
        assert_eq!(primary.wait(), ERROR, "{}", primary.log());
        assert!(primary.log().contains("a.img"), "{}", primary.log());
        assert_eq!(primary.count("disk-failed"), 0);
        backup.wait_event("failover-finished");
        wait_progress(&backup, &guest, 50);
        console::join(&guest, &primary.console(), &backup.console()).unwrap_or_else(|e| panic!("{e}"));
        primary.log().contains("its backup can serve it")
    };
    assert!((0..10).any(|_| was_request()), "a commit met the error each time");
}

#[test]
fn error_of_a_guest_alone_is_the_guest_s_and_its_operator_is_told() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let mut vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 20);
    cut(&place.path("a.img"));
    let told = said!(vm, "disk-failed", DiskFailed { error });
    assert!(told.contains("a.img"), "{told}");
    // This guest ends when its disk fails; that is its own affair.
    assert_eq!(vm.wait(), 0, "{}", vm.log());
}

/// Writes to an image are taken by the host's memory as long as there is some: only a sync finds a dead disk.
#[test]
fn dead_disk_under_an_image_is_found_before_anybody_counts_on_it() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::disk_journal());
    let failing = |launch: Launch| launch.environment(FAIL_AT, "ImageSync:1");
    let mut backup = failing(place.backup("b", &guest)).start();
    let primary = place.primary("a", &guest, backup.port()).start();
    primary.wait_event("protected");
    assert_eq!(backup.wait(), ERROR, "{}", backup.log());
    assert!(backup.log().contains("not on their disk") && backup.log().contains("b.img"), "{}", backup.log());
    primary.wait_event("solo");
    wait_progress(&primary, &guest, 20);

    let place = Place::new();
    let backup = place.backup("b", &guest).start();
    let mut primary = failing(place.primary("a", &guest, backup.port())).start();
    assert_eq!(primary.wait(), ERROR, "{}", primary.log());
    assert!(primary.log().contains("not on their disk") && primary.log().contains("a.img"), "{}", primary.log());
    backup.wait_event("failover-finished");
    wait_progress(&backup, &guest, 20);
    console::join(&guest, &primary.console(), &backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The log of a guest that was started alone had no room set aside when it was protected later.
#[test]
fn guest_that_is_protected_later_has_room_for_its_log() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let small = SmallDisk::mount(&place.path("small"));
    let image = place.path("small/small.img");
    // The image has its room.
    fs::write(&image, vec![0; 4 << 20]).expect("the test's own image");
    let alone = place.alone("a", &guest).with("--witness", place.witness_option());
    let primary = alone.with("--disk", disk(&image)).start();
    let backup = place.backup("b", &guest).with("--disk", disk(&place.image("b.img", 4 << 20))).start();
    wait_progress(&primary, &guest, 20);
    assert_eq!(primary.ctl(&["protect", &format!("tcp:127.0.0.1:{}", backup.port())]).0, 0);
    primary.wait_event("protected");
    small.fill();
    wait_progress(&primary, &guest, 300);
    assert_eq!((primary.count("disk-full"), primary.count("solo")), (0, 0), "{}", primary.log());
}

#[test]
fn guest_without_room_for_a_log_is_not_protected_and_its_operator_is_told_why() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let small = SmallDisk::mount(&place.path("small"));
    let image = place.path("small/small.img");
    fs::write(&image, vec![0; 4 << 20]).expect("the test's own image");
    let alone = place.alone("a", &guest).with("--witness", place.witness_option());
    let primary = alone.with("--disk", disk(&image)).start();
    let backup = place.backup("b", &guest).with("--disk", disk(&place.image("b.img", 4 << 20))).start();
    wait_progress(&primary, &guest, 20);
    small.fill();
    assert_eq!(primary.ctl(&["protect", &format!("tcp:127.0.0.1:{}", backup.port())]).0, 0);
    let why = said!(primary, "resync-failed", ResyncFailed { error });
    assert!(why.contains("reserving room") && why.contains("small.img.epochs"), "{why}");
    wait_progress(&primary, &guest, 20);
    small.free();
    primary.wait_event("protected");
}

/// A dead disk lets nothing be removed from it; what the register does not list is not resumed all the same.
#[test]
fn state_directory_that_cannot_be_emptied_is_not_resumed() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let launch = place.alone("a", &guest).with("--protect", "local").with("--epoch", "2ms");
    let mut vm = launch.with("--witness", place.witness_option()).environment(FAIL_AT, "LocalCommit:2000").start();
    vm.wait_event("booting");
    let pinned = Pinned::at(place.path("a/state/state"));
    assert_eq!(vm.count("degraded"), 0, "it failed too early for this test");
    assert_eq!(said!(vm, "degraded", Degraded { protection }), "local");
    wait_progress(&vm, &guest, 40);
    assert!(vm.log().contains("it is not resumed"), "{}", vm.log());
    console::check(&guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
    vm.kill();
    drop(pinned);
    assert!(place.path("a/state/state").exists());
    let mut late = Launch::resume(&place.path("a")).start();
    assert_eq!(late.wait(), SPLIT_BRAIN, "{}", late.log());
}

/// Without a witness nothing would keep anybody from going back: the guest stops where it can be resumed.
#[test]
fn state_directory_that_cannot_be_emptied_stops_a_guest_without_a_witness() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let launch = place.alone("a", &guest).with("--protect", "local").with("--epoch", "2ms");
    let mut vm = launch.environment(FAIL_AT, "LocalCommit:2000").start();
    vm.wait_event("booting");
    let pinned = Pinned::at(place.path("a/state/state"));
    assert_eq!(vm.wait(), ERROR, "{}", vm.log());
    assert!(vm.log().contains("outlast resume"), "{}", vm.log());
    let first = vm.console();
    drop(pinned);
    let resumed = Launch::resume(&place.path("a")).start();
    wait_progress(&resumed, &guest, 10);
    console::join(&guest, &first, &resumed.console()[first.len()..]).unwrap_or_else(|e| panic!("{e}"));
}
