//! What comes after a crash of the guest: `--on-guest-panic`.
//!
//! *Stop*: the program ends with code 164, and the guest's state is kept: with `--protect local` its last epoch stays
//! in the state directory, otherwise a snapshot is written there. *Reset*: the program starts again in its own process,
//! by `exec`, and boots what `vm.json` and `reset` say: nothing of the crashed machine is left, no thread, no lock, no file.
//! *Rollback*: the same, but it resumes, and `rollback.rs` has the guest go back first.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use outlast_api::Occurrence;
use replication::{EpochId, EpochName, Term};
use snapshot::statedir::Item;

use super::incident::{Incident, IncidentFile, Standing};
use super::rollback;
use crate::config::{OnGuestPanic, VmConfig};
use crate::exit::{Exit, Failure};
use machine::End;
use machine::checkpoint::CheckpointFailure;
use machine::crash::Crash;
use protect::epoch::EpochMachine;
use protect::events::Events;
use protect::fault;
use protect::local::{KeptEpoch, LocalStore, reset};
use protect::{Guardian, Life, Parting, Sequel};

/// Boots in one incident at most; then it is stopped.
const RESETS_MAX: u64 = 5;

/// What the process does when its guest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It ends.
    End(Exit),
    /// It reboots the guest.
    Boot,
    /// It resumes the guest, which goes back first.
    GoBack,
}

/// What is to be done about a crash.
#[derive(Debug)]
pub(super) struct OnCrash {
    policy: OnGuestPanic,
    state_dir: PathBuf,
    /// The last epoch stays in the state directory.
    keeps_epoch: bool,
    file: IncidentFile,
    since: Instant,
}

impl OnCrash {
    /// For a VM of `config`, whose guest is about to run.
    pub(super) fn of(config: &VmConfig) -> Self {
        Self::new(config.crash.on_guest_panic, config.state.dir.clone(), config.protection.is_local())
    }

    /// Stops it.
    pub(super) fn stop(state_dir: PathBuf) -> Self {
        Self::new(OnGuestPanic::Stop, state_dir, false)
    }

    fn new(policy: OnGuestPanic, state_dir: PathBuf, keeps_epoch: bool) -> Self {
        let file = IncidentFile::of(&state_dir);
        Self { policy, state_dir, keeps_epoch, file, since: Instant::now() }
    }

    /// The machine has ended; nothing of its last epoch is committed yet. What happens to the guest, which could go
    /// back to one of `earlier`.
    pub(super) fn note(
        &self,
        end: &End,
        (machine, branch): (&EpochMachine, Term),
        earlier: &[KeptEpoch],
        events: &Events,
    ) -> Sequel {
        let Some(what) = end.crash() else { return Sequel::Ends };
        let running = EpochName { branch: Some(branch), count: machine.epochs().running() };
        tracing::error!(epoch = %running, policy = ?self.policy, "the guest crashed: {what}");
        let before = self.file.read().unwrap_or_else(|failure| {
            tracing::warn!(%failure, "what was tried before does not count");
            None
        });
        let incident = Incident::crashed(before, what, running, self.since.elapsed());
        events.note(Occurrence::GuestPanic {
            what: what.into(),
            epoch: running.count.0,
            epoch_id: running.to_string(),
            policy: self.policy.to_possible_value().expect("every policy can be typed").get_name().into(),
            crashes: incident.crashes.get(),
        });
        self.write(&incident);
        let begins_anew = match self.policy {
            OnGuestPanic::Stop => false,
            OnGuestPanic::Reset => incident.crashes.get() <= RESETS_MAX,
            OnGuestPanic::Rollback => self.is_kept() && rollback::older(Some(&incident), earlier).is_some(),
        };
        if begins_anew { Sequel::BeginsAnew } else { Sequel::Ends }
    }

    /// The guest's last epoch is in the state directory.
    fn is_kept(&self) -> bool {
        self.keeps_epoch && LocalStore::is_in(&self.state_dir)
    }

    /// A crash that is not written down is dealt with all the same; it only cannot be counted.
    fn write(&self, incident: &Incident) {
        if let Err(failure) = self.file.write(incident) {
            tracing::error!(%failure, "this crash does not count");
        }
    }

