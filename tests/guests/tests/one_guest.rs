//! An ordinary action of a supervisor or an operator never makes two guests: the register at the witness is asked first, by
//! every start, and told of every end.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use guests::place::{newest_record, wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, Seed, console, needs, said, wait};
use outlast_api::{Occurrence, PrimaryState};
use serde_json::json;

const CONFLICT: i32 = 4;
const CRASHED: i32 = 164;
const SPLIT_BRAIN: i32 = 6;
const SELF_FENCED: i32 = 160;

/// The id that a message says to name as dead.
#[track_caller]
fn id_in(message: &str) -> String {
    let (_, after) = message.rsplit_once("--dead ").unwrap_or_else(|| panic!("no id is named in: {message}"));
    after.chars().take_while(char::is_ascii_hexdigit).collect()
}

/// All that a message says may be named.
fn ids_in(message: &str) -> Vec<&str> {
    let hint = message.lines().rfind(|line| line.contains("--dead")).unwrap_or_default();
    hint.split("--dead ").skip(1).map(|after| &after[..8]).collect()
}

#[test]
fn takeover_continues_at_the_number_after_its_fork_in_a_branch_of_its_own() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    let before = pair.primary.primary().epochs.running_id;
    pair.primary.kill();
    let finished = pair.backup.wait_event("failover-finished");
    let Occurrence::FailoverFinished { epoch, epoch_id, term, .. } = finished else { unreachable!("by its name") };
    let record = newest_record(&place.witness());
    assert_eq!((&record["branch"], &record["fork"]["count"]), (&json!(term), &json!(epoch)), "{record}");
    assert_eq!((&record["parent"], &record["fork"]["branch"]), (&json!(1), &json!(1)), "{record}");
    assert_eq!((before.split('/').next(), &epoch_id), (Some("1"), &format!("1/{epoch}")));
    let epochs = pair.backup.primary().epochs;
    assert_eq!(epochs.running_id, format!("{term}/{}", epochs.running));
    let seconds_of_epochs = 100_000;
    assert!((epoch + 1..epoch + seconds_of_epochs).contains(&epochs.running), "{epoch}, and then {}", epochs.running);
}

#[test]
fn guest_that_goes_back_is_a_new_view_whose_fork_is_the_earlier_epoch() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter().with("typed=1"), Place::in_memory());
    let launch = place.alone("a", &guest).with("--witness", place.witness_option()).with("--protect", "local");
    let launch = launch.with("--epoch", "2ms").with("--on-guest-panic", "rollback").with("--retain", "4");
    let vm = launch.typed().start();
    vm.wait_event("booting");
    wait::until("earlier epochs", || (vm.protecting().earlier.len() >= 2).then_some(()));
    assert!(vm.protecting().earlier.iter().all(|kept| kept.epoch_id == format!("1/{}", kept.epoch)));
    vm.type_in("c");
    let rollback = vm.wait_event("rollback");
    let Occurrence::Rollback { epoch, epoch_id, anew, anew_id, .. } = rollback else { unreachable!("by its name") };
    let record = newest_record(&place.witness());
    assert_eq!(
        (&record["parent"], &record["fork"]["branch"], &record["fork"]["count"]),
        (&json!(1), &json!(1), &json!(epoch))
    );
    assert_eq!((&epoch_id, anew), (&format!("1/{epoch}"), epoch + 1));
    assert_eq!(anew_id, format!("{}/{anew}", record["branch"]));
    vm.wait_event("resumed");
    wait::until("its epochs", || (vm.primary().epochs.running > anew).then_some(()));
    let epochs = vm.primary().epochs;
    assert_eq!(epochs.running_id, format!("{}/{}", record["branch"], epochs.running));
}

