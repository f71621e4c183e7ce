//! The backup is lost: the guest goes on alone, says so, and is protected again by whoever joins.

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Pair, Place, Vm, console, needs, said, wait};
use outlast_api::PrimaryState;

fn protect(vm: &Vm, port: u16) {
    let (code, said) = vm.ctl(&["protect", &format!("tcp:127.0.0.1:{port}")]);
    assert_eq!(code, 0, "{said}");
}

#[track_caller]
fn joined(guest: &Guest, consoles: &[String]) -> String {
    let (first, others) = consoles.split_first().expect("at least one console");
    let join = |said: String, next: &String| console::join(guest, &said, next).unwrap_or_else(|e| panic!("{e}"));
    others.iter().fold(first.clone(), join)
}

#[test]
fn kill_backup_primary_goes_on_solo_and_says_so() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 10);
    pair.backup.kill();
    let reason = said!(pair.primary, "solo", Solo { reason });
    assert!(reason.contains("the backup was lost"), "{reason}");
    wait_progress(&pair.primary, &guest, 50);
    assert_eq!(pair.primary.protecting().state, PrimaryState::Solo);
    let (code, table) = pair.primary.ctl(&["status"]);
    assert!(code == 0 && table.contains("Solo") && table.contains("the backup was lost"), "{table}");
    pair.primary.stop();
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn kill_backup_then_primary_survived_by_the_backup_that_joined() {
    needs!(Kvm);
    for guest in [Guest::dirty(), Guest::disk_journal()] {
        let place = Place::new();
        let mut pair = Pair::start(&place, &guest);
        wait_progress(&pair.primary, &guest, 10);
        pair.backup.kill();
        pair.primary.wait_event("solo");
        let mut third = place.backup("c", &guest).start();
        protect(&pair.primary, third.port());
        pair.primary.wait_event_again("protected", 2);
        third.wait_event("protected");
        let before = wait_progress(&pair.primary, &guest, 20);
        pair.primary.kill();
        wait_value(&third, &guest, before + 30);
        third.stop();
        joined(&guest, &[pair.primary.console(), third.console()]);
    }
}

#[test]
fn restarted_backup_on_the_same_port_is_joined_without_being_told() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let port = pair.backup.port();
    pair.backup.kill();
    pair.primary.wait_event("solo");
    let mut again = place.backup_on("c", &guest, port).start();
    pair.primary.wait_event_again("protected", 2);
    again.wait_event("protected");
    let before = wait_progress(&pair.primary, &guest, 10);
    pair.primary.kill();
    wait_value(&again, &guest, before + 30);
    again.stop();
    joined(&guest, &[pair.primary.console(), again.console()]);
}

#[test]
fn survivor_protected_again_is_survived_too() {
    needs!(Kvm);
    for guest in [Guest::smp(), Guest::disk_journal()] {
        let place = Place::new();
        let Pair { mut primary, mut backup } = Pair::start(&place, &guest);
        let mut consoles = Vec::new();
        for side in ["c", "d"] {
            wait_progress(&primary, &guest, 10);
            primary.kill();
            backup.wait_event("failover-finished");
            consoles.push(primary.console());
            wait_progress(&backup, &guest, 10);
            let next = place.backup(side, &guest).start();
            protect(&backup, next.port());
            next.wait_event("protected");
            (primary, backup) = (backup, next);
        }
        wait_progress(&primary, &guest, 10);
        primary.stop();
        assert_eq!(backup.wait(), 0);
        consoles.push(primary.console());
        joined(&guest, &consoles);
    }
}

