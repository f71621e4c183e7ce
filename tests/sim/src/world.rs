//! The run: two hosts in their surroundings, event after event, the oracle after each.

use replication::backup::BackupState;
use replication::primary::PrimaryState;
use replication::{ClaimResult, SessionId};

use crate::backup_node::BackupNode;
use crate::disk::Disk;
use crate::env::{Crashed, Env, Event, HostId, Piece};
use crate::fault::{Step, What, When};
use crate::guest::Guest;
use crate::net::{Connection, Pipe};
use crate::plan::{Break, MS, Plan};
use crate::primary_node::PrimaryNode;
use crate::state_dir::StateDir;

mod faults;

/// How long healing may take.
const HEAL_MAX: u64 = 3_000 * MS;
/// Events of a run; more means that something turns in circles without time passing.
const EVENTS_MAX: u32 = 200_000;
/// Answers the client must get after the faults stopped.
const HEAL_ANSWERS: u64 = 2;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs, the client is answered, the guest is protected.
    Healed,
    /// Faults killed both copies of the guest; nothing that was seen contradicts.
    GuestLost,
    /// A rule was broken.
    Violation(String),
}

/// A run, in numbers.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// Takeovers.
    pub takeovers: u32,
    /// Guests resumed from a state directory.
    pub resumes: u32,
    /// Guests that crashed by themselves and were booted anew.
    pub resets: u32,
    /// Outputs the world got.
    pub outputs: u64,
    /// Requests answered.
    pub answers: u64,
}

/// What a host is.
enum Role {
    Primary(Box<PrimaryNode>),
    Backup(Box<BackupNode>),
    /// Somebody resumes the guest of its state directory, which asks the witness first.
    Resuming(Box<Remains>),
    /// Nothing runs.
    Down(Box<Remains>),
}

/// What a host that crashed has.
#[derive(Default)]
struct Remains {
    image: Vec<u8>,
    store: Option<StateDir>,
}

impl Remains {
    /// The state directory, if a guest could be resumed from it.
    fn resumable(&self) -> Option<&StateDir> {
        self.store.as_ref().filter(|store| store.last.is_some())
    }
}

struct Host {
    life: u32,
    role: Role,
}

/// A run in progress.
struct World {
    env: Env,
    hosts: [Host; 2],
    guest_lost: bool,
    answered_before_heal: u64,
}

/// Runs a seed.
pub fn run_seed(seed: u64, broken: Option<Break>) -> Summary {
    run(seed, broken, false).0
}

/// Runs a seed and tells it.
pub fn trace_seed(seed: u64, broken: Option<Break>) -> (Summary, Vec<String>) {
    run(seed, broken, true)
}

fn run(seed: u64, broken: Option<Break>, trace: bool) -> (Summary, Vec<String>) {
    let mut world = World::new(seed, Plan::of_seed(seed, broken), trace);
    let outcome = world.run();
    world.env.say(|| format!("the end: {outcome:?}"));
    let Env { oracle, client, takeovers, resumes, resets, .. } = &world.env;
    let (takeovers, resumes, resets) = (*takeovers, *resumes, *resets);
    let summary =
        Summary { outcome, takeovers, resumes, resets, outputs: oracle.outputs_seen, answers: client.answered };
    (summary, world.env.take_trace())
}

impl World {
    fn new(seed: u64, plan: Plan, trace: bool) -> World {
        let mut env = Env::new(seed, plan, trace);
        let first = HostId { host: 0, life: 0 };
        let primary = PrimaryNode::new(first, &mut env).expect("a run begins with both hosts alive");
        let backup = BackupNode::new(HostId { host: 1, life: 0 }, Disk::blank(), &env);
        let role = |role| Host { life: 0, role };
        let hosts = [role(Role::Primary(Box::new(primary))), role(Role::Backup(Box::new(backup)))];
        let mut world = World { env, hosts, guest_lost: false, answered_before_heal: 0 };
        world.schedule_start();
        world
    }

