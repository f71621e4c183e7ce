//! A guest that crashes by itself: `--on-guest-panic`.
//!
//! The guests crash where their command line says (guest-images/bare/runtime/crash.S), whenever they come there; or when a
//! `c` is typed, which is not typed again when they are rolled back.

use std::time::Duration;

use guests::place::{SmallDisk, wait_progress};
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, said, wait};
use outlast_api::{Crash, Occurrence, Standing};

const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const INCOMPATIBLE: i32 = 163;
const CRASHED: i32 = 164;
/// Boots after a crash at most.
const RESETS_MAX: usize = 5;

fn policy(launch: Launch, policy: &str) -> Launch {
    launch.with("--on-guest-panic", policy)
}

#[track_caller]
fn assert_crashed(vm: &mut Vm, crash: Crash) {
    assert_eq!(vm.wait(), CRASHED, "{}", vm.log());
    assert_eq!(said!(vm, "guest-panic", GuestPanic { what }), crash);
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
        assert_crashed(&mut vm, Crash::Panicked);
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
    assert_crashed(&mut vm, Crash::TripleFault);
}

#[test]
fn guest_that_hangs_is_found_by_the_watchdog_that_it_set_and_not_while_it_is_paused() {
    needs!(Kvm);
    for protect in ["none", "local"] {
        let (guest, place) = (Guest::counter().with("watchdog=20 crash=3000"), Place::in_memory());
        let mut vm = place.alone("a", &guest).with("--protect", protect).start();
        wait_progress(&vm, &guest, 20);
        assert_eq!(vm.ctl(&["pause"]).0, 0);
        // Longer than the watchdog waits. A guest that stands still has not come nearer to its end.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(vm.count("guest-panic"), 0);
        assert_eq!(vm.ctl(&["resume"]).0, 0);
        assert_crashed(&mut vm, Crash::Watchdog);
        assert_said(&vm, &guest, 3000);
    }
}

#[test]
fn vmm_that_was_stopped_is_no_hang_of_its_guest() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("watchdog=20"), Place::in_memory());
    let vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 20);
    for _ in 0..2 {
        vm.hang();
        // Longer than the watchdog waits: time must pass in which the guest could not run.
        std::thread::sleep(Duration::from_millis(2500));
        vm.unhang();
        wait_progress(&vm, &guest, 20);
    }
    assert_eq!(vm.count("guest-panic"), 0, "{}", vm.log());
}

#[test]
fn hang_of_a_guest_with_a_backup_ends_both_and_nobody_takes_over() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1 watchdog=20"), Place::new());
    let mut pair = Pair::start_with(&place, &guest, Launch::typed);
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.type_in("c");
    assert_crashed(&mut pair.primary, Crash::Watchdog);
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    assert_eq!(pair.backup.count("failover-started"), 0);
}

#[test]
fn backup_that_was_not_told_of_the_crash_finds_it_and_stops_too() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::new());
    // All of the guest is committed when the primary dies: it panics no second time over there.
    let mut pair = killed_at("EndUnrecorded", &place, &guest);
    pair.backup.wait_event("failover-finished");
    assert_crashed(&mut pair.backup, Crash::Panicked);
    assert!(place.path("b/state/crash/MANIFEST").exists(), "{}", pair.backup.log());
}

#[test]
fn backup_that_was_not_told_of_an_end_that_the_witness_knows_does_not_go_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::new());
    let pair = killed_at("Goodbye", &place, &guest);
    pair.backup.wait_event("kept");
    assert_eq!((pair.backup.count("failover-finished"), pair.backup.console().len()), (0, 0));
}

/// A pair whose guest panics, and whose primary dies at a step of the end.
fn killed_at(step: &str, place: &Place, guest: &Guest) -> Pair {
    let backup = place.backup("b", guest).typed().start();
    let primary = place.primary("a", guest, backup.port()).typed().environment("OUTLAST_KILL_AT", step).start();
    primary.wait_event("protected");
    let mut pair = Pair { primary, backup };
    wait_progress(&pair.primary, guest, 20);
    pair.primary.type_in("c");
    pair.primary.wait_killed();
    pair
}

