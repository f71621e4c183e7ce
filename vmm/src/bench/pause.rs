//! How long an epoch's boundary stops the guest: over the number of dirty pages, and over the size of RAM.

use std::time::Duration;

use super::progress::Progress;
use super::session::{FIGURES, GuestSpec, Session};
use super::sweep::load_average;
use super::table::{Columns, Row, Table};
use super::{bare_guest, build_id, pause_report};
use crate::config::{BenchConfig, CommitDurability, EpochLength};
use crate::exit::Failure;

const KEY: &[&str] = &["build", "pages", "words", "memory_mib", "epoch", "repeat"];
const COLUMNS: Columns = Columns { key: KEY, figures: &[&FIGURES, &["load_1min"]] };

/// Dirty pages of an epoch over which the pause is shown.
pub(super) const PAGES: [u64; 7] = [0, 16, 256, 1024, 4096, 16384, 65536];
const PAGES_QUICK: usize = 6;
/// Sizes of RAM over which the pause is shown, in MiB.
pub(super) const MEMORY_MIB: [u64; 3] = [256, 1024, 4096];
/// Dirty pages of the epochs that are shown over the size of RAM.
pub(super) const PAGES_OVER_MEMORY: [u64; 2] = [0, 1024];
/// Words written in each page, of 512 that it has: over what a page costs on the wire.
pub(super) const WORDS: [u64; 3] = [1, 64, 512];
/// The usual page of the other questions.
pub(super) const WORDS_USUAL: u64 = 1;
/// Pages of the epochs that are shown over what a page costs.
pub(super) const PAGES_OVER_WORDS: u64 = 1024;

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) pages: u64,
    pub(super) words: u64,
    pub(super) memory_mib: u64,
}

impl Point {
    fn usual(pages: u64) -> Self {
        let memory_mib = if pages > 16384 { 1024 } else { 256 };
        Self { pages, words: WORDS_USUAL, memory_mib }
    }

    /// Long enough for the guest to write all pages once, with the fault that each of them costs it.
    fn epoch(self) -> Duration {
        Duration::from_millis((self.pages / 50).max(20))
    }

    fn key(self, build: &str, repeat: u32) -> Vec<String> {
        let epoch = EpochLength::Fixed(self.epoch()).to_string();
        let numbers = [self.pages, self.words, self.memory_mib].map(|number| number.to_string());
        let [pages, words, memory] = numbers;
        vec![build.to_owned(), pages, words, memory, epoch, repeat.to_string()]
    }

    /// The point of a row.
    pub(super) fn of(row: &Row) -> Option<Self> {
        let number = |column: usize| row.key[column].parse().ok();
        Some(Self { pages: number(1)?, words: number(2)?, memory_mib: number(3)? })
    }

    fn spec(self, config: &BenchConfig) -> Result<GuestSpec, Failure> {
        // From 16 MiB on, what `dirty` leaves for itself; spread out a little where there is room.
        let span_mib = (self.pages / 256).max(64);
        let (guest, cmdline) = match self.pages {
            0 => ("spin", "report=0x7fffffffffff".to_owned()),
            pages => ("dirty", format!("pages={pages} span={span_mib} words={} report=0x7fffffff", self.words)),
        };
        Ok(GuestSpec {
            kernel: bare_guest(config, guest)?,
            initramfs: None,
            cmdline,
            memory_bytes: self.memory_mib << 20,
            disk: None,
            tap: None,
            backup: None,
            durability: CommitDurability::Disk,
        })
    }
}

fn points(quick: bool) -> Vec<Point> {
    let pages = &PAGES[..if quick { PAGES_QUICK } else { PAGES.len() }];
    let mut points: Vec<Point> = pages.iter().map(|&pages| Point::usual(pages)).collect();
    let over_memory = MEMORY_MIB
        .iter()
        .flat_map(|&memory_mib| PAGES_OVER_MEMORY.map(|pages| Point { pages, words: WORDS_USUAL, memory_mib }));
    let over_words = WORDS.iter().map(|&words| Point { words, ..Point::usual(PAGES_OVER_WORDS) });
    for point in over_memory.chain(over_words) {
        if !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

/// Measures and reports.
pub(super) fn run(config: &BenchConfig) -> Result<(), Failure> {
    let build = build_id()?;
    let mut table = Table::open(&config.out.join("pause.csv"), COLUMNS)?;
    let repeats = config.repeat.unwrap_or(if config.quick { 2 } else { 5 });
    let time = Duration::from_secs(if config.quick { 2 } else { 5 });
    let all: Vec<(u32, Point)> =
        (0..repeats).flat_map(|repeat| points(config.quick).into_iter().map(move |point| (repeat, point))).collect();
    let is_done = |table: &Table, (repeat, point): (u32, Point)| table.has(&point.key(&build, repeat));
    let progress = Progress::new(all.len(), all.iter().filter(|&&one| is_done(&table, one)).count());
    for &(repeat, point) in &all {
        if !is_done(&table, (repeat, point)) {
            let row = measure(config, point, point.key(&build, repeat), time, &progress)?;
            table.add(row)?;
        }
    }
    drop(progress);
    let rows: Vec<Row> = table.rows().iter().filter(|row| row.key[0] == build).cloned().collect();
    pause_report::write(config, &rows)
}

fn measure(
    config: &BenchConfig,
    point: Point,
    key: Vec<String>,
    time: Duration,
    progress: &Progress,
) -> Result<Row, Failure> {
    let Point { pages, words, memory_mib } = point;
    let what = format!("{pages} dirty pages, {words} words written in each, {memory_mib} MiB");
    progress.begin(&what);
    let mut session = Session::boot(point.spec(config)?, &config.out.join("work"))?;
    session.protect(EpochLength::Fixed(point.epoch()))?;
    // The base and the first epochs after it are larger than the others.
    std::thread::sleep(point.epoch() * 10);
    session.stats().reset_distributions();
    std::thread::sleep(time.max(point.epoch() * 20));
    session.check()?;
    let mut figures = session.figures();
    figures.remove("stopped_share");
    figures.insert("load_1min", load_average());
    session.unprotect()?;
    let row = Row { key, figures };
    progress.done(&what, &format!("pause {:.0} us, {:.0} pages", row.get("pause_p50_us"), row.get("dirty_p50")));
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_apart_by_their_keys() {
        let mut keys: Vec<_> = points(false).iter().map(|point| point.key("build", 0)).collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_eq!(count, PAGES.len() + 4 + 2);
    }

    #[test]
    fn point_of_a_row_is_the_point_that_made_it() {
        for point in points(true) {
            let row = Row { key: point.key("build", 3), figures: Default::default() };
            assert_eq!(Point::of(&row), Some(point));
        }
    }
}
