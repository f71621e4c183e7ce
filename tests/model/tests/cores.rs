//! Runs of the model are done again by the product's primary and backup, which must agree with it after every step.

use model::bounds::Bounds;
use model::cores::{Coverage, replay};
use model::play::Setting;

const RUNS: u64 = 1000;
const STEPS_MAX: usize = 60;

fn coverage(bounds: Bounds) -> Coverage {
    let setting = Setting { bounds, broken: None, heals: false };
    let runs = (0..RUNS).map(|seed| replay(&setting, seed, STEPS_MAX));
    runs.fold(Coverage::default(), |all, run| Coverage {
        steps: all.steps + run.steps,
        bases: all.bases + run.bases,
        acks: all.acks + run.acks,
        takeovers: all.takeovers + run.takeovers,
        removals: all.removals + run.removals,
        fences: all.fences + run.fences,
        denials: all.denials + run.denials,
        ends: all.ends + run.ends,
        exchanges: all.exchanges + run.exchanges,
        forsworn: all.forsworn + run.forsworn,
        moves: all.moves + run.moves,
    })
}

#[test]
fn cores_agree_with_the_model_in_runs_drawn_at_random() {
    let bounds = Bounds {
        records: 6,
        epochs: 6,
        joins: 3,
        unanswered: 2,
        crashes: 2,
        lives: 4,
        ends: 1,
        outages: 1,
        ..Bounds::SMALL
    };
    let Coverage { steps, bases, acks, takeovers, removals, fences, denials, ends, .. } = coverage(bounds);
    println!(
        "{steps} steps: {bases} bases, {acks} acks, {takeovers} takeovers, {removals} removals, {fences} fences, {denials} denials, {ends} ends"
    );
    for count in [bases, acks, takeovers, removals, fences, denials, ends] {
        assert!(count >= 20, "too little happens in these runs to show anything");
    }
}

#[test]
fn cores_agree_with_the_model_where_there_is_a_state_directory() {
    let bounds =
        Bounds { records: 6, epochs: 6, joins: 2, store: true, store_losses: 1, lives: 4, ends: 1, ..Bounds::SMALL };
    let Coverage { steps, bases, acks, .. } = coverage(bounds);
    println!("{steps} steps: {bases} bases, {acks} acks");
    assert!(bases >= 20 && acks >= 20, "too little happens in these runs to show anything");
}

#[test]
fn cores_agree_with_the_model_in_exchanges_of_the_witness() {
    let bounds = Bounds {
        records: 7,
        epochs: 6,
        joins: 3,
        unanswered: 2,
        crashes: 1,
        lives: 4,
        exchanges: 2,
        hosts: 2,
        ..Bounds::SMALL
    };
    let Coverage { steps, takeovers, exchanges, forsworn, moves, .. } = coverage(bounds);
    println!("{steps} steps: {exchanges} exchanges, {forsworn} backups forswore, {moves} moves, {takeovers} takeovers");
    for count in [takeovers, exchanges, forsworn, moves] {
        assert!(count >= 20, "too little happens in these runs to show anything");
    }
}
