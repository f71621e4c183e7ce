//! What can go wrong while a guest is protected.

use std::io::ErrorKind;

use replication::primary::PrimaryState;
use snapshot::disklog::{LOG_LEN_MAX, LogError};

use crate::exit::{Advice, Exit};
use protect::local::pairing::PairingError;
use protect::local::{BindingError, FILES, LocalError};
use protect::log::{DiskLogError, LOG_BYTES_MAX, PlaceError};
use protect::transport::{ChannelError, CredentialsError, Endpoint};
use protect::{Misfit, NotPaused, NotProtected, NotResumed, NotSnapshot, ProtectError};

impl Advice for ProtectError {
    fn exit(&self) -> Exit {
        match self {
            Self::Disk(error) => error.exit(),
            Self::DiskLog(error) => error.exit(),
            Self::Place(error) => error.exit(),
            Self::Local(error) => error.exit(),
            Self::Right(error) => error.exit(),
            Self::Machine(error) => error.exit(),
            Self::Misfit(error) => error.exit(),
            Self::During { source, .. } => source.exit(),
            Self::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => Exit::Conflict,
            Self::Listen { .. }
            | Self::EventCounter(_)
            | Self::DiskWorker
            | Self::StoreFailed { .. }
            | Self::StoreStays { .. } => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(error) => error.hint(),
            Self::DiskLog(error) => error.hint(),
            Self::Place(error) => error.hint(),
            Self::Local(error) => error.hint(),
            Self::Right(error) => error.hint(),
            Self::Machine(error) => error.hint(),
            Self::Misfit(error) => error.hint(),
            Self::During { source, .. } => source.hint(),
            Self::Listen { listen: Endpoint::Tcp { .. }, .. } => {
                Some("give --listen an address of this host and a free port".into())
            }
            Self::Listen { listen: Endpoint::Unix(_), .. } => Some(
                "give --listen a path in a directory that this user can write, where no other backup listens and no file is".into(),
            ),
            Self::StoreFailed { .. } => {
                Some("repair the storage, then `outlast resume` continues from the last committed epoch".into())
            }
            Self::StoreStays { .. } => Some(
                "repair the storage, then `outlast resume` continues from the last committed epoch; with a witness, \
                         which refuses that resume, the guest would have kept running"
                    .into(),
            ),
            Self::EventCounter(_) | Self::DiskWorker => None,
        }
    }
}

impl Advice for Misfit {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Nets { .. } => Some("give it as many --net".into()),
            Self::Disks { .. } => Some("give it as many --disk".into()),
            Self::Length { path, theirs, ours: _ } => Some(format!("truncate -s {theirs} {}", path.display())),
            Self::Machine(_) | Self::Readonly { .. } => None,
        }
    }
}

impl Advice for ChannelError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Open { .. } => {
                    "give both sides --tls-dir DIR (docs/TUTORIAL.md makes the certificates); or, if nobody else reaches the network \
                     between the hosts, write `,clear` behind the port on both sides"
                }
                Self::Contradiction { .. } => "leave out `,clear`, or --tls-dir",
            }
            .into(),
        )
    }
}

impl Advice for CredentialsError {
    /// What was given is of no use, or it may be tomorrow.
    fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { source, .. } if source.kind() != ErrorKind::NotFound => Exit::Error,
            Self::Dated { .. } => Exit::Error,
            Self::Unreadable { .. }
            | Self::Exposed { .. }
            | Self::Unusable { .. }
            | Self::Unfit { .. }
            | Self::Foreign { .. } => Exit::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { .. } => "a TLS directory has ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem and \
                                        client-key.pem, and the user who runs the VM reads them: docs/TUTORIAL.md makes them"
                .into(),
            Self::Exposed { path, .. } => format!("`chmod 600 {}`, or 640 for a group", path.display()),
            Self::Unusable { .. } => "docs/TUTORIAL.md makes files that fit".into(),
            Self::Unfit { .. } => "put the key beside it that its certificate was made from".into(),
            Self::Dated { .. } => "sign a new certificate, or set this host's clock".into(),
            Self::Foreign { .. } => "sign both certificates with the key of ca-cert.pem: with extendedKeyUsage serverAuth the \
                                     server's, clientAuth the client's"
                .into(),
        })
    }
}

