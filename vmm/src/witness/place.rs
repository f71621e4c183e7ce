//! Where this process is, and what proves that an earlier one is gone.
//!
//! Proofs are those that the kernel gives: a lock that it frees when its holder ends, on the kernel that still runs; or
//! that another boot of the same machine runs now. Never a process number, silence, or age.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use replication::view::{Incarnation, Known, Location, Place, PlaceKind};
use serde::{Deserialize, Serialize};

/// The lock file's name in the state directory.
const LOCK: &str = "lock";
/// Earlier lives that a lock file remembers.
const EARLIER_MAX: usize = 64;
/// A lock file is far smaller.
const LOCK_BYTES_MAX: u64 = 16 << 10;

/// A fresh random number.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel has no random numbers: {error}"),
        }
    }
    bytes
}

/// What a lock file says: whose it is, and whose it was. Who has the lock knows that all of these are gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Lives {
    now: Incarnation,
    /// Whether `now` may stand in a record. Of a life that never asked for that, nobody wants to know whether it is gone.
    #[serde(default = "unknown")]
    is_public: bool,
    earlier: Vec<Incarnation>,
    /// Where the file is. Another one that says the same is a copy: its lock says nothing of these lives.
    #[serde(default)]
    home: Home,
    /// The newest record of the VM's register that was seen from here.
    #[serde(default)]
    known: Option<Known>,
}

/// A file of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Home {
    path: String,
    inode: u64,
    machine: String,
    boot: String,
}

impl Home {
    fn of(file: &File, location: &Location) -> io::Result<Self> {
        let Location { machine, boot, lock, host: _ } = location.clone();
        Ok(Home { path: lock, inode: file.metadata()?.ino(), machine, boot })
    }

    /// Whether it is the same file, perhaps in another boot.
    fn is(&self, other: &Self) -> bool {
        let is_same_host = self.boot == other.boot || (!self.machine.is_empty() && self.machine == other.machine);
        is_same_host && (&self.path, self.inode) == (&other.path, other.inode)
    }
}

/// Earlier versions did not say.
fn unknown() -> bool {
    true
}

/// This process's life in its state directory. The lock is free as soon as the process is gone, however it went.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) place: Place,
    /// Those before it in its state directory.
    pub(crate) earlier: Vec<Incarnation>,
    /// The newest record that was seen from there: a witness that lacks it is another one, or has forgotten.
    pub(crate) known: Option<Known>,
    lock: Option<Mutex<Held>>,
}

/// The lock file and what it says.
#[derive(Debug)]
struct Held {
    file: File,
    lives: Lives,
}

impl Held {
    fn change(&mut self, change: impl FnOnce(&mut Lives)) -> io::Result<()> {
        let mut lives = self.lives.clone();
        change(&mut lives);
        write_lives(&mut self.file, &lives)?;
        self.lives = lives;
        Ok(())
    }
}

impl Life {
    /// A life without a state directory, which nobody can prove dead on the kernel that still runs.
    pub(crate) fn without_lock() -> io::Result<Self> {
        Self::new(location(String::new())?, Lives { now: Incarnation(random()), ..Lives::default() }, None)
    }

    /// Takes the lock of `state_dir`, which must exist. `WouldBlock`: another process lives there.
    pub(crate) fn begin(state_dir: &Path) -> io::Result<Self> {
        let path = lock_path(state_dir)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.try_lock().map_err(io::Error::from)?;
        let location = location(path.to_string_lossy().into_owned())?;
        let home = Home::of(&file, &location)?;
        let before = read_lives(&mut file);
        let known = before.as_ref().and_then(|lives| lives.known);
        let before = before.filter(|lives| lives.home.is(&home));
        let earlier = before.map_or_else(Vec::new, |lives| lives.public().take(EARLIER_MAX).collect());
        let lives = Lives { now: Incarnation(random()), is_public: false, earlier, home, known };
        write_lives(&mut file, &lives)?;
        Self::new(location, lives, Some(file))
    }

    /// From here on others may hear of this life: the lives after it must be able to say that it is gone.
    pub(crate) fn publish(&self) -> io::Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let mut held = lock.lock().expect("no holder panics");
        if held.lives.is_public { Ok(()) } else { held.change(|lives| lives.is_public = true) }
    }

    /// Keeps the newest record for the lives after this one.
    pub(crate) fn remember(&self, known: Known) {
        let Some(lock) = &self.lock else { return };
        let mut held = lock.lock().expect("no holder panics");
        if let Err(error) = held.change(|lives| lives.known = Some(known)) {
            tracing::warn!(%error, "what was seen at the witness is not remembered in the state directory");
        }
    }

    fn new(location: Location, lives: Lives, file: Option<File>) -> io::Result<Self> {
        let place = Place { id: lives.now, kind: PlaceKind::Process, location };
        let (earlier, known) = (lives.earlier.clone(), lives.known);
        Ok(Life { place, earlier, known, lock: file.map(|file| Mutex::new(Held { file, lives })) })
    }

    /// The place of this process's state directory, with its epochs.
    pub(crate) fn store(&self, id: Incarnation) -> Place {
        Place { id, kind: PlaceKind::Store, location: self.place.location.clone() }
    }

    /// Whether `place` was in this state directory: what this process opens are its disks.
    pub(crate) fn is_here(&self, place: &Place) -> bool {
        !place.location.lock.is_empty() && place.location.lock == self.place.location.lock && self.is_same_host(place)
    }

    fn is_same_host(&self, place: &Place) -> bool {
        let (ours, theirs) = (&self.place.location, &place.location);
        ours.boot == theirs.boot || (!ours.machine.is_empty() && ours.machine == theirs.machine)
    }

    /// Whether it is proved that `place`, a process, is gone.
    pub(crate) fn proves_dead(&self, place: &Place) -> bool {
        if place.kind != PlaceKind::Process || place.id == self.place.id {
            return false;
        }
        let was_before_us = self.is_here(place) && self.earlier.contains(&place.id);
        let is_other_boot = self.is_same_host(place) && place.location.boot != self.place.location.boot;
        was_before_us || is_other_boot || self.is_unlocked(place)
    }

    /// On this kernel: the lock file of `place` knows that life, and nobody holds it.
    fn is_unlocked(&self, place: &Place) -> bool {
        if place.location.boot != self.place.location.boot || place.location.lock.is_empty() {
            return false;
        }
        let Ok(mut file) = File::open(&place.location.lock) else { return false };
        file.try_lock_shared().is_ok()
            && read_lives(&mut file).is_some_and(|lives| lives.public().any(|id| id == place.id))
    }
}

