//! A run in words: who did what, and which record was appended.

use std::fmt::Write;

use replication::view::{Record, Standing};

use crate::check::Counterexample;
use crate::line::Lines;
use crate::name::{Join, Life};
use crate::witness::Site;
use crate::world::World;

/// The story of a run in which something is wrong.
pub fn tell(found: &Counterexample) -> String {
    let mut story = String::new();
    let mut action = None;
    let mut before: Option<&World> = None;
    for (index, (world, next)) in found.steps.iter().enumerate() {
        if let Some(action) = action {
            writeln!(story, "{index:3}  {action}").expect("text takes all");
            before.iter().for_each(|before| tell_changes(&mut story, before, world));
        }
        (action, before) = (*next, Some(world));
    }
    writeln!(story, "Does not hold: {}.", found.violation.text()).expect("text takes all");
    story
}

fn tell_changes(story: &mut String, before: &World, world: &World) {
    let mut line = |text: String| writeln!(story, "       {text}").expect("text takes all");
    for (site, (was, is)) in Site::all().zip(before.witnesses.iter().zip(&world.witnesses)) {
        let stood = was.chain.iter().zip(&is.chain).take_while(|(one, other)| one == other).count();
        for slot in is.chain.iter().skip(stood) {
            line(format!("{site}, record {}", record(&slot.entry.record, &world.lines)));
        }
        for statement in is.statements.difference(&was.statements) {
            line(format!("{site}, stated: {}", stated(*statement)));
        }
    }
    let released = |world: &World| world.lines.released().map(|epoch| epoch.to_string()).collect::<Vec<_>>();
    let (was, is) = (released(before), released(world));
    for epoch in is.iter().filter(|epoch| !was.contains(epoch)) {
        line(format!("released up to {epoch}"));
    }
}

fn stated(statement: replication::view::evidence::Statement) -> String {
    use replication::view::evidence::Statement;
    match statement {
        Statement::Dead(id) => format!("{} is gone", Life::of(id)),
        Statement::Void(session) => format!("{} was never whole", Join::of(session)),
    }
}

fn record(record: &Record, lines: &Lines) -> String {
    let standing = if record.standing == Standing::Running { "running" } else { "ended" };
    let mut text = format!("{}: {standing}, primary {}", record.number, Life::of(record.primary.id));
    if let Some(store) = &record.store {
        write!(text, ", its state directory of {}", Life::of(store.id)).expect("text takes all");
    }
    for member in &record.backups {
        write!(text, ", backup {} by {}", Life::of(member.place.id), Join::of(member.join)).expect("text takes all");
    }
    write!(text, ", branch {}", record.branch).expect("text takes all");
    if let Some(replication::Fork::Mark(mark)) = record.fork {
        let fork = lines.find(mark).map_or_else(|| mark.to_string(), |epoch| epoch.to_string());
        write!(text, " from {fork}").expect("text takes all");
    }
    if record.generation > 1 {
        write!(text, ", generation {}", record.generation).expect("text takes all");
    }
    if let Some(departure) = &record.moved {
        write!(text, ", continued at {}", departure.witness).expect("text takes all");
    }
    if !record.named_dead.is_empty() {
        let named: Vec<_> = record.named_dead.iter().map(|id| Life::of(*id).to_string()).collect();
        write!(text, ", named dead: {}", named.join(" ")).expect("text takes all");
    }
    text
}
