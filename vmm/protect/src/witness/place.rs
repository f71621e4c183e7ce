//! Where this process is, and the lock file of its state directory: reading, writing and locking it. What that says and
//! proves is decided in [`replication::view::evidence`].

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use replication::view::evidence::{FreeLock, Observer};
use replication::view::{FileId, Home, Incarnation, Known, Lives, Location, Record};
use snapshot::disk::birth_of;
use snapshot::statedir::{Item, LockFile, StateDir};

use super::note::ViewNote;

pub(crate) use machine::random::id as random;

/// This process's life in its state directory. The lock is free as soon as the process is gone, however it went.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) observer: Observer,
    /// The newest record that was seen from there: a witness that lacks it is another one, or has forgotten.
    pub(crate) known: Option<Known>,
    lock: Option<Mutex<Held>>,
}

/// The lock file and what it says.
#[derive(Debug)]
struct Held {
    dir: StateDir,
    path: PathBuf,
    lives: Lives,
    /// What this process wrote last of the newest view.
    noted: Option<ViewNote>,
}

impl Held {
    fn publish(&mut self) -> io::Result<()> {
        let mut lives = self.lives.clone();
        lives.publish();
        write_lives(self.dir.lock(), &lives)?;
        self.sync()?;
        self.lives = lives;
        Ok(())
    }

    fn remember(&mut self, known: Known) -> io::Result<()> {
        let mut lives = self.lives.clone();
        let is_first = lives.remember(known);
        write_lives(self.dir.lock(), &lives)?;
        if is_first {
            self.sync()?;
        }
        self.lives = lives;
        Ok(())
    }

    /// What the file says is on stable storage, and so is its name.
    fn sync(&self) -> io::Result<()> {
        self.dir.lock().sync(&self.path)
    }
}

impl Life {
    /// A life without a state directory, which nobody can prove dead on the kernel that still runs.
    pub(crate) fn without_lock() -> io::Result<Self> {
        Ok(Self::new(location(String::new())?, Lives::begin(Incarnation(random()), Home::default(), None), None))
    }

    /// In `dir`, whose lock this process has.
    pub(crate) fn begin(dir: StateDir) -> io::Result<Self> {
        let path = Item::Lock.path_in(&fs::canonicalize(dir.path())?);
        let location = location(path.to_string_lossy().into_owned())?;
        let home = home_of(dir.lock(), &location)?;
        let lives = Lives::begin(Incarnation(random()), home, read_lives(dir.lock()).as_ref());
        write_lives(dir.lock(), &lives)?;
        Ok(Self::new(location, lives.clone(), Some(Held { dir, path, lives, noted: None })))
    }

