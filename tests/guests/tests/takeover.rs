//! `kill -9` of the primary at random moments: the guest goes on in the backup, and its console is one sequence.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use guests::place::{wait_progress, wait_value};
use guests::wire::Wire;
use protect::testing::EtcdServer;

use guests::{Guest, Pair, Place, Seed, console, needs, said, tls, wait};

/// Kills the primary of `guest` at a random moment and compares both consoles with what the guest has to say.
fn survives_kill_of_primary(guest: &Guest, seed: &mut Seed) {
    let place = Place::new();
    survives_kill_of(Pair::start(&place, guest), guest, seed);
}

fn survives_kill_of(mut pair: Pair, guest: &Guest, seed: &mut Seed) {
    wait_progress(&pair.primary, guest, 1 + seed.below(40));
    seed.pass(Duration::from_millis(40));
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    let before = console::latest(guest, &pair.primary.console()).expect("the guest was seen to make progress");
    wait_value(&pair.backup, guest, before + 30 * guest.step);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    let joined =
        console::join(guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
    assert!(console::check(guest, &joined).expect("it was joined").last > before);
}

fn survives_kills_of_primary(guest: &Guest, times: u32) {
    let mut seed = Seed::new();
    (0..times).for_each(|_| survives_kill_of_primary(guest, &mut seed));
}

#[test]
fn kill_primary_counter_goes_on_without_a_seam() {
    needs!(Kvm);
    survives_kills_of_primary(&Guest::counter(), 5);
}

#[test]
fn kill_primary_that_a_unix_socket_connects_goes_on_without_a_seam() {
    needs!(Kvm);
    let (place, guest, mut seed) = (Place::new(), Guest::counter(), Seed::new());
    let socket = place.path("pair.sock");
    let endpoint = format!("unix:{}", socket.display());
    let backup = place.backup("b", &guest).instead("--listen", &endpoint).start();
    assert_eq!(said!(backup, "waiting", Waiting { listen }), *endpoint);
    let primary = place.primary("a", &guest, 0).instead("--protect", &endpoint).start();
    let pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    assert_eq!(pair.primary.protecting().target.as_deref(), Some(&*endpoint));
    // One that comes to a backup that has its primary is sent away, and harms neither.
    let third = place
        .alone("c", &guest)
        .instead("--name", "third")
        .with("--witness", "none")
        .with("--protect", &endpoint)
        .start();
    third.wait_event("solo");
    assert_eq!(third.ctl(&["stop"]).0, 0);
    survives_kill_of(pair, &guest, &mut seed);
    assert!(!socket.exists(), "the backup took its socket with it");
}

#[test]
fn kill_primary_over_tls_goes_on_without_a_seam_and_strangers_are_sent_away() {
    needs!(Kvm);
    let (place, guest, mut seed) = (Place::new(), Guest::counter(), Seed::new());
    let certificates = tls::directory(&place.path(""), "tls");
    let backup = place.backup("b", &guest).with("--tls-dir", path(&certificates)).start();
    // Who says nothing, who speaks clear text, and who has another authority's certificate.
    let silent = TcpStream::connect(("127.0.0.1", backup.port())).expect("it listens");
    let stranger = |side: &str| {
        place
            .alone(side, &guest)
            .with("--witness", "none")
            .with("--protect", format!("tcp:127.0.0.1:{}", backup.port()))
    };
    let clear = stranger("c").start();
    let error = said!(clear, "peer-error", PeerError { error }).expect("a primary says what");
    assert!(error.contains("speaks TLS"), "{error}");
    let other = stranger("d").with("--tls-dir", path(&tls::directory(&place.path(""), "other"))).start();
    let error = said!(other, "backup-unreachable", BackupUnreachable { error });
    assert!(error.contains("did not sign it"), "{error}");
    let reason = said!(backup, "peer-error", PeerError { reason }).expect("a backup says what");
    assert!(reason.contains("clear text"), "{reason}");
    for vm in [clear, other] {
        assert_eq!(vm.ctl(&["stop"]).0, 0);
    }
    let primary = place.primary("a", &guest, backup.port()).with("--tls-dir", path(&certificates)).start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    drop(silent);
    survives_kill_of(Pair { primary, backup }, &guest, &mut seed);
}

#[test]
fn kill_primary_and_the_leader_of_etcd_goes_on_without_a_seam_and_only_once() {
    needs!(Kvm, Etcd);
    let (place, guest, mut seed) = (Place::new(), Guest::counter(), Seed::new());
    let mut etcd = EtcdServer::start(&place.path("etcd"), 3);
    let backup = place.backup("b", &guest).instead("--witness", etcd.option()).start();
    let primary = place.primary("a", &guest, backup.port()).instead("--witness", etcd.option()).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    wait_progress(&pair.primary, &guest, 1 + seed.below(40));
    etcd.kill(etcd.leader());
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    let before = console::latest(&guest, &pair.primary.console()).expect("the guest was seen to make progress");
    wait_value(&pair.backup, &guest, before + 30 * guest.step);
    // Whoever starts the primary again, as a supervisor does, is told who has the guest.
    let mut again = place.primary("a", &guest, pair.backup.port()).instead("--witness", etcd.option()).start();
    assert_eq!(again.wait(), 6);
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    let joined =
        console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
    assert!(console::check(&guest, &joined).expect("it was joined").last > before);
}

fn path(dir: &Path) -> String {
    dir.display().to_string()
}

#[test]
fn kill_primary_extended_state_goes_on_without_a_seam() {
    needs!(Kvm, Avx);
    survives_kills_of_primary(&Guest::xstate(), 3);
}

#[test]
fn kill_primary_dirty_pages_keep_what_was_written() {
    needs!(Kvm);
    survives_kills_of_primary(&Guest::dirty(), 5);
}

#[test]
fn kill_primary_two_processors_stay_one_instant() {
    needs!(Kvm);
    survives_kills_of_primary(&Guest::smp(), 5);
}

#[test]
fn kill_primary_timer_and_sleep_go_on() {
    needs!(Kvm);
    survives_kills_of_primary(&Guest::hlt_timer(), 5);
}

#[test]
fn kill_primary_journal_console_is_one_sequence() {
    needs!(Kvm);
    survives_kills_of_primary(&Guest::disk_journal(), 3);
}

#[test]
fn kill_primary_before_it_heard_of_commits_output_is_emitted_again() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::smp(), Guest::disk_journal()] {
        let place = Place::new();
        let backup = place.backup("b", &guest).start();
        let wire = Wire::to(backup.port());
        let primary = place.primary("a", &guest, wire.port()).start();
        let mut pair = Pair { primary, backup };
        pair.backup.wait_event("protected");
        wait_progress(&pair.primary, &guest, 10);
        wire.hold_answers();
        wait::until("epochs that are complete over there and not released here", || {
            (pair.primary.protecting().in_flight_epochs > 2).then_some(())
        });
        let released = pair.primary.console();
        pair.primary.kill();
        assert!(said!(pair.backup, "failover-finished", FailoverFinished { reemitted }) > 0);
        assert_eq!(pair.primary.console(), released, "nothing leaves without an ack");
        wait_progress(&pair.backup, &guest, 20);
        assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
        assert_eq!(pair.backup.wait(), 0);
        console::join(&guest, &released, &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Kills the primary while the backup is being filled. Either the backup was whole in time and goes on, or it forgets
/// what it has and fills itself anew for the next primary.
fn kill_primary_during_resync(guest: &Guest, seed: &mut Seed) {
    let place = Place::new();
    let mut backup = place.backup("b", guest).start();
    let mut primary = place.primary("a", guest, backup.port()).start();
    backup.wait_event("resync-started");
    seed.pass(Duration::from_millis(800));
    primary.kill();
    let took_over = wait::until("the backup decides", || {
        let (taken, discarded) = (backup.count("failover-finished"), backup.count("discarded"));
        (taken + discarded > 0).then_some(taken > 0)
    });
    assert_eq!(took_over, backup.count("protected") > 0);
    if took_over {
        wait_progress(&backup, guest, 20);
        assert_eq!(backup.ctl(&["stop"]).0, 0);
        assert_eq!(backup.wait(), 0);
        console::join(guest, &primary.console(), &backup.console()).unwrap_or_else(|e| panic!("{e}"));
    } else {
        assert!(backup.console().is_empty());
        // In the same directory: elsewhere its newest disks would not be.
        let next = place.primary("a", guest, backup.port()).start();
        next.wait_event("protected");
        backup.wait_event("protected");
    }
}

#[test]
fn kill_primary_during_resync_leaves_a_whole_backup_or_none() {
    needs!(Kvm);
    let mut seed = Seed::new();
    (0..4).for_each(|_| kill_primary_during_resync(&Guest::dirty(), &mut seed));
}

#[test]
fn kill_backup_during_resync_guest_goes_on_and_is_protected_later() {
    needs!(Kvm);
    let (guest, mut seed) = (Guest::disk_journal(), Seed::new());
    for _ in 0..3 {
        let place = Place::new();
        let mut backup = place.backup("b", &guest).start();
        let mut primary = place.primary("a", &guest, backup.port()).start();
        backup.wait_event("resync-started");
        seed.pass(Duration::from_millis(600));
        let port = backup.port();
        backup.kill();
        wait_progress(&primary, &guest, 20);
        let mut again = place.backup_on("c", &guest, port).start();
        again.wait_event("protected");
        let before = wait_progress(&primary, &guest, 10);
        primary.kill();
        wait_value(&again, &guest, before + 10);
        assert_eq!(again.ctl(&["stop"]).0, 0);
        assert_eq!(again.wait(), 0);
        console::join(&guest, &primary.console(), &again.console()).unwrap_or_else(|e| panic!("{e}"));
    }
}
