//! What a guest acknowledged is on the disk that is left, whoever was killed.
//!
//! The guest reads its own journal ([`guests::journal`]).

use std::time::Duration;

use guests::journal::{acked, last_on};
use guests::place::wait_progress;
use guests::{Guest, Pair, Place, Seed, needs};

#[test]
fn kill_primary_then_survivor_every_ack_is_in_the_replica() {
    needs!(Kvm);
    let (guest, mut seed) = (Guest::disk_journal(), Seed::new());
    for _ in 0..2 {
        let place = Place::new();
        let mut pair = Pair::start(&place, &guest);
        wait_progress(&pair.primary, &guest, 1 + seed.below(60));
        pair.primary.kill();
        pair.backup.wait_event("failover-finished");
        wait_progress(&pair.backup, &guest, 1 + seed.below(60));
        pair.backup.kill();
        let promised = acked(&pair.primary).max(acked(&pair.backup));
        let last = last_on(&place, &place.path("b.img"));
        assert!(last >= promised, "{promised:#x} was acknowledged, {last:#x} is the last in the replica");
    }
}

#[test]
fn kill_both_at_once_every_ack_is_in_both_images() {
    needs!(Kvm);
    let (guest, mut seed) = (Guest::disk_journal(), Seed::new());
    for _ in 0..3 {
        let place = Place::new();
        let mut pair = Pair::start(&place, &guest);
        wait_progress(&pair.primary, &guest, 1 + seed.below(60));
        seed.pass(Duration::from_millis(30));
        pair.primary.kill();
        pair.backup.kill();
        assert_eq!(pair.backup.count("failover-started"), 0, "it was killed in time");
        let promised = acked(&pair.primary);
        for image in ["a.img", "b.img"] {
            let last = last_on(&place, &place.path(image));
            assert!(last >= promised, "{promised:#x} was acknowledged, {last:#x} is the last in {image}");
        }
    }
}
