//! A guest that crashed: it goes back to an earlier epoch, or is stopped until its operator says more.

use replication::output::still_held;
use replication::pipeline::resuming::NoCourse;
use replication::{BranchSeed, EpochMark, Origin, StateDigest};

use super::*;
use crate::disk::{SECTOR, SECTORS};
use crate::guest::sector_of;
use crate::machines::incarnation;
use crate::state_dir::LocalEpoch;

impl World {
    /// A step of the way back; the epoch of the new branch that the guest is at the end of then.
    pub(super) fn go_back(
        &mut self,
        id: HostId,
        step: ResumeStep,
        (term, record): (Term, Option<&Record>),
        remains: &mut Remains,
    ) -> Result<Option<LocalEpoch>, Crashed> {
        let unnoted = self.env.plan.broken == Some(Break::AttemptUnnoted);
        let store = remains.store.as_mut().expect("only a host with a state directory resumes");
        match step {
            ResumeStep::NoteAttempt if !unnoted => store.note_attempt(),
            ResumeStep::GoBack => return self.put_back(id, (term, record), remains).map(Some),
            ResumeStep::NoteEnd => {
                store.note_attempt();
                store.stand(CrashStanding::Tried);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Puts memory and disk back to the earlier epoch, and commits that as the first one of the branch.
    fn put_back(
        &mut self,
        id: HostId,
        (term, record): (Term, Option<&Record>),
        remains: &mut Remains,
    ) -> Result<LocalEpoch, Crashed> {
        let host = id.host;
        let store = remains.store.as_mut().expect("only a host with a state directory resumes");
        let to = store.older().cloned().expect("who goes back goes to an epoch");
        let parent = to.epoch.branch().filter(|_| self.env.plan.broken == Some(Break::BackInBranch));
        let branch = parent.unwrap_or(term);
        let origin = Origin::after(to.epoch, BranchSeed(incarnation(id).0));
        let mark = EpochMark::root(branch, origin).next(Some(StateDigest::of(&to.guest.save())));
        let last = store.last.as_ref().map_or(&[][..], |last| &last.held);
        let is_forgetful = self.env.plan.broken == Some(Break::BackWithoutHeld);
        let held = if is_forgetful { Vec::new() } else { still_held(&to.held, last).to_vec() };
        let first = LocalEpoch { epoch: Fork::Mark(mark), guest: to.guest.clone(), held };
        let env = &mut self.env;
        env.counts.backs += 1;
        env.say(|| format!("host {host} GOES BACK to epoch {}, as {mark}", to.epoch));
        let half = SECTORS / 2;
        (0..half).for_each(|sector| put_sector(&mut remains.files, &to.guest, sector));
        env.step(host, Step::GoBack, false)?;
        (half..SECTORS).for_each(|sector| put_sector(&mut remains.files, &to.guest, sector));
        remains.files.image.sync();
        store.go_back(to.epoch, first.clone());
        if let Some(record) = record {
            env.oracle.check_recorded_back(host, record.fork, to.epoch);
        }
        env.oracle.goes_back(host, (&to.guest, to.epoch), mark);
        env.step(host, Step::GoBack, true)?;
        Ok(first)
    }

    /// The guest is not resumed: it crashed. It waits for its operator.
    pub(super) fn leave_stopped(&mut self, host: usize, mut remains: Box<Remains>, no: NoCourse) {
        if let Some(store) = remains.store.as_mut().filter(|_| no == NoCourse::Exhausted) {
            store.stand(CrashStanding::Stopped);
        }
        self.env.say(|| format!("host {host} does not resume its guest: {no:?}"));
        self.hosts[host].role = Role::Down(remains);
    }

    /// An operator looks at guests that crashed and were stopped: they continue all the same, or are given up where memory and disk are
    /// of two moments.
    pub(super) fn attend_stopped(&mut self) {
        for host in 0..HOSTS {
            let Role::Down(remains) = &mut self.hosts[host].role else { continue };
            let no = decide(&remains.found(), &asked(&self.env.plan));
            let Err(NoCourse::Crashed | NoCourse::Exhausted | NoCourse::HalfWay) = no else { continue };
            let Some(store) = &mut remains.store else { continue };
            self.env.oracle.operator_continues();
            if no == Err(NoCourse::HalfWay) {
                self.env.say(|| format!("an operator gives the guest of host {host} up"));
                remains.store = None;
            } else {
                self.env.say(|| format!("an operator has the guest of host {host} continue"));
                store.incident = None;
            }
            self.start(host, true);
        }
    }

    /// An operator who sees that nobody runs the guest or could continue it has the copy of a backup run.
    pub(super) fn take_over_dead(&mut self, host: usize) {
        let is_lie = self.env.plan.broken == Some(Break::OverrideUnasked);
        let is_starting = self.hosts.iter().any(|host| matches!(host.role, Role::Starting(_)));
        if !is_lie && (self.is_primary_alive() || is_starting || self.is_survived()) {
            return;
        }
        // Nobody gives up a guest that was booted since for one from before.
        let kept = match &self.hosts[host].role {
            Role::Backup(node) => node.core().kept().map(|(fork, _)| fork),
            _ => None,
        };
        if kept.is_some_and(|fork| !self.env.oracle.has_sealed(fork)) {
            return;
        }
        let id = HostId { host, life: self.hosts[host].life };
        let result = self.backup(id, |node, env| node.take_over_dead(env));
        self.settle(host, result);
    }

    /// A backup won the right to run the guest from the end of `fork`. If an operator said so what came after that is over.
    pub(super) fn note_takeover(&mut self, host: usize, fork: EpochMark, is_named: bool) {
        if is_named {
            self.env.counts.overrides += 1;
            self.env.say(|| format!("host {host} runs the copy that it kept, of epoch {fork}"));
            self.env.oracle.overridden(fork);
        } else {
            self.env.oracle.forked(fork);
        }
    }

    /// A guest that has ended is run by nobody.
    pub(super) fn check_not_ended(&mut self, host: usize) {
        if self.env.witness.newest().is_some_and(|record| record.standing == Standing::Ended) {
            let text = || format!("host {host} goes on with a guest whose end is on record");
            self.env.oracle.fail(Rule::EndedStays, host, text);
        }
    }
}

/// What is asked for at every start.
pub(super) fn asked(plan: &Plan) -> Asked {
    Asked { rolls_back: plan.on_crash == OnCrash::GoBack, backup_is_gone: false }
}

fn put_sector(files: &mut Files, guest: &Guest, sector: usize) {
    let chain = guest.sector_chain(sector);
    let data = if chain == 0 { [0; SECTOR] } else { sector_of(chain) };
    files.image.write(sector * SECTOR, &data);
}
