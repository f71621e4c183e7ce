//! Save at every exit, restore in another process: the first exits of each bare guest, one process for each exit; then
//! the guest runs to its end, and says what a guest says that nothing happened to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guests::{Guest, Place, console, needs};

const HOPS: u32 = 300;
const GUEST_ENDED: i32 = 10;

/// One process: from the checkpoint `from`, or from power-on, to the checkpoint `to` or to the guest's end.
fn hop(place: &Place, guest: &Guest, from: Option<&Path>, to: Option<&Path>) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hop"));
    let mut option = |key: &str, value: String| {
        command.arg(format!("{key}={value}"));
    };
    let path = |path: &Path| path.display().to_string();
    option("console", path(&place.path("console")));
    if guest.disk_bytes.is_some() {
        option("disk", path(&place.path("hop.img")));
    }
    match from {
        Some(from) => option("from", path(from)),
        None => {
            option("kernel", path(&guest.kernel()));
            option("cmdline", guest.cmdline.clone());
            option("cpus", guest.cpus.to_string());
            option("memory", guest.memory_mib.to_string());
        }
    }
    to.into_iter().for_each(|to| option("to", path(to)));
    let output = command.output().expect("the program starts");
    let code = output.status.code().expect("it was not killed");
    assert!(matches!(code, 0 | GUEST_ENDED), "{}", String::from_utf8_lossy(&output.stderr));
    code
}

/// Hops until the guest has made `HOPS` exits, then lets it run to its end; gives its console.
fn hop_through(place: &Place, guest: &Guest) -> String {
    let mut from: Option<PathBuf> = None;
    for number in 0..HOPS {
        let to = place.path(&format!("exit-{number}"));
        assert_eq!(hop(place, guest, from.as_deref(), Some(&to)), 0, "the guest ended after {number} exits");
        if let Some(old) = from.replace(to) {
            fs::remove_dir_all(old).expect("the test's own directory");
        }
    }
    assert_eq!(hop(place, guest, from.as_deref(), None), GUEST_ENDED);
    fs::read_to_string(place.path("console")).expect("guests speak ASCII")
}

/// What an untouched guest says.
fn uninterrupted(place: &Place, guest: &Guest) -> String {
    let mut vm = place.alone("a", guest).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    vm.console()
}

fn every_exit_may_be_the_last_of_a_process(place: &Place, guest: &Guest) -> (String, String) {
    let (hopped, whole) = (hop_through(place, guest), uninterrupted(place, guest));
    for said in [&hopped, &whole] {
        assert!(console::check(guest, said).unwrap_or_else(|e| panic!("{e}")).done, "{said}");
    }
    (hopped, whole)
}

#[test]
fn counter_saved_at_every_exit_says_the_same() {
    needs!(Kvm);
    let (hopped, whole) =
        every_exit_may_be_the_last_of_a_process(&Place::in_memory(), &Guest::counter().with("limit=30"));
    assert_eq!(hopped, whole);
}

#[test]
fn extended_state_saved_at_every_exit_says_the_same() {
    needs!(Kvm, Avx);
    let (hopped, whole) =
        every_exit_may_be_the_last_of_a_process(&Place::in_memory(), &Guest::xstate().with("limit=30"));
    assert_eq!(hopped, whole);
}

#[test]
fn dirty_saved_at_every_exit_says_the_same() {
    needs!(Kvm);
    let (hopped, whole) =
        every_exit_may_be_the_last_of_a_process(&Place::in_memory(), &Guest::dirty().with("rounds=30"));
    assert_eq!(hopped, whole);
}

#[test]
fn hlt_timer_saved_at_every_exit_says_the_same() {
    needs!(Kvm);
    let (hopped, whole) =
        every_exit_may_be_the_last_of_a_process(&Place::in_memory(), &Guest::hlt_timer().with("limit=30"));
    assert_eq!(hopped, whole);
}

#[test]
fn two_processors_saved_at_every_exit_stay_one_instant() {
    needs!(Kvm);
    let (hopped, whole) = every_exit_may_be_the_last_of_a_process(&Place::in_memory(), &Guest::smp().with("limit=30"));
    assert_eq!(hopped.lines().count(), whole.lines().count());
}

#[test]
fn disk_journal_saved_at_every_exit_says_and_writes_the_same() {
    needs!(Kvm);
    // Both begin with the same journal: the device writes it into the guest's memory, a page that only it writes.
    let place = Place::in_memory();
    let mut first = place.alone("first", &Guest::disk_journal().with("limit=400")).start();
    assert_eq!(first.wait(), 0, "{}", first.log());
    for copy in ["hop.img", "a.img"] {
        fs::copy(place.path("first.img"), place.path(copy)).expect("the test's own file");
    }
    let guest = Guest::disk_journal().with("limit=30");
    let (hopped, whole) = every_exit_may_be_the_last_of_a_process(&place, &guest);
    assert_eq!(hopped, whole);
    assert!(whole.starts_with(&format!("last={:016x}\n", 400)), "{whole}");
    let image = |name: &str| fs::read(place.path(name)).expect("the test's own file");
    assert!(image("hop.img") == image("a.img"), "the images differ");
}