#[test]
fn restart_before_the_backup_asks_is_refused_and_the_backup_goes_on() {
    needs!(Kvm);
    for same_directory in [true, false] {
        let (guest, place) = (Guest::counter(), Place::new());
        let mut pair = Pair::start(&place, &guest);
        let before = wait_progress(&pair.primary, &guest, 20);
        let port = pair.backup.port();
        let first = pair.primary.console();
        pair.primary.kill();
        let side = if same_directory { "a" } else { "elsewhere" };
        let mut again = place.primary(side, &guest, port).start();
        assert_eq!(again.wait(), SPLIT_BRAIN, "{}", again.log());
        assert!(again.log().contains("may be continued by its backup"), "{}", again.log());
        wait_value(&pair.backup, &guest, before + 30);
        pair.backup.stop();
        console::join(&guest, &first, &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn second_vm_of_the_name_is_refused_beside_the_first_and_allowed_after_its_end() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let witness = place.witness_option();
    let alone = |side: &str| place.alone(side, &guest).with("--witness", witness.as_str());
    let mut first = alone("a").start();
    wait_progress(&first, &guest, 20);
    alone("c").refused(SPLIT_BRAIN);
    first.stop();
    assert_eq!(newest_record(&place.witness())["standing"], "ended");
    let mut second = alone("c").start();
    wait_progress(&second, &guest, 20);
    alone("a").refused(SPLIT_BRAIN);
    second.stop();
}

#[test]
fn unprotected_guest_that_crashed_is_started_again_where_it_was_and_nowhere_else() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let witness = place.witness_option();
    let alone = |side: &str| place.alone(side, &guest).with("--witness", witness.as_str());
    let mut first = alone("a").start();
    wait_progress(&first, &guest, 20);
    first.kill();
    let said = alone("c").refused(SPLIT_BRAIN);
    assert!(said.contains("its newest disks are there"), "{said}");
    let mut again = alone("a").start();
    again.wait_event("booting");
    wait::until("the next life", || (newest_record(&place.witness())["branch"] == 2).then_some(()));
    again.kill();
    let said = alone("c").refused(SPLIT_BRAIN);
    let mut there = alone("c").with("--dead", id_in(&said)).start();
    wait_progress(&there, &guest, 20);
    there.stop();
}

#[test]
fn both_sides_crashed_and_the_backups_restart_frees_the_primary() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    let port = pair.backup.port();
    pair.backup.hang();
    pair.primary.kill();
    pair.backup.kill();
    // On one kernel the locks of both say that they are gone; with the backup's lock unseen, only it can say so.
    fs::rename(place.path("b"), place.path("unseen")).expect("the test's own directory");
    let unproved = id_in(&place.primary("a", &guest, port).refused(SPLIT_BRAIN));
    fs::rename(place.path("unseen"), place.path("b")).expect("the test's own directory");
    let backup = place.backup_on("b", &guest, port).start();
    backup.wait_event("waiting");
    // It may say so late, where the storage is slow.
    let statement = format!("{}.dead-{unproved}", guests::place::NAME);
    let is_it = |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&statement);
    wait::until("its statement", || {
        fs::read_dir(place.witness()).expect("it is there").map_while(Result::ok).any(|file| is_it(&file)).then_some(())
    });
    let mut primary = place.primary("a", &guest, port).start();
    // The events of the life before are in the same file.
    primary.wait_event_again("protected", 2);
    primary.stop();
}

/// A guest whose base is large: what an operator decides falls into its filling, or into the base itself.
fn large_base() -> Guest {
    Guest { cmdline: "pages=20000 span=200 us=1000".into(), memory_mib: 256, ..Guest::dirty() }
}

