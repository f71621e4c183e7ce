//! What a record that comes to stand is judged by, from outside.

use replication::Fork;
use replication::view::{Incarnation, Known, PlaceKind, Record, Standing};

use super::Play;
use crate::line::Epoch;
use crate::name::{HostId, Life};
use crate::witness::Site;
use crate::world::{Disk, Replica, Role, Violation};

impl Play<'_> {
    /// `record` stands at a witness from now on.
    pub(super) fn stand(&mut self, site: Site, record: &Record) {
        let is_heir = self.is_heir(site, record);
        let begins = record.branch == record.view();
        let fork = begins.then(|| self.origin(record)).flatten();
        if is_heir {
            self.judge_heir(site, record);
        } else if site != self.world.counting || record.moved.is_some() {
            self.check(site != self.world.counting && self.is_aside(site, record), Violation::TwoRegisters);
            return self.world.witness_mut(site).push(record, None);
        }
        self.judge_right(record, fork);
        self.world.counting = site;
        self.world.witness_mut(site).push(record, fork);
    }

    /// Whether it is the first of a register that continues another one.
    fn is_heir(&self, site: Site, record: &Record) -> bool {
        let before = self.world.witness(site).newest();
        !record.ancestors.is_empty() && before.is_none_or(|before| before.register != record.register)
    }

    /// A register is continued where it ends, and nobody appends to what was before.
    fn judge_heir(&mut self, site: Site, record: &Record) {
        let there = self.world.witness(site).newest();
        let told = there.map(|there| there.moved.as_ref().map_or(there.generation, |to| to.generation));
        let before = record.ancestors.iter().map(|parent| parent.generation).chain(told).max();
        let is_higher = before.is_some_and(|generation| generation < record.generation);
        let newest = self.world.witness(self.world.counting).chain.last().map(|slot| Known::of(&slot.entry));
        let follows = record.ancestors.last() == newest.as_ref();
        self.check(is_higher, Violation::LowGeneration);
        // An operator may give up what was appended and is not known where the register is overridden; not who could go on by that.
        self.check(follows || !record.named_dead.is_empty(), Violation::TwoRegisters);
    }

    /// Whether a record at a witness that does not have the VM's register gives nobody a right: it says where that went, or says again what
    /// was said before.
    fn is_aside(&self, site: Site, record: &Record) -> bool {
        let is_nobodys = record.standing == Standing::Ended && record.ancestors.is_empty();
        let Some(before) = self.world.witness(site).newest() else { return is_nobodys };
        let Record { standing, primary, store, backups, .. } = before;
        let is_again =
            (*standing, primary, store, backups) == (record.standing, &record.primary, &record.store, &record.backups);
        is_again && (record.moved.is_some() || record.branch == before.branch)
    }

    /// The epoch from which a record that begins a branch continues.
    fn origin(&self, record: &Record) -> Option<Epoch> {
        match record.fork {
            Some(Fork::Mark(mark)) => self.world.lines.find(mark),
            Some(Fork::Number(_)) => None,
            None => self.world.host(HostId::of(&record.primary.location)).disk.epoch(),
        }
    }

    /// A record that begins a branch leaves out nothing that was released, and nobody could continue the guest besides; nor could who is
    /// named dead.
    fn judge_right(&mut self, record: &Record, origin: Option<Epoch>) {
        let begins = record.branch == record.view();
        let is_boot = begins && record.fork.is_none();
        let is_free = self.world.newest().is_none_or(|newest| newest.standing == Standing::Ended);
        if self.world.is_ended && begins && !is_boot {
            self.fault(Violation::EndedContinued);
        }
        self.world.is_ended &= !is_boot;
        if is_free {
            return;
        }
        if begins && record.named_dead.is_empty() {
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
        let Some(before) = self.world.newest().cloned() else { return };
        let is_own = |id| id == record.primary.id || record.store.as_ref().is_some_and(|store| store.id == id);
        let others = || before.places().filter(|place| !is_own(place.id));
        if others().any(|place| self.may_continue(&before, place.id, place.kind)) {
            self.fault(Violation::BesideWhole);
        }
        let host = HostId::of(&record.primary.location);
        let is_listed = before.places().any(|place| HostId::of(&place.location) == host);
        // Who names the primary gives up its disks.
        let is_given_up = record.named_dead.contains(&before.primary.id);
        if is_boot && !is_given_up && (!is_listed || self.world.host(host).disk == Disk::Partial) {
            self.fault(Violation::OtherDisk);
        }
    }

    /// The branch that began what counts now: booted after an end, or continued by an override, which may leave out what was released.
    fn first_branch(&self) -> u8 {
        let records: Vec<&Record> = self.world.stood().into_iter().map(|slot| &slot.entry.record).collect();
        let is_first = |index: &usize| {
            let begins = records[*index].branch == records[*index].view();
            let is_free = *index == 0 || records[*index - 1].standing == Standing::Ended;
            begins && (is_free || !records[*index].named_dead.is_empty())
        };
        let last = (0..records.len()).rev().find(is_first);
        last.map_or(0, |index| u8::try_from(records[index].branch).expect("records are few"))
    }

    /// Whether this place of `record` really could continue the guest.
    pub(super) fn may_continue(&self, record: &Record, id: Incarnation, kind: PlaceKind) -> bool {
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
    pub(super) fn right(&self, life: Life) -> Option<&Record> {
        let mut records = self.world.stood().into_iter().map(|slot| &slot.entry.record);
        records.rfind(|record| record.primary.id == life.incarnation())
    }
}
