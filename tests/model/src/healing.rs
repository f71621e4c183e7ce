//! What becomes of a state when faults stop: nothing crashes, every question is answered, nothing is late, and a host on which no process
//! runs is started as a supervisor would. Where a witness is gone for good an operator overrides it, as the tutorial's table says, and stops
//! a side first that waits and is to be named dead. The schedule is fixed, so this is a walk and no search.
//!
//! Checked is: from *every* state within the bounds this walk ends, in a few steps, in one in which the primary of the newest record runs
//! the guest and waits for nobody, or the guest has ended. Not checked is that every other fair schedule gets there too.

use crate::action::{Action, Fate, Sight, errands, refuge};
use crate::name::HostId;
use crate::play::{self, Setting};
use crate::world::{Backup, Errand, Node, Replica, Role, Stance, Violation, World};

/// Steps of a walk, at most. The longest that was seen takes less than half of it.
const STEPS_MAX: usize = 60;

/// What goes wrong when faults stop in `world`, whether what is late arrives then or never; none: it heals.
pub fn trouble(setting: &Setting, world: &World) -> Option<Violation> {
    let mut arrived = world.clone();
    if let Some(next) = play::next(setting, world, Action::Arrive) {
        arrived = next;
    }
    let mut lost = world.clone();
    lost.witnesses.iter_mut().for_each(|witness| witness.late = None);
    [arrived, lost].into_iter().find_map(|world| walk(setting, world))
}

fn walk(setting: &Setting, mut world: World) -> Option<Violation> {
    for _ in 0..STEPS_MAX {
        if world.violation.is_some() || is_well(&world) {
            return world.violation;
        }
        let Some(next) = step(setting, &world) else {
            return (!is_for_a_person(&world)).then_some(Violation::Stuck);
        };
        world = next;
    }
    Some(Violation::Stuck)
}

/// The primary of the newest record runs the guest, or nobody should.
fn is_well(world: &World) -> bool {
    let Some(newest) = world.newest() else { return true };
    if newest.standing == replication::view::Standing::Ended {
        return true;
    }
    let is_it = |node: &Node| {
        let waits = match &node.role {
            Role::Primary(primary) => {
                // A new witness that is gone keeps nobody waiting before something is to be appended.
                let can_settle = node.desks.heir.is_some_and(|site| !world.witness(site).is_gone);
                primary.is_frozen || primary.is_store_lost || node.pending.is_some() || can_settle
            }
            _ => true,
        };
        node.life.incarnation() == newest.primary.id && !waits
    };
    let nodes = || world.hosts.iter().filter_map(|host| host.node.as_ref());
    nodes().any(is_it) && !nodes().any(|node| is_behind(world, node))
}

/// Whether a backup that is led has a part in an exchange that is settled for its primary.
fn is_behind(world: &World, node: &Node) -> bool {
    let Some(site) = node.desks.heir.filter(|site| !world.witness(*site).is_gone) else { return false };
    let Role::Backup(Backup { copy, .. }) = &node.role else { return false };
    let join = copy.join().filter(|join| is_led(world, *join));
    let leader = join.and_then(|join| world.node(join.primary.host));
    leader.is_some_and(|leader| leader.desks.heir.is_none() && leader.desks.own == site)
}

/// Whether a witness is gone that the host of the primary would have to ask, and there is no epoch that could be resumed: a start overrides
/// nothing, so a person has to boot the guest in an empty state directory.
fn is_for_a_person(world: &World) -> bool {
    let Some(newest) = world.newest() else { return false };
    let host = HostId::of(&newest.primary.location);
    let can_resume = world.host(host).store.is_some_and(|store| store.has.is_some());
    world.node(host).is_none() && !can_resume && refuge(world, host).is_some()
}

