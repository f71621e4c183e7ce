//! etcd clusters for tests, on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

#[cfg(test)]
use super::Target;
use super::gateway::{Gateway, read};
use super::message::{Status, encode};
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
    credentials: Option<PathBuf>,
}

/// Whom a cluster lets in.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// A TLS directory whose server's certificate the members show; clients find theirs there too.
    pub tls: Option<PathBuf>,
    /// The members ask clients for certificates.
    pub asks_for_certificates: bool,
    /// For how many seconds a token is good.
    pub token_secs: Option<u32>,
}

impl Guards {
    fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = Vec::new();
        if let Some(dir) = &self.tls {
            let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
            options.extend([("--cert-file", path("server-cert.pem")), ("--key-file", path("server-key.pem"))]);
            // With this they ask, even without the flag.
            options.extend(self.asks_for_certificates.then(|| ("--trusted-ca-file", path("ca-cert.pem"))));
        }
        options.extend(self.token_secs.map(|secs| ("--auth-token-ttl", secs.to_string())));
        options
    }
}

impl EtcdServer {
    /// Whether there is an etcd to start.
    pub fn is_there() -> bool {
        Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }

    /// Starts a cluster of `count` members, whose files are in `dir`, and waits until it writes.
    pub fn start(dir: &Path, count: usize) -> Self {
        Self::start_guarded(dir, count, &Guards::default())
    }

    /// The same of a cluster that does not let everybody in.
    pub fn start_guarded(dir: &Path, count: usize, guards: &Guards) -> Self {
        std::fs::create_dir_all(dir).expect("a directory of the test");
        // Held until all are known, so that no two are the same.
        let held: Vec<_> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let urls: Vec<String> =
            held.iter().map(|port| format!("http://{}", port.local_addr().expect("it is bound"))).collect();
        drop(held);
        let (clients, peers) = urls.split_at(count);
        let scheme = if guards.tls.is_some() { "https" } else { "http" };
        let clients: Vec<_> = clients.iter().map(|url| url.replacen("http", scheme, 1)).collect();
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
            let flags = guards.asks_for_certificates.then(|| "--client-cert-auth".to_owned());
            let options = options.into_iter().chain(guards.options());
            options.flat_map(|(option, value)| [option.to_owned(), value]).chain(flags).collect()
        };
        let commands = (0..count).map(command).collect();
        let mut server = Self {
            members: (0..count).map(|_| None).collect(),
            commands,
            addresses: clients,
            dir: dir.into(),
            credentials: guards.tls.clone(),
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
            let status: Status = self.post(address, "maintenance/status", &json!({}));
            status.leader == status.header.member_id
        };
        self.addresses.iter().position(leads).expect("one leads")
    }

    /// Lets only the user `root` in from now on, who may do everything, and `user`, who may read and write the keys that begin with
    /// `prefix`.
    pub fn enable_users(&self, root: &str, (user, password): (&str, &str), prefix: &str) {
        let post = |path: &str, request: Value| self.post::<Value>(&self.addresses[0], path, &request);
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let keys = json!({ "permType": "READWRITE", "key": encode(prefix), "range_end": encode(end) });
        post("auth/user/add", json!({ "name": "root", "password": root }));
        post("auth/user/grant", json!({ "user": "root", "role": "root" }));
        post("auth/user/add", json!({ "name": user, "password": password }));
        post("auth/role/add", json!({ "name": "outlast" }));
        post("auth/role/grant", json!({ "name": "outlast", "perm": keys }));
        post("auth/user/grant", json!({ "user": user, "role": "outlast" }));
        post("auth/enable", json!({}));
    }

    /// How many requests about keys all members have done since they were started, as they count them themselves.
    pub fn requests(&self) -> u64 {
        let count = |address: &String| -> u64 {
            let mut answer = ureq::get(format!("{address}/metrics")).call().expect("it answers");
            let text = answer.body_mut().read_to_string().expect("text");
            let of_keys = |line: &&str| {
                line.starts_with("grpc_server_handled_total{") && line.contains("grpc_service=\"etcdserverpb.KV\"")
            };
            let counts = text.lines().filter(of_keys).filter_map(|line| line.rsplit_once(' '));
            counts.map(|(_, count)| count.parse::<u64>().expect("a number")).sum()
        };
        self.addresses.iter().map(count).sum()
    }

    /// What a member answers.
    fn post<T: for<'de> Deserialize<'de>>(&self, address: &str, path: &str, request: &Value) -> T {
        let bytes = self.gateway_at(address).ask(0, path, request).expect("it answers");
        read(address, &bytes).expect("JSON of etcd")
    }

    /// What is typed for it as a witness.
    pub fn option(&self) -> String {
        format!("etcd:{}", self.target_of(&self.addresses.join(",")))
    }

    fn target_of(&self, addresses: &str) -> String {
        match &self.credentials {
            Some(dir) => format!("{addresses},credentials={}", dir.display()),
            None => addresses.to_owned(),
        }
    }

    /// All of its addresses.
    #[cfg(test)]
    pub(super) fn all(&self) -> Target {
        self.target_of(&self.addresses.join(",")).parse().expect("addresses")
    }

    fn gateway_at(&self, address: &str) -> Gateway {
        Gateway::new(self.target_of(address).parse().expect("an address")).expect("what it asks for is there")
    }

    /// Until every member that runs writes.
    pub fn wait_up(&self) {
        let begun = Instant::now();
        for (address, _) in self.addresses.iter().zip(&self.members).filter(|(_, member)| member.is_some()) {
            while let Err(error) = Cluster::new(self.gateway_at(address)).probe() {
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
