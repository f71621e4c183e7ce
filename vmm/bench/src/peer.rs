//! The backup of a measured machine: a process of its own, on this machine's loopback.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outlast_api::{Event, Occurrence};

use crate::cannot;
use protect::transport::Endpoint;
use vmm::exit::{Exit, Failure};

const START_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A running `outlast backup`. It ends with this value.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    port: u16,
}

/// What a backup needs to be like its primary.
#[derive(Debug)]
pub(crate) struct PeerSpec<'a> {
    /// Where its files go.
    pub(crate) dir: &'a Path,
    /// Name of the VM.
    pub(crate) vm_name: &'a str,
    /// Its image of the guest's disk.
    pub(crate) disk: Option<&'a Path>,
    /// Its tap for the guest's network card.
    pub(crate) tap: Option<&'a str>,
    /// Silence until it would take over: long, because a measured machine may be overloaded.
    pub(crate) detect: Duration,
}

impl Peer {
    /// Starts one and waits until it listens.
    pub(crate) fn start(spec: &PeerSpec<'_>) -> Result<Self, Failure> {
        let events = spec.dir.join("backup.events");
        match std::fs::remove_file(&events) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(cannot("remove", &events, &error));
            }
            _ => {}
        }
        let log_path = spec.dir.join("backup.log");
        let log = std::fs::File::create(&log_path).map_err(|error| cannot("make", &log_path, &error))?;
        let mut command = program()?;
        command.args(["backup", "--listen", "tcp:127.0.0.1:0", "--console", "off", "--name", spec.vm_name]);
        // As the primary beside it, which is in the program that measures.
        command.args(["--witness", "none"]);
        command.arg("--state-dir").arg(spec.dir.join("backup"));
        command.arg("--detect").arg(format!("{}ms", spec.detect.as_millis()));
        command.arg("--event-monitor").arg(format!("path={}", events.display()));
        if let Some(image) = spec.disk {
            command.arg("--disk").arg(format!("path={}", image.display()));
        }
        if let Some(tap) = spec.tap {
            command.arg("--net").arg(format!("tap={tap}"));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| Failure::new(Exit::Error, format!("cannot start a backup: {error}")))?;
        let mut peer = Self { child, port: 0 };
        peer.port = peer.wait_for_port(&events, &log_path)?;
        Ok(peer)
    }

    fn wait_for_port(&mut self, events: &Path, log: &Path) -> Result<u16, Failure> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(port) = std::fs::read_to_string(events).ok().and_then(|text| port_of(&text)) {
                return Ok(port);
            }
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > deadline {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(Failure::new(Exit::Error, format!("the backup does not listen; it said: {}", said.trim())));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp { host: "127.0.0.1".into(), port: self.port, is_clear: false }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `outlast`, which lies beside this program, to be ended by the kernel with the bench, where `setpriv` can ask for that: a
/// backup that survives the bench would take its guest over.
fn program() -> Result<Command, Failure> {
    let this = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Error, format!("cannot find the path of this program: {error}")))?;
    let this = this.with_file_name("outlast");
    if !this.is_file() {
        return Err(Failure::new(Exit::NotFound, format!("there is no {}", this.display()))
            .with_hint("the bench's backup is an `outlast` beside this program; `make build` makes both"));
    }
    let helper = ["--pdeathsig", "KILL"];
    let probe = Command::new("setpriv").args(helper).arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return Ok(Command::new(this));
    }
    let mut command = Command::new("setpriv");
    command.args(helper).arg(this);
    Ok(command)
}

/// The port that the event `waiting` names.
fn port_of(events: &str) -> Option<u16> {
    let events = events.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    let listen = events.into_iter().find_map(|event| match event.occurrence {
        Occurrence::Waiting { listen } => Some(listen),
        _ => None,
    });
    listen?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_half_written_events_is_none() {
        let line = r#"{"seq":0,"time_us":1,"event":"waiting","properties":{"listen":"tcp:127.0.0.1:4711"}}"#;
        assert_eq!(port_of(&format!("{line}\n")), Some(4711));
        assert_eq!(port_of(&line[..line.len() - 5]), None);
        assert_eq!(port_of(""), None);
    }
}
