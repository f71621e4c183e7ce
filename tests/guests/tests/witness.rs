//! What an operator sees of a witness, and what a pair asks of it.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use guests::place::{NAME, wait_progress};
use guests::{Guest, Pair, Place, Seed, needs, program, tls, wait};
use protect::testing::{EtcdServer, Guards};
use serde_json::Value;

const NOT_FOUND: i64 = 3;
const CONFLICT: i64 = 4;
const SPLIT_BRAIN: i64 = 6;

fn outlast(args: &[&str]) -> Command {
    let mut command = Command::new(program::outlast());
    command.arg("witness").args(args);
    command
}

fn said(output: &Output) -> (i64, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it ended by itself").into(), text)
}

fn witness(args: &[&str]) -> (i64, String) {
    said(&outlast(args).output().expect("started"))
}

/// What `show` says to who would start the VM in `dir`.
fn show(witness: &str, dir: &std::path::Path) -> Value {
    let dir = dir.to_string_lossy();
    let args = ["show", "--witness", witness, "--name", NAME, "--state-dir", &dir, "--output", "json"];
    let output = outlast(&args).output().expect("started");
    assert!(output.status.success(), "{}", said(&output).1);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The same as a table.
fn table(witness: &str, dir: &std::path::Path) -> String {
    let dir = dir.to_string_lossy();
    let (code, text) = self::witness(&["show", "--witness", witness, "--name", NAME, "--state-dir", &dir]);
    assert_eq!(code, 0, "{text}");
    text
}

#[test]
fn show_names_who_may_run_the_guest_and_what_a_start_would_be_answered_and_writes_nothing() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::counter());
    let (option, elsewhere, state) = (place.witness_option(), place.path("elsewhere"), place.path("a/state"));
    let missing = witness(&["show", "--witness", &option, "--name", NAME]);
    assert_eq!(missing.0, NOT_FOUND, "{}", missing.1);
    let mut pair = Pair::start(&place, &guest);
    let files = || {
        let names = fs::read_dir(place.witness()).expect("there").map(|file| file.expect("readable").file_name());
        let mut names: Vec<_> = names.filter(|name| !name.to_string_lossy().starts_with('.')).collect();
        names.sort();
        names
    };
    let before = files();
    let shown = show(&option, &elsewhere);
    assert_eq!(shown["start"]["exit"], SPLIT_BRAIN, "{shown}");
    assert_eq!(shown["records"].as_array().map(Vec::len), Some(2), "{shown}");
    let primary = shown["records"][1]["primary"]["id"].as_str().expect("an id")[..8].to_owned();
    let backup = shown["records"][1]["backups"][0]["place"]["id"].as_str().expect("an id")[..8].to_owned();
    let text = table(&option, &elsewhere);
    for says in ["branch 1 begins, a boot", "backup: ", &primary, &backup, "refused with code 6", "--dead "] {
        assert!(text.contains(says), "{says}: {text}");
    }
    // The same words as a start itself.
    let mut other = place.primary("c", &guest, 1).instead("--state-dir", &elsewhere).start();
    assert_eq!(i64::from(other.wait()), SPLIT_BRAIN);
    assert!(other.log().contains(shown["start"]["message"].as_str().expect("text")), "{} {shown}", other.log());
    assert_eq!(show(&option, &state)["start"]["exit"], CONFLICT, "a process is there");
    assert_eq!(files(), before, "nobody wrote");
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    let text = table(&option, &elsewhere);
    assert!(text.contains("branch 3 begins, from epoch") && text.contains("of branch 1"), "{text}");
    let text = show(&option, &state);
    assert_eq!(text["start"]["exit"], SPLIT_BRAIN, "the backup runs it: {text}");
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
    let shown = show(&option, &elsewhere);
    assert_eq!((&shown["start"]["exit"], &shown["records"][3]["standing"]), (&0.into(), &"ended".into()), "{shown}");
}