#[test]
fn snapshot_of_a_crashed_guest_can_be_looked_at() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=30"), Place::in_memory());
    assert_crashed(&mut place.alone("a", &guest).start(), Crash::Panicked);
    let snapshot = place.path("a/state/crash");
    let mut vm = Launch::new("run", &place.path("b")).with("--name", "evidence").with("--restore", snapshot).start();
    vm.wait_event("booting");
    assert_eq!(vm.ctl(&["stop"]).0, 0);
    assert_eq!(vm.wait(), 0, "{}", vm.log());
}

#[test]
fn watchdog_is_taken_over_with_its_guest() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1 watchdog=20"), Place::new());
    let mut pair = Pair::start_with(&place, &guest, Launch::typed);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    pair.backup.type_in("c");
    assert_crashed(&mut pair.backup, Crash::Watchdog);
}

#[test]
fn watchdog_of_a_resumed_guest_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("watchdog=20 crash=400"), Place::in_memory());
    let mut vm = place.alone("a", &guest).with("--protect", "local").start();
    wait_progress(&vm, &guest, 20);
    vm.kill();
    let mut vm = Launch::resume(&place.path("a")).start();
    assert_crashed(&mut vm, Crash::Watchdog);
}

#[test]
fn panic_of_a_locally_protected_guest_keeps_its_last_epoch_and_all_it_said() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=300"), Place::in_memory());
    let mut vm = place.alone("a", &guest).with("--protect", "local").start();
    assert_crashed(&mut vm, Crash::Panicked);
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
    let (guest, place) = (Guest::counter().with("typed=1"), Place::new());
    let mut pair = Pair::start_with(&place, &guest, Launch::typed);
    let seen = wait_progress(&pair.primary, &guest, 20);
    pair.primary.type_in("c");
    assert_crashed(&mut pair.primary, Crash::Panicked);
    let said = console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
    assert!(said.crashed && said.last >= seen, "{said:?}");
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    assert_eq!(pair.backup.count("failover-started"), 0);
}

#[test]
fn panic_after_a_takeover_stops_the_guest_too() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::new());
    let mut pair = Pair::start_with(&place, &guest, Launch::typed);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    pair.backup.type_in("c");
    assert_crashed(&mut pair.backup, Crash::Panicked);
    assert!(place.path("b/state/crash/MANIFEST").exists(), "{}", pair.backup.log());
}

#[test]
fn reset_boots_the_guest_anew_in_the_same_process_and_counts() {
    needs!(Kvm);
    for protect in ["none", "local"] {
        let (guest, place) = (Guest::counter().with("typed=1"), Place::in_memory());
        let vm = policy(place.alone("a", &guest).with("--protect", protect), "reset").typed().start();
        for times in 1..=2 {
            wait_progress(&vm, &guest, 20);
            vm.type_in("c");
            vm.wait_event_again("reset", times);
            wait::until("another boot", || (vm.console().matches(&first_line()).count() == times + 1).then_some(()));
        }
        wait_progress(&vm, &guest, 20);
        assert_eq!((vm.count("booting"), vm.count("guest-panic")), (3, 2), "{}", vm.log());
    }
}

fn first_line() -> String {
    format!("count={:016x}\n", 1)
}

