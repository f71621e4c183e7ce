//! What `outlast bench synced-writes` found: a chart and a page.

use crate::chart::{Chart, Scale, Series, short};
use crate::config::BenchConfig;
use crate::page::{Page, Section, machine};
use crate::sweep::report::rank;
use crate::synced::key_column;
use crate::table::{Row, Spread};
use vmm::exit::Failure;

struct Results<'a> {
    rows: &'a [Row],
    epochs: Vec<String>,
    writes: Vec<String>,
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

/// Writes as people say it.
fn name(writes: &str) -> String {
    match writes.strip_prefix("bulk-") {
        Some(mib) => format!("{mib} MiB, then a sync"),
        None => "4 KiB and a sync".into(),
    }
}

impl Results<'_> {
    fn spread(&self, writes: &str, epoch: &str, figure: &str) -> Option<Spread> {
        let is_meant = |row: &&Row| row.key[key_column("writes")] == writes && row.key[key_column("epoch")] == epoch;
        Spread::of(self.rows.iter().filter(is_meant).map(|row| row.get(figure)))
    }

    fn median(&self, writes: &str, epoch: &str, figure: &str) -> String {
        self.spread(writes, epoch, figure).map_or(String::new(), |spread| short(spread.median))
    }

    fn chart(&self) -> Chart {
        let series = self.writes.iter().map(|writes| {
            let at = |(index, epoch): (usize, &String)| Some((index as f64, self.spread(writes, epoch, "ratio")?));
            Series::new(name(writes), self.epochs.iter().enumerate().filter_map(at).collect())
        });
        Chart {
            title: "Time of synced writes relative to unprotected".into(),
            x_label: "longest epoch".into(),
            y_label: "times the unprotected time".into(),
            ticks: self.epochs.iter().enumerate().map(|(index, epoch)| (index as f64, epoch.clone())).collect(),
            y_scale: Scale::Log,
            mark: Some((1.0, "unprotected".into())),
            series: series.collect(),
        }
    }

    fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = [
            ("ratio", "ratio"),
            ("protected, s per MiB", "seconds_per_mib"),
            ("unprotected, s per MiB", "base_seconds_per_mib"),
            ("to the primary's file systems, per byte", "primary_io"),
            ("to the backup's, per byte", "backup_io"),
            ("unprotected, per byte", "base_io"),
            ("to the backup, per byte", "shipped_per_byte"),
            ("epochs", "epochs"),
            ("dirty pages per epoch", "dirty_mean"),
            ("stopped share", "stopped_share"),
        ];
        let heads = ["writes", "epochs of"].into_iter().chain(columns.map(|(head, _)| head)).map(str::to_owned);
        let points = self.writes.iter().flat_map(|writes| self.epochs.iter().map(move |epoch| (writes, epoch)));
        let line = |(writes, epoch): (&String, &String)| {
            let cells = columns.map(|(_, figure)| self.median(writes, epoch, figure));
            [name(writes), epoch.clone()].into_iter().chain(cells).collect()
        };
        (heads.collect(), points.map(line).collect())
    }
}

/// Writes everything that is to be seen.
pub(crate) fn write(config: &BenchConfig, rows: &[Row]) -> Result<(), Failure> {
    let mut epochs = in_order(rows, "epoch");
    epochs.sort_by_key(|epoch| rank(epoch));
    let results = Results { rows, epochs, writes: in_order(rows, "writes") };
    let guest = if config.kernel.is_some() { "a Linux guest" } else { "a bare guest" };
    let repeats = in_order(rows, "repeat").len();
    let loads = Spread::of(rows.iter().map(|row| row.get("load_1min")));
    let intro = vec![
        format!(
            "One guest with one vCPU writes unprotected, protected, and unprotected again (repetitions of each point: \
             {repeats}). A ratio is the protected time over the mean of both unprotected ones. A write is over when what the \
             guest says after its sync has left: protected, when both hosts have it in a synced log."
        ),
        machine(loads),
        "Medians; whiskers reach from the smallest to the largest value. Numbers: synced-writes.csv.".into(),
    ];
    let section = Section {
        title: "How long does a synced write take?".into(),
        chart: Some(("synced-writes", results.chart())),
        seen: vec![
            "What goes to file systems is counted by the kernel: pages that became dirty, log and image together."
                .into(),
        ],
        table: Some(results.table()),
    };
    Page { title: format!("Synced writes of {guest}, protected and not"), intro, sections: vec![section] }.write(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_have_names_that_people_say() {
        assert_eq!(name("bulk-300"), "300 MiB, then a sync");
        assert_eq!(name("small"), "4 KiB and a sync");
    }
}
