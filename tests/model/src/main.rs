//! Checks the model from a command line, and tells a counterexample as a story.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use model::bounds::Bounds;
use model::broken::Break;
use model::check::{Order, check};
use model::play::Setting;
use model::story;

/// Check the rules of views.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at every state that can be reached within the bounds.
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// KEY=NUMBER,…: records, epochs, lives, crashes, joins, unanswered, late, hosts, store, store-losses, overrides, ends, restores.
    #[arg(long)]
    bounds: Option<Bounds>,
    /// A rule to break on purpose; without --bounds in the smallest setting in which that does harm.
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<Break>,
    /// In each state look whether somebody runs the guest when faults stop.
    #[arg(long)]
    heal: bool,
    /// Look at near states first, for the shortest story; needs more memory. So it is where a rule is broken.
    #[arg(long)]
    near: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop after so many seconds, whatever was seen by then.
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let Command::Check(Check { bounds, broken, heal, near, threads, seconds }) = Arguments::parse().command;
    let usual = broken.map_or(Setting { bounds: Bounds::SMALL, broken, heals: false }, Break::setting);
    let setting = Setting { bounds: bounds.unwrap_or(usual.bounds), broken, heals: heal || usual.heals };
    let order = if near || broken.is_some() { Order::Near } else { Order::Deep };
    let report = check(setting, order, threads, seconds.map(Duration::from_secs));
    println!(
        "{} states, {} steps deep, {:.1} s{}",
        report.states,
        report.depth,
        report.took.as_secs_f64(),
        if report.is_complete { ": all of them" } else { "" }
    );
    match report.found {
        None => ExitCode::SUCCESS,
        Some(found) => {
            print!("{}", story::tell(&found));
            ExitCode::FAILURE
        }
    }
}
