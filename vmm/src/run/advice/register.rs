//! What can go wrong with the right to run a guest, and with the register that gives it.

use replication::primary::NotNow;
use replication::view::{Place, Refusal};

use crate::exit::{Advice, Exit};
use protect::backup::FailoverError;
use protect::{ExchangeError, NotExchanged, RightError};

impl Advice for RightError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoIdentity(_) => Exit::Error,
            Self::Witness(error) => error.exit(),
            Self::NoAnswer { .. } => Exit::Timeout,
            Self::Unlisted { .. } => Exit::NotFound,
            Self::Own { .. } => Exit::Conflict,
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
                format!("listed are: {}. If none of them is left, say so: {}", places(listed), dead(listed))
            }
            Self::Own { others, .. } if others.is_empty() => {
                "nobody else is listed, so nobody is to be named: leave --dead out".into()
            }
            Self::Own { others, .. } => format!("listed beside it are: {}. Name those", places(others)),
            Self::Copy { listed, .. } => format!(
                "resume where the guest ran last. Listed are {}. If none of them is left, say so: {}",
                places(listed),
                dead(listed)
            ),
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

/// The options that name them all as dead.
fn dead(listed: &[Place]) -> String {
    listed.iter().map(|place| format!("--dead {}", short(place))).collect::<Vec<_>>().join(" ")
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
            Self::UnderWay | Self::InDoubt { .. } | Self::Outdated | Self::NothingSeen => Exit::Conflict,
            Self::Right(error) => error.exit(),
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::ToNone => "give file:DIR or etcd:URL[,URL…]",
            Self::Witness(error) => return error.hint(),
            Self::NoAnswer { .. } => "nothing was changed; try again when it answers",
            Self::NoNote(_) => "nothing was changed; make room in the state directory",
            Self::UnderWay => {
                "`outlast ctl status` says when it is settled: its witness is then the one that counts. If the new witness is gone for good, \
                 say so: --why TEXT, and --dead ID for every other place that the newest record lists, if it is dead"
            }
            Self::Outdated => "nothing was changed; try again",
            Self::InDoubt { listed } if listed.is_empty() => {
                "nothing was changed; try again when the old witness answers. If it is gone for good, say so: --why TEXT. A backup that has \
                 seen what is in doubt then needs an empty state directory"
            }
            Self::InDoubt { listed } => {
                return Some(format!(
                    "nothing was changed; try again when the old witness answers. If it is gone for good, and so is every other place that \
                     its newest record may list, {}, say so: {}",
                    places(listed),
                    dead(listed)
                ));
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
            Self::NotNow(_) | Self::Kept { .. } | Self::HasBackup => Exit::Conflict,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::Exchange(error) => return error.hint(),
            Self::NotNow(NotNow::UnderWay | NotNow::HandingOver) => "`outlast ctl status` says when it is settled",
            Self::NotNow(NotNow::Filling(_)) => {
                "wait until `outlast ctl status` says Protected, or `outlast ctl unprotect` first"
            }
            Self::NotNow(NotNow::Arbitrating) => {
                "if the old witness is gone and so is the backup, say so: --dead ID, by the id in the record or in the backup's log"
            }
            Self::NotNow(NotNow::Connected) => "leave --dead out",
            Self::NotNow(NotNow::Unsettled) => "try again in a few seconds",
            Self::NotNow(NotNow::Over) => return None,
            Self::Kept { .. } => {
                "look at the backup and at the new witness, which both hosts must reach; then try again"
            }
            Self::HasBackup => {
                "`outlast ctl unprotect`, then set the witness, start the backup with it, and `outlast ctl protect` again"
            }
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

#[cfg(test)]
mod tests {
    use replication::view::{Incarnation, Location, PlaceKind};

    use super::*;

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
}
