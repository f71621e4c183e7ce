//! Results in a CSV file: appended as they come, read again to continue an interrupted run.
//!
//! A row is a key (what was measured) and figures. A file with other columns is another program's or another version's:
//! it is put aside under another name, never overwritten.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{StringRecord, Writer};

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

    fn header(&self) -> impl Iterator<Item = &'static str> {
        self.key.iter().copied().chain(self.figures())
    }

    fn fields(&self, row: &Row) -> impl Iterator<Item = String> {
        let figures = self.figures().map(|name| match row.figures.get(name) {
            Some(value) if value.is_finite() => format!("{}", (value * 1e4).round() / 1e4),
            _ => String::new(),
        });
        row.key.iter().cloned().chain(figures)
    }

    fn parse(&self, fields: &StringRecord) -> Option<Row> {
        if fields.len() != self.header().count() {
            return None;
        }
        let key = fields.iter().take(self.key.len()).map(str::to_owned).collect();
        let values = fields.iter().skip(self.key.len());
        let figures = self.figures().zip(values).filter(|(_, text)| !text.is_empty());
        let figures = figures.map(|(name, text)| Some((name, text.parse().ok()?))).collect::<Option<_>>()?;
        Some(Row { key, figures })
    }
}

/// Adds a line, and gives it to the host at once: a run may be interrupted.
fn append(path: &Path, writer: &mut Writer<File>, fields: impl Iterator<Item = String>) -> Result<(), Failure> {
    let written = writer.write_record(fields).map_err(std::io::Error::from).and_then(|()| writer.flush());
    written.map_err(|error| cannot("append to", path, &error))
}

/// A CSV file and what is in it.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    writer: Writer<File>,
    columns: Columns,
    rows: Vec<Row>,
}

impl Table {
    /// Opens or makes the file. A last line that was cut off by a crash is dropped.
    pub(crate) fn open(path: &Path, columns: Columns) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(whole.as_bytes());
        let is_ours = reader.headers().is_ok_and(|header| header.iter().eq(columns.header()));
        if !is_ours && !text.is_empty() {
            let aside = path.with_extension("old.csv");
            std::fs::rename(path, &aside).map_err(|error| cannot("put aside", path, &error))?;
        }
        let found = reader.records().filter_map(|record| columns.parse(&record.ok()?));
        let rows: Vec<Row> = if is_ours { found.collect() } else { Vec::new() };
        let file = File::create(path).map_err(|error| cannot("write", path, &error))?;
        let mut writer = Writer::from_writer(file);
        append(path, &mut writer, columns.header().map(str::to_owned))?;
        rows.iter().try_for_each(|row| append(path, &mut writer, columns.fields(row)))?;
        Ok(Self { path: path.to_owned(), writer, columns, rows })
    }

    /// Whether a point with this key is there.
    pub(crate) fn has(&self, key: &[String]) -> bool {
        self.rows.iter().any(|row| row.key == key)
    }

    /// Adds a point.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), Failure> {
        debug_assert_eq!(row.key.len(), self.columns.key.len());
        append(&self.path, &mut self.writer, self.columns.fields(&row))?;
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