#[test]
fn unprotect_while_the_backup_is_filled_leaves_it_without_the_guest() {
    // The rest of the base went out although the session was over, no goodbye came, and the backup took that for a crash.
    needs!(Kvm);
    let (guest, place, mut seed) = (large_base(), Place::in_memory(), Seed::new());
    let backup = place.backup("b", &guest).instead("--witness", "none").start();
    let mut vm = place.alone("a", &guest).with("--witness", "none").start();
    vm.wait_event("booting");
    let target = format!("tcp:127.0.0.1:{}", backup.port());
    for round in 1..=6 {
        assert_eq!(vm.ctl(&["protect", &target]).0, 0);
        backup.wait_event_again("resync-started", round);
        seed.pass(Duration::from_millis(900));
        assert_eq!(vm.ctl(&["unprotect"]).0, 0);
        backup.wait_event_again("discarded", round);
        wait::until("the guest to be alone", || (vm.protecting().state == PrimaryState::Solo).then_some(()));
    }
    assert_eq!(backup.count("failover-started"), 0, "{}", backup.log());
    vm.stop();
}

#[test]
fn stop_while_the_backup_is_filled_stays_a_stop() {
    needs!(Kvm);
    let (guest, mut seed) = (large_base(), Seed::new());
    for witness in ["none", "file"] {
        for _ in 0..2 {
            let place = Place::in_memory();
            let witness = if witness == "file" { place.witness_option() } else { witness.to_owned() };
            let named = |launch: Launch| launch.instead("--witness", witness.as_str());
            let mut backup = named(place.backup("b", &guest)).start();
            let mut vm = named(place.primary("a", &guest, backup.port())).start();
            backup.wait_event("resync-started");
            seed.pass(Duration::from_millis(900));
            vm.stop();
            wait::until("the backup to be told", || {
                (backup.count("discarded") + backup.count("kept") > 0 || !backup.is_running()).then_some(())
            });
            assert_eq!(backup.count("failover-finished"), 0, "{}", backup.log());
            assert_eq!(backup.console(), "");
        }
    }
}

#[test]
fn connection_that_is_made_after_the_operator_said_otherwise_is_not_used() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    // Nobody is let in until the queue before the door has room: connecting takes a while.
    let door =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&door, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    rustix::net::listen(&door, 0).expect("it listens");
    let door = TcpListener::from(door);
    let address = door.local_addr().expect("bound");
    let before: Vec<TcpStream> =
        (0..4).filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()).collect();
    let mut vm = place.alone("a", &guest).with("--witness", "none").start();
    vm.wait_event("booting");
    assert_eq!(vm.ctl(&["protect", &format!("tcp:{address}")]).0, 0);
    assert_eq!(vm.ctl(&["unprotect"]).0, 0);
    let ours: Vec<_> = before.iter().map(|stream| stream.local_addr().expect("connected")).collect();
    door.set_nonblocking(true).expect("a socket");
    let told = wait::until_within(Duration::from_secs(5), || {
        let (mut stream, peer) = door.accept().ok()?;
        (!ours.contains(&peer)).then(|| {
            let mut bytes = Vec::new();
            stream.set_nonblocking(false).and_then(|()| stream.read_to_end(&mut bytes)).expect("it ends");
            bytes
        })
    });
    assert!(told.unwrap_or_default().is_empty(), "something was said to a backup that is not wanted");
    wait_progress(&vm, &guest, 20);
    vm.stop();
}

#[test]
fn stop_while_the_backup_hangs_is_recorded_and_the_backup_does_not_go_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    pair.backup.hang();
    pair.primary.stop();
    assert_eq!(newest_record(&place.witness())["standing"], "ended");
    pair.backup.unhang();
    wait::until("the backup to see that it is over", || {
        (pair.backup.count("kept") + pair.backup.count("ended") + pair.backup.count("discarded") > 0
            || !pair.backup.is_running())
        .then_some(())
    });
    assert_eq!(pair.backup.count("failover-finished"), 0, "{}", pair.backup.log());
    assert_eq!(pair.backup.console(), "");
}

/// Of a guest whose commits wait for no disk the backup has nothing else to do: only what the operator wants wakes it.
#[test]
fn kept_copy_of_a_backup_that_was_too_late_goes_on_when_the_winner_is_named_dead() {
    needs!(Kvm);
    for durability in ["disk", "memory"] {
        kept_copy_goes_on(durability);
    }
}

