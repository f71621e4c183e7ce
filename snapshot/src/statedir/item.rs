//! The names in a state directory.

use std::path::{Path, PathBuf};

/// What may lie in a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The lock, and whose lives held it.
    Lock,
    /// What was configured.
    Config,
    /// What is known of the register and of backups.
    Pairing,
    /// The newest view that was seen, and whether it is to be continued at another witness.
    View,
    /// Which disks the guest is bound to.
    Binding,
    /// That the guest is to boot again, and as which life.
    Reset,
    /// A crash of the guest and what was tried.
    Crash,
    /// A snapshot of a guest that crashed.
    Evidence,
    /// Earlier epochs.
    Earlier,
    /// The machine at the last epoch.
    State,
    /// Guest memory at the last epoch.
    Ram,
    /// Before-images of a commit.
    Undo,
    /// Commits that the files do not have yet.
    Redo,
}

impl Item {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Lock,
        Self::Config,
        Self::Pairing,
        Self::View,
        Self::Binding,
        Self::Reset,
        Self::Crash,
        Self::Evidence,
        Self::Earlier,
        Self::State,
        Self::Ram,
        Self::Undo,
        Self::Redo,
    ];
    /// The files of a guest, in the order in which they are removed.
    pub(super) const OF_A_GUEST: [Self; 6] =
        [Self::State, Self::Ram, Self::Undo, Self::Redo, Self::Binding, Self::Pairing];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Config => "vm.json",
            Self::Pairing => "pairing",
            Self::View => "view",
            Self::Binding => "disks",
            Self::Reset => "reset",
            Self::Crash => "crash.json",
            Self::Evidence => "crash",
            Self::Earlier => "earlier",
            Self::State => "state",
            Self::Ram => "ram",
            Self::Undo => "undo",
            Self::Redo => "redo",
        }
    }

    /// Where it is in the state directory `dir`.
    pub fn path_in(self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }

    /// Whether it is a small file that is replaced as a whole, by way of a draft.
    const fn is_replaced(self) -> bool {
        matches!(self, Self::Config | Self::Pairing | Self::View | Self::Binding | Self::Reset | Self::Crash)
    }

    /// Whether it is a directory.
    const fn is_directory(self) -> bool {
        matches!(self, Self::Evidence | Self::Earlier)
    }

    /// More bytes than a small file of this name ever has.
    pub(super) const fn bytes_max(self) -> u64 {
        match self {
            Self::Pairing | Self::Reset => 64 << 10,
            _ => 1 << 20,
        }
    }

    /// Every name that a file of ours may get there, drafts of small files too: nothing else may be written under it.
    pub fn file_names() -> impl Iterator<Item = String> {
        let names =
            |item: Self| [Some(item.name().to_owned()), item.is_replaced().then(|| format!("{}.next", item.name()))];
        Self::ALL.into_iter().filter(|item| !item.is_directory()).flat_map(names).flatten()
    }
}
