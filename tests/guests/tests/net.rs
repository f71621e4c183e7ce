//! A guest on a network loses its host: its clients are answered by the backup, and no answer contradicts another.

use std::time::Duration;

use guests::echo::Client;
use guests::network::Network;
use guests::{Guest, Launch, Pair, Place, Seed, Vm, needs};

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
