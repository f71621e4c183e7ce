//! The hosts as their processes see them: a machine id, a boot, and the lock file of a state directory. The content of a lock
//! file and what it proves are the register's core; here files are lost, copied and put back, and kernels stop.

use replication::view::evidence::{Facts, FreeLock, Observer, Statement};
use replication::view::{FileId, Home, Incarnation, Known, Lives, Location, Place, Record};

use crate::env::HostId;
use crate::fault::HOSTS;
use crate::plan::Break;

/// The state directory has the same path on both hosts.
pub const OWN: &str = "/vm";
/// Another one, in which the VM is started beside.
pub const BESIDE: &str = "/beside";

/// The life of that process.
pub fn incarnation(id: HostId) -> Incarnation {
    let HostId { host, life } = id;
    let mut bytes = [0; 16];
    bytes[0] = host as u8 + 1;
    bytes[4..8].copy_from_slice(&life.to_le_bytes());
    Incarnation(bytes)
}

/// A state directory that this process makes.
pub fn store_of(made_by: HostId) -> Incarnation {
    let mut id = incarnation(made_by);
    id.0[15] = 1;
    id
}

/// The host of a place.
pub fn host_of(place: &Place) -> usize {
    usize::from(place.id.0[0]) - 1
}

/// A lock file.
#[derive(Clone, Debug)]
pub struct LockFile {
    id: FileId,
    lives: Option<Lives>,
    /// What a loss of power leaves of it, at least.
    synced: Option<Lives>,
}

/// A process with its lock.
#[derive(Clone, Debug)]
pub struct Process {
    /// What it knows of itself and those before it.
    pub observer: Observer,
    /// What its lock file says, unless somebody else wrote to that.
    pub lives: Lives,
    file: FileId,
}

struct Machine {
    name: String,
    boot: u32,
    /// The lock file of its own state directory.
    own: Option<LockFile>,
    /// The file that a living process has locked; its name may be gone.
    locked: Option<FileId>,
    files: u64,
    /// What the lock file said before the last process began.
    before: Option<Lives>,
}

/// Both hosts.
pub struct Machines {
    machines: [Machine; HOSTS],
    has_same_boots: bool,
    broken: Option<Break>,
    /// Something is gone that would have proved a death: an operator may have to say it.
    pub lost_evidence: bool,
}

impl Machines {
    /// Hosts with a machine id or without one; with `has_same_boots` both hosts' boots have one text.
    pub fn new(has_machine_id: [bool; HOSTS], has_same_boots: bool, broken: Option<Break>) -> Machines {
        let machine = |host: usize| {
            let name = match broken {
                // Broken: another boot is taken for one of this machine.
                Some(Break::ForeignBoot) => "any".to_owned(),
                Some(Break::NamelessHosts) if !has_machine_id[host] => "none".to_owned(),
                Some(Break::BootIsHost) => String::new(),
                _ if has_machine_id[host] => format!("machine{host}"),
                _ => String::new(),
            };
            Machine { name, boot: 0, own: None, locked: None, files: 0, before: None }
        };
        Machines { machines: std::array::from_fn(machine), has_same_boots, broken, lost_evidence: false }
    }

    fn location(&self, host: usize, path: &str) -> Location {
        let Machine { name, boot, .. } = &self.machines[host];
        let boot = if self.has_same_boots { format!("boot{boot}") } else { format!("boot{boot} of {host}") };
        Location { host: host.to_string(), machine: name.clone(), boot, lock: path.to_owned() }
    }

    fn new_file(&mut self, host: usize) -> FileId {
        let inode = self.machines[host].files + 1;
        self.machines[host].files = inode;
        // Files of two hosts are alike in all but the moment at which they were made.
        let birth =
            if self.broken == Some(Break::BirthUnread) { 0 } else { (inode * HOSTS as u64) as i64 + host as i64 };
        FileId { device: 1, inode, birth }
    }

    fn lives(&self, id: HostId, location: &Location, file: FileId, before: Option<&Lives>) -> Lives {
        let mut home = Home::of(location, file);
        if self.broken == Some(Break::CopiedLock)
            && let Some(before) = before
        {
            home = before.home().clone();
        }
        Lives::begin(incarnation(id), home, before)
    }

    /// A process takes the lock of its host's own state directory: the one before it there is gone.
    pub fn begin(&mut self, id: HostId) -> Process {
        self.end(id.host);
        let location = self.location(id.host, OWN);
        let found = self.machines[id.host].own.take();
        let (file, before, synced) = match found {
            Some(LockFile { id, lives, synced }) => (id, lives, synced),
            None => (self.new_file(id.host), None, None),
        };
        let lives = self.lives(id, &location, file, before.as_ref());
        let machine = &mut self.machines[id.host];
        machine.own = Some(LockFile { id: file, lives: Some(lives.clone()), synced });
        (machine.locked, machine.before) = (Some(file), before);
        Process { observer: Observer::new(location, &lives), lives, file }
    }

