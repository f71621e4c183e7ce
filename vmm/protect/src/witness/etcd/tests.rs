//! A real etcd: what races, what fails, what lies.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use replication::view::{Another, Ask, Attempt, Incarnation, Outcome, Place, Register, Wish};

use super::server::EtcdServer;
use super::*;
use crate::witness::random;
use crate::witness::tests::record;

const VM: &str = "vm0.x";

/// A cluster of `count` members; nothing where etcd is missing, and the test is counted as skipped.
fn started(count: usize) -> Option<(tempfile::TempDir, EtcdServer)> {
    let dir = place()?;
    let server = EtcdServer::start(dir.path(), count);
    Some((dir, server))
}

/// Where a cluster can be started.
pub(super) fn place() -> Option<tempfile::TempDir> {
    if !EtcdServer::is_there() {
        machine::testing::say_skipped("etcd is not on the PATH: scripts/etcd has one");
        return None;
    }
    Some(tempfile::tempdir().expect("a temporary directory"))
}

pub(super) fn cluster(target: Target) -> Cluster {
    Cluster::new(Gateway::new(target).expect("there are no files to read, or they are good"))
}

pub(super) fn append(cluster: &Cluster, record: Record) -> io::Result<Vec<Entry>> {
    cluster.append(VM, &record, record.number).map(|found| found.entries)
}

fn newest(cluster: &Cluster, vm: &str) -> Option<Entry> {
    cluster.newest(vm).expect("it answers").entries.pop()
}

fn from(cluster: &Cluster, first: u64) -> io::Result<Vec<Entry>> {
    Store::from(cluster, VM, first).map(|found| found.entries)
}

fn numbers<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u64> {
    entries.into_iter().map(|entry| entry.record.number).collect()
}

/// Asks until there is an answer, as a claim does.
fn insist<T>(mut ask: impl FnMut() -> io::Result<T>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "no answer for a minute: {error}"),
        }
    }
}

#[test]
fn probe_leaves_nothing() {
    let Some((_dir, server)) = started(1) else { return };
    let cluster = cluster(server.all());
    cluster.probe().expect("it answers");
    let all = Range { range_end: Some(encode("outlast0")), ..Range::of_key("outlast/") };
    assert!(cluster.post::<message::Found>("kv/range", &all).expect("it answers").kvs.is_empty());
    assert!(newest(&cluster, VM).is_none());
}

#[test]
fn record_is_appended_once_without_a_gap_and_read_back_over_several_pages() {
    let Some((_dir, server)) = started(1) else { return };
    let cluster = cluster(server.all());
    let ours = record(1, 1);
    assert_eq!(append(&cluster, ours.clone()).expect("it answers")[0].record, ours);
    assert_eq!(append(&cluster, record(1, 2)).expect("it answers")[0].record, ours);
    let beyond = append(&cluster, record(3, 1)).expect("it answers");
    assert!(beyond.is_empty(), "there is no record 2 that it could follow: {beyond:?}");
    let count = u64::from(2 * PAGE_RECORDS + 3);
    for number in 2..=count {
        cluster.put_record(VM, &record(number, 1)).expect("it answers");
    }
    assert_eq!(numbers(&newest(&cluster, VM)), [count]);
    let from = numbers(&from(&cluster, 2).expect("it answers"));
    assert_eq!(from, (2..=count).collect::<Vec<_>>());
    assert!(newest(&cluster, "vm0").is_none(), "another VM");
}

#[test]
fn append_raced_by_many_has_exactly_one_winner_each_while_the_leader_is_killed() {
    const RACERS: u8 = 4;
    const ROUNDS: u64 = 30;
    let Some((_dir, mut server)) = started(3) else { return };
    let barrier = Barrier::new(usize::from(RACERS) + 1);
    let (all, barrier) = (server.all(), &barrier);
    let race = |id: u8| {
        let cluster = cluster(all.clone());
        barrier.wait();
        let won = |round: &u64| {
            let ours = record(*round, id);
            // The same record until there is an answer: an earlier try may have taken place.
            insist(|| append(&cluster, ours.clone()))[0].record == ours
        };
        (1..=ROUNDS).filter(won).collect::<Vec<_>>()
    };
    let mut won = thread::scope(|scope| {
        let racers: Vec<_> = (1..=RACERS).map(|id| scope.spawn(move || race(id))).collect();
        barrier.wait();
        server.kill(server.leader());
        racers.into_iter().flat_map(|racer| racer.join().expect("no panic")).collect::<Vec<_>>()
    });
    won.sort_unstable();
    assert_eq!(won, (1..=ROUNDS).collect::<Vec<_>>());
}

