//! What the pause bench found: a summary, charts, a page.

use crate::chart::{Chart, Scale, Series, short};
use crate::config::BenchConfig;
use crate::page::{Page, Section, machine, write_csv};
use crate::pause::{CAPTURES, MEMORY_MIB, PAGES, PAGES_OVER_MEMORY, PAGES_OVER_WORDS, Point, WORDS, WORDS_USUAL};
use crate::table::{Row, Spread};
use protect::epoch::capture::CaptureMode;
use vmm::exit::Failure;

/// Pages, and the pause in µs that is aimed at for them.
const AIMS: [(u64, f64); 4] = [(0, 150.0), (1024, 1500.0), (4096, 1000.0), (65536, 5000.0)];

struct Results<'a>(&'a [Row]);

impl Results<'_> {
    fn spread(&self, is_it: impl Fn(Point) -> bool, figure: &str) -> Option<Spread> {
        let rows = self.0.iter().filter(|row| Point::of(row).is_some_and(&is_it));
        Spread::of(rows.map(|row| row.get(figure)))
    }

    fn at(&self, pages: u64, figure: &str) -> Option<Spread> {
        let memory_mib = if pages > 16384 { 1024 } else { 256 };
        self.spread(
            |point| point == Point { pages, words: WORDS_USUAL, memory_mib, capture: CaptureMode::Auto },
            figure,
        )
    }

    /// A figure of a way of capturing, at the usual memory for these pages.
    fn of(&self, capture: CaptureMode, pages: u64, figure: &str) -> Option<Spread> {
        let memory_mib = if pages > 16384 { 1024 } else { 256 };
        self.spread(|point| point == Point { pages, words: WORDS_USUAL, memory_mib, capture }, figure)
    }

    fn over_pages(&self, figure: &str) -> Vec<(f64, Spread)> {
        let at = |(index, &pages): (usize, &u64)| Some((index as f64, self.at(pages, figure)?));
        PAGES.iter().enumerate().filter_map(at).collect()
    }
}

/// Writes everything that is to be seen.
pub(crate) fn write(config: &BenchConfig, rows: &[Row]) -> Result<(), Failure> {
    let results = Results(rows);
    let repeats =
        rows.iter().map(|row| &row.key[6]).max().and_then(|last| last.parse::<u32>().ok()).map_or(0, |n| n + 1);
    summary(config, &results)?;
    let page = Page {
        title: "How long an epoch's boundary stops the guest".into(),
        intro: vec![
            format!(
                "A bare guest with one vCPU writes the same pages over and over, under a backup on the same machine. Each \
                 point was measured {repeats} times; points are medians of that, whiskers reach from the smallest to the \
                 largest."
            ),
            machine(Spread::of(rows.iter().map(|row| row.get("load_1min")))),
        ],
        sections: vec![over_pages(&results), ways(&results), over_memory(&results), on_the_wire(&results)],
    };
    page.write(config)
}

fn ticks(numbers: &[u64]) -> Vec<(f64, String)> {
    numbers.iter().enumerate().map(|(index, number)| (index as f64, number.to_string())).collect()
}

fn over_pages(results: &Results<'_>) -> Section {
    let line = |name: &str, figure: &str| Series::new(name, results.over_pages(figure));
    let pause = line("pause, median", "pause_p50_us");
    let chart = Chart {
        title: "Pause and its parts".into(),
        x_label: "dirty pages of the epoch (4 KiB each)".into(),
        y_label: "µs".into(),
        ticks: ticks(&PAGES),
        y_scale: Scale::Log,
        mark: None,
        series: vec![
            pause,
            line("pause, 99th percentile", "pause_p99_us"),
            line("copying pages, median", "copy_p50_us"),
            line("dirty log, median", "harvest_p50_us"),
            line("vCPU and devices, median", "save_p50_us"),
        ],
    };
    let mut seen: Vec<String> = AIMS
        .into_iter()
        .filter_map(|(pages, aim)| {
            let pause = results.at(pages, "pause_p50_us")?;
            let verdict = if pause.median <= aim { "within" } else { "beyond" };
            Some(format!(
                "With {pages} dirty pages the guest stands still for {} µs in the median ({} to {} between repetitions), \
                 {verdict} the aim of {} µs.",
                short(pause.median),
                short(pause.min),
                short(pause.max),
                short(aim)
            ))
        })
        .collect();
    seen.extend(per_page(results));
    let heads = ["dirty pages", "pause p50", "p99", "max", "save", "dirty log", "copy", "commit p50", "commit p99"];
    let figures = [
        "pause_p50_us",
        "pause_p99_us",
        "pause_max_us",
        "save_p50_us",
        "harvest_p50_us",
        "copy_p50_us",
        "commit_p50_us",
        "commit_p99_us",
    ];
    let row = |&pages: &u64| {
        results.at(pages, "pause_p50_us")?;
        let cell = |figure| results.at(pages, figure).map_or(String::new(), |spread| short(spread.median));
        Some(std::iter::once(pages.to_string()).chain(figures.map(cell)).collect())
    };
    Section {
        title: "How does the pause grow with what was written?".into(),
        chart: Some(("pause", chart)),
        seen,
        table: Some((
            heads
                .iter()
                .map(|head| if *head == "dirty pages" { (*head).into() } else { format!("{head}, µs") })
                .collect(),
            PAGES.iter().filter_map(row).collect(),
        )),
    }
}

