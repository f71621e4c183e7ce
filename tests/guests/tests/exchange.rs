//! The witness is exchanged while the guest runs, or overridden when it is gone. One guest each time, and whoever still uses the
//! old witness is told where to look.

use std::fs;
use std::path::PathBuf;

use guests::place::{NAME, newest_record, wait_progress};
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, wait};
use outlast_api::Occurrence;
use serde_json::Value;

const CONFLICT: i32 = 4;
const NOT_FOUND: i32 = 3;
const SPLIT_BRAIN: i32 = 6;

fn id_of(place: &Value) -> String {
    place["id"].as_str().expect("an id").to_owned()
}

/// Another directory, and how it is named.
fn other(place: &Place) -> (PathBuf, String) {
    let dir = place.path("other");
    fs::create_dir(&dir).expect("the test's own directory");
    let name = format!("file:{}", dir.display());
    (dir, name)
}

#[test]
fn exchanged_witness_decides_the_failover_and_the_old_one_tells_where_to_look() {
    needs!(Kvm);
    for is_gone in [false, true] {
        let (guest, place) = (Guest::counter(), Place::new());
        let mut pair = Pair::start(&place, &guest);
        let (dir, name) = other(&place);
        let old = newest_record(&place.witness());
        if is_gone {
            fs::remove_dir_all(place.witness()).expect("there");
        }
        let (code, said) = pair.primary.ctl(&["witness", "set", &name]);
        assert_eq!(code, 0, "{said}\n{}\n{}", pair.primary.log(), pair.backup.log());
        assert_eq!(pair.primary.protecting().witness, name);
        let Occurrence::WitnessExchanged { witness } = pair.primary.wait_event("witness-exchanged") else {
            panic!("it is")
        };
        assert_eq!(witness, name);
        let record = newest_record(&dir);
        assert_eq!(
            (&record["generation"], &record["number"], &record["branch"]),
            (&2.into(), &1.into(), &old["branch"])
        );
        assert_eq!((&record["primary"], &record["backups"]), (&old["primary"], &old["backups"]));
        let first = pair.primary.console();
        if !is_gone {
            assert_eq!(newest_record(&place.witness())["moved"]["witness"], name.as_str());
        }
        pair.primary.kill();
        pair.backup.wait_event("failover-finished");
        wait_witness_of_primary(&pair.backup, &name);
        wait_progress(&pair.backup, &guest, 20);
        assert_eq!(newest_record(&dir)["primary"], old["backups"][0]["place"]);
        if !is_gone {
            // Who was there knows it from his own directory, anybody else from the old witness.
            for side in ["a", "c"] {
                let said = place.alone(side, &guest).with("--witness", place.witness_option()).refused(SPLIT_BRAIN);
                assert!(said.contains("was exchanged") && said.contains(&format!("--witness {name}")), "{said}");
            }
            let mut backup = place.backup("d", &guest).start();
            assert_eq!(backup.wait(), SPLIT_BRAIN, "{}", backup.log());
        }
        let said = place.alone("c", &guest).with("--witness", &name).refused(SPLIT_BRAIN);
        assert!(said.contains("runs or may be continued elsewhere"), "{said}");
        pair.backup.stop();
        console::join(&guest, &first, &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(newest_record(&dir)["standing"], "ended");
    }
}

fn wait_witness_of_primary(vm: &Vm, witness: &str) {
    wait::until("the witness", || (vm.protecting().witness == witness).then_some(()));
}

#[test]
fn exchange_that_the_backup_cannot_take_part_in_leaves_all_as_it_was() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (dir, name) = other(&place);
    let mut pair = Pair::start(&place, &guest);
    // Nobody has a witness there.
    let (code, said) = pair.primary.ctl(&["witness", "set", "file:/nonexistent/witness"]);
    assert_eq!(code, NOT_FOUND, "{said}");
    // A VM of the name runs by that witness.
    let mut beside = place.alone("x", &guest).with("--witness", &name).start();
    wait_progress(&beside, &guest, 20);
    let (code, said) = pair.primary.ctl(&["witness", "set", &name]);
    assert_eq!(code, SPLIT_BRAIN, "{said}");
    assert!(said.contains("already has a VM"), "{said}");
    beside.stop();
    // A backup that follows is a member, and is not asked by itself.
    let (code, said) = pair.backup.ctl(&["witness", "set", &name]);
    assert_eq!(code, CONFLICT, "{said}");
    // Nobody is dead.
    let primary = id_of(&newest_record(&place.witness())["primary"]);
    let (code, said) = pair.primary.ctl(&["witness", "set", &name, "--dead", &primary[..8]]);
    assert_eq!(code, CONFLICT, "{said}");
    assert_eq!(pair.primary.protecting().witness, place.witness_option());
    // Behind what that VM left, it goes on.
    let (code, said) = pair.primary.ctl(&["witness", "set", &name]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(newest_record(&dir)["primary"]["id"], primary.as_str());
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    pair.backup.stop();
}

#[test]
fn primary_that_dies_in_an_exchange_leaves_one_guest_and_a_way_to_go_on() {
    needs!(Kvm);
    for step in ["ExchangeNoted", "MoveUnasked"] {
        let (guest, place) = (Guest::counter(), Place::new());
        let (_, name) = other(&place);
        let backup = place.backup("b", &guest).start();
        let mut primary = place.primary("a", &guest, backup.port()).environment("OUTLAST_KILL_AT", step).start();
        primary.wait_event("protected");
        wait_progress(&primary, &guest, 20);
        primary.ctl(&["witness", "set", &name]);
        primary.wait_killed();
        let first = primary.console();
        let mut backup = backup;
        backup.wait_event("failover-finished");
        wait_progress(&backup, &guest, 20);
        // The restart of a supervisor: it settles what was begun, and is told no.
        let said = place.primary("a", &guest, backup.port()).refused(SPLIT_BRAIN);
        assert!(said.contains("elsewhere") || said.contains("was exchanged"), "{said}");
        backup.stop();
        console::join(&guest, &first, &backup.console()).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn guest_that_had_no_witness_gets_one_and_no_start_goes_back_to_none() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (dir, name) = other(&place);
    let alone = || place.alone("a", &guest).with("--protect", "local").with("--witness", "none");
    let mut vm = alone().start();
    wait_progress(&vm, &guest, 20);
    let (code, said) = vm.ctl(&["witness", "set", &name]);
    assert_eq!(code, 0, "{said}");
    let record = newest_record(&dir);
    assert_eq!(record["standing"], "running");
    assert!(record["store"].is_object(), "{record}");
    vm.kill();
    let said = alone().refused(SPLIT_BRAIN);
    assert!(said.contains(&format!("--witness {name}")), "{said}");
    // The state directory knows which one counts.
    let mut again = Launch::resume(&place.path("a")).start();
    again.wait_event("resumed");
    assert_eq!(again.protecting().witness, name);
    assert!(newest_record(&dir)["branch"].as_u64() > record["branch"].as_u64());
    again.stop();
    assert_eq!(newest_record(&dir)["standing"], "ended");
}

#[test]
fn backup_whose_witness_is_gone_goes_on_by_an_override_that_names_the_primary() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (dir, name) = other(&place);
    let mut pair = Pair::start(&place, &guest);
    let record = newest_record(&place.witness());
    let (primary, backup) = (id_of(&record["primary"]), id_of(&record["backups"][0]["place"]));
    // Meanwhile the backup has read the record that lists it.
    wait_progress(&pair.primary, &guest, 20);
    fs::remove_dir_all(place.witness()).expect("there");
    pair.primary.kill();
    pair.backup.wait_event("failover-started");
    let first = pair.primary.console();
    let override_with =
        |id: &str| pair.backup.ctl(&["take-over", "--dead", id, "--witness", &name, "--why", "the array burnt"]);
    let (code, said) = override_with("00000000");
    assert_eq!(code, NOT_FOUND, "{said}");
    assert!(said.contains(&primary[..8]), "it says who is listed: {said}");
    let (code, said) = override_with(&backup[..8]);
    assert_eq!(code, CONFLICT, "{said}");
    assert!(said.contains("is the place that is to go on") && said.contains(&primary[..8]), "{said}");
    assert!(!dir.join(format!("{NAME}.view-1")).exists());
    let (code, said) = override_with(&primary[..8]);
    assert_eq!(code, 0, "{said}");
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    let record = newest_record(&dir);
    assert_eq!((&record["generation"], &record["named_dead"][0]), (&2.into(), &primary.as_str().into()));
    assert_eq!(record["word"]["why"], "the array burnt");
    assert!(record["word"]["who"].as_str().is_some_and(|who| who.contains(" on ")), "{record}");
    pair.backup.stop();
    console::join(&guest, &first, &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn state_directory_whose_witness_is_gone_is_resumed_by_an_override() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (dir, name) = other(&place);
    let witness = place.witness_option();
    let mut vm = place.alone("a", &guest).with("--protect", "local").with("--witness", &witness).start();
    wait_progress(&vm, &guest, 20);
    let primary = id_of(&newest_record(&place.witness())["primary"]);
    vm.kill();
    fs::remove_dir_all(place.witness()).expect("there");
    let mut without = Launch::resume(&place.path("a")).start();
    assert_eq!(without.wait(), NOT_FOUND, "{}", without.log());
    let mut again = Launch::resume(&place.path("a")).with("--witness", &name).with("--dead", &primary[..8]).start();
    again.wait_event("resumed");
    let record = newest_record(&dir);
    assert_eq!((&record["generation"], &record["named_dead"][0]), (&2.into(), &primary.as_str().into()));
    assert!(record["word"]["at"].as_u64().is_some_and(|at| at > 1_700_000_000), "{record}");
    again.kill();
    // From here on the new one counts without being named.
    let mut third = Launch::resume(&place.path("a")).start();
    third.wait_event_again("resumed", 2);
    assert_eq!(third.protecting().witness, name);
    third.stop();
}

#[test]
fn two_overrides_of_one_register_stop_when_they_meet() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let names = ["one", "two"].map(|name| {
        fs::create_dir(place.path(name)).expect("the test's own directory");
        format!("file:{}", place.path(name).display())
    });
    let mut backup = place.backup("b", &guest).start();
    let port = backup.port();
    let mut primary = place.primary("a", &guest, port).with("--protect", "local").start();
    primary.wait_event("protected");
    // Meanwhile the backup has read the record that lists it.
    wait_progress(&primary, &guest, 20);
    let listed = newest_record(&place.witness());
    let ids = [&listed["primary"], &listed["store"], &listed["backups"][0]["place"]]
        .map(|place| id_of(place)[..8].to_owned());
    fs::remove_dir_all(place.witness()).expect("there");
    primary.kill();
    backup.wait_event("failover-started");
    let dead = |id: usize| ["--dead", ids[id].as_str()];
    let (code, said) = backup.ctl(&[&["take-over", "--witness", &names[0]][..], &dead(0), &dead(1)].concat());
    assert_eq!(code, 0, "{said}");
    backup.wait_event("failover-finished");
    // Somebody who has not heard of that says the same on the other host.
    let resume = Launch::resume(&place.path("a")).with("--witness", &names[1]);
    let mut resumed = resume.with("--dead", &ids[0]).with("--dead", &ids[2]).start();
    resumed.wait_event("resumed");
    backup.stop();
    let waiting = place.backup_on("b", &guest, port).instead("--witness", &names[0]).start();
    assert_eq!(resumed.wait(), SPLIT_BRAIN, "{}", resumed.log());
    assert!(resumed.log().contains("two registers of generation 2"), "{}", resumed.log());
    let Occurrence::Refused { reason } = waiting.wait_event("refused") else { panic!("it is") };
    assert!(reason.contains("two registers"), "{reason}");
}

/// It was told by the process that left it or by nobody, and said for ever that the VM runs there.
#[test]
fn witness_that_was_away_when_it_was_left_is_told_by_the_next_life() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let (dir, name) = other(&place);
    let witness = place.witness_option();
    let mut vm = place.alone("a", &guest).with("--protect", "local").with("--witness", &witness).start();
    wait_progress(&vm, &guest, 20);
    let away = place.path("away");
    fs::rename(place.witness(), &away).expect("ours");
    let (code, said) = vm.ctl(&["witness", "set", &name]);
    assert_eq!(code, 0, "{said}");
    vm.kill();
    fs::rename(&away, place.witness()).expect("ours");
    let mut again = Launch::resume(&place.path("a")).start();
    again.wait_event("resumed");
    let moved = || newest_record(&place.witness())["moved"]["witness"].as_str() == Some(&name);
    wait::until("the old witness to be told", || moved().then_some(()));
    // And it can be gone back to.
    let (code, said) = again.ctl(&["witness", "set", &witness]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(newest_record(&place.witness())["generation"], 3);
    wait::until("the other one to be told", || newest_record(&dir)["moved"].is_object().then_some(()));
    again.stop();
}
