//! The state of the model: the witnesses, three hosts with their processes, and the bookkeeping by which runs are judged.

use std::collections::BTreeMap;
use std::fmt;

use replication::view::{Ask, Incarnation, Known, Lives, Record, Register, Voids};

use crate::line::{Epoch, Line, Lines};
use crate::name::{HOSTS, HostId, Join, Life};
use crate::shared::Shared;
use crate::witness::{Desks, Note, Part, SITES, Site, Slot, Witness};

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The witnesses.
    pub witnesses: [Witness; SITES],
    /// At which of them the VM's register is.
    pub counting: Site,
    /// The hosts.
    pub hosts: [Host; HOSTS],
    /// Records that stood, and that the first witness, which was restored, has lost: those after so many that it has.
    pub lost: Option<(u8, Vec<Slot>)>,
    /// What was executed and released.
    pub lines: Shared<Lines>,
    /// Of each pairing whose base was sealed: that base, and the last epoch that was ever whole at its backup.
    pub joins: BTreeMap<Join, Extent>,
    /// It was answered that the guest has ended.
    pub is_ended: bool,
    /// What has happened of what may happen a few times only.
    pub spent: Spent,
    /// The first rule that did not hold. Nothing happens after it.
    pub violation: Option<Violation>,
}

/// A row of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first.
    pub base: u8,
    /// The last.
    pub whole: u8,
}

/// What has been used up of the bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    /// Processes that ended without warning.
    pub crashes: u8,
    /// Pairings.
    pub joins: u8,
    /// Appends without an answer.
    pub unanswered: u8,
    /// One of them arrives later, or did.
    pub late: bool,
    /// Stores that took no more epochs.
    pub store_losses: u8,
    /// Overrides.
    pub overrides: u8,
    /// Starts for which an operator named places as dead.
    pub named_starts: u8,
    /// Guests that were to stop.
    pub ends: u8,
    /// Restored witnesses.
    pub restores: u8,
    /// Hosts that lost power.
    pub outages: u8,
    /// Exchanges of the witness, with those by an override.
    pub exchanges: u8,
    /// Witnesses that are gone.
    pub witness_losses: u8,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its boots before this one.
    pub boot: u8,
    /// Processes that began here and of which others may have heard.
    pub born: u8,
    /// What its lock file says; none: there is none.
    pub lives: Option<Shared<Lives>>,
    /// What is noted beside it of the register; none: nothing that matters.
    pub note: Option<Shared<Note>>,
    /// Its state directory.
    pub store: Option<Store>,
    /// Its disk image, with the log beside it.
    pub disk: Disk,
    /// The process that runs there.
    pub node: Option<Node>,
}

/// What a guest would find that is booted on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    /// What it was before there was a guest.
    Blank,
    /// It is being filled, and is no disk.
    Partial,
    /// It is as at the end of this epoch.
    At(Epoch),
}

impl Disk {
    /// The epoch at whose end it is.
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Disk::At(epoch) => Some(epoch),
            Disk::Blank | Disk::Partial => None,
        }
    }
}

/// A state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// The place that it is.
    pub id: Incarnation,
    /// The last epoch that it holds.
    pub has: Option<Epoch>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Which.
    pub life: Life,
    /// The product's own: what it knows of the register and is about to ask.
    pub register: Shared<Register>,
    /// Which witnesses it asks.
    pub desks: Desks,
    /// An append that it wants and that did not reach the witness yet.
    pub pending: Option<Pending>,
    /// What it is.
    pub role: Role,
}

/// An append on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// What for.
    pub errand: Errand,
    /// Which witness is asked.
    pub site: Site,
    /// It.
    pub ask: Shared<Ask>,
}

/// What a process wants of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Errand {
    /// To boot the guest.
    Begin,
    /// To continue it from the state directory.
    Resume,
    /// To continue it as a backup.
    TakeOver,
    /// The same, because an operator says so.
    Override,
    /// To have its backup listed.
    Enlist(Join),
    /// To go on without its backup, which could take over.
    Remove(Join),
    /// To have a backup not listed that never got its base.
    Delist(Join),
    /// To go on without its state directory.
    RemoveStore,
    /// To end.
    End,
    /// To see whether it is the primary.
    Look,
    /// To continue the register at another witness.
    Move,
    /// To continue it nowhere else.
    CallOff,
}

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It waits for the right to boot or resume the guest.
    Starting,
    /// It runs the guest.
    Primary(Primary),
    /// It follows one, or did.
    Backup(Backup),
}

