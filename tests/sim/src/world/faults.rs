//! What befalls the hosts of a run: faults, their end, and new lives.

use super::*;

impl World {
    pub(super) fn strike(&mut self, what: What) {
        let env = &mut self.env;
        if env.healing {
            return;
        }
        env.say(|| format!("FAULT {what:?}"));
        let relief = match what {
            What::Crash { host, power, restart } => {
                self.crash(host, power);
                let restart = restart.map(|delay| self.env.after(delay, Event::Restart(host)));
                return restart.unwrap_or(());
            }
            What::Cut(time) => {
                env.net.link_up = false;
                time
            }
            What::WitnessCut(host, time) => {
                env.net.witness_up[host] = false;
                time
            }
            What::ClientCut(host, time) => {
                env.net.client_up[host] = false;
                time
            }
            // A pause is neither ended nor made longer by another: what waits for its end would be overtaken.
            What::Pause(host, _) if env.paused_until[host] > env.now => return,
            What::Pause(host, time) => {
                env.paused_until[host] = env.now + time;
                time
            }
            What::SlowDisk(host, time) => return env.slow_until[host] = env.now + time,
            What::Mute(host) => return env.mute[host] = true,
            What::Garble => return env.net.garble_next = true,
            What::Reset => return self.reset(),
            What::Unprotect => return self.unprotect(),
            What::GuestCrash(host) => {
                let id = HostId { host, life: self.hosts[host].life };
                let result = self.primary(id, |node, env| node.crash_guest(env));
                return self.settle(host, result);
            }
        };
        env.after(relief, Event::Relief(what));
    }

    pub(super) fn relieve(&mut self, what: What) {
        match what {
            What::Cut(_) => self.join(),
            What::WitnessCut(host, _) => self.env.net.witness_up[host] = true,
            What::ClientCut(host, _) => self.env.net.client_up[host] = true,
            // What came when the link was joined meanwhile.
            What::Pause(host, _) => self.flush(1 - host),
            _ => {}
        }
    }

    fn join(&mut self) {
        self.env.net.link_up = true;
        self.flush(0);
        self.flush(1);
    }

    fn reset(&mut self) {
        let connection = self.env.net.connection.id;
        for host in 0..2 {
            self.env.close(connection, host);
        }
    }

    fn unprotect(&mut self) {
        for host in 0..2 {
            let id = HostId { host, life: self.hosts[host].life };
            let result = self.primary(id, |node, env| {
                node.core.handle_unprotect(env.time(), "the operator wants it");
                node.pump(env)
            });
            self.settle(host, result);
        }
    }

    /// The host stops here and now. What it sent is on its way; its image stays.
    pub(super) fn crash(&mut self, host: usize, power: bool) {
        let was_protected =
            matches!(&self.hosts[host].role, Role::Primary(node) if node.core.state() == PrimaryState::Protected);
        self.stop(host, power);
        // One fault is what a protected guest must survive.
        if self.guest_lost && was_protected && self.env.plan.faults.len() == 1 {
            self.env.oracle.fail(|| format!("a single fault, the crash of host {host}, killed a protected guest"));
        }
    }

    pub(super) fn stop(&mut self, host: usize, power: bool) {
        let stream = match &self.hosts[host].role {
            Role::Down(_) => return,
            Role::Primary(node) => node.stream.as_ref(),
            Role::Backup(node) => node.stream.as_ref(),
            Role::Resuming(_) => None,
        };
        if let Some(connection) = stream.map(|stream| stream.connection).filter(|_| !power) {
            self.env.close(connection, host);
        }
        let mut remains = match std::mem::replace(&mut self.hosts[host].role, Role::Down(Box::default())) {
            Role::Primary(node) => Box::new(Remains { image: node.disk.image, store: node.store }),
            Role::Backup(node) => Box::new(Remains { image: node.image, store: None }),
            Role::Resuming(remains) | Role::Down(remains) => remains,
        };
        if power && !self.env.plan.local_survives_power {
            remains.store = None;
        }
        self.hosts[host].role = Role::Down(remains);
        self.crashed(host, power);
    }

    pub(super) fn crashed(&mut self, host: usize, power: bool) {
        self.hosts[host].life += 1;
        self.env.paused_until[host] = 0;
        self.env.say(|| format!("host {host} is down{}", if power { ", its power is gone" } else { "" }));
        self.look_for_a_survivor();
        if self.env.healing {
            self.env.after(MS, Event::Restart(host));
        }
    }

    pub(super) fn restart(&mut self, host: usize) {
        if self.guest_lost {
            return;
        }
        let Role::Down(remains) = &mut self.hosts[host].role else { return };
        let remains = std::mem::take(remains);
        let is_resumable = remains.resumable().is_some();
        self.hosts[host].role = Role::Resuming(remains);
        let id = HostId { host, life: self.hosts[host].life };
        if !is_resumable {
            return self.start_backup(id);
        }
        let result = self.ask_to_resume(id);
        self.settle(host, result);
    }

    /// What a host had of a guest that went on elsewhere is given up.
    pub(super) fn start_backup(&mut self, id: HostId) {
        let role = &mut self.hosts[id.host].role;
        let Role::Resuming(remains) = std::mem::replace(role, Role::Down(Box::default())) else {
            unreachable!("only a host that was started becomes a backup");
        };
        self.env.say(|| format!("host {} starts as a backup", id.host));
        self.hosts[id.host].role = Role::Backup(Box::new(BackupNode::new(id, remains.image, &self.env)));
    }

    pub(super) fn heal(&mut self) {
        self.env.say(|| "faults stop; healing begins".to_owned());
        self.env.disarm();
        self.env.net.witness_up = [true; 2];
        self.env.net.client_up = [true; 2];
        self.env.net.garble_next = false;
        self.env.slow_until = [0; 2];
        self.env.mute = [false; 2];
        self.env.plan.client_loss = 0;
        self.answered_before_heal = self.env.client.answered;
        self.join();
        self.restart(0);
        self.restart(1);
    }

    /// Whether anybody is left who runs the guest or may come to run it.
    pub(super) fn look_for_a_survivor(&mut self) {
        let witness = &self.env.witness;
        let is_free = |id: HostId, session: Option<SessionId>| {
            let holder = session.and_then(|session| witness.get(&session));
            holder.is_none_or(|holder| *holder == id)
        };
        let survives = (0..2).any(|host| {
            let id = HostId { host, life: self.hosts[host].life };
            match &self.hosts[host].role {
                Role::Primary(node) => {
                    let session = node.core.link().map(|link| link.session);
                    node.core.state() != PrimaryState::Fenced && is_free(node.holder(), session)
                }
                Role::Backup(node) => {
                    let could = matches!(
                        node.core.state(),
                        BackupState::Protected
                            | BackupState::Claiming
                            | BackupState::TakingOver
                            | BackupState::TookOver
                    );
                    could && is_free(id, node.core.session_id())
                }
                // Healing starts every host again.
                Role::Resuming(remains) | Role::Down(remains) => {
                    remains.resumable().is_some_and(|store| is_free(store.holder, store.session))
                }
            }
        });
        self.guest_lost |= !survives;
    }
}
