//! A file of ours: a head that says what it is, and a body.
//!
//! ```text
//!   0        32      64                    granule                        granule + body
//!   ├ magic … ┼ check ┼ words of the kind … ┼ body                        ┤
//! ```
//!
//! A file appears under its name only when it is whole, and it is locked for as long as it is open. It is made for its
//! owner alone (mode 0600), and a name that is a symbolic link is not followed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, OFlags, RenameFlags, fadvise};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::head;
use crate::mapping::{self, PAGE};
use crate::medium::{Medium, Survives};
use crate::persist::Persist;
use crate::step::{Step, reached};
use crate::word::seal;

/// Version of all formats.
pub(crate) const FORMAT: u32 = 1;
const FIXED: usize = 40;

/// The largest page of a file's memory.
const GRANULE_MAX: u32 = 1 << 30;

/// Length of a head, and of a page of the file's memory: a power of two from [`PAGE`] to [`GRANULE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Granule(u32);

impl TryFrom<u32> for Granule {
    type Error = ();

    fn try_from(bytes: u32) -> Result<Self, ()> {
        let is_one = bytes.is_power_of_two() && (PAGE as u32..=GRANULE_MAX).contains(&bytes);
        if is_one { Ok(Self(bytes)) } else { Err(()) }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Region,
    UndoLog,
    RedoLog,
}

impl Kind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Region => *b"OLREGION",
            Self::UndoLog => *b"OLUNDO\0\0",
            Self::RedoLog => *b"OLREDO\0\0",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Region => "recoverable region",
            Self::UndoLog => "undo log",
            Self::RedoLog => "redo log",
        }
    }
}

/// An open file of ours.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// Length of the head, and of a page of the file's memory.
    pub(crate) granule: usize,
    pub(crate) body_len: u64,
    pub(crate) id: u64,
    pub(crate) medium: Medium,
}

