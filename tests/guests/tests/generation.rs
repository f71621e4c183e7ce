//! The generation of a guest, as it lies in its memory: another one wherever a state is continued that others may continue too or have
//! continued, the same one where a guest goes on alone from its last epoch.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use guests::place::{NAME, wait_progress};
use guests::{Guest, Launch, Pair, Place, Vm, needs, wait};

/// `GENERATION_ID` of `devices::layout`: what guests were once told must stay.
const ADDRESS: u64 = 0xf_e000;

fn snapshot(vm: &Vm, place: &Place, name: &str) -> PathBuf {
    let dir = place.path(name);
    let (code, said) = vm.ctl(&["snapshot", "create", &dir.display().to_string()]);
    assert_eq!(code, 0, "{said}");
    dir
}

/// Memory begins at address 0 in a snapshot.
fn generation_in(snapshot: &Path) -> [u8; 16] {
    let mut id = [0; 16];
    let memory = File::open(snapshot.join("memory.bin")).expect("a snapshot has memory");
    memory.read_exact_at(&mut id, ADDRESS).expect("the guest has that much");
    assert_ne!(id, [0; 16], "every guest has one");
    id
}

fn generation_of(vm: &Vm, place: &Place, name: &str) -> [u8; 16] {
    generation_in(&snapshot(vm, place, name))
}

#[test]
fn each_guest_from_one_snapshot_has_a_generation_of_its_own() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::in_memory());
    let vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 5);
    let taken = snapshot(&vm, &place, "taken");
    let mut seen = vec![generation_in(&taken), generation_of(&vm, &place, "again")];
    assert_eq!(seen[0], seen[1], "a snapshot begins none");
    seen.pop();
    for side in ["b", "c"] {
        let restored = Launch::new("run", &place.path(side)).with("--name", NAME).with("--restore", &taken).start();
        restored.wait_event("booting");
        wait_progress(&restored, &guest, 5);
        seen.push(generation_of(&restored, &place, &format!("of-{side}")));
    }
    let booted = place.alone("d", &guest).start();
    wait_progress(&booted, &guest, 5);
    seen.push(generation_of(&booted, &place, "of-d"));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:x?}");
}

#[test]
fn guest_that_is_taken_over_or_resumed_keeps_its_generation() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::in_memory());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 5);
    let before = generation_of(&pair.primary, &place, "before");
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    assert_eq!(generation_of(&pair.backup, &place, "after"), before);

    let place = Place::in_memory();
    let mut vm = place.alone("a", &guest).with("--protect", "local").start();
    wait_progress(&vm, &guest, 5);
    let before = generation_of(&vm, &place, "before");
    vm.kill();
    let resumed = Launch::resume(&place.path("a")).start();
    resumed.wait_event("resumed");
    wait_progress(&resumed, &guest, 5);
    assert_eq!(generation_of(&resumed, &place, "after"), before);
}

#[test]
fn guest_that_is_rolled_back_begins_a_generation() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::in_memory());
    let launch = place.alone("a", &guest).with("--protect", "local").with("--epoch", "2ms");
    let vm = launch.with("--on-guest-panic", "rollback").typed().start();
    vm.wait_event("booting");
    let is_kept = || (vm.protecting().earlier.len() >= 2).then_some(());
    wait::until("two earlier epochs", is_kept);
    let before = generation_of(&vm, &place, "before");
    vm.type_in("c");
    vm.wait_event("rollback");
    vm.wait_event("resumed");
    wait_progress(&vm, &guest, 5);
    assert_ne!(generation_of(&vm, &place, "after"), before);
}
