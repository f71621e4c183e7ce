//! What a transaction on recoverable memory costs, beside plain stores and beside peers that claim the same.
//!
//! All engines do the same changes to the same tables, one transaction after the other on one thread. Repetitions go round all
//! points, so that a machine that is busy for a while is busy for all of them. Two times are taken: that of the
//! clock, and that of the processor, which what else runs on the machine disturbs less.

mod engine;
mod library;
mod lmdb;
mod pmemobj;
mod report;
mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::sweep::load_average;
use super::table::{Columns, Row, Table};
use super::{build_id, cannot};
use crate::config::BenchConfig;
use engine::{Claim, Database, Engine};
use vmm::exit::{Exit, Failure};
use workload::Work;

const KEY: &[&str] = &["build", "work", "engine", "survives", "repeat"];
const FIGURES: &[&str] = &["ns", "cpu_ns", "per_second", "load_1min"];
const COLUMNS: Columns = Columns { key: KEY, figures: &[FIGURES] };

/// Lengths of a range over which the cost of a transaction is shown, in bytes.
const SIZES: [usize; 6] = [8, 64, 1 << 10, 16 << 10, 128 << 10, 1 << 20];

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    work: Work,
    engine: Engine,
    claim: Claim,
}

impl Point {
    fn key(self, build: &str, repeat: u32) -> Vec<String> {
        let Self { work, engine, claim } = self;
        [build, &work.name(), engine.name(), claim.name(), &repeat.to_string()].map(str::to_owned).to_vec()
    }

    fn is(self, row: &Row) -> bool {
        row.key[1] == self.work.name() && row.key[2] == self.engine.name() && row.key[3] == self.claim.name()
    }

    fn describe(self) -> String {
        format!("{}, {}, survives {}", self.work.name(), self.engine.name(), self.claim.name())
    }
}

fn points(quick: bool) -> Vec<Point> {
    let sizes = SIZES.into_iter().filter(|size| !quick || *size != 128 << 10).map(Work::Store);
    let works: Vec<Work> = sizes.chain([Work::DebitCredit, Work::OrderEntry]).collect();
    let mut points = Vec::new();
    for claim in [Claim::ProcessDeath, Claim::PowerLoss] {
        for &work in &works {
            let engines = Engine::ALL.into_iter().filter(|engine| engine.claims(claim));
            points.extend(engines.map(|engine| Point { work, engine, claim }));
        }
    }
    points
}

/// Measures and reports.
pub(crate) fn run(config: &BenchConfig) -> Result<(), Failure> {
    pmemobj::tell_about_tmpfs();
    let build = build_id()?;
    let mut table = Table::open(&config.out.join("recoverable.csv"), COLUMNS)?;
    let repeats = config.repeat.unwrap_or(if config.quick { 3 } else { 7 });
    let time = Duration::from_millis(if config.quick { 200 } else { 1000 });
    let points = points(config.quick);
    let all: Vec<(u32, Point)> =
        (0..repeats).flat_map(|repeat| points.iter().map(move |&point| (repeat, point))).collect();
    let done = all.iter().filter(|(repeat, point)| table.has(&point.key(&build, *repeat))).count();
    let progress = Progress::new(all.len(), done);
    let mut absent: Vec<(Engine, Claim, String)> = Vec::new();
    for (repeat, point) in all {
        let key = point.key(&build, repeat);
        if table.has(&key) || absent.iter().any(|(engine, claim, _)| (*engine, *claim) == (point.engine, point.claim)) {
            continue;
        }
        progress.begin(&point.describe());
        match measure(config, point, time)? {
            Ok(figures) => {
                let figures = FIGURES.iter().copied().zip(figures).collect();
                let row = Row { key, figures };
                progress.done(&point.describe(), &format!("{:.0} ns", row.get("ns")));
                table.add(row)?;
            }
            Err(why) => {
                progress.note(&format!("{} is left out: {why}", point.describe()));
                absent.push((point.engine, point.claim, why));
            }
        }
    }
    drop(progress);
    let rows: Vec<Row> = table.rows().iter().filter(|row| row.key[0] == build).cloned().collect();
    report::write(config, &rows, &absent)
}

/// A new directory on tmpfs or on the disk of the results, for one point; it goes with what is in it.
struct Place(PathBuf);

impl Place {
    fn new(config: &BenchConfig, claim: Claim) -> Result<Self, Failure> {
        let name = format!("outlast-bench-{}", std::process::id());
        let path = match claim {
            Claim::ProcessDeath => Path::new("/dev/shm").join(name),
            Claim::PowerLoss => config.out.join("work").join(name),
        };
        std::fs::create_dir_all(&path).map_err(|error| cannot("make the directory", &path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The figures of a point, or why its engine cannot be measured here.
fn measure(config: &BenchConfig, point: Point, time: Duration) -> Result<Result<[f64; 4], String>, Failure> {
    let place = Place::new(config, point.claim)?;
    let tables = point.work.tables(point.engine.is_indexed());
    let mut database = match point.engine.open(point.claim, &place.0, &tables) {
        Ok(database) => database,
        Err(why) => return Ok(Err(why)),
    };
    let failed = |why| Failure::new(Exit::Error, format!("{}: {why}", point.describe()));
    let mut run = Run { work: point.work, tables, next: 0, changes: Vec::new() };
    run.until(&mut *database, time / 4).map_err(failed)?;
    let figures = run.until(&mut *database, time).map_err(failed)?;
    Ok(Ok(figures))
}

struct Run {
    work: Work,
    tables: Vec<workload::Table>,
    next: u64,
    changes: Vec<workload::Change>,
}

impl Run {
    /// Transactions until the time is over: nanoseconds of the clock and of the processor for each, their rate, the load.
    fn until(&mut self, database: &mut dyn Database, time: Duration) -> Result<[f64; 4], String> {
        let (begin, processor) = (Instant::now(), processor_time());
        let first = self.next;
        // As many between two looks at the clock that these cost nothing.
        let mut batch = 1;
        loop {
            let at = Instant::now();
            for _ in 0..batch {
                self.work.changes(self.next, &self.tables, &mut self.changes);
                database.transact(&self.changes)?;
                self.next += 1;
            }
            if begin.elapsed() >= time {
                break;
            }
            if at.elapsed() < time / 200 {
                batch *= 2;
            }
        }
        let count = (self.next - first) as f64;
        let elapsed = begin.elapsed().as_nanos() as f64;
        let used = (processor_time() - processor).as_nanos() as f64;
        Ok([elapsed / count, used / count, count / elapsed * 1e9, load_average()])
    }
}

/// What this thread has had of the processor.
#[expect(unsafe_code, reason = "std has no clock of a thread's processor time")]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(rc, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_apart_by_their_keys() {
        let mut keys: Vec<_> = points(false).iter().map(|point| point.key("build", 0)).collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!((keys.len(), count), (8 * 5 + 8 * 3, 8 * 5 + 8 * 3));
    }
}
