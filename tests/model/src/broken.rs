//! Rules that are broken on purpose, to prove that the checker sees it. Each is a change of what surrounds the product's register, or
//! a wrong answer given to it.

use std::fmt;
use std::str::FromStr;

use crate::bounds::{self, Bounds};
use crate::play::Setting;
use crate::world::Violation;

/// A rule broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// V1: the witness loses its newest record.
    RecordLost,
    /// V2: the witness puts a record in the place of another of its number.
    AppendReplaces,
    /// V2: a backup runs the guest because it has read a record that lists it.
    ReadIsRight,
    /// V3: an append without an answer is taken for won.
    DoubtIsWon,
    /// V3, V4: a backup whose append has no answer follows on as if it had not asked.
    DoubtIsForgotten,
    /// V5: nobody keeps what it has seen of the register.
    SeenIsForgotten,
    /// V7: a start runs the guest before its append is won.
    RunBeforeWon,
    /// V8: an epoch is committed when it is sealed.
    SealCommits,
    /// V8: a new backup counts from its first ack on, and not from its base on.
    CountsFromFirstAck,
    /// V9: an epoch is committed under a view that was asked for and is not won.
    CommitUnderAskedView,
    /// V11: who learns that another is primary lets out what it holds.
    HeldIsReleased,
    /// V13: a backup that was left out comes back under the join id that it had.
    JoinComesBack,
    /// V14: a base is sealed before the record that lists the backup is won.
    BaseBeforeListed,
    /// V15: of a joining that was given up a base is sealed after all, and only the backup hears of it.
    BaseAfterGivenUp,
    /// V16: the primary releases without a lost backup before the record without it is won.
    RemovalUnasked,
    /// V17: the primary releases without a lost store before the record without it is won.
    StoreRemovalUnasked,
    /// V17: epochs are released before the store has them.
    StoreUncounted,
    /// V18: a restarted backup counts as the member that it was, with its base alone.
    RestartIsMember,
    /// V19: a backup acks an epoch that is not whole there.
    AckBeforeWhole,
    /// V21: a takeover goes on in the branch of its parent.
    BranchKept,
    /// V22: a backup that is not listed any more claims.
    ClaimUnlisted,
    /// V23: a backup acks while it asks.
    AckWhileAsking,
    /// V24: a claimer leaves out its last whole epoch.
    ForkBelowWhole,
    /// V30: a start takes every listed place for dead.
    BeginUnproved,
    /// V30: a start boots from any disk.
    AnyDisk,
    /// V31: a place of which nothing is heard is taken for dead.
    SilenceProves,
    /// V31: a state directory is taken for gone with the boot in which it was written.
    StoreDiesWithBoot,
    /// V32: a store that is not listed is resumed.
    ResumeUnlisted,
    /// V33: a guest has ended before the register knows.
    EndUnrecorded,
    /// V35: a place keeps no note that it forswore its register.
    ForswearUnkept,
    /// V35: the primary begins the heir before its backup forswore.
    ForswearUnawaited,
    /// V35: who forswore its register appends to it all the same.
    ForswornAppends,
    /// V35: an append of the heir that was not answered is forgotten, and the old register goes on.
    HeirForgotten,
    /// V35: a later life begins an heir for which an earlier one had the assent of all.
    LaterLifeBegins,
    /// V4, V35: the register is to be continued from before an append that is in doubt.
    ExchangeInDoubt,
    /// V6, V35: the two sides do not look whether they see the same new witness.
    ExchangeUnmet,
    /// V6, V35: a backup is taken while the witness is being exchanged.
    ConnectInExchange,
    /// V35: a backup that forswore its register does not look whether the heir stands.
    HeirUnseen,
    /// V35: a register is continued by one of its generation.
    GenerationStands,
    /// V36: an operator who names the primary as dead has named every place.
    OverrideUnnamed,
    /// V36: the same, with a new witness.
    OverrideForgets,
    /// V36: an operator looks for the places of the view that is known here, and not for who came after them.
    OverrideOutdated,
    /// Nobody continues the guest: a backup does not ask for it.
    NobodyClaims,
    /// A backup that can never be whole tells nobody.
    VoidUntold,
    /// A process tells nobody that those before it on its host are gone.
    DeathUntold,
}

