//! What can go wrong while a guest is protected, and with the right to run it.

use std::io::ErrorKind;

use replication::primary::{NotNow, PrimaryState};
use replication::view::{Place, Refusal};
use snapshot::disklog::{LOG_LEN_MAX, LogError};

use crate::exit::{Advice, Exit};
use protect::backup::FailoverError;
use protect::local::pairing::PairingError;
use protect::local::{BindingError, FILES, LocalError};
use protect::log::{DiskLogError, LOG_BYTES_MAX, PlaceError};
use protect::transport::{ChannelError, CredentialsError, Endpoint};
use protect::{
    ExchangeError, Misfit, NotExchanged, NotPaused, NotProtected, NotResumed, NotSnapshot, ProtectError, RightError,
};

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
            Self::Note { .. } => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Log(error) => error.hint(),
            Self::Disk(error) => error.hint(),
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

impl Advice for RightError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoIdentity(_) => Exit::Error,
            Self::Witness(error) => error.exit(),
            Self::NoAnswer { .. } => Exit::Timeout,
            Self::Unlisted { .. } => Exit::NotFound,
            Self::NoOverride(error) => error.exit(),
            Self::Damaged { .. }
            | Self::Forgotten { .. }
            | Self::OtherWitness { .. }
            | Self::Exchanged { .. }
            | Self::Rival { .. }
            | Self::Unnamed { .. }
            | Self::Copy { .. }
            | Self::LastEpochHere { .. }
            | Self::BackupMayBeWhole { .. }
            | Self::Refused { .. } => Exit::SplitBrain,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::NoIdentity(_) => "is /proc mounted, and the state directory writable?".into(),
            Self::Witness(error) => return error.hint(),
            Self::NoAnswer { witness, .. } => format!(
                "nothing was started; `outlast witness check --witness {witness}` tells what is wrong. Try again when it answers"
            ),
            Self::Damaged { .. } => {
                "bring the record back as it was: records are never changed and never removed".into()
            }
            Self::Forgotten { .. } => {
                "give the right one; a witness that lost records cannot tell where the guest runs. If the right one is gone, `outlast ctl witness set` \
                 on the place that runs the guest gives it another".into()
            }
            Self::OtherWitness { .. } => {
                "give --witness the one that has the register. A cluster that was restored from a snapshot is another one, and what was \
                 appended since is not in it: it cannot tell where the guest runs"
                    .into()
            }
            Self::Exchanged { now: Some(now), .. } => format!("look there, and start with --witness {now}"),
            Self::Exchanged { now: None, .. } => {
                "find out where it was exchanged: `outlast ctl status` on the host that runs the guest names its witness".into()
            }
            Self::Rival { .. } => "decide which of the two guests counts, and stop the other. Then give the hosts of that one an empty \
                 state directory, and start their backup with the witness of the one that counts"
                .into(),
            Self::NoOverride(error) => return error.hint(),
            Self::Unnamed { listed, .. } => {
                let dead: Vec<String> = listed.iter().map(|place| format!("--dead {}", short(place))).collect();
                format!("it lists: {}. If none of them is left, say so: {}", places(listed), dead.join(" "))
            }
            Self::Copy { listed, .. } => {
                let dead: Vec<String> = listed.iter().map(|place| format!("--dead {}", short(place))).collect();
                format!(
                    "resume where the guest ran last. Listed are {}. If none of them is left, say so: {}",
                    places(listed),
                    dead.join(" ")
                )
            }
            Self::Unlisted { listed, .. } if listed.is_empty() => "it lists: none".into(),
            Self::Unlisted { listed, .. } => {
                format!("it lists: {}. A name has at least the first 8 characters of an id", places(listed))
            }
            Self::LastEpochHere { .. } => "`outlast resume` continues from it".into(),
            Self::BackupMayBeWhole { place, .. } => format!(
                "look there: `outlast ctl status`. It runs the guest or takes it over: leave it there. Its process is gone: start \
                 `outlast backup` there again, which says so, then try again here. That host is gone for good: say so, --dead {}",
                short(place)
            ),
            Self::Refused { refusal, .. } => remedy_of(refusal),
        };
        Some(remedy)
    }
}

fn remedy_of(refusal: &Refusal) -> String {
    match refusal {
        Refusal::MayBeWhole { place } => format!(
            "look there: `outlast ctl status`, and `outlast ctl stop` to end it. If that host is gone for good, say so: \
             --dead {}",
            short(place)
        ),
        Refusal::Elsewhere { place } => format!(
            "start it there, with the same --state-dir; or, to give up what it wrote there, say --dead {}",
            short(place)
        ),
        Refusal::Primary { place } => format!(
            "to continue it here would undo what clients have seen of it since. If that place is gone \
             for good, say so: --dead {}",
            short(place)
        ),
        Refusal::Ended { .. } => {
            "to start it afresh, remove what the state directory holds and use `outlast run`".into()
        }
        Refusal::Moved { departure } => format!("look there, and use --witness {}", departure.witness),
        Refusal::CalledOff => {
            "the exchange did not come about, and the old witness still counts: repeat the command".into()
        }
        Refusal::Taken { .. } => "give a witness where no VM of this name runs, or stop that one".into(),
        Refusal::Unknown => "is it the same witness, the same directory or cluster, as before?".into(),
    }
}

