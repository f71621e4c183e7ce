//! What can go wrong with a state directory before anybody asks for the right to run its guest.

use snapshot::statedir::StateDirError;

use crate::exit::{Advice, Exit};
use protect::local::reset::ResetError;

impl Advice for StateDirError {
    fn exit(&self) -> Exit {
        match self {
            Self::Nothing { .. } => Exit::NotFound,
            Self::InUse { .. } => Exit::Conflict,
            Self::Unfit { .. } | Self::Lock { .. } | Self::Io { .. } => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::Nothing { .. } => {
                "there is no such VM; a VM that runs with `--protect local` leaves its state in /dev/shm/outlast/NAME or its --state-dir"
            }
            Self::InUse { .. } => {
                "this VM runs already: look at it with `outlast ctl status`. If another VM uses the directory, give this one another --state-dir"
            }
            Self::Unfit { .. } => "give --state-dir a directory that this user can write and others cannot",
            Self::Lock { .. } | Self::Io { .. } => {
                "the state directory and its files must belong to the user who runs the VM"
            }
        };
        Some(remedy.into())
    }
}

impl Advice for ResetError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { .. } => Exit::Error,
            Self::Damaged { .. } => Exit::Incompatible,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Damaged { .. } => Some("remove it, and start the guest again with `outlast run`".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_directory_of_nobody_is_not_found_and_of_somebody_else_a_conflict() {
        let dir = || "/s".into();
        assert_eq!(StateDirError::Nothing { path: dir() }.exit(), Exit::NotFound);
        assert_eq!(StateDirError::InUse { dir: dir() }.exit(), Exit::Conflict);
        let source = || std::io::ErrorKind::PermissionDenied.into();
        for error in [
            StateDirError::Unfit { dir: dir(), source: source() },
            StateDirError::Lock { dir: dir(), source: source() },
            StateDirError::Io { what: "read", path: dir(), source: source() },
        ] {
            assert_eq!(error.exit(), Exit::Error);
            assert!(error.hint().is_some(), "{error}");
        }
        assert_eq!(ResetError::Damaged { path: dir() }.exit(), Exit::Incompatible);
    }
}
