//! An operator has the guest handed over to its backup: it stands still for a moment, runs there, and nothing that it says is lost or said
//! twice.

use std::time::Duration;

use guests::echo::Client;
use guests::network::Network;
use guests::place::{newest_record, wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, said};
use outlast_api::{PrimaryState, Switchover, SwitchoverRequest, verbs};

const CONFLICT: i32 = 4;

/// Hands the guest of `from` over; how long it stood still.
#[track_caller]
fn hand_over(from: &mut Vm, verb: &str) -> Duration {
    let (code, said) = from.ctl(&["--output", "json", verb]);
    assert_eq!(code, 0, "{said}\n{}", from.log());
    let Switchover { holder, stood_ms } = serde_json::from_str(&said).expect("an answer is JSON");
    assert!(holder.starts_with("process "), "{holder}");
    assert_eq!(from.wait(), 0, "{}", from.log());
    assert_eq!((from.count("switchover-finished"), from.count("fenced"), from.count("peer-lost")), (1, 0, 0));
    Duration::from_secs_f64(stood_ms / 1e3)
}

/// It runs there, and nothing was repeated.
#[track_caller]
fn assert_continued(at: &Vm) {
    let reemitted = said!(at, "failover-finished", FailoverFinished { reemitted });
    let redelivered = said!(at, "failover-finished", FailoverFinished { redelivered });
    assert_eq!((reemitted, redelivered, at.count("failover-started")), (0, 0, 0));
}

