//! The run: two hosts in their surroundings, event after event, the oracle after each.

use replication::backup::BackupState;
use replication::pipeline::resuming::{
    Asked, Course, CrashStanding, Found, Remains as Left, ResumeStep, Resuming, Teller, decide,
};
use replication::primary::{PrimaryState, Question as Wanted};
use replication::view::{Excerpt, Incarnation, Record, Standing};
use replication::{ClaimResult, EpochId, Fork, Term};

use crate::backup_node::BackupNode;
use crate::counts::Counts;
use crate::disk::Disk;
use crate::env::{Crashed, Env, Event, HostId, Lane, Piece};
use crate::fault::{HOSTS, SPARE, Step, What, When};
use crate::guest::Guest;
use crate::machines::{host_of, store_of};
use crate::oracle::{Rule, Violation};
use crate::panics;
use crate::plan::{Break, MS, OnCrash, Plan};
use crate::primary_node::PrimaryNode;
use crate::state_dir::StateDir;
use crate::storage::Files;
use crate::story::{Line, words};
use crate::witness::{Answer, Believed, Named, Question};
use replication::primary::Meeting;

mod back;
mod beside;
mod faults;
mod links;
mod starts;
mod truth;

/// How long healing may take.
const HEAL_MAX: u64 = 3_000 * MS;
/// How often a host looks at the newest record by itself.
pub(crate) const LOOK_EVERY: u64 = 50 * MS;
/// Events of a run; more means that something turns in circles without time passing.
const EVENTS_MAX: u32 = 200_000;
/// An operator says what nothing proves so long after the faults stopped.
const OPERATOR_AFTER: u64 = 100 * MS;
/// Answers the client must get after the faults stopped.
const HEAL_ANSWERS: u64 = 2;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs, the client is answered, the guest is protected.
    Healed,
    /// A rule was broken.
    Violation(Violation),
    /// The witness went back on what it had said, and a host believed it that could not know: no rule can hold from there on.
    Betrayed,
}

/// A run, in numbers.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// What became of guests.
    pub counts: Counts,
    /// Outputs the world got.
    pub outputs: u64,
    /// Requests answered.
    pub answers: u64,
}

/// What a host is.
enum Role {
    Primary(Box<PrimaryNode>),
    Backup(Box<BackupNode>),
    /// Somebody starts the VM here, and asks the witness first: to resume it from its state directory, or to begin it.
    Starting(Box<Remains>),
    /// Nothing runs.
    Down(Box<Remains>),
}

/// What a host that crashed has.
struct Remains {
    files: Files,
    store: Option<StateDir>,
    /// The guest is being resumed, and the register is asked.
    resuming: Option<Resuming>,
    /// A guest that crashed is to boot again, which did not come about.
    resets: bool,
}

impl Default for Remains {
    fn default() -> Remains {
        Remains { files: Files::new(Disk::blank(), 0), store: None, resuming: None, resets: false }
    }
}

impl Remains {
    /// What is found of the guest. An operator names dead places, not backups.
    fn found(&self) -> Found {
        let guest = match &self.store {
            None => Left::Nothing,
            Some(store) if store.last.is_none() => Left::Begun,
            Some(_) => Left::Epoch,
        };
        let store = self.store.as_ref();
        let crash = store.map_or(CrashStanding::None, StateDir::crash);
        let has_older = store.is_some_and(|store| store.older().is_some());
        Found { guest, resets: self.resets, crash, has_older, teller: Teller::Register }
    }

    /// The state directory, if a guest could be resumed from it.
    fn resumable(&self) -> Option<&StateDir> {
        self.store.as_ref().filter(|store| store.last.is_some())
    }
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Role::Primary(_) => "primary",
            Role::Backup(_) => "backup",
            Role::Starting(_) => "starting",
            Role::Down(_) => "down",
        }
    }
}

struct Host {
    life: u32,
    role: Role,
}

/// A run in progress.
struct World {
    env: Env,
    hosts: [Host; HOSTS],
    /// Nothing happens that a protected guest should notice, while faults strike.
    is_calm: bool,
    /// The host whose guest is protected.
    protected: Option<usize>,
    answered_before_heal: u64,
    /// Starts beside.
    beside: Vec<beside::Beside>,
    /// What stands where the state directory of a host was, which lives on in that.
    replaced: [Option<Option<StateDir>>; HOSTS],
    /// Whom the primary on a host connects to.
    targets: [usize; HOSTS],
}

