//! What can go wrong, and when.

use serde::{Deserialize, Serialize};

use crate::plan::{nanos, nanos_or_none};

/// The hosts of a run: two that the VM is for, and a spare one.
pub const HOSTS: usize = 3;
/// The spare host. Nothing runs there until somebody starts it.
pub const SPARE: usize = 2;

/// A place in a driver at which a fault can strike, before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A primary seals an epoch.
    Seal,
    /// A primary seals a base.
    Base,
    /// A primary gives a whole epoch to its socket.
    Ship,
    /// A primary lets output out.
    Release,
    /// A primary begins a resync.
    Resync,
    /// A host puts an epoch into its log.
    Persist,
    /// A host writes to its image, where that is not the guest itself.
    ImageWrite,
    /// A host syncs its image.
    ImageSync,
    /// A host empties its log.
    LogTruncate,
    /// A backup looks whether a base can run there, compares chunks, or gives its files back.
    Rehearse,
    /// A backup applies an epoch.
    Apply,
    /// Either sends a control frame: Hello, ack, heartbeat.
    Send,
    /// Either asks the witness.
    Claim,
    /// Either hears from the witness.
    Answer,
    /// A backup takes over.
    TakeOver,
    /// A primary's state directory has an epoch.
    LocalCommit,
    /// A guest is resumed from its state directory.
    Resume,
    /// A guest that crashed is put back to an earlier epoch: before it is committed, and after.
    GoBack,
    /// A primary has noted that its witness is to be exchanged, and asks its backup.
    Exchange,
    /// A primary stops its guest to hand it over: before that, and when the last epoch is sealed.
    Handover,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 20] = [
        Step::Seal,
        Step::Base,
        Step::Ship,
        Step::Release,
        Step::Resync,
        Step::Persist,
        Step::ImageWrite,
        Step::ImageSync,
        Step::LogTruncate,
        Step::Rehearse,
        Step::Apply,
        Step::Send,
        Step::Claim,
        Step::Answer,
        Step::TakeOver,
        Step::LocalCommit,
        Step::Resume,
        Step::GoBack,
        Step::Exchange,
        Step::Handover,
    ];
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// At a time, in nanoseconds.
    At(#[serde(with = "nanos")] u64),
    /// The `nth` time that `host` comes to `step`; before it is done or after.
    Step {
        /// Which host.
        host: usize,
        /// Which step.
        step: Step,
        /// Counted from 1.
        nth: u32,
        /// After it is done.
        after: bool,
    },
}

/// A directory in which a VM is started beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dir {
    /// Another one, that is empty.
    Other,
    /// An empty one at the path of the host's own, whose file system is not mounted there.
    Bare,
    /// A copy of that host's own; on the other host at the same path.
    CopyOf(usize),
}

/// Somebody who connects to a backup and is not its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stranger {
    /// Says nothing.
    Silent,
    /// Says what is no frame.
    Garbage,
    /// The primary of another VM.
    OtherVm,
    /// A second primary of the same VM, of an old term or of one that is still to come, which sees the same witness or does not.
    Primary {
        /// Its term.
        term: u64,
        /// It sees the same witness.
        is_met: bool,
    },
    /// Says again what was said on an earlier connection: the last one, or so many before it.
    Replay {
        /// How many.
        back: usize,
    },
}

