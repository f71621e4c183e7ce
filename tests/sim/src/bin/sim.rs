//! `sim run` runs seeds, `sim replay` tells one, `sim shrink` makes one small.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use sim::counts::Counts;
use sim::shrink::{Shrunk, shrink};
use sim::story::tell;
use sim::{Break, Case, Outcome, Plan, Summary, run_seed, trace_plan};

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
    /// Run one seed, or one plan, and print what happens.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Tell everything.
        #[arg(long)]
        verbose: bool,
    },
    /// Print the plan of a seed.
    Plan {
        #[command(flatten)]
        which: Which,
    },
    /// Take away from a run that breaks a rule all that the violation does not need, and print what is left.
    Shrink {
        #[command(flatten)]
        which: Which,
    },
}

/// A run.
#[derive(Args)]
#[group(id = "run", required = true, multiple = true)]
struct Which {
    /// The plan of a seed, with the chance of that.
    #[arg(long)]
    seed: Option<u64>,
    /// A plan: a file, or its text, as `shrink` prints it.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<String>,
    /// Break a rule on purpose.
    #[arg(long = "break", hide = true, conflicts_with = "plan")]
    broken: Option<Break>,
}

impl Which {
    fn case(&self) -> Result<Case, String> {
        let Some(plan) = &self.plan else {
            let seed = self.seed.ok_or("say which run: --seed N or --plan FILE")?;
            return Ok(Case { seed, plan: Plan::of_seed(seed, self.broken) });
        };
        let file = PathBuf::from(plan);
        let text = match plan.contains('=') {
            true => plan.clone(),
            false => std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?,
        };
        text.parse()
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { seeds, start, threads, broken } => Ok(run(start, seeds, threads.max(1), broken)),
        Command::Replay { which, verbose } => which.case().map(|case| replay(&case, verbose)),
        Command::Plan { which } => which.case().map(|case| {
            print!("{case}");
            ExitCode::SUCCESS
        }),
        Command::Shrink { which } => which.case().map(|case| print_shrunk(&case)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("sim: {error}");
        ExitCode::from(2)
    })
}

#[derive(Default)]
struct Totals {
    healed: u64,
    betrayed: u64,
    counts: Counts,
    outputs: u64,
    failed: Option<(u64, String)>,
}

impl Totals {
    fn add(&mut self, seed: u64, summary: Summary) {
        let Summary { outcome, counts, outputs, answers: _ } = summary;
        self.counts += counts;
        self.outputs += outputs;
        match outcome {
            Outcome::Healed => self.healed += 1,
            Outcome::Betrayed => self.betrayed += 1,
            Outcome::Violation(violation) => self.failed = Some((seed, violation.to_string())),
        }
    }

    fn join(mut self, other: Totals) -> Totals {
        self.healed += other.healed;
        self.betrayed += other.betrayed;
        self.counts += other.counts;
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
        totals.add(seed, run_seed(seed, broken));
    }
    if totals.failed.is_some() {
        next.store(end, Ordering::Relaxed);
    }
    totals
}

fn report(totals: &Totals, began: Instant, broken: Option<Break>) -> ExitCode {
    let Totals { healed, betrayed, counts, outputs, failed } = totals;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{healed} seeds healed in {seconds:.1} s: {counts}; {outputs} outputs checked; {betrayed} seeds ended where a restored witness was \
         believed by a host that could not know"
    );
    if let Some((seed, text)) = failed {
        let rule = broken.map(|rule| format!(" --break {rule:?}")).unwrap_or_default();
        println!("seed {seed}: {text}");
        println!("replay it: cargo run --release -p sim -- replay --seed {seed}{rule}");
        println!("make it small: cargo run --release -p sim -- shrink --seed {seed}{rule}");
    }
    println!("sim: {} passed, {} failed, 0 skipped", healed + betrayed, u8::from(failed.is_some()));
    if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn replay(case: &Case, verbose: bool) -> ExitCode {
    let (summary, lines) = trace_plan(case.seed, case.plan.clone());
    tell(case, &lines, &summary, verbose).iter().for_each(|line| println!("{line}"));
    match summary.outcome {
        Outcome::Violation(_) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// The plan comes out alone, so that it can be put into a file; what is said of it are comments.
fn print_shrunk(case: &Case) -> ExitCode {
    let Some(Shrunk { case, violation, runs }) = shrink(case) else {
        println!("# seed {} breaks no rule", case.seed);
        return ExitCode::SUCCESS;
    };
    println!("# {violation}");
    println!("# broken: {}; {} faults are left after {runs} runs", violation.rule.words(), case.plan.faults.len());
    println!("# replay it: sim replay --plan FILE");
    print!("{case}");
    ExitCode::FAILURE
}