    /// A process begins elsewhere on that host: in a directory at `path` with a lock file that says `before`.
    pub fn begin_beside(&mut self, id: HostId, path: &str, before: Option<&Lives>) -> Process {
        let file = self.new_file(id.host);
        let location = self.location(id.host, path);
        let lives = self.lives(id, &location, file, before);
        Process { observer: Observer::new(location, &lives), lives, file }
    }

    /// The process that lived in a host's own directory is gone.
    pub fn end(&mut self, host: usize) {
        self.machines[host].locked = None;
    }

    /// The kernel of a host is gone, with all that was not on stable storage. `keeps_files`: its state directory is on some.
    pub fn reboot(&mut self, host: usize, keeps_files: bool, keeps_writes: bool) {
        let machine = &mut self.machines[host];
        (machine.locked, machine.boot) = (None, machine.boot + 1);
        self.lost_evidence |= machine.name.is_empty();
        if !keeps_files {
            machine.own = None;
        } else if !keeps_writes && let Some(file) = machine.own.take() {
            machine.own = file.synced.clone().map(|lives| LockFile { lives: Some(lives), ..file });
        }
    }

    /// Writes what a process knows into its lock file, if that still has its name.
    fn write(&mut self, host: usize, process: &Process, is_synced: bool) {
        let Some(own) = self.machines[host].own.as_mut().filter(|own| own.id == process.file) else { return };
        own.lives = Some(process.lives.clone());
        if is_synced {
            own.synced = own.lives.clone();
        }
    }

    /// Others may hear of this process from now on.
    pub fn publish(&mut self, host: usize, process: &mut Process) {
        if process.lives.is_public() || self.broken == Some(Break::LifeUnpublished) {
            return;
        }
        process.lives.publish();
        self.write(host, process, self.broken != Some(Break::PublishUnsynced));
    }

    /// What it has seen of the register is kept.
    pub fn remember(&mut self, host: usize, process: &mut Process, known: Known) {
        let is_first = process.lives.remember(known);
        self.write(host, process, is_first && self.broken != Some(Break::KnownUnsynced));
    }

    /// What the lock file of a host's own state directory says.
    pub fn own_lives(&self, host: usize) -> Option<&Lives> {
        self.machines[host].own.as_ref()?.lives.as_ref()
    }

    /// Somebody removes the lock file. A process that lives there keeps what has no name any more.
    pub fn lose_lock(&mut self, host: usize) {
        self.lost_evidence = true;
        self.machines[host].own = None;
    }

    /// Somebody puts back what the lock file said before the last process began, into the same file.
    pub fn restore_lock(&mut self, host: usize) {
        self.lost_evidence = true;
        let Machine { own, before, .. } = &mut self.machines[host];
        if let Some(own) = own {
            (own.lives, own.synced) = (before.clone(), before.clone());
        }
    }

    /// The state directory is moved away, and a copy of it stands in its place.
    pub fn replace_by_copy(&mut self, host: usize) {
        self.lost_evidence = true;
        let file = self.new_file(host);
        if let Some(own) = &mut self.machines[host].own {
            own.id = file;
        }
    }

    /// What a process on `host` finds out about the places of `record`. One that lives beside, at the own directory's path, does
    /// not see what is below.
    pub fn facts(
        &self,
        host: usize,
        process: &Process,
        record: &Record,
        is_stated: impl Fn(Statement) -> bool,
    ) -> Facts {
        let paths = process.observer.locks_to_try(record);
        let free = paths.into_iter().filter_map(|path| self.look(host, process, path)).collect();
        Facts { free, stated: Statement::about(record).into_iter().filter(|statement| is_stated(*statement)).collect() }
    }

    fn look(&self, host: usize, process: &Process, path: &str) -> Option<FreeLock> {
        let is_mine = path == process.observer.place().location.lock;
        let own = self.machines[host].own.as_ref().filter(|_| path == OWN && !is_mine)?;
        let is_held = self.machines[host].locked == Some(own.id) && self.broken != Some(Break::HeldLock);
        let lives = own.lives.clone().filter(|_| !is_held)?;
        let home = match self.broken {
            Some(Break::CopiedLock) => lives.home().clone(),
            _ => Home::of(&self.location(host, OWN), own.id),
        };
        Some(FreeLock { home, lives })
    }
}