fn kept_copy_goes_on(durability: &str) {
    let (guest, place) = (Guest::counter(), Place::new());
    let backup = place.backup("b", &guest).start();
    let primary = place.primary("a", &guest, backup.port()).with("--commit-durability", durability).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    wait_progress(&pair.primary, &guest, 20);
    pair.backup.hang();
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.kill();
    pair.backup.unhang();
    let kept = said!(pair.backup, "kept", Kept { epoch });
    assert_eq!(pair.backup.following().kept.map(|kept| kept.epoch), Some(kept));
    assert_eq!(pair.backup.console(), "", "the primary went further");
    let (code, said) = pair.backup.ctl(&["take-over", "--dead", "00000000"]);
    assert_eq!(code, 3, "{said}");
    let primary = newest_record(&place.witness())["primary"]["id"].as_str().expect("an id").to_owned();
    assert!(said.contains(&primary[..8]), "{said}");
    let (code, said) = pair.backup.ctl(&["take-over", "--dead", &primary[..8]]);
    assert_eq!(code, 0, "{said}");
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    assert_eq!(newest_record(&place.witness())["named_dead"][0].as_str(), Some(primary.as_str()));
    pair.backup.stop();
}

#[test]
fn primary_that_was_named_dead_and_lives_stops_when_it_looks() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let witness = place.witness_option();
    let alone = |side: &str| place.alone(side, &guest).with("--witness", witness.as_str());
    let mut first = alone("a").start();
    wait_progress(&first, &guest, 20);
    let said = alone("c").refused(SPLIT_BRAIN);
    let mut second = alone("c").with("--dead", id_in(&said)).start();
    assert_eq!(first.wait(), SELF_FENCED, "{}", first.log());
    wait_progress(&second, &guest, 20);
    second.stop();
}

#[test]
fn sides_with_different_witnesses_are_never_a_pair() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let other = place.path("other");
    fs::create_dir(&other).expect("the test's own directory");
    for witness in [format!("file:{}", other.display()), "none".to_owned()] {
        let name = witness.split(':').next().expect("a kind").to_owned();
        let backup = place.backup(&format!("b-{name}"), &guest).instead("--witness", witness.as_str());
        let backup = backup.start();
        let mut primary = place.primary(&format!("a-{name}"), &guest, backup.port()).start();
        wait::until("both witnesses to be compared", || {
            let events = primary.events();
            let mut happened = events.iter().map(|event| &event.occurrence);
            let says = |solo: &Occurrence| matches!(solo, Occurrence::Solo { reason } if reason.contains("witness"));
            happened.any(says).then_some(())
        });
        assert_eq!(primary.count("protected"), 0);
        primary.stop();
    }
}

#[test]
fn witness_that_is_away_is_an_event_and_back_is_one_too() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    fs::rename(place.witness(), place.path("gone")).expect("the test's own directory");
    fs::create_dir(place.witness()).expect("an empty directory, as under a mount");
    for side in [&pair.primary, &pair.backup] {
        side.wait_event("witness-away");
        assert!(side.status().witness_away_ms().is_some(), "{:?}", side.status());
    }
    fs::remove_dir(place.witness()).expect("nothing was written into it");
    fs::rename(place.path("gone"), place.witness()).expect("the test's own directory");
    for side in [&pair.primary, &pair.backup] {
        side.wait_event("witness-back");
    }
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.stop();
}

#[test]
fn vm_that_was_started_without_a_named_witness_takes_no_backup() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 20);
    let (code, said) = vm.ctl(&["protect", "tcp:127.0.0.1:9"]);
    assert_eq!(code, CONFLICT, "{said}");
    assert!(said.contains("--witness"), "{said}");
    vm.stop();
}

