//! What can happen next.

use std::fmt;

use replication::view::Ask;

use crate::bounds::Bounds;
use crate::name::HostId;
use crate::witness::Site;
use crate::world::{Backup, Errand, Exchanging, Host, Pending, Phase, Primary, Replica, Role, Stance, World};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `outlast run` on this host.
    Run(HostId),
    /// The same, and an operator names every listed place of other hosts as dead.
    RunNamed(HostId),
    /// `outlast resume` on this host.
    Resume(HostId),
    /// A process begins on this host, states what it knows of those before it, and ends.
    Attest(HostId),
    /// The process on this host ends without warning.
    Crash(HostId),
    /// This host loses power, and boots again.
    PowerLoss(HostId, Files),
    /// A process asks the witness: it reads, and from then on may append.
    Ask(HostId, Errand),
    /// Its append reaches the witness, or not.
    Append(HostId, Fate),
    /// The append that is late arrives.
    Arrive,
    /// `outlast ctl witness set` on this host, to this witness.
    Propose(HostId, Site),
    /// An operator has the register continued there, and names every other listed place as dead.
    Override(HostId, Site),
    /// The backup on this host is asked to forswear the register.
    Forswear(HostId, Sight),
    /// The primary on this host hears whether its backup has.
    HearForsworn(HostId),
    /// The process on this host tells the witness that it left where the register is continued.
    Depart(HostId),
    /// A witness is gone for good.
    LoseWitness(Site),
    /// The guest's epoch is sealed.
    Seal(HostId),
    /// The state directory takes the next epoch.
    Keep(HostId),
    /// It takes no more.
    LoseStore(HostId),
    /// A primary and a backup meet, and the filling begins.
    Connect {
        /// The primary.
        primary: HostId,
        /// The backup; its process begins if none is there.
        backup: HostId,
    },
    /// The base is sealed.
    Base(HostId),
    /// The backup on this host has one epoch more, and acks.
    Receive(HostId),
    /// The primary on this host hears the newest ack.
    Hear(HostId),
    /// The primary on this host loses its backup.
    LoseBackup(HostId),
    /// The backup on this host loses its primary before its base.
    LosePrimary(HostId),
    /// The backup on this host looks what it has to state, and states it.
    Tell(HostId),
    /// The guest on this host is to stop.
    Stop(HostId),
    /// The witness is restored to so many records.
    Restore(u8),
}

/// What becomes of a lock file and a state directory when their host loses power. Disks keep what they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Files {
    /// They are on a disk.
    Kept,
    /// They were in memory.
    Lost,
}

/// Which new witness a backup sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// That of its primary.
    Same,
    /// Another one.
    Other,
}

/// What becomes of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It is done, and not answered.
    Unanswered,
    /// It is not done, and not answered.
    Lost,
    /// It is not answered, and arrives later.
    Late,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Answered => "and is answered",
            Fate::Unanswered => "and the answer is lost",
            Fate::Lost => "and is lost on the way",
            Fate::Late => "and is late, without an answer",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Run(host) => write!(f, "{host}: outlast run"),
            Action::RunNamed(host) => write!(f, "{host}: outlast run, with all other places named as dead"),
            Action::Resume(host) => write!(f, "{host}: outlast resume"),
            Action::Attest(host) => write!(f, "{host}: a process states that those before it are gone, and ends"),
            Action::Crash(host) => write!(f, "{host}: the process is killed"),
            Action::Ask(host, errand) => write!(f, "{host}: asks the witness, to {errand}"),
            Action::Append(host, fate) => write!(f, "{host}: the append reaches the witness {fate}"),
            Action::PowerLoss(host, Files::Kept) => write!(f, "{host}: loses power"),
            Action::PowerLoss(host, Files::Lost) => {
                write!(f, "{host}: loses power, and its lock file and state directory with it")
            }
            Action::Arrive => f.write_str("the late append arrives"),
            Action::Propose(host, to) => write!(f, "{host}: the register is to be continued at {to}"),
            Action::Override(host, to) => {
                write!(f, "{host}: an operator has the register continued at {to}, and names all other places as dead")
            }
            Action::Forswear(host, Sight::Same) => write!(f, "{host}: the backup is asked to forswear its register"),
            Action::Forswear(host, Sight::Other) => {
                write!(f, "{host}: the backup is asked to forswear its register, and sees another new witness")
            }
            Action::HearForsworn(host) => write!(f, "{host}: hears whether its backup has forsworn the register"),
            Action::Depart(host) => write!(f, "{host}: tells the witness that it left where the register is"),
            Action::LoseWitness(site) => write!(f, "{site} is gone"),
            Action::Seal(host) => write!(f, "{host}: the guest runs on, and its epoch is sealed"),
            Action::Keep(host) => write!(f, "{host}: the state directory has the next epoch"),
            Action::LoseStore(host) => write!(f, "{host}: the state directory takes no more epochs"),
            Action::Connect { primary, backup } => write!(f, "{primary}: begins to fill a backup on {backup}"),
            Action::Base(host) => write!(f, "{host}: seals the base"),
            Action::Receive(host) => write!(f, "{host}: the backup has the next epoch, and acks it"),
            Action::Hear(host) => write!(f, "{host}: hears the backup's ack"),
            Action::LoseBackup(host) => write!(f, "{host}: hears nothing of its backup any more"),
            Action::LosePrimary(host) => write!(f, "{host}: loses its primary before it has a base"),
            Action::Tell(host) => write!(f, "{host}: the backup states what its lost pairings come to"),
            Action::Stop(host) => write!(f, "{host}: the guest is to stop"),
            Action::Restore(records) => write!(f, "the witness is restored to {records} records"),
        }
    }
}