#[test]
fn reset_that_was_asked_for_is_done_by_a_resume_where_the_program_died_before_it() {
    // What the next life had to know was in the arguments of a program that was not there any more.
    needs!(Kvm);
    for protect in ["none", "local"] {
        let (guest, place) = (Guest::counter().with("typed=1"), Place::in_memory());
        let launch = place.alone("a", &guest).with("--protect", protect).environment("OUTLAST_KILL_AT", "ResetAsked");
        let mut vm = policy(launch, "reset").typed().start();
        wait_progress(&vm, &guest, 20);
        vm.type_in("c");
        vm.wait_killed();
        let reset = place.path("a/state/reset");
        assert!(reset.exists(), "{}", vm.log());
        let mut vm = Launch::resume(&place.path("a")).typed().start();
        wait::until("another boot", || (vm.console().matches(&first_line()).count() == 2).then_some(()));
        wait_progress(&vm, &guest, 20);
        assert_eq!((vm.count("booting"), vm.count("resumed")), (2, 0), "{}", vm.log());
        assert_eq!(vm.status().host().incident.as_ref().map(|incident| incident.standing), Some(Standing::Tried));
        assert!(!reset.exists(), "it was done");
        assert_eq!(vm.ctl(&["stop"]).0, 0);
        assert_eq!(vm.wait(), 0, "{}", vm.log());
        let mut late = Launch::resume(&place.path("a")).start();
        assert_eq!(late.wait(), NOT_FOUND, "{}", late.log());
    }
}

#[test]
fn reset_that_was_asked_for_is_taken_back_by_a_start_and_refused_beside_an_epoch() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::in_memory());
    let launch = || place.alone("a", &guest).with("--protect", "local");
    let mut vm = policy(launch().environment("OUTLAST_KILL_AT", "ResetAsked"), "reset").typed().start();
    wait_progress(&vm, &guest, 20);
    vm.type_in("c");
    vm.wait_killed();
    let reset = place.path("a/state/reset");
    let asked = std::fs::read(&reset).expect("it is asked for");
    let mut vm = launch().start();
    wait::until("another boot", || (vm.console().matches(&first_line()).count() == 2).then_some(()));
    wait_progress(&vm, &guest, 20);
    assert!(!reset.exists(), "it is this guest now");
    vm.kill();
    // Nothing of ours leaves both; a copy that was put back may.
    std::fs::write(&reset, asked).expect("the test's own directory");
    let mut both = Launch::resume(&place.path("a")).start();
    assert_eq!(both.wait(), CONFLICT, "{}", both.log());
    assert!(both.log().contains("a/state/reset"), "{}", both.log());
    std::fs::write(&reset, "{}\n").expect("the test's own directory");
    let mut damaged = Launch::resume(&place.path("a")).start();
    assert_eq!(damaged.wait(), INCOMPATIBLE, "{}", damaged.log());
    assert!(damaged.log().contains("a/state/reset"), "{}", damaged.log());
    std::fs::remove_file(&reset).expect("as the message says");
    let vm = Launch::resume(&place.path("a")).start();
    vm.wait_event("resumed");
    wait_progress(&vm, &guest, 5);
}

#[test]
fn guest_that_crashes_at_every_boot_is_stopped_in_the_end() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=20"), Place::in_memory());
    let mut vm = policy(place.alone("a", &guest), "reset").start();
    assert_crashed(&mut vm, Crash::Panicked);
    assert_eq!((vm.count("reset"), vm.count("guest-panic")), (RESETS_MAX, RESETS_MAX + 1));
    assert_eq!(vm.count("ended"), 1, "a guest that is booted anew has not ended");
    assert!(place.path("a/state/crash/MANIFEST").exists(), "{}", vm.log());
}

#[test]
fn ended_guest_leaves_no_incident() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=20"), Place::in_memory());
    let mut vm = place.alone("a", &guest).start();
    assert_crashed(&mut vm, Crash::Panicked);
    assert!(place.path("a/state/crash.json").exists());
    let mut vm = place.alone("a", &Guest::counter().with("limit=20")).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    assert!(!place.path("a/state/crash.json").exists());
}

/// A guest under `--on-guest-panic rollback`.
fn rolled_back(place: &Place, guest: &Guest, retain: u32) -> Launch {
    policy(place.alone("a", guest).with("--protect", "local").with("--epoch", "2ms"), "rollback")
        .with("--retain", retain.to_string())
}

/// The lives of a guest that was rolled back, as its console showed them, are one story.
#[track_caller]
fn assert_one_story(guest: &Guest, console: &str) {
    console::check(guest, &console::story(console)).unwrap_or_else(|e| panic!("{e}"));
}