#[test]
fn cluster_without_a_majority_is_no_answer_and_knows_everything_when_it_is_back() {
    let Some((_dir, mut server)) = started(3) else { return };
    let cluster = cluster(server.all());
    let ours = record(1, 1);
    append(&cluster, ours.clone()).expect("it answers");
    server.kill(0);
    insist(|| append(&cluster, record(2, 1)));
    server.kill(1);
    assert!(append(&cluster, record(3, 1)).is_err());
    assert!(cluster.newest(VM).is_err(), "what one member has is no answer");
    server.revive(0);
    server.wait_up();
    let found = insist(|| from(&cluster, 1));
    // Nobody knows whether the append that failed takes place later.
    assert!([&[1, 2][..], &[1, 2, 3]].contains(&&numbers(&found)[..]), "{found:?}");
    assert_eq!(found[0].record, ours);
}

#[test]
fn answers_name_their_cluster_and_what_is_no_record_comes_from_one_cluster_only() {
    let (Some((_a, mut one)), Some((_b, other))) = (started(1), started(1)) else { return };
    let both = format!("{},{}", one.addresses[0], other.addresses[0]).parse().expect("addresses");
    let both = cluster(both);
    let by = |cluster: &Cluster| cluster.newest(VM).expect("it answers").by.expect("etcd says which one it is");
    let (first, second) = (by(&cluster(one.all())), by(&cluster(other.all())));
    assert_ne!(first, second);
    append(&both, Record { witness: Some(first), ..record(1, 1) }).expect("the first answers");
    one.kill(0);
    assert_eq!(by(&both), second, "who asks compares");
    let error = both.is_stated(VM, Statement::Dead(Incarnation([3; 16]))).expect_err("nobody compares");
    assert!(error.to_string().contains(&format!("is of cluster {second}")), "{error}");
}

#[test]
fn record_goes_to_no_other_cluster_than_the_one_that_it_names() {
    let (Some((_a, mut one)), Some((_b, other))) = (started(1), started(1)) else { return };
    let both = cluster(format!("{},{}", one.addresses[0], other.addresses[0]).parse().expect("addresses"));
    let witness = both.newest(VM).expect("it answers").by;
    // A copy of all records, as after a restore.
    for cluster in [&both, &cluster(other.all())] {
        append(cluster, record(1, 1)).expect("it answers");
    }
    one.kill(0);
    let found = both.append(VM, &Record { witness, ..record(2, 1) }, 1);
    assert!(found.is_err(), "no address is of that cluster: {found:?}");
    assert_eq!(numbers(&from(&cluster(other.all()), 1).expect("it answers")), [1]);
}

#[test]
fn register_that_was_copied_to_another_cluster_is_another_witness_to_who_never_saw_it_too() {
    let (Some((_a, one)), Some((_b, other))) = (started(1), started(1)) else { return };
    let (one, other) = (cluster(one.all()), cluster(other.all()));
    let place = record(1, 1).primary;
    let begin = || Wish::Begin {
        store: None,
        durability: None,
        dead: [place.id].into(),
        here: [place.id].into(),
        named_dead: Default::default(),
    };
    let wish = |cluster: &Cluster| {
        let mut register = Register::new(Place { id: Incarnation(random()), ..place.clone() }, None);
        register.handle_wish(begin(), Attempt(random()));
        loop {
            let found = match register.poll_ask().expect("it is not decided").1 {
                Ask::Newest => cluster.newest(VM),
                Ask::From(first) => Store::from(cluster, VM, first),
                Ask::Append { record, from } => cluster.append(VM, &record, from),
            };
            if let Some(outcome) = register.handle_found(found.expect("it answers")) {
                return (outcome, register.another());
            }
        }
    };
    let (Outcome::Won(entry), None) = wish(&one) else { panic!("nobody was there") };
    let named = entry.record.witness.expect("a record names its cluster");
    let value = serde_json::to_vec_pretty(&entry.record).expect("JSON");
    other.put(&record_key(VM, 1), &value).expect("copied");
    let found = other.newest(VM).expect("it answers").by;
    assert_ne!(found, Some(named));
    assert_eq!(wish(&other), (Outcome::Forgotten, Some(Another { expected: named, found })));
    assert_eq!(numbers(&from(&other, 1).expect("it answers")), [1], "nothing was appended");
}