/// The first thing that anybody would do.
fn step(setting: &Setting, world: &World) -> Option<World> {
    let hosts: Vec<HostId> = HostId::all().take(usize::from(setting.bounds.hosts)).collect();
    let appends = hosts.iter().map(|host| Action::Append(*host, Fate::Answered));
    let of_processes = hosts.iter().flat_map(|host| of_process(world, *host));
    let starts = hosts.iter().flat_map(|host| [Action::Attest(*host), Action::Resume(*host), Action::Run(*host)]);
    let overrides = hosts.iter().filter_map(|host| Some(Action::Override(*host, refuge(world, *host)?)));
    let is_stopped = |host: &&HostId| is_in_the_way(world, **host);
    let stops = hosts.iter().filter(is_stopped).map(|host| Action::Crash(*host));
    // What a backup stated at a witness that was left is not found at the next.
    let is_exchanged = world.spent.exchanges > 0;
    let named = hosts.iter().filter(|_| is_exchanged).map(|host| Action::RunNamed(*host));
    let mut actions = appends.chain(of_processes).chain(starts).chain(overrides).chain(stops).chain(named);
    actions.find_map(|action| play::next(setting, world, action).filter(|next| next != world))
}

/// Whether there is a backup on `host` that follows nobody and is of no use: its witness is gone, or it has nothing, and somebody else's is.
fn is_in_the_way(world: &World, host: HostId) -> bool {
    let Some(backup) = world.backup(host) else { return false };
    let is_led = backup.copy.join().is_some_and(|join| is_led(world, join));
    let is_idle = backup.copy.last().is_none() && HostId::all().any(|host| refuge(world, host).is_some());
    !is_led && (is_idle || refuge(world, host).is_some())
}

fn of_process(world: &World, host: HostId) -> Vec<Action> {
    let Some(node) = world.node(host) else { return Vec::new() };
    let departs = node.desks.left.map(|_| Action::Depart(host));
    of_role(world, host, node).into_iter().chain(departs).collect()
}

fn of_role(world: &World, host: HostId, node: &Node) -> Vec<Action> {
    match &node.role {
        Role::Starting => Vec::new(),
        Role::Primary(primary) => {
            let is_lost = primary.session.is_some_and(|session| !is_followed(world, session.join));
            let lost = is_lost.then_some(Action::LoseBackup(host));
            let wanted = errands(world, host).into_iter().filter(|errand| !matches!(errand, Errand::Enlist(_)));
            let hears = primary.session.and_then(|session| session.forsworn).map(|_| Action::HearForsworn(host));
            lost.into_iter().chain(hears).chain(wanted.map(|errand| Action::Ask(host, errand))).collect()
        }
        Role::Backup(backup) => match backup.copy {
            Replica::Nothing => vec![Action::Tell(host)],
            Replica::Filling { join, .. } if world.session(join).is_none() => vec![Action::LosePrimary(host)],
            Replica::Whole { join, stance, .. } => {
                let claims = stance != Stance::Keeping && !(stance == Stance::Following && is_led(world, join));
                let claim = claims.then_some(Action::Ask(host, Errand::TakeOver));
                let forswears = backup.proposal.as_ref().map(|_| Action::Forswear(host, Sight::Same));
                let looks = node.desks.heir.map(|_| Action::Ask(host, Errand::Look));
                claim.into_iter().chain(forswears).chain([Action::Tell(host)]).chain(looks).collect()
            }
            Replica::Filling { .. } => Vec::new(),
        },
    }
}

/// Whether the primary of `join` has its backup.
fn is_led(world: &World, join: crate::name::Join) -> bool {
    let is_frozen = world.primary(join.primary.host).is_some_and(|primary| primary.is_frozen);
    world.session(join).is_some() && !is_frozen
}

/// Whether the backup of `join` is there and takes what it is sent.
fn is_followed(world: &World, join: crate::name::Join) -> bool {
    let copy = world.node(join.backup.host).filter(|node| node.life == join.backup).map(|node| &node.role);
    match copy {
        Some(Role::Backup(backup)) => match backup.copy {
            Replica::Nothing => false,
            Replica::Filling { join: ours, .. } => ours == join,
            Replica::Whole { join: ours, stance, .. } => ours == join && stance == Stance::Following,
        },
        _ => false,
    }
}
