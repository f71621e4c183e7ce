//! What befalls the hosts of a run: faults, their end, and new lives.

use super::*;
use std::collections::BTreeSet;

use replication::pipeline::resuming::NoCourse;
use replication::view::{Assent, Place, PlaceKind};

use crate::fault::SPARE;
use crate::witness::Witness;

impl World {
    pub(super) fn strike(&mut self, what: What) {
        let env = &mut self.env;
        if env.healing {
            return;
        }
        env.say(|| format!("FAULT: {}", words::what(&what)));
        let relief = match what {
            What::Crash { host, power, restart } => {
                self.crash(host, power);
                let restart = restart.map(|delay| self.env.after(delay, Event::Restart(host)));
                return restart.unwrap_or(());
            }
            What::Blackout(time) => return self.black_out(time),
            What::Cut(time) => {
                (0..HOSTS).for_each(|host| env.net.set_up(host, false));
                time
            }
            What::CutOneWay(host, time) => {
                env.net.set_up(host, false);
                time
            }
            What::CutPair(host, other, time) => {
                env.net.set_pair_up(host, other, false);
                time
            }
            What::LinkSlows(host, time) => {
                env.net.slows_since[host] = Some(env.now);
                time
            }
            What::Lags(host, time) => {
                env.net.lag(host, env.now + time);
                time
            }
            What::HalfOpen(host) => return self.reset(|told| told != host),
            What::Stranger(host, who) => return self.meet_stranger(host, who),
            What::ClockJump(host, by) => return self.jump(host, by),
            What::WitnessCut(host, time) => {
                env.net.witness_up[host] = false;
                time
            }
            What::WitnessGone(host) => return env.net.witness_up[host] = false,
            What::WitnessFull(time) => {
                env.witness.fill(true);
                time
            }
            What::WitnessRestored(records) => return env.witness.restore(records),
            What::WitnessLoses(time) => {
                env.witness.restore(1);
                env.net.witness_up = [false; HOSTS];
                time
            }
            What::ClientCut(host, time) => {
                env.net.client_up[host] = false;
                time
            }
            What::Pause(..) => return env.stand_still(what),
            What::SlowDisk(host, time) => return env.slow_until[host] = env.now + time,
            What::DiskFull(host, time) => return env.full_until[host] = env.now + time,
            What::DiskFails(host) => return env.disk_fails[host] = true,
            What::DiskHangs(host) => return env.disk_hangs[host] = true,
            What::Mute(host) => return env.mute[host] = true,
            What::StoreFails(host) => {
                if let Role::Primary(node) = &mut self.hosts[host].role {
                    node.fail_store();
                }
                return;
            }
            What::StuckFilling(host) => return env.stuck[host] = true,
            What::UnfitBase(host) => return env.unfit_base[host] = true,
            What::Garble => return env.net.garble_next = true,
            What::Reset => return self.reset(|_| true),
            What::Unprotect => return (0..HOSTS).for_each(|host| self.unprotect(host)),
            What::ProtectOther { host, to } => return self.protect_other(host, to),
            What::StandBy(host) => return self.start(host, false),
            What::RunAgain(host) => return self.run_again(host),
            What::Stop(host) => return self.ask_primary(host, |node, env| node.stop(env)),
            What::TakeOverDead(host) => return self.take_over_dead(host),
            What::PauseGuest(host) => return self.ask_primary(host, |node, env| node.pause(env)),
            What::RunGuest(host) => return self.ask_primary(host, |node, env| node.unpause(env)),
            What::Switchover(host) => return self.ask_primary(host, |node, env| node.switch_over(env)),
            What::Snapshot(host, time) => {
                return self.ask_primary(host, |node, env| node.snapshot(time, env));
            }
            What::Beside { host, dir, delay } => return self.prepare_beside(host, dir, delay),
            What::LoseLock(host) => {
                // Nothing is known of the witness either: an empty directory could not be told from a new one.
                env.witness.mount(host);
                return env.witness.machines.lose_lock(host);
            }
            What::RestoreLock(host) => {
                env.witness.mount(host);
                return env.witness.machines.restore_lock(host);
            }
            What::ReplaceDir(host) => return self.replace_dir(host),
            What::OtherWitness(host, time) => {
                env.witness.lose_mount(host);
                time
            }
            What::OtherCluster(host, time) => {
                env.witness.see_copy(host);
                time
            }
            What::GuestCrash(host) => return self.ask_primary(host, |node, env| node.crash_guest(env)),
            What::Exchange(host) => return self.ask_primary(host, |node, env| node.exchange(env)),
            What::Override(host) => return self.override_register(host),
        };
        env.after(relief, Event::Relief(what));
    }

