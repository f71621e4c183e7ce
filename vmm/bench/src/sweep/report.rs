//! What the epoch sweep found: a summary, charts, a page.

use std::collections::BTreeSet;

use crate::chart::{Chart, Scale, Series, short};
use crate::config::BenchConfig;
use crate::page::{Page, Section, machine, write_csv};
use crate::sweep::{Question, key_column};
use crate::table::{Row, Spread};
use vmm::exit::Failure;

/// What may be spent on protection at [`AIM_EPOCH`], as run time relative to unprotected.
const AIM: f64 = 1.10;
const AIM_EPOCH: &str = "20ms";

/// Workloads that never wait for anything but a processor.
const BUSY: [&str; 3] = ["cpu", "memory", "disk-read"];

/// Measured rows of one build, asked by workload and epoch length.
pub(crate) struct Results<'a> {
    rows: &'a [Row],
    pub(crate) epochs: Vec<String>,
    pub(crate) workloads: Vec<String>,
}

pub(crate) fn in_order<'a>(rows: &'a [Row], column: &str) -> Vec<String> {
    let mut seen: Vec<&'a str> = Vec::new();
    for row in rows {
        let value = row.key[key_column(column)].as_str();
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen.into_iter().map(str::to_owned).collect()
}

/// Order of epoch lengths: by time, `auto` last.
pub(crate) fn rank(epoch: &str) -> u64 {
    vmm::config::parse_time(epoch).map_or(u64::MAX, |time| time.as_micros() as u64)
}

impl<'a> Results<'a> {
    pub(crate) fn new(rows: &'a [Row]) -> Self {
        let mut epochs = in_order(rows, "epoch");
        epochs.sort_by_key(|epoch| rank(epoch));
        Self { rows, epochs, workloads: in_order(rows, "workload") }
    }

    fn of(&self, workload: &str, epoch: &str) -> impl Iterator<Item = &'a Row> {
        let (workload, epoch) = (workload.to_owned(), epoch.to_owned());
        self.rows
            .iter()
            .filter(move |row| row.key[key_column("workload")] == workload && row.key[key_column("epoch")] == epoch)
    }

    pub(crate) fn spread(&self, workload: &str, epoch: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.of(workload, epoch).map(|row| row.get(figure)))
    }

    fn series(&self, workload: &str, figure: &str) -> Vec<(f64, Spread)> {
        let at = |(index, epoch): (usize, &String)| Some((index as f64, self.spread(workload, epoch, figure)?));
        self.epochs.iter().enumerate().filter_map(at).collect()
    }

    /// A chart of `figure` with a line for each workload that has it above zero somewhere.
    pub(crate) fn chart(&self, title: &str, y_label: &str, figure: &str, y_scale: Scale) -> Chart {
        let lines = self.workloads.iter().map(|workload| Series::new(name(workload), self.series(workload, figure)));
        let has_some = |series: &Series| series.points.iter().any(|(_, spread)| spread.max > 0.0);
        Chart {
            title: title.into(),
            x_label: "epoch length in ms (each step about doubles it)".into(),
            y_label: y_label.into(),
            ticks: self.ticks(),
            y_scale,
            mark: None,
            series: lines.filter(has_some).collect(),
        }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let ms = |epoch: &String| vmm::config::parse_time(epoch).map(|time| time.as_secs_f64() * 1e3);
        let label = |epoch: &String| ms(epoch).map_or(epoch.clone(), |ms| format!("{ms}"));
        self.epochs.iter().enumerate().map(|(index, epoch)| (index as f64, label(epoch))).collect()
    }
}

/// A workload as people say it.
pub(crate) fn name(workload: &str) -> String {
    match workload {
        "cpu" => "CPU".into(),
        "disk-write" => "disk write + flush".into(),
        "edit" => "an editor, 100 ms a key".into(),
        "compile" => "compiling, a process a file".into(),
        "fsync" => "4 KiB and a flush".into(),
        "redis" => "redis, SET and answer".into(),
        "network" => "a line and its answer".into(),
        "disk-write-memory" => "… commit in memory".into(),
        other => other.replace('-', " "),
    }
}