impl Advice for DiskLogError {
    fn exit(&self) -> Exit {
        match self {
            Self::Log(error) => error.exit(),
            Self::Disk(error) => error.exit(),
            Self::HalfFilled { .. } => Exit::Incompatible,
            Self::Note { .. } => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Log(error) => error.hint(),
            Self::Disk(error) => error.hint(),
            Self::HalfFilled { note, .. } => Some(format!(
                "the whole image is on the host of its primary: start or resume the VM there. Or have it filled again: `outlast backup` \
                 here, until it is Protected. If you have put a whole image there since, remove {}",
                note.display()
            )),
            Self::Note { .. } => None,
        }
    }
}

impl Advice for LogError {
    fn exit(&self) -> Exit {
        match self {
            Self::Locked { .. } | Self::Elsewhere { .. } => Exit::Conflict,
            Self::NotALog { .. }
            | Self::Format { .. }
            | Self::Generation { .. }
            | Self::TooLong { .. }
            | Self::Damaged { .. }
            | Self::NoSuchDisk { .. }
            | Self::OtherDisk { .. }
            | Self::Resized { .. }
            | Self::Changed { .. }
            | Self::WentOn { .. }
            | Self::OtherLog { .. }
            | Self::OtherLine { .. }
            | Self::Ahead { .. }
            | Self::Missing { .. } => Exit::Incompatible,
            _ => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoRoom { path, source } | Self::Io { path, source, .. }
                if source.kind() == ErrorKind::StorageFull =>
            {
                Some(format!(
                    "make room on the file system of {} (a log takes up to {} MiB), or move the image to a larger one",
                    path.display(),
                    LOG_BYTES_MAX >> 20
                ))
            }
            Self::TooLong { path, .. } => Some(format!(
                "if it is the log, cut it to {} bytes (`truncate -s`), which no log exceeds; if not, move {} away",
                LOG_LEN_MAX,
                path.display()
            )),
            Self::NoSuchDisk { path, .. } | Self::OtherDisk { path, .. } => Some(format!(
                "the log holds committed writes of the disk that it names: give the disks in the order that they had, or put \
                 that image back; to start on what is there now instead, remove {}",
                path.display()
            )),
            Self::Resized { path, image, .. } | Self::Changed { path, image, .. } => Some(format!(
                "put over {} now, the log's older writes would damage it: to keep the image as it is, remove {}; or put the image \
                 back as it was when its VM crashed",
                image.display(),
                path.display()
            )),
            Self::Elsewhere { path, expected, .. } => Some(format!(
                "start the disks as that VM had them, and in the order that they had; or, if the image was renamed, rename {0} to \
                 {1}; to give those writes up, remove {0}",
                path.display(),
                expected.display()
            )),
            _ => None,
        }
    }
}

impl Advice for PlaceError {
    fn exit(&self) -> Exit {
        match self {
            Self::TooWeak { .. } => Exit::Usage,
            Self::Examine { source, .. } if source.kind() == ErrorKind::NotFound => Exit::NotFound,
            Self::Examine { .. } => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::TooWeak { .. } => {
                "give --disk-log a directory on a disk, or --state-dir; or --commit-durability memory, which promises less"
            }
            Self::Examine { .. } => "the directory of an image, and that of --disk-log, must be there and readable",
        };
        Some(remedy.into())
    }
}

/// Which storage gives what: for those whose storage gives less.
const STORAGE: &str = "what survives a crash of the kernel and a loss of power: a state directory on persistent memory mounted with DAX, or on \
     ext4, XFS, Btrfs, F2FS or ZFS with `--local-log redo` (each commit then waits for the disk), and disk images on one of these";