#[test]
fn check_tells_of_what_a_witness_is_made_and_what_is_wrong_with_it() {
    let place = Place::new();
    let (code, text) = witness(&["check", "--witness", &place.witness_option(), "--output", "json"]);
    assert_eq!(code, 0, "{text}");
    let checked: Value = serde_json::from_str(&text).expect("JSON");
    assert!(checked["append_us"].as_u64() > Some(0), "{checked}");
    assert_eq!(checked["file_system"]["is_shared"], false, "a temporary directory is this host's: {checked}");
    assert!(checked["warnings"][0].as_str().expect("one").contains("no other host sees it"), "{checked}");
    assert_eq!(fs::read_dir(place.witness()).expect("there").count(), 0, "nothing is left");
    for (option, code, says) in [
        (format!("file:{}", place.path("none").display()), NOT_FOUND, "on storage that both hosts mount"),
        ("etcd:http://127.0.0.1:1".into(), 1, "endpoint health"),
        ("etcd:https://127.0.0.1:1".into(), 2, ",credentials=DIR"),
        (format!("etcd:https://127.0.0.1:1,credentials={}", place.path("none").display()), 2, "ca-cert.pem"),
        ("none".into(), 2, "there is nothing to look at"),
    ] {
        let said = witness(&["check", "--witness", &option]);
        assert_eq!(said.0, code, "{}", said.1);
        assert!(said.1.contains(says), "{}", said.1);
    }
}

#[test]
fn check_of_etcd_names_its_members_and_the_one_that_is_down() {
    needs!(Etcd);
    let place = Place::new();
    let mut etcd = EtcdServer::start(&place.path("etcd"), 3);
    let (code, text) = witness(&["check", "--witness", &etcd.option()]);
    assert_eq!(code, 0, "{text}");
    assert_eq!((text.matches("member ").count(), text.matches(", leads").count()), (3, 1), "{text}");
    assert!(text.contains("cluster ") && !text.contains("warning"), "{text}");
    etcd.kill((etcd.leader() + 1) % 3);
    let (code, text) = witness(&["check", "--witness", &etcd.option(), "--output", "json"]);
    assert_eq!(code, 0, "two of three are a majority: {text}");
    let checked: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(checked["warnings"].as_array().map(Vec::len), Some(1), "{checked}");
}