/// Writes everything that is to be seen.
pub(crate) fn write(config: &BenchConfig, rows: &[Row], skipped: &[String]) -> Result<(), Failure> {
    let results = Results::new(rows);
    summary(config, &results, Question::Backup)?;
    let guest = match config.kernel {
        Some(_) => "Linux",
        None => "bare",
    };
    let page = Page {
        title: format!("What an epoch costs: {guest} guests"),
        intro: intro(&results, skipped),
        sections: vec![
            relative(&results),
            unhindered(&results),
            network(&results),
            pause(&results),
            commit(&results),
            pages(&results),
            bytes(&results),
        ],
    };
    page.write(config)
}

fn intro(results: &Results<'_>, skipped: &[String]) -> Vec<String> {
    let repeats = in_order(results.rows, "repeat").len();
    let loads = Spread::of(results.rows.iter().map(|row| row.get("load_1min")));
    let mut texts = vec![
        format!(
            "One guest with one vCPU runs protected and unprotected in turns; what is compared was measured within \
             seconds of each other, {repeats} times for each point. Points are medians, whiskers reach from the \
             smallest to the largest value. The backup is another process on the same machine, over its loopback, so \
             the cost seen here holds the backup's work too."
        ),
        machine(loads),
        "Numbers: epoch-sweep.csv has every point, epoch-sweep-summary.csv medians and spreads.".into(),
    ];
    texts.extend(skipped.iter().map(|what| format!("Not measured here: {what}.")));
    texts
}

pub(crate) fn with_spread(spread: Spread) -> String {
    match spread.count {
        1 => format!("{:.2} (one repetition)", spread.median),
        count => format!("{:.2} ({:.2} to {:.2} in {count} repetitions)", spread.median, spread.min, spread.max),
    }
}

fn relative(results: &Results<'_>) -> Section {
    let chart =
        results.chart("Run time relative to unprotected", "times the unprotected run time", "relative", Scale::Log);
    let mut seen: Vec<String> = Vec::new();
    for workload in &results.workloads {
        seen.extend(relative_in_words(results, workload));
    }
    seen.extend(why_writes_are_faster(results));
    seen.extend(widest(results));
    relative_section(results, chart, seen)
}

/// The first question of a sweep: its chart, what is seen there, and all numbers.
pub(crate) fn relative_section(results: &Results<'_>, mut chart: Chart, seen: Vec<String>) -> Section {
    chart.mark = Some((1.0, "unprotected".into()));
    Section {
        title: "How much longer does work take?".into(),
        chart: Some(("relative", chart)),
        seen,
        table: Some(relative_table(results)),
    }
}

/// Run times relative to unprotected, a line for each workload.
fn relative_table(results: &Results<'_>) -> (Vec<String>, Vec<Vec<String>>) {
    let heads = std::iter::once("workload".to_owned()).chain(results.epochs.iter().cloned()).collect();
    let cell = |workload: &str, epoch: &String| {
        results.spread(workload, epoch, "relative").map_or(String::new(), |spread| format!("{:.2}", spread.median))
    };
    let line = |workload: &String| {
        std::iter::once(name(workload)).chain(results.epochs.iter().map(|epoch| cell(workload, epoch))).collect()
    };
    (heads, results.workloads.iter().map(line).collect())
}

/// The same comparison without what other programs take.
fn unhindered(results: &Results<'_>) -> Section {
    let title = "The same, without the time in which the vCPU had no processor";
    let mut chart = results.chart(title, "times the unprotected run time", "relative_unhindered", Scale::Log);
    chart.series.retain(|series| BUSY.iter().any(|workload| name(workload) == series.name));
    chart.mark = Some((1.0, "unprotected".into()));
    let is_busy = |row: &&Row| BUSY.contains(&row.key[key_column("workload")].as_str());
    let share = |figure: &str| Spread::of(results.rows.iter().filter(is_busy).map(|row| row.get(figure) * 100.0));
    let mut seen = Vec::new();
    if let (Some(ours), Some(base)) = (share("waited_share"), share("base_waited_share")) {
        seen.push(format!(
            "The vCPU's thread wanted a processor and had none for {:.0} % of the protected time in the middle case and \
             {:.0} % at worst, and for {:.0} % and {:.0} % of the unprotected time. That is what other programs took, and \
             what the backup and the shipping of epochs took where no processor was free for them. Leaving it out shows \
             what protection costs where there are enough processors: pauses, faults of first writes, waiting for the \
             backup.",
            ours.median, ours.max, base.median, base.max
        ));
    }
    seen.extend(BUSY.iter().filter_map(|workload| {
        let spread = results.spread(workload, AIM_EPOCH, "relative_unhindered")?;
        Some(format!("{}: at {AIM_EPOCH} {}.", name(workload), with_spread(spread)))
    }));
    Section {
        title: "And on a machine with processors to spare?".into(),
        chart: Some(("unhindered", chart)),
        seen,
        table: None,
    }
}