impl Container {
    /// Opens the file, or makes one with a body of `body_len` bytes.
    pub(crate) fn open_or_create(path: &Path, kind: Kind, body_len: u64) -> Result<Self, Error> {
        // Again, because another may make the file between the two.
        for _ in 0..3 {
            match options().open(path) {
                Ok(file) => return Self::read(path, file, kind),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("opening", path)(error)),
            }
            match create(path, kind, body_len) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Error::Locked { path: path.to_owned() });
                }
                result => result.map_err(Error::io("creating", path))?,
            }
        }
        Err(Error::Locked { path: path.to_owned() })
    }

    /// Opens a file that must be there.
    pub(crate) fn open(path: &Path, kind: Kind) -> Result<Self, Error> {
        let file = options().open(path).map_err(Error::io("opening", path))?;
        Self::read(path, file, kind)
    }

    fn read(path: &Path, file: File, kind: Kind) -> Result<Self, Error> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(Error::io("locking", path)(error)),
        }
        let found = file.metadata().map_err(Error::io("reading", path))?.len();
        let mut head = [0; FIXED];
        let foreign = || Error::Foreign { path: path.to_owned(), wanted: kind.name() };
        if found < FIXED as u64 {
            let mut start = [0; 8];
            let got = file.read_at(&mut start, 0).map_err(Error::io("reading", path))?;
            let is_ours = got > 0 && kind.magic().starts_with(&start[..got]);
            return Err(if is_ours {
                Error::Truncated { path: path.to_owned(), found, wanted: PAGE as u64 }
            } else {
                foreign()
            });
        }
        file.read_exact_at(&mut head, 0).map_err(Error::io("reading", path))?;
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if head[..8] != kind.magic() {
            return Err(foreign());
        }
        if u32_at(8) > FORMAT {
            return Err(Error::Newer { path: path.to_owned(), found: u32_at(8), reads: FORMAT });
        }
        if xxh3_64(&head[..32]) != u64_at(32) {
            return Err(Error::damaged(path, "its head does not match its checksum"));
        }
        let Ok(Granule(granule)) = Granule::try_from(u32_at(12)) else {
            return Err(Error::damaged(path, "its head names a page size that no memory has"));
        };
        let (granule, body_len, id) = (granule as usize, u64_at(16), u64_at(24));
        let wanted = body_len.checked_add(granule as u64).and_then(|len| len.checked_next_multiple_of(granule as u64));
        if wanted.is_none_or(|wanted| found < wanted) {
            return Err(Error::Truncated { path: path.to_owned(), found, wanted: wanted.unwrap_or(u64::MAX) });
        }
        let medium = Medium::of(&file, mapping::maps_sync(&file, granule)).map_err(Error::io("examining", path))?;
        Ok(Self { path: path.to_owned(), file, granule, body_len, id, medium })
    }

    /// Has the kernel forget what it holds of the file in memory, so that it is read from its medium. A kernel that cannot write a page
    /// says so once, to whoever syncs next, and takes it for written from then on: so a process knows nothing of what another one wrote
    /// before it. Nothing but the fixed part of the head, which was synced before the file had its name, is read before this, and
    /// nothing may be mapped.
    ///
    /// # Errors
    /// When it cannot be synced. What is in memory stays there; the next call is behind that.
    fn read_afresh(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("syncing", &self.path))?;
        let forgotten = fadvise(&self.file, 0, None, Advice::DontNeed).map_err(io::Error::from);
        forgotten.map_err(Error::io("dropping from the host's memory", &self.path))
    }

    /// How to persist what lies in the file so that it survives `required`, and what it survives then. Where the kernel writes it to a
    /// medium, it is read from there from here on.
    pub(crate) fn persist(&self, required: Survives) -> Result<(Persist, Survives), Error> {
        let has = self.medium.survives();
        if has < required {
            return Err(Error::TooWeak {
                path: self.path.clone(),
                has,
                required,
                medium: self.medium.to_string(),
                remedy: self.medium.remedy(),
            });
        }
        Ok(match self.medium {
            Medium::Dax | Medium::VolatileDax => (Persist::CacheLines, has),
            Medium::Disk if required > Survives::ProcessDeath => {
                self.read_afresh()?;
                (Persist::Msync, has)
            }
            // The kernel's copy outlasts the process, and no more was asked for.
            _ => (Persist::Nothing, Survives::ProcessDeath),
        })
    }

    pub(crate) fn maps_sync(&self) -> bool {
        matches!(self.medium, Medium::Dax | Medium::VolatileDax)
    }
}

/// For reading and writing. Never blocking, which a pipe under that name would be, and never through a link.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    options
}

/// The file that becomes the new one: made, or taken over from a process that died while it made it. What another
/// program has put there is none of it: they could read what it will hold.
fn draft(path: &Path) -> io::Result<File> {
    match options().create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        result => return result,
    }
    let is_ours = std::fs::symlink_metadata(path).is_ok_and(|found| {
        found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0
    });
    if is_ours {
        return options().open(path);
    }
    std::fs::remove_file(path)?;
    options().create_new(true).open(path)
}

/// Gives a file its name, which nothing may have.
fn give_name(draft: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot promise that of a rename (9p, NFS, FUSE) can of a link.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => give_name_by_link(draft, path),
        result => Ok(result?),
    }
}

fn give_name_by_link(draft: &Path, path: &Path) -> io::Result<()> {
    rustix::fs::linkat(CWD, draft, CWD, path, AtFlags::empty())?;
    std::fs::remove_file(draft)
}

