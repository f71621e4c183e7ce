//! Wrong use of the whole program: each mistake gets a message with the remedy and its exit code, and a guest that runs
//! is not harmed by a peer that is none.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use guests::network::Network;
use guests::place::{disk, wait_progress, wait_value};
use guests::{Guest, Launch, Pair, Place, Vm, console, needs, said, wait};
use outlast_api::PrimaryState;
use replication::wire::{HelloAck, Kind, Link, Message, PROTOCOL_VERSION, encode_frame};
use replication::{EpochId, SessionId, Term, VmId};

const USAGE: i32 = 2;
const CONFLICT: i32 = 4;

/// `vm` ends with `code`, and its log says each of `says`.
#[track_caller]
fn assert_refused(mut vm: Vm, code: i32, says: &[&str]) {
    let ended = vm.wait();
    let log = vm.log();
    assert_eq!(ended, code, "{log}");
    assert!(says.iter().all(|part| log.contains(part)), "{says:?}: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[track_caller]
fn wait_log(vm: &Vm, says: &[&str]) {
    let seen = wait::until_within(wait::PATIENCE, || says.iter().all(|part| vm.log().contains(part)).then_some(()));
    assert!(seen.is_some(), "{says:?}: {}", vm.log());
    assert!(!vm.log().contains("panicked"), "{}", vm.log());
}

/// The pair is whole, and survives the kill of its primary.
#[track_caller]
fn assert_protects(pair: &mut Pair, guest: &Guest) {
    pair.primary.wait_event("protected");
    pair.backup.wait_event("protected");
    let before = wait_progress(&pair.primary, guest, 10);
    pair.primary.kill();
    wait_value(&pair.backup, guest, before + 20);
    console::join(guest, &pair.primary.console(), &pair.backup.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The guest of `vm` goes on, and says what it should.
#[track_caller]
fn assert_unharmed(vm: &Vm, guest: &Guest) {
    wait_progress(vm, guest, 20);
    console::check(guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
}

fn link(name: &str) -> Link {
    Link { vm: VmId::of_name(name), session: SessionId([7; 16]), term: Term(1) }
}

/// The first bytes of a peer of another version.
fn frame_of_another_version(kind: Kind) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(&link(guests::place::NAME), kind, EpochId(0), b"", &mut frame);
    frame[4..6].copy_from_slice(&(PROTOCOL_VERSION + 1).to_le_bytes());
    frame
}

/// A kernel whose file ends too early.
fn cut(place: &Place, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = place.path(name);
    fs::write(&path, bytes).expect("the test's own file");
    path
}

#[test]
fn kernel_that_is_cut_off_is_refused_and_named() {
    needs!(Kvm);
    let place = Place::new();
    let whole = fs::read(Guest::counter().kernel()).expect("it was built");
    // Boot sector, four setup sectors, and no kernel behind them.
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    for (name, bytes) in
        [("cut-elf", &whole[..whole.len() / 3]), ("cut-header", &whole[..100]), ("cut-bzimage", &image)]
    {
        let kernel = cut(&place, name, bytes);
        let launch = Launch::new("run", &place.path(name).with_extension("d"));
        let vm = launch.with("--name", "cut").with("--memory", "32M").with("--kernel", &kernel).start();
        assert_refused(vm, USAGE, &[name, "bzImage"]);
    }
}

#[test]
fn disk_of_a_running_vm_is_a_conflict_that_names_it_and_its_guest_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::disk_journal(), Place::new());
    let vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 5);
    let other = Guest { disk_bytes: None, ..guest.clone() };
    let image = disk(&place.path("a.img"));
    assert_refused(place.alone("b", &other).with("--disk", &image).start(), CONFLICT, &["a.img", "in use by outlast"]);
    let backup = place.backup("c", &other).with("--disk", &image).start();
    assert_refused(backup, CONFLICT, &["a.img", "in use by outlast"]);
    assert_unharmed(&vm, &guest);
}

#[test]
fn tap_of_a_running_vm_is_a_conflict_and_a_missing_one_is_not_found() {
    needs!(Kvm, Root, Network);
    let (guest, place, network) = (Guest::counter(), Place::new(), Network::new(&["tap-a"]));
    let on =
        |side: &str, tap: &str| place.alone(side, &guest).with("--net", format!("tap={tap}")).within(network.name());
    let vm = on("a", "tap-a").start();
    wait_progress(&vm, &guest, 5);
    assert_refused(on("b", "tap-a").start(), CONFLICT, &["tap-a", "outlast"]);
    assert_refused(on("c", "tap-b").start(), 3, &["tap-b", "ip tuntap add tap-b mode tap"]);
    assert_unharmed(&vm, &guest);
}

#[test]
fn port_of_another_backup_is_a_conflict() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let backup = place.backup("b", &guest).start();
    let port = backup.port();
    assert_refused(place.backup_on("c", &guest, port).start(), CONFLICT, &[&port.to_string(), "--listen"]);
}

