//! Storage of this host that takes long for a request of the guest's own: the flush keeps nobody, not even the guest; a read keeps a
//! virtual processor in the host's kernel, and no boundary comes. That is told, and the operator chose what becomes of it.

use std::time::{Duration, Instant};

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Launch, Place, Vm, needs};
use outlast_api::{PrimaryState, PrimaryStatus};

const SLOW: &str = "OUTLAST_SLOW_AT";

/// A guest with a disk of its own that nobody writes.
fn guest(parameters: &str) -> Guest {
    Guest { disk_bytes: Some(32 << 20), ..Guest::hostile(parameters) }
}

#[track_caller]
fn assert_answers(vm: &Vm) -> PrimaryStatus {
    let asked = Instant::now();
    let status = vm.primary();
    assert!(asked.elapsed() <= Duration::from_secs(1), "{:?}", asked.elapsed());
    status
}

#[test]
fn flush_that_takes_seconds_keeps_neither_the_guest_nor_its_pause() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), guest("disk=4"));
    let vm = place.alone("a", &guest).environment(SLOW, "GuestSync:1:4000").start();
    let started = Instant::now();
    wait_progress(&vm, &guest, 3);
    assert_answers(&vm);
    assert_eq!(vm.ctl(&["pause"]).0, 0);
    assert_eq!(vm.ctl(&["resume"]).0, 0);
    wait_progress(&vm, &guest, 1);
    assert!(started.elapsed() < Duration::from_secs(4), "the machine is too slow to tell: {:?}", started.elapsed());
    assert!(!vm.log().contains("storage was slow"), "{}", vm.log());
}

/// A guest that is protected, and one of whose reads takes so long from here on.
fn pair(place: &Place, guest: &Guest, policy: &str, lasts_ms: u32) -> (Vm, Vm) {
    let backup = place.backup("b", guest).start();
    let launch: Launch = place.primary("a", guest, backup.port()).with("--on-boundary-late", policy);
    let from = place.path("slow-from");
    let slow = launch.environment(SLOW, format!("GuestRead:1:{lasts_ms}"));
    let primary = slow.environment("OUTLAST_SLOW_FROM", &from).start();
    primary.wait_event("protected");
    std::fs::write(from, "").expect("the test's own place");
    (primary, backup)
}

#[test]
fn boundary_that_is_late_is_told_and_a_guest_that_waits_goes_on() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), guest("disk=2"));
    let (primary, _backup) = pair(&place, &guest, "continue", 5000);
    primary.wait_event("boundary-late");
    let status = assert_answers(&primary);
    let warnings = status.host.warnings.concat();
    assert!(warnings.contains("have not come out"), "{warnings}");
    primary.wait_event("boundary-came");
    wait_progress(&primary, &guest, 2);
    assert_eq!(assert_answers(&primary).protecting.state, PrimaryState::Protected);
}

#[test]
fn guest_whose_boundary_does_not_come_is_handed_over_where_that_was_chosen() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), guest("disk=2"));
    let (mut primary, backup) = pair(&place, &guest, "hand-over", 600000);
    let before = guests::console::latest(&guest, &primary.console()).unwrap_or(0);
    backup.wait_event("failover-finished");
    assert_eq!(primary.wait(), 1, "{}", primary.log());
    assert!(primary.log().contains("has not come out"), "{}", primary.log());
    wait_value(&backup, &guest, before + 1);
}

#[test]
fn backup_of_a_guest_whose_boundary_does_not_come_is_let_go_where_that_was_chosen() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), guest("disk=2"));
    let (primary, backup) = pair(&place, &guest, "unprotect", 16000);
    primary.wait_event("boundary-late");
    let before = primary.console();
    primary.wait_event("unprotecting");
    backup.wait_event("discarded");
    assert_eq!(assert_answers(&primary).protecting.state, PrimaryState::Solo);
    // The register has no backup any more, so that nobody could continue the guest but this host.
    let record = (1..)
        .map_while(|number| std::fs::read(place.witness().join(format!("{}.view-{number}", guests::place::NAME))).ok());
    let record: serde_json::Value =
        serde_json::from_slice(&record.last().expect("there is one")).expect("a record is JSON");
    assert_eq!(record["backups"], serde_json::json!([]));
    primary.wait_event("boundary-came");
    wait_progress(&primary, &guest, 2);
    assert!(primary.console().starts_with(&before), "what was said is not taken back");
    assert_eq!((backup.count("failover-started"), primary.count("unprotecting")), (0, 1), "{}", backup.log());
}

#[test]
fn handing_over_a_guest_that_nobody_has_a_copy_of_is_refused() {
    let (place, guest) = (Place::in_memory(), guest("disk=2"));
    let mut vm = place.alone("a", &guest).with("--on-boundary-late", "hand-over").start();
    assert_eq!(vm.wait(), 2, "{}", vm.log());
    assert!(vm.log().contains("nobody has a copy"), "{}", vm.log());
}