/// Who runs the guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Primary {
    /// The line that it executes.
    pub line: Line,
    /// Its last sealed epoch.
    pub sealed: u8,
    /// The last epoch that is committed, and so released.
    pub committed: u8,
    /// Its backup.
    pub session: Option<Session>,
    /// Its backup is lost and could take over: nothing is committed until the register says who continues.
    pub is_frozen: bool,
    /// The last epoch in its state directory; none: it does not count.
    pub stored: Option<u8>,
    /// That takes no more epochs.
    pub is_store_lost: bool,
    /// Pairings that came to nothing and that the register may list.
    pub delist: Vec<Join>,
    /// The guest is to stop.
    pub is_stopping: bool,
    /// How far an exchange of the witness is.
    pub exchanging: Option<Exchanging>,
}

/// How far an exchange of the witness is, as its primary sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchanging {
    /// The backup was asked to forswear the register.
    Forswearing,
    /// All have: the heir is to begin.
    Moving,
    /// The backup will not.
    CallingOff,
}

/// A backup as its primary sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// The pairing.
    pub join: Join,
    /// How far it is.
    pub phase: Phase,
    /// The last epoch that it is known to have; the one before its base until then.
    pub acked: u8,
    /// The newest ack on its way.
    pub ack_sent: u8,
    /// On its way: whether it has forsworn the register.
    pub forsworn: Option<bool>,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It is being filled.
    Filling,
    /// The same, and the register was asked to list it.
    Asked,
    /// The register lists it.
    Listed,
    /// Its base is sealed.
    Basing,
    /// Its base is acked.
    Following,
}

/// Who follows a primary, or did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backup {
    /// The product's own: joins that came to nothing.
    pub voids: Shared<Voids>,
    /// What it has.
    pub copy: Replica,
    /// On its way: it is asked to forswear the register.
    pub proposal: Option<Shared<Part>>,
}

/// What a backup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replica {
    /// Nothing that counts.
    Nothing,
    /// It is being filled.
    Filling {
        /// Under which pairing.
        join: Join,
        /// What it will follow.
        line: Line,
    },
    /// A base, and every epoch after it up to this one.
    Whole {
        /// Under which pairing.
        join: Join,
        /// The last epoch.
        last: Epoch,
        /// What it does with that.
        stance: Stance,
    },
}

impl Replica {
    /// Under which pairing it is.
    pub fn join(self) -> Option<Join> {
        match self {
            Replica::Nothing => None,
            Replica::Filling { join, .. } | Replica::Whole { join, .. } => Some(join),
        }
    }

    /// Its last epoch, if it is whole.
    pub fn last(self) -> Option<Epoch> {
        match self {
            Replica::Nothing | Replica::Filling { .. } => None,
            Replica::Whole { last, .. } => Some(last),
        }
    }
}

/// What a whole backup does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stance {
    /// It takes epochs and acks them.
    Following,
    /// It asks for the guest.
    Claiming,
    /// Another place has the guest. It keeps what it has.
    Keeping,
}

/// A property that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// An epoch was released that a later fork, or a later start, leaves out.
    OtherLine,
    /// A claimer continues from before what was released.
    ClaimBehind,
    /// Two epochs have one identity.
    TwinEpochs,
    /// An epoch was released by a process that no record names as primary.
    ReleasedWithoutRight,
    /// An epoch was released that a member of the view does not have.
    ReleasedUncommitted,
    /// The guest was begun or overridden beside a listed place that is whole.
    BesideWhole,
    /// The guest was booted from a disk that no listed place had, or that was not whole.
    OtherDisk,
    /// A guest whose end was answered was continued.
    EndedContinued,
    /// A guest is said to be protected by a backup that no record lists.
    ProtectedUnlisted,
    /// Two registers of the VM can be appended to.
    TwoRegisters,
    /// A register is continued by one of no higher generation.
    LowGeneration,
    /// Faults have stopped, the witness answers, and nobody runs the guest.
    Stuck,
}

impl Violation {
    /// What holds if it does not come up.
    pub const fn text(self) -> &'static str {
        match self {
            Violation::OtherLine => "what is released lies on one line, at or below every later fork",
            Violation::ClaimBehind => "a claimer has everything that was released",
            Violation::TwinEpochs => "no epoch's identity has two contents",
            Violation::ReleasedWithoutRight => "only a primary by a record releases",
            Violation::ReleasedUncommitted => "what is released is at every member of the view",
            Violation::BesideWhole => "nobody begins beside a listed place that is whole",
            Violation::OtherDisk => "the guest is booted from a disk of a listed place",
            Violation::EndedContinued => "what has ended stays ended",
            Violation::ProtectedUnlisted => "who protects the guest is listed",
            Violation::TwoRegisters => "at one witness only the register can be appended to",
            Violation::LowGeneration => "what continues a register has a higher generation",
            Violation::Stuck => "when faults stop, somebody runs the guest or it has ended",
        }
    }
}

