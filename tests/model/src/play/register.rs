//! The conversation with the witness, by the product's own register, and what comes of it.

use std::collections::BTreeSet;

use replication::view::evidence::Statement;
use replication::view::{
    Ask, Attempt, Incarnation, Lives, Member, Outcome, Place, Record, Refusal, Register, Standing, Wish,
};

use super::Play;
use super::side::{Course, Side};
use crate::action::Fate;
use crate::broken::Break;
use crate::line::{Epoch, Line};
use crate::name::{HostId, Join};
use crate::shared::Shared;
use crate::witness::Site;
use crate::world::{Disk, Errand, Pending, Phase, Primary, Replica, Role, Stance};

impl Play<'_> {
    /// The process on `host` wants something. It reads; if it may append, that is pending.
    pub(super) fn ask(&mut self, host: HostId, errand: Errand) -> Option<()> {
        if self.world.node(host)?.pending.is_some() || !crate::action::errands(&self.world, host).contains(&errand) {
            return None;
        }
        match errand {
            Errand::TakeOver if self.breaks(Break::NobodyClaims) => return None,
            Errand::Look if self.breaks(Break::HeirUnseen) && self.world.backup(host).is_some() => return None,
            Errand::TakeOver => self.claim(host)?,
            Errand::Override => self.spend(|spent| &mut spent.overrides),
            Errand::Enlist(_) => self.session_mut(host)?.phase = Phase::Asked,
            _ => {}
        }
        if errand == Errand::End && self.breaks(Break::EndUnrecorded) {
            return self.won(host, errand, 0);
        }
        if errand == Errand::TakeOver && self.breaks(Break::ReadIsRight) {
            return self.take_by_reading(host);
        }
        if errand == Errand::CallOff && self.abandon(host)? {
            return Some(());
        }
        if errand == Errand::Move {
            self.note_forsworn(host)?;
        }
        let wish = self.wish(host, errand)?;
        self.put(host, errand, wish)?;
        match self.breaks(Break::CommitUnderAskedView) {
            true if self.world.primary(host).is_some() => self.commit(host),
            _ => Some(()),
        }
    }

    /// Puts a wish to the register, which reads.
    pub(super) fn put(&mut self, host: HostId, errand: Errand, wish: Wish) -> Option<()> {
        let mut side = self.side(host)?;
        if self.breaks(Break::SeenIsForgotten) {
            side.register = Register::new(side.register.me().clone(), None);
        }
        if self.breaks(Break::ForswornAppends) && !matches!(errand, Errand::Move | Errand::CallOff) {
            side.forget_exchange();
        }
        side.register.handle_wish(wish, self.attempt(host)?);
        self.go_on(host, errand, side)
    }

    /// How a try to append of the process on `host` is known.
    fn attempt(&self, host: HostId) -> Option<Attempt> {
        Some(self.world.node(host)?.life.attempt(self.world.spent.exchanges))
    }

    /// Reads on until there is something to append, or the wish is decided.
    fn go_on(&mut self, host: HostId, errand: Errand, mut side: Side) -> Option<()> {
        let course = side.go_on(&self.world);
        self.keep_side(host, side)?;
        match course {
            Course::Decided(outcome) => self.settle(host, errand, outcome),
            Course::Appends(site, ask) => {
                self.world.node_mut(host)?.pending = Some(Pending { errand, site, ask: Shared::new(ask) });
                Some(())
            }
        }
    }

    /// What a process wants, in the register's words.
    fn wish(&mut self, host: HostId, errand: Errand) -> Option<Wish> {
        Some(match errand {
            Errand::Begin | Errand::Resume => return None,
            Errand::TakeOver | Errand::Override => {
                let Replica::Whole { join, last, .. } = self.world.backup(host)?.copy else { return None };
                let fork = self.world.lines.mark(self.fork_of(join, last));
                let named_dead = self.named_dead(host, errand)?;
                Wish::TakeOver { join: join.session(), fork, named_dead }
            }
            Errand::Enlist(join) => {
                let place = self.world.node(join.backup.host)?.register.me().clone();
                Wish::Enlist { member: Member { place, join: join.session() }, beside: BTreeSet::new() }
            }
            Errand::Remove(join) | Errand::Delist(join) => Wish::Remove(join.session()),
            Errand::RemoveStore => Wish::RemoveStore,
            Errand::End => Wish::End,
            Errand::Look => Wish::Look,
            Errand::Move | Errand::CallOff => Wish::Move(self.world.node(host)?.register.exchange()?.heir.register),
        })
    }

    fn fork_of(&self, join: Join, last: Epoch) -> Epoch {
        let base = self.extent(join).map_or(0, |extent| extent.base);
        let count = if self.breaks(Break::ForkBelowWhole) && last.count > base { last.count - 1 } else { last.count };
        Epoch { count, ..last }
    }

    /// What an operator names, who names only what will never come back.
    fn named_dead(&self, host: HostId, errand: Errand) -> Option<BTreeSet<Incarnation>> {
        let newest = self.world.witness(self.world.node(host)?.desks.own).newest()?;
        let all = newest.places().map(|place| place.id).collect();
        if errand == Errand::TakeOver {
            return Some(if self.breaks(Break::ClaimUnlisted) { all } else { Default::default() });
        }
        let mut places = newest.places();
        let is_gone = |place: &Place| !self.may_continue(newest, place.id, place.kind);
        let has_named = match self.breaks(Break::OverrideUnnamed) {
            true => places.next().is_some_and(is_gone),
            false => places.all(is_gone),
        };
        has_named.then_some(all)
    }

    /// An append reaches the witness, or not, and its process hears of it, or not.
    pub(super) fn perform(&mut self, host: HostId, pending: &Pending, fate: Fate) -> Option<()> {
        let Pending { errand, site, ask } = pending;
        let Ask::Append { record, .. } = &**ask else { unreachable!("only appends are pending") };
        match fate {
            Fate::Answered | Fate::Unanswered if self.takes(*site, record) => self.write(*site, record),
            Fate::Late => self.world.witness_mut(*site).late = Some(Shared::new(Record::clone(record))),
            _ => {}
        }
        // One whose number is taken will never stand.
        let late = self.world.witness_mut(*site).late.take();
        self.world.witness_mut(*site).late = late.filter(|late| self.may_stand(*site, late));
        let mut side = self.side(host)?;
        let found = self.world.witness(*site).read(ask).filter(|_| fate == Fate::Answered);
        let outcome = match found {
            Some(found) => side.register.handle_found(found),
            None => side.register.handle_no_answer(),
        };
        let Some(outcome) = outcome else { return self.go_on(host, *errand, side) };
        side.settle();
        if outcome == Outcome::NoAnswer && self.breaks(Break::HeirForgotten) {
            side.forget_exchange();
        }
        self.keep_side(host, side)?;
        if outcome == Outcome::NoAnswer && self.breaks(Break::DoubtIsWon) {
            let branch = u8::try_from(record.branch).expect("records are few");
            return self.won(host, *errand, branch);
        }
        self.settle(host, *errand, outcome)
    }

    /// Whether the witness would make this record stand.
    pub(super) fn takes(&self, site: Site, record: &Record) -> bool {
        let has_number = self.breaks(Break::AppendReplaces) && self.has_number(site, record);
        self.world.witness(site).takes(record) || has_number
    }

    fn may_stand(&self, site: Site, late: &Record) -> bool {
        !self.has_number(site, late) || self.breaks(Break::AppendReplaces)
    }

    fn has_number(&self, site: Site, record: &Record) -> bool {
        record.number <= self.world.witness(site).chain.len() as u64
    }

    pub(super) fn write(&mut self, site: Site, record: &Record) {
        let before = usize::try_from(record.number).expect("records are few") - 1;
        self.world.witness_mut(site).chain.truncate(before);
        self.stand(site, record);
    }

    /// What became of a wish.
    fn settle(&mut self, host: HostId, errand: Errand, outcome: Outcome) -> Option<()> {
        match outcome {
            Outcome::Won(entry) => {
                self.remember(host);
                self.won(host, errand, u8::try_from(entry.record.branch).expect("records are few"))
            }
            // An exchange that is called off is settled; the register that stays counts.
            Outcome::Refused(Refusal::CalledOff) => Some(()),
            Outcome::Refused(refusal) => self.refused(host, errand, &refusal),
            Outcome::NoAnswer | Outcome::Forgotten => self.undecided(host, errand),
        }
    }

    /// The lock file keeps the newest record.
    pub(super) fn remember(&mut self, host: HostId) {
        if self.breaks(Break::SeenIsForgotten) {
            return;
        }
        let known = self.world.node(host).and_then(|node| node.register.known());
        let host = self.world.host_mut(host);
        if let (Some(known), Some(lives)) = (known, &host.lives) {
            let mut lives = Lives::clone(lives);
            lives.remember(known);
            host.lives = Some(Shared::new(lives));
        }
    }

    /// A wish is so, by a record that stands: the branch is that of the record.
    pub(super) fn won(&mut self, host: HostId, errand: Errand, branch: u8) -> Option<()> {
        match errand {
            Errand::Begin => {
                self.make_store(host);
                self.begin_line(host, branch, None)
            }
            Errand::Resume => {
                let has = self.world.host(host).store?.has;
                self.begin_line(host, branch, has)
            }
            Errand::TakeOver | Errand::Override => {
                let Replica::Whole { join, last, .. } = self.world.backup(host)?.copy else { return None };
                let fork = self.fork_of(join, last);
                let branch = if self.breaks(Break::BranchKept) { last.line.branch } else { branch };
                self.begin_line(host, branch, Some(fork))
            }
            Errand::Enlist(join) => {
                if let Some(session) = self.session_mut(host).filter(|session| session.join == join) {
                    session.phase = session.phase.max(Phase::Listed);
                }
                Some(())
            }
            Errand::Remove(join) => self.go_solo(host, join),
            Errand::Delist(join) => {
                self.world.primary_mut(host)?.delist.retain(|other| *other != join);
                Some(())
            }
            Errand::RemoveStore => self.remove_store(host),
            Errand::End => {
                self.world.host_mut(host).node = None;
                self.world.is_ended = true;
                Some(())
            }
            Errand::Look | Errand::Move | Errand::CallOff => Some(()),
        }
    }

    /// Another place has the guest, or may have it.
    fn refused(&mut self, host: HostId, errand: Errand, refusal: &Refusal) -> Option<()> {
        if errand == Errand::Look && self.world.backup(host).is_some() {
            return Some(());
        }
        if let Refusal::Moved { departure } = refusal {
            self.look_elsewhere(host, departure)?;
        }
        let node = self.world.node(host)?;
        match &node.role {
            // The program ends with exit code 6.
            Role::Starting => {}
            Role::Backup(_) => {
                if let Replica::Whole { stance, .. } = &mut self.world.backup_mut(host)?.copy {
                    *stance = Stance::Keeping;
                }
                return (errand == Errand::TakeOver).then_some(());
            }
            Role::Primary(_) if self.breaks(Break::HeldIsReleased) => self.release_all(host),
            Role::Primary(_) => {}
        }
        self.world.host_mut(host).node = None;
        Some(())
    }

    /// Nobody knows, or the witness has forgotten. A start ends; all others ask again.
    fn undecided(&mut self, host: HostId, errand: Errand) -> Option<()> {
        match errand {
            Errand::Begin | Errand::Resume => self.world.host_mut(host).node = None,
            Errand::TakeOver if self.breaks(Break::DoubtIsForgotten) => {
                if let Replica::Whole { stance, .. } = &mut self.world.backup_mut(host)?.copy {
                    *stance = Stance::Following;
                }
            }
            _ => {}
        }
        Some(())
    }

    /// A backup runs the guest since it has read a record that lists it.
    fn take_by_reading(&mut self, host: HostId) -> Option<()> {
        let newest = self.world.newest()?;
        let Replica::Whole { join, .. } = self.world.backup(host)?.copy else { return None };
        let is_listed = newest.backups.iter().any(|member| member.join == join.session());
        let branch = u8::try_from(newest.number).expect("records are few") + 1;
        (newest.standing == Standing::Running && is_listed).then_some(())?;
        self.won(host, Errand::TakeOver, branch)
    }

    /// A start, a resume or a backup runs the guest from now on.
    fn begin_line(&mut self, host: HostId, branch: u8, fork: Option<Epoch>) -> Option<()> {
        let node = self.world.node(host)?;
        let line = Line { branch, life: node.life };
        let is_backup = matches!(node.role, Role::Backup(_));
        let disk = self.world.host(host).disk;
        self.change_lines(|lines| lines.begin(line, fork, disk.epoch()));
        self.world.host_mut(host).disk = fork.map_or(disk, Disk::At);
        let stored = self.world.host(host).store.filter(|_| !is_backup);
        let role = Role::Primary(Primary {
            line,
            sealed: fork.map_or(0, |fork| fork.count),
            committed: fork.map_or(0, |fork| fork.count),
            session: None,
            is_frozen: false,
            stored: stored.map(|store| store.has.map_or(0, |has| has.count)),
            is_store_lost: false,
            delist: Vec::new(),
            is_stopping: false,
            exchanging: None,
        });
        self.world.node_mut(host)?.role = role;
        Some(())
    }

    /// Of the statements that matter while `record` is the newest, those that stand.
    pub(super) fn stated(&self, site: Site, record: &Record) -> BTreeSet<Statement> {
        let about = Statement::about(record).into_iter();
        about.filter(|statement| self.world.witness(site).statements.contains(statement)).collect()
    }
}
