//! The node: what the control interface talks to, in whichever role this process is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use outlast_api::{Fault, Occurrence};
use serde_json::Value;

use super::files::Files;
use super::incident::{Incident, IncidentFile};
use machine::Machine;
use protect::Guardian;
use protect::backup::StandbyView;
use protect::epoch::EpochMachine;
use protect::events::Events;

/// What this process is.
#[derive(Debug, Clone)]
pub(super) enum Role {
    Backup(Arc<StandbyView>),
    Primary { machine: EpochMachine, guardian: Arc<Guardian> },
}

/// This process, for the control interface.
#[derive(Debug)]
pub(super) struct Node {
    described: Described,
    role: Mutex<Role>,
    pub(super) events: Arc<Events>,
    /// The guest stands still and its pause is not committed yet.
    pub(super) pausing: AtomicBool,
    /// What became of the guest.
    pub(super) conclusion: Conclusion,
}

/// What became of a guest that ran here, for whoever waits for its end.
#[derive(Debug, Default)]
pub(super) struct Conclusion {
    told: Mutex<Option<Result<(), Fault>>>,
    is_told: Condvar,
}

impl Conclusion {
    /// It is known now. The first word counts.
    pub(super) fn tell(&self, what: Result<(), Fault>) {
        self.told.lock().expect("no holder panics").get_or_insert(what);
        self.is_told.notify_all();
    }

    /// Waits until it is known.
    pub(super) fn wait(&self) -> Result<(), Fault> {
        let told = self.told.lock().expect("no holder panics");
        let told = self.is_told.wait_while(told, |told| told.is_none()).expect("no holder panics");
        told.clone().expect("it was waited for")
    }
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
        Arc::new(Self {
            described,
            role: Mutex::new(role),
            events,
            pausing: AtomicBool::new(false),
            conclusion: Conclusion::default(),
        })
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

    /// What is kept on this host, and where to tell of it.
    pub(super) fn files(&self) -> (&Files, &Events) {
        (&self.described.files, &self.events)
    }

    /// The crash that is being dealt with, or was last. A file that cannot be read is named when it is needed.
    pub(super) fn incident(&self) -> Option<Incident> {
        self.described.incident.read().ok().flatten()
    }

    /// The role of this moment. Its lock is let go: whatever the caller does and waits for, others can ask and stop meanwhile.
    pub(super) fn role(&self) -> Role {
        self.role.lock().expect("no holder of the role panics").clone()
    }

    /// Its operator's pause is under way.
    pub(super) fn is_pausing(&self) -> bool {
        self.pausing.load(Ordering::Acquire)
    }

    /// What was configured.
    pub(super) fn described(&self) -> &Described {
        &self.described
    }

    /// The guest that runs here, and who protects it.
    pub(super) fn guest(&self) -> Option<(EpochMachine, Arc<Guardian>)> {
        match self.role() {
            Role::Primary { machine, guardian, .. } => Some((machine, guardian)),
            Role::Backup(_) => None,
        }
    }

    pub(super) fn running(&self) -> Result<(EpochMachine, Arc<Guardian>), Fault> {
        match self.role() {
            Role::Primary { machine, guardian, .. } => Ok((machine, guardian)),
            Role::Backup(_) => {
                Err(Fault::conflict(format!("{} does not run here: this is its backup", self.described.name))
                    .with_hint("ask the primary; `outlast ctl status` here tells how far the backup is"))
            }
        }
    }
}

/// Says that the guest of a machine that was just made stands still, if it does.
pub(super) fn note_paused(machine: &Machine, events: &Events) {
    if machine.is_paused() {
        tracing::warn!("the guest was paused by its operator and stands still; `outlast ctl resume` makes it run");
        events.note(paused(true));
    }
}

/// The operator's pause, which may be from before this program ran the guest.
pub(super) fn paused(before: bool) -> Occurrence {
    Occurrence::Paused { by: "operator".into(), before }
}
