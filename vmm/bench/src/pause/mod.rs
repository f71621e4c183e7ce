//! How long an epoch's boundary stops the guest: over the number of dirty pages, and over the size of RAM.

mod report;

use std::time::{Duration, Instant};

use crate::config::BenchConfig;
use crate::load::Load;
use crate::progress::Progress;
use crate::session::{FIGURES, Figures, GuestSpec, Session};
use crate::sweep::load_average;
use crate::table::{Columns, Row, Table};
use crate::{bare_guest, build_id};
use outlast_api::figures::Counters;
use protect::CommitDurability;
use protect::epoch::capture::CaptureMode;
use protect::epoch::pace::Length;
use vmm::config::format_time;
use vmm::exit::{Exit, Failure};

const KEY: &[&str] = &["build", "pages", "words", "memory_mib", "capture", "epoch", "repeat"];
/// What is known of this bench only. Rates are rounds of the guest's output, so they are compared and not read.
const MORE: &[&str] = &["load_1min", "faults_per_epoch", "rounds_per_s", "unprotected_per_s"];
const COLUMNS: Columns = Columns { key: KEY, figures: &[&FIGURES, MORE] };
/// `round=`, 16 digits, the end of the line.
const ROUND_LINE_BYTES: u64 = 23;

/// The epochs of points with few pages.
const EPOCH: Duration = Duration::from_millis(20);
/// Epochs before anything is measured, and measured at least.
const SETTLE_EPOCHS: u64 = 6;
const SEEN_EPOCHS_MIN: u64 = 15;
/// How long they may take together.
const EPOCHS_MAX: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Dirty pages of an epoch over which the pause is shown.
pub(crate) const PAGES: [u64; 7] = [0, 16, 256, 1024, 4096, 16384, 65536];
/// Sizes of RAM over which the pause is shown, in MiB.
pub(crate) const MEMORY_MIB: [u64; 4] = [256, 1024, 4096, 8192];
/// Dirty pages of the epochs that are shown over the size of RAM.
pub(crate) const PAGES_OVER_MEMORY: [u64; 2] = [0, 4096];
/// Ways of capturing that are compared.
pub(crate) const CAPTURES: [CaptureMode; 3] = [CaptureMode::StopAndCopy, CaptureMode::CopyOnWrite, CaptureMode::Auto];
/// Words written in each page, of 512 that it has: over what a page costs on the wire.
pub(crate) const WORDS: [u64; 3] = [1, 64, 512];
/// The usual page of the other questions.
pub(crate) const WORDS_USUAL: u64 = 1;
/// Pages of the epochs that are shown over what a page costs.
pub(crate) const PAGES_OVER_WORDS: u64 = 1024;

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) pages: u64,
    pub(crate) words: u64,
    pub(crate) memory_mib: u64,
    pub(crate) capture: CaptureMode,
}

impl Point {
    fn usual(pages: u64) -> Self {
        let memory_mib = if pages > 16384 { 1024 } else { 256 };
        Self { pages, words: WORDS_USUAL, memory_mib, capture: CaptureMode::Auto }
    }

    /// Whether an epoch is one round of the guest, however long that takes: with many pages it takes longer than an epoch
    /// of the product, and shorter ones would hold fewer pages than the point is about.
    fn is_by_round(self) -> bool {
        self.pages >= 4096
    }

    fn key(self, build: &str, repeat: u32) -> Vec<String> {
        let epoch = if self.is_by_round() { "round".into() } else { format_time(EPOCH) };
        let numbers = [self.pages, self.words, self.memory_mib].map(|number| number.to_string());
        let [pages, words, memory] = numbers;
        let capture = self.capture.as_str().to_owned();
        vec![build.to_owned(), pages, words, memory, capture, epoch, repeat.to_string()]
    }

    /// The point of a row.
    pub(crate) fn of(row: &Row) -> Option<Self> {
        let number = |column: usize| row.key[column].parse().ok();
        let capture = CAPTURES.into_iter().find(|capture| capture.as_str() == row.key[4])?;
        Some(Self { pages: number(1)?, words: number(2)?, memory_mib: number(3)?, capture })
    }

    /// The ways that are compared here; elsewhere the usual one will do.
    fn captures(self) -> &'static [CaptureMode] {
        let is_usual = self == Self::usual(self.pages) && self.pages > 0;
        if is_usual { &CAPTURES } else { &CAPTURES[2..] }
    }

    /// Rounds for each line of the guest: a line every few milliseconds where that can be had, or for each round.
    fn report(self) -> u64 {
        if self.is_by_round() { 1 } else { (50_000 / self.pages.max(1)).max(1) }
    }

    fn spec(self, config: &BenchConfig) -> Result<GuestSpec, Failure> {
        // From 16 MiB on, what `dirty` leaves for itself; spread out a little where there is room.
        let span_mib = (self.pages / 256).max(64);
        let (guest, cmdline) = match self.pages {
            0 => ("spin", "report=0x7fffffffffff".to_owned()),
            pages => ("dirty", format!("pages={pages} span={span_mib} words={} report={}", self.words, self.report())),
        };
        Ok(GuestSpec {
            kernel: bare_guest(config, guest)?,
            initramfs: None,
            cmdline,
            vcpus: 1,
            memory_bytes: self.memory_mib << 20,
            disk: None,
            tap: None,
            backup: None,
            state_dir: None,
            durability: CommitDurability::Disk,
            min_epoch: Duration::ZERO,
        })
    }
}