    /// All that the guest did has left, and its backup is dealt with. What to do now.
    pub(super) fn next(
        &self,
        end: End,
        parted: Parting,
        machine: &EpochMachine,
        guardian: &Guardian,
        events: &Events,
    ) -> Result<Next, Failure> {
        let Some(what) = end.crash() else {
            if !matches!(end, End::Guest(_) | End::Stopped) {
                return super::exit_of(end).map(Next::End);
            }
            self.file.forget()?;
            return super::exit_of_parting(parted, guardian.successor()).map(Next::End);
        };
        let unknown = EpochName { branch: None, count: EpochId(0) };
        let incident = self.file.read()?.unwrap_or_else(|| Incident::crashed(None, what, unknown, Duration::ZERO));
        let is_to_boot = self.policy == OnGuestPanic::Reset && incident.crashes.get() <= RESETS_MAX;
        if is_to_boot && parted == Parting::Alone {
            events.note(Occurrence::Reset { attempt: incident.crashes.get() });
            self.write(&Incident { standing: Standing::Tried, ..incident });
            return Ok(Next::Boot);
        }
        // The resume asks the witness, as every resume does, before it goes back.
        if self.policy == OnGuestPanic::Rollback && self.is_kept() {
            return Ok(Next::GoBack);
        }
        self.write(&Incident { standing: Standing::Stopped, ..incident });
        let why = if is_to_boot { not_alone(parted) } else { "" };
        Err(self.stopped(what, incident.crashes.get(), why, machine))
    }

    fn stopped(&self, what: Crash, crashes: u64, why: &str, machine: &EpochMachine) -> Failure {
        let times = if crashes > 1 { format!(" for the {crashes}th time in a row") } else { String::new() };
        let failure =
            Failure::new(Exit::GuestCrashed, format!("the guest crashed{times} and was stopped: {what}{why}"));
        if self.is_kept() {
            return failure.with_hint(format!(
                "its last epoch is kept in {0}; to continue from there all the same, remove {1} and use `outlast \
                 resume`; to give the guest up, remove the directory",
                self.state_dir.display(),
                self.file.path().display(),
            ));
        }
        match self.write_evidence(machine) {
            Ok(dir) => failure.with_hint(format!("its state is kept as a snapshot in {}", dir.display())),
            Err(error) => failure.with_hint(format!("its state could not be kept: {error}")),
        }
    }

    /// One snapshot, of the last crash: they must not fill the state directory.
    fn write_evidence(&self, machine: &EpochMachine) -> Result<PathBuf, Failure> {
        let dir = Item::Evidence.path_in(&self.state_dir);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|error| {
                Failure::new(Exit::Error, format!("cannot remove the snapshot of an earlier crash: {error}"))
            })?;
        }
        // It has ended: nothing is held back any more, and its disks are what they will be.
        machine.epochs().clear_sink();
        let place = machine.prepare_checkpoint(&dir)?;
        machine.write_checkpoint(&place)?;
        place.publish().map_err(CheckpointFailure::from)?;
        Ok(dir)
    }
}

/// Why a guest that was to be rebooted was not.
fn not_alone(parted: Parting) -> &'static str {
    match parted {
        Parting::Alone => "",
        Parting::TakenOver => "; it was not started again, because its backup had taken it over before",
        Parting::NoAnswer | Parting::Unrecorded => {
            "; it was not started again, because the witness did not confirm that its backup leaves it alone"
        }
        Parting::OnlyTold => {
            "; it was not started again, because without a witness nothing stops its backup from continuing it: \
             use --witness"
        }
    }
}

/// Starts this program again in this process, for the life of the guest after `life`. Returns only if that was not
/// possible.
pub(super) fn start_over(config: &VmConfig, next: Next, life: &Life) -> Result<Exit, Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("outlast").arg("resume").arg("--state-dir").arg(&config.state.dir);
    match next {
        Next::End(exit) => return Ok(exit),
        Next::Boot => {
            reset::ask(&config.state.dir, life)?;
            fault::reached(fault::RESET_ASKED);
        }
        // The state directory knows.
        Next::GoBack => {}
    }
    let error = command.exec();
    Err(Failure::new(Exit::Error, format!("cannot start this program again: {error}")).with_hint("is /proc mounted?"))
}
