//! A guest with a backup crashes and begins anew, by `--on-guest-panic reset` or `rollback`: never two guests run, and its
//! backup follows the new life.

use std::fs;

use guests::place::{wait_progress, wait_value};
use guests::wire::Wire;
use guests::{Guest, Launch, Place, Vm, console, needs, wait};
use outlast_api::Standing;

const CRASHED: i32 = 164;
const SELF_FENCED: i32 = 160;

fn guest() -> Guest {
    Guest::counter().with("typed=1")
}

fn policy(launch: Launch, policy: &str) -> Launch {
    launch.with("--on-guest-panic", policy).typed()
}

/// Starts `primary` beside a backup on host `b`, and waits until its guest is protected.
fn protected(place: &Place, guest: &Guest, primary: impl FnOnce(u16) -> Launch) -> (Vm, Vm) {
    let backup = place.backup("b", guest).start();
    let primary = primary(backup.port()).start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    (primary, backup)
}

fn by_reset(place: &Place, guest: &Guest) -> (Vm, Vm) {
    protected(place, guest, |port| policy(place.primary("a", guest, port), "reset"))
}

/// A guest that can be rolled back and has epochs to go back to.
fn by_rollback(place: &Place, guest: &Guest) -> (Vm, Vm) {
    let (primary, backup) = protected(place, guest, |port| {
        let both = place.primary("a", guest, port).with("--protect", "local").with("--epoch", "2ms");
        policy(both, "rollback")
    });
    wait_kept(&primary, 2);
    (primary, backup)
}

#[track_caller]
fn wait_kept(primary: &Vm, count: usize) {
    wait::until("so many earlier epochs", || (primary.protecting().earlier.len() >= count).then_some(()));
}

/// The backup is whole for the `times`-th time, and has never gone on with the guest.
#[track_caller]
fn assert_filled_again(primary: &Vm, backup: &Vm, times: usize) {
    primary.wait_event_again("protected", times);
    backup.wait_event_again("protected", times);
    assert_eq!(backup.count("failover-finished"), 0, "{}", backup.log());
    assert!(backup.console().is_empty());
}

/// The primary dies: the backup goes on with the guest's last life.
#[track_caller]
fn take_over(primary: &mut Vm, backup: &Vm, guest: &Guest) {
    let before = wait_progress(primary, guest, 20);
    primary.kill();
    wait_value(backup, guest, before + 10);
}

