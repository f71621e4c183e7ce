//! Runs of the model, done again by the product's cores: what the model says of commits, acks, questions and forks, a
//! [`replication::Primary`] and a [`replication::Backup`] must say too, after every step, through their real bytes.
//!
//! So the part of the model that is made up is no model of something else.

mod backup;
mod primary;

use std::collections::BTreeMap;
use std::time::Duration;

use replication::{ClaimResult, Time, view};

use crate::action::{self, Action, Fate};
use crate::name::HostId;
use crate::play::{self, Setting};
use crate::world::{Errand, Role, World};
use backup::BackupCore;
use primary::PrimaryCore;

/// Nothing that is waited for so long happens.
const NEVER: Duration = Duration::from_secs(1 << 24);
/// What is put again is put again at once.
const SOON: Duration = Duration::from_nanos(1);

/// So much more often is drawn what does not break a run off.
const OFTEN: usize = 8;

/// How often things happened in runs that were done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Steps.
    pub steps: u64,
    /// Bases sealed.
    pub bases: u64,
    /// Acks heard.
    pub acks: u64,
    /// Takeovers.
    pub takeovers: u64,
    /// Primaries that went on without their backup, by a record.
    pub removals: u64,
    /// Primaries that were fenced.
    pub fences: u64,
    /// Claims that were denied.
    pub denials: u64,
    /// Guests that ended.
    pub ends: u64,
    /// Exchanges of the witness that were begun.
    pub exchanges: u64,
    /// Backups that forswore.
    pub forsworn: u64,
    /// Registers that were continued at another witness.
    pub moves: u64,
}

/// Processes of the model as the product's cores.
#[derive(Debug, Default)]
struct Cores {
    now: u64,
    primaries: BTreeMap<HostId, PrimaryCore>,
    backups: BTreeMap<HostId, BackupCore>,
    /// What backups are asked to forswear, on its way.
    proposals: BTreeMap<HostId, Vec<u8>>,
    coverage: Coverage,
}

/// Does a run again that is drawn by `seed`, of so many steps at most.
///
/// # Panics
/// If a core says otherwise than the model.
pub fn replay(setting: &Setting, seed: u64, steps_max: usize) -> Coverage {
    let (mut world, mut draw, mut cores) = (World::empty(), Draw(seed), Cores::default());
    let mut story = Vec::new();
    for _ in 0..steps_max {
        let mut actions = Vec::new();
        action::within(&setting.bounds, &world, &mut actions);
        let next = |action: Action| Some((action, play::next(setting, &world, action)?));
        let possible: Vec<(Action, World)> = actions.into_iter().filter_map(next).collect();
        // What breaks a run off is drawn more seldom, or no run would get far.
        let often = possible.iter().filter(|(action, _)| !breaks_off(*action));
        let possible: Vec<_> = (1..OFTEN).flat_map(|_| often.clone()).chain(&possible).cloned().collect();
        let Some((action, next)) = draw.one_of(possible) else { break };
        story.push(action.to_string());
        cores.act(action, &world, &next);
        cores.compare(&next).unwrap_or_else(|what| panic!("seed {seed}: {what}\n{}", story.join("\n")));
        world = next;
    }
    cores.coverage
}

fn breaks_off(action: Action) -> bool {
    use Action::{Append, Crash, LoseBackup, LosePrimary, LoseStore, PowerLoss, Stop};
    let claims = matches!(action, Action::Ask(_, Errand::TakeOver) | Action::Propose(..));
    let is_fault = matches!(action, Crash(_) | PowerLoss(..) | LoseBackup(_) | LosePrimary(_) | LoseStore(_) | Stop(_));
    claims || is_fault || matches!(action, Append(_, fate) if fate != Fate::Answered)
}

/// A small generator of random numbers (xorshift64*).
#[derive(Debug)]
struct Draw(u64);

impl Draw {
    fn one_of<T>(&mut self, mut choices: Vec<T>) -> Option<T> {
        if choices.is_empty() {
            return None;
        }
        let mut x = self.0.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let index = usize::try_from((self.0 >> 33) % choices.len() as u64).expect("choices are few");
        Some(choices.swap_remove(index))
    }
}

impl Cores {
    fn tick(&mut self) -> Time {
        self.now += 1000;
        Time(self.now)
    }