/// Lets time pass until the guest can go back to `count` epochs at least.
#[track_caller]
fn wait_kept(vm: &Vm, count: usize) {
    vm.wait_event("booting");
    wait::until("so many earlier epochs", || (vm.protecting().earlier.len() >= count).then_some(()));
}

/// Types a crash and waits until the guest is at work again; gives the epoch that it was rolled back to.
#[track_caller]
fn crash_and_go_on(vm: &Vm, guest: &Guest, times: usize) -> u64 {
    vm.type_in("c");
    let Occurrence::Rollback { attempt, epoch, .. } = vm.wait_event_again("rollback", times) else {
        unreachable!("its name is that of a rollback")
    };
    wait::until("a sign of life", || {
        let console = vm.console();
        let mut lives = console.split("crash\n");
        console::latest(guest, lives.nth(times)?)
    });
    assert_eq!(attempt, times as u64);
    epoch
}

#[test]
fn panic_that_comes_once_is_rolled_back_and_the_guest_goes_on() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::dirty()] {
        let (guest, place) = (guest.with("typed=1"), Place::in_memory());
        let vm = rolled_back(&place, &guest, 6).typed().start();
        wait_kept(&vm, 2);
        crash_and_go_on(&vm, &guest, 1);
        wait_progress(&vm, &guest, 50);
        assert_one_story(&guest, &vm.console());
        assert_eq!(said!(vm, "rollback", Rollback { what }), Crash::Panicked);
        assert_eq!((vm.count("rollback"), vm.count("guest-panic")), (1, 1), "{}", vm.log());
        assert_eq!(vm.count("ended"), 0, "it runs");
    }
}

#[test]
fn panic_that_comes_again_is_met_from_older_epochs_each_time() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::in_memory());
    let mut vm = rolled_back(&place, &guest, 4).typed().start();
    wait_kept(&vm, 4);
    let mut tried = Vec::new();
    for times in 1..=3 {
        tried.push(crash_and_go_on(&vm, &guest, times));
    }
    assert!(tried.windows(2).all(|pair| pair[1] < pair[0]), "{tried:?}");
    assert_one_story(&guest, &vm.console());
    while vm.is_running() && vm.count("guest-panic") < 7 {
        let crashes = vm.count("guest-panic");
        vm.type_in("c");
        vm.wait_event_again("guest-panic", crashes + 1);
        wait::until("what comes of it", || (vm.count("rollback") > crashes || !vm.is_running()).then_some(()));
    }
    assert_eq!(vm.wait(), CRASHED, "{}", vm.log());
}

#[test]
fn panic_that_always_comes_back_ends_in_a_stop_with_all_it_was() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("crash=300"), Place::in_memory());
    let mut vm = rolled_back(&place, &guest, 4).start();
    assert_crashed(&mut vm, Crash::Panicked);
    let (panics, rollbacks) = (vm.count("guest-panic"), vm.count("rollback"));
    assert!(rollbacks >= 1 && panics == rollbacks + 1, "{panics}, {rollbacks}");
    assert_eq!(vm.count("ended"), 1, "only the last crash was its end");
    assert!(vm.log().contains("no older epoch is kept"), "{}", vm.log());
    assert_one_story(&guest, &vm.console());
    // It is stopped for good, and kept.
    let mut again = Launch::resume(&place.path("a")).start();
    assert_eq!(again.wait(), CRASHED, "{}", again.log());
    assert!(place.path("a/state/state").exists());
}

#[test]
fn kill_at_each_step_of_a_rollback_is_gone_on_with() {
    needs!(Kvm);
    for step in ["DisksRecovered", "WentBackInPart", "WentBack", "EmittedAgain"] {
        let (guest, place) = (Guest::disk_journal().with("typed=1"), Place::in_memory());
        // The variable is there from the start; only a resume comes to these steps.
        let mut vm = rolled_back(&place, &guest, 6).environment("OUTLAST_KILL_AT", step).typed().start();
        wait_kept(&vm, 2);
        vm.type_in("c");
        vm.wait_killed();
        let vm = Launch::resume(&place.path("a")).typed().start();
        wait_progress(&vm, &guest, 20);
        assert!(vm.count("rollback") > 0, "{step}: {}", vm.log());
        assert_one_story(&guest, &vm.console());
        let status = vm.primary();
        assert_eq!(status.host.incident.map(|incident| incident.standing), Some(Standing::Tried));
        assert!(!status.protecting.earlier.is_empty());
    }
}

