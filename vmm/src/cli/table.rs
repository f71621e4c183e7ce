//! JSON objects as aligned lines, for people.

use serde_json::{Map, Value};

/// One line per leaf: its dotted path, then its value. A distribution is a leaf.
pub(super) fn of_object(value: &Value) -> String {
    let mut rows = Vec::new();
    collect("", value, &mut rows);
    of_rows(&rows)
}

/// Two columns, the first as wide as its widest cell.
pub(super) fn of_rows(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

fn collect(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) if fields.contains_key("p50") => rows.push(distribution(path, fields)),
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, field)| collect(&below(name), field, rows));
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(index, item)| collect(&below(&index.to_string()), item, rows));
        }
        leaf => rows.push((path.into(), text(leaf))),
    }
}

/// `p50 1, p90 2, p99 3, max 4 (n 100)`; a name that ends in `_ns` gives its unit to the values.
fn distribution(path: &str, fields: &Map<String, Value>) -> (String, String) {
    let (name, is_time) = path.strip_suffix("_ns").map_or((path, false), |name| (name, true));
    let count = fields.get("count").and_then(Value::as_u64).unwrap_or(0);
    if count == 0 {
        return (name.into(), "-".into());
    }
    let figure = |key: &str| {
        let value = fields.get(key)?;
        let shown = value.as_f64().filter(|_| is_time).map_or_else(|| text(value), nanoseconds);
        Some(format!("{key} {shown}"))
    };
    let figures: Vec<String> = ["p50", "p90", "p99", "max"].into_iter().filter_map(figure).collect();
    (name.into(), format!("{} (n {count})", figures.join(", ")))
}

fn nanoseconds(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} us", ns / 1e3),
        ..1e9 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.1} s", ns / 1e9),
    }
}

fn text(leaf: &Value) -> String {
    match leaf {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(_) => "-".into(),
        number_or_bool => number_or_bool.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_object_puts_a_distribution_on_one_line_with_its_unit() {
        let pause =
            json!({ "count": 9, "mean": 1.0, "p50": 950, "p90": 1500, "p99": 2_000_000, "max": 3_000_000_000_u64 });
        let pages = json!({ "count": 2, "p50": 3, "p90": 4, "p99": 5, "max": 6 });
        let none = json!({ "count": 0, "p50": 0 });
        let expected = "\
none   -
pages  p50 3, p90 4, p99 5, max 6 (n 2)
pause  p50 950 ns, p90 1.5 us, p99 2.0 ms, max 3.0 s (n 9)
";
        assert_eq!(of_object(&json!({ "pause_ns": pause, "pages": pages, "none": none })), expected);
    }

    #[test]
    fn of_object_flattens_and_aligns() {
        let value = json!({ "name": "vm0", "peer": { "host": "b", "lag": 2 }, "disks": [{ "path": "a" }], "none": [] });
        let expected = "\
disks.0.path  a
name          vm0
none          -
peer.host     b
peer.lag      2
";
        assert_eq!(of_object(&value), expected);
    }
}
