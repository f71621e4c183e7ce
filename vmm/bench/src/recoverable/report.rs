//! What the bench of recoverable memory found: a summary, charts, a page.

use super::super::chart::{Chart, Scale, Series, short};
use super::super::page::{Page, Section, machine, write_csv};
use super::super::table::{Row, Spread};
use super::engine::{Claim, Engine};
use super::workload::Work;
use super::{Point, SIZES, points};
use crate::config::BenchConfig;
use vmm::exit::Failure;

/// What a small transaction may cost more than plain stores, in ns.
const AIM_NS: f64 = 100.0;
/// How many times LMDB's rate is aimed at.
const AIM_RATE: f64 = 10.0;

struct Results<'a>(&'a [Row]);

impl Results<'_> {
    fn get(&self, point: Point, figure: &str) -> Option<Spread> {
        Spread::of(self.0.iter().filter(|row| point.is(row)).map(|row| row.get(figure)))
    }

    /// Processor time of a store of so many bytes.
    fn store(&self, engine: Engine, bytes: usize, figure: &str) -> Option<Spread> {
        self.get(Point { work: Work::Store(bytes), engine, claim: Claim::ProcessDeath }, figure)
    }

    /// What a transaction costs more than the same plain stores, repetition by repetition.
    fn overhead(&self, engine: Engine, bytes: usize, figure: &str) -> Option<Spread> {
        let of = |engine: Engine| {
            let point = Point { work: Work::Store(bytes), engine, claim: Claim::ProcessDeath };
            move |row: &&Row| point.is(row)
        };
        let differences = self.0.iter().filter(of(engine)).filter_map(|row| {
            let plain = self.0.iter().filter(of(Engine::Plain)).find(|plain| plain.key[4] == row.key[4])?;
            Some(row.get(figure) - plain.get(figure))
        });
        Spread::of(differences)
    }
}

/// Writes everything that is to be seen.
pub(crate) fn write(config: &BenchConfig, rows: &[Row], absent: &[(Engine, Claim, String)]) -> Result<(), Failure> {
    let results = Results(rows);
    summary(config, &results)?;
    let mut intro = vec![
        "Transactions of one thread on 50 MB, one after the other, with the same changes for every engine. Points are \
         medians of the repetitions, whiskers reach from the smallest to the largest. Engines stand beside each other \
         only when their commits survive the same."
            .to_owned(),
        machine(Spread::of(rows.iter().map(|row| row.get("load_1min")))),
    ];
    intro.extend(
        absent.iter().map(|(engine, claim, why)| format!("{} ({}) is left out: {why}.", engine.name(), claim.name())),
    );
    let page = Page {
        title: "What a transaction on recoverable memory costs".into(),
        intro,
        sections: vec![
            over_sizes(&results),
            rates(&results, Claim::ProcessDeath, "tmpfs"),
            rates(&results, Claim::PowerLoss, "disk"),
        ],
    };
    page.write(config)
}

fn over_sizes(results: &Results<'_>) -> Section {
    let line = |engine: Engine| {
        let at = |(index, &bytes): (usize, &usize)| Some((index as f64, results.store(engine, bytes, "cpu_ns")?));
        let points = SIZES.iter().enumerate().filter_map(at).collect();
        let name = if engine.is_indexed() { format!("{}, with an index", engine.name()) } else { engine.name().into() };
        Series::new(name, points)
    };
    let series: Vec<Series> = Engine::ALL.into_iter().map(line).filter(|series| !series.points.is_empty()).collect();
    let mut seen = Vec::new();
    for (figure, clock) in [("cpu_ns", "of the processor"), ("ns", "of the clock")] {
        if let Some(over) = results.overhead(Engine::Vista, 8, figure) {
            seen.push(format!(
                "A Vista transaction of 8 bytes costs {} ns {clock} more than the plain store, in the median ({} to {}), {} \
                 the aim of {} ns.",
                short(over.median),
                short(over.min),
                short(over.max),
                if over.median <= AIM_NS { "within" } else { "beyond" },
                short(AIM_NS)
            ));
        }
    }
    seen.push(
        "Stores go to random places of 50 MB: much of what they cost is the processor waiting for memory and for page \
         tables. A plain store need not be waited for; a before-image has to be read."
            .into(),
    );
    let heads: Vec<String> = std::iter::once("bytes".to_owned())
        .chain(Engine::ALL.iter().map(|engine| format!("{}, ns", engine.name())))
        .collect();
    let row = |&bytes: &usize| {
        let cell = |engine: &Engine| results.store(*engine, bytes, "cpu_ns").map_or(String::new(), |s| short(s.median));
        std::iter::once(bytes.to_string()).chain(Engine::ALL.iter().map(cell)).collect()
    };
    Section {
        title: "How does the cost of a transaction grow with what it changes? (tmpfs)".into(),
        chart: Some((
            "recoverable-sizes",
            Chart {
                title: "One range, anywhere in 50 MB; commits survive the process".into(),
                x_label: "bytes of the range".into(),
                y_label: "processor time, ns".into(),
                ticks: SIZES.iter().enumerate().map(|(index, bytes)| (index as f64, bytes.to_string())).collect(),
                y_scale: Scale::Log,
                mark: None,
                series,
            },
        )),
        seen,
        table: Some((heads, SIZES.iter().map(row).collect())),
    }
}