#[test]
fn garbage_for_a_backup_is_refused_and_a_proper_primary_is_welcome() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let backup = place.backup("b", &guest).start();
    let call = || TcpStream::connect(("127.0.0.1", backup.port())).expect("a backup listens");
    call()
        .write_all(b"GET / HTTP/1.1\r\nHost: outlast\r\nUser-Agent: a-stranger-with-a-long-name/1.0\r\n\r\n")
        .expect("sent");
    wait_log(&backup, &["does not speak Outlast", "check the address and port"]);
    call().write_all(&frame_of_another_version(Kind::Hello)).expect("sent");
    let versions = format!("protocol version {}, this binary speaks {PROTOCOL_VERSION}", PROTOCOL_VERSION + 1);
    wait_log(&backup, &[&versions, "the same release"]);
    let mut damaged = Vec::new();
    encode_frame(&link(guests::place::NAME), Kind::Hello, EpochId(0), &[0xff; 99], &mut damaged);
    *damaged.last_mut().expect("a frame") ^= 1;
    call().write_all(&damaged).expect("sent");
    wait_log(&backup, &["checksum"]);
    // Half a frame and the end; and half a frame from somebody who then says nothing more.
    let mut hello = Vec::new();
    encode_frame(&link(guests::place::NAME), Kind::Hello, EpochId(0), &[0; 99], &mut hello);
    call().write_all(&hello[..80]).expect("sent");
    let mut silent = call();
    silent.write_all(&hello[..100]).expect("sent");
    let primary = place.primary("a", &guest, backup.port()).start();
    let mut pair = Pair { primary, backup };
    assert_protects(&mut pair, &guest);
}

#[test]
fn garbage_while_protected_does_not_part_the_pair() {
    needs!(Kvm);
    let (guest, place) = (Guest::dirty(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    for bytes in [vec![0xa5; 4000], frame_of_another_version(Kind::Goodbye)] {
        let mut stranger = TcpStream::connect(("127.0.0.1", pair.backup.port())).expect("a backup listens");
        stranger.write_all(&bytes).expect("sent");
        let mut answer = Vec::new();
        // It is told that the place is taken, or cut off: both are fine, being listened to is not.
        if stranger.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
            assert!(String::from_utf8_lossy(&answer).contains("another primary is connected"));
        }
        wait_progress(&pair.primary, &guest, 20);
    }
    assert_eq!(pair.primary.count("solo"), 0);
    assert_protects(&mut pair, &guest);
}

#[test]
fn backup_that_sends_garbage_harms_no_guest_and_a_proper_one_follows() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let fake = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let primary = place.primary("a", &guest, fake.local_addr().expect("bound").port()).start();
    let mut half = Message::HelloAck(HelloAck { writer: "half".into(), place: None, nonce: None, holds: None })
        .to_frame(&link(guests::place::NAME), EpochId(0));
    half.truncate(90);
    let answers = [
        (vec![0x5a; 300], "does not speak Outlast"),
        (frame_of_another_version(Kind::HelloAck), "the same release"),
        (half, ""),
    ];
    for (answer, says) in answers {
        let (mut stream, _) = fake.accept().expect("the primary tries again");
        stream.write_all(&answer).expect("sent");
        wait_log(&primary, &[says]);
        drop(stream);
    }
    assert_unharmed(&primary, &guest);
    drop(fake);
    let backup = place.backup("b", &guest).start();
    let target = format!("tcp:127.0.0.1:{}", backup.port());
    wait::until("the primary is told of another backup", || (primary.ctl(&["protect", &target]).0 == 0).then_some(()));
    let mut pair = Pair { primary, backup };
    assert_protects(&mut pair, &guest);
}

