//! What a process tells others is on stable storage before they can hear of it: a loss of power must leave the proof of its death.

use std::fs;
use std::path::Path;

use guests::place::NAME;
use guests::trace::{self, Call};
use guests::{Guest, Place, needs, wait};

/// The calls so far, when `is_enough` is among them.
fn trace_with(file: &Path, what: &str, is_enough: impl Fn(&Call) -> bool) -> Vec<Call> {
    wait::until(what, || {
        let calls = trace::calls(&fs::read_to_string(file).ok()?);
        calls.iter().any(&is_enough).then_some(calls)
    })
}

/// Where the first call is done that is as `is_it` says, after line `after`.
#[track_caller]
fn first_done(calls: &[Call], after: usize, what: &str, is_it: impl Fn(&Call) -> bool) -> usize {
    let found = calls.iter().find(|call| call.begun >= after && is_it(call));
    found.unwrap_or_else(|| panic!("{what} is not there after line {after}: {calls:#?}")).done
}

/// Without the first sync a loss of power leaves a life in the register whose death no lock file proves; without the last, nothing
/// tells an empty mount point from a new witness.
#[test]
fn lock_file_is_on_stable_storage_before_a_record_names_its_life_and_after_the_first_record_is_seen() {
    needs!(Kvm, Strace);
    let (guest, place) = (Guest::counter(), Place::new());
    let (traced, state) = (place.path("trace"), place.path("a").join("state"));
    let mut vm = place.alone("a", &guest).with("--witness", place.witness_option()).traced(&traced).start();
    vm.wait_event("booting");
    let lock = state.join("lock");
    let record = format!("{NAME}.view-1");
    let calls = trace_with(&traced, "the first record", |call| call.names(&record));
    let named = calls.iter().find(|call| call.names(&record)).expect("looked for").begun;
    let file = first_done(&calls, 0, "a sync of the lock file", |call| call.syncs(&lock));
    let name = first_done(&calls, file, "a sync of its directory", |call| call.syncs(&state));
    assert!(name < named, "the record was there first: {calls:#?}");
    let calls = trace_with(&traced, "the record to be remembered", |call| call.begun > named && call.syncs(&lock));
    let file = first_done(&calls, named, "another sync of the lock file", |call| call.syncs(&lock));
    trace_with(&traced, "its directory", |call| call.begun > file && call.syncs(&state));
    vm.stop();
}

#[test]
fn lock_file_of_a_backup_is_on_stable_storage_before_its_primary_hears_its_place() {
    needs!(Kvm, Strace);
    let (guest, place) = (Guest::counter(), Place::new());
    let (traced, state) = (place.path("trace"), place.path("b").join("state"));
    let backup = place.backup("b", &guest).traced(&traced).start();
    let port = backup.port();
    let lock = state.join("lock");
    let calls = trace::calls(&fs::read_to_string(&traced).expect("strace writes it"));
    assert!(!calls.iter().any(|call| call.syncs(&lock)), "nobody has heard of it yet: {calls:#?}");
    let mut primary = place.primary("a", &guest, port).start();
    // The backup is listed only after it said who it is.
    primary.wait_event("protected");
    let calls = trace::calls(&fs::read_to_string(&traced).expect("strace writes it"));
    let file = first_done(&calls, 0, "a sync of the lock file", |call| call.syncs(&lock));
    let name = first_done(&calls, file, "a sync of its directory", |call| call.syncs(&state));
    // What it leaves at the witness is named in its answer.
    let left = calls.iter().find(|call| call.arguments.contains(".met-")).expect("it left something").begun;
    assert!(name < left, "it answered first: {calls:#?}");
    primary.stop();
}