impl Advice for LocalError {
    fn exit(&self) -> Exit {
        match self {
            Self::Occupied { .. } => Exit::Conflict,
            Self::Memory(recoverable::Error::Locked { .. }) => Exit::Conflict,
            Self::Nothing { .. } => Exit::NotFound,
            Self::Examine { source, .. } if source.kind() == ErrorKind::NotFound => Exit::NotFound,
            Self::Record { .. } => Exit::Incompatible,
            Self::Memory(
                recoverable::Error::Foreign { .. }
                | recoverable::Error::Newer { .. }
                | recoverable::Error::Truncated { .. }
                | recoverable::Error::Length { .. }
                | recoverable::Error::Damaged { .. }
                | recoverable::Error::Stale { .. }
                | recoverable::Error::OtherLog { .. }
                | recoverable::Error::Bound { .. }
                | recoverable::Error::Waiting { .. },
            ) => Exit::Incompatible,
            Self::Binding(error) => error.exit(),
            _ => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Occupied { dir } => {
                let [state, ram, undo, redo, disks] = FILES;
                Some(format!(
                    "`outlast resume --state-dir {0}` continues it; to give it up, remove {state}, {ram}, {undo}, {redo} and \
                     {disks} in {0}: its disks keep what it had committed to them",
                    dir.display()
                ))
            }
            Self::Nothing { .. } => {
                Some("only a guest that ran with `--protect local` and did not end can be resumed".into())
            }
            Self::Memory(recoverable::Error::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => Some(
                "the state directory takes up to three times the guest's memory: give --state-dir a larger one".into(),
            ),
            Self::TooWeak { .. } => Some(STORAGE.into()),
            _ => None,
        }
    }
}

impl Advice for BindingError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { .. } | Self::Disk(_) => Exit::Error,
            Self::Damaged { .. } | Self::Count { .. } | Self::OtherDisk { .. } => Exit::Incompatible,
        }
    }
}

impl Advice for PairingError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { .. } => Exit::Error,
            Self::Damaged { .. } => Exit::Incompatible,
        }
    }
}

impl Advice for NotPaused {
    fn exit(&self) -> Exit {
        match self {
            Self::Ended => Exit::Conflict,
            Self::NotStopped | Self::NotCommitted { .. } => Exit::Timeout,
            Self::Kvm(_) => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::Ended | Self::Kvm(_) => return None,
            Self::NotStopped => "look at the storage of its disks",
            Self::NotCommitted { state: PrimaryState::Arbitrating } => {
                "look at the directory of the witness, then pause again"
            }
            Self::NotCommitted { .. } => "`outlast ctl status` shows how it is protected; then pause again",
        };
        Some(remedy.into())
    }
}

impl Advice for NotSnapshot {
    fn exit(&self) -> Exit {
        match self {
            Self::Ended => Exit::Conflict,
            Self::NotCommitted { .. } => Exit::Timeout,
        }
    }

    fn hint(&self) -> Option<String> {
        let ask_again = "`outlast ctl status` shows how the guest is protected; then ask again";
        matches!(self, Self::NotCommitted { .. }).then(|| ask_again.into())
    }
}

impl Advice for NotResumed {
    fn exit(&self) -> Exit {
        match self {
            Self::Ended => Exit::Conflict,
            Self::NotCommitted { .. } => Exit::Timeout,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::NotCommitted { .. }).then(|| "`outlast ctl status` shows how it is protected".into())
    }
}

