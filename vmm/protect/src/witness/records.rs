//! The records of all VMs' registers, as files in one directory. Every function here may hang with the storage.
//!
//! A record is written and synced under a private name, then linked to `NAME.view-N`, which fails if that exists. Names are
//! opened and never listed: a stale cache of the directory can make an append fail and nothing else.
//!
//! Two hosts share the directory, perhaps as different users: whoever may list it may read what is in it, and nobody else.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use replication::view::evidence::Statement;
use replication::view::{Entry, Excerpt, Nonce, Record, RecordHash};
use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, unlinkat};

use super::shared::Store;
use super::{Facts, Trial, mount, random};

/// The right to read, of the directory's group and of all others.
const READERS: u32 = 0o044;
/// A record is far smaller.
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// More than any VM has: numbers beyond it come from a peer or a file that is wrong.
const NUMBER_MAX: u64 = 1 << 40;

/// The directory, held open: what is mounted over its path later is another one, and is noticed.
#[derive(Clone, Debug)]
pub(super) struct Records {
    path: PathBuf,
    dir: Arc<File>,
}

impl Store for Records {
    /// Writes, links and removes a file, as an append will.
    fn probe(&self) -> io::Result<()> {
        let [one, two] = names_of_a_trial("probe");
        self.write_new(&one, b"probe\n")?;
        let linked = self.link(&one, &two).and_then(|()| self.remove_if_there(&two));
        self.remove_if_there(&one)?;
        linked
    }

    fn trial(&self) -> io::Result<Trial> {
        self.check_same()?;
        let ([draft, name], [other, _]) = (names_of_a_trial("trial"), names_of_a_trial("trial"));
        let tried = self.try_names(&draft, &name, &other);
        for name in [&draft, &name, &other] {
            self.remove_if_there(name)?;
        }
        tried
    }

    fn facts(&self) -> io::Result<Facts> {
        self.check_same()?;
        mount::of(&self.path).map(Facts::Directory)
    }

    fn newest(&self, vm: &str) -> io::Result<Excerpt> {
        self.check_same()?;
        Ok(Vec::from_iter(self.find_newest(vm)?).into())
    }

    fn from(&self, vm: &str, first: u64) -> io::Result<Excerpt> {
        self.check_same()?;
        Ok(self.list(vm, first, first)?.into())
    }

    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Excerpt> {
        self.check_same()?;
        // Whether it took place is seen by reading it back, after an error too.
        let appended = self.link_record(vm, record);
        self.check_same()?;
        let durable = if appended.is_ok() { record.number } else { first };
        let found = self.list(vm, first, durable)?;
        match appended {
            Err(error) if found.iter().all(|entry| entry.record.number != record.number) => Err(error),
            _ => Ok(found.into()),
        }
    }

    fn leave(&self, vm: &str, nonce: Nonce) -> io::Result<()> {
        self.check_same()?;
        self.write_new(&meeting_name(vm, nonce), b"met\n")?;
        self.dir.sync_all()
    }

    fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool> {
        self.check_same()?;
        Ok(self.read_file(&meeting_name(vm, nonce))?.is_some())
    }

    fn take_away(&self, vm: &str, nonce: Nonce) -> io::Result<()> {
        self.remove_if_there(&meeting_name(vm, nonce))
    }

    fn state(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.check_same()?;
        match self.write_new(&statement_name(vm, statement), b"stated\n") {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.dir.sync_all(),
        }
    }

    fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.check_same()?;
        self.remove_if_there(&statement_name(vm, statement))
    }

    fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool> {
        self.check_same()?;
        Ok(self.read_file(&statement_name(vm, statement))?.is_some())
    }
}

