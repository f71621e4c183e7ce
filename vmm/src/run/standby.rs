//! `outlast backup`: waits for a primary, follows it, and runs its guest after a takeover.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use outlast_api::Occurrence;
use replication::view::Incarnation;
use replication::{BranchSeed, Fork, Origin};
use snapshot::statedir::StateDir;

use super::crash::{Next, OnCrash};
use super::files::images_of;
use super::incident::IncidentFile;
use super::node::{Described, Node, note_paused};
use super::parts::{self, HostParts};
use super::primary::supervise;
use super::signals::Signals;
use super::{announce, as_json, credentials, files, local, open_control, uses, write_config};
use crate::config::{BackupVmConfig, OnBoundaryLate};
use crate::exit::{Exit, Failure};
use machine::random::id as random;
use machine::state::MachineState;
use machine::{End, MachineError};
use protect::backup::{Legacy, Outcome, Predecessor, Standby, StandbyConfig, StandbyView, Successor, inherit};
use protect::epoch::{EpochMachine, Pace};
use protect::events::Events;
use protect::transport::Credentials;
use protect::{CommitDurability, Guardian, GuardianConfig, OnDegraded, Registrant};

pub(super) fn backup(config: &BackupVmConfig) -> Result<Exit, Failure> {
    let signals = Signals::take()?;
    #[cfg(feature = "faults")]
    protect::fault::arm()?;
    uses::check_backup(config)?;
    let credentials = credentials(config.detection.tls_dir.as_deref())?;
    let dir = StateDir::claim(&config.state.dir)?;
    local::refuse_guest_of_backup(config)?;
    let mut opened = parts::open(&config.devices)?;
    let described = as_json(config);
    let (api, events) = open_control(&config.control)?;
    let registrant = Arc::new(Registrant::open_in(&config.name, &config.detection.witness, dir)?);
    registrant.check()?;
    write_config(&config.state.dir, &described)?;
    let standby_config = StandbyConfig {
        vm_name: config.name.clone(),
        listen: config.listen.clone(),
        credentials: credentials.clone(),
        nets: config.devices.nets.len(),
        detect: config.detection.detect,
        heartbeat: config.detection.heartbeat,
        words: crate::exit::words,
    };
    let disks = std::mem::take(&mut opened.disks);
    let log = local::open_log_of_backup(config, &disks)?;
    let files = local::files(&log, CommitDurability::Disk, images_of(&disks));
    files.warn();
    let standby = Standby::open(standby_config, disks, log, Arc::clone(&registrant), Arc::clone(&events))?;
    let view = standby.view();
    let node = Node::backup(
        Described {
            name: config.name.clone(),
            config: described,
            warnings: config.warnings(),
            incident: IncidentFile::of(&config.state.dir),
            lacks_witness: false,
            files,
        },
        Arc::clone(&view),
        Arc::clone(&events),
    );
    let api = api.spawn(Arc::clone(&node))?;
    signals.stop(&node);
    let _watch = files::watch(Arc::clone(&node), OnBoundaryLate::Continue);
    let result = match standby.serve()? {
        Outcome::Ended(text) => {
            tracing::info!(reason = text, "the guest ended on the primary");
            Ok(Some(Exit::Ok))
        }
        Outcome::Stopped => Ok(Some(Exit::Ok)),
        Outcome::TookOver(successor) => {
            take_over(config, credentials, *successor, opened, (&registrant, &view), (&node, &signals), &events)
        }
    };
    drop(api);
    match result? {
        Some(exit) => Ok(exit),
        None => begin_anew(),
    }
}

/// Starts this program again in its own process, as it was started: nothing of the machine that was made is left, and whoever has the
/// guest can fill it again.
fn begin_anew() -> Result<Exit, Failure> {
    let error = Command::new("/proc/self/exe").arg0("outlast").args(std::env::args_os().skip(1)).exec();
    Err(Failure::new(Exit::Conflict, format!("this backup was not given the guest, and cannot start again: {error}"))
        .with_hint("start it again: whoever runs the guest fills it then"))
}

/// Restores the guest and runs it: held output goes out again, input that was lost with the primary is delivered
/// again, and the network learns where the guest is. None: another side has it, and this one can follow that.
fn take_over(
    config: &BackupVmConfig,
    credentials: Option<Credentials>,
    successor: Successor,
    mut opened: HostParts,
    (registrant, view): (&Arc<Registrant>, &StandbyView),
    (node, signals): (&Arc<Node>, &Signals),
    events: &Arc<Events>,
) -> Result<Option<Exit>, Failure> {
    let Successor { takeover, ram, disks, log, predecessor, durable, lost_at } = successor;
    let started = Instant::now();
    let state = MachineState::decode(&takeover.state).map_err(MachineError::from)?;
    opened.disks = disks;
    let (parts, inputs) = opened.split();
    let origin = Origin::after(Fork::Mark(takeover.fork), BranchSeed(random()));
    let restore = || EpochMachine::restore(state, ram, parts, Pace::default(), origin.first());
    let machine = match inherit(&takeover, registrant, view, restore)? {
        Legacy::Ours(machine) => machine,
        Legacy::Ended => {
            tracing::info!("the guest ended on the primary before it was handed over");
            return Ok(Some(Exit::Ok));
        }
        Legacy::Others { holder } => {
            tracing::warn!(
                "the guest was to be handed over to this backup, and {holder} has it: this backup starts again, and is filled when its \
                 primary connects"
            );
            return Ok(None);
        }
    };
    let (reemitted, redelivered) = (takeover.reemit.len(), takeover.redeliver.len());
    let crash = machine.board().forget_crash();
    if let Some(crash) = crash {
        // The primary stopped it, and died before it could say so.
        machine.end(End::Guest(crash));
    }
    machine.board().redeliver(takeover.redeliver);
    machine.egress().emit_again(&takeover.reemit);
    let threads = machine.start()?;
    predecessor.into_iter().for_each(Predecessor::tell);
    let term = registrant.term().unwrap_or(takeover.term);
    let guardian_config = GuardianConfig {
        vm_name: config.name.clone(),
        target: config.protect.first().cloned(),
        credentials,
        durability: if durable { CommitDurability::Disk } else { CommitDurability::Memory },
        detect: config.detection.detect,
        heartbeat: config.detection.heartbeat,
        term,
        origin,
        begins_afresh: false,
        store: Incarnation::default(),
        keeps_crashed: false,
        on_degraded: OnDegraded::default(),
        words: crate::exit::words,
    };
    let guardian =
        Guardian::start(machine.clone(), guardian_config, log, Arc::clone(registrant), Arc::clone(events), None)?;
    node.promote(machine.clone(), guardian);
    // Whoever stopped the backup did not mean the guest.
    signals.stop(node);
    announce::start(&machine.shared());
    let (restore, takeover_time) = (started.elapsed(), lost_at.elapsed());
    events.note(Occurrence::FailoverFinished {
        epoch: takeover.fork.count.0,
        epoch_id: takeover.fork.name().to_string(),
        term: term.0,
        reemitted: reemitted as u64,
        redelivered: redelivered as u64,
        restore_ms: restore.as_secs_f64() * 1e3,
        takeover_ms: takeover_time.as_secs_f64() * 1e3,
    });
    note_paused(&machine, events);
    match supervise(&machine, threads, inputs, node, events, &OnCrash::stop(config.state.dir.clone()))? {
        Next::End(exit) => Ok(Some(exit)),
        Next::Boot | Next::GoBack => unreachable!("a guest that was taken over is stopped when it crashes"),
    }
}
