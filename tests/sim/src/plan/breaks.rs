//! Rules that are broken on purpose, to prove that the oracle sees it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::OnCrash;

/// A rule broken on purpose in the driver, to prove that the oracle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Break {
    /// The primary lets output out when an epoch is sealed.
    ReleaseBeforeAck,
    /// The backup takes over without asking the witness.
    RunWithoutClaim,
    /// The primary goes on without asking the witness.
    SoloWithoutClaim,
    /// The backup acks an epoch when its last frame arrives.
    AckBeforeComplete,
    /// A takeover does not send held output again.
    ForgetHeld,
    /// The primary writes its image before the commit.
    DiskBeforeCommit,
    /// The backup applies no disk writes of epochs.
    ForgetDiskWrites,
    /// The backup leaves out a page.
    ForgetPage,
    /// A base is shipped before the core was told of its seal.
    BaseBeforeSeal,
    /// The witness lets everybody append to the same number.
    WitnessForgets,
    /// A takeover goes on in the branch of its parent.
    BranchKept,
    /// The guest stops after a takeover.
    NoHealing,
    /// A guest is resumed without asking the witness.
    ResumeWithoutClaim,
    /// A primary is booted without asking the witness.
    BeginUnasked,
    /// The core is told of a local commit before it is made.
    CommitBeforeLocal,
    /// A guest that crashed is booted anew without asking the witness; its backup is told.
    AnewWithoutClaim,
    /// A base is sealed though the register does not list its backup.
    EnlistUnasked,
    /// Neither side looks whether the other sees the same witness.
    MeetUnasked,
    /// The backup is told that the guest was stopped before the register knows it.
    EndUnrecorded,
    /// Every life of the guest has the same term.
    TermStands,
    /// What of a base is not out yet goes out although its session is over, and no goodbye comes. There is no witness.
    ShipOn,
    /// A backup that lost its base says nobody that it can never be whole.
    VoidUntold,
    /// A join that came to nothing is forgotten as soon as the newest record does not list it.
    VoidForgotten,
    /// A process says nobody that those before it on its host are gone.
    DeathUntold,
    /// What a lost state directory does not have leaves though the register still lists that directory.
    StoreUndelisted,
    /// Where a lock file says that it is, is not compared with where it was found.
    CopiedLock,
    /// When a lock file was made does not count: a copy on another host is the file itself, if all else is alike.
    BirthUnread,
    /// That the primary is gone allows a resume to every copy of its state directory.
    CopiedStore,
    /// That an operator names the primary as dead allows a resume to every copy of its state directory.
    CopyForOriginal,
    /// A lock file that a process holds is read as if nobody did.
    HeldLock,
    /// A state directory's path is enough to know what was in it.
    BareMount,
    /// A state directory is taken for dead when a process there would be.
    StoreDiesWithBoot,
    /// Two hosts without a machine id are taken for one.
    NamelessHosts,
    /// Another boot proves death, whichever machine's it is.
    ForeignBoot,
    /// Two hosts are told apart by the text of their boot alone.
    BootIsHost,
    /// A lock file does not name a life of which others hear.
    LifeUnpublished,
    /// It names it, but not on stable storage.
    PublishUnsynced,
    /// That a record was seen is not on stable storage.
    KnownUnsynced,
    /// A filling without progress is not given up.
    FillWithoutEnd,
    /// Rounds of a filling go on although the guest writes faster than they send.
    RoundsWithoutEnd,
    /// What is left after the last round does not go with the base.
    ForgetLeft,
    /// The backup takes what the disk gets out of memory from other memory than the guest's.
    CopyOfOtherMemory,
    /// The backup writes an epoch to its image before the log has it.
    BackupImageBeforeLog,
    /// The backup acks what its log has in the host's memory only.
    AppendUnsynced,
    /// The backup empties its log while its image is in the host's memory only.
    TruncateUnsynced,
    /// The backup acks a base while what was filled in before it is in the host's memory only.
    BaseUnsynced,
    /// The backup leaves records of a session that is over in its log.
    DiscardedLogged,
    /// The guest runs on images whose log has records.
    HandOverLogged,
    /// A copy is kept with records in its log.
    KeepLogged,
    /// The backup puts an epoch into its image after the next one.
    ApplyOutOfOrder,
    /// The backup acks an epoch for which its log has no room.
    AckWithoutRoom,
    /// The backup puts an epoch into its image when it is complete, before it is known to be committed.
    ApplyUncommitted,
    /// Bytes of an earlier connection are taken for those of the present one, and their frames for its session's.
    OldBytes,
    /// A stranger that connects to a backup ends the connection of its primary.
    StrangerWins,
    /// Whoever greets is followed, whatever the witness says.
    SecondPrimary,
    /// The core does not see that its host stood still, or that its clock jumped.
    StopUnnoticed,
    /// A record that found no room is taken for one that stands.
    FullIsWon,
    /// A register that is older than what was seen of it is believed.
    RestoredBelieved,
    /// Another cluster that has all records is taken for the witness.
    AnyCluster,
    /// A fresh start needs none of the disks on which the guest was.
    AnyDisks,
    /// What an epoch wrote reaches the image before the log has it.
    ImageBeforeLog,
    /// The log is emptied when it has an epoch.
    LogEmptiedEarly,
    /// A guest writes to its images again over a log that was not emptied.
    LogKept,
    /// The pipeline is told that the images have what they have not.
    ImagesUnwritten,
    /// What a guest with epochs writes while its backup is filled is not collected.
    CollectForgotten,
    /// What a guest without epochs writes to its disk while its backup is filled is not sent.
    MirrorForgotten,
    /// It is said that output has left before it does.
    LeftBeforeOut,
    /// The guest runs on while it is to stand still for a base.
    HoldIgnored,
    /// A takeover begins its branch as if the guest had been booted.
    ForkForgotten,
    /// The state directory keeps the number of its epoch without its chain hash.
    ChainForgotten,
    /// What is digested of an epoch is the state of the one before.
    StaleDigest,
    /// An ack names the right number with the chain hash of another line.
    AckOfOtherLine,
    /// The primary takes what its log has in the host's memory only for logged.
    LogUnsynced,
    /// The primary empties its log while its image is in the host's memory only.
    LogEmptiedUnsynced,
    /// A base counts while what the guest wrote before it is in the primary's memory only.
    BaseUnsyncedHere,
    /// The primary takes an epoch for which its log has no room for logged.
    FullIsLogged,
    /// Epochs after the loss of a state directory go to the image without the log.
    DegradedUnlogged,
    /// A guest is resumed on its image without what the log has.
    LogUnrecovered,
    /// A guest is resumed on an image that has more than its last epoch.
    LogRecoveredBeyond,
    /// A pause is answered by an epoch that does not say it.
    PauseUnrecorded,
    /// A pause is answered when its epoch is sealed.
    PauseUncommitted,
    /// A takeover runs a guest that was paused.
    PauseForgotten,
    /// That a paused guest runs is answered before an epoch says so.
    RunUncommitted,
    /// A snapshot is answered when it is written.
    SnapshotUncommitted,
    /// What a host has in memory of an image is taken for what is on its medium, by a process that did not write it.
    CacheBelieved,
    /// A guest that goes back goes on in the branch that it leaves.
    BackInBranch,
    /// The record by which a guest goes back names its last epoch as the fork.
    BackUnrecorded,
    /// That a guest goes back is noted when it did.
    AttemptUnnoted,
    /// A guest that crashed and was stopped is resumed by whoever starts it.
    StoppedResumed,
    /// A guest that has ended is resumed by who has an epoch of it.
    EndedResumed,
    /// A kept copy runs when its operator says so, whatever the register says.
    OverrideUnasked,
    /// A guest that goes back does not send again what the earlier epoch still held.
    BackWithoutHeld,
    /// The primary begins the heir of its register before its backup has forsworn.
    ForswearUnawaited,
    /// That a register is forsworn is not on stable storage.
    ForswearUnsynced,
    /// The heir of a register has the generation of that.
    GenerationStands,
    /// A primary that has forsworn its register appends to it.
    OldRegisterAppended,
    /// An override need not name everybody.
    OverrideUnnamed,
    /// What one backup acks counts for every other one.
    AckForAll,
    /// Who takes over does not ask the other backups that its record lists.
    ForgetMembers,
    /// Who takes over sends what was held again before the other backups have reported.
    HeldBeforeReport,
    /// A removal of one of several backups is not asked for.
    RemovalUnasked,
    /// A guest that was handed over runs without asking the witness.
    HandoverUnclaimed,
    /// A primary that offered its guest goes on with it without asking the witness.
    OfferForgotten,
    /// A guest that is handed over runs on.
    HandedOverRuns,
    /// Nothing says that a filling overwrites an image.
    FillingUnnoted,
}