/// The same, and both consoles together are one story.
#[track_caller]
fn assert_taken_over(mut primary: Vm, backup: &Vm, guest: &Guest) {
    take_over(&mut primary, backup, guest);
    console::join(guest, &console::story(&primary.console()), &backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn reset_guest_is_followed_by_its_backup_again_each_time() {
    needs!(Kvm);
    let (guest, place) = (guest(), Place::new());
    let (primary, backup) = by_reset(&place, &guest);
    for times in 1..=2 {
        wait_progress(&primary, &guest, 20);
        primary.type_in("c");
        primary.wait_event_again("reset", times);
        assert_filled_again(&primary, &backup, times + 1);
    }
    assert_eq!((primary.count("booting"), primary.count("guest-panic")), (3, 2));
    assert_taken_over(primary, &backup, &guest);
}

#[test]
fn rolled_back_guest_is_followed_by_its_backup_again() {
    needs!(Kvm);
    let (guest, place) = (guest(), Place::in_memory());
    let (primary, backup) = by_rollback(&place, &guest);
    primary.type_in("c");
    primary.wait_event("rollback");
    assert_filled_again(&primary, &backup, 2);
    assert_taken_over(primary, &backup, &guest);
}

#[test]
fn kill_at_a_step_of_a_rollback_is_gone_on_with_and_followed_by_the_backup() {
    needs!(Kvm);
    for step in ["SessionForgotten", "WentBackInPart", "WentBack"] {
        let (guest, place) = (guest(), Place::in_memory());
        let (mut primary, backup) = protected(&place, &guest, |port| {
            let both = place.primary("a", &guest, port).with("--protect", "local").with("--epoch", "2ms");
            policy(both, "rollback").environment("OUTLAST_KILL_AT", step)
        });
        wait_kept(&primary, 2);
        primary.type_in("c");
        primary.wait_killed();
        let mut primary = Launch::resume(&place.path("a")).typed().start();
        assert_filled_again(&primary, &backup, 2);
        let standing = primary.primary().host.incident.map(|incident| incident.standing);
        assert_eq!(standing, Some(Standing::Tried), "{step}: {}", primary.log());
        assert_eq!(primary.count("rollback"), 1);
        // Of the first step not even the last words had left: nothing parts the lives on the console.
        take_over(&mut primary, &backup, &guest);
    }
}

#[test]
fn backup_that_hears_nothing_of_the_crash_does_not_go_on_with_the_guest() {
    // It was told by a message alone that the guest had ended. Where that was lost it asked the witness, which had noted
    // nothing but an end, and went on with the crashed guest beside the one that was booted.
    needs!(Kvm);
    let (guest, place) = (guest(), Place::in_memory());
    let backup = place.backup("b", &guest).start();
    let wire = Wire::to(backup.port());
    let primary = policy(place.primary("a", &guest, wire.port()), "reset").start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    wait_progress(&primary, &guest, 20);
    wire.hold_requests();
    primary.type_in("c");
    primary.wait_event("reset");
    backup.wait_event("kept");
    wait_progress(&primary, &guest, 20);
    wire.let_go();
    assert_filled_again(&primary, &backup, 2);
    assert_taken_over(primary, &backup, &guest);
}

#[test]
fn backup_that_hung_meanwhile_does_not_go_on_with_the_guest() {
    needs!(Kvm);
    for begin in [by_reset, by_rollback] {
        let (guest, place) = (guest(), Place::in_memory());
        let (primary, backup) = begin(&place, &guest);
        wait_progress(&primary, &guest, 20);
        backup.hang();
        primary.type_in("c");
        wait::until("another life", || (primary.count("reset") + primary.count("rollback") == 1).then_some(()));
        wait_progress(&primary, &guest, 20);
        backup.unhang();
        assert_filled_again(&primary, &backup, 2);
        assert_taken_over(primary, &backup, &guest);
    }
}

#[test]
fn guest_that_was_taken_over_before_it_crashed_does_not_begin_anew_here() {
    needs!(Kvm);
    for begin in [by_reset, by_rollback] {
        let (guest, place) = (guest(), Place::in_memory());
        let (mut primary, backup) = begin(&place, &guest);
        wait_progress(&primary, &guest, 20);
        primary.hang();
        primary.type_in("c");
        backup.wait_event("failover-finished");
        let seen = primary.console();
        primary.unhang();
        // It may find out that it was fenced before its guest crashes, or after.
        let code = primary.wait();
        assert!([CRASHED, SELF_FENCED, 6].contains(&code), "{code}: {}", primary.log());
        assert_eq!((primary.count("reset"), primary.count("rollback")), (0, 0), "{}", primary.log());
        assert_eq!(primary.console(), seen, "it said something that its backup does not know of");
        wait_progress(&backup, &guest, 20);
    }
}

#[test]
fn guest_does_not_begin_anew_while_the_witness_does_not_answer() {
    needs!(Kvm);
    let (guest, place) = (guest(), Place::in_memory());
    let (mut primary, backup) = by_reset(&place, &guest);
    wait_progress(&primary, &guest, 20);
    let away = place.path("witness-away");
    fs::rename(place.witness(), &away).expect("the test's own directory");
    primary.type_in("c");
    assert_eq!(primary.wait(), CRASHED, "{}", primary.log());
    assert!(primary.log().contains("the witness did not confirm"), "{}", primary.log());
    assert_eq!((primary.count("reset"), primary.count("booting")), (0, 1));
    assert_eq!(backup.count("failover-finished"), 0);
    // The backup asks until it is answered, and nobody else has the guest.
    fs::rename(&away, place.witness()).expect("the test's own directory");
    backup.wait_event("failover-finished");
}

#[test]
fn guest_whose_backup_nothing_keeps_away_does_not_begin_anew() {
    needs!(Kvm);
    let (guest, place) = (guest(), Place::in_memory());
    let listen = Launch::new("backup", &place.path("b")).with("--name", "guest").with("--listen", "tcp:127.0.0.1:0");
    let mut backup = listen.with("--witness", "none").start();
    let mut primary = policy(place.alone("a", &guest).with("--witness", "none"), "reset").start();
    primary.wait_event("booting");
    let (code, said) = primary.ctl(&["protect", &format!("tcp:127.0.0.1:{}", backup.port())]);
    assert_eq!(code, 0, "{said}");
    primary.wait_event("protected");
    primary.type_in("c");
    assert_eq!(primary.wait(), CRASHED, "{}", primary.log());
    assert!(primary.log().contains("--witness"), "{}", primary.log());
    assert_eq!(primary.count("reset"), 0);
    assert_eq!((backup.wait(), backup.count("failover-started")), (0, 0));
}

#[test]
fn resumed_guest_is_reset_as_a_newer_primary_than_its_backup_has_seen() {
    needs!(Kvm);
    let (guest, place) = (guest(), Place::in_memory());
    let (mut primary, backup) =
        protected(&place, &guest, |port| policy(place.primary("a", &guest, port).with("--protect", "local"), "reset"));
    wait_progress(&primary, &guest, 20);
    backup.hang();
    primary.kill();
    let primary = Launch::resume(&place.path("a")).typed().start();
    wait_progress(&primary, &guest, 20);
    backup.unhang();
    assert_filled_again(&primary, &backup, 2);
    let resumed = primary.protecting().term;
    primary.type_in("c");
    primary.wait_event("reset");
    assert_filled_again(&primary, &backup, 3);
    let reset = primary.protecting().term;
    assert!(1 < resumed && resumed < reset, "each life has a later one: {resumed}, {reset}");
    assert_taken_over(primary, &backup, &guest);
}
