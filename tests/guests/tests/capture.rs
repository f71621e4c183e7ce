//! Pages that are copied while the guest runs: what the backup has is still one instant.

use std::time::Duration;

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Pair, Place, Seed, console, needs, wait};
use outlast_api::figures::Counters;

/// More than the guests have that write a few pages.
const LARGE_MIB: u32 = 48;

/// Writes 16 MiB of pages a round, spread over 64 MiB: every huge page that the guest has, in every epoch.
fn large() -> Guest {
    Guest { memory_mib: 96, ..Guest::dirty().with("pages=4096 span=64") }
}

/// A protected pair whose primary captures pages in this way.
fn start(place: &Place, guest: &Guest, capture: &str) -> Pair {
    let backup = place.backup("b", guest).start();
    let primary = place.primary("a", guest, backup.port()).with("--capture", capture).start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    Pair { primary, backup }
}

/// Kills the primary of `guest` while its pages are copied behind its back; it goes on and finds all that it wrote.
fn survives_kill_under_copy_on_write(guest: &Guest, seed: &mut Seed) {
    let place = Place::new();
    let mut pair = start(&place, guest, "copy-on-write");
    wait_progress(&pair.primary, guest, 1 + seed.below(20));
    assert_eq!(pair.primary.primary().epochs.capture.mode, "copy-on-write");
    // A guest with few pages meets the worker's copies seldom, one with many all the time.
    wait::until("pages that are copied behind its back", || {
        let Counters { capture_faults, pages_armed, .. } = pair.primary.counts();
        let seen = if guest.memory_mib > LARGE_MIB { capture_faults } else { pages_armed };
        (seen > 0).then_some(())
    });
    seed.pass(Duration::from_millis(40));
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    let before = console::latest(guest, &pair.primary.console()).expect("the guest was seen to make progress");
    wait_value(&pair.backup, guest, before + 20 * guest.step);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    console::join(guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

fn survives_kills_under_copy_on_write(guest: &Guest, times: u32) {
    let mut seed = Seed::new();
    (0..times).for_each(|_| survives_kill_under_copy_on_write(guest, &mut seed));
}

#[test]
fn kill_primary_under_copy_on_write_many_pages_keep_what_was_written() {
    needs!(Kvm, Userfaultfd);
    survives_kills_under_copy_on_write(&large(), 5);
}

#[test]
fn kill_primary_under_copy_on_write_two_processors_stay_one_instant() {
    needs!(Kvm, Userfaultfd);
    survives_kills_under_copy_on_write(&Guest::smp(), 5);
}

#[test]
fn kill_primary_under_copy_on_write_journal_console_is_one_sequence() {
    needs!(Kvm, Userfaultfd);
    survives_kills_under_copy_on_write(&Guest::disk_journal(), 3);
}

#[test]
fn unprotected_in_the_middle_of_copies_guest_goes_on() {
    needs!(Kvm, Userfaultfd);
    let (place, guest) = (Place::new(), large());
    let mut pair = start(&place, &guest, "copy-on-write");
    wait_progress(&pair.primary, &guest, 5);
    pair.backup.kill();
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 50);
    assert_eq!(pair.primary.ctl(&["stop"]).0, 0);
    assert_eq!(pair.primary.wait(), 0);
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn stop_and_copy_when_asked_for_arms_nothing() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), large());
    let pair = start(&place, &guest, "stop-and-copy");
    wait_progress(&pair.primary, &guest, 20);
    let Counters { pages_copied_in_pause, pages_armed, capture_faults, .. } = pair.primary.counts();
    assert!(pages_copied_in_pause > 0);
    assert_eq!((pages_armed, capture_faults), (0, 0));
}