impl Break {
    /// All of them.
    pub const ALL: [Break; 105] = [
        Break::ReleaseBeforeAck,
        Break::RunWithoutClaim,
        Break::SoloWithoutClaim,
        Break::AckBeforeComplete,
        Break::ForgetHeld,
        Break::DiskBeforeCommit,
        Break::ForgetDiskWrites,
        Break::ForgetPage,
        Break::BaseBeforeSeal,
        Break::WitnessForgets,
        Break::BranchKept,
        Break::NoHealing,
        Break::ResumeWithoutClaim,
        Break::BeginUnasked,
        Break::CommitBeforeLocal,
        Break::AnewWithoutClaim,
        Break::EnlistUnasked,
        Break::MeetUnasked,
        Break::EndUnrecorded,
        Break::TermStands,
        Break::ShipOn,
        Break::VoidUntold,
        Break::VoidForgotten,
        Break::DeathUntold,
        Break::StoreUndelisted,
        Break::CopiedLock,
        Break::BirthUnread,
        Break::CopiedStore,
        Break::CopyForOriginal,
        Break::HeldLock,
        Break::BareMount,
        Break::StoreDiesWithBoot,
        Break::NamelessHosts,
        Break::ForeignBoot,
        Break::BootIsHost,
        Break::LifeUnpublished,
        Break::PublishUnsynced,
        Break::KnownUnsynced,
        Break::FillWithoutEnd,
        Break::RoundsWithoutEnd,
        Break::ForgetLeft,
        Break::CopyOfOtherMemory,
        Break::BackupImageBeforeLog,
        Break::AppendUnsynced,
        Break::TruncateUnsynced,
        Break::BaseUnsynced,
        Break::DiscardedLogged,
        Break::HandOverLogged,
        Break::KeepLogged,
        Break::ApplyOutOfOrder,
        Break::AckWithoutRoom,
        Break::ApplyUncommitted,
        Break::OldBytes,
        Break::StrangerWins,
        Break::SecondPrimary,
        Break::StopUnnoticed,
        Break::FullIsWon,
        Break::RestoredBelieved,
        Break::AnyCluster,
        Break::AnyDisks,
        Break::ImageBeforeLog,
        Break::LogEmptiedEarly,
        Break::LogKept,
        Break::ImagesUnwritten,
        Break::CollectForgotten,
        Break::MirrorForgotten,
        Break::LeftBeforeOut,
        Break::HoldIgnored,
        Break::ForkForgotten,
        Break::ChainForgotten,
        Break::StaleDigest,
        Break::AckOfOtherLine,
        Break::LogUnsynced,
        Break::LogEmptiedUnsynced,
        Break::BaseUnsyncedHere,
        Break::FullIsLogged,
        Break::DegradedUnlogged,
        Break::LogUnrecovered,
        Break::LogRecoveredBeyond,
        Break::PauseUnrecorded,
        Break::PauseUncommitted,
        Break::PauseForgotten,
        Break::RunUncommitted,
        Break::SnapshotUncommitted,
        Break::CacheBelieved,
        Break::BackInBranch,
        Break::BackUnrecorded,
        Break::AttemptUnnoted,
        Break::StoppedResumed,
        Break::EndedResumed,
        Break::OverrideUnasked,
        Break::BackWithoutHeld,
        Break::ForswearUnawaited,
        Break::ForswearUnsynced,
        Break::GenerationStands,
        Break::OldRegisterAppended,
        Break::OverrideUnnamed,
        Break::AckForAll,
        Break::ForgetMembers,
        Break::HeldBeforeReport,
        Break::RemovalUnasked,
        Break::HandoverUnclaimed,
        Break::OfferForgotten,
        Break::HandedOverRuns,
        Break::FillingUnnoted,
    ];
}