/// What goes wrong. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The host is gone: with its kernel (no end of connections is seen) or only the program.
    Crash {
        /// Which host.
        host: usize,
        /// Its power failed: nobody closes its connections.
        power: bool,
        /// It comes back as an empty backup.
        #[serde(default, with = "nanos_or_none", skip_serializing_if = "Option::is_none")]
        restart: Option<u64>,
    },
    /// All hosts lose their power at the same moment, and come back.
    Blackout(#[serde(with = "nanos")] u64),
    /// The hosts do not reach each other.
    Cut(#[serde(with = "nanos")] u64),
    /// What a host sends to the others arrives when this is over; what they send arrives.
    CutOneWay(usize, #[serde(with = "nanos")] u64),
    /// Nothing comes through between two hosts.
    CutPair(usize, usize, #[serde(with = "nanos")] u64),
    /// What a host sends to the others takes longer and longer.
    LinkSlows(usize, #[serde(with = "nanos")] u64),
    /// What a host sends on the connections that it has now arrives when this is over; a new connection is not concerned.
    Lags(usize, #[serde(with = "nanos")] u64),
    /// The connections between the hosts are reset, and this one never sees that.
    HalfOpen(usize),
    /// Somebody connects to a host.
    Stranger(usize, Stranger),
    /// The clock of a host jumps forward.
    ClockJump(usize, #[serde(with = "nanos")] u64),
    /// A host does not reach the witness.
    WitnessCut(usize, #[serde(with = "nanos")] u64),
    /// A host does not reach the witness any more.
    WitnessGone(usize),
    /// No append finds room at the witness; it is read as ever.
    WitnessFull(#[serde(with = "nanos")] u64),
    /// The witness is as it was so many records ago: somebody restored it from a backup.
    WitnessRestored(usize),
    /// The witness loses its power for a while; its storage loses the last record, though it had said that it has it.
    WitnessLoses(#[serde(with = "nanos")] u64),
    /// A host does not reach the client.
    ClientCut(usize, #[serde(with = "nanos")] u64),
    /// A host does nothing at all for a while, and then goes on where it was.
    Pause(usize, #[serde(with = "nanos")] u64),
    /// A host's disk is slow.
    SlowDisk(usize, #[serde(with = "nanos")] u64),
    /// A host's disk has no room.
    DiskFull(usize, #[serde(with = "nanos")] u64),
    /// A host's disk fails at the next thing asked of it.
    DiskFails(usize),
    /// What is asked of a host's disk from now on has no end, until its process is gone.
    DiskHangs(usize),
    /// The state directory of a primary takes no more epochs.
    StoreFails(usize),
    /// A backup is heard, and acks nothing any more in this session.
    Mute(usize),
    /// Whoever fills the backup on a host waits for something that never comes, in the next session.
    StuckFilling(usize),
    /// A backup finds that the next base cannot run there.
    UnfitBase(usize),
    /// The connection between the hosts is reset.
    Reset,
    /// The next bytes between the hosts arrive altered.
    Garble,
    /// An operator takes the backup away.
    Unprotect,
    /// An operator has the guest of a host protected by another one from here on.
    ProtectOther {
        /// Where it runs, if it does.
        host: usize,
        /// Where its backup is to be.
        to: usize,
    },
    /// An operator starts a backup on a host on which nothing runs.
    StandBy(usize),
    /// A supervisor, or an operator, starts the VM here: whatever this host was before is gone at that moment.
    RunAgain(usize),
    /// An operator stops the VM.
    Stop(usize),
    /// An operator has the copy that a backup kept run, and names every listed place as dead: which they are.
    TakeOverDead(usize),
    /// An operator pauses the guest.
    PauseGuest(usize),
    /// An operator has a paused guest run again.
    RunGuest(usize),
    /// An operator has the guest of a host handed over to its backup.
    Switchover(usize),
    /// An operator takes a snapshot of the guest, which stands still for so long.
    Snapshot(usize, #[serde(with = "nanos")] u64),
    /// A host sees an empty directory where the witness was.
    OtherWitness(usize, #[serde(with = "nanos")] u64),
    /// A host sees a cluster that was restored from a snapshot of just now where the witness was, if the witness says which it is.
    OtherCluster(usize, #[serde(with = "nanos")] u64),
    /// The VM is started once more on a host, in another directory than its own, while whatever lives there lives on. What is
    /// copied is copied now; it is started after that time.
    Beside {
        /// Where it is started.
        host: usize,
        /// In which directory.
        dir: Dir,
        /// How much later.
        #[serde(with = "nanos")]
        delay: u64,
    },
    /// The lock file of a host's state directory is removed.
    LoseLock(usize),
    /// What it said before is put back into it.
    RestoreLock(usize),
    /// The state directory of a host is moved away under whoever lives there, and a copy of it put in its place.
    ReplaceDir(usize),
    /// An operator exchanges the witness of the VM that runs on a host.
    Exchange(usize),
    /// An operator who finds that all others are dead has a backup, which asks a witness that does not answer, go on by another one.
    Override(usize),
    /// The guest of a host crashes by itself: it is booted anew there, goes back to an earlier epoch, or is stopped, as the plan says.
    GuestCrash(usize),
}

/// A fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub when: When,
    /// What.
    pub what: What,
}

impl Fault {
    /// Whether the hosts that it names are there.
    pub fn is_of_hosts(&self) -> bool {
        let when = match self.when {
            When::At(_) => 0,
            When::Step { host, nth, .. } if nth > 0 => host,
            When::Step { .. } => return false,
        };
        when < HOSTS && self.what.hosts().into_iter().flatten().all(|host| host < HOSTS)
    }
}

impl What {
    /// Whether somebody says again what was said before.
    pub fn is_replay(&self) -> bool {
        matches!(self, What::Stranger(_, Stranger::Replay { .. }))
    }

    /// The hosts that it names.
    fn hosts(&self) -> [Option<usize>; 2] {
        match *self {
            What::Crash { host, .. } | What::Mute(host) | What::StuckFilling(host) => [Some(host), None],
            What::WitnessCut(host, _) | What::ClientCut(host, _) | What::Pause(host, _) => [Some(host), None],
            What::SlowDisk(host, _) | What::DiskFull(host, _) | What::DiskFails(host) => [Some(host), None],
            What::OtherWitness(host, _) | What::OtherCluster(host, _) | What::StoreFails(host) => [Some(host), None],
            What::CutOneWay(host, _) | What::LinkSlows(host, _) | What::ClockJump(host, _) => [Some(host), None],
            What::ProtectOther { host, to } => [Some(host), Some(to)],
            What::CutPair(host, other, _) => [Some(host), Some(other)],
            What::StandBy(host) => [Some(host), None],
            What::WitnessGone(host) | What::Lags(host, _) | What::HalfOpen(host) | What::Stranger(host, _) => {
                [Some(host), None]
            }
            What::UnfitBase(host) | What::RunAgain(host) | What::Stop(host) => [Some(host), None],
            What::LoseLock(host) | What::RestoreLock(host) | What::ReplaceDir(host) => [Some(host), None],
            What::GuestCrash(host)
            | What::DiskHangs(host)
            | What::TakeOverDead(host)
            | What::Exchange(host)
            | What::Override(host) => [Some(host), None],
            What::PauseGuest(host) | What::RunGuest(host) | What::Snapshot(host, _) => [Some(host), None],
            What::Switchover(host) => [Some(host), None],
            What::Beside { host, dir: Dir::CopyOf(of), .. } => [Some(host), Some(of)],
            What::Beside { host, .. } => [Some(host), None],
            What::WitnessFull(_) | What::WitnessRestored(_) | What::WitnessLoses(_) => [None; 2],
            What::Blackout(_) | What::Cut(_) | What::Reset | What::Garble | What::Unprotect => [None; 2],
        }
    }
}