#[test]
fn rollback_that_had_begun_is_done_whatever_the_policy_is_now() {
    // Memory and disks are of two moments: nothing else can be done with them. What it was to go back to was thrown away.
    needs!(Kvm);
    let (guest, place) = (Guest::disk_journal().with("typed=1"), Place::in_memory());
    let mut vm = rolled_back(&place, &guest, 6).environment("OUTLAST_KILL_AT", "WentBackInPart").typed().start();
    wait_kept(&vm, 2);
    vm.type_in("c");
    vm.wait_killed();
    let path = place.path("a/state/vm.json");
    let text = std::fs::read(&path).expect("it was configured");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config["on_guest_panic"] = "stop".into();
    config["retain"] = serde_json::Value::Null;
    std::fs::write(&path, config.to_string()).expect("the test's own directory");
    let vm = Launch::resume(&place.path("a")).typed().start();
    wait_progress(&vm, &guest, 20);
    assert_eq!(vm.count("rollback"), 1, "{}", vm.log());
    assert_one_story(&guest, &vm.console());
    assert!(!place.path("a/state/earlier").exists(), "nothing is kept by this policy");
}

#[test]
fn disks_are_rolled_back_with_the_guest() {
    needs!(Kvm);
    // Its crash by itself comes as soon as it is at work again: it has nearly nothing done by then.
    let (guest, place) = (Guest::disk_journal().with("typed=1"), Place::in_memory());
    let mut vm = rolled_back(&place, &guest, 6).typed().start();
    wait_kept(&vm, 3);
    crash_and_go_on(&vm, &guest, 1);
    let again = crash_and_go_on(&vm, &guest, 2);
    vm.kill();
    let console = vm.console();
    let lives: Vec<u64> = console.split("crash\n").filter_map(|life| console::latest(&guest, life)).collect();
    let last = lives[2];
    assert!(last < lives[0], "it was rolled back to {again}, behind what it had done: {lives:?}");
    // The log beside the image has what the image lacks.
    let reader = Guest { disk_bytes: None, ..Guest::disk_journal().with("limit=1") };
    let mut vm = place.alone("r", &reader).with("--disk", guests::place::disk(&place.path("a.img"))).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    let text = vm.console();
    let found = text.lines().find_map(|line| line.strip_prefix("last=")).expect("what it found");
    let found = u64::from_str_radix(found, 16).expect("a number");
    // Had the disk not gone back, it would hold all of the first life.
    assert!(found >= last && found < lives[0], "the disk has {found}: {lives:?}");
}

#[test]
fn full_state_directory_costs_earlier_epochs_and_neither_the_guest_nor_its_protection() {
    needs!(Kvm, Root);
    let (guest, place) = (Guest::dirty(), Place::new());
    let state = place.path("a/state");
    // What is reserved for the last epoch, and some.
    let small = SmallDisk::mount_of(&state, "size=256m,mode=700");
    let vm = rolled_back(&place, &guest, 4).start();
    wait_kept(&vm, 1);
    small.fill();
    let why = said!(vm, "earlier-given-up", EarlierGivenUp { reason });
    assert!(why.contains("No space left"), "{why}");
    wait_progress(&vm, &guest, 50);
    assert!(vm.protecting().local.is_some(), "{}", vm.log());
    // Room again: they are kept again, after a rest.
    std::fs::remove_file(state.join("ballast")).expect("the test's own file");
    wait_kept(&vm, 2);
    assert_eq!(vm.count("degraded"), 0);
    console::check(&guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
}
