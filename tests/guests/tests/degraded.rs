//! `--protect local`, and the medium takes no more: the guest goes on without, and nobody can go back to an epoch that it has
//! left behind; or its VMM ends, if that was chosen, and the last epoch can be resumed.

use std::path::Path;

use guests::place::{disk, wait_progress};
use guests::{Guest, Launch, Place, Vm, console, needs, said, wait};

const ERROR: i32 = 1;
const NOT_FOUND: i32 = 3;
/// Epochs sealed and not committed; then the guest waits.
const IN_FLIGHT_MAX: u64 = 4;
const FAIL_AT: &str = "OUTLAST_FAIL_AT";

fn launch(place: &Place, guest: &Guest) -> Launch {
    place.alone("a", guest).with("--protect", "local").with("--epoch", "2ms")
}

/// The guest goes on unprotected: it says what an untouched one says, and a crash is the end of it.
fn assert_unprotected(place: &Place, guest: &Guest, mut vm: Vm) {
    assert_eq!(said!(vm, "degraded", Degraded { protection }), "local");
    wait_progress(&vm, guest, 40);
    assert_eq!(vm.protecting().local, None);
    assert!(vm.warns_of("no longer protects the guest"), "{:?}", vm.status());
    for name in ["state", "ram", "undo"] {
        assert!(!place.path("a/state").join(name).exists(), "{name} is left");
    }
    console::check(guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
    vm.kill();
    let mut late = Launch::resume(&place.path("a")).start();
    assert_eq!(late.wait(), NOT_FOUND, "{}", late.log());
}

/// What the journal's guest reads from its disk when it is started anew.
fn last_on(place: &Place, image: &Path) -> u64 {
    let reader = Guest { disk_bytes: None, ..ring().with("limit=1") };
    let mut vm = place.alone("reader", &reader).with("--disk", disk(image)).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    console::check(&reader, &vm.console()).unwrap_or_else(|e| panic!("{}: {e}", image.display())).last - 1
}

/// A journal in a ring of 16 sectors: an old write that came over a newer one takes a record back.
fn ring() -> Guest {
    let journal = Guest::disk_journal();
    let cmdline = journal.cmdline.replace("records=4096", "records=16");
    Guest { cmdline, ..journal }
}

#[test]
fn guest_goes_on_without_a_state_directory_that_takes_no_more() {
    needs!(Kvm);
    for (nth, guest) in [("1", Guest::counter()), ("60", Guest::dirty()), ("200", ring())] {
        let place = Place::in_memory();
        let vm = launch(&place, &guest).environment(FAIL_AT, format!("LocalCommit:{nth}")).start();
        assert_unprotected(&place, &guest, vm);
        if guest.disk_bytes.is_some() {
            last_on(&place, &place.path("a.img"));
        }
    }
}

#[test]
fn guest_goes_on_without_a_log_that_fails_while_a_backup_is_filled_and_is_protected_by_that_one() {
    needs!(Kvm);
    // Memory that takes longer to look through than an epoch lasts.
    let (place, guest) = (Place::in_memory(), Guest { memory_mib: 512, ..ring() });
    let backup = place.backup("b", &guest).start();
    let filled = place.primary("a", &guest, backup.port()).with("--protect", "local").with("--epoch", "2ms");
    let mut primary = filled.environment(FAIL_AT, "FillingDiskLog:1").start();
    assert_eq!(said!(primary, "degraded", Degraded { protection }), "local");
    primary.wait_event("protected");
    backup.wait_event("protected");
    wait_progress(&primary, &guest, 20);
    assert_eq!(primary.protecting().local, None);
    let first = primary.console();
    primary.kill();
    backup.wait_event("failover-finished");
    wait_progress(&backup, &guest, 20);
    console::join(&guest, &first, &backup.console()).unwrap_or_else(|e| panic!("{e}"));
    let mut late = Launch::resume(&place.path("a")).start();
    assert_eq!(late.wait(), NOT_FOUND, "{}", late.log());
}

#[test]
fn nothing_leaves_without_the_state_directory_before_the_witness_knows_that_it_is_out() {
    // The record that lists the directory would give the guest to whoever resumes from there.
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let (witness, away) = (place.witness(), place.path("away"));
    let failing = launch(&place, &guest).with("--witness", place.witness_option());
    let vm = failing.environment(FAIL_AT, "LocalCommit:100").start();
    vm.wait_event("booting");
    std::fs::rename(&witness, &away).expect("in the test's own place");
    vm.wait_event("degraded");
    vm.wait_event("witness-away");
    let held = wait::until("a guest that waits", || {
        Some(vm.primary()).filter(|it| it.protecting.in_flight_epochs == IN_FLIGHT_MAX)
    });
    assert_eq!(held.protecting.released + IN_FLIGHT_MAX, held.protecting.sealed);
    assert!(held.protecting.uncommitted_ms.is_some(), "{held:?}");
    assert!(held.host.warnings.iter().any(|warning| warning.contains("state directory")), "{held:?}");
    assert!(place.path("a/state").join("state").exists(), "removed before the register knew");
    std::fs::rename(&away, &witness).expect("in the test's own place");
    wait_progress(&vm, &guest, 40);
    assert_unprotected(&place, &guest, vm);
}

#[test]
fn guest_whose_vmm_shall_stop_instead_is_resumed_when_the_medium_is_well_again() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let failing = launch(&place, &guest).with("--on-degraded", "stop").environment(FAIL_AT, "LocalCommit:200");
    let mut vm = failing.start();
    assert_eq!(vm.wait(), ERROR, "{}", vm.log());
    assert!(vm.log().contains("takes no more epochs") && vm.log().contains("outlast resume"), "{}", vm.log());
    assert_eq!(vm.count("degraded"), 0);
    let first = vm.console();
    let resumed = Launch::resume(&place.path("a")).start();
    wait_progress(&resumed, &guest, 10);
    let joined = console::join(&guest, &first, &resumed.console()[first.len()..]);
    joined.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn guest_stays_protected_when_the_file_system_of_its_log_is_full() {
    // The log found no room in the middle of the guest's life: its room was not set aside.
    needs!(Kvm, Root);
    let place = Place::new();
    let small = guests::place::SmallDisk::mount(&place.path("small"));
    let image = place.image("small/small.img", 4 << 20);
    // The image has its room.
    std::fs::write(&image, vec![0; 4 << 20]).expect("the test's own image");
    let guest = Guest { disk_bytes: None, ..ring() };
    let mut vm = launch(&place, &guest).with("--disk", disk(&image)).start();
    wait_progress(&vm, &guest, 20);
    small.fill();
    wait_progress(&vm, &guest, 200);
    assert_eq!((vm.count("degraded"), vm.protecting().local.is_some()), (0, true), "{:?}", vm.status());
    let first = vm.console();
    vm.kill();
    let resumed = Launch::resume(&place.path("a")).start();
    wait_progress(&resumed, &guest, 20);
    console::join(&guest, &first, &resumed.console()[first.len()..]).unwrap_or_else(|e| panic!("{e}"));
}