    fn schedule_start(&mut self) {
        let env = &mut self.env;
        for fault in env.plan.faults.clone() {
            env.say(|| format!("planned: {fault:?}"));
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
            self.dispatch(event);
            self.check();
            if let Some(text) = self.env.oracle.violation.take() {
                return Outcome::Violation(text);
            }
            if self.guest_lost {
                return self.end_of_lost_guest();
            }
            if self.env.healing && self.is_healed() {
                return self.end_of_healed();
            }
        }
        let answered = self.env.client.answered - self.answered_before_heal;
        Outcome::Violation(format!("did not heal: {answered} answers after the faults stopped; {}", self.describe()))
    }

    fn end_of_healed(&mut self) -> Outcome {
        for host in 0..2 {
            if let Role::Primary(node) = &self.hosts[host].role {
                self.env.oracle.check_history_of(host, &node.guest);
                self.env.oracle.check_image(host, &node.guest, &node.disk.view());
            }
        }
        self.env.oracle.check_nothing_lost();
        self.env.oracle.violation.take().map_or(Outcome::Healed, Outcome::Violation)
    }

    /// What was seen before must still be right, and a guest that crashes and nothing else begins anew.
    fn end_of_lost_guest(&mut self) -> Outcome {
        if let [fault] = self.env.plan.faults[..]
            && matches!(fault.what, What::GuestCrash(_))
        {
            self.env
                .oracle
                .fail(|| "a guest that crashed was not booted anew, though nothing else went wrong".to_owned());
        }
        self.env.oracle.violation.take().map_or(Outcome::GuestLost, Outcome::Violation)
    }

    /// One host runs the guest, the other one follows it, and the client is answered.
    fn is_healed(&self) -> bool {
        let answered = self.env.client.answered - self.answered_before_heal;
        let is_pair = |primary: usize| match (&self.hosts[primary].role, &self.hosts[1 - primary].role) {
            (Role::Primary(primary), Role::Backup(backup)) => {
                primary.core.state() == PrimaryState::Protected && backup.core.state() == BackupState::Protected
            }
            _ => false,
        };
        answered >= HEAL_ANSWERS && (is_pair(0) || is_pair(1))
    }

    fn describe(&self) -> String {
        let of = |host: &Host| match &host.role {
            Role::Primary(node) => format!("primary {:?} ({})", node.core.state(), node.core.pointers()),
            Role::Backup(node) => format!("backup {:?} ({})", node.core.state(), node.core.pointers()),
            Role::Resuming(_) => "resuming".to_owned(),
            Role::Down(_) => "down".to_owned(),
        };
        format!("host 0: {}; host 1: {}", of(&self.hosts[0]), of(&self.hosts[1]))
    }

    /// The oracle after every step.
    fn check(&mut self) {
        let oracle = &mut self.env.oracle;
        for (host, Host { role, .. }) in self.hosts.iter().enumerate() {
            match role {
                Role::Primary(node) => oracle.check_primary(host, node.core.pointers(), node.core.acked()),
                Role::Backup(node) => oracle.check_backup(host, node.core.pointers()),
                Role::Resuming(_) | Role::Down(_) => {}
            }
        }
        for (primary, backup) in [(0, 1), (1, 0)] {
            if let (Role::Primary(primary), Role::Backup(backup)) =
                (&self.hosts[primary].role, &self.hosts[backup].role)
            {
                let is_one = primary.core.link().map(|link| link.session) == backup.core.session_id();
                let is_following = backup.core.state() == BackupState::Protected;
                if let Some(acked) = primary.core.acked().filter(|_| is_one && is_following) {
                    oracle.check_across(primary.core.pointers(), acked, backup.core.pointers());
                }
            }
        }
    }

    fn is_current(&self, id: HostId) -> bool {
        self.hosts[id.host].life == id.life && !matches!(self.hosts[id.host].role, Role::Down(_))
    }