#[test]
fn guest_is_handed_over_and_its_console_has_neither_a_gap_nor_a_repetition() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::smp(), Guest::disk_journal()] {
        let place = Place::new();
        let mut pair = Pair::start(&place, &guest);
        let before = wait_progress(&pair.primary, &guest, 20);
        let stood = hand_over(&mut pair.primary, "switchover");
        assert_continued(&pair.backup);
        wait_value(&pair.backup, &guest, before + 50 * guest.step);
        println!("{}: stood still for {stood:?}", guest.name);
        assert_eq!(pair.backup.protecting().state, PrimaryState::Solo);
        pair.backup.stop();
        let whole = pair.primary.console() + &pair.backup.console();
        console::check(&guest, &whole).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn guest_without_a_backup_and_one_that_is_paused_are_not_handed_over() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let (code, said) = pair.primary.ctl(&["failback"]);
    assert_eq!(code, CONFLICT, "{said}");
    assert!(said.contains("ran nowhere else") && said.contains("switchover"), "{said}");
    assert_eq!(pair.primary.ctl(&["pause"]).0, 0);
    let (code, said) = pair.primary.ctl(&["switchover"]);
    assert!(code == CONFLICT && said.contains("paused") && said.contains("resume"), "{code} {said}");
    assert_eq!(pair.primary.ctl(&["resume"]).0, 0);
    assert_eq!(pair.backup.ctl(&["switchover"]).0, CONFLICT, "it is the backup");
    pair.backup.stop();
    pair.primary.wait_event("solo");
    let (code, said) = pair.primary.ctl(&["switchover"]);
    assert!(code == CONFLICT && said.contains("it has no backup") && said.contains("outlast backup"), "{code} {said}");
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.stop();
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The backup dies when it has all of the guest and was about to ask for it: it goes on where it was, as if nothing had been asked for.
#[test]
fn guest_goes_on_where_it_was_when_its_backup_dies_with_the_offer() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let backup = place.backup("b", &guest).environment("OUTLAST_KILL_AT", "HandoverUnclaimed").start();
    let primary = place.primary("a", &guest, backup.port()).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    wait_progress(&pair.primary, &guest, 10);
    let (code, said) = pair.primary.ctl(&["switchover"]);
    assert!(code == CONFLICT && said.contains("goes on here"), "{code} {said}");
    pair.backup.wait_killed();
    assert_eq!(pair.primary.count("switchover-called-off"), 1);
    wait_progress(&pair.primary, &guest, 50);
    let newest = newest_record(&place.witness());
    assert_eq!(newest["backups"].as_array().map(Vec::len), Some(0), "{newest}");
    pair.primary.stop();
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The backup has all of it, and comes to the witness too late. It follows the guest anew, in the same process.
#[test]
fn backup_that_was_offered_a_guest_in_vain_protects_it_again() {
    needs!(Kvm);
    let (guest, place) = (Guest::disk_journal(), Place::new());
    // The backup starts again, and is to be found where it was.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let backup = place.backup_on("b", &guest, port).environment("OUTLAST_SLOW_AT", "HandoverUnclaimed:1:13000").start();
    let primary = place.primary("a", &guest, port).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    wait_progress(&pair.primary, &guest, 10);
    let (code, said) = pair.primary.ctl(&["switchover"]);
    assert!(code == CONFLICT && said.contains("goes on here"), "{code} {said}");
    pair.primary.wait_event_again("protected", 2);
    assert!(pair.backup.log().contains("starts again"), "{}", pair.backup.log());
    let before = wait_progress(&pair.primary, &guest, 20);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_value(&pair.backup, &guest, before);
    pair.backup.stop();
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// Its operator ends it while its backup does not take what is left of it: the stop waits behind no switchover, and nobody hears that the
/// guest goes on.
#[test]
fn guest_that_is_stopped_while_it_is_handed_over_goes_on_nowhere() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start_with(&place, &guest, |launch| launch.instead("--detect", "20s"));
    wait_progress(&pair.primary, &guest, 10);
    pair.backup.hang();
    std::thread::scope(|scope| {
        let switchover = scope.spawn(|| pair.primary.ctl(&["switchover"]));
        pair.primary.wait_event("switchover-started");
        let stop = scope.spawn(|| pair.primary.ctl(&["stop"]));
        let (code, said) = switchover.join().expect("it was answered");
        assert!(code == CONFLICT && said.contains("it has ended here"), "{code} {said}");
        pair.backup.unhang();
        let (code, said) = stop.join().expect("it was answered");
        assert_eq!(code, 0, "{said}");
    });
    let reason = said!(pair.primary, "switchover-called-off", SwitchoverCalledOff { reason });
    assert!(reason.contains("ended here"), "{reason}");
    assert_eq!((pair.primary.wait(), pair.backup.wait()), (0, 0));
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The primary dies when it has made the offer. Its backup claims the guest all the same.
#[test]
fn guest_goes_on_at_its_backup_when_its_primary_dies_after_the_offer() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let before = wait_progress(&pair.primary, &guest, 10);
    std::thread::scope(|scope| {
        let client = pair.primary.client();
        scope.spawn(move || client.call::<verbs::PutSwitchover>(&SwitchoverRequest { back: false }));
        pair.backup.wait_event("switchover-started");
        pair.primary.kill();
    });
    pair.backup.wait_event("failover-finished");
    wait_value(&pair.backup, &guest, before + 50);
    pair.backup.stop();
    console::join(&guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// To and fro, each time to a backup that was started for it, with 1,024 pages written in each epoch.
#[test]
fn twenty_switchovers_to_and_fro_leave_one_console() {
    needs!(Kvm);
    let cmdline = "pages=1024 span=16 us=1000 khz=2500000".into();
    let (guest, place) = (Guest { cmdline, ..Guest::dirty() }, Place::new());
    let Pair { mut primary, mut backup } = Pair::start(&place, &guest);
    let (mut whole, mut stood) = (String::new(), Vec::new());
    for round in 0..20 {
        wait_progress(&primary, &guest, 5);
        stood.push(hand_over(&mut primary, if round == 0 { "switchover" } else { "failback" }));
        assert_continued(&backup);
        whole += &primary.console();
        let next = place.backup(&format!("r{round}"), &guest).start();
        let (code, said) = backup.ctl(&["protect", &format!("tcp:127.0.0.1:{}", next.port())]);
        assert_eq!(code, 0, "{said}");
        next.wait_event("protected");
        backup.wait_event("protected");
        (primary, backup) = (backup, next);
    }
    stood.sort();
    println!("20 switchovers: the guest stood still for {:?} (median), {:?} (longest)", stood[10], stood[19]);
    wait_progress(&primary, &guest, 20);
    primary.stop();
    assert_eq!(backup.wait(), 0);
    whole += &primary.console();
    console::check(&guest, &whole).unwrap_or_else(|e| panic!("{e}"));
}

/// A client's requests are answered before, meanwhile and after, and no count is given twice.
#[test]
fn clients_of_a_guest_that_is_handed_over_are_answered_on() {
    needs!(Kvm, Root, Network);
    let (place, network) = (Place::new(), Network::new(&["tap-a", "tap-b"]));
    let on = |launch: Launch, tap: &str| launch.with("--net", format!("tap={tap}")).within(network.name());
    let guest = Guest::net_echo();
    let mut backup = on(place.backup("b", &guest), "tap-b").start();
    let mut primary = on(place.primary("a", &guest, backup.port()), "tap-a").start();
    primary.wait_event("protected");
    let mut client = Client::new(network.socket());
    client.ask_again(20);
    let (stood, silence) = std::thread::scope(|scope| {
        let operator = scope.spawn(|| hand_over(&mut primary, "switchover"));
        let mut silence = Duration::ZERO;
        while !operator.is_finished() {
            silence = silence.max(client.ask_again(1));
        }
        (operator.join().expect("it was handed over"), silence.max(client.ask_again(20)))
    });
    assert_continued(&backup);
    println!("{} counts, the guest stood still for {stood:?}, longest silence {silence:?}", client.answers());
    backup.stop();
}