/// All that may be possible now, within `bounds`. Whether it is, its doing tells.
pub(crate) fn within(bounds: &Bounds, world: &World, actions: &mut Vec<Action>) {
    let all = |actions: &mut Vec<Action>| {
        for host in hosts(bounds, world) {
            of_host(bounds, world, host, actions);
        }
    };
    all(actions);
    if world.witnesses.iter().any(|witness| witness.late.is_some()) {
        actions.push(Action::Arrive);
    }
    if world.spent.restores < bounds.restores {
        let records = u8::try_from(world.witnesses[0].chain.len()).expect("records are few");
        actions.extend((1..records).map(Action::Restore));
    }
    if world.spent.witness_losses < bounds.witness_losses {
        // One that nobody uses is no loss.
        let used = Site::all().filter(|site| *site == world.counting || is_heirs(world, *site));
        actions.extend(used.filter(|site| !world.witness(*site).is_gone).map(Action::LoseWitness));
    }
}

/// Whether somebody has noted that a register is to be continued there.
fn is_heirs(world: &World, site: Site) -> bool {
    let notes = world.hosts.iter().filter_map(|host| host.note.as_ref());
    notes.into_iter().any(|note| note.part.as_ref().is_some_and(|part| part.site == site))
}

/// Where an operator would have the register of a host continued: at the first witness that is there and is another.
fn next_witness(world: &World, own: Site) -> Option<Site> {
    Site::all().find(|site| *site != own && !world.witness(*site).is_gone)
}

/// The same without the others. Nobody does that but where a witness is gone: that of the register, or that at which it was to be
/// continued.
pub(crate) fn refuge(world: &World, host: HostId) -> Option<Site> {
    let of_note = || world.host(host).note.as_ref().map(|note| (note.home, note.part.as_ref().map(|part| part.site)));
    let of_node = world.node(host).map(|node| (node.desks.own, node.desks.heir));
    let (own, heir) = of_node.or_else(of_note).unwrap_or_default();
    let is_gone = |site: Site| world.witness(site).is_gone;
    match (is_gone(own), heir.is_some_and(is_gone)) {
        (true, _) => next_witness(world, own),
        (false, true) => Some(own),
        (false, false) => None,
    }
}

/// Hosts on which something may happen. They are alike until something does, so the first that is untouched stands for all of them.
fn hosts(bounds: &Bounds, world: &World) -> impl Iterator<Item = HostId> {
    let is_untouched = |host: &HostId| world.host(*host).born == 0;
    let first = HostId::all().find(is_untouched);
    HostId::all().take(usize::from(bounds.hosts)).filter(move |host| first.is_none_or(|first| *host <= first))
}

fn of_host(bounds: &Bounds, world: &World, host: HostId, actions: &mut Vec<Action>) {
    if world.spent.outages < bounds.outages && world.host(host).born > 0 {
        actions.extend([Action::PowerLoss(host, Files::Kept), Action::PowerLoss(host, Files::Lost)]);
    }
    if world.spent.exchanges < bounds.exchanges {
        let own = world.node(host).map(|node| node.desks.own);
        actions.extend(own.and_then(|own| next_witness(world, own)).map(|to| Action::Propose(host, to)));
        actions.extend(refuge(world, host).map(|to| Action::Override(host, to)));
    }
    let Some(node) = world.node(host) else { return on_idle_host(bounds, world, host, actions) };
    actions.extend(node.desks.left.map(|_| Action::Depart(host)));
    if world.spent.crashes < bounds.crashes {
        actions.push(Action::Crash(host));
    }
    match &node.pending {
        Some(pending) => of_append(bounds, world, host, pending, actions),
        None if has_room(bounds, world) => {
            let allowed = |errand: &Errand| *errand != Errand::Override || world.spent.overrides < bounds.overrides;
            actions.extend(errands(world, host).into_iter().filter(allowed).map(|errand| Action::Ask(host, errand)));
        }
        None => {}
    }
    match &node.role {
        Role::Starting => {}
        Role::Primary(primary) => of_primary(bounds, world, host, primary, actions),
        Role::Backup(backup) => of_backup(host, backup, actions),
    }
}

fn on_idle_host(bounds: &Bounds, world: &World, host: HostId, actions: &mut Vec<Action>) {
    let Host { born, store, .. } = world.host(host);
    if *born < bounds.lives && has_room(bounds, world) {
        actions.push(Action::Run(host));
        actions.extend((world.spent.named_starts < bounds.named_starts).then_some(Action::RunNamed(host)));
        actions.extend(store.filter(|store| store.has.is_some()).map(|_| Action::Resume(host)));
    }
    actions.extend((*born > 0).then_some(Action::Attest(host)));
}

