//! Every transport with a peer that is slow, half gone, gone, or takes nothing. Each test is the same for all of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Instant;

use super::tls::TestAuthority;
use super::*;

/// Longer than any wait here, and shorter than anybody's patience.
const SOON: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);
/// Far more than the host takes while nobody reads.
const MUCH: usize = 64 << 20;

/// A place of each transport, and what both sides show there.
fn places(dir: &tempfile::TempDir) -> Vec<(Endpoint, Option<Credentials>)> {
    let tcp = Endpoint::Tcp { host: "127.0.0.1".into(), port: 0, is_clear: false };
    let credentials = Credentials::open(&TestAuthority::new().directory(dir.path())).expect("a TLS directory");
    let unix = Endpoint::Unix(dir.path().join("peer.sock"));
    vec![(tcp.clone(), None), (unix, None), (tcp, Some(credentials))]
}

fn transport(place: &Endpoint, credentials: Option<&Credentials>) -> Box<dyn Transport> {
    place.transport(credentials).expect("it is on this host")
}

pub(super) fn accept(listener: &mut dyn Listener) -> Connection {
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok(connection) => return connection,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < SOON => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Does it with both ends of a connection of each transport.
fn with_each(check: impl Fn(Connection, Connection)) {
    let dir = tempfile::tempdir().expect("a directory");
    for (place, credentials) in places(&dir) {
        let mut listener = transport(&place, credentials.as_ref()).listen().expect("it is free");
        let there = transport(&listener.endpoint().expect("it listens"), credentials.as_ref());
        let (ours, theirs) = thread::scope(|scope| {
            let ours = scope.spawn(move || there.connect().expect("it listens"));
            let theirs = accept(&mut *listener);
            (ours.join().expect("no panic"), theirs)
        });
        check(ours, theirs);
    }
}

fn read_to_end(mut reader: Box<dyn ReadHalf>) -> Vec<u8> {
    let (mut all, mut bytes) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match reader.read_within(&mut bytes, SOON).expect("the peer ends in order") {
            ReadOutcome::Bytes(count) => all.extend_from_slice(&bytes[..count]),
            ReadOutcome::End => return all,
            ReadOutcome::Nothing => panic!("the peer says nothing, and does not end"),
        }
    }
}

#[test]
fn reader_waits_as_long_as_it_is_told_and_hears_a_slow_peer_byte_by_byte() {
    with_each(|mut ours, mut theirs| {
        let mut bytes = [0; READ_BYTES_MIN];
        assert_eq!(ours.reader.read_now(&mut bytes).expect("open"), ReadOutcome::Nothing);
        let begun = Instant::now();
        assert_eq!(ours.reader.read_within(&mut bytes, SHORT).expect("open"), ReadOutcome::Nothing);
        // The kernel counts in ticks of its own.
        assert!(begun.elapsed() >= SHORT / 2 && begun.elapsed() < SOON, "{:?}", begun.elapsed());
        for byte in 0..10 {
            theirs.writer.write_all(&[byte]).expect("open");
            assert_eq!(ours.reader.read_within(&mut bytes, SOON).expect("open"), ReadOutcome::Bytes(1));
            assert_eq!(bytes[0], byte);
        }
    });
}

#[test]
fn half_that_is_ended_leaves_the_other_one() {
    with_each(|mut ours, mut theirs| {
        theirs.writer.write_all(b"last words").expect("open");
        theirs.writer.finish().expect("open");
        assert_eq!(read_to_end(ours.reader), b"last words");
        ours.writer.write_all(b"an answer").expect("their reader is there");
        ours.writer.finish().expect("open");
        assert_eq!(read_to_end(theirs.reader), b"an answer");
        assert!(theirs.writer.write_all(b"more").is_err(), "it was ended");
    });
}

#[test]
fn peer_that_is_gone_is_an_end_or_an_error_and_never_a_wait_or_a_signal() {
    with_each(|mut ours, theirs| {
        ours.writer.write_all(b"never read").expect("open");
        drop(theirs);
        let mut bytes = [0; READ_BYTES_MIN];
        assert!(!matches!(ours.reader.read_within(&mut bytes, SOON), Ok(ReadOutcome::Nothing | ReadOutcome::Bytes(_))));
        let begun = Instant::now();
        while ours.writer.write_now(b"x").is_ok() {
            assert!(begun.elapsed() < SOON, "it takes what nobody will read");
        }
        assert!(ours.writer.write_all(b"x").is_err());
    });
}

#[test]
fn end_of_a_line_ends_the_waits_of_both_halves_in_other_threads() {
    with_each(|ours, _theirs| {
        let Connection { mut reader, mut writer, line } = ours;
        let hears = thread::spawn(move || {
            let mut bytes = [0; READ_BYTES_MIN];
            !matches!(reader.read_within(&mut bytes, SOON), Ok(ReadOutcome::Nothing | ReadOutcome::Bytes(_)))
        });
        let sends = thread::spawn(move || writer.write_all(&vec![1; MUCH]).is_err());
        // However far they are: before, in, or behind their wait.
        thread::sleep(SHORT);
        line.end();
        assert!(hears.join().expect("no panic") && sends.join().expect("no panic"));
    });
}

