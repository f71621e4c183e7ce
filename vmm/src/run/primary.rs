//! `outlast run` and `outlast resume`: a machine from power-on, or from its last committed epoch, to its end; protected
//! if it is asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_api::Occurrence;
use replication::view::Incarnation;
use replication::{BranchSeed, EpochId, Term};
use snapshot::disk::Image;
use snapshot::disklog::LifeId;

use super::crash::{self, Next, OnCrash};
use super::files::images_of;
use super::incident::IncidentFile;
use super::node::{Described, Node, note_paused};
use super::parts::{self, HostParts, Inputs};
use super::right::{Resumed, Right};
use super::rollback::{self, limits_of};
use super::signals::Signals;
use super::terminal::Terminal;
use super::{as_json, bind_api, exit_of, files, local, open_events, uses, write_config};
use crate::api::Server;
use crate::cli::Named;
use crate::config::{Interrupts, OnGuestPanic, Protect, StartFrom, VmConfig};
use crate::exit::{Exit, Failure};
use machine::random::id as random;
use machine::state::MachineState;
use machine::{End, KernelSource, MachineError, Parts, Threads, checkpoint, input};
use protect::epoch::{EpochMachine, Pace};
use protect::events::Events;
use protect::fault;
use protect::local::pairing::{Pairing, unused_after};
use protect::local::{Anew, LocalStore};
use protect::log::{DiskLog, FoundLog};
use protect::{Guardian, GuardianConfig, Lease, Life, Sequel};

/// How long the end of a VM waits for a console that does not take what the guest said.
const CONSOLE_END_WAIT: Duration = Duration::from_secs(2);
/// How long the end of a VM waits for what its virtual processors have asked storage for.
const THREADS_END_WAIT: Duration = Duration::from_secs(30);
/// The same of one that cannot continue.
const FAILED_END_WAIT: Duration = Duration::from_secs(1);
/// The first epoch of a machine that no backup follows yet.
const FIRST_EPOCH: EpochId = EpochId(1);

fn pace_of(config: &VmConfig) -> Pace {
    Pace {
        length: config.epoch.into(),
        min_epoch: config.min_epoch,
        capture: config.capture,
        protocol: config.protocol,
        inputs_wait: config.interrupts == Interrupts::Boundary,
    }
}

/// `dead`: places at the witness that the operator says are dead.
pub(super) fn run(config: &VmConfig, dead: &[String]) -> Result<Exit, Failure> {
    let signals = Signals::take()?;
    boot(config, &signals, guardian_config(config), dead, |file| file.forget())
}

/// The same after a crash of its guest, which counts. `life` is the guest's next.
pub(super) fn boot_again(config: &VmConfig, life: Life) -> Result<Exit, Failure> {
    let signals = Signals::take()?;
    let Life { term, target } = life;
    boot(config, &signals, GuardianConfig { term, target, ..guardian_config(config) }, &[], |_| Ok(()))
}

fn boot(
    config: &VmConfig,
    signals: &Signals,
    protection: GuardianConfig,
    dead: &[String],
    settle: impl FnOnce(&IncidentFile) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    uses::check(config)?;
    local::refuse_guest(config)?;
    let opened = parts::open(&config.disks, &config.nets, &config.console)?;
    let described = as_json(config);
    let api = bind_api(&config.api_socket, &config.state_dir)?;
    let lease = Lease::open_in(&config.name, &config.witness, &config.state_dir)?;
    let events = open_events(config.event_monitor.as_ref())?;
    let looked = local::look_to_start(config, &opened.disks)?;
    let has_epoch = LocalStore::is_in(&config.state_dir);
    let store = Incarnation(random());
    let begun = lease.begin(config.is_local().then(|| lease.store(store)), has_epoch, dead)?;
    let protection = GuardianConfig { term: begun.term.max(protection.term), store, ..protection };
    let images = images_of(&opened.disks);
    let made = make(config, opened, looked, settle).and_then(|made| {
        write_config(&config.state_dir, &described)?;
        if made.local.is_some() {
            let GuardianConfig { term, target, .. } = &protection;
            Pairing::new(&lease, store, *term, FIRST_EPOCH, target.clone()).write(&config.state_dir)?;
        }
        Ok(made)
    });
    let Made { machine, inputs, log, local } = made.inspect_err(|_| lease.take_back(&begun))?;
    let lease = Arc::new(lease);
    events.note(Occurrence::Booting { name: config.name.clone(), cpus: config.cpus });
    // Others may be restored from the same snapshot, and the guest that it was taken from may still run.
    let begins_generation = matches!(config.start, StartFrom::Snapshot(_));
    serve(Launch {
        config,
        signals,
        protection,
        described,
        api,
        events,
        lease,
        machine,
        inputs,
        log,
        images,
        local,
        begins_generation,
    })
}

