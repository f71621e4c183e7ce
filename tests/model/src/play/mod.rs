//! What each action does. What the register decides, the product's own core decides; what is made up is around it.

mod backup;
mod exchange;
mod judge;
mod primary;
mod register;
mod side;
mod start;

use std::collections::BTreeSet;

use crate::action::{Action, Fate, Files};
use crate::bounds::Bounds;
use crate::broken::Break;
use crate::line::Lines;
use crate::name::{HostId, Join};
use crate::shared::Shared;
use crate::witness::Site;
use crate::world::{Extent, Spent, Violation, World};

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
            Action::Run(host) => self.run(host, BTreeSet::new()),
            Action::RunNamed(host) => self.run_named(host),
            Action::Resume(host) => self.resume(host),
            Action::Attest(host) => self.attest(host),
            Action::Crash(host) => self.crash(host),
            Action::PowerLoss(host, files) => self.lose_power(host, files),
            Action::Ask(host, errand) => self.ask(host, errand),
            Action::Append(host, fate) => self.append(host, fate),
            Action::Arrive => self.arrive(),
            Action::Propose(host, to) => self.propose(host, to),
            Action::Override(host, to) => self.override_at(host, to),
            Action::Forswear(host, sight) => self.forswear(host, sight),
            Action::HearForsworn(host) => self.hear_forsworn(host),
            Action::Depart(host) => self.depart(host),
            Action::LoseWitness(site) => self.lose_witness(site),
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
            (host.lives, host.note, host.store) = (None, None, None);
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
        let is_other = self.world.counting != Site::default() || self.world.spent.exchanges > 0;
        if is_other
            || self.world.witnesses[0].late.is_some()
            || self.world.lost.is_some()
            || !(is_lost || HostId::all().all(has_seen_more))
        {
            return None;
        }
        self.spend(|spent| &mut spent.restores);
        let lost = self.world.witnesses[0].chain.split_off(records.into());
        self.world.lost = Some((records, lost));
        Some(())
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
        let site = Site::all().find(|site| self.world.witness(*site).late.is_some())?;
        let late = self.world.witness_mut(site).late.take()?;
        if self.takes(site, &late) {
            self.stand(site, &late);
        }
        Some(())
    }
}
