//! The console's reader stops (Ctrl-S, a pipe that nobody reads): the guest waits, and nothing else does. A sink that refuses
//! loses what it refuses, and that is said. What is typed reaches the guest whole.

use std::io::{PipeReader, Read, pipe};
use std::time::{Duration, Instant};

use guests::place::{Pair, SmallDisk, wait_progress};
use guests::{Guest, Launch, Place, Vm, console, needs, said, wait};
use outlast_api::{Crash, PrimaryState};

/// Three times the detection time of these tests: long enough for each side to take the other for dead.
const LONGER_THAN_DETECT: Duration = Duration::from_secs(3);
/// A guest fills the pipe and the buffer at some 100 KB a second.
const TO_FILL: Duration = Duration::from_secs(60);

/// Says as much as it can, until it has said `limit` lines.
fn talkative(limit: u64) -> Guest {
    Guest { cmdline: format!("every=1 limit={limit}"), ..Guest::counter() }
}

fn on_pipe(launch: Launch) -> (Vm, PipeReader) {
    let (reader, writer) = pipe().expect("a pipe");
    let vm = launch.console_on(writer).start();
    vm.wait_event("booting");
    (vm, reader)
}

fn console_bytes(vm: &Vm) -> u64 {
    vm.counts().console_bytes
}

