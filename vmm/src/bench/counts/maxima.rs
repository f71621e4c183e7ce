//! The most that is allowed of each figure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::table::Row;
use super::FIGURES;
use crate::exit::{Exit, Failure};

const CHECKED_IN: &str = include_str!("maxima.toml");

/// Of each protection, each workload, each figure.
#[derive(Debug, Deserialize)]
pub(super) struct Maxima(BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>);

impl Maxima {
    /// Those that belong to this program.
    pub(super) fn checked_in() -> Self {
        toml::from_str(CHECKED_IN).expect("a test reads it")
    }

    /// Fails with the first row and figure that is above its most. A figure that has none is above it.
    pub(super) fn check(&self, rows: &[Row]) -> Result<(), Failure> {
        let rises: Vec<String> = rows.iter().flat_map(|row| self.rises(row)).collect();
        if rises.is_empty() {
            return Ok(());
        }
        let why = format!("an epoch costs more than before: {}", rises.join("; "));
        Err(Failure::new(Exit::Error, why).with_hint(
            "counts.json names the threads and their calls; vmm/src/bench/counts/maxima.toml holds what is allowed",
        ))
    }

    fn rises(&self, row: &Row) -> Vec<String> {
        let allowed = self.0.get(&row.key[0]).and_then(|workloads| workloads.get(&row.key[1]));
        let rise = |figure: &&str| {
            let (value, most) = (row.get(figure), allowed.and_then(|figures| figures.get(*figure)));
            // Nothing was counted of a figure that does not belong to the row.
            let is_above = !value.is_nan() && most.is_none_or(|most| value > *most);
            is_above.then(|| {
                let most = most.map_or("nothing is known of it".to_owned(), |most| format!("at most {most}"));
                format!("{} {figure} {value:.2} ({most})", row.key.join(" "))
            })
        };
        FIGURES.iter().filter_map(rise).collect()
    }
}