impl Break {
    /// It breaks nothing where no guest is resumed.
    pub(super) fn is_of_local_protection(self) -> bool {
        matches!(
            self,
            Break::ResumeWithoutClaim
                | Break::CommitBeforeLocal
                | Break::TermStands
                | Break::StoreUndelisted
                | Break::CopiedStore
                | Break::CopyForOriginal
                | Break::BareMount
                | Break::StoreDiesWithBoot
                | Break::PublishUnsynced
                | Break::ImageBeforeLog
                | Break::LogEmptiedEarly
                | Break::ImagesUnwritten
                | Break::CollectForgotten
                | Break::ChainForgotten
                | Break::DegradedUnlogged
                | Break::LogUnrecovered
                | Break::LogRecoveredBeyond
                | Break::EndedResumed
                | Break::ForswearUnsynced
        ) || self.on_crash().is_some()
    }
}

impl Break {
    /// It breaks nothing but where this becomes of a guest that crashes.
    pub(super) fn on_crash(self) -> Option<OnCrash> {
        match self {
            Break::BackInBranch | Break::BackUnrecorded | Break::AttemptUnnoted | Break::BackWithoutHeld => {
                Some(OnCrash::GoBack)
            }
            Break::StoppedResumed => Some(OnCrash::Stop),
            _ => None,
        }
    }
}

