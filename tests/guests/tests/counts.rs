//! What an epoch makes the host do, counted: it must not rise unnoticed.

use std::collections::BTreeMap;
use std::process::Command;

use guests::{Guest, Place, needs, program, skip};

/// The figures of each row, by protection and workload.
type Rows = BTreeMap<String, BTreeMap<String, f64>>;

fn rows_of(csv: &str) -> Rows {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().expect("a table has a head");
    let figures = |values: &[&str]| {
        let pairs = names.iter().zip(values).skip(2);
        pairs.filter_map(|(name, value)| Some(((*name).to_owned(), value.parse().ok()?))).collect()
    };
    lines.map(|values| (values[..2].join(" "), figures(&values))).collect()
}

#[test]
fn epoch_costs_no_more_system_calls_allocations_and_bytes_than_it_did() {
    needs!(Kvm, Strace);
    let place = Place::new();
    let (kernel, out) = (Guest::counter().kernel(), place.path("counts"));
    let mut bench = Command::new(program::outlast());
    bench.args(["bench", "counts", "--out"]).arg(&out);
    bench.arg("--guests").arg(kernel.parent().expect("a guest lies in a directory"));
    let bench = bench.output().expect("the program under test starts");
    let said = String::from_utf8_lossy(&[bench.stdout, bench.stderr].concat()).into_owned();
    // It compares with what is allowed, and names the row and the figure of a rise.
    assert!(bench.status.success(), "{said}");

    let rows = rows_of(&std::fs::read_to_string(out.join("counts.csv")).expect("what was counted"));
    match said.lines().find(|line| line.starts_with("skipped")) {
        Some(why) => skip::part("an epoch with a request and its answer", why),
        None => assert!(rows.contains_key("backup ask") && rows.contains_key("local ask"), "{said}"),
    }
    // The aims, whatever is allowed at the moment.
    for (row, figures) in &rows {
        assert!(figures["epochs"] >= 100.0, "{row}: {figures:?}");
        assert!((1.0..=12.0).contains(&figures["kvm_per_vcpu"]), "{row}: {figures:?}");
    }
    for row in ["backup cpu", "backup cpu-8g", "backup idle", "local cpu", "local cpu-8g", "local idle"] {
        let figures = &rows[row];
        let allocations = ["boundary", "ship", "link"].map(|thread| figures.get(&format!("allocations_{thread}")));
        // One or more for an epoch would be in every epoch. Some epochs of the idle guest are not empty: it wakes once a second.
        assert!(allocations.into_iter().flatten().all(|count| *count < 0.5), "{row}: {figures:?}");
        assert!(figures["bytes"] <= 1024.0, "{row}: {figures:?}");
    }
    assert!(rows["backup cpu"]["bytes"] > 0.0 && rows["backup 16-pages"]["allocations_boundary"] > 0.0, "{rows:?}");
}
