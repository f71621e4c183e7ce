//! Storage that takes longer than a peer's silence may last, on either side and at every step: nobody takes the other for
//! dead, with a witness or without one.
//!
//! The backup synced in the only thread that sent its heartbeats, and the primary wrote its images in the one that sent its
//! own: a healthy pair was lost, and without a witness both ran the guest.

use std::thread;
use std::time::Duration;

use guests::place::{disk, wait_progress};
use guests::{Guest, Launch, Pair, Place, Seed, Vm, console, needs, wait};

/// Three times the silence until a peer counts as lost in these tests.
const SLOW_MS: u32 = 3000;

/// A step of a side that takes so long, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
const STEPS: [Slow; 8] = [
    primary("LogAppend", 20),
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
    let protected = slow.start(place.primary("a", &guest, backup.port()), true, &witness);
    let mut pair = Pair { primary: protected, backup };
    let slow_one = if slow.primary { &pair.primary } else { &pair.backup };
    let mut shown = Vec::new();
    wait::until("the slow step", || {
        shown.push(pair.primary.console().len());
        slow_one.log().contains("storage was slow").then_some(())
    });
    for vm in [&pair.primary, &pair.backup] {
        vm.wait_event("protected");
    }
    if slow == primary("ImageSync", 2) {
        // The base is sealed, and acked over there: what the image had before it is not durable yet, and nothing leaves.
        shown.pop();
        assert_eq!(shown.last(), shown.get(shown.len() / 2), "{}", slow_one.log());
    } else if slow.step == "ImageSync" {
        let log = slow_one.log();
        assert!(log.find("storage was slow") < log.find(r#"event="protected""#), "{slow:?}: {log}");
    }
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

/// A pair whose epochs need not survive the hosts.
fn volatile_pair(place: &Place, guest: &Guest, slow: &str) -> Pair {
    let backup = place.backup("b", guest).environment("OUTLAST_SLOW_AT", slow).start();
    let primary = place.primary("a", guest, backup.port()).with("--commit-durability", "memory");
    let pair = Pair { primary: primary.environment("OUTLAST_SLOW_AT", slow).start(), backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    pair
}

#[test]
fn durability_memory_syncs_nothing() {
    needs!(Kvm);
    for step in ["LogSync:1:1", "ImageSync:1:1"] {
        let (place, guest) = (Place::new(), Guest::disk_journal());
        let pair = volatile_pair(&place, &guest, step);
        wait_progress(&pair.primary, &guest, 50);
        for vm in [&pair.primary, &pair.backup] {
            assert!(!vm.log().contains("storage was slow"), "{step}: {}", vm.log());
        }
    }
}

#[test]
fn durability_memory_and_both_killed_the_primarys_image_is_at_the_end_of_an_epoch() {
    needs!(Kvm);
    let mut seed = Seed::new();
    let journal = Guest::disk_journal();
    // A ring of few sectors: a part of an epoch over the one before is a record that is missing.
    let guest = Guest { cmdline: journal.cmdline.replace("records=4096", "records=16"), ..journal };
    for _ in 0..4 {
        let place = Place::new();
        let mut pair = volatile_pair(&place, &guest, "LogAppend:30:50");
        wait_progress(&pair.primary, &guest, 1 + seed.below(100));
        seed.pass(Duration::from_millis(40));
        for vm in [&mut pair.primary, &mut pair.backup] {
            vm.kill();
        }
        let reader = Guest { disk_bytes: None, ..guest.clone() }.with("limit=1");
        let mut vm = place.alone("reader", &reader).with("--disk", disk(&place.path("a.img"))).start();
        assert_eq!(vm.wait(), 0, "{}", vm.log());
        console::check(&reader, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
    }
}