fn relative_in_words(results: &Results<'_>, workload: &str) -> Option<String> {
    let at_aim = results.spread(workload, AIM_EPOCH, "relative")?;
    let medians: Vec<(&String, f64)> = results
        .epochs
        .iter()
        .filter(|epoch| *epoch != "auto")
        .filter_map(|epoch| Some((epoch, results.spread(workload, epoch, "relative")?.median)))
        .collect();
    let (dearest, cost) = *medians.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let cheap = (0..medians.len()).find(|&first| medians[first..].iter().all(|(_, median)| *median <= AIM));
    let from = match cheap {
        Some(first) => format!("From {} on it stays within {AIM:.2}.", medians[first].0),
        None => format!("It does not stay within {AIM:.2} at any length."),
    };
    let auto = results.spread(workload, "auto", "relative");
    let auto = auto.map_or(String::new(), |auto| format!(" Auto: {}.", with_spread(auto)));
    Some(format!(
        "{}: at {AIM_EPOCH} {}; the dearest length is {dearest} with {cost:.2}. {from}{auto}",
        name(workload),
        with_spread(at_aim)
    ))
}

/// A protected guest that writes durably is often faster than an unprotected one; that wants an explanation.
fn why_writes_are_faster(results: &Results<'_>) -> Option<String> {
    let seen = results.spread("disk-write", AIM_EPOCH, "relative")?;
    (seen.median < 1.0).then(|| {
        "A flush of a protected guest completes inside its epoch: its disk writes become durable on both sides once for \
         each epoch, at the commit, and what the guest says about them is not let out before. Unprotected, each flush \
         waits for the host's disk. So the protected guest is the faster one, and a client hears of a write not sooner \
         than the commit latency below allows."
            .into()
    })
}

/// Says where repetitions differ most.
pub(crate) fn widest(results: &Results<'_>) -> Option<String> {
    let points =
        results.workloads.iter().flat_map(|workload| results.epochs.iter().map(move |epoch| (workload, epoch)));
    let spreads = points.filter_map(|(workload, epoch)| {
        let spread = results.spread(workload, epoch, "relative").filter(|spread| spread.count > 1)?;
        Some((workload, epoch, (spread.max - spread.min) / spread.median))
    });
    let spreads: Vec<_> = spreads.collect();
    let usual = Spread::of(spreads.iter().map(|(_, _, width)| *width))?;
    let (workload, epoch, width) = spreads.into_iter().max_by(|a, b| a.2.total_cmp(&b.2))?;
    Some(format!(
        "Repetitions of one point differ by {:.0} % of its median in the middle case and by {:.0} % at worst ({}, \
         {epoch}): smaller differences between points mean nothing here.",
        usual.median * 100.0,
        width * 100.0,
        name(workload)
    ))
}

fn network(results: &Results<'_>) -> Section {
    let line = |name: &str, figure: &str| Series::new(name, results.series("network", figure));
    let reference = |name: &str, figure: &str| Series { is_reference: true, ..line(name, figure) };
    let chart = Chart {
        title: "A request and its response".into(),
        x_label: "epoch length in ms (each step about doubles it)".into(),
        y_label: "round trip in µs".into(),
        ticks: results.ticks(),
        y_scale: Scale::Log,
        mark: None,
        series: vec![
            line("protected, median", "round_trip_p50_us"),
            line("protected, 99th percentile", "round_trip_p99_us"),
            line("of it held, median", "hold_p50_us"),
            reference("unprotected, median", "base_round_trip_p50_us"),
        ],
    };
    let figures = |epoch: &str| {
        let get = |figure| results.spread("network", epoch, figure).map(|spread| spread.median);
        Some((
            get("round_trip_p50_us")?,
            get("base_round_trip_p50_us")?,
            get("hold_p50_us")?,
            get("round_trip_p99_us")?,
        ))
    };
    let sentence = |epoch: &str| {
        let (ours, base, hold, tail) = figures(epoch)?;
        Some(format!(
            "At {epoch} a request takes {} µs and {} µs unprotected: {} µs are added in the median, and its answer was \
             held for {} µs of them; one in a hundred takes more than {} µs.",
            short(ours),
            short(base),
            short(ours - base),
            short(hold),
            short(tail)
        ))
    };
    let mut seen: Vec<String> = ["1ms", "20ms", "200ms"].into_iter().filter_map(sentence).collect();
    if !seen.is_empty() {
        seen.push(
            "A request waits for two boundaries: one gives it to the guest, one seals the answer. A waiting frame or answer asks for a boundary as soon as the shortest epoch (500 µs) has passed, so the \
             epoch's length is an upper limit that a busy network hardly meets."
                .into(),
        );
    }
    Section { title: "How long does a client wait?".into(), chart: Some(("network", chart)), seen, table: None }
}