#[test]
fn fresh_guest_whose_backup_runs_another_one_stops_with_its_witness_none() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let none = |launch: Launch| launch.instead("--witness", "none");
    let mut pair = Pair::start_with(&place, &guest, none);
    let port = pair.backup.port();
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    let mut again = none(place.primary("elsewhere", &guest, port)).start();
    // The one that took over listens no more: then nobody can say no, and the new one stays unprotected.
    let code = wait::until_within(wait::PATIENCE, || {
        let refused = !again.is_running();
        (refused || again.count("backup-unreachable") > 0).then_some(refused)
    });
    if code == Some(true) {
        assert_eq!(again.wait(), SPLIT_BRAIN, "{}", again.log());
    }
    pair.backup.stop();
}

#[test]
fn copy_of_a_state_directory_is_resumed_neither_while_the_original_lives_nor_after() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut vm =
        place.alone("a", &guest).with("--protect", "local").with("--witness", place.witness_option().as_str()).start();
    let before = wait_progress(&vm, &guest, 20);
    // It may be frozen only, as a host that hangs is.
    vm.hang();
    let copied = Command::new("cp").arg("-a").args([place.path("a"), place.path("copy")]).status().expect("cp runs");
    assert!(copied.success());
    let said = Launch::resume(&place.path("copy")).refused(SPLIT_BRAIN);
    assert!(said.contains("was copied or moved"), "{said}");
    let [primary, store] = ids_in(&said)[..] else { panic!("a primary and its state directory are listed: {said}") };
    vm.unhang();
    wait_value(&vm, &guest, before + 20);
    vm.kill();
    // That the original's process is gone proves nothing for the copy: it lacks what was committed since.
    Launch::resume(&place.path("copy")).refused(SPLIT_BRAIN);
    // Nor does an operator's word about the process.
    let said = Launch::resume(&place.path("copy")).with("--dead", primary).refused(SPLIT_BRAIN);
    assert!(said.contains(&format!("--dead {primary} --dead {store}")), "{said}");
    let mut again = Launch::resume(&place.path("a")).start();
    // The life before may have come as far.
    again.wait_event("resumed");
    wait_value(&again, &guest, before + 40);
    again.stop();
}

#[test]
fn moved_state_directory_is_resumed_when_the_operator_says_that_no_original_is_left() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut vm =
        place.alone("a", &guest).with("--protect", "local").with("--witness", place.witness_option().as_str()).start();
    let before = wait_progress(&vm, &guest, 20);
    vm.kill();
    // To another inode, as to another file system.
    let copied = Command::new("cp").arg("-a").args([place.path("a"), place.path("moved")]).status().expect("cp runs");
    assert!(copied.success());
    fs::remove_dir_all(place.path("a").join("state")).expect("removed");
    let said = Launch::resume(&place.path("moved")).refused(SPLIT_BRAIN);
    let resumed =
        ids_in(&said).into_iter().fold(Launch::resume(&place.path("moved")), |launch, id| launch.with("--dead", id));
    let mut again = resumed.start();
    // The console's file is where it was.
    wait_value(&vm, &guest, before + 20);
    again.stop();
}

#[test]
fn crashed_guest_that_nobody_keeps_may_be_started_anywhere() {
    needs!(Kvm);
    // It crashes when it is told to: at a count, it may do so before its backup has it.
    let (guest, place) = (Guest::counter().with("typed=1"), Place::new());
    let mut pair = Pair::start_with(&place, &guest, Launch::typed);
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.type_in("c");
    assert_eq!(pair.primary.wait(), CRASHED, "{}", pair.primary.log());
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    assert_eq!(newest_record(&place.witness())["standing"], "ended");
    let elsewhere = place.alone("c", &Guest::counter()).with("--witness", place.witness_option().as_str());
    let mut vm = elsewhere.start();
    wait_progress(&vm, &guest, 20);
    vm.stop();
}