/// What each further page adds, between the two largest epochs that were measured.
fn per_page(results: &Results<'_>) -> Option<String> {
    let (few, many) = (256, 4096);
    let seen = |pages, figure| results.at(pages, figure).map(|spread| spread.median);
    let pages = seen(many, "dirty_p50")? - seen(few, "dirty_p50")?;
    let pause = seen(many, "pause_p50_us")? - seen(few, "pause_p50_us")?;
    (pages > 0.0).then(|| {
        format!("Between {few} and {many} pages each page adds {:.2} µs, almost all of it for its copy.", pause / pages)
    })
}

/// Stop-and-copy, copy-on-write and the choice between them, one after the other under the same guest.
fn ways(results: &Results<'_>) -> Section {
    let pages = || PAGES.iter().enumerate().filter(|(_, pages)| **pages > 0);
    let line = |capture: CaptureMode, figure: &str, name: &str| {
        let at = |(index, &pages): (usize, &u64)| Some((index as f64, results.of(capture, pages, figure)?));
        Series::new(format!("{}, {name}", capture.as_str()), pages().filter_map(at).collect())
    };
    let series = CAPTURES.into_iter().flat_map(|capture| {
        [line(capture, "pause_p50_us", "median"), line(capture, "pause_p99_us", "99th percentile")]
    });
    let heads = [
        "dirty pages",
        "capture",
        "pause p50, µs",
        "p99, µs",
        "max, µs",
        "pages armed",
        "arming, µs",
        "faults an epoch",
        "a fault, µs",
        "guest's work to stop-and-copy",
        "to unprotected",
    ];
    let mut rows = Vec::new();
    for (_, &pages) in pages() {
        for capture in CAPTURES {
            let median = |figure| results.of(capture, pages, figure).map(|spread| spread.median);
            let Some(rate) = median("rounds_per_s") else { continue };
            let cell = |figure| median(figure).map_or(String::new(), short);
            let to = |other: Option<f64>| other.map_or(String::new(), |other| format!("{:.3}", rate / other));
            let stopped = results.of(CaptureMode::StopAndCopy, pages, "rounds_per_s").map(|spread| spread.median);
            let figures = [
                "pause_p50_us",
                "pause_p99_us",
                "pause_max_us",
                "armed_mean",
                "arm_p50_us",
                "faults_per_epoch",
                "fault_p50_us",
            ];
            let row = [pages.to_string(), capture.as_str().to_owned()].into_iter().chain(figures.map(cell));
            rows.push(row.chain([to(stopped), to(median("unprotected_per_s"))]).collect());
        }
    }
    Section {
        title: "Is it shorter to copy while the guest runs?".into(),
        chart: Some((
            "capture",
            Chart {
                title: "Pause by the way of capturing".into(),
                x_label: "dirty pages of the epoch (4 KiB each)".into(),
                y_label: "pause in µs".into(),
                ticks: ticks(&PAGES),
                y_scale: Scale::Log,
                mark: None,
                series: series.collect(),
            },
        )),
        seen: vec![
            "The guest writes all of its pages in every epoch, as fast as it can: the worst case for copying later, because \
             every page will be written again soon. Its work is rounds over its pages."
                .into(),
        ],
        table: Some((heads.map(str::to_owned).to_vec(), rows)),
    }
}

