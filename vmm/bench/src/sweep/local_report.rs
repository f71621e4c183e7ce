//! What the sweep of local checkpoints found: a summary, charts, a page.

use crate::chart::{Chart, Scale};
use crate::config::BenchConfig;
use crate::page::{Page, Section, machine};
use crate::sweep::Question;
use crate::sweep::report::{Results, in_order, name, relative_section, summary, widest, with_spread};
use crate::table::{Row, Spread};
use vmm::exit::Failure;

/// A workload, the length of epochs, and the run time relative to unprotected that is aimed at.
const AIMS: [(&str, &str, f64); 6] = [
    ("edit", "1ms", 1.02),
    ("edit", "10ms", 1.02),
    ("edit", "100ms", 1.02),
    ("edit", "1s", 1.02),
    ("compile", "10ms", 1.10),
    ("fsync", "10ms", 1.00),
];

/// Writes everything that is to be seen.
pub(crate) fn write(config: &BenchConfig, rows: &[Row], skipped: &[String]) -> Result<(), Failure> {
    let results = Results::new(rows);
    summary(config, &results, Question::Local)?;
    let charts = [
        (
            "pause",
            "How long does a boundary stop the guest?",
            "Pause of a boundary, median",
            "pause in µs",
            "pause_p50_us",
        ),
        (
            "commit",
            "How long until an epoch is safe?",
            "From the seal of an epoch to its commit, median",
            "commit latency in µs",
            "commit_p50_us",
        ),
        (
            "dirty",
            "How many pages does an epoch write?",
            "Dirty pages of an epoch, median",
            "pages of 4 KiB",
            "dirty_p50",
        ),
    ];
    let mut sections = vec![relative(&results)];
    sections.extend(charts.map(|(file, title, heading, unit, figure)| Section {
        title: title.into(),
        chart: Some((file, chart(&results, heading, unit, figure))),
        seen: Vec::new(),
        table: None,
    }));
    let page =
        Page { title: "What a guest pays for outlasting its own host".into(), intro: intro(rows, skipped), sections };
    page.write(config)
}

fn chart(results: &Results<'_>, title: &str, y_label: &str, figure: &str) -> Chart {
    let chart = results.chart(title, y_label, figure, Scale::Log);
    Chart { x_label: "time between two commits in ms".into(), ..chart }
}

fn intro(rows: &[Row], skipped: &[String]) -> Vec<String> {
    let repeats = in_order(rows, "repeat").len();
    let mut texts = vec![
        format!(
            "One guest with one vCPU does the same work unprotected, then committed to a state directory in memory \
             (`--protect local`) at four intervals, then unprotected again, {repeats} times. Points are medians, whiskers \
             reach from the smallest to the largest value. Workloads are timed by the guest's own clock, requests by \
             their client."
        ),
        machine(Spread::of(rows.iter().map(|row| row.get("load_1min")))),
        "Numbers: local-sweep.csv has every point, local-sweep-summary.csv medians and spreads.".into(),
    ];
    texts.extend(skipped.iter().map(|what| format!("Not measured here: {what}.")));
    texts
}

fn relative(results: &Results<'_>) -> Section {
    let chart = chart(results, "Run time relative to unprotected", "times the unprotected run time", "relative");
    let verdict = |(workload, epoch, aim): (&str, &str, f64)| {
        let spread = results.spread(workload, epoch, "relative")?;
        let verdict = if spread.median <= aim { "within" } else { "beyond" };
        let (name, seen) = (name(workload), with_spread(spread));
        Some(format!("{name}, a commit every {epoch}: {seen}, {verdict} the aim of {aim:.2}."))
    };
    let mut seen: Vec<String> = AIMS.into_iter().filter_map(verdict).collect();
    seen.extend(widest(results));
    relative_section(results, chart, seen)
}
