//! Checks the model from a command line, and tells a counterexample as a story.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use model::bounds::{Bounds, Case, DEEP, QUICK};
use model::broken::Break;
use model::check::{Order, Report, check};
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
    /// Do so for all cases of a set; the last line counts them.
    Set(Set),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// KEY=NUMBER,…: records, epochs, lives, crashes, joins, unanswered, late, hosts, store, store-losses, overrides,
    /// named-starts, ends, restores, outages, exchanges, witness-losses.
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
    #[command(flatten)]
    effort: Effort,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Which.
    #[arg(value_enum)]
    which: Which,
    #[command(flatten)]
    effort: Effort,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// For every change.
    Quick,
    /// The bounds of the rules.
    Deep,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Effort {
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop a check after so many seconds, whatever was seen by then.
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let is_good = match Arguments::parse().command {
        Command::Check(arguments) => check_one(&arguments),
        Command::Set(Set { which, effort }) => check_set(which, effort),
    };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check_one(arguments: &Check) -> bool {
    let Check { bounds, broken, heal, near, effort } = *arguments;
    let usual = broken.map_or(Setting { bounds: Bounds::SMALL, broken, heals: false }, Break::setting);
    let setting = Setting { bounds: bounds.unwrap_or(usual.bounds), broken, heals: heal || usual.heals };
    let order = if near || broken.is_some() { Order::Near } else { Order::Deep };
    show(setting, order, effort).found.is_none()
}

/// Each case counts as one test. One that was not looked at to its end has failed.
fn check_set(which: Which, effort: Effort) -> bool {
    let cases: &[Case] = match which {
        Which::Quick => &QUICK,
        Which::Deep => &DEEP,
    };
    let is_good = |case: &&Case| {
        let Case { name, bounds, heals } = **case;
        print!("{name}: ");
        let is_good = show(Setting { bounds, broken: None, heals }, Order::Deep, effort).is_complete;
        if !is_good {
            println!("FAIL {name}");
        }
        is_good
    };
    let passed = cases.iter().filter(is_good).count();
    println!("model: {passed} passed, {} failed, 0 skipped", cases.len() - passed);
    passed == cases.len()
}

fn show(setting: Setting, order: Order, Effort { threads, seconds }: Effort) -> Report {
    let report = check(setting, order, threads, seconds.map(Duration::from_secs));
    let Report { states, depth, took, is_complete, found } = &report;
    let all = if *is_complete { ": all of them" } else { "" };
    println!("{states} states, {depth} steps deep, {:.1} s{all}", took.as_secs_f64());
    if let Some(found) = found {
        print!("{}", story::tell(found));
    }
    report
}
