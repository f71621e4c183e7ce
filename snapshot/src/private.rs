//! Files with what a guest has in its memory and on its disks: nobody but their owner reads them.
//!
//! Here is decided how such files and their directories are made and used again:
//!
//! - a new file has mode 0600 and a new directory 0700, whatever the umask is; what older versions left open is closed;
//! - a name that is a symbolic link is refused, and so are pipes and devices: another user could have put them there;
//! - a file that belongs to another user is refused: its owner can read it;
//! - a state directory lies where nobody else can make or exchange it ([`claim_dir`]).
//!
//! What was refused is an error whose text says why and what to do.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Of directories above a state directory: who makes them may want others in them.
const PARENT_MODE: u32 = 0o755;
const OTHERS_WRITE: u32 = 0o002;
const NOT_OWNER_WRITES: u32 = 0o022;
const NOT_OWNER: u32 = 0o077;
const STICKY: u32 = 0o1000;
/// A directory with one of these is a state directory of an earlier version.
const OURS: [&str; 2] = ["vm.json", "lock"];

/// Makes a file that must not exist, for reading and writing.
pub fn create_new(path: &Path) -> io::Result<File> {
    options(OFlags::NOFOLLOW).create_new(true).open(path)
}

/// Makes a file in the place of what a process that ended may have left there: of that nothing is used.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create_new(path)
        }
        result => result,
    }
}

/// Opens a file for reading and writing, or makes it.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    // Not blocking: a pipe would wait for whoever has its other end.
    let there =
        options(OFlags::NOFOLLOW | OFlags::NONBLOCK).create(true).open(path).map_err(|error| explained(path, error))?;
    let metadata = there.metadata()?;
    if !metadata.is_file() {
        return Err(refused(&format!("{} is no regular file: remove it", path.display())));
    }
    check_owner(&metadata, path.parent()).map_err(|error| named(path, &error))?;
    close_to_others(&there, &metadata)?;
    Ok(there)
}

/// Opens a file to look at it.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| explained(path, error))
}

/// Opens a file that its user named, to append to it, or makes it: where a console or events go. It may be a pipe or a
/// terminal, and a link that its user or the system made.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    refuse_foreign_link(path)?;
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

/// Refuses a name that is a link which neither its user nor the system made.
pub fn refuse_foreign_link(path: &Path) -> io::Result<()> {
    let link = fs::symlink_metadata(path).ok().filter(Metadata::is_symlink);
    let foreign = link.filter(|link| !is_trusted(link.uid()));
    if let Some(link) = foreign {
        return Err(refused(&format!("it is a symbolic link of user {}, which is not followed", link.uid())));
    }
    Ok(())
}

/// Makes a directory that must not exist.
pub fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(path)
}

/// Makes the directory at `path`, and those above it that are missing; or checks that the one that is there is ours and
/// lies where nobody else can exchange it. True if it was made.
pub fn claim_dir(path: &Path) -> io::Result<bool> {
    let path = std::path::absolute(path)?;
    let parent = path.parent().ok_or_else(|| refused("it is the root directory"))?;
    // As it was named, for the links in it; and where it is.
    check_way(&path)?;
    DirBuilder::new().recursive(true).mode(PARENT_MODE).create(parent)?;
    check_way(&fs::canonicalize(parent)?.join(path.file_name().unwrap_or_default()))?;
    match create_dir(&path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = fs::metadata(&path)?;
    if !metadata.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    check_owner(&metadata, Some(&path))?;
    let is_open = |rights| metadata.mode() & rights != 0;
    if !is_open(OTHERS_WRITE) && is_open(NOT_OWNER) && holds_only_ours(&path)? {
        fs::set_permissions(&path, Permissions::from_mode(DIR_MODE))?;
    } else if is_open(NOT_OWNER_WRITES) {
        return Err(refused(
            "others can write there: name another directory, or `chmod 700` it if nobody else needs it",
        ));
    }
    Ok(false)
}

/// Whether a directory is empty, or a state directory. The mode of any other is its owner's business.
fn holds_only_ours(path: &Path) -> io::Result<bool> {
    Ok(OURS.iter().any(|name| path.join(name).exists()) || fs::read_dir(path)?.next().is_none())
}

fn options(flags: OFlags) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE).custom_flags(flags.bits() as i32);
    options
}

