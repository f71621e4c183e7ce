//! Starts: what a process on a host finds, states and wishes, by the product's own rules of evidence.

use std::collections::BTreeSet;

use replication::Fork;
use replication::view::evidence::{Facts, Observer, Resume, Start, Statement};
use replication::view::{Ask, Lives, PlaceKind, Record, Register, Wish};

use super::Play;
use crate::broken::Break;
use crate::name::{HostId, Life};
use crate::shared::Shared;
use crate::world::{Errand, Host, Node, Pending, Role, Store, Violation};

/// A process that has just begun.
pub(super) struct Newcomer {
    pub(super) life: Life,
    pub(super) lives: Lives,
    pub(super) observer: Observer,
    pub(super) register: Register,
}

impl Play<'_> {
    /// A process begins on `host`, looks at the register, and states what it knows of those before it.
    pub(super) fn arrive_on(&mut self, host: HostId) -> Option<Newcomer> {
        if self.world.node(host).is_some() {
            return None;
        }
        let Host { boot, born, lives: before, .. } = self.world.host(host).clone();
        let life = Life { host, number: born + 1 };
        let mut lives = Lives::begin(life.incarnation(), host.home(boot), before.as_deref());
        let observer = Observer::new(host.location(boot), &lives);
        lives.publish();
        let mut register = Register::new(observer.place().clone(), lives.known());
        register.handle_wish(Wish::Look, life.attempt());
        self.look(&mut register);
        if !self.breaks(Break::DeathUntold) {
            let newest = register.newest().map(|entry| &entry.record);
            let deaths = observer.deaths(newest, &Facts::default());
            self.world.witness.state(deaths.into_iter().map(Statement::Dead));
        }
        Some(Newcomer { life, lives, observer, register })
    }

    pub(super) fn settle_in(&mut self, newcomer: Newcomer, role: Role) {
        let Newcomer { life, lives, observer: _, register } = newcomer;
        let host = self.world.host_mut(life.host);
        host.born += 1;
        host.lives = Some(Shared::new(lives));
        host.node = Some(Node { life, register: Shared::new(register), pending: None, role });
    }

    /// A process that comes to nothing but its statements.
    pub(super) fn attest(&mut self, host: HostId) -> Option<()> {
        let before = self.world.witness.statements.len();
        self.arrive_on(host)?;
        (self.world.witness.statements.len() > before).then_some(())
    }

    pub(super) fn run(&mut self, host: HostId) -> Option<()> {
        let newcomer = self.arrive_on(host)?;
        let has_epoch = self.world.host(host).store.is_some_and(|store| store.has.is_some());
        let store = self.setting.bounds.store.then(|| newcomer.life.store());
        let newest = newcomer.register.newest().map(|entry| entry.record.clone());
        let start = Start {
            store: store.map(|id| newcomer.observer.store(id)),
            durability: None,
            has_epoch,
            named_dead: BTreeSet::new(),
        };
        let facts = self.facts(newest.as_ref());
        let mut wish = newcomer.observer.begin(newest.as_ref(), &facts, start);
        self.mislead(host, newest.as_ref(), &mut wish);
        self.settle_in(newcomer, Role::Starting);
        self.put(host, Errand::Begin, wish)?;
        // Only a start that may append does anything to the directory.
        let pending = self.world.node(host)?.pending.clone()?;
        let before = self.world.host(host).store.filter(|store| store.has.is_some());
        let is_listed = |store: Store| newest.iter().flat_map(Record::places).any(|place| place.id == store.id);
        self.check(!before.is_some_and(is_listed), Violation::BesideWhole);
        self.world.host_mut(host).store = store.map(|id| Store { id, has: None });
        if self.breaks(Break::RunBeforeWon) {
            return self.run_at_once(host, &pending);
        }
        Some(())
    }

    /// The guest runs as if the append were won, and nothing is appended.
    fn run_at_once(&mut self, host: HostId, pending: &Pending) -> Option<()> {
        let node = self.world.node_mut(host)?;
        node.pending = None;
        node.register = Shared::new(Register::new(node.register.me().clone(), node.register.known()));
        let Ask::Append { record, .. } = &*pending.ask else { return None };
        self.won(host, Errand::Begin, u8::try_from(record.branch).expect("records are few"))
    }

    pub(super) fn resume(&mut self, host: HostId) -> Option<()> {
        let store = self.world.host(host).store?;
        let has = store.has?;
        let newcomer = self.arrive_on(host)?;
        let newest = newcomer.register.newest().map(|entry| entry.record.clone());
        let is_forced = self.breaks(Break::ResumeUnlisted);
        let all = newest.iter().flat_map(Record::places).map(|place| place.id);
        let named_dead = if is_forced { all.collect() } else { BTreeSet::new() };
        let fork = Fork::Mark(self.world.lines.mark(has));
        let resume = Resume { store: newcomer.observer.store(store.id), fork, named_dead };
        let wish = newcomer.observer.resume(newest.as_ref(), resume);
        self.settle_in(newcomer, Role::Starting);
        self.put(host, Errand::Resume, wish)?;
        self.world.node(host)?.pending.as_ref().map(drop)
    }

    fn facts(&self, newest: Option<&Record>) -> Facts {
        Facts { free: Vec::new(), stated: newest.map(|record| self.stated(record)).unwrap_or_default() }
    }

    /// What a start takes for proved that is not, where a rule is broken.
    fn mislead(&self, host: HostId, newest: Option<&Record>, wish: &mut Wish) {
        let Wish::Begin { dead, here, .. } = wish else { return };
        let places = newest.into_iter().flat_map(Record::places);
        match self.setting.broken {
            Some(Break::BeginUnproved) => dead.extend(places.map(|place| place.id)),
            Some(Break::SilenceProves) => {
                dead.extend(places.filter(|place| place.kind == PlaceKind::Process).map(|place| place.id));
            }
            Some(Break::StoreDiesWithBoot) => {
                let boot = host.location(self.world.host(host).boot).boot;
                dead.extend(places.filter(|place| place.location.boot != boot).map(|place| place.id));
            }
            Some(Break::AnyDisk) => here.extend(places.map(|place| place.id)),
            _ => {}
        }
    }
}
