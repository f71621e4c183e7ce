//! Starts: what a process on a host finds, states and wishes, by the product's own rules of evidence.

use std::collections::BTreeSet;

use replication::Fork;
use replication::view::evidence::{Facts, Observer, Resume, Start, Statement};
use replication::view::{Ask, Incarnation, Lives, Place, PlaceKind, Record, Register, Wish};

use super::Play;
use super::side::{Course, Side};
use crate::broken::Break;
use crate::name::{HostId, Life};
use crate::shared::Shared;
use crate::witness::{Desks, Note, Part, Site};
use crate::world::{Errand, Host, Node, Pending, Role, Store, Violation};

/// A process that has just begun.
pub(super) struct Newcomer {
    pub(super) life: Life,
    pub(super) lives: Lives,
    pub(super) observer: Observer,
    pub(super) side: Side,
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
        let mut side = self.side_of_newcomer(host, observer.place(), &lives);
        side.register.handle_wish(Wish::Look, life.attempt(self.world.spent.exchanges));
        if let Course::Appends(..) = side.go_on(&self.world) {
            unreachable!("a look appends nothing");
        }
        if side.is_settled {
            self.write_note(host, side.note());
        }
        if !self.breaks(Break::DeathUntold) {
            let deaths = observer.deaths(newest(&side), &Facts::default());
            self.world.witness_mut(side.desks.own).state(deaths.into_iter().map(Statement::Dead));
        }
        Some(Newcomer { life, lives, observer, side })
    }

    /// What a process on `host` knows of the register when it begins. Who finds nothing of the VM there is told where it is.
    fn side_of_newcomer(&mut self, host: HostId, place: &Place, lives: &Lives) -> Side {
        let Host { note, lives: before, .. } = self.world.host(host);
        let mut side = Side::new(Register::new(place.clone(), lives.known()), Desks::default());
        match (note, before) {
            (Some(note), _) => {
                let Note { home, part } = Note::clone(note);
                side.desks.own = home;
                if let Some(Part { exchange, site }) = part {
                    side.desks.heir = Some(site);
                    let is_same_life = self.breaks(Break::LaterLifeBegins);
                    side.register.handle_exchange(if is_same_life { exchange } else { exchange.of_earlier_life() });
                }
            }
            (None, Some(_)) => {}
            (None, None) => {
                side.desks.own = self.world.counting;
                self.write_note(host, side.note());
            }
        }
        side
    }

    pub(super) fn settle_in(&mut self, newcomer: Newcomer, role: Role) {
        let Newcomer { life, lives, observer: _, side: Side { register, desks, .. } } = newcomer;
        let host = self.world.host_mut(life.host);
        host.born += 1;
        host.lives = Some(Shared::new(lives));
        host.node = Some(Node { life, register: Shared::new(register), desks, pending: None, role });
    }

    /// A process that comes to nothing but its statements.
    pub(super) fn attest(&mut self, host: HostId) -> Option<()> {
        let seen = |play: &Self| {
            let statements = play.world.witnesses.iter().map(|witness| witness.statements.len()).sum::<usize>();
            (statements, play.world.host(host).note.clone())
        };
        let before = seen(self);
        self.arrive_on(host)?;
        (seen(self) != before).then_some(())
    }

    /// An operator names every listed place of another host as dead. Each is, or is stopped first: a backup that has nothing. Who does so
    /// gives the witness that counts.
    pub(super) fn run_named(&mut self, host: HostId) -> Option<()> {
        let note = self.world.host(host).note.as_ref();
        let site = note.map_or_else(Site::default, |note| note.home);
        let newest = self.world.witness(site).newest().filter(|_| site == self.world.counting)?.clone();
        let is_backup = |place: &Place| newest.backups.iter().any(|member| member.place.id == place.id);
        let is_stopped = |place: &Place| is_backup(place) && !self.may_continue(&newest, place.id, place.kind);
        let named = newest.places().filter(|place| HostId::of(&place.location) != host || is_backup(place));
        let named: Vec<Place> = named.cloned().collect();
        if named.is_empty() || !named.iter().all(|place| self.is_dead(place) || is_stopped(place)) {
            return None;
        }
        self.spend(|spent| &mut spent.named_starts);
        for life in named.iter().filter(|place| is_backup(place)).map(|place| Life::of(place.id)) {
            if self.world.is_alive(life) {
                self.world.host_mut(life.host).node = None;
            }
        }
        self.run(host, named.into_iter().map(|place| place.id).collect())
    }

    pub(super) fn run(&mut self, host: HostId, named_dead: BTreeSet<Incarnation>) -> Option<()> {
        let newcomer = self.arrive_on(host)?;
        let has_epoch = self.world.host(host).store.is_some_and(|store| store.has.is_some());
        let store = self.setting.bounds.store.then(|| newcomer.life.store());
        let newest = newest(&newcomer.side).cloned();
        let start =
            Start { store: store.map(|id| newcomer.observer.store(id)), durability: None, has_epoch, named_dead };
        let facts = self.facts(newcomer.side.desks.own, newest.as_ref());
        let mut wish = newcomer.observer.begin(newest.as_ref(), &facts, start);
        self.mislead(host, newest.as_ref(), &mut wish);
        let note = self.world.host(host).note.clone();
        self.settle_in(newcomer, Role::Starting);
        self.put(host, Errand::Begin, wish)?;
        // One that is refused is none, unless something was learned by it.
        let Some(pending) = self.world.node(host)?.pending.clone() else {
            return (self.world.host(host).note != note).then_some(());
        };
        if self.breaks(Break::RunBeforeWon) {
            self.make_store(host);
            return self.run_at_once(host, &pending);
        }
        // One that calls an exchange off first has no right yet.
        if self.world.node(host)?.register.exchange().is_none() {
            let before = self.world.host(host).store.filter(|store| store.has.is_some());
            let is_listed = |store: Store| newest.iter().flat_map(Record::places).any(|place| place.id == store.id);
            self.check(!before.is_some_and(is_listed), Violation::BesideWhole);
            self.make_store(host);
        }
        Some(())
    }

    /// The state directory is of the process on `host`, and empty. Only a start that may append does anything to it.
    pub(super) fn make_store(&mut self, host: HostId) {
        let life = self.world.node(host).map(|node| node.life.store()).filter(|_| self.setting.bounds.store);
        let is_its = |store: &Store| Some(store.id) == life;
        if !self.world.host(host).store.as_ref().is_some_and(is_its) {
            self.world.host_mut(host).store = life.map(|id| Store { id, has: None });
        }
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
        let newest = newest(&newcomer.side).cloned();
        let is_forced = self.breaks(Break::ResumeUnlisted);
        let all = newest.iter().flat_map(Record::places).map(|place| place.id);
        let named_dead = if is_forced { all.collect() } else { BTreeSet::new() };
        let fork = Fork::Mark(self.world.lines.mark(has));
        let resume = Resume { store: newcomer.observer.store(store.id), fork, named_dead };
        let wish = newcomer.observer.resume(newest.as_ref(), resume);
        let note = self.world.host(host).note.clone();
        self.settle_in(newcomer, Role::Starting);
        self.put(host, Errand::Resume, wish)?;
        let is_pending = self.world.node(host).is_some_and(|node| node.pending.is_some());
        (is_pending || self.world.host(host).note != note).then_some(())
    }

    fn facts(&self, site: Site, newest: Option<&Record>) -> Facts {
        Facts { free: Vec::new(), stated: newest.map(|record| self.stated(site, record)).unwrap_or_default() }
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

/// The newest record that a newcomer finds: while its register is to be continued, the one from which, if nothing is newer.
fn newest(side: &Side) -> Option<&Record> {
    let parent = side.register.exchange().map(|exchange| &exchange.heir.parent);
    let entries = side.register.newest().into_iter().chain(parent);
    entries.max_by_key(|entry| (entry.record.generation, entry.record.number)).map(|entry| &entry.record)
}