impl Records {
    /// Opens the directory at `path`, which must exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let dir = File::open(path)?;
        if !dir.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Records { path: path.into(), dir: Arc::new(dir) })
    }

    /// Fails if another directory is at the path now: a mount that went away, or came.
    fn check_same(&self) -> io::Result<()> {
        let (held, now) = (self.dir.metadata()?, std::fs::metadata(&self.path)?);
        if (held.dev(), held.ino()) == (now.dev(), now.ino()) {
            return Ok(());
        }
        Err(io::Error::other("another directory is there now: was it unmounted?"))
    }

    /// Appends under `name`, reads that, and tries to append there once more.
    fn try_names(&self, draft: &str, name: &str, other: &str) -> io::Result<Trial> {
        let begun = Instant::now();
        self.write_new(draft, b"one\n")?;
        self.link(draft, name)?;
        self.remove_if_there(draft)?;
        self.keep_names()?;
        let appended = Instant::now();
        let found = self.read_file(name)?;
        let (append, read) = (appended - begun, appended.elapsed());
        self.write_new(other, b"two\n")?;
        match (found.as_deref(), self.link(other, name)) {
            (Some(b"one\n"), Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Trial { append, read, id: None })
            }
            (Some(b"one\n"), Err(error)) => Err(error),
            (Some(b"one\n"), Ok(())) => {
                Err(io::Error::other("two files were linked to one name, so it can be no witness"))
            }
            _ => Err(io::Error::other("what was written there is not found")),
        }
    }

    fn link_record(&self, vm: &str, record: &Record) -> io::Result<()> {
        let name = record_name(vm, record.number);
        let draft = format!(".{name}.{}", record.attempt);
        let text = serde_json::to_vec_pretty(record).expect("a record has string keys only");
        self.remove_if_there(&draft)?;
        let linked = self.write_new(&draft, &text).and_then(|()| self.link(&draft, &name));
        self.remove_if_there(&draft)?;
        linked?;
        self.keep_names()
    }

    /// The records from `first` on, of which those up to `durable` are known to be.
    fn list(&self, vm: &str, first: u64, durable: u64) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        while let Some(entry) = self.read(vm, first.saturating_add(found.len() as u64))? {
            found.push(entry);
        }
        if found.last().is_some_and(|entry| entry.record.number > durable) {
            self.keep_names()?;
        }
        Ok(found)
    }

    /// Whoever sees a record acts on it. Its name must last then, also if the host that gave it failed before it was on
    /// stable storage.
    fn keep_names(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    /// Records are numbered without a gap: their end is found in steps that double, and then halve.
    fn find_newest(&self, vm: &str) -> io::Result<Option<Entry>> {
        let mut there = 0_u64;
        let mut step = 1;
        while self.read(vm, there + step)?.is_some() {
            there += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if self.read(vm, there + step)?.is_some() {
                there += step;
            }
        }
        if there == 0 {
            return Ok(None);
        }
        self.keep_names()?;
        self.read(vm, there)
    }

    /// A file that is not a record proves nothing, so it is an error and not the end.
    fn read(&self, vm: &str, number: u64) -> io::Result<Option<Entry>> {
        let name = record_name(vm, number);
        if number > NUMBER_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no register is as long as {number} records"),
            ));
        }
        let Some(bytes) = self.read_file(&name)? else { return Ok(None) };
        let failed = |why: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", self.path.join(&name).display()))
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        if record.number != number {
            return Err(failed(format!("it is record {}", record.number)));
        }
        Ok(Some(Entry { record, hash: RecordHash::of(&bytes) }))
    }

    fn read_file(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match openat(&*self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// A new file with `content`, on stable storage.
    fn write_new(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file: OwnedFd = openat(&*self.dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        self.open_to_readers(&file)?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// Whatever the umask is: the other side must read what this one writes.
    fn open_to_readers(&self, file: &File) -> io::Result<()> {
        let readers = self.dir.metadata()?.mode() & READERS;
        if readers == 0 {
            return Ok(());
        }
        file.set_permissions(Permissions::from_mode(0o600 | readers))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(linkat(&*self.dir, from, &*self.dir, to, AtFlags::empty())?)
    }

    fn remove_if_there(&self, name: &str) -> io::Result<()> {
        match unlinkat(&*self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Names that nobody else has.
fn names_of_a_trial(of: &str) -> [String; 2] {
    let id = Nonce(random());
    [format!(".{of}-{id}.1"), format!(".{of}-{id}.2")]
}

fn record_name(vm: &str, number: u64) -> String {
    format!("{vm}.view-{number}")
}

fn meeting_name(vm: &str, nonce: Nonce) -> String {
    format!(".{vm}.met-{nonce}")
}

fn statement_name(vm: &str, statement: Statement) -> String {
    match statement {
        Statement::Dead(id) => format!("{vm}.dead-{id}"),
        Statement::Void(join) => format!("{vm}.void-{join}"),
    }
}
