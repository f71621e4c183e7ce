//! What can go wrong on the way to a machine, and with its disks and snapshots.

use std::io::ErrorKind;
use std::path::Path;

use snapshot::checkpoint::CheckpointError;
use snapshot::disk::DiskError;

use crate::exit::{Advice, Exit};
use machine::MachineError;
use machine::boot::BootError;
use machine::checkpoint::CheckpointFailure;
use machine::kvm::KvmError;
use machine::net::TapError;
use machine::state::StateRefused;

impl Advice for MachineError {
    fn exit(&self) -> Exit {
        match self {
            Self::Boot(error) => boot_exit(error),
            Self::Kvm(KvmError::Open(error)) if error.errno() == libc::ENOENT => Exit::NotFound,
            Self::State(StateRefused::Kvm(_)) | Self::Kvm(_) | Self::Memory(_) | Self::Bus(_) => Exit::Error,
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

impl Advice for TapError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            TapError::NotThere(tap) => format!("`ip tuntap add {tap} mode tap && ip link set {tap} up` makes it"),
            TapError::NotATap(tap) => format!("`ip -d link show {tap}` shows what it is; make another with mode tap"),
            TapError::MultiQueue(tap) => format!(
                "make it anew without: `ip tuntap del {tap} mode tap multi_queue && ip tuntap add {tap} mode tap`"
            ),
            TapError::Busy { tap, .. } => {
                format!("one VM per tap; make another: `ip tuntap add {tap}b mode tap`")
            }
            TapError::Permission(tap) => {
                format!("run as root, or make it for this user: `ip tuntap add {tap} mode tap user $USER`")
            }
            TapError::NoOffloads { .. } => "use a host with Linux 5.0 or newer".into(),
            TapError::Open { .. } => "is the module tun loaded? `modprobe tun`".into(),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            TapError::NotThere(_) => Exit::NotFound,
            TapError::Busy { .. } => Exit::Conflict,
            TapError::NotATap(_)
            | TapError::MultiQueue(_)
            | TapError::Permission(_)
            | TapError::NoOffloads { .. }
            | TapError::Open { .. } => Exit::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tap_is_not_found_and_the_hint_makes_it() {
        let error = TapError::NotThere("ol-none0".into());
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(error.hint().expect("a hint").contains("ip tuntap add ol-none0 mode tap"));
    }
}
