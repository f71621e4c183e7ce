//! Why a guest is not handed over to its backup.

use replication::primary::{NoHandover, PrimaryState};

use crate::exit::{Advice, Exit};
use protect::NotHandedOver;

impl Advice for NotHandedOver {
    fn exit(&self) -> Exit {
        match self {
            Self::NotNow(_) | Self::Paused | Self::NoWayBack { .. } | Self::Ended | Self::Elsewhere { .. } => {
                Exit::Conflict
            }
            Self::GoesOn { state: PrimaryState::Protected } => Exit::Timeout,
            Self::GoesOn { .. } => Exit::Conflict,
            Self::NoWitness | Self::NotStopped | Self::Unsettled => Exit::Timeout,
            Self::Kvm(_) => Exit::Error,
        }
    }

    fn hint(&self) -> Option<String> {
        let remedy = match self {
            Self::NotNow(NoHandover::Unwitnessed) => {
                "`outlast ctl witness set` gives a guest without a backup a witness; then protect it, and try again"
            }
            Self::NotNow(NoHandover::Unprotected(PrimaryState::Solo)) => {
                "start `outlast backup` on the other host, then `outlast ctl protect tcp:HOST:PORT`, and try again when `outlast ctl wait \
                 protected` returns"
            }
            Self::NotNow(NoHandover::Unprotected(_)) => "try again when `outlast ctl wait protected` returns",
            Self::NotNow(NoHandover::Several) => {
                "`outlast ctl status` shows them; stop all but the one that is to get it"
            }
            Self::NotNow(NoHandover::UnderWay | NoHandover::Exchanging | NoHandover::StoreLost) => {
                "`outlast ctl status` and `outlast ctl events` show when it is settled"
            }
            Self::NotNow(NoHandover::Over) | Self::Ended | Self::Kvm(_) => return None,
            Self::Paused => "`outlast ctl resume` first",
            Self::NoWitness => "`outlast witness check` tells what is wrong; try again when it answers",
            Self::Elsewhere { .. } => {
                "`outlast witness check` shows the newest record, and `outlast ctl status` on that host whether the guest runs there"
            }
            Self::NoWayBack { .. } => {
                "protect it by a backup on that host, or use `outlast ctl switchover` to hand it over to the backup that it has"
            }
            Self::NotStopped => "look at the storage of its disks",
            Self::GoesOn { state: PrimaryState::Protected } => {
                "look at the backup: its disk or the network to it is slow; then try again"
            }
            Self::GoesOn { .. } => "look at the backup; protect the guest again, and try again then",
            Self::Unsettled => {
                "make the witness answer: then it runs on one of the two hosts, and `outlast ctl status` there says so. Do not start it \
                 elsewhere meanwhile"
            }
        };
        Some(remedy.into())
    }
}