    pub(super) fn relieve(&mut self, what: What) {
        self.env.say(|| format!("it is over that {}", words::what(&what)));
        match what {
            What::Cut(_) => self.join(),
            What::CutOneWay(host, _) => {
                self.env.net.set_up(host, true);
                self.flush_all();
            }
            What::CutPair(host, other, _) => {
                self.env.net.set_pair_up(host, other, true);
                self.flush_all();
            }
            What::LinkSlows(host, _) => self.env.net.slows_since[host] = None,
            What::WitnessCut(host, _) => self.env.net.witness_up[host] = true,
            What::WitnessFull(_) => self.env.witness.fill(false),
            What::WitnessLoses(_) => self.env.net.witness_up = [true; HOSTS],
            What::ClientCut(host, _) => self.env.net.client_up[host] = true,
            What::OtherWitness(host, _) | What::OtherCluster(host, _) => self.env.witness.mount(host),
            // What came when the link was joined meanwhile.
            What::Pause(..) | What::Lags(..) => self.flush_all(),
            _ => {}
        }
    }

    fn join(&mut self) {
        (0..HOSTS).for_each(|host| self.env.net.set_up(host, true));
        self.flush_all();
    }

    /// A spare host stays down.
    fn black_out(&mut self, time: u64) {
        for host in 0..HOSTS {
            self.crash(host, true);
            if host != SPARE || self.env.plan.has_several {
                let delay = time + self.env.rng.range(0, 5 * MS);
                self.env.after(delay, Event::Restart(host));
            }
        }
    }

    /// What a host waits for may be due at once.
    fn jump(&mut self, host: usize, by: u64) {
        self.env.jump(host, by);
        let id = HostId { host, life: self.hosts[host].life };
        self.env.after(0, Event::Timer(id));
    }

    /// An operator looks at all hosts, and names dead what is. What is alive is not named, and then nothing comes of it. Nor does one
    /// override where the dead primary had gone on without this backup: what it did since would be lost.
    fn override_register(&mut self, host: usize) {
        let is_claiming =
            matches!(&self.hosts[host].role, Role::Backup(node) if node.core().state() == BackupState::Claiming);
        let Some(others) = self.env.witness.others_of(host).filter(|_| is_claiming && !self.env.net.witness_up[host])
        else {
            return;
        };
        let names_all = self.env.plan.broken == Some(Break::OverrideUnnamed);
        let is_dead = |place: &Place| {
            let at = host_of(place);
            match place.kind {
                PlaceKind::Process => {
                    matches!(self.hosts[at].role, Role::Down(_) | Role::Starting(_))
                        || self.env.witness.place(at).id != place.id
                }
                PlaceKind::Store => match &self.hosts[at].role {
                    Role::Starting(remains) | Role::Down(remains) => {
                        remains.store.as_ref().is_none_or(|of| of.store != place.id)
                    }
                    _ => false,
                },
            }
        };
        let dead: BTreeSet<Incarnation> =
            others.iter().filter(|place| names_all || is_dead(place)).map(|place| place.id).collect();
        let is_newest = self.env.witness.newest().is_some_and(|record| self.could_continue(host, record));
        // Of backups that were listed later a backup that does not reach the witness has not heard; who looks at all hosts sees them.
        let me = self.env.witness.place(host).id;
        let sees_another = self.env.plan.has_several
            && self
                .env
                .witness
                .newest()
                .is_some_and(|record| record.places().any(|place| place.id != me && !is_dead(place)));
        if dead.len() < others.len() || !(is_newest || names_all) || sees_another {
            return;
        }
        let assent = Assent::Override { dead, word: Witness::word() };
        if self.env.witness.open_exchange(host, assent).is_some() {
            self.env.say(|| format!("an operator OVERRIDES the register on host {host}"));
            // The new witness is elsewhere.
            self.env.net.witness_up[host] = true;
        }
    }

