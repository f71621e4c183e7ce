//! The node: what the control interface talks to, in whichever role this process is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::console;
use super::files::Files;
use super::incident::{Incident, IncidentFile};
use super::{late, metrics};
use crate::api::{ApiError, ApiHandler, ProtectRequest, SnapshotRequest, TakeOverRequest};
use crate::config::{EpochLength, Protect, TimeSpan};
use crate::exit::{Exit, Failure};
use machine::checkpoint::CheckpointFailure;
use machine::gate::NotHeld;
use machine::{End, Machine};
use protect::Guardian;
use protect::backup::StandbyView;
use protect::epoch::EpochMachine;
use protect::events::{Event, Events};

/// How long a snapshot waits for the guest to stop: shorter than `outlast ctl` waits for its answer.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Role {
    Backup(Arc<StandbyView>),
    Primary { machine: EpochMachine, guardian: Arc<Guardian> },
}

/// This process, for the control interface.
#[derive(Debug)]
pub(super) struct Node {
    described: Described,
    role: Mutex<Role>,
    events: Arc<Events>,
    /// The guest stands still and its pause is not committed yet.
    is_pausing: AtomicBool,
}

/// What was configured.
#[derive(Debug)]
pub(super) struct Described {
    /// Name of the VM.
    pub(super) name: String,
    /// All of it, readable.
    pub(super) config: Value,
    /// What is allowed but risky about it.
    pub(super) warnings: Vec<String>,
    /// Crashes of its guest.
    pub(super) incident: IncidentFile,
    /// No witness was named at its start: it takes no backup.
    pub(super) lacks_witness: bool,
    /// What it keeps on this host.
    pub(super) files: Files,
}

impl Node {
    pub(super) fn primary(
        described: Described,
        machine: EpochMachine,
        guardian: Arc<Guardian>,
        events: Arc<Events>,
    ) -> Arc<Self> {
        Self::new(described, Role::Primary { machine, guardian }, events)
    }

    pub(super) fn backup(described: Described, view: Arc<StandbyView>, events: Arc<Events>) -> Arc<Self> {
        Self::new(described, Role::Backup(view), events)
    }

    fn new(described: Described, role: Role, events: Arc<Events>) -> Arc<Self> {
        Arc::new(Self { described, role: Mutex::new(role), events, is_pausing: AtomicBool::new(false) })
    }

    /// The backup took over.
    pub(super) fn promote(&self, machine: EpochMachine, guardian: Arc<Guardian>) {
        *self.role.lock().expect("no holder of the role panics") = Role::Primary { machine, guardian };
    }

    /// What protects the machine, if one runs here.
    pub(super) fn guardian(&self) -> Option<Arc<Guardian>> {
        match self.role() {
            Role::Primary { guardian, .. } => Some(guardian),
            Role::Backup(_) => None,
        }
    }

    /// The machine, if one runs here.
    pub(super) fn machine(&self) -> Option<EpochMachine> {
        match self.role() {
            Role::Primary { machine, .. } => Some(machine),
            Role::Backup(_) => None,
        }
    }

    /// What is kept on this host, and where to tell of it.
    pub(super) fn files(&self) -> (&Files, &Events) {
        (&self.described.files, &self.events)
    }

    /// The crash that is being dealt with, or was last. A file that cannot be read is named when it is needed.
    fn incident(&self) -> Option<Incident> {
        self.described.incident.read().ok().flatten()
    }

    /// The role of this moment. Its lock is let go: whatever the caller does and waits for, others can ask and stop meanwhile.
    fn role(&self) -> Role {
        self.role.lock().expect("no holder of the role panics").clone()
    }

    /// `Running`, or how far its operator's pause has come.
    fn run_state(&self, machine: &Machine) -> &'static str {
        match (machine.is_paused(), self.is_pausing.load(Ordering::Acquire)) {
            (false, _) => "Running",
            (true, true) => "Pausing",
            (true, false) => "Paused",
        }
    }

    /// The guest that runs here, and who protects it.
    pub(super) fn guest(&self) -> Option<(EpochMachine, Arc<Guardian>)> {
        match self.role() {
            Role::Primary { machine, guardian, .. } => Some((machine, guardian)),
            Role::Backup(_) => None,
        }
    }

    fn running(&self) -> Result<(EpochMachine, Arc<Guardian>), ApiError> {
        match self.role() {
            Role::Primary { machine, guardian, .. } => Ok((machine, guardian)),
            Role::Backup(_) => {
                Err(ApiError::conflict(format!("{} does not run here: this is its backup", self.described.name))
                    .with_hint("ask the primary; `outlast ctl status` here tells how far the backup is"))
            }
        }
    }
}

impl ApiHandler for Arc<Node> {
    fn info(&self) -> Value {
        let state = match self.role() {
            Role::Backup(_) => "Standby",
            Role::Primary { machine, .. } if machine.ended().is_some() => "Ended",
            Role::Primary { machine, .. } => self.run_state(&machine),
        };
        json!({ "id": self.described.name, "state": state, "vmm_version": env!("CARGO_PKG_VERSION"), "app_name": "outlast", "config": self.described.config })
    }

