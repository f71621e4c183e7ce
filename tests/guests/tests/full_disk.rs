//! File systems without room under images and logs, on either side and on both: the guest waits and goes on when there is
//! room, and nobody ends.
//!
//! A full image was an I/O error for a guest alone, whose file system then went read-only. One under a protected guest's
//! image or log ended its VMM; images of equal size on equal file systems fill at the same epoch, and then both copies of
//! the guest were gone.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use guests::place::{SmallDisk, disk, wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, wait};
use outlast_api::{BackupState, Event, Occurrence, PrimaryState};

const ERROR: i32 = 1;
const SMALL: &str = "small/small.img";
/// What the log of disk writes takes at most.
const LOG_BYTES: u64 = 256 << 20;
/// Longer than a peer's silence may last in these tests.
const BEYOND_DETECT: Duration = Duration::from_secs(3);

fn small(place: &Place, side: &str) -> SmallDisk {
    SmallDisk::mount(&place.path(side))
}

/// One with room for a whole log.
fn larger(place: &Place, side: &str) -> SmallDisk {
    SmallDisk::mount_of(&place.path(side), "size=400m")
}

/// The guest writes to one disk, which the test chooses.
fn journal() -> Guest {
    Guest { disk_bytes: None, ..Guest::disk_journal() }
}

fn with_image(launch: Launch, place: &Place, name: &str, bytes: u64) -> Launch {
    launch.with("--disk", disk(&place.image(name, bytes)))
}

/// Gives the log all the room that it ever takes: only the image is to find none.
fn give_room_to_log(image: &Path) {
    let mut path = image.as_os_str().to_owned();
    path.push(".epochs");
    let mut log = OpenOptions::new().write(true).open(path).expect("a running VM has a log");
    let mut at = log.seek(SeekFrom::End(0)).expect("a file has an end");
    let zeros = vec![0; 1 << 20];
    while at < LOG_BYTES {
        log.write_all(&zeros).expect("there is room yet");
        at += zeros.len() as u64;
    }
}

/// Waits until `vm` says that there is no room for a file whose name ends with `what`.
#[track_caller]
fn wait_full(vm: &Vm, what: &str) {
    wait::until("no room", || {
        let is_full =
            |event: &Event| matches!(&event.occurrence, Occurrence::DiskFull { path } if path.ends_with(what));
        vm.events().iter().any(is_full).then_some(())
    });
    assert!(vm.status().disk_full().is_some_and(|path| path.contains(".img")), "{:?}", vm.status());
    assert!(vm.warns_of("no room"), "{:?}", vm.status());
}

#[track_caller]
fn assert_has_room_again(vm: &Vm) {
    vm.wait_event("disk-has-room");
    // Image and log are each tried again in their own time.
    wait::until("room for everything", || vm.status().disk_full().is_none().then_some(()));
}

/// Whether nobody takes anybody for dead for longer than the silence that would be needed.
#[track_caller]
fn assert_still_a_pair(pair: &Pair) {
    let lost = || (pair.backup.count("failover-started") + pair.primary.count("peer-lost") > 0).then_some(());
    assert!(wait::until_within(BEYOND_DETECT, lost).is_none(), "{}{}", pair.primary.log(), pair.backup.log());
}

/// What the guest wrote last, as one finds it that starts from the image anew.
fn last_on(place: &Place, image: &Path) -> u64 {
    let reader = journal().with("limit=1");
    let mut vm = place.alone("reader", &reader).with("--disk", disk(image)).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    console::check(&reader, &vm.console()).unwrap_or_else(|e| panic!("{}: {e}", image.display())).last - 1
}