    fn act(&mut self, action: Action, before: &World, after: &World) {
        let now = self.tick();
        self.coverage.steps += 1;
        match action {
            Action::Crash(host) | Action::PowerLoss(host, _) => self.end(host),
            Action::Ask(host, errand) => self.ask(now, host, errand, before, after),
            Action::Append(host, fate) => self.answer(now, host, fate, before, after),
            Action::Connect { primary, backup } => self.connect(now, primary, backup, after),
            Action::Seal(host) | Action::Base(host) => {
                let is_base = matches!(action, Action::Base(_));
                self.coverage.bases += u64::from(is_base);
                self.primary(host).seal(now, is_base);
            }
            Action::Keep(host) => {
                let stored = after.primary(host).and_then(|primary| primary.stored).expect("it has one more");
                self.primary(host).store(now, stored);
            }
            Action::LoseStore(host) => self.primary(host).lose_store(now),
            Action::Receive(host) => self.receive(now, host, before),
            Action::Hear(host) => {
                self.coverage.acks += 1;
                self.primary(host).hear(now);
            }
            Action::LoseBackup(host) => self.primary(host).lose_backup(now),
            Action::LosePrimary(host) => self.backup(host).lose_primary(now),
            Action::Stop(host) => self.primary(host).stop(now),
            Action::Propose(host, _) => self.propose(now, host, after),
            Action::Override(host, _) => self.override_at(now, host, before, after),
            Action::Forswear(host, _) => self.forswear(now, host, before, after),
            Action::HearForsworn(host) => self.primary(host).hear_forsworn(now),
            // Of these the cores know nothing.
            Action::Run(_)
            | Action::RunNamed(_)
            | Action::Resume(_)
            | Action::Attest(_)
            | Action::Arrive
            | Action::Tell(_)
            | Action::Depart(_)
            | Action::LoseWitness(_)
            | Action::Restore(_) => {}
        }
    }

    fn propose(&mut self, now: Time, host: HostId, after: &World) {
        self.coverage.exchanges += 1;
        let heir = after.node(host).and_then(|node| node.register.exchange()).expect("it is noted").heir.register;
        let forswear = self.primary(host).open_exchange(now, heir);
        if let Some(session) = after.primary(host).and_then(|primary| primary.session) {
            self.proposals.insert(session.join.backup.host, forswear);
        }
    }

    fn override_at(&mut self, now: Time, host: HostId, before: &World, after: &World) {
        match before.node(host).map(|node| &node.role) {
            Some(Role::Primary(_)) => {
                let heir = after.node(host).and_then(|node| node.register.exchange()).expect("it is noted");
                self.primary(host).open_override(heir.heir.register);
            }
            Some(Role::Backup(_)) => self.ask(now, host, Errand::TakeOver, before, after),
            _ => {}
        }
    }

    fn forswear(&mut self, now: Time, host: HostId, before: &World, after: &World) {
        let backup = before.backup(host).expect("a backup is asked");
        let join = backup.copy.join().expect("it follows");
        let heir = backup.proposal.as_ref().expect("it is asked").exchange.heir.register;
        let exchange = after.node(host).and_then(|node| node.register.exchange());
        let is_forsworn = exchange.is_some_and(|exchange| exchange.heir.register == heir);
        self.coverage.forsworn += u64::from(is_forsworn);
        let asked = self.proposals.remove(&host).expect("it was asked");
        let answer = self.backup(host).forswear(now, &asked, heir, is_forsworn);
        if after.session(join).is_some() {
            self.primary(join.primary.host).note_forsworn(answer);
        }
    }

    /// What became of an exchange its primary hears before it hears what became of its question.
    fn settle(&mut self, host: HostId, before: &World, after: &World) {
        let is_open = |world: &World| world.primary(host).is_some_and(|primary| primary.exchanging.is_some());
        let desks = |world: &World| world.node(host).map(|node| node.desks);
        if is_open(before) && !is_open(after) && after.primary(host).is_some() {
            let left = desks(after).and_then(|desks| desks.left).filter(|_| desks(after) != desks(before));
            self.coverage.moves += u64::from(left.is_some());
            self.primary(host).settle(left.map_or(view::Fate::CalledOff, |(_, parent)| view::Fate::Moved(parent)));
        }
    }

    fn primary(&mut self, host: HostId) -> &mut PrimaryCore {
        self.primaries.get_mut(&host).expect("there is a primary")
    }

    fn backup(&mut self, host: HostId) -> &mut BackupCore {
        self.backups.get_mut(&host).expect("there is a backup")
    }

    fn end(&mut self, host: HostId) {
        self.primaries.remove(&host);
        self.backups.remove(&host);
    }

