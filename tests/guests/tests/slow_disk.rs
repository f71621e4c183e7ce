//! Storage that takes longer than a peer's silence may last, on either side and at every step: nobody takes the other for
//! dead, with a witness or without one.
//!
//! The backup synced in the only thread that sent its heartbeats, and the primary wrote its images in the one that sent its
//! own: a healthy pair was lost, and without a witness both ran the guest.

use std::thread;

use guests::place::wait_progress;
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, wait};

/// Three times the silence until a peer counts as lost in these tests.
const SLOW_MS: u32 = 3000;

/// A step of a side that takes so long, once.
#[derive(Debug, Clone, Copy)]
struct Slow {
    primary: bool,
    step: &'static str,
    nth: u32,
}

const fn primary(step: &'static str, nth: u32) -> Slow {
    Slow { primary: true, step, nth }
}

const fn backup(step: &'static str, nth: u32) -> Slow {
    Slow { primary: false, step, nth }
}

/// In an epoch, and what comes before the base counts: on the primary while the guest runs, and behind its seal.
const STEPS: [Slow; 7] = [
    backup("LogSync", 20),
    backup("ImageWrite", 20),
    backup("ImageSync", 1),
    primary("LogSync", 20),
    primary("ImageWrite", 20),
    primary("ImageSync", 1),
    primary("ImageSync", 2),
];

impl Slow {
    fn start(self, launch: Launch, is_primary: bool, witness: &str) -> Vm {
        let launch = launch.instead("--witness", witness);
        if is_primary != self.primary {
            return launch.start();
        }
        launch.environment("OUTLAST_SLOW_AT", format!("{}:{}:{SLOW_MS}", self.step, self.nth)).start()
    }
}

/// A pair of which one side is slow once stays a pair, and is one when its primary dies.
fn assert_stays(slow: Slow, has_witness: bool) {
    let (place, guest) = (Place::new(), Guest::disk_journal());
    let witness = if has_witness { place.witness_option() } else { "none".into() };
    let backup = slow.start(place.backup("b", &guest), false, &witness);
    let primary = slow.start(place.primary("a", &guest, backup.port()), true, &witness);
    let mut pair = Pair { primary, backup };
    let slow_one = if slow.primary { &pair.primary } else { &pair.backup };
    wait::until("the slow step", || slow_one.log().contains("storage was slow").then_some(()));
    pair.primary.wait_event("protected");
    wait_progress(&pair.primary, &guest, 50);
    assert_eq!(pair.backup.count("failover-started"), 0, "{slow:?}: {}", pair.backup.log());
    assert_eq!(
        (pair.primary.count("peer-lost"), pair.primary.count("solo")),
        (0, 0),
        "{slow:?}: {}",
        pair.primary.log()
    );
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{slow:?}: {e}"));
}

/// They mostly wait.
fn assert_all_stay(has_witness: bool) {
    thread::scope(|scope| {
        for slow in STEPS {
            scope.spawn(move || assert_stays(slow, has_witness));
        }
    });
}

#[test]
fn storage_that_is_slow_for_long_parts_no_pair() {
    needs!(Kvm);
    assert_all_stay(true);
}

#[test]
fn storage_that_is_slow_for_long_makes_no_second_guest_without_a_witness() {
    needs!(Kvm);
    assert_all_stay(false);
}