    /// The host an event is for, if it is for one and not for its surroundings.
    fn addressee(event: &Event) -> Option<usize> {
        match event {
            Event::Boundary(id) | Event::Timer(id) | Event::Connect(id) | Event::GiveUp(id) => Some(id.host),
            Event::Piece { from, .. } => Some(1 - from),
            Event::Shipped { to, .. } | Event::LocalDurable { to, .. } | Event::Durable { to, .. } => Some(to.host),
            Event::Apply { to, .. } | Event::Answer { to, .. } => Some(to.host),
            Event::Request { host, .. } => Some(*host),
            _ => None,
        }
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(host) = World::addressee(&event).filter(|host| self.env.paused_until[*host] > self.env.now) {
            return self.env.at(self.env.paused_until[host], event);
        }
        match event {
            Event::Fault(what) => self.strike(what),
            Event::Relief(what) => self.relieve(what),
            Event::Restart(host) => self.restart(host),
            Event::Heal => self.heal(),
            Event::ClaimArrives { by, holder, session } => self.witness(by, holder, session),
            Event::Response(said) => self.env.hear(said),
            Event::ClientRetry => {
                self.env.ask();
                self.env.after(9 * MS, Event::ClientRetry);
            }
            Event::Piece { connection, from, piece } => self.arrive(connection, from, piece),
            Event::Connect(id) => self.connect(id),
            Event::GiveUp(id) => self.give_up(id),
            event => self.deliver(event),
        }
    }

    /// Events for one host. A crash in the middle takes the host down.
    fn deliver(&mut self, event: Event) {
        let host = World::addressee(&event).expect("the others were dispatched");
        let result = match event {
            Event::Boundary(id) => self.primary(id, |node, env| node.handle_boundary(env)),
            Event::Timer(id) => self.timer(id),
            Event::Request { host, request } => {
                let id = HostId { host, life: self.hosts[host].life };
                self.primary(id, |node, _| {
                    node.handle_request(request);
                    Ok(())
                })
            }
            Event::Shipped { to, session, epoch } => self.primary(to, |node, env| {
                node.core.handle_shipped(env.time(), session, epoch);
                node.pump(env)
            }),
            Event::LocalDurable { to, epoch } => self.primary(to, |node, env| node.handle_local_durable(epoch, env)),
            Event::Durable { to, session, epoch } => {
                self.backup(to, |node, env| node.handle_durable(session, epoch, env))
            }
            Event::Apply { to, epoch } => self.backup(to, |node, env| node.handle_apply(&epoch, env)),
            Event::Answer { to, session, result } => self.answer(to, session, result),
            other => unreachable!("{other:?} is dispatched elsewhere"),
        };
        self.settle(host, result);
    }

    fn primary(
        &mut self,
        id: HostId,
        run: impl FnOnce(&mut PrimaryNode, &mut Env) -> Result<(), Crashed>,
    ) -> Result<(), Crashed> {
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
        match &mut self.hosts[id.host] {
            Host { life, role: Role::Backup(node) } if *life == id.life => run(node, &mut self.env),
            _ => Ok(()),
        }
    }

    fn timer(&mut self, id: HostId) -> Result<(), Crashed> {
        self.primary(id, |node, env| node.handle_timer(env))?;
        self.backup(id, |node, env| node.handle_timer(env))?;
        self.ask_to_resume(id)
    }

    fn answer(&mut self, to: HostId, session: SessionId, result: ClaimResult) -> Result<(), Crashed> {
        if !self.is_current(to) {
            return Ok(());
        }
        self.env.say(|| format!("host {} hears from the witness about {session}: {result:?}", to.host));
        self.env.step(to.host, Step::Answer, false)?;
        let (again, resuming) = (result.clone(), result.clone());
        self.primary(to, |node, env| {
            node.core.handle_claim(env.time(), session, result);
            node.pump(env)
        })?;
        self.backup(to, |node, env| {
            node.core.handle_claim(env.time(), session, again);
            node.pump(env)
        })?;
        self.answer_to_resume(to, resuming)?;
        self.env.step(to.host, Step::Answer, true)
    }

    /// Asks the witness for the session that the state directory names, if it names one, and goes on.
    fn ask_to_resume(&mut self, id: HostId) -> Result<(), Crashed> {
        let Host { life, role: Role::Resuming(remains) } = &self.hosts[id.host] else { return Ok(()) };
        if *life != id.life {
            return Ok(());
        }
        let store = remains.resumable().expect("only such a host resumes");
        match store.session.filter(|_| self.env.plan.broken != Some(Break::ResumeWithoutClaim)) {
            None => self.resume(id),
            Some(session) => {
                let holder = store.holder;
                self.env.say(|| format!("host {} asks for session {session} to resume", id.host));
                self.env.claim(id, holder, session);
                Ok(())
            }
        }
    }

