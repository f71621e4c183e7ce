//! etcd clusters for tests, on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(test)]
use super::Addresses;
use super::{Cluster, Store};

/// Long enough for three members on a busy machine.
const UP_TIME_MAX: Duration = Duration::from_secs(60);

/// A cluster that runs until it is dropped.
#[derive(Debug)]
pub struct EtcdServer {
    members: Vec<Option<Child>>,
    commands: Vec<Vec<String>>,
    pub(super) addresses: Vec<String>,
    dir: PathBuf,
}

impl EtcdServer {
    /// Whether there is an etcd to start.
    pub fn is_there() -> bool {
        Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// Starts a cluster of `count` members, whose files are in `dir`, and waits until it writes.
    pub fn start(dir: &Path, count: usize) -> Self {
        std::fs::create_dir_all(dir).expect("a directory of the test");
        // Held until all are known, so that no two are the same.
        let held: Vec<_> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let urls: Vec<String> =
            held.iter().map(|port| format!("http://{}", port.local_addr().expect("it is bound"))).collect();
        drop(held);
        let (clients, peers) = urls.split_at(count);
        let named: Vec<String> = peers.iter().enumerate().map(|(n, peer)| format!("n{n}={peer}")).collect();
        let command = |n: usize| {
            let data = dir.join(format!("n{n}"));
            let options = [
                ("--name", format!("n{n}")),
                ("--data-dir", data.to_string_lossy().into_owned()),
                ("--listen-client-urls", clients[n].clone()),
                ("--advertise-client-urls", clients[n].clone()),
                ("--listen-peer-urls", peers[n].clone()),
                ("--initial-advertise-peer-urls", peers[n].clone()),
                ("--initial-cluster", named.join(",")),
                ("--initial-cluster-token", dir.to_string_lossy().into_owned()),
            ];
            options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
        };
        let commands = (0..count).map(command).collect();
        let mut server = Self {
            members: (0..count).map(|_| None).collect(),
            commands,
            addresses: clients.to_vec(),
            dir: dir.into(),
        };
        (0..count).for_each(|member| server.revive(member));
        server.wait_up();
        server
    }

    /// Starts a member that is down.
    pub fn revive(&mut self, member: usize) {
        let log = std::fs::File::create(self.dir.join(format!("log{member}"))).expect("made");
        let child = Command::new("etcd").args(&self.commands[member]).stdout(Stdio::null()).stderr(log).spawn();
        self.members[member] = Some(child.expect("started"));
    }

    /// Kills a member.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().expect("it runs");
            child.wait().expect("it is ours");
        }
    }

    /// Stops a member where it is: it takes connections and answers none.
    pub fn hang(&self, member: usize) {
        self.send(member, "-STOP");
    }

    /// Lets it continue.
    pub fn unhang(&self, member: usize) {
        self.send(member, "-CONT");
    }

    fn send(&self, member: usize, signal: &str) {
        let child = self.members[member].as_ref().expect("it runs");
        let done = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(done.expect("there is a kill").success());
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        let leads = |address: &String| {
            let status = self.cluster_at(address).post_to(address, "maintenance/status", b"{}").expect("it answers");
            let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
            status["leader"] == status["header"]["member_id"]
        };
        self.addresses.iter().position(leads).expect("one leads")
    }

    /// What is typed for it as a witness.
    pub fn option(&self) -> String {
        format!("etcd:{}", self.addresses.join(","))
    }

    /// All of its addresses.
    #[cfg(test)]
    pub(super) fn all(&self) -> Addresses {
        self.addresses.join(",").parse().expect("addresses")
    }

    fn cluster_at(&self, address: &str) -> Cluster {
        Cluster::new(address.parse().expect("an address"))
    }

    /// Until every member that runs writes.
    pub fn wait_up(&self) {
        let begun = Instant::now();
        for (address, _) in self.addresses.iter().zip(&self.members).filter(|(_, member)| member.is_some()) {
            while let Err(error) = self.cluster_at(address).probe() {
                assert!(begun.elapsed() < UP_TIME_MAX, "etcd does not come up: {error}");
                thread::yield_now();
            }
        }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