    /// The life that a process would begin in `dir` now; nothing is written. `None`: a process is there.
    pub(crate) fn imagined(dir: &Path) -> io::Result<Option<Self>> {
        let path = Item::Lock.path_in(&fs::canonicalize(dir).or_else(|_| std::path::absolute(dir))?);
        let location = location(path.to_string_lossy().into_owned())?;
        let (home, before) = match LockFile::look(&path) {
            Ok(lock) => (home_of(&lock, &location)?, read_lives(&lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Home::default(), None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let lives = Lives::begin(Incarnation(random()), home, before.as_ref());
        Ok(Some(Self::new(location, lives, None)))
    }

    /// From here on others may hear of this life.
    pub(crate) fn publish(&self) -> io::Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let mut held = lock.lock().expect("no holder panics");
        if held.lives.is_public() { Ok(()) } else { held.publish() }
    }

    /// Keeps the newest record for the lives after this one.
    pub(crate) fn remember(&self, known: Known) {
        let Some(lock) = &self.lock else { return };
        let mut held = lock.lock().expect("no holder panics");
        if let Err(error) = held.remember(known) {
            tracing::warn!(%error, "what was seen at the witness is not remembered in the state directory");
        }
    }

    /// What is kept of the newest view; none: nothing was, or there is no state directory.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was written: it may say that another witness counts.
    pub(crate) fn note(&self) -> io::Result<Option<ViewNote>> {
        let Some(lock) = &self.lock else { return Ok(None) };
        let dir = lock.lock().expect("no holder panics").dir.path().to_owned();
        ViewNote::read(&dir)
    }

    /// Keeps it; it is durable when this returns. One that is there already costs nothing: a pair that is well looks all the time.
    pub(crate) fn write_note(&self, note: &ViewNote) -> io::Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let mut held = lock.lock().expect("no holder panics");
        if held.noted.as_ref() != Some(note) {
            // What an attempt leaves that fails is not known.
            held.noted = None;
            note.write(held.dir.path())?;
            held.noted = Some(note.clone());
        }
        Ok(())
    }

    fn new(location: Location, lives: Lives, held: Option<Held>) -> Self {
        let (observer, known) = (Observer::new(location, &lives), lives.known());
        Life { observer, known, lock: held.map(Mutex::new) }
    }

    /// What this host knows of the places of `record`: lock files that nobody holds.
    pub(crate) fn free_locks(&self, record: &Record) -> Vec<FreeLock> {
        self.observer.locks_to_try(record).into_iter().filter_map(|path| self.look(path)).collect()
    }

    /// The lock file at `path`, if nobody holds it.
    fn look(&self, path: &str) -> Option<FreeLock> {
        let lock = LockFile::look(Path::new(path)).ok()?;
        let location = Location { lock: path.to_owned(), ..self.observer.place().location.clone() };
        Some(FreeLock { home: home_of(&lock, &location).ok()?, lives: read_lives(&lock)? })
    }
}

fn home_of(lock: &LockFile, location: &Location) -> io::Result<Home> {
    let kernels = lock.file().metadata()?;
    let id = FileId { device: kernels.dev(), inode: kernels.ino(), birth: birth_of(lock.file())? };
    Ok(Home::of(location, id))
}

fn read_lives(lock: &LockFile) -> Option<Lives> {
    serde_json::from_slice(&lock.read().ok()?).ok()
}

fn write_lives(lock: &LockFile, lives: &Lives) -> io::Result<()> {
    lock.write(serde_json::to_vec(lives).expect("plain data"))
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

fn kernel_text(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/kernel/{name}"))?.trim().into())
}

#[cfg(test)]
mod tests {
    use replication::view::evidence::Facts;
    use replication::view::{Attempt, EARLIER_MAX, Place, PlaceKind, RegisterId};

    use snapshot::statedir::StateDirError;

    use super::*;

    const LOCK: &str = "lock";

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    /// What is proved with what this host shows, and no witness.
    fn proves_dead(life: &Life, place: &Place) -> bool {
        let record = Record::first(RegisterId::default(), Attempt::default(), place.clone());
        life.observer.proves_dead(place, &Facts { free: life.free_locks(&record), ..Facts::default() })
    }

    fn is_first(life: &Life) -> bool {
        life.lock.as_ref().expect("it has a lock file").lock().expect("nobody panics").lives.earlier().is_empty()
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
            match StateDir::claim(dir.path()) {
                Err(StateDirError::InUse { .. }) => std::thread::yield_now(),
                dir => return Life::begin(dir.expect("nobody is there")).expect("it can be written"),
            }
        }
    }

    #[test]
    fn starts_that_came_to_nothing_do_not_push_out_the_life_that_did() {
        let dir = dir();
        let place = life(&dir).observer.place().clone();
        for _ in 0..2 * EARLIER_MAX {
            begin(&dir);
        }
        assert!(proves_dead(&life(&dir), &place));
    }

    #[test]
    fn life_that_holds_its_lock_is_not_dead_and_one_that_let_go_is() {
        let (a, b) = (dir(), dir());
        let (first, other) = (life(&a), life(&b));
        let place = first.observer.place().clone();
        assert!(!proves_dead(&other, &place));
        assert!(matches!(StateDir::claim(a.path()), Err(StateDirError::InUse { .. })));
        drop(first);
        assert!(proves_dead(&other, &place));
        assert!(!other.observer.is_here(&place));
    }

    #[test]
    fn next_life_in_the_directory_knows_all_before_it_and_tells_others() {
        let (a, b) = (dir(), dir());
        let before: Vec<Place> = (0..3).map(|_| life(&a).observer.place().clone()).collect();
        let (now, other) = (life(&a), life(&b));
        for place in &before {
            assert!(proves_dead(&now, place) && now.observer.is_here(place));
            assert!(!proves_dead(&other, place), "the lock is held: only its holder can say so");
        }
        assert!(!proves_dead(&now, now.observer.place()));
        drop(now);
        assert!(proves_dead(&other, &before[0]));
    }

    #[test]
    fn copy_of_a_lock_file_says_nothing_of_the_lives_in_it() {
        let (a, b) = (dir(), dir());
        let original = life(&a);
        fs::copy(a.path().join(LOCK), b.path().join(LOCK)).expect("copied");
        let copy = life(&b);
        assert!(is_first(&copy) && !proves_dead(&copy, original.observer.place()));
        // The same at the same path, where the original is gone but not its process.
        fs::remove_file(a.path().join(LOCK)).expect("there");
        fs::copy(b.path().join(LOCK), a.path().join(LOCK)).expect("copied");
        let again = life(&a);
        assert!(is_first(&again) && !proves_dead(&again, original.observer.place()));
    }

    #[test]
    fn copy_put_in_the_place_of_a_lock_file_that_is_held_proves_nothing_to_others() {
        let (a, b) = (dir(), dir());
        let (original, other) = (life(&a), life(&b));
        let (path, moved) = (a.path().join(LOCK), a.path().join("moved"));
        fs::rename(&path, &moved).expect("there");
        fs::copy(&moved, &path).expect("copied");
        assert!(!proves_dead(&other, original.observer.place()), "its process lives");
        drop(original);
        fs::rename(&moved, &path).expect("there");
    }

    #[test]
    fn lock_file_of_the_version_before_is_read_and_the_length_of_one_stays() {
        let dir = dir();
        let text = r#"{"now":"01010101010101010101010101010101","is_public":true,"earlier":[]}"#;
        fs::write(dir.path().join(LOCK), text).expect("written");
        assert!(is_first(&life(&dir)), "it does not say where it was");
        let len = || fs::metadata(dir.path().join(LOCK)).expect("there").len();
        let before = len();
        assert!(!is_first(&life(&dir)));
        assert_eq!((before, len()), (4096, 4096));
    }

    #[test]
    fn lock_of_another_life_or_a_missing_one_proves_nothing() {
        let (a, b) = (dir(), dir());
        let (place, other) = (life(&a).observer.place().clone(), life(&b));
        let stranger = Place { id: Incarnation([1; 16]), ..place.clone() };
        assert!(!proves_dead(&other, &stranger));
        fs::remove_file(a.path().join(LOCK)).expect("there");
        assert!(!proves_dead(&other, &place));
        fs::write(a.path().join(LOCK), "garbage").expect("written");
        assert!(!proves_dead(&other, &place));
    }

    #[test]
    fn process_of_an_earlier_boot_of_this_machine_is_dead_and_of_another_machine_unknown() {
        let a = dir();
        let now = life(&a);
        let at = |machine: &str, boot: &str| {
            let location =
                Location { machine: machine.into(), boot: boot.into(), ..now.observer.place().location.clone() };
            Place { id: Incarnation([1; 16]), location, ..now.observer.place().clone() }
        };
        let machine = now.observer.place().location.machine.clone();
        assert_eq!(proves_dead(&now, &at(&machine, "earlier")), !machine.is_empty());
        assert!(!proves_dead(&now, &at("another", "earlier")));
        assert!(!proves_dead(&now, &at("", "earlier")));
        let store = Place { kind: PlaceKind::Store, ..at(&machine, "earlier") };
        assert!(!proves_dead(&now, &store), "a store outlasts its process");
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