/// A machine that is about to be switched on.
struct Made {
    machine: EpochMachine,
    inputs: Inputs,
    log: DiskLog,
    local: Option<LocalStore>,
}

fn make(
    config: &VmConfig,
    opened: HostParts,
    (found, life): (FoundLog, LifeId),
    settle: impl FnOnce(&IncidentFile) -> Result<(), Failure>,
) -> Result<Made, Failure> {
    let log = found.recover()?;
    let binding = config.is_local().then(|| local::binding(&log, life, &opened.disks)).transpose()?;
    let (parts, inputs) = opened.split();
    let machine = make_machine(config, parts)?;
    let ram_bytes = machine.ram().bytes();
    #[cfg(feature = "faults")]
    fault::arm()?;
    let mut local = binding.map(|binding| local::create(config, ram_bytes, &binding)).transpose()?;
    local.as_mut().map_or(Ok(()), |store| store.keep_earlier(limits_of(config)))?;
    settle(&IncidentFile::of(&config.state_dir))?;
    Ok(Made { machine, inputs, log, local })
}

/// A guest of this host that is not in any process any more is continued from its last committed epoch. `named`: what
/// nothing proves, and the operator says.
pub(super) fn resume(config: &VmConfig, named: &Named) -> Result<Exit, Failure> {
    let started = Instant::now();
    let signals = &Signals::take()?;
    #[cfg(feature = "faults")]
    fault::arm()?;
    uses::check(config)?;
    // First: nobody else can use the directory from here on.
    let (mut store, mut last) = local::open(config)?;
    store.keep_earlier(limits_of(config))?;
    let incident = IncidentFile::of(&config.state_dir);
    let back = rollback::decide(config.on_guest_panic, &incident, &mut store)?;
    let right = Right::open(config)?;
    let mut opened = parts::open(&config.disks, &config.nets, &config.console)?;
    let (found, life) = local::look_at_log(config, &store, &opened.disks, &last)?;
    let images = images_of(&opened.disks);
    let described = as_json(config);
    let api = bind_api(&config.api_socket, &config.state_dir)?;
    let events = open_events(config.event_monitor.as_ref())?;
    let mut state = MachineState::decode(&last.state).map_err(MachineError::from)?;
    let mut ram = store.map_ram()?;
    // What the guest did after the epoch that it goes back to was seen.
    let begins_generation = back.is_some();
    let Resumed { lease, term, mut running, target, store: id } = right.win(config, last.fork, named)?;
    write_config(&config.state_dir, &described)?;
    let log = found.recover()?;
    store.bind_if_new(|| local::binding(&log, life, &opened.disks))?;
    fault::reached(fault::DISKS_RECOVERED);
    if let Some(back) = back {
        log.note_beside()?;
        drop(ram);
        let anew = Anew { branch: term, count: running, seed: BranchSeed(random()), line: log.line() };
        back.perform(&incident, store, anew, &mut opened.disks, &events)?;
        // Its files have the earlier epoch when they are opened anew.
        (store, last) = local::open(config)?;
        store.keep_earlier(limits_of(config))?;
        let more = rollback::decide(config.on_guest_panic, &incident, &mut store)?;
        assert!(more.is_none(), "it went back");
        state = MachineState::decode(&last.state).map_err(MachineError::from)?;
        // The guest ran when it crashed: a pause of before was over.
        state.paused = false;
        ram = store.map_ram()?;
        running = unused_after(last.epoch());
    }
    let (parts, inputs) = opened.split();
    let machine = EpochMachine::restore(state, ram, parts, pace_of(config), running)?;
    machine.egress().emit_again(&last.outputs);
    // From the next commit on they are not kept any more.
    machine.egress().drain_console(CONSOLE_END_WAIT);
    fault::reached(fault::EMITTED_AGAIN);
    events.note(Occurrence::Resumed {
        name: config.name.clone(),
        epoch: last.epoch().0,
        reemitted: last.outputs.len() as u64,
        restore_ms: started.elapsed().as_secs_f64() * 1e3,
    });
    let fork = Some(last.fork);
    let protection = GuardianConfig { term, fork, target, begins_afresh: false, store: id, ..guardian_config(config) };
    let local = Some(store);
    serve(Launch {
        config,
        signals,
        protection,
        described,
        api,
        events,
        lease,
        machine,
        inputs,
        log,
        images,
        local,
        begins_generation,
    })
}

