//! What `outlast bench network` found: charts and a page.

use crate::chart::{Chart, Scale, Series, short};
use crate::config::BenchConfig;
use crate::flows::key_column;
use crate::page::{Page, Section, machine};
use crate::sweep::report::rank;
use crate::table::{Row, Spread};
use vmm::exit::Failure;

/// Measured rows of one build and guest, asked by flow and epoch length.
struct Results<'a> {
    rows: &'a [Row],
    epochs: Vec<String>,
    flows: Vec<String>,
}

fn in_order(rows: &[Row], column: &str) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for row in rows {
        let value = &row.key[key_column(column)];
        if !seen.contains(value) {
            seen.push(value.clone());
        }
    }
    seen
}

/// Bytes, answers, datagrams or echoes.
fn unit(flow: &str) -> &'static str {
    match flow.split('-').next() {
        Some("tcp") => "B/s",
        Some("udp") => "datagrams/s",
        Some("ping") => "echoes/s",
        _ => "answers/s",
    }
}

/// A flow as people say it.
fn name(flow: &str) -> String {
    let words: Vec<&str> = flow.split('-').collect();
    let plural = |count: &str| if count == "1" { "" } else { "s" };
    match words[..] {
        ["tcp", way, count] => format!("TCP {way} the guest, {count} connection{}", plural(count)),
        ["udp", way] => format!("UDP {way} the guest, as fast as it goes"),
        ["udp", way, rate] => format!("UDP {way} the guest, {rate} a second offered"),
        ["ask", bytes, count] => format!("request and answer of {bytes} B, {count} connection{}", plural(count)),
        ["redis", count] => format!("redis SET, {count} client{}", plural(count)),
        ["pgbench", count] => format!("PostgreSQL transaction, {count} clients"),
        ["ping", bytes] => format!("ping of {bytes} B"),
        _ => flow.to_owned(),
    }
}

impl<'a> Results<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut epochs = in_order(rows, "epoch");
        epochs.sort_by_key(|epoch| rank(epoch));
        Self { rows, epochs, flows: in_order(rows, "flow") }
    }

    fn spread(&self, flow: &str, epoch: &str, figure: &str) -> Option<Spread> {
        let is_meant = |row: &&Row| row.key[key_column("flow")] == flow && row.key[key_column("epoch")] == epoch;
        Spread::of(self.rows.iter().filter(is_meant).map(|row| row.get(figure)))
    }

    fn median(&self, flow: &str, epoch: &str, figure: &str) -> String {
        self.spread(flow, epoch, figure).map_or(String::new(), |spread| short(spread.median))
    }

    fn of_kinds(&self, kinds: &[&str]) -> Vec<&str> {
        let is_meant = |flow: &&str| kinds.contains(&flow.split('-').next().unwrap_or_default());
        self.flows.iter().map(String::as_str).filter(is_meant).collect()
    }

    /// A line for each of `flows` that has the figure.
    fn chart(&self, title: &str, y_label: &str, figure: &str, flows: &[&str], y_scale: Scale) -> Chart {
        let points = |flow: &str| {
            let at = |(index, epoch): (usize, &String)| Some((index as f64, self.spread(flow, epoch, figure)?));
            self.epochs.iter().enumerate().filter_map(at).collect()
        };
        let series = flows.iter().map(|flow| Series::new(name(flow), points(flow)));
        let ms = |epoch: &String| vmm::config::parse_time(epoch).map(|time| time.as_secs_f64() * 1e3);
        let label = |epoch: &String| ms(epoch).map_or(epoch.clone(), |ms| format!("{ms}"));
        Chart {
            title: title.into(),
            x_label: "longest epoch in ms".into(),
            y_label: y_label.into(),
            ticks: self.epochs.iter().enumerate().map(|(index, epoch)| (index as f64, label(epoch))).collect(),
            y_scale,
            mark: None,
            series: series.filter(|series| !series.points.is_empty()).collect(),
        }
    }

    /// A line for each of `flows` and each length of epochs: what is asked of `cells`.
    fn table(
        &self,
        flows: &[&str],
        heads: &[&str],
        cells: impl Fn(&str, &str) -> Vec<String>,
    ) -> (Vec<String>, Vec<Vec<String>>) {
        let heads = ["flow", "epochs"].iter().chain(heads).map(|head| (*head).to_owned()).collect();
        let points = flows.iter().flat_map(|flow| self.epochs.iter().map(move |epoch| (*flow, epoch.as_str())));
        let is_measured = |(flow, epoch): &(&str, &str)| self.spread(flow, epoch, "rate").is_some();
        let line = |(flow, epoch): (&str, &str)| {
            [name(flow), epoch.to_owned()].into_iter().chain(cells(flow, epoch)).collect()
        };
        (heads, points.filter(is_measured).map(line).collect())
    }
}

/// Writes everything that is to be seen.
pub(crate) fn write(config: &BenchConfig, rows: &[Row]) -> Result<(), Failure> {
    let results = Results::new(rows);
    let guest = if config.kernel.is_some() { "a Linux guest" } else { "a bare guest" };
    let page = Page {
        title: format!("The network of {guest}, protected and not"),
        intro: intro(&results),
        sections: vec![throughput(&results), datagrams(&results), answers(&results), epochs(&results)],
    };
    page.write(config)
}