    fn answer_to_resume(&mut self, id: HostId, result: ClaimResult) -> Result<(), Crashed> {
        if !matches!(&self.hosts[id.host], Host { life, role: Role::Resuming(_) } if *life == id.life) {
            return Ok(());
        }
        match result {
            ClaimResult::Granted => self.resume(id),
            ClaimResult::Denied { .. } => {
                self.start_backup(id);
                Ok(())
            }
            ClaimResult::Unreachable => {
                self.env.after(self.env.plan.claim_retry, Event::Timer(id));
                Ok(())
            }
        }
    }

    fn resume(&mut self, id: HostId) -> Result<(), Crashed> {
        let Host { role, .. } = &mut self.hosts[id.host];
        let Role::Resuming(remains) = std::mem::replace(role, Role::Down(Box::default())) else {
            unreachable!("only a host that resumes does");
        };
        let store = remains.store.expect("only a host with a state directory resumes");
        let last = store.last.as_ref().expect("only a host with an epoch resumes");
        let env = &mut self.env;
        env.resumes += 1;
        env.say(|| format!("host {} RESUMES from epoch {}", id.host, last.epoch));
        env.oracle.goes_on(id.host, last.epoch, &last.guest, &last.image);
        let (node, begun) = PrimaryNode::resume(id, store, env);
        self.hosts[id.host].role = Role::Primary(Box::new(node));
        self.env.after(MS, Event::Connect(id));
        begun?;
        self.env.step(id.host, Step::Resume, true)
    }

    /// After a host did something: it may be gone, or may be about to take over.
    fn settle(&mut self, host: usize, result: Result<(), Crashed>) {
        if result.is_err() {
            return self.crash(host, false);
        }
        let over = match &mut self.hosts[host].role {
            Role::Backup(node) => node.over.take(),
            _ => None,
        };
        if let Some(over) = over {
            self.take_over(host, *over);
        }
        self.stop_if_fenced(host);
        self.begin_anew_if_ended(host);
    }

    /// A guest that crashed, and that nobody else goes on with, is booted in the same process.
    fn begin_anew_if_ended(&mut self, host: usize) {
        let Host { life, role } = &mut self.hosts[host];
        let Role::Primary(node) = role else { return };
        if node.core.state() != PrimaryState::Ended {
            return;
        }
        *life += 1;
        let (id, (holder, term)) = (HostId { host, life: *life }, node.next_life());
        let env = &mut self.env;
        env.resets += 1;
        env.say(|| format!("host {host} BOOTS its guest anew, term {term}"));
        if let Some(stream) = &node.stream {
            env.close(stream.connection, host);
        }
        env.oracle.begins_anew();
        let (node, begun) = PrimaryNode::boot(id, holder, term, env);
        self.hosts[host].role = Role::Primary(Box::new(node));
        self.env.after(MS, Event::Connect(id));
        self.settle(host, begun);
    }

    /// The witness has not said in time that nobody else goes on with a guest that crashed: it is stopped for good.
    fn give_up(&mut self, id: HostId) {
        let Host { life, role: Role::Primary(node) } = &mut self.hosts[id.host] else { return };
        if *life != id.life || !node.has_crashed() {
            return;
        }
        node.store = None;
        self.crash(id.host, false);
        let delay = self.env.rng.range(MS, 30 * MS);
        self.env.after(delay, Event::Restart(id.host));
    }

    fn take_over(&mut self, host: usize, over: replication::TakeOver) {
        let Role::Backup(node) = std::mem::replace(&mut self.hosts[host].role, Role::Down(Box::default())) else {
            unreachable!("only a backup takes over");
        };
        let env = &mut self.env;
        env.takeovers += 1;
        env.say(|| format!("host {host} TAKES OVER from epoch {}, goes on with {}", over.from, over.next_epoch));
        let guest = Guest::restore(&over.state, node.memory.clone());
        env.oracle.goes_on(host, over.from, &guest, &node.image);
        let id = HostId { host, life: self.hosts[host].life };
        let image = node.into_disk().image;
        if env.plan.broken == Some(Break::NoHealing) {
            return;
        }
        let started = PrimaryNode::take_over(id, guest, image.clone(), over, env);
        let Ok(node) = started else {
            self.hosts[host].role = Role::Down(Box::new(Remains { image, store: None }));
            return self.crashed(host, false);
        };
        self.hosts[host].role = Role::Primary(Box::new(node));
        self.env.after(MS, Event::Connect(id));
        let result = self.env.step(host, Step::TakeOver, true);
        if result.is_err() {
            self.crash(host, false);
        }
    }

