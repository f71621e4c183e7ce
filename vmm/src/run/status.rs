//! What this process says of itself: `GET /vm` and `GET /ft`, in the words of the control interface. Metrics are made of the same.

use outlast_api::{BackupStatus, Config, EpochFigures, Host, Info, PrimaryStatus, RunState, Status};

use super::node::{Node, Role};
use super::{console, late};
use machine::Machine;
use protect::epoch::EpochMachine;
use replication::{EpochName, Term};

impl Node {
    pub(super) fn info(&self) -> Info {
        let state = match self.role() {
            Role::Backup(_) => RunState::Standby,
            Role::Primary { machine, .. } if machine.ended().is_some() => RunState::Ended,
            Role::Primary { machine, .. } => self.run_state(&machine),
        };
        let described = self.described();
        Info {
            id: described.name.clone(),
            state,
            vmm_version: env!("CARGO_PKG_VERSION").into(),
            app_name: "outlast".into(),
            config: config(&described.config),
        }
    }

    /// `Running`, or how far its operator's pause has come.
    fn run_state(&self, machine: &Machine) -> RunState {
        match (machine.is_paused(), self.is_pausing()) {
            (false, _) => RunState::Running,
            (true, true) => RunState::Pausing,
            (true, false) => RunState::Paused,
        }
    }

    pub(super) fn status(&self) -> Status {
        match self.role() {
            Role::Backup(view) => {
                let (following, now) = view.status();
                Status::Backup(Box::new(BackupStatus { following, host: self.host(true, Vec::new(), now) }))
            }
            Role::Primary { machine, guardian } => {
                let (protecting, mut now) = guardian.status();
                now.extend(late::warning(&machine));
                // A guest that is alone and not protected writes to its images directly.
                let waits_for_log = protecting.target.is_some() || protecting.local.is_some();
                let health = machine.egress().console_health();
                let host = self.host(waits_for_log, console::warnings(&health), now);
                let (epochs, console) = (epoch_figures(&machine, guardian.branch()), console::status(health));
                Status::Primary(Box::new(PrimaryStatus { protecting, epochs, console, host }))
            }
        }
    }

    /// What is said of this host. `now`: what there is to warn of at this moment, behind all else.
    fn host(&self, waits_for_log: bool, of_console: Vec<String>, now: Vec<String>) -> Host {
        let described = self.described();
        let files = described.files.warnings(waits_for_log);
        Host {
            name: described.name.clone(),
            disk_log: described.files.disk_log.clone(),
            incident: self.incident().map(Into::into),
            warnings: [described.warnings.clone(), files, of_console, now].concat(),
        }
    }
}

/// A configuration as it was written to `vm.json`.
fn config(written: &serde_json::Value) -> Config {
    serde_json::from_value(written.clone()).expect("a configuration is an object whose places are texts")
}

fn epoch_figures(machine: &EpochMachine, branch: Term) -> EpochFigures {
    let (running, capture) = {
        let epochs = machine.epochs();
        (epochs.running(), epochs.capture_status())
    };
    EpochFigures {
        running: running.0,
        running_id: EpochName { branch: Some(branch), count: running }.to_string(),
        capture,
        length_ms: machine.pacer().length().as_secs_f64() * 1e3,
        held_bytes: machine.egress().held_bytes() as u64,
        gate_rekicks: machine.gate().kicked_again(),
        counts: machine.stats().counts(),
        distributions: machine.stats().distributions(),
    }
}