fn of_append(bounds: &Bounds, world: &World, host: HostId, pending: &Pending, actions: &mut Vec<Action>) {
    let Ask::Append { record, .. } = &*pending.ask else { return };
    let others = Site::all().filter(|site| *site != pending.site).map(|site| world.witness(site).chain.len() as u64);
    if record.number + others.sum::<u64>() > u64::from(bounds.records) {
        return;
    }
    actions.push(Action::Append(host, Fate::Answered));
    if world.spent.unanswered < bounds.unanswered {
        actions.extend([Action::Append(host, Fate::Unanswered), Action::Append(host, Fate::Lost)]);
        if bounds.late && !world.spent.late {
            actions.push(Action::Append(host, Fate::Late));
        }
    }
}

fn of_primary(bounds: &Bounds, world: &World, host: HostId, primary: &Primary, actions: &mut Vec<Action>) {
    let Primary { sealed, session, stored, is_frozen, is_stopping, .. } = primary;
    if *sealed < bounds.epochs && !is_frozen && !is_stopping {
        actions.push(Action::Seal(host));
        actions.extend(session.filter(|session| session.phase < Phase::Basing).map(|_| Action::Base(host)));
    }
    if let Some(session) = session.filter(|_| !is_frozen) {
        actions.push(Action::LoseBackup(host));
        actions.extend((session.ack_sent > session.acked).then_some(Action::Hear(host)));
        actions.extend(session.forsworn.map(|_| Action::HearForsworn(host)));
    }
    actions.extend(stored.filter(|stored| stored < sealed).map(|_| Action::Keep(host)));
    if stored.is_some() && world.spent.store_losses < bounds.store_losses {
        actions.push(Action::LoseStore(host));
    }
    if !is_stopping && world.spent.ends < bounds.ends {
        actions.push(Action::Stop(host));
    }
    if session.is_none() && world.spent.joins < bounds.joins {
        let others = hosts(bounds, world).filter(|other| *other != host);
        let can_begin = |other: &HostId| world.node(*other).is_some() || world.host(*other).born < bounds.lives;
        actions.extend(others.filter(can_begin).map(|backup| Action::Connect { primary: host, backup }));
    }
}

fn of_backup(host: HostId, backup: &Backup, actions: &mut Vec<Action>) {
    match backup.copy {
        Replica::Nothing => {}
        Replica::Filling { .. } => actions.extend([Action::Receive(host), Action::LosePrimary(host)]),
        Replica::Whole { .. } => actions.push(Action::Receive(host)),
    }
    if backup.proposal.is_some() {
        actions.extend([Action::Forswear(host, Sight::Same), Action::Forswear(host, Sight::Other)]);
    }
    if backup.voids.is_waiting() {
        actions.push(Action::Tell(host));
    }
}

/// Whether one record more is within the bounds.
fn has_room(bounds: &Bounds, world: &World) -> bool {
    world.witnesses.iter().map(|witness| witness.chain.len()).sum::<usize>() < usize::from(bounds.records)
}

/// What the process on `host` may want of the register now.
pub(crate) fn errands(world: &World, host: HostId) -> Vec<Errand> {
    let Some(node) = world.node(host) else { return Vec::new() };
    match &node.role {
        Role::Starting => Vec::new(),
        Role::Backup(backup) => {
            // It looks at the witness now and then. That matters where it has a part in an exchange.
            let looks = node.register.exchange().map(|_| Errand::Look);
            let takes = match backup.copy {
                Replica::Whole { stance: Stance::Following | Stance::Claiming, .. } => Some(Errand::TakeOver),
                Replica::Whole { stance: Stance::Keeping, .. } => Some(Errand::Override),
                _ => None,
            };
            takes.into_iter().chain(looks).collect()
        }
        Role::Primary(primary) => {
            let mut errands: Vec<Errand> = primary.delist.iter().copied().map(Errand::Delist).collect();
            if let Some(session) = &primary.session {
                if matches!(session.phase, Phase::Filling | Phase::Asked) {
                    errands.push(Errand::Enlist(session.join));
                }
                if primary.is_frozen {
                    errands.push(Errand::Remove(session.join));
                }
            }
            if primary.is_store_lost {
                errands.push(Errand::RemoveStore);
            }
            // Also while it is not known who continues: the end may have been asked for before that.
            if primary.is_stopping && primary.committed == primary.sealed {
                errands.push(Errand::End);
            }
            match primary.exchanging {
                Some(Exchanging::Moving) => errands.push(Errand::Move),
                Some(Exchanging::CallingOff) => errands.push(Errand::CallOff),
                Some(Exchanging::Forswearing) | None => {}
            }
            let is_named = |record: &replication::view::Record| record.primary.id == node.life.incarnation();
            if !world.newest().is_some_and(is_named) {
                errands.push(Errand::Look);
            }
            errands
        }
    }
}
