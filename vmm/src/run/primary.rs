//! `outlast run`: a machine from power-on to its end, protected if it is asked for. What a machine goes through once it is made
//! is here for `outlast resume` too.

use std::sync::Arc;
use std::time::Duration;

use outlast_api::{Fault, Occurrence};
use replication::view::Incarnation;
use replication::{BranchSeed, EpochId, Origin, Term};
use snapshot::disk::Image;
use snapshot::disklog::LifeId;
use snapshot::statedir::StateDir;

use super::crash::{self, Next, OnCrash};
use super::files::images_of;
use super::incident::IncidentFile;
use super::node::{Described, Node, note_paused};
use super::parts::{self, HostParts, Inputs};
use super::rollback::limits_of;
use super::signals::Signals;
use super::terminal::Terminal;
use super::{as_json, credentials, credentials_or_warning, exit_of, files, local, open_control, uses, write_config};
use crate::api::Server;
use crate::config::{OnGuestPanic, StartFrom, VmConfig};
use crate::exit::{Exit, Failure};
use machine::random::id as random;
use machine::{End, KernelSource, MachineError, Parts, Threads, checkpoint, input};
use protect::epoch::EpochMachine;
use protect::events::Events;
use protect::local::pairing::Pairing;
use protect::local::{LocalStore, reset};
use protect::log::{DiskLog, FoundLog};
use protect::transport::Credentials;
use protect::{Guardian, GuardianConfig, Life, Named, Registrant, Sequel};

/// How long the end of a VM waits for a console that does not take what the guest said.
pub(super) const CONSOLE_END_WAIT: Duration = Duration::from_secs(2);
/// How long the end of a VM waits for what its virtual processors have asked storage for.
const THREADS_END_WAIT: Duration = Duration::from_secs(30);
/// The same of one that cannot continue.
const FAILED_END_WAIT: Duration = Duration::from_secs(1);
/// The first epoch of a machine that no backup follows yet.
const FIRST_EPOCH: EpochId = EpochId(1);

/// `named`: places at the witness that the operator says are dead.
pub(super) fn run(config: &VmConfig, named: &Named) -> Result<Exit, Failure> {
    let signals = Signals::take()?;
    uses::check(config)?;
    let credentials = credentials(config.detection.tls_dir.as_deref())?;
    let dir = StateDir::claim(&config.state.dir)?;
    let registrant = Registrant::open_in(&config.name, &config.detection.witness, dir)?;
    boot(config, &signals, registrant, guardian_config(config, credentials), named, |file| file.forget())
}

/// The same after a crash of its guest, which counts. `life` is the guest's next.
pub(super) fn reset(config: &VmConfig, signals: &Signals, dir: StateDir, life: Life) -> Result<Exit, Failure> {
    let Life { term, target } = life;
    let credentials = credentials_or_warning(config.detection.tls_dir.as_deref());
    let protection = GuardianConfig { term, target, ..guardian_config(config, credentials) };
    // Its operator did not say anything: the witness is the one that counts now.
    let witness = Registrant::witness_of(&dir, &config.detection.witness)?;
    let registrant = Registrant::open_in(&config.name, &witness, dir)?;
    boot(config, signals, registrant, protection, &Named::default(), |_| Ok(()))
}

fn boot(
    config: &VmConfig,
    signals: &Signals,
    registrant: Registrant,
    protection: GuardianConfig,
    named: &Named,
    settle: impl FnOnce(&IncidentFile) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    local::refuse_guest(config)?;
    let opened = parts::open(&config.devices)?;
    let program = Program::open(config, signals)?;
    let looked = local::look_to_start(config, &opened.disks)?;
    let has_epoch = LocalStore::is_in(&config.state.dir);
    let store = Incarnation(random());
    let listed = config.protection.is_local().then(|| registrant.store(store));
    let begun = registrant.begin(listed, config.epochs.commit_durability.into(), has_epoch, named)?;
    if let Some(place) = &begun.ended_elsewhere {
        tracing::warn!(
            "{} ended last at {place}: this start boots from the disks here, which lack what was written there",
            config.name
        );
    }
    let protection = GuardianConfig { term: begun.term.max(protection.term), store, ..protection };
    let launch = make(config, opened, looked, settle).and_then(|launch| {
        write_config(&config.state.dir, &program.described)?;
        if launch.local.is_some() {
            let GuardianConfig { term, origin, target, .. } = &protection;
            Pairing::new(&registrant, store, (*term, *origin), target.clone()).write(&config.state.dir)?;
        }
        // From here on it is this life, and no boot that was asked for before.
        reset::settle(&config.state.dir)?;
        Ok(launch)
    });
    let launch = launch.inspect_err(|_| registrant.take_back(&begun))?;
    program.events.note(Occurrence::Booting { name: config.name.clone(), cpus: config.guest.cpus });
    serve(program, protection, Arc::new(registrant), launch)
}