/// Runs a seed.
pub fn run_seed(seed: u64, broken: Option<Break>) -> Summary {
    run_plan(seed, Plan::of_seed(seed, broken))
}

/// Runs a plan with the chance of a seed.
pub fn run_plan(seed: u64, plan: Plan) -> Summary {
    run(seed, plan, false).0
}

/// Runs a plan with the chance of a seed, and tells it.
pub fn trace_plan(seed: u64, plan: Plan) -> (Summary, Vec<Line>) {
    run(seed, plan, true)
}

/// Runs a seed and tells it.
pub fn trace_seed(seed: u64, broken: Option<Break>) -> (Summary, Vec<Line>) {
    trace_plan(seed, Plan::of_seed(seed, broken))
}

fn run(seed: u64, plan: Plan, trace: bool) -> (Summary, Vec<Line>) {
    let mut world = World::new(seed, plan, trace);
    let outcome = panics::catch(|| world.run());
    let outcome = outcome.unwrap_or_else(|text| Outcome::Violation(Violation { rule: Rule::NoPanic, by: None, text }));
    let Env { oracle, client, counts, .. } = &world.env;
    let summary = Summary { outcome, counts: *counts, outputs: oracle.outputs_seen, answers: client.answered };
    (summary, world.env.take_trace())
}

impl World {
    fn new(seed: u64, plan: Plan, trace: bool) -> World {
        let mut env = Env::new(seed, plan, trace);
        let first = HostId { host: 0, life: 0 };
        let place = env.plan.local.then(|| store_of(first));
        env.witness.begin_first(first, place);
        let (primary, begun) = PrimaryNode::boot(first, Term(1), &mut env);
        begun.expect("a run begins with both hosts alive");
        let blank = || Files::new(Disk::blank(), env.plan.log_room);
        let backup = BackupNode::new(HostId { host: 1, life: 0 }, blank(), &env);
        let role = |role| Host { life: 0, role };
        let spare = match env.plan.has_several {
            true => {
                env.witness.begin_life(HostId { host: SPARE, life: 0 });
                Role::Backup(Box::new(BackupNode::new(HostId { host: SPARE, life: 0 }, blank(), &env)))
            }
            false => Role::Down(Box::new(Remains { files: blank(), ..Remains::default() })),
        };
        let hosts = [Role::Primary(Box::new(primary)), Role::Backup(Box::new(backup)), spare];
        let hosts = hosts.map(role);
        let is_calm = env.plan.faults.iter().all(|fault| matches!(fault.what, What::Stranger(..)));
        let mut world = World {
            env,
            hosts,
            is_calm,
            protected: None,
            answered_before_heal: 0,
            beside: Vec::new(),
            replaced: Default::default(),
            targets: [1, 0, 0],
        };
        world.schedule_start();
        world
    }

    fn schedule_start(&mut self) {
        let env = &mut self.env;
        env.after(LOOK_EVERY, Event::Look { by: HostId { host: 1, life: 0 }, again: true });
        if env.plan.has_several {
            env.after(LOOK_EVERY, Event::Look { by: HostId { host: SPARE, life: 0 }, again: true });
        }
        for fault in env.plan.faults.clone() {
            if let When::At(time) = fault.when {
                env.at(time, Event::Fault(fault.what));
            }
        }
        env.at(env.plan.heal_at, Event::Heal);
        env.after(0, Event::Connect(HostId { host: 0, life: 0 }));
        env.after(0, Event::ClientRetry);
    }

