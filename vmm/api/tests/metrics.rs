//! Prometheus text, read by rules of the format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;
use std::fs;

use outlast_api::figures::{COLUMNS, Distributions, Summary};
use outlast_api::metrics::text;
use outlast_api::{Answer, Status};

/// Kind, and values by labels, of each metric of a text.
type Metrics = BTreeMap<String, (String, BTreeMap<String, f64>)>;

fn golden(name: &str) -> String {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn of(status: &str) -> String {
    text(&Status::decode(golden(status).as_bytes()).expect("a status"))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Labels as `name="value"`, in order; values have no quotes inside, or escaped ones.
fn check_labels(labels: &str) {
    for label in labels.split("\",").map(|label| label.strip_suffix('"').unwrap_or(label)) {
        let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("label {label}"));
        assert!(is_name(name) && !value.replace("\\\"", "").contains('"'), "label {label}");
    }
}

fn parse(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let mut current = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (name, help) = head.split_once(' ').expect("a help has a text");
            assert!(is_name(name) && help.ends_with('.'), "{line}");
            let kind =
                lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '));
            let kind = kind.unwrap_or_else(|| panic!("{name} has no TYPE behind its HELP"));
            assert!(["counter", "gauge", "summary"].contains(&kind), "{kind}");
            assert!(metrics.insert(name.into(), (kind.into(), BTreeMap::new())).is_none(), "{name} twice");
            current = name.into();
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
        let (labels, value) = rest.split_once("} ").unwrap_or_else(|| panic!("no value: {line}"));
        check_labels(labels);
        let (kind, values) = metrics.get_mut(&current).expect("a sample has a head");
        let suffix = name.strip_prefix(&*current).unwrap_or_else(|| panic!("{name} under the head of {current}"));
        assert!(suffix.is_empty() || (kind == "summary" && ["_sum", "_count"].contains(&suffix)), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(values.insert(format!("{suffix}{labels}"), value).is_none(), "twice: {line}");
    }
    metrics
}

#[test]
fn text_is_prometheus_and_names_follow_the_rules() {
    for status in ["primary-protected.json", "primary-taken-over.json", "backup-protected.json"] {
        let metrics = parse(&of(status));
        assert!(metrics.len() > 3);
        for (name, (kind, values)) in metrics {
            assert!(name.starts_with("outlast_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert!(!["_ns", "_us", "_ms", "_kib", "_percent"].iter().any(|unit| name.contains(unit)), "{name}");
            assert_eq!(values.len(), if kind == "summary" { 6 } else { 1 }, "{name}");
            assert!(values.keys().all(|labels| labels.contains("vm=\"vm0\"")), "{name}");
        }
    }
}

/// What was scraped from version 0.1.0 beside the status: every metric is there, with its kind and help.
#[test]
fn metrics_of_before_are_all_there() {
    for (before, status) in
        [("metrics-primary.txt", "primary-protected.json"), ("metrics-backup.txt", "backup-protected.json")]
    {
        let (before, now) = (parse(&golden(before)), parse(&of(status)));
        for (name, (kind, values)) in before {
            let (now_kind, now_values) = now.get(&name).unwrap_or_else(|| panic!("{name} is lost"));
            assert_eq!(&kind, now_kind, "{name}");
            assert!(values.keys().eq(now_values.keys()), "{name}");
        }
    }
}

#[test]
fn values_are_the_statuses_in_base_units() {
    let metrics = parse(&of("primary-protected.json"));
    let value = |name: &str, labels: &str| metrics[name].1[labels];
    assert_eq!(value("outlast_epochs_total", "vm=\"vm0\""), 5.0);
    assert_eq!(value("outlast_epoch_pause_seconds", "vm=\"vm0\",quantile=\"1\""), 241_407e-9);
    assert_eq!(value("outlast_epoch_pause_seconds", "_countvm=\"vm0\""), 5.0);
    assert_eq!(value("outlast_epoch_dirty_pages", "vm=\"vm0\",quantile=\"0.5\""), 14.0);
    assert_eq!(value("outlast_protected", "vm=\"vm0\""), 1.0);
    assert_eq!(value("outlast_guest_share_ratio", "vm=\"vm0\""), 1.0);
    assert_eq!(value("outlast_role", "vm=\"vm0\",role=\"primary\""), 1.0);
    assert_eq!(value("outlast_oldest_uncommitted_epoch_seconds", "vm=\"vm0\""), 0.0);
    assert!(value("outlast_filling_estimate_seconds", "vm=\"vm0\"").is_nan());
    let backup = parse(&of("backup-protected.json"));
    assert_eq!(backup["outlast_waiting_bytes"].1["vm=\"vm0\""], 22397.0);
}

#[test]
fn columns_are_the_summaries_in_the_benches_units() {
    let pause = Summary { count: 9, mean: 1e6, p50: 950_000, p90: 2_000_000, p99: 3_000_000, max: 4_000_500 };
    let dirty_pages = Summary { count: 9, mean: 7.5, ..Summary::default() };
    let all = Distributions { pause, dirty_pages, ..Distributions::default() };
    let columns: BTreeMap<_, _> = COLUMNS.iter().map(|column| (column.name, (column.of)(&all))).collect();
    assert_eq!(columns.len(), COLUMNS.len(), "a name twice");
    assert_eq!((columns["epochs"], columns["pause_p50_us"], columns["pause_max_us"]), (9.0, 950.0, 4000.5));
    assert_eq!((columns["dirty_mean"], columns["armed_mean"]), (7.5, 0.0));
}
