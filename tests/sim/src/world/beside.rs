//! The VM is started where another of it lives, or its directory is changed under it.

use replication::view::Lives;

use super::*;
use crate::fault::Dir;
use crate::machines::{BESIDE, OWN};

/// A start in another directory than the host's own.
pub(super) struct Beside {
    host: usize,
    path: &'static str,
    dir: Dir,
    lock: Option<Lives>,
    store: Option<StateDir>,
}

impl World {
    /// What is copied is copied now.
    pub(super) fn prepare_beside(&mut self, host: usize, dir: Dir, delay: u64) {
        let (path, lock, store) = match dir {
            Dir::Other => (BESIDE, None, None),
            Dir::Bare => (OWN, None, None),
            Dir::CopyOf(of) => {
                let lock = self.env.witness.machines.own_lives(of).cloned();
                (if of == host { BESIDE } else { OWN }, lock, self.copy_of_store(of))
            }
        };
        self.beside.push(Beside { host, path, dir, lock, store });
        self.env.after(delay, Event::StartBeside(self.beside.len() - 1));
    }

    /// The state directory of a host, as it is now.
    fn copy_of_store(&self, host: usize) -> Option<StateDir> {
        let (store, files) = match &self.hosts[host].role {
            Role::Primary(node) => (node.store.as_ref().or(node.lost_store.as_ref()), &node.machine.disk.files),
            Role::Backup(_) => return None,
            Role::Starting(remains) | Role::Down(remains) => (remains.store.as_ref(), &remains.files),
        };
        store.map(|store| store.copy(files.copied(store.last_epoch())))
    }

    /// The start, all of it at once. Whatever comes of it, it must not be given what somebody has or could continue.
    pub(super) fn start_beside(&mut self, number: usize) {
        let Beside { host, path, dir, ref lock, ref store } = self.beside[number];
        let env = &mut self.env;
        if env.healing || !env.net.witness_up[host] || !env.witness.sees_right(host) {
            return;
        }
        env.say(|| format!("the VM is started beside, on host {host} at {path}, in {}", words::dir_words(dir)));
        let fresh = env.plan.local.then(|| store_of(HostId { host, life: u32::MAX - number as u32 }));
        let resumable =
            store.as_ref().filter(|store| matches!(store.crash(), CrashStanding::None | CrashStanding::Tried));
        let resumable = resumable.and_then(|store| Some((store.store, store.last.clone()?, store.copied.clone()?)));
        let mut questions = vec![Question::Begin { store: fresh, has_epoch: resumable.is_some(), is_named: false }];
        questions.extend(resumable.as_ref().map(|(store, last, _)| Question::Resume {
            store: *store,
            fork: last.epoch,
            named: Named::Nobody,
        }));
        let before = env.witness.newest().cloned();
        let lock = lock.clone();
        let won = env.witness.ask_beside(host, path, lock.as_ref(), &questions);
        let Some((question, record)) = won.filter(|_| env.witness.believed.is_none()) else { return };
        let last = resumable.filter(|_| matches!(question, Question::Resume { .. }));
        env.say(|| format!("it wins record {}, and is stopped", record.number));
        let before = before.filter(|before| before.standing == Standing::Running);
        if let Some(before) = &before {
            self.check_won(host, path == OWN, before, "beside");
        }
        if let Some((_, last, disk)) = last {
            self.env.oracle.goes_on(host, last.epoch, &last.guest, &disk);
        }
        self.env.oracle.begins_anew();
    }

    /// Whoever lives there keeps what was moved away; the next one finds the copy.
    pub(super) fn replace_dir(&mut self, host: usize) {
        if matches!(self.hosts[host].role, Role::Starting(_) | Role::Down(_)) {
            return;
        }
        self.replaced[host] = Some(self.copy_of_store(host));
        self.env.witness.machines.replace_by_copy(host);
    }

    /// What a process that ends leaves in its host's state directory.
    pub(super) fn left(&mut self, host: usize, files: Files, store: Option<StateDir>) -> Box<Remains> {
        let store = self.replaced[host].take().unwrap_or(store);
        Box::new(Remains { files, store, ..Remains::default() })
    }
}