fn over_memory(results: &Results<'_>) -> Section {
    let line = |pages: u64| {
        let at = |(index, &memory_mib): (usize, &u64)| {
            let point = Point { pages, words: WORDS_USUAL, memory_mib, capture: CaptureMode::Auto };
            Some((index as f64, results.spread(|other| other == point, "pause_p50_us")?))
        };
        Series::new(format!("{pages} dirty pages"), MEMORY_MIB.iter().enumerate().filter_map(at).collect())
    };
    let series: Vec<Series> = PAGES_OVER_MEMORY.into_iter().map(line).collect();
    let growth = |series: &Series| {
        let (first, last) = (series.points.first()?.1.median, series.points.last()?.1.median);
        Some(format!(
            "{}: {} µs at {} MiB, {} µs at {} MiB, a factor of {:.2} for {} times the memory.",
            series.name,
            short(first),
            MEMORY_MIB[0],
            short(last),
            MEMORY_MIB[MEMORY_MIB.len() - 1],
            last / first,
            MEMORY_MIB[MEMORY_MIB.len() - 1] / MEMORY_MIB[0]
        ))
    };
    let mut seen: Vec<String> = series.iter().filter_map(growth).collect();
    seen.push("What grows is the reading of the dirty log, which has a bit for each page of RAM.".into());
    Section {
        title: "Does the size of memory matter?".into(),
        chart: Some((
            "memory",
            Chart {
                title: "Pause over the size of memory, median".into(),
                x_label: "guest memory in MiB".into(),
                y_label: "pause in µs".into(),
                ticks: ticks(&MEMORY_MIB),
                y_scale: Scale::Log,
                mark: None,
                series,
            },
        )),
        seen,
        table: None,
    }
}

fn on_the_wire(results: &Results<'_>) -> Section {
    let empty = results.at(0, "bytes_p50").map_or(0.0, |spread| spread.median);
    let row = |&words: &u64| {
        let point = Point { pages: PAGES_OVER_WORDS, words, memory_mib: 256, capture: CaptureMode::Auto };
        let get = |figure| results.spread(|other| other == point, figure).map(|spread| spread.median);
        let (bytes, pages) = (get("bytes_mean")?, get("dirty_mean")?);
        let per_page = (bytes - empty) / pages;
        Some(vec![
            format!("{words} of 512"),
            short(bytes),
            format!("{per_page:.0}"),
            short(get("commit_p50_us")?),
            short(get("commit_p99_us")?),
        ])
    };
    let heads = ["words written in a page", "bytes of an epoch", "bytes a page", "commit p50, µs", "commit p99, µs"];
    Section {
        title: "What does a page cost on the wire?".into(),
        chart: None,
        seen: vec![format!(
            "An epoch without dirty pages ships {} bytes: the state of vCPU, chips and devices. The pages of this guest \
             are zero but for the words that it writes, and those do not compress; a page of which all 512 words are \
             written travels as it is.",
            short(empty)
        )],
        table: Some((heads.map(str::to_owned).to_vec(), WORDS.iter().filter_map(row).collect())),
    }
}

fn summary(config: &BenchConfig, results: &Results<'_>) -> Result<(), Failure> {
    let mut points: Vec<Point> = Vec::new();
    for point in results.0.iter().filter_map(Point::of) {
        if !points.contains(&point) {
            points.push(point);
        }
    }
    let figures: Vec<&'static str> =
        results.0.first().map(|row| row.figures.keys().copied().collect()).unwrap_or_default();
    let heads =
        ["pages", "words", "memory_mib", "capture", "figure", "median", "min", "max", "repetitions"].map(str::to_owned);
    let mut rows = Vec::new();
    for point in points {
        for figure in &figures {
            let Some(Spread { median, min, max, count }) = results.spread(|other| other == point, figure) else {
                continue;
            };
            let numbers = [median, min, max].map(|number| format!("{}", (number * 1e4).round() / 1e4));
            let key = [point.pages, point.words, point.memory_mib].map(|number| number.to_string());
            let capture = point.capture.as_str().to_owned();
            let fields =
                key.into_iter().chain([capture, (*figure).to_owned()]).chain(numbers).chain([count.to_string()]);
            rows.push(fields.collect());
        }
    }
    write_csv(&config.out.join("pause-summary.csv"), &heads, &rows)
}