impl Break {
    /// All of them.
    pub const ALL: [Break; 45] = [
        Break::RecordLost,
        Break::AppendReplaces,
        Break::ReadIsRight,
        Break::DoubtIsWon,
        Break::DoubtIsForgotten,
        Break::SeenIsForgotten,
        Break::RunBeforeWon,
        Break::SealCommits,
        Break::CountsFromFirstAck,
        Break::CommitUnderAskedView,
        Break::HeldIsReleased,
        Break::JoinComesBack,
        Break::BaseBeforeListed,
        Break::BaseAfterGivenUp,
        Break::RemovalUnasked,
        Break::StoreRemovalUnasked,
        Break::StoreUncounted,
        Break::RestartIsMember,
        Break::AckBeforeWhole,
        Break::BranchKept,
        Break::ClaimUnlisted,
        Break::AckWhileAsking,
        Break::ForkBelowWhole,
        Break::BeginUnproved,
        Break::AnyDisk,
        Break::SilenceProves,
        Break::StoreDiesWithBoot,
        Break::ResumeUnlisted,
        Break::EndUnrecorded,
        Break::ForswearUnkept,
        Break::ForswearUnawaited,
        Break::ForswornAppends,
        Break::HeirForgotten,
        Break::LaterLifeBegins,
        Break::ExchangeInDoubt,
        Break::ExchangeUnmet,
        Break::ConnectInExchange,
        Break::HeirUnseen,
        Break::GenerationStands,
        Break::OverrideUnnamed,
        Break::OverrideForgets,
        Break::OverrideOutdated,
        Break::NobodyClaims,
        Break::VoidUntold,
        Break::DeathUntold,
    ];
}

impl Break {
    /// A small setting in which it does harm.
    pub fn setting(self) -> Setting {
        let bounds = match self {
            Break::RecordLost | Break::SeenIsForgotten => bounds::RESTORE,
            Break::DoubtIsWon | Break::DoubtIsForgotten => Bounds::SMALL,
            Break::JoinComesBack => bounds::PAIRINGS,
            Break::StoreRemovalUnasked | Break::StoreUncounted => bounds::STORE_LOSS,
            Break::ResumeUnlisted => bounds::STORE,
            Break::StoreDiesWithBoot => bounds::STORE_OUTAGE,
            Break::OverrideUnnamed => bounds::OVERRIDE,
            Break::EndUnrecorded => bounds::ENDS,
            Break::DeathUntold => bounds::CRASHES,
            Break::HeirForgotten | Break::ExchangeInDoubt | Break::ForswearUnkept => bounds::EXCHANGE_DOUBT,
            Break::LaterLifeBegins => bounds::EXCHANGE_NAMED,
            Break::ForswearUnawaited
            | Break::ForswornAppends
            | Break::ExchangeUnmet
            | Break::ConnectInExchange
            | Break::HeirUnseen
            | Break::GenerationStands => bounds::EXCHANGE,
            Break::OverrideForgets | Break::OverrideOutdated => bounds::WITNESS_LOSS,
            _ => bounds::QUIET,
        };
        let heals = matches!(
            self,
            Break::NobodyClaims | Break::VoidUntold | Break::DeathUntold | Break::ConnectInExchange | Break::HeirUnseen
        );
        Setting { bounds, broken: Some(self), heals }
    }

    /// What may be seen of it, in whatever order states are looked at.
    pub fn harm(self) -> &'static [Violation] {
        use Violation::*;
        match self {
            Break::NobodyClaims
            | Break::VoidUntold
            | Break::DeathUntold
            | Break::ConnectInExchange
            | Break::HeirUnseen => &[Stuck],
            Break::GenerationStands => &[LowGeneration],
            Break::ForswearUnkept
            | Break::ForswearUnawaited
            | Break::ForswornAppends
            | Break::HeirForgotten
            | Break::ExchangeInDoubt
            | Break::ExchangeUnmet
            | Break::LaterLifeBegins => &[TwoRegisters, OtherLine, ClaimBehind, ReleasedWithoutRight],
            Break::OverrideForgets | Break::OverrideOutdated => &[BesideWhole],
            Break::BaseBeforeListed => &[ProtectedUnlisted],
            Break::EndUnrecorded => &[EndedContinued],
            Break::AnyDisk => &[OtherDisk, ClaimBehind],
            Break::BeginUnproved | Break::SilenceProves | Break::StoreDiesWithBoot | Break::OverrideUnnamed => {
                &[BesideWhole]
            }
            Break::RunBeforeWon | Break::ReadIsRight => &[ReleasedWithoutRight],
            Break::BranchKept => &[TwinEpochs, OtherLine],
            _ => &[OtherLine, ClaimBehind, TwinEpochs, ReleasedUncommitted, ReleasedWithoutRight, BesideWhole],
        }
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Break {
    type Err = String;

    fn from_str(name: &str) -> Result<Break, String> {
        let wanted = name.replace('-', "");
        let found = Break::ALL.into_iter().find(|rule| format!("{rule:?}").eq_ignore_ascii_case(&wanted));
        let names = || Break::ALL.map(|rule| rule.to_string()).join(", ");
        found.ok_or_else(|| format!("no rule is called {name:?}; there are {}", names()))
    }
}
