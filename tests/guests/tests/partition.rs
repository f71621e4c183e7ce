//! Sides that lose each other while both live: exactly one goes on, and without the witness none.

use std::fs;

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Pair, Place, Vm, console, needs, wait};

const SELF_FENCED: i32 = 160;

/// Waits until `vm` has not heard of the witness for so long that it asked in vain `times`.
#[track_caller]
fn wait_unanswered(vm: &Vm, times: u64) {
    const BETWEEN_CLAIMS_MS: u64 = 250;
    wait::until("claims without an answer", || {
        vm.status().witness_away_ms().filter(|away| *away >= times * BETWEEN_CLAIMS_MS)
    });
}

#[track_caller]
fn stop(vm: &mut Vm) {
    assert_eq!(vm.ctl(&["stop"]).0, 0);
    assert_eq!(vm.wait(), 0, "{}", vm.log());
}

#[test]
fn hung_primary_that_comes_back_fences_itself_and_contradicts_nothing() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::disk_journal()] {
        let place = Place::new();
        let mut pair = Pair::start(&place, &guest);
        let before = wait_progress(&pair.primary, &guest, 20);
        pair.primary.hang();
        pair.backup.wait_event("failover-finished");
        wait_value(&pair.backup, &guest, before + 30);
        pair.primary.unhang();
        assert_eq!(pair.primary.wait(), SELF_FENCED, "{}", pair.primary.log());
        assert_eq!(pair.primary.count("fenced"), 1);
        assert_eq!(pair.primary.count("solo"), 0);
        stop(&mut pair.backup);
        let consoles = (pair.primary.console(), pair.backup.console());
        console::join(&guest, &consoles.0, &consoles.1).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn hung_backup_that_comes_back_discards_and_protects_again() {
    needs!(Kvm);
    let (guest, place) = (Guest::dirty(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    pair.backup.hang();
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 30);
    pair.backup.unhang();
    pair.backup.wait_event("discarded");
    assert_eq!(pair.backup.count("failover-finished"), 0);
    assert!(pair.backup.console().is_empty());
    // The primary finds its backup again by itself, and that protection is as good as the first.
    pair.primary.wait_event_again("protected", 2);
    pair.backup.wait_event_again("protected", 2);
    let before = wait_progress(&pair.primary, &guest, 10);
    pair.primary.kill();
    wait_value(&pair.backup, &guest, before + 30);
    stop(&mut pair.backup);
    let consoles = (pair.primary.console(), pair.backup.console());
    console::join(&guest, &consoles.0, &consoles.1).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn backup_without_an_answer_of_the_witness_runs_nothing_until_it_has_one() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    pair.primary.kill();
    pair.backup.wait_event("failover-started");
    wait_unanswered(&pair.backup, 3);
    assert_eq!(pair.backup.count("failover-finished"), 0);
    assert!(pair.backup.console().is_empty(), "nothing leaves without proof");
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    stop(&mut pair.backup);
    let consoles = (pair.primary.console(), pair.backup.console());
    console::join(&guest, &consoles.0, &consoles.1).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn primary_without_an_answer_of_the_witness_releases_nothing_until_it_has_one() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    pair.backup.hang();
    wait_unanswered(&pair.primary, 1);
    let held = pair.primary.console();
    wait_unanswered(&pair.primary, 4);
    assert_eq!(pair.primary.console(), held, "nothing leaves without proof");
    assert_eq!(pair.primary.count("solo"), 0);
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 20);
    pair.backup.unhang();
    pair.backup.wait_event("discarded");
    assert!(pair.backup.console().is_empty());
    stop(&mut pair.primary);
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn primary_and_witness_lost_then_both_back_only_one_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    pair.primary.hang();
    wait_unanswered(&pair.backup, 2);
    pair.primary.unhang();
    wait_unanswered(&pair.primary, 2);
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    let backup_has_it = wait::until("one of both goes on", || {
        let (primary, backup) = (pair.primary.count("solo"), pair.backup.count("failover-finished"));
        (primary + backup > 0).then_some(backup > 0)
    });
    if backup_has_it {
        assert_eq!(pair.primary.wait(), SELF_FENCED);
        assert_eq!(pair.primary.count("solo"), 0);
        wait_progress(&pair.backup, &guest, 20);
        stop(&mut pair.backup);
    } else {
        pair.backup.wait_event("discarded");
        wait_progress(&pair.primary, &guest, 20);
        stop(&mut pair.primary);
    }
    assert_eq!(pair.backup.count("failover-finished"), usize::from(backup_has_it));
    let consoles = (pair.primary.console(), pair.backup.console());
    console::join(&guest, &consoles.0, &consoles.1).unwrap_or_else(|e| panic!("{e}"));
}