fn rates(results: &Results<'_>, claim: Claim, place: &str) -> Section {
    let works = [Work::Store(8), Work::DebitCredit, Work::OrderEntry];
    let engines: Vec<Engine> = Engine::ALL.into_iter().filter(|engine| engine.claims(claim)).collect();
    let rate = |engine: Engine, work: Work| results.get(Point { work, engine, claim }, "per_second");
    let line = |&engine: &Engine| {
        let at = |(index, &work): (usize, &Work)| Some((index as f64, rate(engine, work)?));
        Series::new(engine.name(), works.iter().enumerate().filter_map(at).collect())
    };
    let series = engines.iter().map(line).filter(|series| !series.points.is_empty()).collect();
    let mut seen = Vec::new();
    for engine in [Engine::Vista, Engine::Rvm] {
        for work in &works[1..] {
            let (Some(ours), Some(theirs)) = (rate(engine, *work), rate(Engine::Lmdb, *work)) else { continue };
            let times = ours.median / theirs.median;
            let verdict = if times >= AIM_RATE { "reaches" } else { "does not reach" };
            seen.push(format!(
                "{}: {} does {} transactions a second, {} times LMDB's {}; that {verdict} the aim of {} times.",
                work.name(),
                engine.name(),
                short(ours.median),
                short(times),
                short(theirs.median),
                short(AIM_RATE)
            ));
        }
    }
    let heads: Vec<String> = std::iter::once("engine".to_owned()).chain(works.iter().map(|work| work.name())).collect();
    let row = |&engine: &Engine| {
        let cell = |work: &Work| {
            let text = |s: Spread| format!("{} ({}–{})", short(s.median), short(s.min), short(s.max));
            rate(engine, *work).map_or(String::new(), text)
        };
        std::iter::once(engine.name().to_owned()).chain(works.iter().map(cell)).collect()
    };
    Section {
        title: format!("How many transactions a second, where commits survive {}? ({place})", claim.name()),
        chart: Some((
            if claim == Claim::ProcessDeath { "recoverable-tmpfs" } else { "recoverable-disk" },
            Chart {
                title: format!("Commits survive {}", claim.name()),
                x_label: "workload".into(),
                y_label: "transactions a second".into(),
                ticks: works.iter().enumerate().map(|(index, work)| (index as f64, work.name())).collect(),
                y_scale: Scale::Log,
                mark: None,
                series,
            },
        )),
        seen,
        table: Some((heads, engines.iter().map(row).collect())),
    }
}

fn summary(config: &BenchConfig, results: &Results<'_>) -> Result<(), Failure> {
    let heads = ["work", "engine", "survives", "figure", "median", "min", "max", "repetitions"].map(str::to_owned);
    let mut rows = Vec::new();
    for point in points(false) {
        for figure in super::FIGURES {
            let Some(Spread { median, min, max, count }) = results.get(point, figure) else { continue };
            let numbers = [median, min, max].map(|number| format!("{}", (number * 1e2).round() / 1e2));
            let key = [point.work.name(), point.engine.name().to_owned(), point.claim.name().to_owned()];
            let fields = key.into_iter().chain([(*figure).to_owned()]).chain(numbers).chain([count.to_string()]);
            rows.push(fields.collect());
        }
    }
    write_csv(&config.out.join("recoverable-summary.csv"), &heads, &rows)
}
