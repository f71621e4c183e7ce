//! A guest on a network loses its host: its clients are answered by the backup, and no answer contradicts another.

use std::io::pipe;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guests::echo::Client;
use guests::network::Network;
use guests::{Guest, Launch, Pair, Place, Seed, Vm, needs, wait};

const SELF_FENCED: i32 = 160;

/// Both sides with a tap each on one bridge, protected, and a client that was answered.
fn pair(place: &Place, network: &Network) -> (Pair, Client) {
    let on = |launch: Launch, tap: &str| launch.with("--net", format!("tap={tap}")).within(network.name());
    let guest = Guest::net_echo();
    let backup = on(place.backup("b", &guest), "tap-b").start();
    let primary = on(place.primary("a", &guest, backup.port()), "tap-a").start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    let mut client = Client::new(network.socket());
    client.ask(1);
    (Pair { primary, backup }, client)
}

/// Kills `vm` after some microseconds, while requests are on their way in and replies are held; gives the longest
/// silence.
fn kill_while_asking(vm: &mut Vm, client: &mut Client, after_us: u64) -> Duration {
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            std::thread::sleep(Duration::from_micros(after_us));
            vm.kill();
        });
        let mut silence = Duration::ZERO;
        while !killer.is_finished() {
            silence = silence.max(client.ask_again(1));
        }
        silence
    })
}

#[test]
fn kill_primary_clients_are_answered_on_and_no_count_is_given_twice() {
    needs!(Kvm, Root, Network);
    let mut seed = Seed::new();
    for _ in 0..4 {
        let (place, network) = (Place::new(), Network::new(&["tap-a", "tap-b"]));
        let (mut pair, mut client) = pair(&place, &network);
        client.ask_again(10 + seed.below(30));
        let silence = kill_while_asking(&mut pair.primary, &mut client, seed.below(30_000)).max(client.ask_again(40));
        println!("{} counts, longest silence {} ms", client.answers(), silence.as_millis());
        assert_eq!(pair.backup.count("failover-finished"), 1);
        assert_eq!(pair.backup.ctl(&["stop"]).0, 0);
        assert_eq!(pair.backup.wait(), 0);
    }
}

#[test]
fn hung_primary_that_comes_back_answers_nobody_any_more() {
    needs!(Kvm, Root, Network);
    let (place, network) = (Place::new(), Network::new(&["tap-a", "tap-b"]));
    let (mut pair, mut client) = pair(&place, &network);
    client.ask_again(20);
    pair.primary.hang();
    client.ask_again(20);
    pair.primary.unhang();
    client.ask_again(20);
    assert_eq!(pair.primary.wait(), SELF_FENCED);
    assert_eq!(pair.backup.count("failover-finished"), 1);
    client.ask_again(1);
}

/// Whether what is behind a tap sees that somebody has it. One that nobody has at all cannot be asked.
fn has_carrier(network: &Network, tap: &str) -> bool {
    let shown = Command::new("ip").args(["-n", network.name(), "-o", "link", "show", tap]).output();
    let shown = String::from_utf8(shown.expect("`ip` was there a moment ago").stdout).expect("`ip` says words");
    assert!(shown.contains(tap), "{shown}");
    !shown.contains("NO-CARRIER")
}

/// The ends of both processes wait for a console that nobody reads. The fenced one's tap is down before that: no switch sends
/// it anything, and a link that is watched goes over to another.
#[test]
fn fenced_primary_has_no_carrier_while_its_process_is_still_there() {
    needs!(Kvm, Root, Network);
    let (place, network) = (Place::new(), Network::new(&["tap-a", "tap-b"]));
    let on = |launch: Launch, tap: &str| launch.with("--net", format!("tap={tap}")).within(network.name());
    let guest = Guest { cmdline: "every=1".into(), ..Guest::counter() };
    let backup = on(place.backup("b", &guest), "tap-b").start();
    let (_reader, writer) = pipe().expect("a pipe");
    let mut primary = on(place.primary("a", &guest, backup.port()), "tap-a").console_on(writer).start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    // The pipe is full.
    wait::until("a console that takes nothing", || (console_bytes(&primary) > (64 << 10)).then_some(()));
    primary.hang();
    backup.wait_event("failover-finished");
    assert!(has_carrier(&network, "tap-a") && has_carrier(&network, "tap-b"));
    primary.unhang();
    primary.wait_event("fenced");
    assert!(!has_carrier(&network, "tap-a"), "the port of a fenced primary is up");
    assert!(primary.is_running(), "it waits for its console");
    assert!(has_carrier(&network, "tap-b"));
    assert_eq!(primary.wait(), SELF_FENCED, "{}", primary.log());
}

fn console_bytes(vm: &Vm) -> u64 {
    vm.counts().console_bytes
}

#[test]
fn kill_backup_clients_are_answered_on() {
    needs!(Kvm, Root, Network);
    let (place, network) = (Place::new(), Network::new(&["tap-a", "tap-b"]));
    let (mut pair, mut client) = pair(&place, &network);
    client.ask_again(20);
    pair.backup.kill();
    client.ask_again(20);
    pair.primary.wait_event("solo");
    client.ask_again(1);
}

/// Sends frames that the guest takes and ignores, one after the other, for as long as `work` lasts.
fn under_frames<R>(network: &Network, work: impl FnOnce() -> R) -> R {
    let (socket, done) = (network.socket(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                // The pace of the load: fewer than the guest has buffers for, so that each frame is taken.
                std::thread::sleep(Duration::from_millis(2));
                let _ = socket.send_to(&[0; 64], IGNORED);
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        result
    })
}

/// A port of the guest's on which nobody answers.
const IGNORED: &str = "10.77.0.10:9";

/// Frames that came while a paused guest was being saved went into memory that was still to be written, after the state
/// of the card was: restored, the card and the driver did not agree on the queue, and the guest heard nothing any more.
#[test]
fn snapshot_under_traffic_is_of_one_instant_and_the_restored_guest_answers() {
    needs!(Kvm, Root, Network);
    let (place, network) = (Place::in_memory(), Network::new(&["tap-a"]));
    // Memory that takes a while to write.
    let guest = Guest { memory_mib: 512, ..Guest::net_echo() };
    let mut vm = place.alone("a0", &guest).with("--net", "tap=tap-a").within(network.name()).start();
    let mut client = Client::new(network.socket());
    for hop in 1..4 {
        client.ask_again(10);
        let snapshot = place.path(&format!("snapshot-{hop}"));
        assert_eq!(vm.ctl(&["pause"]).0, 0);
        let (code, said) = under_frames(&network, || vm.ctl(&["snapshot", "create", &snapshot.display().to_string()]));
        assert_eq!(code, 0, "{said}");
        vm.kill();
        let dir = place.path(&format!("a{hop}"));
        let restored = Launch::new("run", &dir).with("--name", guests::place::NAME).with("--restore", &snapshot);
        vm = restored.with("--net", "tap=tap-a").within(network.name()).start();
        vm.wait_event("paused");
        assert_eq!(vm.ctl(&["resume"]).0, 0);
    }
    client.ask_again(10);
}
