//! The backup: being filled, following, asking for the guest, keeping what it has.

use replication::view::evidence::Statement;
use replication::view::{Ask, Outcome, Tell, Voids, Wish};

use super::Play;
use super::side::Course;
use crate::broken::Break;
use crate::line::Epoch;
use crate::name::{HostId, Join};
use crate::shared::Shared;
use crate::world::{Backup, Disk, Extent, Phase, Replica, Role, Session, Stance};

impl Play<'_> {
    /// A primary without a backup meets one. That both see the same witness is taken for proved.
    pub(super) fn connect(&mut self, host: HostId, backup: HostId) -> Option<()> {
        let primary = self.world.primary(host)?;
        // A newcomer has no part in an exchange that is under way.
        let is_exchanging = primary.exchanging.is_some() && !self.breaks(Break::ConnectInExchange);
        if primary.session.is_some() || primary.is_frozen || primary.is_stopping || is_exchanging {
            return None;
        }
        let line = primary.line;
        if self.world.node(backup).is_none() {
            self.begin_backup(backup)?;
        }
        let node = self.world.node(backup)?;
        let Role::Backup(Backup { copy, .. }) = &node.role else { return None };
        let is_free = matches!(copy, Replica::Nothing | Replica::Whole { stance: Stance::Keeping, .. });
        if !is_free || node.pending.is_some() {
            return None;
        }
        let (life, copy) = (node.life, *copy);
        self.follow(host, backup)?;
        self.spend(|spent| &mut spent.joins);
        let number = self.world.spent.joins;
        let (mut join, mut has) = (Join { primary: line.life, backup: life, number }, None);
        if self.breaks(Break::JoinComesBack)
            && let Replica::Whole { join: before, last, .. } = copy
        {
            self.world.joins.remove(&before);
            (join, has) = (before, Some(Replica::Whole { join: before, last, stance: Stance::Claiming }));
        }
        let session = Session { join, phase: Phase::Filling, acked: 0, ack_sent: 0, forsworn: None };
        self.world.primary_mut(host)?.session = Some(session);
        self.world.host_mut(backup).disk = Disk::Partial;
        let backup = self.world.backup_mut(backup)?;
        let mut voids = Voids::clone(&backup.voids);
        voids.handle_joined(join.session(), line.life.incarnation());
        let copy = has.unwrap_or(Replica::Filling { join, line });
        *backup = Backup { voids: Shared::new(voids), copy, proposal: None };
        Some(())
    }

    fn begin_backup(&mut self, host: HostId) -> Option<()> {
        let newcomer = self.arrive_on(host)?;
        let voids = Shared::new(Voids::new(newcomer.life.incarnation()));
        self.settle_in(newcomer, Role::Backup(Backup { voids, copy: Replica::Nothing, proposal: None }));
        Some(())
    }

    /// The backup asks the register whether the peer is the primary that it says it is. One that no record can list asks the witness of
    /// the peer from now on, if an operator says so.
    fn follow(&mut self, host: HostId, backup: HostId) -> Option<()> {
        let peer = self.world.node(host)?;
        let (wish, site) =
            (Wish::Follow { known: peer.register.known()?, primary: peer.life.incarnation() }, peer.desks.own);
        let mut side = self.side(backup)?;
        if side.desks.own != site {
            let is_free =
                side.register.exchange().is_none() && matches!(self.world.backup(backup)?.copy, Replica::Nothing);
            is_free.then_some(())?;
            (side.desks.own, side.is_settled) = (site, true);
            side.register.handle_other_witness();
        }
        side.register.handle_wish(wish, self.world.node(backup)?.life.attempt(self.world.spent.exchanges));
        loop {
            match side.go_on(&self.world) {
                Course::Decided(outcome) => {
                    self.keep_side(backup, side)?;
                    return matches!(outcome, Outcome::Won(_)).then_some(());
                }
                // It calls off an exchange that it once took part in.
                Course::Appends(site, ask) => {
                    let Ask::Append { record, .. } = &ask else { return None };
                    if self.takes(site, record) {
                        self.write(site, record);
                    }
                    let found = self.world.witness(site).read(&ask)?;
                    let outcome = side.register.handle_found(found);
                    if outcome.is_some() {
                        return None;
                    }
                }
            }
        }
    }

    /// An epoch is whole here, the base or the next one, and an ack goes out.
    pub(super) fn receive(&mut self, host: HostId) -> Option<()> {
        let is_deaf = !self.breaks(Break::AckWhileAsking);
        let copy = self.world.backup(host)?.copy;
        let (join, count, line, stance) = match copy {
            Replica::Filling { join, line } => (join, self.extent(join)?.base, line, Stance::Following),
            Replica::Whole { join, last, stance } => (join, last.count + 1, last.line, stance),
            Replica::Nothing => return None,
        };
        let session = *self.world.session(join)?;
        let sealed = self.world.primary(join.primary.host)?.sealed;
        let may_take = stance == Stance::Following || (stance == Stance::Claiming && !is_deaf);
        if session.phase < Phase::Basing || count > sealed || !may_take {
            return None;
        }
        let last = Epoch { line, count };
        self.world.backup_mut(host)?.copy = Replica::Whole { join, last, stance };
        self.world.host_mut(host).disk = Disk::At(last);
        if let Some(extent) = self.world.joins.get_mut(&join) {
            *extent = Extent { whole: count.max(extent.whole), ..*extent };
        }
        let acked = if self.breaks(Break::AckBeforeWhole) { sealed } else { count };
        self.session_mut(join.primary.host)?.ack_sent = acked;
        Some(())
    }

    /// It is lost before the base is whole: nothing of it counts, and never will.
    pub(super) fn lose_primary(&mut self, host: HostId) -> Option<()> {
        let is_silent = self.breaks(Break::VoidUntold);
        let backup = self.world.backup_mut(host)?;
        let Replica::Filling { join, .. } = backup.copy else { return None };
        let mut voids = Voids::clone(&backup.voids);
        if !is_silent {
            voids.handle_void(join.session());
        }
        *backup = Backup { voids: Shared::new(voids), copy: Replica::Nothing, proposal: None };
        Some(())
    }

    /// What it does at the witness about joins that came to nothing.
    pub(super) fn tell(&mut self, host: HostId) -> Option<()> {
        let site = self.world.node(host)?.desks.own;
        let newest = self.world.witness(site).newest()?;
        let mut voids = Voids::clone(&self.world.backup(host)?.voids);
        let tells = voids.tell(newest);
        if tells.is_empty() {
            return None;
        }
        for tell in tells {
            match tell {
                Tell::State(join) => self.world.witness_mut(site).state([Statement::Void(join)]),
                Tell::Withdraw(join) => self.world.witness_mut(site).withdraw(Statement::Void(join)),
            }
            voids.handle_told(tell);
        }
        self.world.backup_mut(host)?.voids = Shared::new(voids);
        Some(())
    }

    /// It acks nothing any more, since it is about to ask for the guest; nor does it take anything else of its primary.
    pub(super) fn claim(&mut self, host: HostId) -> Option<()> {
        self.world.backup_mut(host)?.proposal = None;
        let Replica::Whole { stance, .. } = &mut self.world.backup_mut(host)?.copy else { return None };
        *stance = Stance::Claiming;
        Some(())
    }

    /// The base of the backup on `host`, if that is whole.
    pub(super) fn base_of(&self, host: HostId) -> Option<u8> {
        let Replica::Whole { join, .. } = self.world.backup(host)?.copy else { return None };
        self.extent(join).map(|extent| extent.base)
    }

    /// It comes back under its old name, with no more than its base.
    pub(super) fn restart_as_member(&mut self, host: HostId, base: u8) -> Option<()> {
        if let Replica::Whole { last, stance, .. } = &mut self.world.backup_mut(host)?.copy {
            last.count = base;
            *stance = Stance::Claiming;
        }
        Some(())
    }
}
