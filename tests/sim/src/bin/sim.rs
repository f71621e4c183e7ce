//! `sim run` runs seeds, `sim replay` tells one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use sim::{Break, Outcome, Summary, run_seed, trace_seed};

/// Simulates the replication protocol under faults. One seed is one exact run.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds until one breaks a rule.
    Run {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        start: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        threads: u64,
        /// Break a rule on purpose; the run must then fail.
        #[arg(long = "break", hide = true)]
        broken: Option<Break>,
    },
    /// Run one seed and print what happens.
    Replay {
        /// Which one.
        #[arg(long)]
        seed: u64,
        /// Break a rule on purpose.
        #[arg(long = "break", hide = true)]
        broken: Option<Break>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { seeds, start, threads, broken } => run(start, seeds, threads.max(1), broken),
        Command::Replay { seed, broken } => replay(seed, broken),
    }
}

#[derive(Default)]
struct Totals {
    healed: u64,
    begun: u64,
    takeovers: u64,
    resumes: u64,
    resets: u64,
    outputs: u64,
    failed: Option<(u64, String)>,
}

impl Totals {
    fn add(&mut self, seed: u64, summary: Summary) {
        let Summary { outcome, takeovers, resumes, resets, begun, outputs, answers: _ } = summary;
        self.takeovers += u64::from(takeovers);
        self.resumes += u64::from(resumes);
        self.resets += u64::from(resets);
        self.begun += u64::from(begun);
        self.outputs += outputs;
        match outcome {
            Outcome::Healed => self.healed += 1,
            Outcome::Violation(text) => self.failed = Some((seed, text)),
        }
    }

    fn join(mut self, other: Totals) -> Totals {
        self.healed += other.healed;
        self.begun += other.begun;
        self.takeovers += other.takeovers;
        self.resumes += other.resumes;
        self.resets += other.resets;
        self.outputs += other.outputs;
        self.failed = [self.failed, other.failed].into_iter().flatten().min();
        self
    }
}

fn run(start: u64, seeds: u64, threads: u64, broken: Option<Break>) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(start);
    let end = start.saturating_add(seeds);
    let totals = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&next, end, broken))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker panicked; its seed is above"))
            .fold(Totals::default(), Totals::join)
    });
    report(&totals, began, broken)
}

fn work(next: &AtomicU64, end: u64, broken: Option<Break>) -> Totals {
    let mut totals = Totals::default();
    while totals.failed.is_none() {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        match std::panic::catch_unwind(|| run_seed(seed, broken)) {
            Ok(summary) => totals.add(seed, summary),
            Err(_) => totals.failed = Some((seed, "the code under test panicked".to_owned())),
        }
    }
    if totals.failed.is_some() {
        next.store(end, Ordering::Relaxed);
    }
    totals
}

fn report(totals: &Totals, began: Instant, broken: Option<Break>) -> ExitCode {
    let Totals { healed, begun, takeovers, resumes, resets, outputs, failed } = totals;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{healed} seeds healed in {seconds:.1} s: {takeovers} takeovers, {resumes} resumed, {begun} begun afresh after a stop or \
         faults that no pair survives, {resets} of them after a crash of the guest, {outputs} outputs checked"
    );
    if let Some((seed, text)) = failed {
        let rule = broken.map(|rule| format!(" --break {rule:?}")).unwrap_or_default();
        println!("seed {seed}: {text}");
        println!("replay it: cargo run --release -p sim -- replay --seed {seed}{rule}");
    }
    println!("sim: {} passed, {} failed, 0 skipped", healed, u8::from(failed.is_some()));
    if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn replay(seed: u64, broken: Option<Break>) -> ExitCode {
    let (summary, lines) = trace_seed(seed, broken);
    lines.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {summary:?}");
    match summary.outcome {
        Outcome::Violation(_) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