#[test]
fn writer_with_patience_gives_a_peer_up_that_takes_nothing() {
    with_each(|mut ours, _theirs| {
        ours.writer.set_patience(Some(Duration::from_millis(100))).expect("a time");
        let begun = Instant::now();
        let error = ours.writer.write_all(&vec![1; MUCH]).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(begun.elapsed() < SOON);
    });
}

#[test]
fn send_now_goes_on_with_what_it_could_not_get_rid_of() {
    // It waited for another sender, which may have had nothing to say: a primary that lived fell silent.
    with_each(|ours, mut theirs| {
        let sender = Sender::new(ours.writer, ours.line);
        let (large, small) = (vec![1; MUCH], [2; 100]);
        sender.send_now(&large);
        let begun = Instant::now();
        let (mut all, mut bytes) = (Vec::new(), vec![0; 1 << 20]);
        while all.len() < large.len() + small.len() {
            assert!(begun.elapsed() < SOON, "{} bytes came", all.len());
            sender.send_now(&small);
            if let ReadOutcome::Bytes(count) = theirs.reader.read_within(&mut bytes, SHORT).expect("open") {
                all.extend_from_slice(&bytes[..count]);
            }
        }
        let (first, then) = all.split_at(large.len());
        assert!(first.iter().all(|byte| *byte == 1) && then.iter().all(|byte| *byte == 2));
    });
}

#[test]
fn send_now_never_waits_and_never_cuts_a_frame() {
    // Heartbeats waited behind a log that was slow to sync, and the backup took over from a primary that was well.
    with_each(|ours, theirs| {
        let sender = Sender::new(ours.writer, ours.line);
        let frame: Vec<u8> = (0..100).collect();
        let begun = Instant::now();
        (0..200_000).for_each(|_| sender.send_now(&frame));
        assert!(begun.elapsed() < SOON, "it waited for a peer that does not read");
        let reader = thread::spawn(move || read_to_end(theirs.reader));
        sender.send(&frame).expect("somebody reads now");
        sender.finish();
        let all = reader.join().expect("the reader does not panic");
        assert!(all.len() < 200_000 * frame.len(), "it was full");
        assert!(all.chunks(frame.len()).all(|chunk| chunk == frame));
    });
}

#[test]
fn listener_without_a_peer_does_not_wait_and_one_whose_peer_has_left_is_not_harmed() {
    let dir = tempfile::tempdir().expect("a directory");
    for (place, _) in places(&dir).into_iter().filter(|(_, credentials)| credentials.is_none()) {
        let mut listener = transport(&place, None).listen().expect("it is free");
        assert_eq!(listener.accept().expect_err("nobody came").kind(), io::ErrorKind::WouldBlock);
        let there = transport(&listener.endpoint().expect("it listens"), None);
        drop(there.connect().expect("it listens"));
        drop(there.connect().expect("it listens").writer);
        let mut bytes = [0; READ_BYTES_MIN];
        assert_eq!(accept(&mut *listener).reader.read_within(&mut bytes, SOON).expect("closed"), ReadOutcome::End);
    }
}

#[test]
fn second_listener_at_a_place_is_refused_and_a_place_without_one_takes_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    for (place, credentials) in places(&dir) {
        let listener = transport(&place, credentials.as_ref()).listen().expect("it is free");
        let there = transport(&listener.endpoint().expect("it listens"), credentials.as_ref());
        assert_eq!(there.listen().expect_err("taken").kind(), io::ErrorKind::AddrInUse, "{there:?}");
        drop(listener);
        let error = there.connect().expect_err("nobody listens");
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound), "{error}");
        there.listen().expect("free again");
    }
}

#[test]
fn peer_on_this_host_that_accepts_nobody_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = Endpoint::Unix(dir.path().join("peer.sock"));
    let _listener = transport(&place, None).listen().expect("it is free");
    let mut waiting = Vec::new();
    let begun = Instant::now();
    let error = loop {
        match transport(&place, None).connect() {
            Ok(connection) => waiting.push(connection),
            Err(error) => break error,
        }
        assert!(waiting.len() < 1000, "its queue has no end");
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(begun.elapsed() < SOON);
}

#[test]
fn socket_is_its_owners_only_and_replaces_a_leftover_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("peer.sock");
    let place = Endpoint::Unix(path.clone());
    // A listener that was killed leaves its file.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("it is free"));
    assert!(path.exists());
    let listener = transport(&place, None).listen().expect("nobody serves the leftover");
    assert_eq!(fs::symlink_metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    drop(listener);
    assert!(!path.exists(), "it goes with the listener");
    fs::write(&path, "somebody's").expect("room");
    assert_eq!(transport(&place, None).listen().expect_err("a file").kind(), io::ErrorKind::AddrInUse);
    assert_eq!(fs::read(&path).expect("it is there"), b"somebody's");
}
