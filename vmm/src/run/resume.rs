//! `outlast resume`: finds what a state directory holds, has `replication` decide, and performs the steps, each once.
//!
//! ```text
//!   StateDir::find, the store, its earlier epochs ─▶ Found ─▶ decide ─▶ a refusal, in words (refusal.rs)
//!                                                                  └─▶ Course ─▶ Resuming ─▶ a step ─▶ Resumption ─┐
//!                                                                                   ▲──────────────────────────────┘
//! ```

use std::sync::Arc;
use std::time::Instant;

use outlast_api::Occurrence;
use replication::pipeline::resuming::{Asked, Course, Found, NoCourse, Remains, ResumeStep, Resuming, decide};
use replication::{BranchSeed, Fork, Origin};
use snapshot::disk::Image;
use snapshot::disklog::LifeId;
use snapshot::statedir::sealed::Sealed;
use snapshot::statedir::{Finding, Stage, StateDir};

use super::files::images_of;
use super::incident::{Incident, IncidentFile, Standing};
use super::parts::{self, HostParts, Inputs};
use super::primary::{self, CONSOLE_END_WAIT, Launch, Program, guardian_config};
use super::right::{Resumed, Right, teller};
use super::rollback::{self, Return, limits_of};
use super::signals::Signals;
use super::{credentials_or_warning, local, refusal, uses, write_config};
use crate::cli::Named;
use crate::config::{OnGuestPanic, VmConfig};
use crate::exit::{Exit, Failure};
use machine::MachineError;
use machine::memory::Ram;
use machine::random::id as random;
use machine::state::MachineState;
use protect::epoch::EpochMachine;
use protect::fault;
use protect::local::pairing::Pairing;
use protect::local::{Anew, KeptEpoch, LastEpoch, LocalStore, reset};
use protect::log::{DiskLog, FoundLog};
use protect::{GuardianConfig, Life};

/// A guest of this host that is not in any process any more is continued from its last committed epoch, or boots again
/// after a crash. `named`: what nothing proves, and the operator says.
pub(super) fn resume(config: &VmConfig, (dir, found): (StateDir, Finding), named: &Named) -> Result<Exit, Failure> {
    let started = Instant::now();
    let signals = Signals::take()?;
    #[cfg(feature = "faults")]
    fault::arm()?;
    uses::check(config)?;
    let looked = Looked::at(config, &dir, found)?;
    let rolls_back = config.crash.on_guest_panic == OnGuestPanic::Rollback;
    match decide(&looked.found(), &Asked { rolls_back, backup_is_gone: named.backup_is_gone }) {
        Err(no) => Err(looked.refuse(no, config)),
        Ok(Course::Boot) => primary::reset(config, &signals, dir, looked.life.expect("it boots as a reset says")),
        Ok(course) => {
            let mut resumption = Resumption::open(Program::open(config, &signals)?, named, dir, looked, course)?;
            let mut resuming = Resuming::along(course);
            while let Some(step) = resuming.poll_step() {
                resumption.perform(step)?;
            }
            resumption.run(started)
        }
    }
}

/// What was found, each file read or opened once.
struct Looked {
    pairing: Option<Pairing>,
    /// `disks`, as it was found.
    binding: Sealed,
    /// The life of a reset that was asked for.
    life: Option<Life>,
    file: IncidentFile,
    incident: Option<Incident>,
    remains: Remains,
    /// The guest, if it has an epoch.
    guest: Option<(LocalStore, LastEpoch)>,
    /// An earlier epoch, if it is one that the guest goes back to.
    older: Option<KeptEpoch>,
}

impl Looked {
    fn at(config: &VmConfig, dir: &StateDir, found: Finding) -> Result<Self, Failure> {
        let Finding { config: _, pairing, binding, reset, crash, memory } = found;
        let pairing = Pairing::of(&pairing, dir.path())?;
        let life = reset::asked(&reset, dir.path())?;
        let file = IncidentFile::of(dir.path());
        let incident = file.parse(crash.as_deref())?;
        let (remains, mut guest) = match memory.stage {
            Stage::Nothing => (Remains::Nothing, None),
            Stage::Begun => (Remains::Begun, None),
            Stage::Made => local::open(config)?.map_or((Remains::Begun, None), |guest| (Remains::Epoch, Some(guest))),
        };
        let mut older = None;
        if let Some((store, _)) = &mut guest {
            store.keep_earlier(rollback::limits_until_back(&config.crash, incident.as_ref()))?;
            older = rollback::older(incident.as_ref(), &store.earlier());
        }
        Ok(Self { pairing, binding, life, file, incident, remains, guest, older })
    }