/// Waits until the guest has said nothing more for half a second.
fn wait_until_it_waits(vm: &Vm) -> u64 {
    let (mut said, mut since) = (console_bytes(vm), Instant::now());
    let waits = wait::until_within(TO_FILL, || {
        let now = console_bytes(vm);
        if now != said {
            (said, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(said)
    });
    waits.unwrap_or_else(|| panic!("the guest never waited; it said {said} bytes"))
}

/// Reads to the end; the guest must have said every line once.
fn assert_all_is_said(guest: &Guest, mut reader: PipeReader, lines: u64) {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("the guest's lines are text");
    let said = console::check(guest, &text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((said.last, said.done), (lines, true));
}

#[test]
fn reader_that_stops_stops_the_guest_and_loses_no_byte() {
    needs!(Kvm);
    let (lines, place) = (10_000, Place::new());
    let guest = talkative(lines);
    let (mut vm, reader) = on_pipe(place.alone("a", &guest));
    let said = wait_until_it_waits(&vm);
    assert!(said < lines * 23, "the guest was never stopped");
    assert_eq!(vm.ctl(&["pause"]).0, 0, "a guest that waits can be paused");
    assert_eq!(vm.ctl(&["resume"]).0, 0);
    assert_all_is_said(&guest, reader, lines);
    assert_eq!(vm.wait(), 0);
}

#[test]
fn reader_that_stops_is_no_hang_of_the_guest() {
    needs!(Kvm);
    let (lines, place) = (10_000, Place::new());
    let guest = talkative(lines).with("watchdog=10");
    let (mut vm, reader) = on_pipe(place.alone("a", &guest));
    wait_until_it_waits(&vm);
    let started = Instant::now();
    // Time has to pass here, more than the guest's watchdog waits.
    wait::until("three seconds", || (started.elapsed() > Duration::from_secs(3)).then_some(()));
    assert_eq!(vm.count("guest-panic"), 0, "{}", vm.log());
    assert_all_is_said(&guest, reader, lines);
    assert_eq!(vm.wait(), 0);
}

#[test]
fn reader_that_stops_does_not_end_protection() {
    // The thread that hears the backup wrote to the console: blocked, it sent no heartbeats, and the backup took over
    // because somebody had pressed Ctrl-S.
    needs!(Kvm);
    let (lines, place) = (10_000, Place::new());
    let guest = talkative(lines);
    let mut backup = place.backup("b", &guest).start();
    let (mut primary, reader) = on_pipe(place.primary("a", &guest, backup.port()));
    wait_until_it_waits(&primary);
    primary.wait_event("protected");
    wait::until("a warning", || primary.warns_of("nobody has read the console").then_some(()));
    let (acked, started) = (primary.protecting().acked.expect("a backup follows"), Instant::now());
    // Time has to pass here: what must not happen is that the sides lose each other within it.
    wait::until("three times the detection time", || (started.elapsed() > LONGER_THAN_DETECT).then_some(()));
    assert!(primary.protecting().acked.expect("a backup follows") > acked + 10, "epochs go on");
    assert_eq!(primary.protecting().state, PrimaryState::Protected);
    assert_eq!((backup.count("failover-started"), primary.count("peer-lost")), (0, 0));
    assert_all_is_said(&guest, reader, lines);
    assert_eq!((primary.wait(), backup.wait()), (0, 0));
}

#[test]
fn end_of_the_vm_does_not_wait_for_ever_for_a_reader_that_stopped() {
    needs!(Kvm);
    let (guest, place) = (talkative(0), Place::new());
    let (mut vm, reader) = on_pipe(place.alone("a", &guest));
    wait_until_it_waits(&vm);
    assert_eq!(vm.ctl(&["stop"]).0, 0);
    assert_eq!(vm.wait(), 0);
    assert!(vm.log().contains("nobody reads the console"), "{}", vm.log());
    drop(reader);
}

#[test]
fn console_that_a_full_disk_refuses_is_told_and_so_is_its_gap() {
    // Lines were thrown away, and neither log, event nor status said so.
    needs!(Kvm, Root);
    let (guest, place) = (talkative(0), Place::new());
    let small = SmallDisk::mount_of(&place.path("fs"), "size=1m");
    let launch = place.alone("a", &guest).instead("--console", format!("file={}", place.path("fs/console").display()));
    small.fill();
    let vm = launch.start();
    let reason = said!(vm, "console-lost", ConsoleLost { reason });
    assert!(reason.contains("No space left"), "{reason}");
    let said = |text: &str| vm.warns_of(text);
    assert!(said("the console takes nothing"), "{:?}", vm.status());
    assert!(vm.primary().console.lost_bytes > 0);
    let before = console_bytes(&vm);
    wait::until("a guest that goes on", || (console_bytes(&vm) > before).then_some(()));
    small.free();
    vm.wait_event("console-back");
    assert!(said("bytes of console output are lost"), "{:?}", vm.status());
}

/// Reads a `c` only when it has read all that was typed before it, a byte a round.
fn reads_typed() -> Guest {
    Guest::counter().with("typed=1")
}

#[test]
fn pasted_line_reaches_an_unprotected_guest_without_another_key() {
    needs!(Kvm);
    let (guest, place) = (reads_typed(), Place::new());
    // More than the receiver holds, and more than one read takes.
    for bytes in [140, 1500] {
        let dir = place.path(&format!("{bytes}"));
        let mut vm = Launch::new("run", &dir).with("--name", "paste").with("--memory", "32M").typed();
        vm = vm.with("--kernel", guest.kernel()).with("--cmdline", guest.cmdline.as_str());
        let vm = vm.start();
        wait_progress(&vm, &guest, 10);
        vm.type_in(&format!("{}c", "x".repeat(bytes - 1)));
        assert_eq!(said!(vm, "guest-panic", GuestPanic { what }), Crash::Panicked, "{bytes}");
    }
}

#[test]
fn pasted_line_reaches_a_guest_that_was_taken_over() {
    needs!(Kvm);
    let (guest, place) = (reads_typed(), Place::new());
    let Pair { mut primary, backup } = Pair::start_with(&place, &guest, Launch::typed);
    wait_progress(&primary, &guest, 10);
    primary.kill();
    backup.wait_event("failover-finished");
    backup.type_in(&format!("{}c", "x".repeat(139)));
    assert_eq!(said!(backup, "guest-panic", GuestPanic { what }), Crash::Panicked);
}
