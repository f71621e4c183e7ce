//! The primary: epochs, commits and releases, its backup and its store. What the product's commit rule and primary decide, made small;
//! [`crate::cores`] compares the two.

use replication::view::Record;

use super::Play;
use crate::broken::Break;
use crate::line::Epoch;
use crate::name::{HostId, Join, Life};
use crate::witness::Slot;
use crate::world::{Disk, Errand, Extent, Phase, Primary, Replica, Session, Stance, Violation};

/// Epochs sealed and not committed, at most.
const IN_FLIGHT_MAX: u8 = 2;

impl Play<'_> {
    pub(super) fn session_mut(&mut self, host: HostId) -> Option<&mut Session> {
        self.world.primary_mut(host)?.session.as_mut()
    }

    pub(super) fn seal(&mut self, host: HostId) -> Option<()> {
        let primary = self.world.primary(host)?;
        if primary.is_stopping || primary.is_frozen || primary.sealed - primary.committed >= IN_FLIGHT_MAX {
            return None;
        }
        self.seal_one(host)?;
        self.commit(host)
    }

    fn seal_one(&mut self, host: HostId) -> Option<()> {
        let primary = self.world.primary_mut(host)?;
        primary.sealed += 1;
        let line = primary.line;
        let has_twin = self.change_lines(|lines| lines.seal(line));
        self.check(!has_twin, Violation::TwinEpochs);
        Some(())
    }

    /// The base is sealed: from here on the backup counts, and could take over.
    pub(super) fn seal_base(&mut self, host: HostId) -> Option<()> {
        let is_early = self.breaks(Break::BaseBeforeListed);
        let primary = self.world.primary(host)?;
        let session = primary.session?;
        let is_listed = session.phase == Phase::Listed || (is_early && session.phase < Phase::Basing);
        if !is_listed || primary.committed != primary.sealed || primary.is_stopping {
            return None;
        }
        self.seal_one(host)?;
        let base = self.world.primary(host)?.sealed;
        *self.session_mut(host)? = Session { phase: Phase::Basing, acked: base - 1, ack_sent: base - 1, ..session };
        self.world.joins.insert(session.join, Extent { base, whole: base - 1 });
        self.commit(host)
    }

    pub(super) fn keep(&mut self, host: HostId) -> Option<()> {
        let primary = self.world.primary(host)?;
        let stored = primary.stored.filter(|stored| *stored < primary.sealed && !primary.is_store_lost)? + 1;
        let has = Epoch { line: primary.line, count: stored };
        self.world.primary_mut(host)?.stored = Some(stored);
        self.world.host_mut(host).store.as_mut()?.has = Some(has);
        self.commit(host)
    }

    pub(super) fn lose_store(&mut self, host: HostId) -> Option<()> {
        let is_unasked = self.breaks(Break::StoreRemovalUnasked);
        let primary = self.world.primary_mut(host)?;
        primary.stored.filter(|_| !primary.is_store_lost)?;
        primary.is_store_lost = !is_unasked;
        if is_unasked {
            primary.stored = None;
        }
        self.spend(|spent| &mut spent.store_losses);
        self.commit(host)
    }

    /// The register does not list the store any more: its files go, and nothing waits for it.
    pub(super) fn remove_store(&mut self, host: HostId) -> Option<()> {
        self.world.host_mut(host).store.as_mut()?.has = None;
        let primary = self.world.primary_mut(host)?;
        (primary.stored, primary.is_store_lost) = (None, false);
        self.commit(host)
    }

    pub(super) fn hear(&mut self, host: HostId) -> Option<()> {
        let primary = self.world.primary(host)?;
        let session = primary.session.filter(|session| session.ack_sent > session.acked && !primary.is_frozen)?;
        let is_first = session.phase == Phase::Basing;
        *self.session_mut(host)? = Session { acked: session.ack_sent, phase: Phase::Following, ..session };
        if is_first {
            let lists = |record: &Record| record.backups.iter().any(|member| member.join == session.join.session());
            let is_listed = self.world.stood().into_iter().any(|slot| lists(&slot.entry.record));
            self.check(is_listed, Violation::ProtectedUnlisted);
        }
        self.commit(host)
    }

    /// Its backup is lost. If that could take over, the register decides; if not, it goes on at once.
    pub(super) fn lose_backup(&mut self, host: HostId) -> Option<()> {
        let primary = self.world.primary(host)?;
        let session = primary.session.filter(|_| !primary.is_frozen)?;
        if session.phase >= Phase::Basing {
            if self.breaks(Break::RemovalUnasked) {
                return self.go_solo(host, session.join);
            }
            self.world.primary_mut(host)?.is_frozen = true;
            return Some(());
        }
        if self.breaks(Break::BaseAfterGivenUp) && session.phase != Phase::Filling {
            self.send_base_after_all(host, session.join)?;
        }
        let primary = self.world.primary_mut(host)?;
        primary.session = None;
        if session.phase != Phase::Filling {
            primary.delist.push(session.join);
        }
        self.commit(host)
    }

    fn send_base_after_all(&mut self, host: HostId, join: Join) -> Option<()> {
        let primary = self.world.primary(host)?;
        let last = Epoch { line: primary.line, count: primary.sealed };
        let backup = self.world.backup_mut(join.backup.host)?;
        if matches!(backup.copy, Replica::Filling { join: filled, .. } if filled == join) {
            backup.copy = Replica::Whole { join, last, stance: Stance::Following };
            self.world.joins.insert(join, Extent { base: last.count, whole: last.count });
        }
        Some(())
    }

    /// The register says that the guest goes on without the backup of `join`.
    pub(super) fn go_solo(&mut self, host: HostId, join: Join) -> Option<()> {
        let primary = self.world.primary_mut(host)?;
        if primary.session.is_some_and(|session| session.join == join) {
            primary.session = None;
            primary.is_frozen = false;
        }
        self.commit(host)
    }

    /// The guest is to stop. A base that is on its way is let go first.
    pub(super) fn stop(&mut self, host: HostId) -> Option<()> {
        let primary = self.world.primary_mut(host)?;
        if primary.is_stopping {
            return None;
        }
        primary.is_stopping = true;
        primary.is_frozen |= primary.session.is_some_and(|session| session.phase == Phase::Basing);
        self.spend(|spent| &mut spent.ends);
        Some(())
    }

    /// Commits what every place that counts has, and releases it at once: later would be no worse.
    pub(super) fn commit(&mut self, host: HostId) -> Option<()> {
        let node = self.world.node(host)?;
        let is_asked = matches!(&node.pending, Some(pending) if matches!(pending.errand, Errand::Remove(_)));
        let is_asked = is_asked && self.breaks(Break::CommitUnderAskedView);
        let primary = self.world.primary(host)?;
        let upto = self.committed(primary, is_asked);
        self.release(host, upto)
    }

    /// What is committed.
    fn committed(&self, primary: &Primary, is_asked: bool) -> u8 {
        if (primary.is_frozen && !is_asked) || self.breaks(Break::SealCommits) {
            return if self.breaks(Break::SealCommits) { primary.sealed } else { primary.committed };
        }
        let counts_from = if self.breaks(Break::CountsFromFirstAck) { Phase::Following } else { Phase::Basing };
        let peer = primary.session.filter(|session| session.phase >= counts_from && !is_asked);
        let stored = primary.stored.filter(|_| !self.breaks(Break::StoreUncounted));
        let places = peer.map(|session| session.acked).into_iter().chain(stored);
        places.min().unwrap_or(primary.sealed).max(primary.committed)
    }

    pub(super) fn release_all(&mut self, host: HostId) {
        let sealed = self.world.primary(host).map_or(0, |primary| primary.sealed);
        self.release(host, sealed);
    }

    /// All up to `upto` leaves, which is looked at from outside.
    fn release(&mut self, host: HostId, upto: u8) -> Option<()> {
        let primary = self.world.primary_mut(host)?;
        if upto <= primary.committed {
            return Some(());
        }
        primary.committed = upto;
        let epoch = Epoch { line: primary.line, count: upto };
        self.change_lines(|lines| lines.release(epoch));
        // The log had it before.
        self.world.host_mut(host).disk = Disk::At(epoch);
        self.judge_release(host, epoch);
        Some(())
    }

    fn judge_release(&mut self, host: HostId, epoch: Epoch) {
        let Some(right) = self.right(epoch.line.life).cloned() else {
            return self.fault(Violation::ReleasedWithoutRight);
        };
        let is_at = |member: &replication::view::Member| {
            let extent = self.extent(Join::of(member.join));
            extent.is_none_or(|extent| epoch.count < extent.base || epoch.count <= extent.whole)
        };
        let is_everywhere = right.backups.iter().all(is_at);
        let store = self.world.host(host).store.and_then(|store| store.has);
        let is_stored = right.store.is_none() || store.is_some_and(|has| self.world.lines.is_in(epoch, has));
        self.check(is_everywhere && is_stored, Violation::ReleasedUncommitted);
        let begins = |slot: &&Slot| slot.entry.record.branch == slot.entry.record.view();
        let is_its = |slot: &&Slot| Life::of(slot.entry.record.primary.id) == epoch.line.life;
        let stood = self.world.stood();
        let later = stood.into_iter().filter(begins).skip_while(|slot| !is_its(slot)).filter(|slot| !is_its(slot));
        // What was shown before may be shown again.
        let others = self.world.lines.released().filter(|other| other.line != epoch.line);
        if others.into_iter().any(|other| self.world.lines.is_in(epoch, other)) {
            return;
        }
        let keeps = |slot: &Slot| slot.fork.is_some_and(|fork| self.world.lines.is_in(epoch, fork));
        let is_kept = later.into_iter().all(keeps);
        self.check(is_kept, Violation::OtherLine);
    }
}
