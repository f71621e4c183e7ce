//! Checks the model from a command line, and tells a counterexample as a story.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use model::bounds::Bounds;
use model::broken::Break;
use model::check::check;
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
    /// KEY=NUMBER,… : records, epochs, lives, crashes, joins, unanswered, late, hosts, store, store-losses, overrides, ends, restores.
    #[arg(long, default_value = "")]
    bounds: Bounds,
    /// A rule to break on purpose.
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<Break>,
    /// In each state look whether somebody runs the guest when faults stop.
    #[arg(long)]
    heal: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop after so many seconds, whatever was seen by then.
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let Command::Check(Check { bounds, broken, heal, threads, seconds }) = Arguments::parse().command;
    let report = check(Setting { bounds, broken, heals: heal }, threads, seconds.map(Duration::from_secs));
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