    fn run(&mut self) -> Outcome {
        let deadline = self.env.plan.heal_at + HEAL_MAX;
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.env.next_event().filter(|_| self.env.now <= deadline) else { break };
            if self.env.is_told() {
                self.env.roles = self.hosts.each_ref().map(|host| host.role.name());
            }
            self.dispatch(event);
            self.check();
            if let Some(violation) = self.env.oracle.violation.take() {
                return Outcome::Violation(violation);
            }
            if let Some(Believed::Unknowingly(host)) = self.env.witness.believed {
                self.env.say(|| format!("host {host} believes the witness, which has forgotten what others were told"));
                return Outcome::Betrayed;
            }
            if self.env.healing && self.is_healed() {
                return self.end_of_healed();
            }
        }
        let answered = self.env.client.answered - self.answered_before_heal;
        let text = format!("did not heal: {answered} answers after the faults stopped; {}", self.describe());
        Outcome::Violation(Violation { rule: Rule::Heals, by: None, text })
    }

    fn end_of_healed(&mut self) -> Outcome {
        let by_right = self.env.witness.newest().map(|record| record.primary.id);
        for host in 0..HOSTS {
            // One that stands still may not know yet that it is deposed.
            if by_right != Some(self.env.witness.place(host).id) {
                continue;
            }
            if let Role::Primary(node) = &self.hosts[host].role {
                self.env.oracle.check_history_of(host, &node.machine.guest);
                self.env.oracle.check_image(host, &node.machine.guest, &node.machine.disk.view());
            }
        }
        self.env.oracle.check_nothing_lost();
        self.env.oracle.violation.take().map_or(Outcome::Healed, Outcome::Violation)
    }

    /// One host runs the guest, the other one follows it, and the client is answered.
    fn is_healed(&self) -> bool {
        let answered = self.env.client.answered - self.answered_before_heal;
        let is_protected = |(primary, backup): &(&PrimaryNode, &BackupNode)| {
            primary.core().state() == PrimaryState::Protected && backup.core().state() == BackupState::Protected
        };
        let backups = if self.env.plan.has_several { HOSTS - 1 } else { 1 };
        answered >= HEAL_ANSWERS && self.pairs().filter(is_protected).count() >= backups
    }

    fn describe(&self) -> String {
        let of = |host: &Host| match &host.role {
            Role::Primary(node) => {
                format!("primary {:?} ({}) {}", node.core().state(), node.core().pointers(), node.describe())
            }
            Role::Backup(node) => format!("backup {:?} ({})", node.core().state(), node.core().pointers()),
            Role::Starting(_) => "starting".to_owned(),
            Role::Down(_) => "down".to_owned(),
        };
        let hosts = self.hosts.iter().enumerate().map(|(host, role)| format!("host {host}: {}", of(role)));
        hosts.collect::<Vec<_>>().join("; ")
    }

    /// The oracle after every step.
    fn check(&mut self) {
        let oracle = &mut self.env.oracle;
        for (host, Host { role, .. }) in self.hosts.iter().enumerate() {
            match role {
                Role::Primary(node) => oracle.check_primary(host, node.core().pointers(), node.core().slowest_acked()),
                Role::Backup(node) => oracle.check_backup(host, node.core().pointers()),
                Role::Starting(_) | Role::Down(_) => {}
            }
        }
        if let Some(Believed::Knowingly(host)) = self.env.witness.believed {
            let text = || format!("host {host} appended to a register that is older than what it had seen there");
            oracle.fail(Rule::OldRegister, host, text);
        }
        if self.env.witness.has_equal_generations {
            let text =
                || "a register was continued by one of no higher generation: nobody can tell which counts".to_owned();
            oracle.fail(Rule::OldRegister, None, text);
        }
        if let Some(join) = self.env.witness.listed_again() {
            let text = || format!("the newest record lists {join}, which was void and is not stated any more");
            oracle.fail(Rule::VoidStated, None, text);
        }
        let protected = self.hosts.iter().position(
            |host| matches!(&host.role, Role::Primary(node) if node.core().state() == PrimaryState::Protected),
        );
        if let Some(host) = self.protected.filter(|_| self.is_calm && protected != self.protected) {
            let text = || format!("host {host} was protected, and is not any more, though only strangers came");
            oracle.fail(Rule::StrangersChangeNothing, host, text);
        }
        self.protected = protected;
        let life = self.env.oracle.generation;
        let across = self.pairs().filter(|(_, backup)| backup.core().state() == BackupState::Protected);
        let across = across.filter_map(|(primary, backup)| {
            let image = backup.written_image(life).map(|image| (backup.host(), image));
            let committed = (primary.branch(), primary.core().pointers().committed());
            let acked = primary.core().acked(primary.core().peer_of(backup.core().session_id()?)?)?;
            Some((primary.core().pointers(), acked, backup.core().pointers(), image, committed))
        });
        for (primary, acked, backup, image, committed) in across.collect::<Vec<_>>() {
            self.env.oracle.check_across(primary, acked, backup);
            if let Some((host, image)) = image {
                self.env.oracle.check_committed_image(host, life, committed, &image);
            }
        }
    }

    /// A primary and a backup that are of one session.
    fn pairs(&self) -> impl Iterator<Item = (&PrimaryNode, &BackupNode)> {
        let primaries = self.hosts.iter().filter_map(|host| match &host.role {
            Role::Primary(node) => Some(node.as_ref()),
            _ => None,
        });
        primaries.flat_map(|primary| {
            let backups = self.hosts.iter().filter_map(|host| match &host.role {
                Role::Backup(node) => Some(node.as_ref()),
                _ => None,
            });
            let is_of_it =
                |backup: &&BackupNode| backup.core().session_id().is_some_and(|id| primary.core().is_current(id));
            backups.filter(is_of_it).map(move |backup| (primary, backup))
        })
    }

    fn is_current(&self, id: HostId) -> bool {
        self.hosts[id.host].life == id.life && !matches!(self.hosts[id.host].role, Role::Down(_))
    }

    /// The host an event is for, if it is for one and not for its surroundings.
    fn addressee(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Boundary(id) | Event::Timer(id) | Event::Connect(id) | Event::GiveUp(id) => Some(id.host),
            Event::Look { by, .. } => Some(by.host),
            Event::Piece { connection, side, .. } => self.env.net.receiver(*connection, *side).flatten(),
            Event::Lane { to, .. } => Some(to.host),
            Event::AskAnswered { to, .. } | Event::Learn { to, .. } | Event::Ask { by: to, .. } => Some(to.host),
            Event::Request { host, .. } => Some(*host),
            _ => None,
        }
    }

    fn dispatch(&mut self, event: Event) {
        self.env.do_late();
        if let Some(host) = self.addressee(&event).filter(|host| self.env.is_paused(*host)) {
            return self.env.at(self.env.paused_until[host], event);
        }
        match event {
            Event::Fault(what) => self.strike(what),
            Event::Relief(what) => self.relieve(what),
            Event::Restart(host) => self.restart(host),
            Event::Heal => self.heal(),
            Event::Operate => self.operate(),
            Event::AskArrives { asked, is_late } => self.env.ask_arrives(&asked, is_late),
            Event::StartBeside(number) => self.start_beside(number),
            Event::Ask { by, question } if self.is_current(by) => self.env.ask(by, question),
            Event::Ask { .. } => {}
            Event::Response(said) => self.env.hear(said),
            Event::ClientRetry => {
                self.env.request();
                self.env.after(9 * MS, Event::ClientRetry);
            }
            Event::Piece { connection, side, piece } => self.arrive(connection, side, piece),
            Event::Connect(id) => self.connect(id),
            Event::GiveUp(id) => self.give_up(id),
            event => self.deliver(event),
        }
    }

    /// Events for one host. A crash in the middle takes the host down.
    fn deliver(&mut self, event: Event) {
        let host = self.addressee(&event).expect("the others were dispatched");
        let result = match event {
            Event::Boundary(id) => self.primary(id, |node, env| node.handle_boundary(env)),
            Event::Timer(id) => self.timer(id),
            Event::Request { host, request } => {
                let id = HostId { host, life: self.hosts[host].life };
                self.primary(id, |node, _| {
                    node.machine.handle_request(request);
                    Ok(())
                })
            }
            Event::Look { by, again } => {
                if again && self.is_current(by) {
                    self.env.after(LOOK_EVERY, Event::Look { by, again });
                }
                self.look(by)
            }
            Event::Lane { to, lane } => self.lane(to, lane),
            Event::AskAnswered { to, found } => self.hear(to, found),
            Event::Learn { to, question, answer } => self.learn(to, question, answer),
            other => unreachable!("{other:?} is dispatched elsewhere"),
        };
        self.settle(host, result);
    }

    fn look(&mut self, by: HostId) -> Result<(), Crashed> {
        self.backup(by, |node, env| {
            node.look(env);
            Ok(())
        })?;
        self.primary(by, |node, env| node.look(env))
    }

    fn primary(
        &mut self,
        id: HostId,
        run: impl FnOnce(&mut PrimaryNode, &mut Env) -> Result<(), Crashed>,
    ) -> Result<(), Crashed> {
        self.env.host = id.host;
        match &mut self.hosts[id.host] {
            Host { life, role: Role::Primary(node) } if *life == id.life => run(node, &mut self.env),
            _ => Ok(()),
        }
    }

    fn backup(
        &mut self,
        id: HostId,
        run: impl FnOnce(&mut BackupNode, &mut Env) -> Result<(), Crashed>,
    ) -> Result<(), Crashed> {
        self.env.host = id.host;
        match &mut self.hosts[id.host] {
            Host { life, role: Role::Backup(node) } if *life == id.life => run(node, &mut self.env),
            _ => Ok(()),
        }
    }

    fn timer(&mut self, id: HostId) -> Result<(), Crashed> {
        self.primary(id, |node, env| node.handle_timer(env))?;
        self.backup(id, |node, env| node.handle_timer(env))
    }

    fn lane(&mut self, to: HostId, lane: Lane) -> Result<(), Crashed> {
        self.primary(to, |node, env| node.handle_lane(lane, env))?;
        self.backup(to, |node, env| node.handle_lane(lane, env))
    }

    fn hear(&mut self, to: HostId, found: Option<Excerpt>) -> Result<(), Crashed> {
        let Some((learned, next)) = self.env.witness.hear(to, found) else { return Ok(()) };
        if let Some(asked) = next {
            self.env.send_ask(asked);
        }
        self.env.tell_ready();
        match learned {
            Some((question, answer)) => self.learn(to, question, answer),
            None => Ok(()),
        }
    }

    fn learn(&mut self, to: HostId, question: Question, answer: Answer) -> Result<(), Crashed> {
        if !self.is_current(to) {
            return Ok(());
        }
        let words = |question, answer| format!("asked: {} {}", words::question(question), words::answer(answer));
        self.env.say(|| format!("host {} {}", to.host, words(&question, &answer)));
        self.env.step(to.host, Step::Answer, false)?;
        let result = answer.claim();
        if let Some(settlement) = self.env.witness.take_settlement(to.host) {
            self.env.say(|| format!("host {} settles the exchange of the witness: {settlement:?}", to.host));
            self.primary(to, |node, env| node.tell(env, |core| core.handle_exchange_settled(settlement)))?;
        }
        match question {
            Question::Forswear { .. } => {
                let Answer::Forsworn(forsworn) = answer else { unreachable!("it is answered so") };
                self.backup(to, |node, env| node.handle_forsworn(forsworn, env))?;
            }
            Question::Begin { .. } | Question::Resume { .. } => self.learn_of_start(to, question, answer)?,
            Question::Introduce(_) => {
                let is_known = result == ClaimResult::Granted || self.env.plan.broken == Some(Break::SecondPrimary);
                self.backup(to, |node, env| node.handle_introduced(is_known, env))?;
            }
            Question::TakeOver { fork, is_named, .. } => {
                if result == ClaimResult::Granted {
                    let is_won = matches!(answer, Answer::Won(_));
                    self.note_takeover(to.host, fork, is_named && is_won);
                }
                self.backup(to, |node, env| node.handle_claimed(result, env))?;
            }
            question => self.primary(to, |node, env| {
                let now = env.time();
                node.tell(env, |core| match (question, &answer) {
                    (Question::DelistStore, _) => core.handle_store_delisted(now, result),
                    (Question::Claim { session }, _) => core.handle_claim(now, session, result),
                    (Question::Delist { session }, _) => core.handle_delisted(now, session, result),
                    (Question::Enlist { session, .. }, _) => core.handle_enlisted(now, session, result),
                    (Question::Look, _) => core.handle_looked(now, result),
                    (Question::UnaskedLook, _) => core.handle_unasked_look(result),
                    (Question::RecordEnd { .. }, _) => core.handle_end_recorded(now, result),
                    (Question::Move { heir, .. }, _) => {
                        core.handle_move_answered(now, &Wanted::Move { heir, nonces: Vec::new() }, result);
                    }
                    (Question::CallOff { heir }, _) => {
                        core.handle_move_answered(now, &Wanted::CallOff { heir }, result);
                    }
                    (Question::Meet { session, .. }, Answer::Met(meeting)) => core.handle_met(now, session, *meeting),
                    // A rule that is broken: nobody looked.
                    (Question::Meet { session, .. }, _) => core.handle_met(now, session, Meeting::Same),
                    (question, _) => unreachable!("{question:?} is not a primary's"),
                })
            })?,
        }
        self.env.step(to.host, Step::Answer, true)
    }

    /// After a host did something: it may be gone, or may be about to take over.
    fn settle(&mut self, host: usize, result: Result<(), Crashed>) {
        if result.is_err() {
            let power = std::mem::take(&mut self.env.loses_power[host]);
            return self.crash(host, power);
        }
        let over = match &mut self.hosts[host].role {
            Role::Backup(node) => node.over.take(),
            _ => None,
        };
        if let Some(over) = over {
            self.take_over(host, *over);
        }
        self.stop_if_over(host);
        self.note_end(host);
    }

    /// A guest that crashed, and that nobody else goes on with, is booted in the same process; one that was stopped is over.
    fn note_end(&mut self, host: usize) {
        let Host { life, role } = &mut self.hosts[host];
        let Role::Primary(node) = role else { return };
        if !node.is_closed() {
            return;
        }
        let (begins_anew, generation, keeps_last) = (node.begins_anew(), node.generation(), node.keeps_last());
        let files = node.machine.disk.files.clone();
        let store = node.store.take().filter(|_| keeps_last);
        for connection in node.connections() {
            self.env.close(connection, host);
        }
        *life += 1;
        let id = HostId { host, life: *life };
        if let Some(mut store) = store {
            self.env.witness.machines.end(host);
            if !begins_anew {
                self.env.say(|| format!("host {host} has STOPPED its guest, and keeps it"));
                self.env.counts.stops += 1;
                self.env.oracle.stopped(generation);
                store.stand(CrashStanding::Stopped);
            }
            self.hosts[host].role = Role::Down(self.left(host, files, Some(store)));
            if begins_anew {
                self.start(host, true);
            }
        } else if begins_anew {
            self.env.counts.resets += 1;
            let mut remains = self.left(host, files, None);
            remains.resets = true;
            self.start_fresh(id, *remains);
        } else {
            self.env.say(|| format!("host {host} has ENDED its guest"));
            self.env.oracle.ended(generation);
            self.env.witness.machines.end(host);
            self.hosts[host].role = Role::Down(self.left(host, files, None));
        }
    }

    fn take_over(&mut self, host: usize, over: replication::TakeOver) {
        let Role::Backup(node) = std::mem::replace(&mut self.hosts[host].role, Role::Down(Box::default())) else {
            unreachable!("only a backup takes over");
        };
        let env = &mut self.env;
        env.host = host;
        env.counts.takeovers += 1;
        env.say(|| format!("host {host} TAKES OVER from epoch {}", over.fork));
        let guest = Guest::restore(&over.state, node.memory.clone());
        let files = node.into_files();
        env.oracle.goes_on(host, Fork::Mark(over.fork), &guest, &files.image.bytes());
        if over.handover.is_some() {
            env.oracle.handed_over(host, over.fork, over.reemit.len() + over.redeliver.len());
        }
        self.check_not_ended(host);
        let env = &mut self.env;
        let id = HostId { host, life: self.hosts[host].life };
        if env.plan.broken == Some(Break::NoHealing) {
            self.hosts[host].role = Role::Starting(Box::default());
            return;
        }
        let term = env.witness.newest().filter(|record| record.primary.id == env.witness.place(host).id);
        if let Some(record) = term {
            env.oracle.check_recorded_fork(host, record.fork, over.fork);
        }
        let members = term.filter(|_| env.plan.broken != Some(Break::ForgetMembers));
        let members = members.into_iter().flat_map(|record| &record.backups).map(|member| member.join).collect();
        let term = term.map_or(over.term, |record| Term(record.branch));
        let (node, begun) = PrimaryNode::take_over(id, (term, members), guest, files, over, env);
        self.hosts[host].role = Role::Primary(Box::new(node));
        self.env.after(MS, Event::Connect(id));
        if begun.and_then(|()| self.env.step(host, Step::TakeOver, true)).is_err() {
            let power = std::mem::take(&mut self.env.loses_power[host]);
            self.crash(host, power);
        }
    }

    /// A fenced primary stops, and a backup whose guest ended; a supervisor starts them again.
    fn stop_if_over(&mut self, host: usize) {
        let is_over = match &self.hosts[host].role {
            Role::Primary(node) => {
                let is_decided = matches!(node.core().state(), PrimaryState::Fenced | PrimaryState::Ended);
                node.core().state() == PrimaryState::Fenced || node.has_failed() || (node.is_given_up() && !is_decided)
            }
            Role::Backup(node) => node.has_ended,
            Role::Starting(_) | Role::Down(_) => false,
        };
        if is_over {
            self.crash(host, false);
            let delay = self.env.rng.range(MS, 30 * MS);
            self.env.after(delay, Event::Restart(host));
        }
    }
}
