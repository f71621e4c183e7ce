//! The recoverable memory of a state directory: which of its two kinds, and how much room each takes.
//!
//! | log | for | a commit | survives |
//! |---|---|---|---|
//! | undo | tmpfs, persistent memory with DAX | stores, and one of eight bytes that ends it | what the medium survives |
//! | redo | an ordinary file system | one write and one `fdatasync` | a loss of power |
//!
//! An undo log on an ordinary file system is not synced (each before-image would have to be, on its own): such epochs
//! survive the death of the process only.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use recoverable::{Medium, RecoverableMemory, Rvm, RvmOptions, Survives, Vista, VistaOptions};
use serde::{Deserialize, Serialize};

use snapshot::statedir::{Item, LogName, MemoryFiles};

use super::{LocalError, STATE_BYTES};
use machine::memory::PAGE_SIZE;

/// Before-images of one epoch at most, beside those of the state.
const UNDO_BYTES_MAX: u64 = 1 << 30;
/// What the undo log needs for each page beside its bytes; the library says up to 103 for a range. A page in several ranges
/// needs no more: between two of them at least 512 bytes are not logged.
const UNDO_RECORD_BYTES: u64 = 128;
/// Room of the redo log for pages. Epochs that take half of the log are committed as one record. All of it is read when a guest
/// is resumed, so larger is not better.
const REDO_BYTES_MAX: u64 = 128 << 20;
/// Room beside it; and no log is smaller than two of the largest states.
const REDO_BYTES_BESIDE: u64 = 48 << 20;
const REDO_BYTES_MIN: u64 = 2 * STATE_BYTES as u64 + (8 << 20);

/// By which log epochs are committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalLog {
    /// Redo on an ordinary file system, undo elsewhere.
    #[default]
    Auto,
    /// In place, with an undo log, for tmpfs and persistent memory. On an ordinary file system nothing is synced.
    Undo,
    /// A redo log that is synced at each commit, for ordinary disks.
    Redo,
}

/// What a committed epoch survives at least, each including those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survival {
    /// The end of this program.
    #[default]
    Process,
    /// A crash of the host's kernel.
    Kernel,
    /// A loss of power.
    Power,
}

/// What is asked of a state directory.
#[derive(Clone, Copy, Debug)]
pub struct LocalOptions {
    /// Which log; of a guest that is resumed, the one that is there.
    pub log: LocalLog,
    /// What epochs must survive.
    pub required: Survives,
    /// What the images of the guest's disks, and the log of their writes, survive.
    pub images: Survives,
}

impl Default for LocalOptions {
    /// For who only looks.
    fn default() -> Self {
        Self { log: LocalLog::Auto, required: Survives::ProcessDeath, images: Survives::PowerLoss }
    }
}

/// How epochs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreDurability {
    /// By which log.
    pub log: LogKind,
    /// What they survive, memory and disks together.
    pub survives: Survives,
}

/// A kind of recoverable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Before-images, discarded by the commit.
    Undo,
    /// New content, written by the commit.
    Redo,
}

impl LogKind {
    /// Its name, as `--local-log` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Undo => "undo",
            Self::Redo => "redo",
        }
    }

    fn chosen(asked: LocalLog, medium: Medium) -> Self {
        match (asked, medium) {
            (LocalLog::Undo, _) => Self::Undo,
            (LocalLog::Redo, _) | (LocalLog::Auto, Medium::Disk) => Self::Redo,
            (LocalLog::Auto, _) => Self::Undo,
        }
    }
}

impl From<Survival> for Survives {
    fn from(survival: Survival) -> Self {
        match survival {
            Survival::Process => Self::ProcessDeath,
            Survival::Kernel => Self::KernelCrash,
            Survival::Power => Self::PowerLoss,
        }
    }
}

/// Recoverable memory, with nothing mapped yet.
pub(super) struct Backing {
    pub(super) memory: Box<dyn RecoverableMemory + Send>,
    pub(super) log: LogKind,
}