#[test]
fn backup_of_another_vm_is_refused_and_both_say_why() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let launch = Launch::new("backup", &place.path("b")).with("--name", "another").with("--listen", "tcp:127.0.0.1:0");
    let backup = launch.with("--witness", place.witness_option()).start();
    let primary = place.primary("a", &guest, backup.port()).start();
    wait_log(&backup, &["check --name"]);
    wait_log(&primary, &["check --name"]);
    assert_unharmed(&primary, &guest);
}

#[test]
fn backup_with_other_disks_or_cards_is_refused_and_both_say_what_to_do() {
    needs!(Kvm);
    let guest = Guest::disk_journal();
    let bare = Guest { disk_bytes: None, ..guest.clone() };
    let smaller = Guest { disk_bytes: Some(1 << 20), ..guest.clone() };
    for (theirs, says) in [(&bare, "give it as many --disk"), (&smaller, "truncate -s 4194304")] {
        let place = Place::new();
        let backup = place.backup("b", theirs).start();
        let primary = place.primary("a", &guest, backup.port()).start();
        wait_log(&backup, &[says]);
        wait_log(&primary, &[says]);
        let reason = said!(primary, "solo", Solo { reason });
        assert!(reason.contains(says), "{reason}");
        assert_unharmed(&primary, &guest);
    }
}

#[test]
fn readonly_disk_that_differs_is_refused_by_name_and_the_same_one_is_welcome() {
    // Only the lengths were compared: after a takeover the guest would have read other data than before.
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let with = |launch: Launch, image: &Path| launch.with("--disk", format!("{},readonly=on", disk(image)));
    let (ours, theirs) = (place.image("ours.iso", 3 << 20), place.image("theirs.iso", 3 << 20));
    // In the last byte.
    let mut content = vec![0; 3 << 20];
    *content.last_mut().expect("three MiB") = 1;
    fs::write(&ours, &content).expect("the test's own image");
    let backup = with(place.backup("b", &guest), &theirs).start();
    let primary = with(place.primary("a", &guest, backup.port()), &ours).start();
    let says = ["copy disk 0", "theirs.iso"];
    wait_log(&backup, &says);
    wait_log(&primary, &says);
    assert_unharmed(&primary, &guest);
    assert_eq!((primary.count("protected"), backup.count("protected")), (0, 0));
    fs::write(&theirs, &content).expect("the test's own image");
    let mut pair = Pair { primary, backup };
    assert_protects(&mut pair, &guest);
}

#[test]
fn protect_that_is_refused_changes_nothing() {
    // The epoch length was changed before it was seen that the guest is protected already.
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    let length = |vm: &Vm| vm.primary().epochs.length_ms;
    let (code, said) = pair.primary.ctl(&["protect", "tcp:127.0.0.1:1", "--epoch", "70ms"]);
    assert_eq!(code, CONFLICT, "{said}");
    assert_eq!(length(&pair.primary), 20.0);
    pair.backup.kill();
    pair.primary.wait_state(PrimaryState::Solo);
    let (code, said) = pair.primary.ctl(&["protect", "tcp:127.0.0.1:1", "--epoch", "70ms"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(length(&pair.primary), 70.0);
}

#[test]
fn protect_by_the_backup_that_the_guest_has_already_is_no_error_and_says_what_is_under_way() {
    // A primary that connects again by itself said "syncing already" and ended the command with 4.
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let Pair { primary, mut backup } = Pair::start(&place, &guest);
    let port = backup.port();
    let protect = |port: u16| primary.ctl(&["protect", &format!("tcp:127.0.0.1:{port}"), "--epoch", "70ms"]);
    let (code, said) = protect(port);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("is protected by tcp:127.0.0.1"), "{said}");
    assert_eq!(primary.primary().epochs.length_ms, 70.0);
    let (code, said) = protect(1);
    assert_eq!(code, CONFLICT, "{said}");
    assert!(said.contains(&format!("protected by tcp:127.0.0.1:{port}")) && said.contains("unprotect"), "{said}");
    backup.kill();
    primary.wait_state(PrimaryState::Solo);
    primary.wait_event("backup-unreachable");
    let (code, said) = protect(port);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("already being retried"), "{said}");
    let backup = place.backup_on("b2", &guest, port).start();
    // At whatever moment of its filling.
    wait::until("the guest to be protected again", || {
        let (code, said) = protect(port);
        assert_eq!(code, 0, "{said}");
        (primary.count("protected") > 1).then_some(())
    });
    drop(backup);
}