    fn connect(&mut self, now: Time, host: HostId, backup: HostId, after: &World) {
        let session = after.primary(host).and_then(|primary| primary.session).expect("it has begun");
        let register = &after.node(host).expect("it is there").register;
        let greeting = replication::view::Greeting {
            known: register.known().expect("a primary has seen its record"),
            primary: register.me().id,
            nonce: Default::default(),
        };
        let hello = self.primary(host).greet(now, session.join, greeting);
        let place = after.node(backup).expect("it is there").register.me().clone();
        let ack = self.backups.entry(backup).or_insert_with(BackupCore::new).accept(now, &hello, place);
        self.primary(host).meet(now, &ack);
    }

    fn receive(&mut self, now: Time, host: HostId, before: &World) {
        let join = before.backup(host).and_then(|backup| backup.copy.join()).expect("it follows");
        let (epoch, bytes) = self.primary(join.primary.host).next_shipped();
        let ack = self.backup(host).take(now, epoch, &bytes);
        self.primary(join.primary.host).note_ack(ack);
    }

    fn ask(&mut self, now: Time, host: HostId, errand: Errand, before: &World, after: &World) {
        match errand {
            Errand::Enlist(join) => self.primary(host).fill(now, join),
            Errand::TakeOver => {
                let copy = before.backup(host).expect("a backup asks").copy;
                let last = copy.last().expect("it is whole");
                self.backup(host).claim(now, before.lines.mark(last));
            }
            _ => {}
        }
        if before.node(host).is_some_and(|node| node.pending.is_none()) {
            self.decide(now, host, errand, None, before, after);
        }
    }

    fn answer(&mut self, now: Time, host: HostId, fate: Fate, before: &World, after: &World) {
        let pending = before.node(host).and_then(|node| node.pending.as_ref()).expect("it is pending");
        self.decide(now, host, pending.errand, Some(fate), before, after);
    }

    /// What became of a wish, as the model has it, is what the driver would tell the core.
    fn decide(&mut self, now: Time, host: HostId, errand: Errand, fate: Option<Fate>, before: &World, after: &World) {
        let is_open = after.node(host).is_some_and(|node| node.pending.is_some());
        if is_open {
            return self.settle(host, before, after);
        }
        self.settle(host, before, after);
        let is_gone = after.node(host).is_none();
        let is_denied = match errand {
            Errand::End => is_gone && !after.is_ended,
            Errand::TakeOver | Errand::Override => is_keeping(after, host),
            _ => is_gone,
        };
        let result = match fate {
            None | Some(Fate::Answered) if is_denied => ClaimResult::Denied { holder: String::new() },
            None | Some(Fate::Answered) => ClaimResult::Granted,
            _ => ClaimResult::Unreachable,
        };
        match errand {
            Errand::Begin | Errand::Resume => {}
            Errand::Look if after.backup(host).is_some() => {}
            Errand::TakeOver | Errand::Override => self.decide_claim(now, host, &result, before),
            _ => {
                let is_fenced = result != ClaimResult::Granted && result != ClaimResult::Unreachable;
                self.coverage.fences += u64::from(is_fenced);
                self.coverage.removals +=
                    u64::from(matches!(errand, Errand::Remove(_)) && result == ClaimResult::Granted);
                self.coverage.ends += u64::from(errand == Errand::End && result == ClaimResult::Granted);
                self.primary(host).answer(now, errand, result);
            }
        }
        if is_gone {
            self.end(host);
        } else if let (None, Some(Role::Primary(_))) =
            (self.primaries.get(&host), after.node(host).map(|node| &node.role))
        {
            self.backups.remove(&host);
            self.primaries.insert(host, PrimaryCore::begin(after, host));
        }
    }

    fn decide_claim(&mut self, now: Time, host: HostId, result: &ClaimResult, before: &World) {
        let last = before.backup(host).and_then(|backup| backup.copy.last()).expect("it is whole");
        let fork = before.lines.mark(last);
        self.backup(host).decide(now, result, fork);
        self.coverage.takeovers += u64::from(*result == ClaimResult::Granted);
        self.coverage.denials += u64::from(matches!(result, ClaimResult::Denied { .. }));
    }

    /// Whether every core is where the model has its process.
    fn compare(&mut self, world: &World) -> Result<(), String> {
        let now = self.tick();
        for host in HostId::all() {
            match world.node(host).map(|node| &node.role) {
                Some(Role::Primary(primary)) => {
                    let pending = world.node(host).and_then(|node| node.pending.as_ref()).map(|pending| pending.errand);
                    self.primary(host).compare(now, primary, &action::errands(world, host), pending)?;
                }
                Some(Role::Backup(backup)) => self.backup(host).compare(&backup.copy)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_keeping(world: &World, host: HostId) -> bool {
    use crate::world::{Replica, Stance};
    let copy = world.backup(host).map(|backup| backup.copy);
    matches!(copy, Some(Replica::Whole { stance: Stance::Keeping, .. }))
}