#[test]
fn check_with_meet_finds_what_another_host_left_at_the_same_witness_and_at_no_other() {
    let (place, other) = (Place::new(), Place::new());
    let mut first = outlast(&["check", "--witness", &place.witness_option(), "--meet"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(first.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let meet = lines.find_map(|line| line.split_once("--meet=").map(|(_, value)| format!("--meet={value}")));
    let meet = meet.expect("it says what to type on the other host");
    let elsewhere = witness(&["check", "--witness", &other.witness_option(), &meet, "--timeout", "1s"]);
    assert_eq!(elsewhere.0, SPLIT_BRAIN, "{}", elsewhere.1);
    let here = witness(&["check", "--witness", &place.witness_option(), &meet]);
    assert_eq!(here.0, 0, "{}", here.1);
    assert!(first.wait().expect("it is ours").success());
    assert!(lines.any(|line| line.contains("the other host sees this witness")));
    let again = witness(&["check", "--witness", &place.witness_option(), &meet, "--timeout", "1s"]);
    assert_eq!(again.0, SPLIT_BRAIN, "it was taken away: {}", again.1);
    assert_eq!(witness(&["check", "--witness", &place.witness_option(), "--meet=x"]).0, 2);
}

#[test]
fn pair_whose_cluster_asks_for_a_password_survives_its_primary_and_shows_the_password_nowhere() {
    needs!(Kvm, Etcd);
    const PASSWORD: &str = "correct-horse-battery";
    let (place, guest) = (Place::new(), Guest::counter());
    let certificates = tls::directory(&place.path(""), "credentials");
    let guards = Guards { tls: Some(certificates.clone()), ..Guards::default() };
    let etcd = EtcdServer::start_guarded(&place.path("etcd"), 3, &guards);
    etcd.enable_users("toor", ("vm", PASSWORD), "outlast/");
    let user = certificates.join("user");
    fs::write(&user, format!("vm:{PASSWORD}\n")).expect("room");
    fs::set_permissions(&user, Permissions::from_mode(0o644)).expect("ours");
    let mut refused = place.primary("c", &guest, 1).instead("--witness", etcd.option()).start();
    assert_eq!(refused.wait(), 2);
    assert!(refused.log().contains("every user of this host may read the password"), "{}", refused.log());
    fs::set_permissions(&user, Permissions::from_mode(0o600)).expect("ours");
    let (code, text) = witness(&["check", "--witness", &etcd.option()]);
    assert_eq!(code, 0, "{text}");
    let backup = place.backup("b", &guest).instead("--witness", etcd.option()).start();
    let primary = place.primary("a", &guest, backup.port()).instead("--witness", etcd.option()).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    wait_progress(&pair.primary, &guest, 10);
    let status = pair.primary.ctl(&["status"]).1 + &pair.primary.ctl(&["info"]).1;
    assert!(status.contains("credentials="), "{status}");
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 10);
    let shown = show(&etcd.option(), &place.path("elsewhere"));
    assert_eq!(shown["records"][2]["witness"], shown["cluster"], "each record names its cluster: {shown}");
    let kept = fs::read_to_string(place.path("a/state/vm.json")).expect("there");
    for text in [&kept, &status, &shown.to_string(), &pair.primary.log(), &pair.backup.log()] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
    assert_eq!(pair.backup.wait(), 0);
}

/// Each side looks once in this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[test]
fn pair_that_is_well_asks_its_witness_once_in_five_seconds_on_each_side_and_no_more() {
    needs!(Kvm, Etcd);
    const LOOKS: u32 = 4;
    let (place, guest) = (Place::new(), Guest::counter());
    let etcd = EtcdServer::start(&place.path("etcd"), 1);
    let backup = place.backup("b", &guest).instead("--witness", etcd.option()).start();
    let primary = place.primary("a", &guest, backup.port()).instead("--witness", etcd.option()).start();
    let mut pair = Pair { primary, backup };
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    wait_progress(&pair.primary, &guest, 10);
    let (begun, before) = (Instant::now(), etcd.requests());
    // What is counted is counted over a time.
    wait::until("the time to be over", || (begun.elapsed() >= LOOKS * LOOK_EVERY).then_some(()));
    let (asked, looks) = (etcd.requests() - before, begun.elapsed().as_secs() / LOOK_EVERY.as_secs());
    println!("{asked} requests in {:?}", begun.elapsed());
    assert!(asked <= 2 * (looks + 1), "{asked} requests in the time of {looks} looks of each side");
    assert!(asked >= 2, "both look");
    assert_eq!(pair.primary.ctl(&["stop"]).0, 0);
    assert_eq!((pair.primary.wait(), pair.backup.wait()), (0, 0));
}

/// From the primary's death until the backup says that it runs the guest: medians in one run, each kind in turn. A cluster whose leader
/// died elects another one within its election timeout (1 s by default), doubled at worst, and answers nobody until then.
#[test]
fn takeover_waits_for_etcd_s_next_leader_and_for_little_else() {
    needs!(Kvm, Etcd);
    const ROUNDS: usize = 3;
    let (place, guest, mut seed) = (Place::new(), Guest::counter(), Seed::new());
    let mut etcd = EtcdServer::start(&place.path("etcd"), 3);
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..ROUNDS {
        for (kind, times) in times.iter_mut().enumerate() {
            let place = Place::new();
            let option = if kind == 0 { place.witness_option() } else { etcd.option() };
            let name = format!("{NAME}-{round}-{kind}");
            let with = |launch: guests::Launch| launch.instead("--witness", &option).instead("--name", &name);
            let backup = with(place.backup("b", &guest)).start();
            let primary = with(place.primary("a", &guest, backup.port())).start();
            let mut pair = Pair { primary, backup };
            pair.primary.wait_event("protected");
            pair.backup.wait_event("protected");
            wait_progress(&pair.primary, &guest, 1 + seed.below(20));
            let leader = (kind == 2).then(|| etcd.leader());
            if let Some(leader) = leader {
                etcd.kill(leader);
            }
            let died = Instant::now();
            pair.primary.kill();
            pair.backup.wait_event("failover-finished");
            times.push(died.elapsed());
            if let Some(leader) = leader {
                etcd.revive(leader);
                etcd.wait_up();
            }
            assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
            assert_eq!(pair.backup.wait(), 0);
        }
    }
    let [file, cluster, leaderless] = times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    });
    const ASKED: Duration = Duration::from_secs(2);
    const ELECTED: Duration = Duration::from_secs(10);
    let ratio = |time: Duration| time.as_secs_f64() / file.as_secs_f64();
    println!(
        "takeover: directory {file:?}, etcd {cluster:?} ({:.2}), etcd without its leader {leaderless:?} ({:.2})",
        ratio(cluster),
        ratio(leaderless)
    );
    assert!(cluster < file + ASKED && leaderless < file + ELECTED);
}
