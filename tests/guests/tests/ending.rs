//! A guest that ends while it is protected: its last words leave, both sides end well, and nobody takes over.

use std::fs;

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, console, needs, said};
use protect::testing::EtcdServer;

const TIMEOUT: i32 = 5;

/// Both programs have ended with 0, and the guest ran on one side only.
#[track_caller]
fn assert_ended(pair: &mut Pair) {
    assert_eq!(pair.primary.wait(), 0, "{}", pair.primary.log());
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    assert!(pair.backup.log().contains("the guest ended on the primary"), "{}", pair.backup.log());
    assert_eq!(pair.backup.count("failover-started"), 0);
    assert!(pair.backup.console().is_empty());
}

/// Lets `guest` end by itself after `lines`, which take longer than its protection does to begin.
fn power_off_while_protected(guest: Guest, limit: &str, lines: u64) {
    let (guest, place) = (guest.with(&format!("{limit}={lines}")), Place::new());
    let mut pair = Pair::start(&place, &guest);
    assert!(pair.primary.is_running(), "the guest ended before it was protected");
    assert_ended(&mut pair);
    let said = console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((said.last, said.done), (lines * guest.step, true));
}

#[test]
fn power_off_of_counter_all_output_is_out_and_both_end() {
    needs!(Kvm);
    power_off_while_protected(Guest::counter(), "limit", 3000);
}

#[test]
fn power_off_of_dirty_all_output_is_out_and_both_end() {
    needs!(Kvm);
    power_off_while_protected(Guest::dirty(), "rounds", 1500);
}

#[test]
fn power_off_of_hlt_timer_all_output_is_out_and_both_end() {
    needs!(Kvm);
    power_off_while_protected(Guest::hlt_timer(), "limit", 1500);
}

#[test]
fn power_off_of_two_processors_all_output_is_out_and_both_end() {
    needs!(Kvm);
    power_off_while_protected(Guest::smp(), "limit", 1000);
}

#[test]
fn power_off_of_disk_journal_all_output_is_out_and_both_end() {
    needs!(Kvm);
    power_off_while_protected(Guest::disk_journal(), "limit", 1500);
}

#[test]
fn stop_while_protected_is_a_clean_end_of_both() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let seen = wait_progress(&pair.primary, &guest, 20);
    assert_eq!(pair.primary.ctl(&["stop"]).0, 0);
    assert_ended(&mut pair);
    let said = console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
    assert!(said.last >= seen);
}

/// `ctl stop` answered 0 and the primary ended with 0, and later the guest ran at its backup.
#[test]
fn stop_that_the_witness_does_not_record_is_said_and_the_backup_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let seen = wait_progress(&pair.primary, &guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    let (code, said) = pair.primary.ctl(&["stop"]);
    assert_eq!(code, TIMEOUT, "{said}");
    assert!(said.contains("its backup may continue it"), "{said}");
    assert_eq!(pair.primary.wait(), TIMEOUT, "{}", pair.primary.log());
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    pair.backup.wait_event("failover-finished");
    wait_value(&pair.backup, &guest, seen + 20);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The primary asked for the record of its end with its lock held: while etcd hung no heartbeat left, and the backup took a primary that
/// lived for dead.
#[test]
fn stop_while_the_witness_hangs_is_not_taken_for_a_death() {
    needs!(Kvm, Etcd);
    let (guest, place) = (Guest::counter(), Place::new());
    let etcd = EtcdServer::start(&place.path("etcd"), 1);
    // Shorter than a request may hang.
    const DETECT_MS: u64 = 1_500;
    let told =
        |launch: Launch| launch.instead("--witness", etcd.option()).instead("--detect", format!("{DETECT_MS}ms"));
    let backup = told(place.backup("b", &guest)).start();
    let mut pair = Pair { primary: told(place.primary("a", &guest, backup.port())).start(), backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    let seen = wait_progress(&pair.primary, &guest, 20);
    etcd.hang(0);
    let (code, said) = pair.primary.ctl(&["stop"]);
    assert_eq!((code, pair.primary.wait()), (TIMEOUT, TIMEOUT), "{said}");
    let silence_ms = said!(pair.backup, "failover-started", FailoverStarted { silence_ms });
    assert!(silence_ms < Some(DETECT_MS), "its connection was open and silent: {}", pair.backup.log());
    etcd.unhang(0);
    pair.backup.wait_event("failover-finished");
    wait_value(&pair.backup, &guest, seen + 20);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
}

#[test]
fn stop_of_the_backup_leaves_the_guest_alone_and_running() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 20);
    assert_eq!(pair.primary.ctl(&["stop"]).0, 0);
    assert_eq!(pair.primary.wait(), 0);
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn stop_without_a_backup_ends_the_guest_also_while_the_witness_is_away() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let witness = place.witness_option();
    let mut alone = place.alone("a", &guest).with("--witness", witness.as_str()).start();
    wait_progress(&alone, &guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    assert_eq!(alone.ctl(&["stop"]).0, 0);
    assert_eq!(alone.wait(), 0, "{}", alone.log());
    assert!(alone.log().contains("the witness does not know it"), "{}", alone.log());
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    let mut again = place.alone("a", &guest).with("--witness", witness.as_str()).start();
    wait_progress(&again, &guest, 20);
    assert_eq!(again.ctl(&["stop"]).0, 0);
    assert_eq!(again.wait(), 0);
}

#[test]
fn stop_of_a_backup_that_takes_the_guest_over_waits_and_loses_no_guest() {
    // It may have won the guest already, without having heard so: nobody would run it.
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let seen = wait_progress(&pair.primary, &guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    pair.primary.kill();
    pair.backup.wait_event("failover-started");
    for _ in 0..2 {
        assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    }
    assert_eq!(said!(pair.backup, "stop-deferred", StopDeferred { state }), "Claiming");
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    pair.backup.wait_event("failover-finished");
    wait_value(&pair.backup, &guest, seen + 20);
    assert_eq!(pair.backup.count("stop-deferred"), 1, "told once");
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn ended_vm_may_be_started_again_with_the_same_witness() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    // The survivor has the VM: a second primary would be a second guest.
    let mut second = place.primary("a2", &guest, 1).start();
    assert_eq!(second.wait(), 6, "{}", second.log());
    assert!(second.log().contains("runs or may be continued elsewhere"), "{}", second.log());
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    let third = place.primary("a3", &guest, 1).start();
    wait_progress(&third, &guest, 1);
}
