//! Signals and files that are ordinary elsewhere: a closed terminal, a limit of file size, a named pipe without a reader. None ends
//! the program like a crash, and none makes it deaf.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, wait};
use outlast_api::verbs;

/// 128 and the number of SIGTERM: how a program ends that had nothing to end in good order.
const TERMINATED: i32 = 143;

fn make_pipe(path: PathBuf) -> PathBuf {
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo is there");
    assert!(made.success());
    path
}

#[track_caller]
fn assert_ends_by_term(vm: &mut Vm, code: i32) {
    vm.send("TERM");
    assert_eq!(vm.wait(), code, "{}", vm.log());
}

#[test]
fn sighup_stops_neither_a_guest_nor_its_backup() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::counter());
    let mut pair = Pair::start(&place, &guest);
    for vm in [&pair.primary, &pair.backup] {
        vm.send("HUP");
        wait::until("the word about it", || vm.log().contains("SIGHUP stops nothing").then_some(()));
    }
    wait_progress(&pair.primary, &guest, 5);
    assert_eq!(pair.primary.count("peer-lost"), 0);
    assert_ends_by_term(&mut pair.primary, 0);
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
}

/// `ulimit -f`, on a process that runs.
fn limit_files(vm: &Vm, limit: &str) {
    let status = Command::new("prlimit")
        .args([format!("--pid={}", vm.pid()), format!("--fsize={limit}:unlimited")])
        .status()
        .expect("prlimit is there");
    assert!(status.success());
}

#[test]
fn limit_of_file_size_is_like_no_room_and_the_guest_goes_on_when_it_is_lifted() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::disk_journal());
    let mut vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 1);
    // Records of a sector, one behind the other: it comes to where it may not write.
    limit_files(&vm, "204800");
    vm.wait_event("disk-full");
    let before = console::latest(&guest, &vm.console());
    assert!(vm.is_running());
    limit_files(&vm, "unlimited");
    vm.wait_event("disk-has-room");
    wait_value(&vm, &guest, before.unwrap_or(0) + 20);
    console::check(&guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
    assert_ends_by_term(&mut vm, 0);
}

fn counter(place: &Place) -> (Launch, Guest) {
    let guest = Guest::counter();
    (place.alone("a", &guest), guest)
}

#[test]
fn console_that_is_a_pipe_without_a_reader_starts_and_is_read_later() {
    needs!(Kvm);
    let place = Place::new();
    let pipe = make_pipe(place.path("pipe"));
    let (launch, guest) = counter(&place);
    let mut vm = launch.instead("--console", format!("file={}", pipe.display())).start();
    wait::until("a running guest", || vm.client().call::<verbs::GetVm>(&()).ok());
    let mut reader = Command::new("timeout").args(["1", "cat"]).arg(&pipe).output().expect("cat is there").stdout;
    reader.truncate(40_000);
    let said = String::from_utf8_lossy(&reader);
    console::check(&guest, &said).unwrap_or_else(|e| panic!("{e}"));
    assert!(console::latest(&guest, &said).is_some_and(|count| count > 10), "{said}");
    assert_ends_by_term(&mut vm, 0);
}

#[test]
fn event_monitor_that_is_a_pipe_without_a_reader_keeps_nobody() {
    needs!(Kvm);
    let place = Place::new();
    let pipe = make_pipe(place.path("pipe"));
    let (launch, guest) = counter(&place);
    let mut vm = launch.instead("--event-monitor", format!("path={}", pipe.display())).start();
    wait_progress(&vm, &guest, 5);
    assert_ends_by_term(&mut vm, 0);
}

#[test]
fn start_that_waits_for_a_pipe_hears_signals() {
    needs!(Kvm);
    let place = Place::new();
    let pipe = make_pipe(place.path("kernel"));
    let (launch, _) = counter(&place);
    let mut vm = launch.instead("--kernel", Path::new(&pipe)).start();
    // It has its control socket, and then waits for its kernel.
    wait::until("a start that is under way", || vm.socket().exists().then_some(()));
    assert_ends_by_term(&mut vm, TERMINATED);
    assert!(vm.log().contains("ended while starting"), "{}", vm.log());
}

#[test]
fn second_term_ends_a_stop_that_does_not_come_to_an_end() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::counter());
    let more = |launch: Launch| launch.instead("--detect", "10s");
    let mut pair = Pair::start_with(&place, &guest, more);
    // It confirms nothing, and nobody takes it for dead yet.
    pair.backup.hang();
    pair.primary.send("TERM");
    wait::until("the first to be heard", || pair.primary.log().contains("stopping").then_some(()));
    let asked = Instant::now();
    assert_ends_by_term(&mut pair.primary, TERMINATED);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}