impl Break {
    /// It breaks nothing where a loss of power takes the lock file.
    pub(super) fn needs_files_after_power(self) -> bool {
        matches!(
            self,
            Break::StoreDiesWithBoot
                | Break::PublishUnsynced
                | Break::KnownUnsynced
                | Break::LogUnrecovered
                | Break::AttemptUnnoted
                | Break::ForswearUnsynced
        )
    }
}

impl Break {
    /// It breaks nothing where what is in a host's memory counts.
    pub(super) fn is_of_durable_files(self) -> bool {
        matches!(
            self,
            Break::BackupImageBeforeLog
                | Break::AppendUnsynced
                | Break::TruncateUnsynced
                | Break::BaseUnsynced
                | Break::DiscardedLogged
                | Break::HandOverLogged
                | Break::KeepLogged
                | Break::ApplyOutOfOrder
                | Break::AckWithoutRoom
                | Break::ApplyUncommitted
                | Break::LogUnsynced
                | Break::LogEmptiedUnsynced
                | Break::BaseUnsyncedHere
                | Break::FullIsLogged
                | Break::CacheBelieved
        )
    }
}

impl Break {
    /// It breaks nothing where there is one backup.
    pub(super) fn is_of_several(self) -> bool {
        matches!(self, Break::AckForAll | Break::ForgetMembers | Break::HeldBeforeReport | Break::RemovalUnasked)
    }
}

impl FromStr for Break {
    type Err = String;

    fn from_str(name: &str) -> Result<Break, String> {
        let names = || Break::ALL.map(|rule| format!("{rule:?}")).join(", ");
        let found =
            Break::ALL.into_iter().find(|rule| format!("{rule:?}").eq_ignore_ascii_case(&name.replace('-', "")));
        found.ok_or_else(|| format!("no rule is called {name:?}; there are {}", names()))
    }
}