    /// Asks something of whoever runs the guest on a host.
    fn ask_primary(&mut self, host: usize, ask: impl FnOnce(&mut PrimaryNode, &mut Env) -> Result<(), Crashed>) {
        let id = HostId { host, life: self.hosts[host].life };
        let result = self.primary(id, ask);
        self.settle(host, result);
    }

    fn unprotect(&mut self, host: usize) {
        self.ask_primary(host, |node, env| node.unprotect(env));
    }

    /// Where the VM is, it gets a backup elsewhere.
    fn protect_other(&mut self, host: usize, to: usize) {
        if host != to && self.targets[host] != to {
            self.targets[host] = to;
            self.unprotect(host);
        }
    }

    /// A supervisor starts the VM where it was, or an operator where its backup is.
    fn run_again(&mut self, host: usize) {
        if !matches!(self.hosts[host].role, Role::Down(_)) {
            self.stop(host, false);
        }
        self.start(host, true);
    }

    /// The host stops here and now. What it sent is on its way; its image stays.
    pub(super) fn crash(&mut self, host: usize, power: bool) {
        let was_protected =
            matches!(&self.hosts[host].role, Role::Primary(node) if node.core().state() == PrimaryState::Protected);
        self.stop(host, power);
        // One fault of one host is what a protected guest must survive, wherever its operator had it handed over to. That it is to end,
        // or that it crashes by itself, is none.
        let faults = self.env.plan.faults.iter().map(|fault| fault.what);
        let faults: Vec<_> = faults.filter(|what| !matches!(what, What::Switchover(_))).collect();
        let is_one =
            matches!(faults[..], [what] if !matches!(what, What::Stop(_) | What::GuestCrash(_) | What::Blackout(_)));
        if was_protected && is_one && !self.is_survived() {
            let text = || format!("a single fault, the crash of host {host}, killed a protected guest");
            self.env.oracle.fail(Rule::OneFault, host, text);
        }
    }

    pub(super) fn is_survived(&self) -> bool {
        self.env.witness.newest().is_some_and(|record| (0..HOSTS).any(|host| self.could_continue(host, record)))
    }

    pub(super) fn stop(&mut self, host: usize, power: bool) {
        let connections: Vec<u64> = match &self.hosts[host].role {
            Role::Down(_) => return,
            Role::Primary(node) => node.connections().collect(),
            Role::Backup(node) => node.stream.iter().map(|stream| stream.connection).collect(),
            Role::Starting(_) => Vec::new(),
        };
        for connection in connections.into_iter().filter(|_| !power) {
            self.env.close(connection, host);
        }
        let mut remains = match std::mem::replace(&mut self.hosts[host].role, Role::Down(Box::default())) {
            Role::Primary(node) => {
                let (files, store) = node.into_files_after(power, &mut self.env);
                self.left(host, files, store)
            }
            Role::Backup(node) => {
                let files = node.into_files_after(power, &mut self.env);
                self.left(host, files, None)
            }
            Role::Starting(mut remains) | Role::Down(mut remains) => {
                remains.files.crash(power, &mut self.env.rng);
                remains
            }
        };
        if power {
            self.lose_power(host, &mut remains);
        }
        self.hosts[host].role = Role::Down(remains);
        self.crashed(host, power);
    }

    fn lose_power(&mut self, host: usize, remains: &mut Remains) {
        let keeps_files = self.env.plan.local_survives_power;
        let keeps_writes = self.env.plan.broken.is_none() && self.env.rng.percent(50);
        self.env.witness.lose_notes(host);
        self.env.witness.machines.reboot(host, keeps_files, keeps_writes);
        if let Some(store) = &mut remains.store {
            store.earlier.clear();
        }
        if !keeps_files {
            (remains.store, remains.resets) = (None, false);
            self.env.witness.machines.lost_evidence |= self.env.plan.local;
            self.env.witness.mount(host);
        }
    }

    pub(super) fn crashed(&mut self, host: usize, power: bool) {
        self.hosts[host].life += 1;
        self.env.witness.machines.end(host);
        self.env.lose_host(host);
        self.env.disk_hangs[host] = false;
        self.env.say(|| format!("host {host} is down{}", if power { ", its power is gone" } else { "" }));
        if self.env.healing {
            self.env.after(MS, Event::Restart(host));
        }
    }