/// Everything that a machine needs to run, opened and checked.
struct Launch<'a> {
    config: &'a VmConfig,
    signals: &'a Signals,
    protection: GuardianConfig,
    described: serde_json::Value,
    api: Server,
    events: Arc<Events>,
    lease: Arc<Lease>,
    machine: EpochMachine,
    inputs: Inputs,
    log: DiskLog,
    images: Vec<Arc<Image>>,
    local: Option<LocalStore>,
    /// Its state was continued before, or may be continued elsewhere too.
    begins_generation: bool,
}

/// Runs the machine to its end.
fn serve(launch: Launch<'_>) -> Result<Exit, Failure> {
    let Launch {
        config,
        signals,
        protection,
        described,
        api,
        events,
        lease,
        machine,
        inputs,
        log,
        images,
        local,
        begins_generation,
    } = launch;
    let files = local::files(&log, config.commit_durability, images);
    if config.protect != [Protect::None] {
        files.warn();
    }
    let guardian = Guardian::start(machine.clone(), protection, log, lease, Arc::clone(&events), local)?;
    let watcher = Arc::clone(&guardian);
    let node = Node::primary(
        Described {
            name: config.name.clone(),
            config: described,
            warnings: config.warnings(),
            incident: IncidentFile::of(&config.state_dir),
            lacks_witness: config.unnamed_witness,
            files,
        },
        machine.clone(),
        guardian,
        Arc::clone(&events),
    );
    let api = api.spawn(Arc::clone(&node))?;
    signals.stop(&node);
    let _watch = files::watch(Arc::clone(&node), config.on_boundary_late);
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
    match &config.start {
        StartFrom::Kernel { kernel, initramfs, cmdline } => {
            let source =
                KernelSource { kernel: kernel.clone(), initramfs: initramfs.clone(), cmdline: cmdline.clone() };
            Ok(EpochMachine::boot(u16::from(config.cpus), config.memory_bytes, &source, parts, pace_of(config))?)
        }
        StartFrom::Snapshot(dir) => {
            let (state, ram) = checkpoint::read(dir, &parts.disks)?;
            Ok(EpochMachine::restore(state, ram, parts, pace_of(config), FIRST_EPOCH)?)
        }
    }
}

fn guardian_config(config: &VmConfig) -> GuardianConfig {
    GuardianConfig {
        vm_name: config.name.clone(),
        target: config.backup().cloned(),
        durability: config.commit_durability,
        detect: config.detect,
        heartbeat: config.heartbeat,
        term: Term(0),
        fork: None,
        begins_afresh: true,
        store: Incarnation::default(),
        keeps_crashed: config.on_guest_panic != OnGuestPanic::Reset,
        on_degraded: config.local.on_degraded,
        words: crate::exit::words,
    }
}

/// From a started machine to its end, and what comes after it.
pub(super) fn supervise(
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
    let sequel = on_crash.note(&end, machine, &guardian.kept_epochs(), events);
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
    let next = on_crash.next(end, parted, machine, events);
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