    /// A fenced primary stops; its host comes back as a backup.
    fn stop_if_fenced(&mut self, host: usize) {
        let is_fenced =
            matches!(&self.hosts[host].role, Role::Primary(node) if node.core.state() == PrimaryState::Fenced);
        if is_fenced {
            self.crash(host, false);
            let delay = self.env.rng.range(MS, 30 * MS);
            self.env.after(delay, Event::Restart(host));
        }
    }

    fn connect(&mut self, id: HostId) {
        if !self.is_current(id) {
            return;
        }
        self.env.after(5 * MS, Event::Connect(id));
        let (host, peer) = (id.host, 1 - id.host);
        let Role::Primary(node) = &self.hosts[host].role else { return };
        let Role::Backup(other) = &self.hosts[peer].role else { return };
        let is_paused = self.env.paused_until[peer] > self.env.now;
        let is_free = node.core.wants_connection() && node.stream.is_none() && other.stream.is_none();
        if !is_free || is_paused || !self.env.net.link_up {
            return;
        }
        let number = self.env.net.connection.id + 1;
        self.env.net.connection = Connection { id: number, pipes: <[Pipe; 2]>::default() };
        let to = HostId { host: peer, life: self.hosts[peer].life };
        let result = self.backup(to, |node, env| node.handle_connected(number, env));
        self.settle(peer, result);
        let result = self.primary(id, |node, env| node.handle_connected(number, env));
        self.settle(host, result);
    }

    /// A piece of a stream came to the end of its way. A cut keeps it there.
    fn arrive(&mut self, connection: u64, from: usize, piece: Piece) {
        if self.env.net.connection.id != connection {
            return;
        }
        self.env.net.connection.pipes[from].stalled.push_back(piece);
        self.flush(from);
    }

    fn flush(&mut self, from: usize) {
        let to = 1 - from;
        while self.env.net.link_up && self.env.paused_until[to] <= self.env.now {
            let connection = self.env.net.connection.id;
            let Some(piece) = self.env.net.connection.pipes[from].stalled.pop_front() else { return };
            let id = HostId { host: to, life: self.hosts[to].life };
            let result = self.take_piece(id, connection, &piece);
            self.settle(to, result);
        }
    }

    fn take_piece(&mut self, id: HostId, connection: u64, piece: &Piece) -> Result<(), Crashed> {
        let is_open = match &self.hosts[id.host].role {
            Role::Primary(node) => node.stream.as_ref().is_some_and(|stream| stream.connection == connection),
            Role::Backup(node) => node.stream.as_ref().is_some_and(|stream| stream.connection == connection),
            Role::Resuming(_) | Role::Down(_) => false,
        };
        match piece {
            _ if !is_open => Ok(()),
            Piece::Bytes(bytes) => {
                self.primary(id, |node, env| node.handle_bytes(bytes, env))?;
                self.backup(id, |node, env| node.handle_bytes(bytes, env))
            }
            Piece::End => {
                self.primary(id, |node, env| node.handle_disconnected(env))?;
                self.backup(id, |node, env| node.handle_disconnected(env))
            }
        }
    }

    /// The witness decides: whoever asks first has the session for ever.
    fn witness(&mut self, by: HostId, as_holder: HostId, session: SessionId) {
        let env = &mut self.env;
        let holder = *env.witness.entry(session).or_insert(as_holder);
        let is_granted = holder == as_holder || env.plan.broken == Some(Break::WitnessForgets);
        let result = match is_granted {
            true => ClaimResult::Granted,
            false => ClaimResult::Denied { holder: format!("host {}", holder.host) },
        };
        // The answer can be lost although the claim counts.
        let is_lost = !env.net.witness_up[by.host] || (!env.healing && env.rng.percent(5));
        let result = if is_lost { ClaimResult::Unreachable } else { result };
        let delay = env.rng.range(100_000, 5 * MS);
        env.after(delay, Event::Answer { to: by, session, result });
        self.look_for_a_survivor();
    }
}
