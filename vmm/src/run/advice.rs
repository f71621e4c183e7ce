//! Exit codes of what can go wrong on the way to a machine. The messages say what to do themselves.

use std::io::ErrorKind;
use std::path::Path;

use snapshot::checkpoint::CheckpointError;
use snapshot::disk::DiskError;

use crate::boot::BootError;
use crate::exit::{Advice, Exit};
use crate::kvm::KvmError;
use crate::machine::MachineError;
use crate::machine::checkpoint::CheckpointFailure;
use crate::machine::state::StateRefused;

impl Advice for MachineError {
    fn exit(&self) -> Exit {
        match self {
            Self::Boot(error) => boot_exit(error),
            Self::Kvm(KvmError::Open(error)) if error.errno() == libc::ENOENT => Exit::NotFound,
            Self::State(StateRefused::Kvm(_)) | Self::Kvm(_) | Self::Memory(_) => Exit::Error,
            Self::State(_) => Exit::Incompatible,
            Self::TooManyDevices { .. } => Exit::Usage,
        }
    }
}

fn boot_exit(error: &BootError) -> Exit {
    match error {
        BootError::Read { source, .. } if source.kind() == ErrorKind::NotFound => Exit::NotFound,
        BootError::Read { .. } => Exit::Error,
        BootError::NotAKernel { .. } | BootError::TooLarge { .. } | BootError::CmdlineTooLong(_) => Exit::Usage,
    }
}

impl Advice for DiskError {
    fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } => Exit::NotFound,
            Self::Locked { .. } => Exit::Conflict,
            _ => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { path, source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Some(format!(
                "make room on the file system of {}: an image with holes comes to need all its length there",
                path.display()
            )),
            _ => None,
        }
    }
}

impl Advice for CheckpointFailure {
    fn exit(&self) -> Exit {
        match self {
            Self::Directory(CheckpointError::Missing { .. }) => Exit::NotFound,
            Self::Directory(CheckpointError::Exists { .. }) | Self::Busy => Exit::Conflict,
            Self::Directory(CheckpointError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Exit::NotFound
            }
            Self::Directory(CheckpointError::Io { .. } | CheckpointError::TooLong { .. }) => Exit::Error,
            Self::Directory(_) | Self::State(_) | Self::OtherDisks { .. } => Exit::Incompatible,
            Self::Kvm(_) | Self::Disk(_) => Exit::Error,
            Self::Machine(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Directory(CheckpointError::Io { what, path, source }) => storage_hint(what, path, source.kind()),
            Self::OtherDisks { remedy, .. } => Some(remedy.clone()),
            _ => None,
        }
    }
}

/// What to do about storage that failed while a snapshot was written or read.
fn storage_hint(what: &str, path: &Path, kind: ErrorKind) -> Option<String> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(match kind {
        ErrorKind::NotFound if what == "creating" => format!("`mkdir -p {}` makes the directory that it is to be in", dir.display()),
        ErrorKind::NotFound => "the snapshot is not whole: take another".into(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room there, or name a directory on another file system: a snapshot needs as much room as the guest's memory".into()
        }
        ErrorKind::ReadOnlyFilesystem => "name a directory on a file system that can be written".into(),
        ErrorKind::PermissionDenied => format!("the user who runs the VM needs access to {}", dir.display()),
        _ => return None,
    })
}
