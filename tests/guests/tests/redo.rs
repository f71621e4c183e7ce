//! The redo log beside an image must never put old bytes over newer ones.
//!
//! The guest writes its records into a short ring, so that every sector is written again and again: a log that is
//! replayed although the guest has since written to the image directly takes records back, and the guest says so.

use std::path::Path;

use guests::place::{disk, wait_progress};
use guests::{Guest, Pair, Place, Vm, console, needs};

/// A journal in a ring of 16 sectors.
fn ring() -> Guest {
    let journal = Guest::disk_journal();
    let cmdline = journal.cmdline.replace("records=4096", "records=16");
    Guest { cmdline, ..journal }
}

/// The last record on `image`, as the guest reads it after `outlast run` has recovered what a crash left.
fn last_on(place: &Place, image: &Path) -> u64 {
    let reader = Guest { disk_bytes: None, ..ring().with("limit=1") };
    let mut vm = place.alone("reader", &reader).with("--disk", disk(image)).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    let said = console::check(&reader, &vm.console()).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    said.last - 1
}

fn acked(vm: &Vm) -> u64 {
    console::latest(&ring(), &vm.console()).unwrap_or(0)
}

#[test]
fn survivor_killed_while_alone_keeps_what_it_wrote_alone() {
    // The log of the backup went on to its time as a primary, with the records of before the takeover still in it. The
    // guest then wrote to the image directly; a crash and a new start put the old records over that.
    needs!(Kvm);
    let (guest, place) = (ring(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 40);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 80);
    pair.backup.kill();
    let promised = acked(&pair.backup);
    let last = last_on(&place, &place.path("b.img"));
    assert!(last >= promised, "{promised:#x} was acknowledged, {last:#x} is the last in the image");
}

#[test]
fn primary_killed_while_alone_keeps_what_it_wrote_alone() {
    // Epochs that were sealed while the ship thread was told to go solo came into the log after it had been emptied.
    needs!(Kvm);
    let (guest, place) = (ring(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 40);
    pair.backup.kill();
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 80);
    pair.primary.kill();
    let promised = acked(&pair.primary);
    let last = last_on(&place, &place.path("a.img"));
    assert!(last >= promised, "{promised:#x} was acknowledged, {last:#x} is the last in the image");
}

#[test]
fn disks_in_another_order_are_refused_while_the_log_holds_writes() {
    // The log beside the first image was not looked at when another image was the first: its writes were missing, and a
    // later start put them over newer ones.
    needs!(Kvm);
    let (guest, place) = (ring(), Place::new());
    let extra = |side: &str| disk(&place.image(&format!("{side}2.img"), 4 << 20));
    let (a2, b2) = (extra("a"), extra("b"));
    let mut backup = place.backup("b", &guest).with("--disk", &b2).start();
    let mut primary = place.primary("a", &guest, backup.port()).with("--disk", &a2).start();
    primary.wait_event("protected");
    wait_progress(&primary, &guest, 40);
    // Both at once: what is in the logs stays there.
    backup.hang();
    primary.kill();
    backup.kill();
    let promised = acked(&primary);
    let without = Guest { disk_bytes: None, ..ring().with("limit=1") };
    let image = disk(&place.path("a.img"));
    let mut other = place.alone("other", &without).with("--disk", &a2).with("--disk", &image).start();
    assert_eq!(other.wait(), 4, "{}", other.log());
    assert!(other.log().contains("a.img.epochs") && other.log().contains("the order that they had"), "{}", other.log());
    let mut right = place.alone("right", &without).with("--disk", &image).with("--disk", &a2).start();
    assert_eq!(right.wait(), 0, "{}", right.log());
    let last = console::check(&without, &right.console()).unwrap_or_else(|e| panic!("{e}")).last - 1;
    assert!(last >= promised, "{promised:#x} was acknowledged, {last:#x} is the last in the image");
}