impl Backing {
    /// Opens the log that is there, or makes one. What was under way when the process ended is undone or done.
    pub(super) fn open(dir: &Path, ram_bytes: u64, asked: LocalLog) -> Result<Self, LocalError> {
        let medium = of_directory(dir)?;
        let log = match MemoryFiles::look(dir).log {
            Some(LogName::Redo) => LogKind::Redo,
            Some(LogName::Undo) => LogKind::Undo,
            None => LogKind::chosen(asked, medium),
        };
        match log {
            LogKind::Undo => Self::undo(dir, ram_bytes),
            LogKind::Redo => Self::redo(dir, ram_bytes, medium),
        }
    }

    fn undo(dir: &Path, ram_bytes: u64) -> Result<Self, LocalError> {
        let options = VistaOptions { log_bytes: undo_bytes(ram_bytes), required: Survives::ProcessDeath };
        let memory = Vista::open(Item::Undo.path_in(dir), options)?;
        Ok(Self { memory: Box::new(memory), log: LogKind::Undo })
    }

    fn redo(dir: &Path, ram_bytes: u64, medium: Medium) -> Result<Self, LocalError> {
        let path = Item::Redo.path_in(dir);
        if !path.exists() {
            Rvm::create_log(&path, redo_bytes(ram_bytes))?;
        }
        let options = RvmOptions { required: medium.survives(), ..RvmOptions::default() };
        let memory = Rvm::initialize(&path, options)?;
        Ok(Self { memory: Box::new(memory), log: LogKind::Redo })
    }
}

/// An epoch that is too large for its log is committed in pieces of at most so many bytes.
pub(super) fn piece_bytes(log: LogKind, ram_bytes: u64) -> usize {
    match log {
        LogKind::Undo => usize::MAX,
        LogKind::Redo => redo_bytes(ram_bytes) as usize / 4,
    }
}

fn undo_bytes(ram_bytes: u64) -> u64 {
    let pages = ram_bytes.min(UNDO_BYTES_MAX);
    pages + pages / PAGE_SIZE as u64 * UNDO_RECORD_BYTES + STATE_BYTES as u64 + (1 << 20)
}

fn redo_bytes(ram_bytes: u64) -> u64 {
    (ram_bytes.min(REDO_BYTES_MAX) + REDO_BYTES_BESIDE).max(REDO_BYTES_MIN)
}

fn of_directory(dir: &Path) -> Result<Medium, LocalError> {
    Medium::of_directory(dir).map_err(|source| LocalError::Examine { path: dir.to_owned(), source })
}

/// What these images survive. Where the log of their writes lies is looked at for itself.
pub fn survival_of_images<'a>(images: impl Iterator<Item = &'a Path>) -> Result<Survives, LocalError> {
    images.map(survival_of_image).try_fold(Survives::PowerLoss, |least, image| Ok(least.min(image?)))
}

fn survival_of_image(image: &Path) -> Result<Survives, LocalError> {
    let failed = |source| LocalError::Examine { path: image.to_owned(), source };
    let path = image.canonicalize().map_err(failed)?;
    let metadata = path.metadata().map_err(failed)?;
    if metadata.file_type().is_block_device() {
        return survival_of_device(metadata.rdev(), &path);
    }
    Ok(of_directory(path.parent().unwrap_or(&path))?.survives())
}

/// A device keeps its content, if it is not made of memory; one made of a file keeps what that file does.
fn survival_of_device(device: u64, path: &Path) -> Result<Survives, LocalError> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let sys = format!("/sys/dev/block/{major}:{minor}");
    if let Ok(file) = std::fs::read_to_string(format!("{sys}/loop/backing_file")) {
        let file = Path::new(file.trim_end_matches('\n'));
        // One that was removed is nowhere.
        return if file.exists() { survival_of_image(file) } else { Ok(Survives::ProcessDeath) };
    }
    let failed = |source| LocalError::Examine { path: path.to_owned(), source };
    let real = std::fs::canonicalize(&sys).map_err(failed)?;
    let is_memory = real.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        (name.starts_with("ram") || name.starts_with("zram")) && name.ends_with(|c: char| c.is_ascii_digit())
    });
    Ok(if is_memory { Survives::ProcessDeath } else { Survives::PowerLoss })
}