/// Enough of a place's id for people to tell it from others.
fn short(place: &Place) -> String {
    place.id.to_string()[..8].to_owned()
}

fn places(listed: &[Place]) -> String {
    listed.iter().map(|place| format!("{} ({place})", short(place))).collect::<Vec<_>>().join(", ")
}

impl Advice for ExchangeError {
    fn exit(&self) -> Exit {
        match self {
            Self::ToNone => Exit::Usage,
            Self::Witness(error) => error.exit(),
            Self::NoAnswer { .. } => Exit::Timeout,
            Self::NoNote(_) => Exit::Error,
            Self::UnderWay | Self::InDoubt | Self::NothingSeen => Exit::Conflict,
            Self::Right(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::ToNone => "give file:DIR or etcd:URL[,URL…]",
            Self::Witness(error) => return error.hint(),
            Self::NoAnswer { .. } => "nothing was changed; try again when it answers",
            Self::NoNote(_) => "nothing was changed; make room in the state directory",
            Self::UnderWay => "`outlast ctl status` says when it is settled: its witness is then the one that counts",
            Self::InDoubt => {
                "nothing was changed; try again when the old witness answers. If it is gone for good, and every other place that the newest \
                 view lists is dead, name those: --dead ID"
            }
            Self::NothingSeen => "make the old witness answer once, or continue the guest on a host that has read it",
            Self::Right(error) => return error.hint(),
        };
        Some(remedy.into())
    }
}

impl Advice for NotExchanged {
    fn exit(&self) -> Exit {
        match self {
            Self::Exchange(error) => error.exit(),
            Self::UnderWay { .. } => Exit::Timeout,
            Self::NotNow(_) | Self::Kept { .. } | Self::HasBackup | Self::NothingToOverride => Exit::Conflict,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::Exchange(error) => return error.hint(),
            Self::NotNow(NotNow::UnderWay) => "`outlast ctl status` says when it is settled",
            Self::NotNow(NotNow::Filling(_)) => {
                "wait until `outlast ctl status` says Protected, or `outlast ctl unprotect` first"
            }
            Self::NotNow(NotNow::Arbitrating) => {
                "if the old witness is gone and so is the backup, say so: --dead ID, by the id in the record or in the backup's log"
            }
            Self::NotNow(NotNow::Over) => return None,
            Self::Kept { .. } => {
                "look at the backup and at the new witness, which both hosts must reach; then try again"
            }
            Self::HasBackup => {
                "`outlast ctl unprotect`, then set the witness, start the backup with it, and `outlast ctl protect` again"
            }
            Self::NothingToOverride => "leave --dead out",
            Self::UnderWay { .. } => {
                "the guest runs on; make the new witness reachable. Do not start the guest elsewhere meanwhile"
            }
        };
        Some(remedy.into())
    }
}

impl Advice for FailoverError {
    fn exit(&self) -> Exit {
        match self {
            Self::Right(error) => error.exit(),
            Self::Exchange(error) => error.exit(),
            Self::IsMember { .. } => Exit::Conflict,
            Self::Listed { .. } => Exit::SplitBrain,
            Self::NoAnswer | Self::Late | Self::UnderWay => Exit::Timeout,
            Self::NothingKept { .. } => Exit::Conflict,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::Right(error) => return error.hint(),
            Self::Exchange(error) => return error.hint(),
            Self::IsMember { .. } => "set the witness on its primary, which has the backup take part",
            Self::Listed { .. } => "name every place that the witness lists, with --dead, if each is gone for good",
            Self::NoAnswer => "try again when it does",
            Self::NothingKept { .. } => "a Protected backup takes over without being asked when its primary is lost",
            Self::Late => "look at its status, then try again",
            Self::UnderWay => "wait for event `failover-finished`; start nothing elsewhere until then",
        };
        Some(remedy.into())
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
    use replication::view::{Incarnation, Location, PlaceKind};
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
    fn refusal_of_the_witness_names_the_place_that_would_have_to_be_dead() {
        let place = Place { id: Incarnation([0xab; 16]), kind: PlaceKind::Process, location: Location::default() };
        let (vm, witness) = ("vm0".to_owned(), protect::witness::WitnessName::NONE);
        let refusal = Refusal::MayBeWhole { place: Box::new(place.clone()) };
        let error = RightError::Refused { vm: vm.clone(), witness, refusal };
        assert_eq!(error.exit(), Exit::SplitBrain);
        assert!(error.hint().expect("a hint").ends_with("--dead abababab"), "{error}");
        let error = RightError::Copy { vm, listed: vec![place.clone(), place] };
        assert!(error.hint().expect("a hint").ends_with("--dead abababab --dead abababab"), "{error}");
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
