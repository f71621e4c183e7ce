//! Backups whose filling makes no progress, or does not begin: what is reported, and that it is tried again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use guests::echo::Client;
use guests::network::Network;
use guests::place::{newest_record, wait_progress};
use guests::{Guest, Launch, Place, Vm, needs, said, wait};
use outlast_api::{Filling, PrometheusText, verbs};
use replication::wire::{Hello, Kind, Link, MachineInfo, Message};
use replication::{EpochId, FrameDecoder, SessionId, Term, VmId};

/// Told after four times this, given up after twenty times.
const DETECT: &str = "300ms";
const INCOMPATIBLE: i32 = 163;

#[test]
fn filling_that_does_not_get_on_names_its_phase_ends_and_is_tried_again() {
    // A primary stayed in `resync-started` for as long as it ran, and nothing said what it waited for.
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::disk_journal());
    let backup = place.backup("b", &guest).instead("--detect", DETECT).start();
    let primary = place.primary("a", &guest, backup.port()).instead("--detect", DETECT);
    let primary = primary.environment("OUTLAST_SLOW_AT", "ImageSync:1:9000").start();
    assert_eq!(said!(primary, "resync-stalled", ResyncStalled { phase }), "sync");
    let filling = primary.protecting().filling.expect("it is under way");
    assert!(filling.phase == "sync" && filling.idle_ms >= 1000, "{filling:?}");
    wait_progress(&primary, &guest, 10);
    assert_eq!(said!(primary, "resync-failed", ResyncFailed { phase }), "sync");
    let said = said!(primary, "solo", Solo { reason });
    assert!(said.contains("sync"), "{said}");
    primary.wait_event("protected");
    backup.wait_event("protected");
    assert_eq!(primary.protecting().filling, None);
    assert!(primary.count("resync-started") > 1);
}

/// Says Hello for a machine that runs nowhere; whether the answer is no.
fn is_refused(port: u16, session: u8) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let vm = VmId::of_name(guests::place::NAME);
    let link = Link { vm, session: SessionId([session; 16]), term: Term(1) };
    let vm_name = guests::place::NAME.into();
    let hello =
        Hello { register: None, writer: "test".into(), vm_name, durable: true, machine: MachineInfo::default() };
    stream.write_all(&Message::Hello(hello).to_frame(&link, EpochId(0))).expect("it reads");
    let mut answer = Vec::new();
    // A reset comes after the answer at the earliest.
    let _ = stream.read_to_end(&mut answer);
    let mut decoder = FrameDecoder::new(vm);
    decoder.handle_bytes(&answer);
    decoder.poll_frame().expect("whole frames").is_some_and(|frame| frame.kind == Kind::Refuse)
}

#[test]
fn primary_that_is_refused_again_and_again_is_told_of_once() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::counter());
    let backup = place.backup("b", &guest).start();
    let refused = (1..=5).filter(|session| is_refused(backup.port(), *session)).count();
    assert!(refused > 2, "{refused} were: {}", backup.log());
    assert_eq!((backup.count("refused"), backup.count("discarded")), (1, 1), "{}", backup.log());
    assert_eq!(backup.following().peer_errors, 0);
}

/// Asks while the backup is filled; gives the statuses that were seen in rounds of memory, and how many requests were answered.
fn ask_while_filled(primary: &Vm, client: &mut Client) -> (Vec<Filling>, u64) {
    let (mut seen, mut answered) = (Vec::new(), 0);
    while primary.count("resync-finished") == 0 {
        client.ask(1);
        answered += 1;
        seen.extend(primary.protecting().filling.filter(|filling| filling.phase == "memory"));
    }
    (seen, answered)
}

#[test]
fn guest_that_writes_faster_than_the_link_answers_meanwhile_and_is_protected_in_bounded_rounds() {
    // Its rounds went on until there had been twelve, and all that it wrote in the last was left to the base; nobody could see
    // how far it was.
    needs!(Kvm, Root, Network);
    let (place, network, guest) = (Place::in_memory(), Network::new(&["tap-a", "tap-b"]), Guest::busy_net_echo(64));
    network.slow_down(400);
    let on = |launch: guests::Launch, tap: &str| launch.with("--net", format!("tap={tap}")).within(network.name());
    let backup = on(place.backup("b", &guest), "tap-b").start();
    let mut primary = on(place.primary("a", &guest, backup.port()), "tap-a").start();
    primary.wait_event("resync-started");
    let mut client = Client::new(network.socket());
    let (seen, answered) = ask_while_filled(&primary, &mut client);
    assert!(answered > 0);
    let is_whole =
        |Filling { figures, .. }: &Filling| figures.bytes_per_s.is_some() && figures.dirty_bytes_per_s.is_some();
    assert!(seen.iter().any(is_whole), "{seen:?}");
    let throttled = |filling: &&Filling| filling.figures.guest_percent < 100;
    let shown = seen.iter().find(throttled).unwrap_or_else(|| panic!("{seen:?}"));
    assert!(shown.doing.contains("throttling the guest to"), "{shown:?}");
    assert!(said!(primary, "resync-diverging", ResyncDiverging { guest_percent }) < 100);
    let end = said!(primary, "resync-finished", ResyncFinished { end });
    assert!(["throttled", "long-pause"].contains(&&*end.expect("rounds end for a reason")));
    assert!(said!(primary, "resync-finished", ResyncFinished { rounds }) <= 30);
    backup.wait_event("protected");
    primary.wait_event("protected");
    let PrometheusText(metrics) = primary.client().call::<verbs::GetMetrics>(&()).expect("it runs");
    assert!(metrics.contains("outlast_guest_share_ratio{vm=\"guest\"} 1\n"), "the guest has its time again");
    client.ask_again(5);
    primary.kill();
    client.ask_again(5);
}

/// The operator who named the primary as dead there got a guest with parts of two disks.
#[test]
fn half_filled_image_boots_nobody_until_it_is_filled_again() {
    needs!(Kvm);
    let (place, guest) = (Place::new(), Guest::disk_journal());
    let (image, note) = (place.path("b.img"), place.path("b.img.filling"));
    let durable = |launch: Launch| launch.with("--commit-durability", "disk");
    // The replica is of something else, and what is filled in is not synced for long.
    let backup = place.backup("b", &guest);
    fs::write(&image, vec![7; guest.disk_bytes.expect("it has a disk") as usize]).expect("the test's own image");
    let mut backup = backup.environment("OUTLAST_SLOW_AT", "ImageSync:1:60000").start();
    let port = backup.port();
    let mut primary = durable(place.primary("a", &guest, port)).start();
    wait::until("the filling", || note.exists().then_some(()));
    backup.kill();
    primary.kill();
    let start_there = || {
        let primary = newest_record(&place.witness())["primary"]["id"].as_str().expect("an id").to_owned();
        place.alone("b", &guest).with("--witness", place.witness_option()).with("--dead", &primary[..8])
    };
    let before = newest_record(&place.witness());
    let said = start_there().refused(INCOMPATIBLE);
    assert!(
        said.contains("b.img is half filled") && said.contains("hint: the whole image is on the host of"),
        "{said}"
    );
    assert!(said.contains(&format!("remove {}", note.display())), "{said}");
    assert_eq!(newest_record(&place.witness()), before, "the witness was not asked for the guest");
    let mut backup = place.backup_on("b", &guest, port).start();
    let mut primary = durable(place.primary("a", &guest, port)).start();
    primary.wait_event("protected");
    assert!(!note.exists(), "it ends before it is acked");
    backup.kill();
    primary.kill();
    let vm = start_there().start();
    wait_progress(&vm, &guest, 20);
}
