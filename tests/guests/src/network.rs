//! A network of the test's own: a namespace with a bridge, a tap for each host, and a client's sockets.

use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Address of the client.
pub const CLIENT: &str = "10.77.0.1";

/// A namespace with one bridge; it goes away with this value.
#[derive(Debug)]
pub struct Network {
    name: String,
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("`ip` was there a moment ago");
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// A bridge with the client's address, and a tap for each of `taps`.
    pub fn new(taps: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("outlast-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let network = Self { name };
        network.ip(&["link", "set", "lo", "up"]);
        network.ip(&["link", "add", "br0", "type", "bridge", "forward_delay", "0"]);
        network.ip(&["addr", "add", &format!("{CLIENT}/24"), "dev", "br0"]);
        network.ip(&["link", "set", "br0", "up"]);
        for tap in taps {
            network.ip(&["tuntap", "add", tap, "mode", "tap"]);
            network.ip(&["link", "set", tap, "master", "br0", "up"]);
        }
        network
    }

    /// `ip` in the namespace.
    pub fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.name], args].concat());
    }

    /// Makes its loopback as slow as a link of `mbit`.
    pub fn slow_down(&self, mbit: u32) {
        let rate = format!("{mbit}mbit");
        let tbf = ["qdisc", "add", "dev", "lo", "root", "tbf", "rate", &rate, "burst", "256kb", "latency", "200ms"];
        let output = Command::new("tc").args(["-n", &self.name]).args(tbf).output().expect("`tc` comes with `ip`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client's socket in it.
    pub fn socket(&self) -> UdpSocket {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace was made");
        // A socket stays where it was made, a thread where it was moved: so the thread is one of its own.
        let made = std::thread::spawn(move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
                .expect("root may enter its own namespace");
            UdpSocket::bind((CLIENT, 0)).expect("the client's address is on the bridge")
        });
        made.join().expect("a socket could be made in the namespace")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("the namespace {} could not be removed", self.name);
        }
    }
}