/// Each took two seconds before the next one was asked, and a takeover waited for them.
#[test]
fn address_that_is_silent_is_not_waited_for() {
    let Some((_dir, server)) = started(1) else { return };
    let silent: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let silent = silent.iter().map(|port| format!("http://{}", port.local_addr().expect("it is bound")));
    let place = silent.chain([server.addresses[0].clone()]).collect::<Vec<_>>().join(",");
    let cluster = cluster(place.parse().expect("addresses"));
    let begun = Instant::now();
    assert!(newest(&cluster, VM).is_none());
    eprintln!("two silent addresses took {} ms", begun.elapsed().as_millis());
    assert!(
        begun.elapsed() < Duration::from_millis(1900),
        "one silent address alone may take 2 s: {:?}",
        begun.elapsed()
    );
}

/// The member takes the request when it goes on, after another one has done it.
#[test]
fn append_that_two_members_are_given_takes_place_once() {
    let Some((_dir, server)) = started(3) else { return };
    let cluster = cluster(server.all());
    let ours = record(1, 1);
    append(&cluster, ours.clone()).expect("it answers");
    // The one that answered last, so that it is asked first.
    server.hang(0);
    let second = record(2, 1);
    let found = insist(|| append(&cluster, second.clone()));
    assert_eq!(found[0].record, second);
    insist(|| append(&cluster, record(3, 2)));
    let before = from(&cluster, 1).expect("it answers");
    server.unhang(0);
    server.wait_up();
    assert_eq!(from(&cluster, 1).expect("it answers"), before);
}

#[test]
fn addresses_that_hang_cost_their_time_once() {
    let Some((_dir, server)) = started(1) else { return };
    let hung: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let hung = hung.iter().map(|port| format!("http://{}", port.local_addr().expect("it is bound")));
    let place = hung.chain([server.addresses[0].clone()]).collect::<Vec<_>>().join(",");
    // Three requests: with the time of both for each of them it would be none of an answer.
    let name: crate::witness::WitnessName = format!("etcd:{place}").parse().expect("well formed");
    let witness = name.open().expect("one of three answers").expect("it is one");
    assert!(witness.newest(VM).expect("it answers").entries.is_empty());
}

#[test]
fn value_that_is_no_record_or_of_another_number_and_a_missing_record_are_no_answer() {
    let Some((_dir, server)) = started(1) else { return };
    let cluster = cluster(server.all());
    append(&cluster, record(1, 1)).expect("it answers");
    let first = serde_json::to_vec(&record(1, 1)).expect("JSON");
    for content in [&b"garbage"[..], b"", &first] {
        cluster.put(&record_key(VM, 2), content).expect("written");
        for error in [cluster.newest(VM).expect_err("not a record"), from(&cluster, 1).expect_err("not a record")] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
    cluster.put(&record_key(VM, 2), &serde_json::to_vec(&record(2, 1)).expect("JSON")).expect("written");
    cluster.delete(&record_key(VM, 1)).expect("removed");
    let error = from(&cluster, 1).expect_err("record 1 is missing");
    assert!(error.to_string().contains("record 1 of vm0.x is missing"), "{error}");
}

#[test]
fn what_is_left_is_found_until_it_is_taken_away_and_statements_until_they_are_withdrawn() {
    let Some((_dir, server)) = started(1) else { return };
    let cluster = cluster(server.all());
    let (nonce, dead) = (Nonce(random()), Statement::Dead(Incarnation([3; 16])));
    cluster.leave(VM, nonce).expect("written");
    assert!(self::cluster(server.all()).finds(VM, nonce).expect("it answers"));
    assert!(!cluster.finds("vm1", nonce).expect("it answers"));
    cluster.take_away(VM, nonce).expect("removed");
    assert!(!cluster.finds(VM, nonce).expect("it answers"));
    for _ in 0..2 {
        cluster.state(VM, dead).expect("written");
    }
    assert!(cluster.is_stated(VM, dead).expect("it answers"));
    assert!(!cluster.is_stated(VM, Statement::Dead(Incarnation([4; 16]))).expect("it answers"));
    cluster.withdraw(VM, dead).expect("removed");
    assert!(!cluster.is_stated(VM, dead).expect("it answers"));
}

#[test]
fn what_is_no_etcd_is_an_error_that_names_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = thread::spawn(move || {
        use std::io::{Read, Write};
        for answer in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).expect("a request");
            stream.write_all(answer.as_bytes()).expect("written");
        }
    });
    let cluster = cluster(address.parse().expect("an address"));
    for expected in ["404 Not Found: nope", "does not answer as etcd does"] {
        let error = cluster.newest(VM).expect_err("no etcd").to_string();
        assert!(error.contains(&address) && error.contains(expected), "{error}");
    }
    server.join().expect("no panic");
    assert!(cluster.newest(VM).expect_err("nobody listens").to_string().contains(&address));
}