/// Checks that nobody else can make or exchange a name on the way to `path`. A directory that everybody can write to
/// must be sticky, and what the way takes of it ours or the system's.
fn check_way(path: &Path) -> io::Result<()> {
    let steps: Vec<&Path> = path.ancestors().collect();
    for pair in steps.windows(2) {
        let (step, above) = (pair[0], pair[1]);
        let above_mode = match fs::metadata(above) {
            Ok(metadata) => metadata.mode(),
            // It is made by us.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if above_mode & OTHERS_WRITE == 0 {
            continue;
        }
        if above_mode & STICKY == 0 {
            return Err(exchanged(above, "everybody can exchange what is in it"));
        }
        match fs::symlink_metadata(step) {
            Ok(found) if !is_trusted(found.uid()) => {
                check_owner(&found, Some(above)).map_err(|_| {
                    exchanged(step, &format!("it belongs to user {}, who could exchange what is in it", found.uid()))
                })?;
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn exchanged(path: &Path, why: &str) -> io::Error {
    refused(&format!("{}: {why}; name a directory that is only yours", path.display()))
}

/// Checks that a file is as much ours as one that is made in `dir` now: on a file system that knows no users, or calls
/// ours by another number (9p, NFS, FUSE), that is not to be seen from the number alone.
fn check_owner(found: &Metadata, dir: Option<&Path>) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if found.uid() == us || dir.and_then(owner_of_new).is_some_and(|owner| owner == found.uid()) {
        return Ok(());
    }
    Err(refused(&format!(
        "it belongs to user {}, and this process runs as user {us}: if it is yours, `chown` it; else name another",
        found.uid()
    )))
}

/// Whose a file is that this process makes in `dir`, if it can make one.
fn owner_of_new(dir: &Path) -> Option<u32> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let path: PathBuf = dir.join(format!(".outlast-owner-{}", std::process::id()));
    let owner = create_anew(&path).ok()?.metadata().ok()?.uid();
    fs::remove_file(&path).ok()?;
    Some(owner)
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Removes rights of others that an older version left. On a file system without modes the mount decides.
fn close_to_others(file: &File, metadata: &Metadata) -> io::Result<()> {
    if metadata.mode() & NOT_OWNER == 0 || metadata.file_type().is_block_device() {
        return Ok(());
    }
    match file.set_permissions(Permissions::from_mode(FILE_MODE)) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) || error.kind() == ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    refused(&format!("{}: {error}", path.display()))
}

fn explained(path: &Path, error: io::Error) -> io::Error {
    let path = path.display();
    match error.raw_os_error() {
        Some(libc::ELOOP) => refused(&format!("{path} is a symbolic link, which is not followed: remove it")),
        // A pipe that nobody reads, or a socket.
        Some(libc::ENXIO) => refused(&format!("{path} is no regular file: remove it")),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn new_files_and_directories_are_their_owners_only() {
        let dir = place();
        let path = |name: &str| dir.path().join(name);
        create_new(&path("a")).unwrap();
        create_anew(&path("b")).unwrap();
        open_or_create(&path("c")).unwrap();
        open_to_append(&path("d")).unwrap();
        create_dir(&path("e")).unwrap();
        assert!(claim_dir(&path("f/g")).unwrap());
        for name in ["a", "b", "c", "d"] {
            assert_eq!(mode(&path(name)), 0o600, "{name}");
        }
        assert_eq!((mode(&path("e")), mode(&path("f/g"))), (0o700, 0o700));
        assert!(create_new(&path("a")).is_err());
    }

    #[test]
    fn link_pipe_and_directory_are_refused_and_what_they_lead_to_is_not_touched() {
        let dir = place();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("victim"), "precious").unwrap();
        symlink(path("victim"), path("link")).unwrap();
        symlink(path("nothing"), path("dangling")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::create_dir(path("dir")).unwrap();
        for name in ["link", "dangling"] {
            let error = open_or_create(&path(name)).unwrap_err();
            assert!(error.to_string().contains("symbolic link"), "{name}: {error}");
            assert!(create_new(&path(name)).is_err(), "{name}");
        }
        assert!(open_or_create(&path("pipe")).unwrap_err().to_string().contains("pipe is no regular file"));
        assert!(open_or_create(&path("dir")).is_err());
        // What a dead process left is replaced, the link itself and not what it leads to.
        create_anew(&path("link")).unwrap();
        assert_eq!(fs::read_to_string(path("victim")).unwrap(), "precious");
        assert!(!path("nothing").exists());
    }

    #[test]
    fn file_that_an_older_version_left_open_is_closed_and_keeps_its_content() {
        let dir = place();
        let path = dir.path().join("log");
        fs::write(&path, "records").unwrap();
        set_mode(&path, 0o644);
        open_or_create(&path).unwrap();
        assert_eq!((mode(&path), fs::read_to_string(&path).unwrap()), (0o600, "records".into()));
    }

    #[test]
    fn state_directory_is_closed_and_any_other_directory_is_left_as_it_is() {
        let dir = place();
        let path = |name: &str| dir.path().join(name);
        for (name, content, before, expected) in [
            ("empty", None, 0o775, 0o700),
            ("state", Some("vm.json"), 0o755, 0o700),
            ("home", Some("mail"), 0o755, 0o755),
        ] {
            fs::create_dir(path(name)).unwrap();
            set_mode(&path(name), before);
            if let Some(file) = content {
                fs::write(path(name).join(file), "").unwrap();
            }
            assert!(!claim_dir(&path(name)).unwrap());
            assert_eq!(mode(&path(name)), expected, "{name}");
        }
        for open in [0o777, 0o1777, 0o770] {
            set_mode(&path("home"), open);
            assert!(claim_dir(&path("home")).unwrap_err().to_string().contains("others can write"), "{open:o}");
            assert_eq!(mode(&path("home")), open);
        }
    }

    #[test]
    fn directory_that_somebody_else_could_make_or_exchange_is_refused() {
        let dir = place();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("open")).unwrap();
        set_mode(&path("open"), 0o777);
        assert!(claim_dir(&path("open/vm")).unwrap_err().to_string().contains("everybody can exchange"));
        set_mode(&path("open"), 0o1777);
        assert!(claim_dir(&path("open/vm")).unwrap());
        if !is_root() {
            // Without root there is nobody else to be.
            return;
        }
        // As in /dev/shm: somebody made our directory first.
        fs::create_dir(path("open/outlast")).unwrap();
        chown(path("open/outlast"), Some(4242), None).unwrap();
        assert!(claim_dir(&path("open/outlast/vm")).unwrap_err().to_string().contains("user 4242"));
        fs::create_dir(path("ours")).unwrap();
        symlink(path("ours"), path("open/link")).unwrap();
        std::os::unix::fs::lchown(path("open/link"), Some(4242), None).unwrap();
        assert!(claim_dir(&path("open/link/vm")).unwrap_err().to_string().contains("user 4242"));
        assert!(claim_dir(&path("open/link")).unwrap_err().to_string().contains("user 4242"));
        assert!(open_to_append(&path("open/link")).unwrap_err().to_string().contains("user 4242"));
        // A directory that an administrator gave to somebody is another matter; the state directory itself is not.
        chown(path("ours"), Some(4242), None).unwrap();
        assert!(claim_dir(&path("ours/vm")).unwrap());
        assert!(claim_dir(&path("ours")).unwrap_err().to_string().contains("user 4242"));
        chown(path("ours/vm"), Some(4242), None).unwrap();
        fs::write(path("log"), "").unwrap();
        chown(path("log"), Some(4242), None).unwrap();
        assert!(open_or_create(&path("log")).unwrap_err().to_string().contains("user 4242"));
    }
}
