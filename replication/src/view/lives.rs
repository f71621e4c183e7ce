//! What a lock file says. Its reading, writing and locking is the driver's; what it proves is decided in
//! [`evidence`](super::evidence).
//!
//! A process takes the lock of its state directory for as long as it lives, and the kernel frees it at its end. So a
//! process that has the lock of a file knows that every earlier life in the *file* is over. A copy of the file says the
//! same words and has another lock: its lives may continue, so it proves nothing of them.

use serde::{Deserialize, Serialize};

use super::record::{Incarnation, Known, Location};

/// Earlier lives that a lock file remembers.
pub const EARLIER_MAX: usize = 64;

/// The content of a lock file: whose it is, and whose it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lives {
    now: Incarnation,
    /// Whether `now` may stand in a record. Of a life that never asked for that, nobody wants to know whether it is
    /// gone.
    #[serde(default = "unknown")]
    is_public: bool,
    earlier: Vec<Incarnation>,
    /// Where the file is. Another one that says the same is a copy.
    #[serde(default)]
    home: Home,
    /// The newest record of the VM's register that was seen from here.
    #[serde(default)]
    known: Option<Known>,
}

/// Earlier versions did not say.
fn unknown() -> bool {
    true
}

/// How a kernel knows a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file's number there. That of a file that was removed is given to another.
    pub inode: u64,
    /// When the file was made, in nanoseconds since 1970; zero: the file system does not say.
    pub birth: i64,
}

/// One file of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Home {
    path: String,
    inode: u64,
    /// The file system, for as long as the host runs: another one may have a file of that number at that path. Zero: an
    /// earlier version did not say.
    #[serde(default)]
    device: u64,
    /// When the file was made: a copy was made later, whatever number it got. Zero: an earlier version did not say, or
    /// the file system does not.
    #[serde(default)]
    birth: i64,
    machine: String,
    boot: String,
}

impl Home {
    /// The file at the lock path of `location`.
    pub fn of(location: &Location, FileId { device, inode, birth }: FileId) -> Home {
        let Location { machine, boot, lock, host: _ } = location.clone();
        Home { path: lock, inode, device, birth, machine, boot }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is the same file, perhaps in another boot, where the kernel numbers its file systems differently.
    fn is(&self, other: &Home) -> bool {
        let is_same_boot = self.boot == other.boot;
        let is_same_host = is_same_boot || (!self.machine.is_empty() && self.machine == other.machine);
        let is_same_device = !is_same_boot || self.device == other.device || self.device == 0 || other.device == 0;
        let is_same_birth = self.birth == other.birth || self.birth == 0 || other.birth == 0;
        let is_same_file = is_same_device && is_same_birth && self.inode == other.inode;
        is_same_host && is_same_file && self.path == other.path
    }
}

impl Lives {
    /// What the lock file at `home`, which said `before`, says as soon as `now` has its lock. The lives in a copy are
    /// not taken over; the newest record that was seen is, since more of that harms nobody.
    pub fn begin(now: Incarnation, home: Home, before: Option<&Lives>) -> Lives {
        let known = before.and_then(|lives| lives.known);
        let before = before.filter(|lives| lives.is_at(&home));
        let earlier = before.map_or_else(Vec::new, |lives| lives.public().take(EARLIER_MAX).collect());
        Lives { now, is_public: false, earlier, home, known }
    }

    /// Where it says that it is.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Whose it is.
    pub fn now(&self) -> Incarnation {
        self.now
    }

    /// Whose it was before.
    pub fn earlier(&self) -> &[Incarnation] {
        &self.earlier
    }

    /// The newest record that was seen from there: a witness that lacks it is another one, or has forgotten.
    pub fn known(&self) -> Option<Known> {
        self.known
    }

    /// Keeps the newest record for the lives after this one. True: it is the first of its register, and should be on
    /// stable storage. After a loss of power nothing else tells an empty directory from a new witness.
    pub fn remember(&mut self, known: Known) -> bool {
        let before = self.known.replace(known);
        before.is_none_or(|before| before.register != known.register)
    }

    /// Whether others may have heard of the life that it is of.
    pub fn is_public(&self) -> bool {
        self.is_public
    }

    /// From now on others may know of this life. The file must record that, on stable storage, before they do: the
    /// lives after it must be able to say that it is gone, also after a loss of power.
    pub fn publish(&mut self) {
        self.is_public = true;
    }

    /// Whether these are the words of the file at `home`, and not of another that was copied there.
    pub fn is_at(&self, home: &Home) -> bool {
        self.home.is(home)
    }

    /// All that others may have heard of, the latest first.
    pub fn public(&self) -> impl Iterator<Item = Incarnation> {
        self.is_public.then_some(self.now).into_iter().chain(self.earlier.iter().copied())
    }
}