impl Lives {
    /// All that others may have heard of, the latest first.
    fn public(self) -> impl Iterator<Item = Incarnation> {
        self.is_public.then_some(self.now).into_iter().chain(self.earlier)
    }
}

fn read_lives(file: &mut File) -> Option<Lives> {
    let mut text = Vec::new();
    file.take(LOCK_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write_lives(file: &mut File, lives: &Lives) -> io::Result<()> {
    let text = serde_json::to_vec(lives).expect("plain data");
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

fn location(lock: String) -> io::Result<Location> {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Ok(Location {
        host: kernel_text("hostname")?,
        machine: machine.trim().to_owned(),
        boot: kernel_text("random/boot_id")?,
        lock,
    })
}

fn lock_path(state_dir: &Path) -> io::Result<PathBuf> {
    Ok(fs::canonicalize(state_dir)?.join(LOCK))
}

fn kernel_text(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/kernel/{name}"))?.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    /// One of which others have heard.
    fn life(dir: &tempfile::TempDir) -> Life {
        let life = begin(dir);
        life.publish().expect("written");
        life
    }

    /// A child that another test forks has this process's locks until it executes its program.
    fn begin(dir: &tempfile::TempDir) -> Life {
        loop {
            match Life::begin(dir.path()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => return other.expect("nobody is there"),
            }
        }
    }

    #[test]
    fn starts_that_came_to_nothing_do_not_push_out_the_life_that_did() {
        let dir = dir();
        let place = life(&dir).place.clone();
        for _ in 0..2 * EARLIER_MAX {
            begin(&dir);
        }
        assert!(life(&dir).proves_dead(&place));
    }

    #[test]
    fn life_that_holds_its_lock_is_not_dead_and_one_that_let_go_is() {
        let (a, b) = (dir(), dir());
        let (first, other) = (life(&a), life(&b));
        let place = first.place.clone();
        assert!(!other.proves_dead(&place));
        assert_eq!(Life::begin(a.path()).expect_err("in use").kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(other.proves_dead(&place));
        assert!(!other.is_here(&place));
    }

    #[test]
    fn next_life_in_the_directory_knows_all_before_it_and_tells_others() {
        let (a, b) = (dir(), dir());
        let before: Vec<Place> = (0..3).map(|_| life(&a).place.clone()).collect();
        let (now, other) = (life(&a), life(&b));
        for place in &before {
            assert!(now.proves_dead(place) && now.is_here(place));
            assert!(!other.proves_dead(place), "the lock is held: only its holder can say so");
        }
        assert!(!now.proves_dead(&now.place));
        drop(now);
        assert!(other.proves_dead(&before[0]));
    }

    #[test]
    fn copy_of_a_lock_file_says_nothing_of_the_lives_in_it() {
        let (a, b) = (dir(), dir());
        let original = life(&a);
        fs::copy(a.path().join(LOCK), b.path().join(LOCK)).expect("copied");
        let copy = life(&b);
        assert!(copy.earlier.is_empty() && !copy.proves_dead(&original.place));
        // The same at the same path, where the original is gone but not its process.
        fs::remove_file(a.path().join(LOCK)).expect("there");
        fs::copy(b.path().join(LOCK), a.path().join(LOCK)).expect("copied");
        let again = life(&a);
        assert!(again.earlier.is_empty() && !again.proves_dead(&original.place));
    }

    #[test]
    fn lock_of_another_life_or_a_missing_one_proves_nothing() {
        let (a, b) = (dir(), dir());
        let (place, other) = (life(&a).place.clone(), life(&b));
        let stranger = Place { id: Incarnation([1; 16]), ..place.clone() };
        assert!(!other.proves_dead(&stranger));
        fs::remove_file(a.path().join(LOCK)).expect("there");
        assert!(!other.proves_dead(&place));
        fs::write(a.path().join(LOCK), "garbage").expect("written");
        assert!(!other.proves_dead(&place));
    }

    #[test]
    fn process_of_an_earlier_boot_of_this_machine_is_dead_and_of_another_machine_unknown() {
        let a = dir();
        let now = life(&a);
        let at = |machine: &str, boot: &str| {
            let location = Location { machine: machine.into(), boot: boot.into(), ..now.place.location.clone() };
            Place { id: Incarnation([1; 16]), location, ..now.place.clone() }
        };
        let machine = now.place.location.machine.clone();
        assert_eq!(now.proves_dead(&at(&machine, "earlier")), !machine.is_empty());
        assert!(!now.proves_dead(&at("another", "earlier")));
        assert!(!now.proves_dead(&at("", "earlier")));
        let store = Place { kind: PlaceKind::Store, ..at(&machine, "earlier") };
        assert!(!now.proves_dead(&store), "a store outlasts its process");
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