fn points(quick: bool) -> Vec<Point> {
    let mut points: Vec<Point> = PAGES.iter().map(|&pages| Point::usual(pages)).collect();
    if quick {
        // It takes as long as half of the others together.
        points.retain(|point| point.pages != 16384);
    }
    let over_memory = MEMORY_MIB
        .iter()
        .flat_map(|&memory_mib| PAGES_OVER_MEMORY.map(|pages| Point { memory_mib, ..Point::usual(pages) }));
    let over_words = WORDS.iter().map(|&words| Point { words, ..Point::usual(PAGES_OVER_WORDS) });
    for point in over_memory.chain(over_words) {
        if !points.contains(&point) {
            points.push(point);
        }
    }
    points
}

/// Measures and reports.
pub(crate) fn run(config: &BenchConfig) -> Result<(), Failure> {
    let build = build_id()?;
    let mut table = Table::open(&config.out.join("pause.csv"), COLUMNS)?;
    let repeats = config.repeat.unwrap_or(if config.quick { 2 } else { 5 });
    let time = Duration::from_secs(if config.quick { 2 } else { 5 });
    let all: Vec<(u32, Point)> =
        (0..repeats).flat_map(|repeat| points(config.quick).into_iter().map(move |point| (repeat, point))).collect();
    let is_done = |table: &Table, (repeat, point): (u32, Point)| {
        point.captures().iter().all(|&capture| table.has(&Point { capture, ..point }.key(&build, repeat)))
    };
    let progress = Progress::new(all.len(), all.iter().filter(|&&one| is_done(&table, one)).count());
    for &(repeat, point) in &all {
        if !is_done(&table, (repeat, point)) {
            let measuring = Measuring { point, build: &build, repeat, time };
            measuring.run(config, &mut table, &progress)?;
        }
    }
    drop(progress);
    let rows: Vec<Row> = table.rows().iter().filter(|row| row.key[0] == build).cloned().collect();
    report::write(config, &rows)
}

/// One guest that is measured with each way of capturing in turn.
struct Measuring<'a> {
    point: Point,
    build: &'a str,
    repeat: u32,
    time: Duration,
}

impl Measuring<'_> {
    fn run(&self, config: &BenchConfig, table: &mut Table, progress: &Progress) -> Result<(), Failure> {
        let Point { pages, words, memory_mib, capture: _ } = self.point;
        let what = format!("{pages} dirty pages, {words} words written in each, {memory_mib} MiB");
        progress.begin(&what);
        let mut session = Session::boot(self.point.spec(config)?, &config.out.join("work"))?;
        let mut load = (pages > 0).then_some(Load::Lines { bytes: ROUND_LINE_BYTES });
        let (mut unprotected, mut length) = (f64::NAN, Length::Fixed(EPOCH));
        if let Some(load) = &mut load {
            let before = session.stats().counts();
            unprotected = load.sample(&session, self.time / 2)?.rate();
            if self.point.is_by_round() {
                length = Length::Exits(exits_per_line(before, session.stats().counts()));
            }
        }
        session.protect(length)?;
        let mut captures = self.point.captures().to_vec();
        let turn = self.repeat as usize % captures.len();
        captures.rotate_left(turn);
        let mut said = Vec::new();
        for capture in captures {
            let point = Point { capture, ..self.point };
            let key = point.key(self.build, self.repeat);
            session.set_capture(capture);
            let mut figures = self.figures(&session, load.as_mut())?;
            figures.insert("unprotected_per_s", unprotected);
            let row = Row { key, figures };
            said.push(format!("{} {:.0} us", capture.as_str(), row.get("pause_p50_us")));
            if !table.has(&row.key) {
                table.add(row)?;
            }
        }
        session.unprotect()?;
        progress.done(&what, &format!("pause {}", said.join(", ")));
        Ok(())
    }

    fn figures(&self, session: &Session, load: Option<&mut Load>) -> Result<Figures, Failure> {
        // The base, and the first epochs of a way of capturing: its buffers are fresh and its costs not known.
        wait_for_epochs(session, SETTLE_EPOCHS)?;
        session.stats().reset_distributions();
        let before = session.stats().counts();
        let rate = match load {
            Some(load) => load.sample(session, self.time)?.rate(),
            None => {
                std::thread::sleep(self.time);
                f64::NAN
            }
        };
        wait_for_epochs(session, (before.epochs + SEEN_EPOCHS_MIN).saturating_sub(session.stats().counts().epochs))?;
        let after = session.stats().counts();
        let mut figures = session.figures();
        figures.remove("stopped_share");
        figures.insert("load_1min", load_average());
        let epochs = (after.epochs - before.epochs) as f64;
        figures.insert("faults_per_epoch", (after.capture_faults - before.capture_faults) as f64 / epochs);
        figures.insert("rounds_per_s", rate);
        Ok(figures)
    }
}

/// What the guest's exits are for: each line takes the same number of them.
fn exits_per_line(before: Counters<u64>, after: Counters<u64>) -> u64 {
    let lines = (after.console_bytes - before.console_bytes) as f64 / ROUND_LINE_BYTES as f64;
    ((after.exits - before.exits) as f64 / lines).round() as u64
}

fn wait_for_epochs(session: &Session, count: u64) -> Result<(), Failure> {
    let (first, begun) = (session.stats().counts().epochs, Instant::now());
    while session.stats().counts().epochs < first + count {
        session.check()?;
        if begun.elapsed() > EPOCHS_MAX {
            let why = format!("{count} epochs took longer than {} s", EPOCHS_MAX.as_secs());
            return Err(Failure::new(Exit::Timeout, why));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
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
        assert_eq!(count, PAGES.len() + 6 + 2);
    }

    #[test]
    fn point_of_a_row_is_the_point_that_made_it() {
        for point in points(true) {
            let row = Row { key: point.key("build", 3), figures: Default::default() };
            assert_eq!(Point::of(&row), Some(point));
        }
    }
}