/// Makes the file under another name and renames it, so that nobody sees half of it.
fn create(path: &Path, kind: Kind, body_len: u64) -> io::Result<()> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let file = draft(&temporary)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Between opening and locking, its maker may have finished it and given it its name.
    if std::fs::metadata(&temporary).ok().map(|m| m.ino()) != Some(file.metadata()?.ino()) {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let result = fill(&file, kind, body_len).and_then(|()| {
        reached(Step::FileWritten);
        give_name(&temporary, path)?;
        reached(Step::FileNamed);
        sync_directory(path)
    });
    if result.is_err() {
        // What is left of it is in nobody's way; the next who creates the file takes it over.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

fn fill(file: &File, kind: Kind, body_len: u64) -> io::Result<()> {
    let granule = match rustix::fs::fstatfs(file)? {
        stat if Medium::of(file, false)? == Medium::Hugetlbfs => stat.f_bsize as u64,
        _ => PAGE as u64,
    };
    let len = (granule + body_len).next_multiple_of(granule);
    file.set_len(0)?;
    file.set_len(len)?;
    reserve(file, len, kind)?;
    reached(Step::FileReserved);
    let id = random()?;
    let mut head = [0; FIXED];
    head[..8].copy_from_slice(&kind.magic());
    head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    head[12..16].copy_from_slice(&(granule as u32).to_le_bytes());
    head[16..24].copy_from_slice(&body_len.to_le_bytes());
    head[24..32].copy_from_slice(&id.to_le_bytes());
    let check = xxh3_64(&head[..32]);
    head[32..].copy_from_slice(&check.to_le_bytes());
    let mut page = mapping::Mapping::file(file, 0, granule as usize, granule as usize, false)?;
    write_fresh_words(&mut page, kind);
    page.bytes_mut()[..FIXED].copy_from_slice(&head);
    page.msync(0, PAGE)?;
    drop(page);
    file.sync_all()
}

/// The sealed words of a file that is new.
fn write_fresh_words(page: &mut mapping::Mapping, kind: Kind) {
    let words: &[usize] = match kind {
        Kind::Region => &[head::TOUCHED_AT, head::OVER_AT],
        Kind::UndoLog => &[head::NUMBER_AT, head::TAIL_AT],
        Kind::RedoLog => &[],
    };
    for &at in words {
        page.word(at).store(seal(0), Ordering::Relaxed);
    }
}

/// Has the file system set the space aside, so that a later store cannot fail for want of it.
fn reserve(file: &File, len: u64, kind: Kind) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) if kind != Kind::RedoLog && !mapping::maps_sync(file, PAGE) => return Ok(()),
        // A log on a disk is written with zeros, so that a later sync has no metadata to write. So is what is mapped
        // with MAP_SYNC: there the first store to each page of reserved space waits for the file system's journal.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// A number that no other file has; never 0.
fn random() -> io::Result<u64> {
    #[expect(clippy::disallowed_methods, reason = "the one place: fewer bytes and interruptions are dealt with")]
    random_by(|bytes| rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()))
}

