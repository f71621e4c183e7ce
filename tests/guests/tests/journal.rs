//! What a guest acknowledged is on the disk that is left, whoever was killed.
//!
//! The guest reads its own journal: started on an image, `disk-journal` says `last=` for the last record, and `CORRUPT`
//! if a record before it is missing or broken.

use std::path::Path;
use std::time::Duration;

use guests::place::{disk, wait_progress};
use guests::{Guest, Pair, Place, Seed, console, needs};

/// The last record that the guest finds on `image`.
fn last_on(place: &Place, image: &Path) -> u64 {
    let reader = Guest { disk_bytes: None, ..Guest::disk_journal().with("limit=1") };
    let dir = format!("reader-of-{}", image.file_stem().and_then(|stem| stem.to_str()).expect("a plain name"));
    let mut vm = place.alone(&dir, &reader).with("--disk", disk(image)).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    let said = console::check(&reader, &vm.console()).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    assert!(said.done, "{}", vm.console());
    said.last - 1
}

fn acked(vm: &guests::Vm) -> u64 {
    console::latest(&Guest::disk_journal(), &vm.console()).unwrap_or(0)
}

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
