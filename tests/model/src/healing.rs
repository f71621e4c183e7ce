//! What becomes of a state when faults stop: nothing crashes, every question is answered, nothing is late, and a host on which no process
//! runs is started as a supervisor would. The schedule is fixed, so this is a walk and no search.
//!
//! Checked is: from *every* state within the bounds this walk ends, in a few steps, in one in which the primary of the newest record runs
//! the guest and waits for nobody, or the guest has ended. Not checked is that every other fair schedule gets there too.

use crate::action::{Action, Fate, errands};
use crate::name::HostId;
use crate::play::{self, Setting};
use crate::world::{Errand, Node, Replica, Role, Stance, Violation, World};

/// Steps of a walk, at most. The longest that was seen takes less than half of it.
const STEPS_MAX: usize = 60;

/// What goes wrong when faults stop in `world`, whether what is late arrives then or never; none: it heals.
pub fn trouble(setting: &Setting, world: &World) -> Option<Violation> {
    let mut arrived = world.clone();
    if let Some(next) = play::next(setting, world, Action::Arrive) {
        arrived = next;
    }
    let mut lost = world.clone();
    lost.witness.late = None;
    [arrived, lost].into_iter().find_map(|world| walk(setting, world))
}

fn walk(setting: &Setting, mut world: World) -> Option<Violation> {
    for _ in 0..STEPS_MAX {
        if world.violation.is_some() || is_well(&world) {
            return world.violation;
        }
        let Some(next) = step(setting, &world) else { return Some(Violation::Stuck) };
        world = next;
    }
    Some(Violation::Stuck)
}

/// The primary of the newest record runs the guest, or nobody should.
fn is_well(world: &World) -> bool {
    let Some(newest) = world.witness.newest() else { return true };
    if newest.standing == replication::view::Standing::Ended {
        return true;
    }
    let is_it = |node: &Node| {
        let waits = match &node.role {
            Role::Primary(primary) => primary.is_frozen || primary.is_store_lost || node.pending.is_some(),
            _ => true,
        };
        node.life.incarnation() == newest.primary.id && !waits
    };
    world.hosts.iter().filter_map(|host| host.node.as_ref()).any(is_it)
}

/// The first thing that anybody would do.
fn step(setting: &Setting, world: &World) -> Option<World> {
    let hosts: Vec<HostId> = HostId::all().take(usize::from(setting.bounds.hosts)).collect();
    let appends = hosts.iter().map(|host| Action::Append(*host, Fate::Answered));
    let of_processes = hosts.iter().flat_map(|host| of_process(world, *host));
    let starts = hosts.iter().flat_map(|host| [Action::Attest(*host), Action::Resume(*host), Action::Run(*host)]);
    let mut actions = appends.chain(of_processes).chain(starts);
    actions.find_map(|action| play::next(setting, world, action).filter(|next| next != world))
}

fn of_process(world: &World, host: HostId) -> Vec<Action> {
    let Some(node) = world.node(host) else { return Vec::new() };
    match &node.role {
        Role::Starting => Vec::new(),
        Role::Primary(primary) => {
            let is_lost = primary.session.is_some_and(|session| !is_followed(world, session.join));
            let lost = is_lost.then_some(Action::LoseBackup(host));
            let wanted = errands(world, host).into_iter().filter(|errand| !matches!(errand, Errand::Enlist(_)));
            lost.into_iter().chain(wanted.map(|errand| Action::Ask(host, errand))).collect()
        }
        Role::Backup(backup) => match backup.copy {
            Replica::Nothing => vec![Action::Tell(host)],
            Replica::Filling { join, .. } if world.session(join).is_none() => vec![Action::LosePrimary(host)],
            Replica::Whole { join, stance, .. } => {
                let is_led =
                    stance == Stance::Following && world.session(join).is_some_and(|_| !is_frozen(world, join));
                let claims = stance != Stance::Keeping && !is_led;
                let claim = claims.then_some(Action::Ask(host, Errand::TakeOver));
                claim.into_iter().chain([Action::Tell(host)]).collect()
            }
            Replica::Filling { .. } => Vec::new(),
        },
    }
}

fn is_frozen(world: &World, join: crate::name::Join) -> bool {
    world.primary(join.primary.host).is_some_and(|primary| primary.is_frozen)
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