#[track_caller]
fn assert_survives_its_primary(pair: &mut Pair, guest: &Guest) {
    let before = wait_progress(&pair.primary, guest, 20);
    pair.primary.kill();
    wait_value(&pair.backup, guest, before + 20);
    console::join(guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn guest_alone_waits_for_room_in_its_image_and_obeys_its_operator_meanwhile() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let disk = small(&place, "small");
    let vm = with_image(place.alone("a", &guest), &place, SMALL, 4 << 20).start();
    wait_progress(&vm, &guest, 5);
    disk.fill();
    wait_full(&vm, "small.img");
    assert_eq!((vm.ctl(&["pause"]).0, vm.ctl(&["resume"]).0), (0, 0));
    assert!(vm.status().disk_full().is_some(), "it still waits");
    disk.free();
    assert_has_room_again(&vm);
    wait_progress(&vm, &guest, 50);
    console::check(&guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn guest_alone_that_waits_for_room_can_be_stopped() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let disk = small(&place, "small");
    let mut vm = with_image(place.alone("a", &guest), &place, SMALL, 4 << 20).start();
    wait_progress(&vm, &guest, 5);
    disk.fill();
    wait_full(&vm, "small.img");
    assert_eq!(vm.ctl(&["stop"]).0, 0);
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    disk.free();
    let said = console::check(&guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
    assert!(last_on(&place, &place.path(SMALL)) >= said.last);
}

#[test]
fn full_image_of_the_primary_is_behind_until_there_is_room_and_parts_no_pair() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let disk = larger(&place, "small");
    let backup = with_image(place.backup("b", &guest), &place, "b.img", 4 << 20).start();
    let primary = with_image(place.primary("a", &guest, backup.port()), &place, SMALL, 4 << 20).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    give_room_to_log(&place.path(SMALL));
    disk.fill();
    wait_full(&pair.primary, "small.img");
    assert_still_a_pair(&pair);
    disk.free();
    assert_has_room_again(&pair.primary);
    assert_survives_its_primary(&mut pair, &guest);
    // The image lacks at most what the log has.
    let promised = console::latest(&guest, &pair.primary.console()).expect("it was seen to go on");
    assert!(last_on(&place, &place.path(SMALL)) >= promised);
}

#[test]
fn guest_that_writes_much_over_a_full_image_is_stopped_and_goes_on() {
    needs!(Kvm, Root);
    // It writes a gigabyte in a second or two, and blocks that the image has need no room: it stands still until there is none.
    let cmdline = "write=1 block=65536 span=1024 report=64".to_owned();
    let guest = Guest { name: "disk-load", cmdline, key: "ops", step: 64, ..journal() };
    let place = Place::new();
    let disk = SmallDisk::mount_of(&place.path("small"), "size=1g");
    let backup = with_image(place.backup("b", &guest), &place, "b.img", 1 << 30).start();
    let primary = with_image(place.primary("a", &guest, backup.port()), &place, SMALL, 1 << 30).start();
    let pair = Pair { primary, backup };
    wait::until("an API that answers", || (pair.primary.ctl(&["pause"]).0 == 0).then_some(()));
    pair.primary.wait_event("protected");
    give_room_to_log(&place.path(SMALL));
    disk.fill();
    assert_eq!(pair.primary.ctl(&["resume"]).0, 0);
    wait_full(&pair.primary, "small.img");
    let sealed = || pair.primary.protecting().sealed;
    wait::until("a guest that stands still", || {
        let before = sealed();
        wait::until_within(Duration::from_secs(1), || (sealed() != before).then_some(())).is_none().then_some(())
    });
    assert_eq!((pair.backup.count("failover-started"), pair.primary.count("peer-lost")), (0, 0));
    disk.grow("size=2g");
    assert_has_room_again(&pair.primary);
    wait_progress(&pair.primary, &guest, 20);
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn full_disk_of_the_primarys_log_stops_the_guest_until_there_is_room() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let disk = small(&place, "small");
    let backup = with_image(place.backup("b", &guest), &place, "b.img", 4 << 20).start();
    let primary = with_image(place.primary("a", &guest, backup.port()), &place, SMALL, 4 << 20).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    disk.fill();
    // The log, or on a slow machine what it holds for the image beside it.
    wait_full(&pair.primary, "");
    assert_still_a_pair(&pair);
    disk.free();
    assert_has_room_again(&pair.primary);
    assert_survives_its_primary(&mut pair, &guest);
}

/// The backup can do nothing, and is heard: the primary's guest waits for it for a while, then goes on alone; and has it
/// again when there is room.
#[test]
fn full_disk_of_the_backup_costs_the_protection_for_as_long_as_it_is_full() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let disk = small(&place, "small");
    let backup = with_image(place.backup("b", &guest), &place, SMALL, 4 << 20).start();
    let primary = with_image(place.primary("a", &guest, backup.port()), &place, "a.img", 4 << 20).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    disk.fill();
    wait_full(&pair.backup, "");
    assert_eq!(pair.backup.count("failover-started"), 0);
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.wait_event_again("solo", 2);
    assert!(pair.primary.protecting().solo_reason.is_some_and(|why| why.contains("no room")));
    disk.free();
    assert_has_room_again(&pair.backup);
    pair.primary.wait_event_again("protected", 2);
    assert_survives_its_primary(&mut pair, &guest);
}

#[test]
fn takeover_by_a_backup_without_room_waits_for_it() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let disk = small(&place, "small");
    let backup = with_image(place.backup("b", &guest), &place, SMALL, 4 << 20).start();
    let primary = with_image(place.primary("a", &guest, backup.port()), &place, "a.img", 4 << 20).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    wait_progress(&pair.primary, &guest, 20);
    disk.fill();
    wait_full(&pair.backup, "");
    pair.primary.kill();
    pair.backup.wait_event("failover-started");
    wait::until("a backup that has the right and no room", || {
        (pair.backup.following().state == BackupState::TakingOver).then_some(())
    });
    disk.free();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn file_systems_that_fill_on_both_sides_at_once_end_neither() {
    needs!(Kvm, Root);
    let (place, guest) = (Place::new(), journal());
    let (here, there) = (small(&place, "here"), small(&place, "there"));
    let backup = with_image(place.backup("b", &guest), &place, "there/b.img", 4 << 20).start();
    let primary = with_image(place.primary("a", &guest, backup.port()), &place, "here/a.img", 4 << 20).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    for disk in [&here, &there] {
        disk.fill();
    }
    // Which one comes to the end of its room first is chance; the other one then has nothing to do.
    wait::until("one that has no room", || {
        (pair.primary.count("disk-full") + pair.backup.count("disk-full") > 0).then_some(())
    });
    assert_still_a_pair(&pair);
    assert!(pair.primary.is_running() && pair.backup.is_running());
    for disk in [&there, &here] {
        disk.free();
    }
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.wait_state(PrimaryState::Protected);
    assert_survives_its_primary(&mut pair, &guest);
}

/// An error that room does not mend: a side that cannot trust its storage leaves the guest to the other one.
#[test]
fn io_error_on_one_side_ends_that_side_and_the_guest_goes_on_at_the_other() {
    needs!(Kvm);
    for step in ["LogAppend:20", "ImageWrite:20"] {
        let (place, guest) = (Place::new(), Guest::disk_journal());
        let failing = |launch: Launch| launch.environment("OUTLAST_FAIL_AT", step);
        let backup = place.backup("b", &guest).start();
        let mut primary = failing(place.primary("a", &guest, backup.port())).start();
        assert_eq!(primary.wait(), ERROR, "{step}: {}", primary.log());
        assert!(primary.log().contains("Input/output error"), "{step}: {}", primary.log());
        backup.wait_event("failover-finished");
        wait_progress(&backup, &guest, 20);
        console::join(&guest, &primary.console(), &backup.console()).unwrap_or_else(|e| panic!("{step}: {e}"));

        let place = Place::new();
        let mut backup = failing(place.backup("b", &guest)).start();
        let primary = place.primary("a", &guest, backup.port()).start();
        assert_eq!(backup.wait(), ERROR, "{step}: {}", backup.log());
        assert!(backup.log().contains("Input/output error"), "{step}: {}", backup.log());
        primary.wait_event("solo");
        wait_progress(&primary, &guest, 20);
        console::check(&guest, &primary.console()).unwrap_or_else(|e| panic!("{step}: {e}"));
    }
}