/// The process of a VM, apart from its machine.
pub(super) struct Program<'a> {
    pub(super) config: &'a VmConfig,
    signals: &'a Signals,
    pub(super) described: serde_json::Value,
    api: Server,
    pub(super) events: Arc<Events>,
}

impl<'a> Program<'a> {
    pub(super) fn open(config: &'a VmConfig, signals: &'a Signals) -> Result<Self, Failure> {
        let (api, events) = open_control(&config.control)?;
        Ok(Self { config, signals, described: as_json(config), api, events })
    }
}

/// A machine that is about to be switched on, and what it needs to run.
pub(super) struct Launch {
    pub(super) machine: EpochMachine,
    pub(super) inputs: Inputs,
    pub(super) log: DiskLog,
    pub(super) images: Vec<Arc<Image>>,
    pub(super) local: Option<LocalStore>,
    /// Its state was continued before, or may be continued elsewhere too.
    pub(super) begins_generation: bool,
}

fn make(
    config: &VmConfig,
    opened: HostParts,
    (found, life): (FoundLog, LifeId),
    settle: impl FnOnce(&IncidentFile) -> Result<(), Failure>,
) -> Result<Launch, Failure> {
    let images = images_of(&opened.disks);
    let log = found.recover()?;
    let binding = config.protection.is_local().then(|| local::binding(&log, life, &opened.disks)).transpose()?;
    let (parts, inputs) = opened.split();
    let machine = make_machine(config, parts)?;
    let ram_bytes = machine.ram().bytes();
    #[cfg(feature = "faults")]
    protect::fault::arm()?;
    let mut local = binding.map(|binding| local::create(config, ram_bytes, &binding)).transpose()?;
    local.as_mut().map_or(Ok(()), |store| store.keep_earlier(limits_of(&config.crash)))?;
    settle(&IncidentFile::of(&config.state.dir))?;
    // Others may be restored from the same snapshot, and the guest that it was taken from may still run.
    let begins_generation = matches!(config.guest.start, StartFrom::Snapshot(_));
    Ok(Launch { machine, inputs, log, images, local, begins_generation })
}

/// Runs the machine to its end. `registrant`: the right to, which was won.
pub(super) fn serve(
    program: Program<'_>,
    protection: GuardianConfig,
    registrant: Arc<Registrant>,
    launch: Launch,
) -> Result<Exit, Failure> {
    let Program { config, signals, described, api, events } = program;
    let Launch { machine, inputs, log, images, local, begins_generation } = launch;
    let files = local::files(&log, config.epochs.commit_durability, images);
    if config.protection.is_protected() {
        files.warn();
    }
    let guardian = Guardian::start(machine.clone(), protection, log, registrant, Arc::clone(&events), local)?;
    let watcher = Arc::clone(&guardian);
    let node = Node::primary(
        Described {
            name: config.name.clone(),
            config: described,
            warnings: config.warnings(),
            incident: IncidentFile::of(&config.state.dir),
            lacks_witness: config.unnamed_witness,
            files,
        },
        machine.clone(),
        guardian,
        Arc::clone(&events),
    );
    let api = api.spawn(Arc::clone(&node))?;
    signals.stop(&node);
    let _watch = files::watch(Arc::clone(&node), config.protection.on_boundary_late);
    // A guest that had crashed is started by who wants to look at it.
    let _ = machine.board().forget_crash();
    if begins_generation {
        machine.begin_generation().map_err(MachineError::from)?;
    }
    let threads = machine.start()?;
    note_paused(&machine, &events);
    let result = supervise(&machine, threads, inputs, &node, &events, &OnCrash::of(config));
    drop(api);
    crash::start_over(config, result?, &watcher.next_life())
}

fn make_machine(config: &VmConfig, parts: Parts) -> Result<EpochMachine, Failure> {
    match &config.guest.start {
        StartFrom::Kernel { kernel, initramfs, cmdline } => {
            let source =
                KernelSource { kernel: kernel.clone(), initramfs: initramfs.clone(), cmdline: cmdline.clone() };
            Ok(EpochMachine::boot(
                u16::from(config.guest.cpus),
                config.guest.memory_bytes,
                &source,
                parts,
                config.epochs.pace(),
            )?)
        }
        StartFrom::Snapshot(dir) => {
            let (state, ram) = checkpoint::read(dir, &parts.disks)?;
            Ok(EpochMachine::restore(state, ram, parts, config.epochs.pace(), FIRST_EPOCH)?)
        }
    }
}