impl Advice for NotProtected {
    fn exit(&self) -> Exit {
        match self {
            Self::Has { .. } => Exit::Conflict,
            Self::Channel(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        let (state, by) = match self {
            Self::Has { state, by } => (*state, by),
            Self::Channel(error) => return error.hint(),
        };
        let remedy = match (state, by) {
            (PrimaryState::Fenced | PrimaryState::Ended, _) => return None,
            (PrimaryState::Arbitrating, _) => {
                "look at the witness's directory; ask again when `outlast ctl status` says Solo"
            }
            (_, Some(_)) => "a guest has one backup at a time: `outlast ctl unprotect` first",
            (_, None) => "ask again when `outlast ctl status` says Solo",
        };
        Some(remedy.into())
    }
}

#[cfg(feature = "faults")]
impl Advice for protect::fault::FaultError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(self.takes.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use recoverable::Survives;
    use snapshot::disk::DiskError;

    use super::*;
    use crate::exit::{Failure, words};
    use protect::local::RecordError;
    use protect::local::backing::{LogKind, StoreDurability};

    fn not_found() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    #[test]
    fn what_is_not_there_is_not_found_wherever_it_was_looked_for() {
        let dir = || "/none".into();
        assert_eq!(PlaceError::Examine { dir: dir(), source: not_found() }.exit(), Exit::NotFound);
        assert_eq!(LocalError::Examine { path: dir(), source: not_found() }.exit(), Exit::NotFound);
        assert_eq!(LocalError::Nothing { dir: dir() }.exit(), Exit::NotFound);
        assert_eq!(ProtectError::from(LocalError::Nothing { dir: dir() }).exit(), Exit::NotFound);
    }

    #[test]
    fn state_that_is_not_this_guests_is_incompatible() {
        let path = || "/s/disks".into();
        let errors: [ProtectError; 4] = [
            LogError::Changed { path: path(), image: "/a.img".into(), how: "h" }.into(),
            LocalError::Record { path: path(), source: RecordError::Empty }.into(),
            LocalError::Binding(BindingError::Damaged { path: path(), what: "is damaged" }).into(),
            LocalError::Binding(BindingError::Count { was: 1, now: 0 }).into(),
        ];
        for error in errors {
            assert_eq!(error.exit(), Exit::Incompatible, "{error}");
        }
        assert_eq!(PairingError::Damaged { path: path() }.exit(), Exit::Incompatible);
        assert_eq!(LocalError::Binding(BindingError::Disk(DiskError::Missing { path: path() })).exit(), Exit::Error);
    }

    #[test]
    fn image_that_was_written_since_is_kept_by_removing_its_log() {
        let error = LogError::Changed { path: "/a.img.epochs".into(), image: "/a.img".into(), how: "h" };
        let hint = error.hint().expect("a hint");
        assert!(hint.contains("/a.img now") && hint.contains("remove /a.img.epochs"), "{hint}");
        let path = |name: &str| Path::new(name).to_owned();
        let (path, image, expected) = (path("/a.img.epochs"), path("/b.img"), path("/b.img.epochs"));
        let error = LogError::Elsewhere { path, owner: "vm0".into(), image, expected };
        assert_eq!(error.exit(), Exit::Conflict);
        assert!(error.hint().expect("a hint").contains("rename /a.img.epochs to /b.img.epochs"));
    }

    #[test]
    fn storage_that_is_too_weak_is_told_with_storage_that_is_not() {
        let kept = StoreDurability { log: LogKind::Undo, survives: Survives::ProcessDeath };
        let (images, required) = (Survives::PowerLoss, Survives::PowerLoss);
        let error = LocalError::TooWeak { dir: "/s".into(), kept, images, required };
        assert!(error.hint().expect("a hint").contains("--local-log redo"));
    }

    #[test]
    fn backup_that_has_not_what_the_guest_has_is_told_what_to_give_it() {
        let length = Misfit::Length { path: "/a.img".into(), theirs: 4096, ours: 512 };
        for (misfit, says) in [
            (
                Misfit::Nets { theirs: 2, ours: 1 },
                "the guest has 2 network cards and the backup 1\n  hint: give it as many --net",
            ),
            (
                Misfit::Disks { theirs: 0, ours: 1 },
                "the guest has 0 disks and the backup 1\n  hint: give it as many --disk",
            ),
            (length, "/a.img has 512 bytes and the guest's disk 4096\n  hint: truncate -s 4096 /a.img"),
            (Misfit::Readonly { path: "/a.img".into() }, "/a.img must be read-only on both hosts or on neither"),
        ] {
            assert_eq!(words(&ProtectError::from(misfit)), says);
        }
    }

    #[test]
    fn request_that_came_too_early_says_what_to_wait_for() {
        let by = Some("tcp:b:7000".parse().expect("well formed"));
        let refusal = NotProtected::Has { state: PrimaryState::Syncing, by };
        assert!(refusal.hint().expect("a hint").contains("unprotect"));
        assert!(NotProtected::Has { state: PrimaryState::Protected, by: None }.hint().is_some());
        assert_eq!(NotProtected::Has { state: PrimaryState::Fenced, by: None }.hint(), None);
    }

    #[test]
    fn failure_in_the_course_of_another_is_told_with_its_cause_and_its_hint() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = ProtectError::from(DiskError::Io { what: "writing", path: "/a.img".into(), source });
        let whole = Failure::of(&error).while_doing("images are not written").to_string();
        let during = ProtectError::During { doing: "images are not written", source: Box::new(error) };
        assert_eq!(words(&during), whole);
        assert!(whole.contains("/a.img") && whole.contains("\n  hint: make room"), "{whole}");
    }
}