    /// A host comes back: as the VM where it may, else as its backup.
    pub(super) fn restart(&mut self, host: usize) {
        if self.env.witness.is_overridden_beside(host) {
            // Who gave his word that this host is dead starts nothing there before it is settled which witness counts.
            if !self.env.healing && matches!(self.hosts[host].role, Role::Down(_)) {
                self.env.after(20 * MS, Event::Restart(host));
            }
            return;
        }
        let begins = self.env.healing || self.env.rng.percent(40);
        self.start(host, begins);
    }

    pub(super) fn start(&mut self, host: usize, begins: bool) {
        let Role::Down(remains) = &mut self.hosts[host].role else { return };
        let mut remains = std::mem::take(remains);
        let id = HostId { host, life: self.hosts[host].life };
        let broken = self.env.plan.broken;
        let is_crash_seen = broken != Some(Break::StoppedResumed);
        let found = remains.found();
        let found = if is_crash_seen { found } else { Found { crash: CrashStanding::None, ..found } };
        let course = decide(&found, &back::asked(&self.env.plan));
        if let Err(no @ (NoCourse::Crashed | NoCourse::Exhausted | NoCourse::HalfWay)) = course {
            return self.leave_stopped(host, remains, no);
        }
        if course == Ok(Course::Boot) {
            return self.start_fresh(id, *remains);
        }
        let resumable = remains.resumable().and_then(|store| {
            let older = store.older().map(|kept| kept.epoch);
            Some((store.store, store.last.as_ref()?.epoch, older))
        });
        if let (Ok(course), Some((store, last, older))) = (course, resumable) {
            let fork = if broken == Some(Break::BackUnrecorded) { last } else { course.fork(last, older) };
            remains.resuming = Some(up_to_claim(course));
            self.hosts[host].role = Role::Starting(remains);
            self.env.witness.begin_life(id);
            let question = Question::Resume { store, fork, named: self.named_for_resume(host, store) };
            return match self.env.plan.broken {
                Some(Break::ResumeWithoutClaim) => self.env.learn_unasked(id, question),
                // Broken: that the guest has ended does not matter to who has an epoch of it.
                Some(Break::EndedResumed) if self.has_ended() => self.env.learn_unasked(id, question),
                _ => self.env.ask(id, question),
            };
        }
        // A fresh start has nobody to meet: it cannot tell a copy of the witness's directory.
        if begins && !self.env.witness.sees_copy(host) {
            return self.start_fresh(id, *remains);
        }
        self.hosts[host].role = Role::Starting(remains);
        self.start_backup(id);
    }

    fn has_ended(&self) -> bool {
        self.env.witness.newest().is_some_and(|record| record.standing == Standing::Ended)
    }

    /// What a host had of a guest that went on elsewhere is given up.
    pub(super) fn start_backup(&mut self, id: HostId) {
        let role = &mut self.hosts[id.host].role;
        let Role::Starting(mut remains) = std::mem::replace(role, Role::Down(Box::default())) else {
            unreachable!("only a host that was started becomes a backup");
        };
        if !remains.files.open(id.host, EpochId(u64::MAX), &mut self.env) {
            return self.fail_start(id.host, remains);
        }
        self.env.say(|| format!("host {} starts as a backup", id.host));
        self.hosts[id.host].life += 1;
        let id = HostId { life: self.hosts[id.host].life, ..id };
        self.env.witness.begin_life(id);
        self.hosts[id.host].role = Role::Backup(Box::new(BackupNode::new(id, remains.files, &self.env)));
        self.env.after(LOOK_EVERY, Event::Look { by: id, again: true });
    }

    pub(super) fn heal(&mut self) {
        self.env.say(|| "faults stop; healing begins".to_owned());
        self.env.disarm();
        self.is_calm = false;
        self.env.net.witness_up = [true; HOSTS];
        self.env.witness.mend();
        self.env.net.client_up = [true; HOSTS];
        self.env.net.garble_next = false;
        self.env.net.catch_up();
        self.env.net.slows_since = [None; HOSTS];
        self.env.slow_until = [0; HOSTS];
        self.env.full_until = [0; HOSTS];
        self.env.disk_fails = [false; HOSTS];
        self.env.mute = [false; HOSTS];
        self.env.stuck = [false; HOSTS];
        self.env.unfit_base = [false; HOSTS];
        self.env.plan.client_loss = 0;
        self.answered_before_heal = self.env.client.answered;
        self.join();
        self.restart_all();
        self.env.after(20 * MS, Event::Operate);
    }