impl World {
    /// No process was ever here.
    pub fn empty() -> World {
        let host = Host { boot: 0, born: 0, lives: None, note: None, store: None, disk: Disk::Blank, node: None };
        World {
            witnesses: std::array::from_fn(|_| Witness::empty()),
            counting: Site::default(),
            lost: None,
            hosts: [host.clone(), host.clone(), host],
            lines: Shared::new(Lines::default()),
            joins: BTreeMap::new(),
            is_ended: false,
            spent: Spent::default(),
            violation: None,
        }
    }

    /// One of the witnesses.
    pub fn witness(&self, site: Site) -> &Witness {
        &self.witnesses[usize::from(site.0)]
    }

    pub(crate) fn witness_mut(&mut self, site: Site) -> &mut Witness {
        &mut self.witnesses[usize::from(site.0)]
    }

    /// The newest record of the VM's register.
    pub fn newest(&self) -> Option<&Record> {
        self.witness(self.counting).newest()
    }

    /// Every record of the VM's register that ever stood, in that order, at whatever witness.
    pub(crate) fn stood(&self) -> Vec<&Slot> {
        if let Some((kept, lost)) = &self.lost {
            let (before, after) = self.witnesses[0].chain.split_at(usize::from(*kept));
            return before.iter().chain(lost).chain(after).collect();
        }
        let mut parts = Vec::new();
        let mut chain = &self.witness(self.counting).chain[..];
        while let Some(last) = chain.last() {
            let register = last.entry.record.register;
            let first = chain.iter().position(|slot| slot.entry.record.register == register).unwrap_or_default();
            parts.push(&chain[first..]);
            chain = chain[first].entry.record.ancestors.last().map_or(&[], |parent| self.upto(parent));
        }
        parts.into_iter().rev().flatten().collect()
    }

    /// The records of the witness that has this one, up to it.
    fn upto(&self, known: &Known) -> &[Slot] {
        let is_it = |slot: &Slot| Known::of(&slot.entry) == *known;
        let chains = self.witnesses.iter().map(|witness| &witness.chain[..]);
        let mut found = chains.filter_map(|chain| chain.iter().position(is_it).map(|index| &chain[..=index]));
        found.next_back().unwrap_or_default()
    }

    /// A host.
    pub fn host(&self, host: HostId) -> &Host {
        &self.hosts[usize::from(host.0)]
    }

    pub(crate) fn host_mut(&mut self, host: HostId) -> &mut Host {
        &mut self.hosts[usize::from(host.0)]
    }

    /// The process on a host.
    pub fn node(&self, host: HostId) -> Option<&Node> {
        self.host(host).node.as_ref()
    }

    pub(crate) fn node_mut(&mut self, host: HostId) -> Option<&mut Node> {
        self.host_mut(host).node.as_mut()
    }

    /// The primary on a host.
    pub fn primary(&self, host: HostId) -> Option<&Primary> {
        match &self.node(host)?.role {
            Role::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    pub(crate) fn primary_mut(&mut self, host: HostId) -> Option<&mut Primary> {
        match &mut self.node_mut(host)?.role {
            Role::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    /// The backup on a host.
    pub fn backup(&self, host: HostId) -> Option<&Backup> {
        match &self.node(host)?.role {
            Role::Backup(backup) => Some(backup),
            _ => None,
        }
    }

    pub(crate) fn backup_mut(&mut self, host: HostId) -> Option<&mut Backup> {
        match &mut self.node_mut(host)?.role {
            Role::Backup(backup) => Some(backup),
            _ => None,
        }
    }

    /// The session of `join` at its primary, if that lives and has it.
    pub fn session(&self, join: Join) -> Option<&Session> {
        let node = self.node(join.primary.host).filter(|node| node.life == join.primary)?;
        match &node.role {
            Role::Primary(primary) => primary.session.as_ref().filter(|session| session.join == join),
            _ => None,
        }
    }

    /// Whether a process of that life runs.
    pub fn is_alive(&self, life: Life) -> bool {
        self.node(life.host).is_some_and(|node| node.life == life)
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Errand::Begin => f.write_str("boot the guest"),
            Errand::Resume => f.write_str("resume the guest"),
            Errand::TakeOver => f.write_str("take the guest over"),
            Errand::Override => f.write_str("take the guest over because an operator says so"),
            Errand::Enlist(join) => write!(f, "list the backup of {join}"),
            Errand::Remove(join) => write!(f, "go on without the backup of {join}"),
            Errand::Delist(join) => write!(f, "have {join} listed no more"),
            Errand::RemoveStore => f.write_str("go on without its state directory"),
            Errand::End => f.write_str("end"),
            Errand::Look => f.write_str("look whether it is the primary"),
            Errand::Move => f.write_str("have the register continued at the other witness"),
            Errand::CallOff => f.write_str("have the exchange of the witness called off"),
        }
    }
}