    fn status(&self) -> Value {
        let (mut status, of_console) = match self.role() {
            Role::Backup(view) => (view.status(), Vec::new()),
            Role::Primary { machine, guardian, .. } => {
                let mut status = guardian.status();
                status["epochs"] = metrics::epochs(&machine);
                let health = machine.egress().console_health();
                status["console"] = console::status(&health);
                (status, console::warnings(&health))
            }
        };
        status["name"] = json!(self.described.name);
        // A guest that is alone and not protected writes to its images directly.
        let waits_for_log = status["role"] == "backup" || !status["target"].is_null() || !status["local"].is_null();
        let files = self.described.files.warnings(waits_for_log);
        // Those of the moment come with the rest of the status.
        let mut now = serde_json::from_value::<Vec<String>>(status["warnings"].take()).unwrap_or_default();
        now.extend(self.machine().as_deref().and_then(late::warning));
        status["warnings"] = json!([self.described.warnings.clone(), files, of_console, now].concat());
        status["disk_log"] = self.described.files.disk_log.clone();
        status["incident"] = json!(self.incident());
        status
    }

    fn pause(&self) -> Result<(), ApiError> {
        let (machine, guardian) = self.running()?;
        if machine.is_paused() {
            return Ok(());
        }
        self.is_pausing.store(true, Ordering::Release);
        let paused = guardian.pause();
        self.is_pausing.store(false, Ordering::Release);
        paused.map_err(Failure::from)?;
        self.events.note("paused", json!({ "by": "operator" }));
        Ok(())
    }

    fn resume(&self) -> Result<(), ApiError> {
        let (machine, guardian) = self.running()?;
        if machine.is_paused() {
            self.events.note("unpaused", json!({}));
            guardian.unpause().map_err(Failure::from)?;
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), ApiError> {
        match self.role() {
            Role::Primary { machine, .. } => machine.end(End::Stopped),
            Role::Backup(view) => view.stop(),
        }
        Ok(())
    }

    fn snapshot_create(&self, request: SnapshotRequest) -> Result<Value, ApiError> {
        let (machine, guardian) = self.running()?;
        // Before the guest stands still for it.
        let place = machine.prepare_checkpoint(&request.snapshot_path).map_err(Failure::from)?;
        let started = Instant::now();
        let held = machine.gate().hold_until(started + STOP_TIME_MAX).map_err(|not_held| match not_held {
            NotHeld::Ended => ApiError::conflict("the machine has ended"),
            NotHeld::TooLate => Failure::new(
                Exit::Timeout,
                format!("no snapshot was made: within {} s the guest could not be stopped", STOP_TIME_MAX.as_secs()),
            )
            .with_hint("look at the storage of its disks")
            .into(),
        })?;
        let bytes = machine.write_checkpoint(&place).map_err(Failure::from)?;
        let (epoch, is_paused) = (machine.epochs().running(), machine.is_paused());
        drop(held);
        let pause_ms = started.elapsed().as_secs_f64() * 1e3;
        guardian.commit_snapshot(epoch, is_paused).map_err(Failure::from)?;
        place.publish().map_err(CheckpointFailure::from).map_err(Failure::from)?;
        Ok(json!({ "path": request.snapshot_path, "bytes": bytes, "pause_ms": pause_ms }))
    }

    fn protect(&self, request: ProtectRequest) -> Result<Option<Value>, ApiError> {
        let (machine, guardian) = self.running()?;
        let ProtectRequest { protect, epoch } = request;
        let Protect::Backup(target) = protect else {
            return Err(ApiError::not_in_this_version(
                "protecting a running VM other than by tcp:HOST:PORT or unix:PATH",
            ));
        };
        if self.described.lacks_witness {
            return Err(ApiError::conflict("this VM was started without --witness, and a backup needs one to be named")
                .with_hint("stop it and start it with --witness file:DIR, or with --witness none if you accept that a network cut makes two guests"));
        }
        if let Some(epoch) = epoch {
            check_epoch(epoch, machine.pacer().min_epoch())?;
        }
        let already = guardian.protect(target).map_err(Failure::from)?;
        // Only now: a request that is refused changes nothing.
        if let Some(epoch) = epoch {
            machine.pacer().set_length(epoch.into());
        }
        Ok(already.map(|already| json!({ "already": already })))
    }

    fn unprotect(&self) -> Result<(), ApiError> {
        self.running()?.1.unprotect("the operator ended protection");
        Ok(())
    }

    fn take_over(&self, request: TakeOverRequest) -> Result<(), ApiError> {
        let view = match self.role() {
            Role::Backup(view) => view,
            Role::Primary { .. } => return Err(ApiError::conflict("the guest runs here already")),
        };
        Ok(view.fail_over(request.dead).map_err(Failure::from)?)
    }

    fn metrics(&self) -> String {
        match self.role() {
            Role::Primary { machine, guardian, .. } => {
                metrics::primary(&self.described.name, &machine, &guardian, self.incident().as_ref())
            }
            Role::Backup(view) => metrics::backup(&self.described.name, &view.status()),
        }
    }

    fn events(&self, since: u64) -> Vec<Event> {
        self.events.since(since)
    }
}

/// Whether epochs may have this length in a VM whose shortest one is `min_epoch`.
fn check_epoch(epoch: EpochLength, min_epoch: Duration) -> Result<(), ApiError> {
    match epoch {
        EpochLength::Fixed(length) if length.get() < min_epoch => Err(ApiError::bad_request(format!(
            "epoch {epoch} is shorter than this VM's --min-epoch, {}",
            TimeSpan(min_epoch)
        ))
        .with_hint("give a longer one, or auto")),
        EpochLength::Fixed(_) | EpochLength::Auto => Ok(()),
    }
}

/// Says that the guest of a machine that was just made stands still, if it does.
pub(super) fn note_paused(machine: &Machine, events: &Events) {
    if machine.is_paused() {
        tracing::warn!("the guest was paused by its operator and stands still; `outlast ctl resume` makes it run");
        events.note("paused", json!({ "by": "operator", "before": true }));
    }
}