    fn found(&self) -> Found {
        let Self { pairing, binding: _, life, file: _, incident, remains, guest: _, older } = self;
        Found {
            guest: *remains,
            resets: life.is_some(),
            crash: rollback::standing_of(incident.as_ref()),
            has_older: older.is_some(),
            teller: teller(pairing.as_ref()),
        }
    }

    /// Says why not; of a guest that has nothing left to go back to, that it was stopped is noted.
    fn refuse(&self, no: NoCourse, config: &VmConfig) -> Failure {
        if let (NoCourse::Exhausted, Some(incident)) = (no, &self.incident)
            && let Err(failure) = self.file.write(&Incident { standing: Standing::Stopped, ..incident.clone() })
        {
            return failure;
        }
        refusal::of(no, config, self.incident.as_ref())
    }
}

/// A resume on its way: what is opened at its beginning, and what its steps made of that.
struct Resumption<'a> {
    program: Program<'a>,
    named: &'a Named,
    store: LocalStore,
    /// What the guest continues from.
    last: LastEpoch,
    /// The epoch that the guest continues from.
    fork: Fork,
    /// `disks`, as it was found.
    binding: Sealed,
    /// The way back of a guest that goes back.
    back: Option<Return>,
    /// It went back.
    went_back: bool,
    opened: Option<HostParts>,
    images: Vec<Arc<Image>>,
    right: Option<Right>,
    looked: Option<(FoundLog, LifeId)>,
    loaded: Option<(MachineState, Ram)>,
    resumed: Option<Resumed>,
    log: Option<DiskLog>,
    begun: Option<(EpochMachine, Inputs)>,
}

/// For what a step made that comes before.
const EARLIER: &str = "the step that makes it came before";

impl<'a> Resumption<'a> {
    fn open(
        program: Program<'a>,
        named: &'a Named,
        dir: StateDir,
        looked: Looked,
        course: Course,
    ) -> Result<Self, Failure> {
        let Looked { pairing, binding, life: _, file, incident, remains: _, guest, older } = looked;
        let (mut store, last) = guest.expect("only a guest with an epoch continues");
        let right = Right::open(program.config, dir, pairing, named.witness.is_some())?;
        let fork = course.fork(last.fork, older.map(|kept| kept.fork));
        let back = match (course, &incident, older) {
            (Course::GoBack { .. }, Some(incident), Some(older)) => Some(Return::new(file, incident.clone(), &older)),
            _ => None,
        };
        if let (Course::Continue { rests: true }, Some(incident)) = (course, &incident) {
            store.rest_earlier(incident.relapse());
        }
        let opened = parts::open(&program.config.devices)?;
        Ok(Self {
            program,
            named,
            store,
            last,
            fork,
            binding,
            back,
            went_back: false,
            images: images_of(&opened.disks),
            opened: Some(opened),
            right: Some(right),
            looked: None,
            loaded: None,
            resumed: None,
            log: None,
            begun: None,
        })
    }

    fn perform(&mut self, step: ResumeStep) -> Result<(), Failure> {
        match step {
            ResumeStep::Examine => self.examine(),
            ResumeStep::Load => self.load(),
            ResumeStep::Claim => self.claim(),
            ResumeStep::Record => self.record(),
            ResumeStep::Recover => self.recover(),
            ResumeStep::NoteAttempt => self.back.as_mut().expect(EARLIER).note(),
            ResumeStep::GoBack => self.go_back(),
            ResumeStep::NoteEnd => self.note_end(),
            ResumeStep::Begin => self.begin(),
            ResumeStep::EmitAgain => {
                self.emit_again();
                Ok(())
            }
        }
    }

    fn examine(&mut self) -> Result<(), Failure> {
        let disks = &self.opened.as_ref().expect(EARLIER).disks;
        self.looked = Some(local::look_at_log(self.program.config, (&self.store, &self.binding), disks, &self.last)?);
        Ok(())
    }

