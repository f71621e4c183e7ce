//! What each action does. What the register decides, the product's own core decides; what is made up is around it.

mod backup;
mod primary;
mod register;
mod start;

use replication::Fork;
use replication::view::{Incarnation, PlaceKind, Record, Standing};

use crate::action::{Action, Fate, Files};
use crate::bounds::Bounds;
use crate::broken::Break;
use crate::line::{Epoch, Lines};
use crate::name::{HostId, Join, Life};
use crate::shared::Shared;
use crate::world::{Disk, Extent, Replica, Role, Spent, Violation, World};

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// How much may happen.
    pub bounds: Bounds,
    /// A rule that is broken on purpose.
    pub broken: Option<Break>,
    /// In each state it is looked at what becomes of it when faults stop.
    pub heals: bool,
}

/// One action on a copy of the world.
#[derive(Debug)]
pub(crate) struct Play<'a> {
    pub(crate) world: World,
    setting: &'a Setting,
}

/// The world after `action`. None: it is not possible, or nothing comes of it.
pub fn next(setting: &Setting, world: &World, action: Action) -> Option<World> {
    let mut play = Play { world: world.clone(), setting };
    play.act(action)?;
    Some(play.world)
}

impl Play<'_> {
    fn act(&mut self, action: Action) -> Option<()> {
        match action {
            Action::Run(host) => self.run(host),
            Action::Resume(host) => self.resume(host),
            Action::Attest(host) => self.attest(host),
            Action::Crash(host) => self.crash(host),
            Action::PowerLoss(host, files) => self.lose_power(host, files),
            Action::Ask(host, errand) => self.ask(host, errand),
            Action::Append(host, fate) => self.append(host, fate),
            Action::Arrive => self.arrive(),
            Action::Seal(host) => self.seal(host),
            Action::Keep(host) => self.keep(host),
            Action::LoseStore(host) => self.lose_store(host),
            Action::Connect { primary, backup } => self.connect(primary, backup),
            Action::Base(host) => self.seal_base(host),
            Action::Receive(host) => self.receive(host),
            Action::Hear(host) => self.hear(host),
            Action::LoseBackup(host) => self.lose_backup(host),
            Action::LosePrimary(host) => self.lose_primary(host),
            Action::Tell(host) => self.tell(host),
            Action::Stop(host) => self.stop(host),
            Action::Restore(records) => self.restore(records),
        }
    }

    fn breaks(&self, rule: Break) -> bool {
        self.setting.broken == Some(rule)
    }

    fn spend(&mut self, what: impl FnOnce(&mut Spent) -> &mut u8) {
        let count = what(&mut self.world.spent);
        *count = count.saturating_add(1);
    }

    /// A property does not hold. The first counts.
    fn fault(&mut self, violation: Violation) {
        self.world.violation.get_or_insert(violation);
    }

    /// A property holds, or not.
    fn check(&mut self, holds: bool, violation: Violation) {
        if !holds {
            self.fault(violation);
        }
    }

    fn change_lines<T>(&mut self, change: impl FnOnce(&mut Lines) -> T) -> T {
        let mut lines = Lines::clone(&self.world.lines);
        let result = change(&mut lines);
        self.world.lines = Shared::new(lines);
        result
    }

    fn crash(&mut self, host: HostId) -> Option<()> {
        self.spend(|spent| &mut spent.crashes);
        if self.breaks(Break::RestartIsMember)
            && let Some(base) = self.base_of(host)
        {
            return self.restart_as_member(host, base);
        }
        self.world.host_mut(host).node.take().map(drop)
    }

    fn lose_power(&mut self, host: HostId, files: Files) -> Option<()> {
        self.spend(|spent| &mut spent.outages);
        let host = self.world.host_mut(host);
        host.node = None;
        host.boot += 1;
        if files == Files::Lost {
            (host.lives, host.store) = (None, None);
        }
        Some(())
    }

    /// The witness goes back to an earlier state. By the rules everybody notices who could append, since each has seen more.
    fn restore(&mut self, records: u8) -> Option<()> {
        let is_lost = self.breaks(Break::RecordLost);
        let has_seen_more = |host: HostId| {
            let host = self.world.host(host);
            let ours = host.lives.as_ref().and_then(|lives| lives.known());
            let theirs = host.node.as_ref().and_then(|node| node.register.known());
            let number = ours.into_iter().chain(theirs).map(|known| known.number).max();
            number.map_or(host.born == 0, |number| number > records.into())
        };
        if self.world.witness.late.is_some()
            || self.world.lost.is_some()
            || !(is_lost || HostId::all().all(has_seen_more))
        {
            return None;
        }
        self.spend(|spent| &mut spent.restores);
        let lost = self.world.witness.chain.split_off(records.into());
        self.world.lost = Some((records, lost));
        Some(())
    }

    /// `record` stands from now on.
    fn stand(&mut self, record: &Record) {
        let begins = record.branch == record.number;
        let fork = begins.then(|| self.origin(record)).flatten();
        if begins {
            self.judge_branch(record, fork);
        }
        self.world.witness.push(record, fork);
    }

    /// The epoch from which a record that begins a branch continues.
    fn origin(&self, record: &Record) -> Option<Epoch> {
        match record.fork {
            Some(Fork::Mark(mark)) => self.world.lines.find(mark),
            Some(Fork::Number(_)) => None,
            None => self.world.host(HostId::of(&record.primary.location)).disk.epoch(),
        }
    }

    /// A record begins a branch: it leaves out nothing that was released, and nobody could continue the guest besides.
    fn judge_branch(&mut self, record: &Record, origin: Option<Epoch>) {
        let is_boot = record.fork.is_none();
        let is_free = self.world.witness.newest().is_none_or(|newest| newest.standing == Standing::Ended);
        if self.world.is_ended && !is_boot {
            self.fault(Violation::EndedContinued);
        }
        self.world.is_ended &= !is_boot;
        if is_free {
            return;
        }
        if record.named_dead.is_empty() {
            let (lines, first) = (self.world.lines.clone(), self.first_branch());
            let mut released = lines.released().filter(|epoch| epoch.line.branch >= first);
            if released.any(|epoch| origin.is_none_or(|origin| !lines.is_in(epoch, origin))) {
                self.fault(Violation::ClaimBehind);
            }
        }
        if is_boot || !record.named_dead.is_empty() {
            self.judge_boot(record, is_boot);
        }
    }

    /// The guest is booted, or continued by an override, after a record that says that it runs.
    fn judge_boot(&mut self, record: &Record, is_boot: bool) {
        let Some(before) = self.world.witness.newest().cloned() else { return };
        if before.places().any(|place| self.may_continue(&before, place.id, place.kind)) {
            self.fault(Violation::BesideWhole);
        }
        let host = HostId::of(&record.primary.location);
        let is_listed = before.places().any(|place| HostId::of(&place.location) == host);
        if is_boot && (!is_listed || self.world.host(host).disk == Disk::Partial) {
            self.fault(Violation::OtherDisk);
        }
    }

    /// The branch that began what counts now: booted after an end, or continued by an override, which may leave out what was released.
    fn first_branch(&self) -> u8 {
        let records: Vec<&Record> = self.world.witness.chain.iter().map(|slot| &slot.entry.record).collect();
        let is_first = |index: &usize| {
            let begins = records[*index].branch == records[*index].number;
            let is_free = *index == 0 || records[*index - 1].standing == Standing::Ended;
            begins && (is_free || !records[*index].named_dead.is_empty())
        };
        let last = (0..records.len()).rev().find(is_first);
        last.map_or(0, |index| u8::try_from(records[index].number).expect("records are few"))
    }

    /// Whether this place of `record` really could continue the guest.
    fn may_continue(&self, record: &Record, id: Incarnation, kind: PlaceKind) -> bool {
        if kind == PlaceKind::Store {
            let stores = self.world.hosts.iter().filter_map(|host| host.store);
            return stores.into_iter().any(|store| store.id == id && store.has.is_some());
        }
        let life = Life::of(id);
        let Some(node) = self.world.node(life.host).filter(|node| node.life == life) else { return false };
        match &node.role {
            Role::Starting => false,
            Role::Primary(_) => record.primary.id == id,
            Role::Backup(backup) => match backup.copy {
                Replica::Whole { join, .. } => {
                    record.backups.iter().any(|member| (member.place.id, member.join) == (id, join.session()))
                }
                _ => false,
            },
        }
    }

    /// The newest record that ever named `life` as primary.
    fn right(&self, life: Life) -> Option<&Record> {
        let records = self.world.stood().map(|slot| &slot.entry.record);
        records.filter(|record| record.primary.id == life.incarnation()).last()
    }

    fn extent(&self, join: Join) -> Option<Extent> {
        self.world.joins.get(&join).copied()
    }
}

impl Play<'_> {
    /// An append reaches the witness.
    fn append(&mut self, host: HostId, fate: Fate) -> Option<()> {
        let pending = self.world.node_mut(host)?.pending.take()?;
        if fate != Fate::Answered {
            self.spend(|spent| &mut spent.unanswered);
        }
        self.world.spent.late |= fate == Fate::Late;
        self.perform(host, &pending, fate)
    }

    fn arrive(&mut self) -> Option<()> {
        let late = self.world.witness.late.take()?;
        if self.takes(&late) {
            self.stand(&late);
        }
        Some(())
    }
}
