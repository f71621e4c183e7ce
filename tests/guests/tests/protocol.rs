//! Recovery protocols: when an epoch ends, and that nothing is shown before its commit whichever is in force.

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, console, needs};

/// Bytes of a line of the guest: each is an output of its own.
const LINE_BYTES: f64 = 23.0;

/// How many epochs a guest that writes a line byte by byte has sealed for each line, and the pair.
fn epochs_for_each_line(place: &Place, guest: &Guest, protocol: impl Fn(Launch) -> Launch) -> (f64, Pair) {
    let backup = place.backup("b", guest).start();
    let primary = protocol(place.primary("a", guest, backup.port())).start();
    let pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    let sealed = || pair.primary.protecting().sealed;
    let (first, before) = (wait_progress(&pair.primary, guest, 1), sealed());
    let (last, after) = (wait_progress(&pair.primary, guest, 15), sealed());
    let lines = (last - first) / guest.step;
    ((after - before) as f64 / lines as f64, pair)
}

#[test]
fn cpvs_commits_before_each_output_and_its_guest_continues_after_a_kill() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (epochs, mut pair) = epochs_for_each_line(&place, &guest, |launch| launch.with("--protocol", "cpvs"));
    // Lines and epochs are not counted at the same moment.
    assert!((LINE_BYTES - 3.0..LINE_BYTES + 3.0).contains(&epochs), "{epochs} epochs for each line");
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    let before = console::latest(&guest, &pair.primary.console()).expect("it said something");
    wait_value(&pair.backup, &guest, before + 30 * guest.step);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn epochs_collect_what_is_written_to_the_console() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (epochs, _pair) = epochs_for_each_line(&place, &guest, |launch| launch);
    assert!(epochs < LINE_BYTES / 2.0, "{epochs} epochs for each line");
}