fn intro(results: &Results<'_>) -> Vec<String> {
    let repeats = in_order(results.rows, "repeat").len();
    let loads = Spread::of(results.rows.iter().map(|row| row.get("load_1min")));
    vec![
        format!(
            "One guest with one vCPU; each flow runs unprotected, protected, and unprotected again (repetitions of each \
             point: {repeats}). A ratio is the protected rate over the mean of both unprotected ones. Points are medians, \
             whiskers reach from the smallest to the largest value. Where the backup and the clients are processes on the same \
             machine, the cost seen here holds their work too."
        ),
        machine(loads),
        "Every byte of every stream, answer and echo was compared with what belongs there, and what a bare guest counted \
         with what came. Numbers: network.csv."
            .into(),
    ]
}

/// Ratio and rates of a point, as cells.
fn rates(results: &Results<'_>, flow: &str, epoch: &str) -> Vec<String> {
    let rate = |figure| match (results.median(flow, epoch, figure), unit(flow)) {
        (number, "B/s") if number.ends_with(['k', 'M']) => format!("{number}B/s"),
        (number, unit) => format!("{number} {unit}"),
    };
    vec![results.median(flow, epoch, "ratio"), rate("rate"), rate("base_rate")]
}

fn marked(mut chart: Chart) -> Chart {
    chart.mark = Some((1.0, "unprotected".into()));
    chart
}

fn throughput(results: &Results<'_>) -> Section {
    let flows = results.of_kinds(&["tcp"]);
    let chart =
        results.chart("Throughput relative to unprotected", "of the unprotected rate", "ratio", &flows, Scale::Linear);
    Section {
        title: "How much flows?".into(),
        chart: Some(("throughput", marked(chart))),
        seen: vec![
            "A stream to the guest counts as far as the guest's TCP has acknowledged it, and one from it as far as it was read \
             here."
                .into(),
        ],
        table: Some(results.table(&flows, &["ratio", "protected", "unprotected"], |flow, epoch| rates(results, flow, epoch))),
    }
}

fn datagrams(results: &Results<'_>) -> Section {
    let flows = results.of_kinds(&["udp"]);
    let chart =
        results.chart("Datagrams relative to unprotected", "of the unprotected rate", "ratio", &flows, Scale::Linear);
    let cells = |flow: &str, epoch: &str| {
        let lost = ["lost_share", "base_lost_share"].map(|figure| results.median(flow, epoch, figure));
        rates(results, flow, epoch).into_iter().chain(lost).collect()
    };
    let heads = ["ratio", "protected", "unprotected", "lost share, protected", "lost share, unprotected"];
    Section {
        title: "How many datagrams come through?".into(),
        chart: Some(("datagrams", marked(chart))),
        seen: vec![
            "Datagrams of 1,400 bytes. Those offered faster than a tap's queue is emptied are lost on any host.".into(),
        ],
        table: Some(results.table(&flows, &heads, cells)),
    }
}

fn answers(results: &Results<'_>) -> Section {
    let flows = results.of_kinds(&["ask", "redis", "pgbench", "ping"]);
    let title = "A request and its answer, median, relative to unprotected";
    let chart = results.chart(title, "times the unprotected round trip", "round_trip_ratio", &flows, Scale::Log);
    let us = |flow: &str, epoch: &str, kind: &str| {
        let [p50, p99] = ["p50", "p99"].map(|part| results.median(flow, epoch, &format!("{kind}round_trip_{part}_us")));
        format!("{p50}, {p99} µs")
    };
    let cells = |flow: &str, epoch: &str| {
        let times = [results.median(flow, epoch, "round_trip_ratio"), us(flow, epoch, ""), us(flow, epoch, "base_")];
        times.into_iter().chain(rates(results, flow, epoch)).collect()
    };
    let heads =
        ["round trip ratio", "p50, p99, protected", "p50, p99, unprotected", "rate ratio", "protected", "unprotected"];
    Section {
        title: "How long does an answer take?".into(),
        chart: Some(("answers", marked(chart))),
        seen: vec!["Each connection has one request under way at a time.".into()],
        table: Some(results.table(&flows, &heads, cells)),
    }
}

/// What a boundary does for a flow: `(head, figure)` of each column.
const EPOCH_COLUMNS: [(&str, &str); 11] = [
    ("epochs/s", "epochs_per_s"),
    ("frames out per epoch", "frames_out_per_epoch"),
    ("frames in per epoch", "frames_in_per_epoch"),
    ("exits per epoch", "exits_per_epoch"),
    ("dirty pages per epoch", "dirty_mean"),
    ("bytes shipped per epoch", "bytes_mean"),
    ("pause p50, µs", "pause_p50_us"),
    ("hold p50, µs", "hold_p50_us"),
    ("hold p99, µs", "hold_p99_us"),
    ("stopped share", "stopped_share"),
    ("vCPU without processor", "waited_share"),
];

fn epochs(results: &Results<'_>) -> Section {
    let flows: Vec<&str> = results.flows.iter().map(String::as_str).collect();
    let bulk = results.of_kinds(&["tcp", "udp"]);
    let title = "Frames of an epoch, from the guest";
    let chart = results.chart(title, "frames", "frames_out_per_epoch", &bulk, Scale::Log);
    let cells = |flow: &str, epoch: &str| EPOCH_COLUMNS.map(|(_, figure)| results.median(flow, epoch, figure)).to_vec();
    let table = results.table(&flows, &EPOCH_COLUMNS.map(|(head, _)| head), cells);
    Section {
        title: "What is in an epoch?".into(),
        chart: Some(("frames", chart)),
        seen: vec!["Means, but for pause and hold. Frames in are those that the host gave to the tap.".into()],
        table: Some(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_have_names_that_people_say() {
        assert_eq!(name("tcp-from-1"), "TCP from the guest, 1 connection");
        assert_eq!(name("ask-64-8"), "request and answer of 64 B, 8 connections");
        assert_eq!(name("udp-to-500"), "UDP to the guest, 500 a second offered");
    }
}