/// The kernel may give fewer bytes than were asked for, and a signal interrupts it.
fn random_by(mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match get(&mut bytes[filled..]) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(u64::from_le_bytes(bytes) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(body_len: u64) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("file");
        drop(Container::open_or_create(&path, Kind::Region, body_len).unwrap());
        (dir, path)
    }

    #[test]
    fn random_number_is_asked_for_until_all_its_bytes_are_there() {
        let mut answers = vec![Err(Errno::INTR), Ok(3), Ok(5)].into_iter();
        let number = random_by(|bytes| {
            let answer = answers.next().expect("no more is asked for than is missing");
            if let Ok(count) = answer {
                bytes[..count].fill(0x11);
            }
            answer
        });
        assert_eq!(number.unwrap(), 0x1111_1111_1111_1111);
        assert!(random_by(|_| Err(Errno::NOSYS)).is_err());
    }

    #[test]
    fn file_is_its_owners_only_and_made_through_no_link() {
        let (dir, path) = make(4096);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (victim, next) = (dir.path().join("victim"), dir.path().join("next"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &next).unwrap();
        assert!(Container::open_or_create(&next, Kind::Region, 100).is_err(), "it is a link");
        std::fs::remove_file(&next).unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("next.new")).unwrap();
        drop(Container::open_or_create(&next, Kind::Region, 100).unwrap());
        assert!(std::fs::symlink_metadata(&next).unwrap().is_file());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn name_given_by_a_link_is_never_that_of_another_file() {
        // What stands for a rename that replaces nothing, where the file system has none.
        let (dir, path) = make(4096);
        let draft = dir.path().join("draft");
        std::fs::write(&draft, "new").unwrap();
        assert_eq!(give_name_by_link(&draft, &path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();
        give_name_by_link(&draft, &path).unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap(), draft.exists()), ("new".into(), false));
    }

    #[test]
    fn file_opened_twice_is_locked() {
        let (_dir, path) = make(4096);
        let _first = Container::open(&path, Kind::Region).unwrap();
        assert!(matches!(Container::open(&path, Kind::Region), Err(Error::Locked { .. })));
    }

    #[test]
    fn file_of_another_kind_is_foreign() {
        let (dir, path) = make(4096);
        assert!(matches!(Container::open(&path, Kind::UndoLog), Err(Error::Foreign { .. })));
        let text = dir.path().join("text");
        std::fs::write(&text, "hello, world\n".repeat(1000)).unwrap();
        assert!(matches!(Container::open(&text, Kind::Region), Err(Error::Foreign { .. })));
    }

    #[test]
    fn file_cut_at_every_length_is_refused() {
        let (_dir, path) = make(100);
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = Container::open(&path, Kind::Region).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. } | Error::Foreign { .. }), "{len}: {error}");
        }
        std::fs::write(&path, &whole).unwrap();
        Container::open(&path, Kind::Region).unwrap();
    }

    #[test]
    fn head_with_any_bit_flipped_is_refused() {
        let (_dir, path) = make(100);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..FIXED * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let error = Container::open(&path, Kind::Region).unwrap_err();
            assert!(!matches!(error, Error::Io { .. } | Error::Locked { .. }), "bit {bit}: {error}");
        }
    }

    #[test]
    fn head_with_sizes_that_no_file_has_is_refused() {
        // The checksum is right: they were divided by, and overflowed.
        let (_dir, path) = make(100);
        let whole = std::fs::read(&path).unwrap();
        let open_with = |granule: u32, body_len: u64| {
            let mut bytes = whole.clone();
            bytes[12..16].copy_from_slice(&granule.to_le_bytes());
            bytes[16..24].copy_from_slice(&body_len.to_le_bytes());
            let check = xxh3_64(&bytes[..32]);
            bytes[32..FIXED].copy_from_slice(&check.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            Container::open(&path, Kind::Region)
        };
        for granule in [0, 1, 64, 4095, 4097, 12288, 1 << 31, u32::MAX] {
            let error = open_with(granule, 100).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{granule}: {error}");
        }
        for body_len in [u64::MAX, u64::MAX - 4096, 1 << 63, 1 << 40, 4097] {
            let error = open_with(4096, body_len).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{body_len}: {error}");
        }
        open_with(4096, 4096).unwrap();
    }

    #[test]
    fn file_of_a_newer_format_says_so() {
        let (_dir, path) = make(100);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&2u32.to_le_bytes(), 8).unwrap();
        let error = Container::open(&path, Kind::Region).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 2, reads: 1, .. }), "{error}");
    }

    #[test]
    fn weak_medium_is_refused_with_a_remedy() {
        let (_dir, path) = make(100);
        let container = Container::open(&path, Kind::Region).unwrap();
        assert_eq!(container.persist(Survives::ProcessDeath).unwrap(), (Persist::Nothing, Survives::ProcessDeath));
        let text = container.persist(Survives::PowerLoss).unwrap_err().to_string();
        assert!(text.contains("tmpfs") && text.contains("put the file on"), "{text}");
    }

    #[test]
    fn half_made_file_of_a_dead_maker_is_taken_over() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(dir.path().join("file.new"), "half").unwrap();
        let path = dir.path().join("file");
        Container::open_or_create(&path, Kind::Region, 100).unwrap();
        assert!(!dir.path().join("file.new").exists());
    }
}
