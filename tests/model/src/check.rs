//! The checker: stateright looks at every state that can be reached.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use crate::action::{self, Action};
use crate::healing;
use crate::play::{self, Setting};
use crate::world::{Violation, World};

/// The model of the rules.
#[derive(Clone, Copy, Debug)]
pub struct Views(pub Setting);

/// One property for each thing that can be wrong: a state in which it is not.
macro_rules! properties {
    ($($wrong:ident),* $(,)?) => {
        vec![$(Property::always(Violation::$wrong.text(), |_: &Views, world: &World| world.violation != Some(Violation::$wrong))),*]
    };
}

impl Model for Views {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::empty()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_none() {
            action::within(&self.0.bounds, world, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = play::next(&self.0, world, action)?;
        if self.0.heals && next.violation.is_none() {
            next.violation = healing::trouble(&self.0, &next);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties![
            OtherLine,
            ClaimBehind,
            TwinEpochs,
            ReleasedWithoutRight,
            ReleasedUncommitted,
            BesideWhole,
            OtherDisk,
            EndedContinued,
            ProtectedUnlisted,
            TwoRegisters,
            LowGeneration,
            Stuck,
        ]
    }
}

/// What the checker saw.
#[derive(Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps to the last of them.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Every state within the bounds was looked at.
    pub is_complete: bool,
    /// How a property came not to hold.
    pub found: Option<Counterexample>,
}

/// A run in which a property does not hold.
#[derive(Debug)]
pub struct Counterexample {
    /// Which.
    pub violation: Violation,
    /// The states and what was done in each.
    pub steps: Vec<(World, Option<Action>)>,
}

/// In which order states are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those that are near first: what is found is short. It keeps many states in memory.
    Near,
    /// One run after the other.
    Deep,
}

/// Looks at all states, or at those that are reached within `limit`.
pub fn check(setting: Setting, order: Order, threads: usize, limit: Option<Duration>) -> Report {
    let begun = Instant::now();
    let builder = Views(setting).checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let builder = match limit {
        Some(limit) => builder.timeout(limit),
        None => builder,
    };
    match order {
        Order::Near => report(&builder.spawn_bfs().join(), begun, limit),
        Order::Deep => report(&builder.spawn_dfs().join(), begun, limit),
    }
}

fn report(checker: &impl Checker<Views>, begun: Instant, limit: Option<Duration>) -> Report {
    let found = checker.discoveries().into_values().next().map(found);
    let took = begun.elapsed();
    let is_complete = found.is_none() && limit.is_none_or(|limit| took < limit);
    Report { states: checker.unique_state_count(), depth: checker.max_depth(), took, is_complete, found }
}

fn found(path: Path<World, Action>) -> Counterexample {
    let steps = path.into_vec();
    let last = steps.last().and_then(|(world, _)| world.violation);
    Counterexample { violation: last.expect("a discovery is a state in which something is wrong"), steps }
}