    fn load(&mut self) -> Result<(), Failure> {
        let mut state = MachineState::decode(&self.last.state).map_err(MachineError::from)?;
        // The guest ran when it crashed: a pause of before was over.
        state.paused &= !self.went_back;
        self.loaded = Some((state, self.store.map_ram()?));
        Ok(())
    }

    fn claim(&mut self) -> Result<(), Failure> {
        let right = self.right.take().expect(EARLIER);
        self.resumed = Some(right.win(self.program.config, (self.fork, self.last.fork), &super::said(self.named))?);
        Ok(())
    }

    fn record(&mut self) -> Result<(), Failure> {
        let Program { config, described, .. } = &self.program;
        self.resumed.as_ref().expect(EARLIER).record(&config.state.dir)?;
        write_config(&config.state.dir, described)
    }

    fn recover(&mut self) -> Result<(), Failure> {
        let (found, life) = self.looked.take().expect(EARLIER);
        let log = found.recover()?;
        let disks = &self.opened.as_ref().expect(EARLIER).disks;
        self.store.bind_if_new(|| local::binding(&log, life, disks))?;
        self.log = Some(log);
        fault::reached(fault::DISKS_RECOVERED);
        Ok(())
    }

    fn go_back(&mut self) -> Result<(), Failure> {
        let (log, resumed) = (self.log.as_ref().expect(EARLIER), self.resumed.as_mut().expect(EARLIER));
        log.note_beside()?;
        // Nobody has memory mapped while it changes.
        self.loaded = None;
        let anew = Anew { branch: resumed.term, origin: resumed.origin, line: log.line() };
        let disks = &self.opened.as_ref().expect(EARLIER).disks;
        self.last = self.store.go_back(anew, &self.last.outputs, disks)?;
        resumed.origin = Origin::after(self.last.fork, BranchSeed(random()));
        self.went_back = true;
        Ok(())
    }

    fn note_end(&mut self) -> Result<(), Failure> {
        let back = self.back.take().expect(EARLIER);
        back.note_end(&mut self.store, self.last.fork, &self.program.events)?;
        if limits_of(&self.program.config.crash).is_none() {
            // They were for this way back.
            self.store.keep_earlier(None)?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Failure> {
        let (parts, inputs) = self.opened.take().expect(EARLIER).split();
        let (state, ram) = self.loaded.take().expect(EARLIER);
        let first = self.resumed.as_ref().expect(EARLIER).origin.first();
        let machine = EpochMachine::restore(state, ram, parts, self.program.config.epochs.pace(), first)?;
        self.begun = Some((machine, inputs));
        Ok(())
    }

    fn emit_again(&self) {
        let (machine, _) = self.begun.as_ref().expect(EARLIER);
        machine.egress().emit_again(&self.last.outputs);
        // From the next commit on they are not kept any more.
        machine.egress().drain_console(CONSOLE_END_WAIT);
        fault::reached(fault::EMITTED_AGAIN);
    }

    /// Runs the guest to its end.
    fn run(self, started: Instant) -> Result<Exit, Failure> {
        let Self { program, store, last, went_back, images, resumed, log, begun, .. } = self;
        let Resumed { registrant, term, origin, target, store: id } = resumed.expect(EARLIER);
        let (machine, inputs) = begun.expect(EARLIER);
        let config = program.config;
        program.events.note(Occurrence::Resumed {
            name: config.name.clone(),
            epoch: last.epoch().0,
            epoch_id: last.fork.name().to_string(),
            reemitted: last.outputs.len() as u64,
            restore_ms: started.elapsed().as_secs_f64() * 1e3,
        });
        let credentials = credentials_or_warning(config.detection.tls_dir.as_deref());
        let protection = guardian_config(config, credentials);
        let protection = GuardianConfig { term, origin, target, begins_afresh: false, store: id, ..protection };
        let launch = Launch {
            machine,
            inputs,
            log: log.expect(EARLIER),
            images,
            local: Some(store),
            // What the guest did after the epoch that it went back to was seen.
            begins_generation: went_back,
        };
        primary::serve(program, protection, registrant, launch)
    }
}