    /// What is down is started, and a spare host if it was the VM's. A primary connects to where there is a backup.
    fn restart_all(&mut self) {
        self.restart(0);
        self.restart(1);
        let is_ours = |record: &Record| record.places().any(|place| host_of(place) == SPARE);
        if self.env.plan.has_several || self.env.witness.newest().is_some_and(is_ours) {
            self.restart(SPARE);
        }
        let is_backup = |host: usize| matches!(self.hosts[host].role, Role::Backup(_));
        if let Some(backup) = (0..HOSTS).find(|host| is_backup(*host)) {
            let aim = |target: usize| if is_backup(target) { target } else { backup };
            self.targets = self.targets.map(aim);
        }
    }

    /// An operator resets a host whose disk hangs; but one whose guest its backup can continue, that has to.
    fn reset_hung(&mut self) {
        let is_followed = |node: &PrimaryNode| node.core().state() == PrimaryState::Protected;
        for host in 0..HOSTS {
            if self.env.disk_hangs[host] && !matches!(&self.hosts[host].role, Role::Primary(node) if is_followed(node))
            {
                self.env.say(|| format!("an operator resets host {host}, whose disk hangs"));
                self.stop(host, true);
                self.env.disk_hangs[host] = false;
            }
        }
    }

    /// An operator looks: what is down is started, and a VM that nobody runs or could continue where it ran last.
    pub(super) fn operate(&mut self) {
        self.env.after(20 * MS, Event::Operate);
        for host in 0..HOSTS {
            if matches!(&self.hosts[host].role, Role::Backup(node) if node.is_unfit) {
                self.stop(host, false);
            }
        }
        self.reset_hung();
        self.attend_stopped();
        self.restart_all();
        for host in 0..HOSTS {
            let is_waiting =
                matches!(&self.hosts[host].role, Role::Backup(node) if node.core().state() == BackupState::Waiting);
            if is_waiting && self.env.witness.is_of_lost_heir(host) {
                self.env.say(|| format!("an operator gives the backup on host {host} an empty state directory"));
                self.env.witness.machines.lose_lock(host);
                self.stop(host, false);
            } else if is_waiting {
                self.env.witness.use_current(host);
            }
        }
        self.attend_starts();
        (0..HOSTS).for_each(|host| self.ask_primary(host, |node, env| node.unpause(env)));
        let is_run = self.hosts.iter().any(|host| matches!(host.role, Role::Primary(_) | Role::Starting(_)));
        let is_kept = |host: &Host| matches!(&host.role, Role::Backup(node) if node.core().kept().is_some());
        let kept = self.hosts.iter().position(is_kept);
        if let Some(host) = kept.filter(|_| !is_run && self.env.rng.percent(50)) {
            self.take_over_dead(host);
        } else if !is_run && !self.is_survived() {
            let host = self.env.witness.newest().map_or(0, |record| host_of(&record.primary));
            self.env.say(|| format!("an operator starts the VM on host {host}"));
            self.env.witness.give_current(host);
            self.run_again(host);
        }
    }

    /// Where every other host is needed too: one that asks a witness which does not count any more, while the VM runs elsewhere, is
    /// started as its backup.
    fn attend_starts(&mut self) {
        let is_run = self.hosts.iter().any(|host| matches!(host.role, Role::Primary(_)));
        for host in 0..HOSTS {
            let is_starting = matches!(self.hosts[host].role, Role::Starting(_));
            let is_lost = self.env.witness.is_of_lost_heir(host);
            let is_attended = is_lost || (self.env.plan.has_several && is_run);
            if is_attended && is_starting && self.env.rng.percent(20) {
                self.env.say(|| format!("an operator makes host {host} a backup"));
                self.env.witness.give_current(host);
                if is_lost {
                    self.env.witness.machines.lose_lock(host);
                }
                self.stop(host, false);
                if is_run {
                    self.start(host, false);
                }
            }
        }
    }
}

/// A resume along `course` that is about to ask the register. What it examined and loaded is whole: its files are opened at once.
fn up_to_claim(course: Course) -> Resuming {
    let mut resuming = Resuming::along(course);
    while resuming.poll_step().expect("who resumes a guest claims it") != ResumeStep::Claim {}
    resuming
}
