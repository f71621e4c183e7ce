//! A guest that crashes by itself: `--on-guest-panic`.
//!
//! The guests crash where their command line says (guest-images/bare/runtime/crash.S), for good or until a moment of the
//! real-time clock, which no rollback turns back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guests::place::wait_value;
use guests::{Guest, Launch, Pair, Place, Vm, console, needs};

const CRASHED: i32 = 164;
/// Boots after a crash at most.
const RESETS_MAX: usize = 5;

/// `until=` for a guest that crashes until `later`.
fn until(later: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    format!("until={}", (now + later).as_secs() % 3600)
}

fn policy(launch: Launch, policy: &str) -> Launch {
    launch.with("--on-guest-panic", policy)
}

#[track_caller]
fn assert_crashed(vm: &mut Vm, what: &str) {
    assert_eq!(vm.wait(), CRASHED, "{}", vm.log());
    assert_eq!(vm.wait_event("guest-panic")["what"], what);
}

#[track_caller]
fn assert_said(vm: &Vm, guest: &Guest, last: u64) {
    let said = console::check(guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((said.last, said.crashed), (last, true));
}

#[test]
fn panic_of_a_guest_alone_stops_it_with_a_snapshot_and_its_own_code() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=30"), Place::in_memory());
    for _ in 0..2 {
        // The second one replaces the snapshot of the first.
        let mut vm = place.alone("a", &guest).start();
        assert_crashed(&mut vm, "panicked");
        assert!(place.path("a/state/crash/MANIFEST").exists(), "{}", vm.log());
        assert!(vm.log().contains("its kernel reported a panic"), "{}", vm.log());
        assert_said(&vm, &guest, 30);
        std::fs::remove_file(place.path("a/console")).expect("the test's own file");
        std::fs::remove_file(place.path("a/events")).expect("the test's own file");
    }
}

#[test]
fn triple_fault_is_a_crash() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=30 fault=1"), Place::in_memory());
    let mut vm = place.alone("a", &guest).start();
    assert_crashed(&mut vm, "triple-fault");
}

#[test]
fn panic_of_a_locally_protected_guest_keeps_its_last_epoch_and_all_it_said() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=300"), Place::in_memory());
    let mut vm = place.alone("a", &guest).with("--protect", "local").start();
    assert_crashed(&mut vm, "panicked");
    assert_said(&vm, &guest, 300);
    let mut again = Launch::resume(&place.path("a")).start();
    assert_eq!(again.wait(), CRASHED, "{}", again.log());
    assert!(again.log().contains("crash.json"), "{}", again.log());
    // Whoever wants to may look at it.
    std::fs::remove_file(place.path("a/state/crash.json")).expect("the file that the message names");
    let mut again = Launch::resume(&place.path("a")).start();
    again.wait_event("resumed");
    assert_eq!(again.ctl(&["stop"]).0, 0);
    assert_eq!(again.wait(), 0, "{}", again.log());
}

#[test]
fn panic_of_a_guest_with_a_backup_ends_both_and_nobody_takes_over() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=3000"), Place::new());
    let mut pair = Pair::start(&place, &guest);
    assert_crashed(&mut pair.primary, "panicked");
    assert_said(&pair.primary, &guest, 3000);
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    assert_eq!(pair.backup.count("failover-started"), 0);
}

#[test]
fn panic_after_a_takeover_stops_the_guest_too() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=4000"), Place::new());
    let mut pair = Pair::start(&place, &guest);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    assert_crashed(&mut pair.backup, "panicked");
    assert!(place.path("b/state/crash/MANIFEST").exists(), "{}", pair.backup.log());
}

#[test]
fn reset_boots_the_guest_anew_in_the_same_process_and_counts() {
    needs!(Kvm);
    for protect in ["none", "local"] {
        // A second each time: fewer than it is allowed.
        let guest = Guest::counter().with(&format!("crash=1000 {}", until(Duration::from_secs(4))));
        let place = Place::in_memory();
        let vm = policy(place.alone("a", &guest).with("--protect", protect), "reset").start();
        vm.wait_event("reset");
        wait_value(&vm, &guest, 1100);
        assert_eq!(vm.count("booting"), vm.count("reset") + 1, "{}", vm.log());
        assert_eq!(vm.count("guest-panic"), vm.count("reset"));
        assert_eq!(vm.console().matches(&format!("count={:016x}", 1)).count(), vm.count("booting"));
    }
}

#[test]
fn guest_that_crashes_at_every_boot_is_stopped_in_the_end() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=20"), Place::in_memory());
    let mut vm = policy(place.alone("a", &guest), "reset").start();
    assert_crashed(&mut vm, "panicked");
    assert_eq!((vm.count("reset"), vm.count("guest-panic")), (RESETS_MAX, RESETS_MAX + 1));
    assert!(place.path("a/state/crash/MANIFEST").exists(), "{}", vm.log());
}

#[test]
fn ended_guest_leaves_no_incident() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=20"), Place::in_memory());
    let mut vm = place.alone("a", &guest).start();
    assert_crashed(&mut vm, "panicked");
    assert!(place.path("a/state/crash.json").exists());
    let mut vm = place.alone("a", &Guest::counter().with("limit=20")).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    assert!(!place.path("a/state/crash.json").exists());
}
