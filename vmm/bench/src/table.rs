//! Results in a CSV file: appended as they come, read again to continue an interrupted run.
//!
//! A row is a key (what was measured) and figures. A file with other columns is another program's or another version's:
//! it is put aside under another name, never overwritten.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cannot;
use vmm::exit::Failure;

/// One measured point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// What was measured, in the order of the key columns.
    pub(crate) key: Vec<String>,
    /// What was seen.
    pub(crate) figures: BTreeMap<&'static str, f64>,
}

impl Row {
    /// A figure; not a number if it was not measured.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// The columns of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) key: &'static [&'static str],
    pub(crate) figures: &'static [&'static [&'static str]],
}

impl Columns {
    fn figures(&self) -> impl Iterator<Item = &'static str> {
        self.figures.iter().flat_map(|part| part.iter().copied())
    }

    fn header(&self) -> String {
        self.key.iter().copied().chain(self.figures()).collect::<Vec<_>>().join(",")
    }

    fn line(&self, row: &Row) -> String {
        let figures = self.figures().map(|name| match row.figures.get(name) {
            Some(value) if value.is_finite() => format!("{}", (value * 1e4).round() / 1e4),
            _ => String::new(),
        });
        row.key.iter().cloned().chain(figures).collect::<Vec<_>>().join(",")
    }

    fn parse(&self, line: &str) -> Option<Row> {
        let fields: Vec<&str> = line.split(',').collect();
        let (key, values) = fields.split_at_checked(self.key.len())?;
        if values.len() != self.figures().count() {
            return None;
        }
        let figures = self.figures().zip(values).filter(|(_, text)| !text.is_empty());
        let figures = figures.map(|(name, text)| Some((name, text.parse().ok()?))).collect::<Option<_>>()?;
        Some(Row { key: key.iter().map(|&field| field.to_owned()).collect(), figures })
    }
}

/// A CSV file and what is in it.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    file: File,
    columns: Columns,
    rows: Vec<Row>,
}

impl Table {
    /// Opens or makes the file. A last line that was cut off by a crash is dropped.
    pub(crate) fn open(path: &Path, columns: Columns) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut lines = whole.lines();
        let is_ours = lines.next() == Some(&columns.header());
        if !is_ours && !text.is_empty() {
            let aside = path.with_extension("old.csv");
            std::fs::rename(path, &aside).map_err(|error| cannot("put aside", path, &error))?;
        }
        let rows: Vec<Row> = if is_ours { lines.filter_map(|line| columns.parse(line)).collect() } else { Vec::new() };
        let mut fresh = columns.header() + "\n";
        rows.iter().for_each(|row| fresh += &(columns.line(row) + "\n"));
        std::fs::write(path, fresh).map_err(|error| cannot("write", path, &error))?;
        let file = OpenOptions::new().append(true).open(path).map_err(|error| cannot("append to", path, &error))?;
        Ok(Self { path: path.to_owned(), file, columns, rows })
    }

    /// Whether a point with this key is there.
    pub(crate) fn has(&self, key: &[String]) -> bool {
        self.rows.iter().any(|row| row.key == key)
    }

    /// Adds a point.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), Failure> {
        debug_assert_eq!(row.key.len(), self.columns.key.len());
        let line = self.columns.line(&row) + "\n";
        self.file.write_all(line.as_bytes()).map_err(|error| cannot("append to", &self.path, &error))?;
        self.rows.push(row);
        Ok(())
    }

    /// All points, of all builds.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// Median, smallest and largest of some values; values that are not numbers do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, min, max, count: values.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns { key: &["what", "repeat"], figures: &[&["a", "b"], &["c"]] };

    fn row(what: &str, a: f64) -> Row {
        Row { key: vec![what.into(), "0".into()], figures: BTreeMap::from([("a", a), ("c", 2.5)]) }
    }

    #[test]
    fn table_reopened_has_its_rows_and_forgets_a_torn_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("t.csv");
        let mut table = Table::open(&path, COLUMNS).expect("it can be made");
        table.add(row("x", 1.0)).expect("it can be written");
        table.add(row("y", f64::NAN)).expect("it can be written");
        drop(table);
        let mut text = std::fs::read_to_string(&path).expect("it is there");
        text += "z,0,1";
        std::fs::write(&path, text).expect("it can be written");
        let table = Table::open(&path, COLUMNS).expect("it can be opened");
        assert!(table.has(&["x".into(), "0".into()]) && table.has(&["y".into(), "0".into()]));
        assert!(!table.has(&["z".into(), "0".into()]));
        assert_eq!(table.rows()[0], row("x", 1.0));
        assert!(table.rows()[1].get("a").is_nan());
    }

    #[test]
    fn table_of_other_columns_is_put_aside() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("t.csv");
        std::fs::write(&path, "other\n1\n").expect("it can be written");
        let table = Table::open(&path, COLUMNS).expect("it can be made");
        assert!(table.rows().is_empty());
        assert_eq!(std::fs::read_to_string(dir.path().join("t.old.csv")).expect("kept"), "other\n1\n");
    }

    #[test]
    fn spread_of_even_count_is_the_middle_of_both() {
        let spread = Spread::of([4.0, 1.0, f64::NAN, 2.0, 3.0]).expect("four numbers");
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0, count: 4 });
        assert_eq!(Spread::of([f64::NAN]), None);
    }
}