/// Two hosts, each of which names the other: no operator says anything, whichever dies.
#[test]
fn survivor_protects_itself_again_by_the_backup_that_its_command_line_names() {
    needs!(Kvm);
    let guest = Guest::disk_journal();
    let place = Place::in_memory();
    let socket = |host: usize| format!("unix:{}", place.path(["left.sock", "right.sock"][host]).display());
    let backup = |life: usize| {
        let (side, host) = (["a", "b", "c", "d"][life], life % 2);
        place.backup(side, &guest).instead("--listen", socket(host)).with("--protect", socket(1 - host)).start()
    };
    let (mut follower, mut consoles) = (backup(1), Vec::new());
    let mut primary =
        place.alone("a", &guest).with("--protect", socket(1)).with("--witness", place.witness_option()).start();
    primary.wait_event("protected");
    for life in [2, 3] {
        primary.wait_state(PrimaryState::Protected);
        wait_progress(&primary, &guest, 10);
        primary.kill();
        consoles.push(primary.console());
        follower.wait_event("failover-finished");
        // It has nobody yet, says so, and the guest runs.
        follower.wait_event("backup-unreachable");
        wait_progress(&follower, &guest, 10);
        primary = std::mem::replace(&mut follower, backup(life));
    }
    primary.wait_state(PrimaryState::Protected);
    wait_progress(&primary, &guest, 10);
    primary.stop();
    consoles.push(primary.console());
    assert_eq!(follower.wait(), 0);
    joined(&guest, &consoles);
}

#[test]
fn unprotected_by_the_operator_primary_goes_on_and_backup_does_not_take_over() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    assert_eq!(pair.primary.ctl(&["unprotect"]).0, 0);
    assert_eq!(said!(pair.primary, "solo", Solo { reason }), "protection was ended");
    // Nothing was lost: the operator sent it away.
    assert_eq!((pair.primary.count("unprotecting"), pair.primary.count("peer-lost")), (1, 0));
    assert_eq!(pair.primary.status().warnings(), [""; 0]);
    let reason = said!(pair.backup, "discarded", Discarded { reason });
    assert!(reason.contains("Unprotected"), "{reason}");
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.kill();
    assert!(!pair.backup.following().can_take_over);
    assert_eq!(pair.backup.count("failover-started"), 0);
    assert!(pair.backup.console().is_empty());
}

/// `warnings` was empty while nobody answered at the address that `--protect` names.
#[test]
fn backup_that_was_asked_for_and_is_not_there_is_a_warning() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let says = |vm: &Vm, what: &str| vm.warns_of(what).then_some(());
    // Nobody listens at the port of a backup that was stopped.
    let mut gone = place.backup("gone", &guest).start();
    let port = gone.port();
    gone.stop();
    let primary = place.primary("a", &guest, port).start();
    primary.wait_event("backup-unreachable");
    wait::until("a warning", || says(&primary, &format!("backup tcp:127.0.0.1:{port} does not protect")));
    let mut backup = place.backup_on("b", &guest, port).start();
    primary.wait_event("protected");
    assert_eq!(primary.status().warnings(), [""; 0]);
    backup.kill();
    primary.wait_event("solo");
    wait::until("a warning", || says(&primary, "does not protect the guest"));
}

/// The operator has paused the guest when its backup dies, and joins another one: what deals with the backup waited for
/// the pause to end.
#[test]
fn paused_guest_loses_its_backup_and_gets_another_while_it_is_paused() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 5);
    assert_eq!(pair.primary.ctl(&["pause"]).0, 0);
    let said = pair.primary.counts().console_bytes;
    pair.backup.kill();
    pair.primary.wait_state(PrimaryState::Solo);
    let second = place.backup("c", &guest).start();
    let target = format!("tcp:127.0.0.1:{}", second.port());
    assert_eq!(pair.primary.ctl(&["protect", &target]).0, 0);
    pair.primary.wait_state(PrimaryState::Protected);
    second.wait_event("protected");
    assert_eq!(pair.primary.counts().console_bytes, said, "the guest ran while it was paused");
    assert_eq!(pair.primary.ctl(&["resume"]).0, 0);
    let mut backup = second;
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.kill();
    backup.wait_event("failover-finished");
    wait_progress(&backup, &guest, 5);
    assert_eq!(backup.ctl(&["stop"]).0, 0);
    assert_eq!(backup.wait(), 0);
    console::join(&guest, &pair.primary.console(), &backup.console()).unwrap_or_else(|e| panic!("{e}"));
}