pub(super) fn guardian_config(config: &VmConfig, credentials: Option<Credentials>) -> GuardianConfig {
    GuardianConfig {
        vm_name: config.name.clone(),
        target: config.protection.backup().cloned(),
        credentials,
        durability: config.epochs.commit_durability,
        detect: config.detection.detect,
        heartbeat: config.detection.heartbeat,
        term: Term(0),
        origin: Origin::boot(BranchSeed(random())),
        begins_afresh: true,
        store: Incarnation::default(),
        keeps_crashed: config.crash.on_guest_panic != OnGuestPanic::Reset,
        on_degraded: config.protection.local.on_degraded,
        words: crate::exit::words,
    }
}

/// From a started machine to its end, and what comes after it. Whoever waits for the end is told.
pub(super) fn supervise(
    machine: &EpochMachine,
    threads: Threads,
    inputs: Inputs,
    node: &Arc<Node>,
    events: &Events,
    on_crash: &OnCrash,
) -> Result<Next, Failure> {
    let next = see_to_its_end(machine, threads, inputs, node, events, on_crash);
    node.conclusion.tell(conclusion_of(&next, machine.ended().as_ref()));
    next
}

/// What whoever asked for the end of a guest is told.
fn conclusion_of(next: &Result<Next, Failure>, end: Option<&End>) -> Result<(), Fault> {
    match (next, end) {
        // This program ends well, and the guest does not.
        (Ok(Next::End(_)), Some(End::HandedOver { holder })) => {
            Err(Fault::conflict(format!("the guest was not stopped: it was handed over to {holder}, and runs there"))
                .with_hint("to end it, use `outlast ctl stop` there"))
        }
        (Ok(Next::End(_)), _) => Ok(()),
        (Ok(Next::Boot | Next::GoBack), _) => {
            Err(Fault::conflict("the guest crashed and begins again").with_hint("stop it again"))
        }
        (Err(failure), _) => Err(failure.clone().into()),
    }
}

fn see_to_its_end(
    machine: &EpochMachine,
    threads: Threads,
    inputs: Inputs,
    node: &Arc<Node>,
    events: &Events,
    on_crash: &OnCrash,
) -> Result<Next, Failure> {
    let terminal = inputs.stdin.then(Terminal::take);
    attach(inputs, machine);
    if let Some(terminal) = &terminal {
        input::read_console(machine.shared(), terminal.input(Arc::clone(node)));
    }
    let end = machine.wait();
    // A machine that failed has no last words, and whoever has a copy of its guest waits for this program's end.
    let patience = if matches!(end, End::Failed(_)) { FAILED_END_WAIT } else { THREADS_END_WAIT };
    if !threads.join_within(patience) {
        return Err(stuck(&end, node));
    }
    let guardian = node.guardian().expect("who has a machine has a guardian");
    let sequel = on_crash.note(&end, (machine, guardian.branch()), &guardian.kept_epochs(), events);
    let goes_on = sequel == Sequel::BeginsAnew;
    let parted = guardian.finish(&end, sequel);
    let unwritten_bytes = machine.egress().drain_console(CONSOLE_END_WAIT);
    if unwritten_bytes > 0 {
        tracing::warn!(unwritten_bytes, "nobody reads the console; the end of the guest's output is not shown");
    }
    if let Some(lost_bytes) = machine.egress().console_health().lost_bytes {
        tracing::warn!(lost_bytes, "the console did not take all of the guest's output");
    }
    let how = format!("{end:?}");
    let next = on_crash.next(end, parted, machine, &guardian, events);
    // The guest is not at its end while this program boots it anew, or has it go back.
    if !(goes_on && matches!(next, Ok(Next::Boot | Next::GoBack))) {
        events.note(Occurrence::Ended { how });
    }
    next
}

/// A virtual processor is in the host's kernel and stays there: what the guest did last cannot be sealed, and the side
/// that has its last committed epoch may continue it.
fn stuck(end: &End, node: &Arc<Node>) -> Failure {
    if let Some(guardian) = node.guardian() {
        guardian.leave();
    }
    let why = exit_of(end.clone()).err().map_or_else(|| "the VM was to end".to_owned(), |failure| failure.message);
    Failure::new(
        Exit::Error,
        format!("{why}, but a vCPU waits in the host's kernel; it ended without the guest's last output"),
    )
    .with_hint(
        "look at the storage of its disks; a backup continues the guest, and so does `outlast resume` if \
     it was protected locally",
    )
}

/// Starts the threads that read the world for the guest.
fn attach(inputs: Inputs, machine: &EpochMachine) {
    for (slot, tap) in inputs.taps {
        input::read_tap(machine.shared(), slot, tap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_of_a_guest_that_was_handed_over_meanwhile_is_no_success() {
        let ended = |end: &End| conclusion_of(&Ok(Next::End(Exit::Ok)), Some(end));
        assert_eq!(ended(&End::Stopped), Ok(()));
        let fault = ended(&End::HandedOver { holder: "process b".into() }).expect_err("it runs");
        assert!(fault.message.contains("process b") && fault.hint.is_some(), "{fault}");
        assert_eq!(fault.http_status(), 409);
    }
}
