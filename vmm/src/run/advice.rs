//! Exit codes of what can go wrong on the way to a machine. The messages say what to do themselves.

use std::io::ErrorKind;

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
            Self::Directory(_) | Self::State(_) | Self::OtherDisks { .. } => Exit::Incompatible,
            Self::Kvm(_) | Self::Disk(_) => Exit::Error,
            Self::Machine(error) => error.exit(),
        }
    }
}