/// `figure` of each workload at [`AIM_EPOCH`], in a sentence.
fn at_aim(results: &Results<'_>, what: &str, figures: [&str; 3]) -> Option<String> {
    let one = |workload: &String| {
        let [p50, p99, max] = figures.map(|figure| results.spread(workload, AIM_EPOCH, figure).map(|s| s.median));
        Some(format!("{} {} / {} / {}", name(workload), short(p50?), short(p99?), short(max?)))
    };
    let all: Vec<String> = results.workloads.iter().filter_map(one).collect();
    (!all.is_empty()).then(|| format!("{what} at {AIM_EPOCH}, median / 99th percentile / largest: {}.", all.join("; ")))
}

fn pause(results: &Results<'_>) -> Section {
    Section {
        title: "How long does a boundary stop the guest?".into(),
        chart: Some(("pause", results.chart("Pause of a boundary, median", "pause in µs", "pause_p50_us", Scale::Log))),
        seen: at_aim(results, "Pause in µs", ["pause_p50_us", "pause_p99_us", "pause_max_us"]).into_iter().collect(),
        table: None,
    }
}

fn commit(results: &Results<'_>) -> Section {
    let chart = results.chart(
        "From the seal of an epoch to its commit, median",
        "commit latency in µs",
        "commit_p50_us",
        Scale::Log,
    );
    Section {
        title: "How long until an epoch is safe?".into(),
        chart: Some(("commit", chart)),
        seen: at_aim(results, "Commit latency in µs", ["commit_p50_us", "commit_p99_us", "commit_max_us"])
            .into_iter()
            .collect(),
        table: None,
    }
}

fn pages(results: &Results<'_>) -> Section {
    Section {
        title: "How many pages does an epoch write?".into(),
        chart: Some((
            "dirty",
            results.chart("Dirty pages of an epoch, median", "pages of 4 KiB", "dirty_p50", Scale::Linear),
        )),
        seen: at_aim(results, "Dirty pages", ["dirty_p50", "dirty_p99", "dirty_max"]).into_iter().collect(),
        table: None,
    }
}

fn bytes(results: &Results<'_>) -> Section {
    let chart = results.chart("Bytes shipped for an epoch, median", "bytes", "bytes_p50", Scale::Log);
    Section {
        title: "How much goes over the wire?".into(),
        chart: Some(("bytes", chart)),
        seen: at_aim(results, "Bytes", ["bytes_p50", "bytes_p99", "bytes_max"]).into_iter().collect(),
        table: None,
    }
}

pub(crate) fn summary(config: &BenchConfig, results: &Results<'_>, question: Question) -> Result<(), Failure> {
    let figures: BTreeSet<&'static str> = results.rows.iter().flat_map(|row| row.figures.keys().copied()).collect();
    let heads = ["workload", "epoch", "figure", "median", "min", "max", "repetitions"].map(str::to_owned);
    let mut rows = Vec::new();
    for (workload, epoch) in results.workloads.iter().flat_map(|w| results.epochs.iter().map(move |e| (w, e))) {
        for figure in &figures {
            let Some(Spread { median, min, max, count }) = results.spread(workload, epoch, figure) else { continue };
            let numbers = [median, min, max].map(|number| format!("{}", (number * 1e4).round() / 1e4));
            let [median, min, max] = numbers;
            rows.push(vec![workload.clone(), epoch.clone(), (*figure).to_owned(), median, min, max, count.to_string()]);
        }
    }
    write_csv(&config.out.join(format!("{}-summary.csv", question.file())), &heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_ordered_by_time_and_auto_is_last() {
        let mut epochs = ["auto", "100ms", "2ms", "20ms"];
        epochs.sort_by_key(|epoch| rank(epoch));
        assert_eq!(epochs, ["2ms", "20ms", "100ms", "auto"]);
    }
}
