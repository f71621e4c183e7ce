//! The most that is allowed of each figure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::table::Row;
use super::FIGURES;
use vmm::exit::{Exit, Failure};

const CHECKED_IN: &str = include_str!("maxima.toml");

/// Of each protection, each workload, each figure.
#[derive(Debug, Deserialize)]
pub(crate) struct Maxima(BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>);

impl Maxima {
    /// Those that belong to this program.
    pub(crate) fn checked_in() -> Self {
        toml::from_str(CHECKED_IN).expect("a test reads it")
    }

    /// Fails with the first row and figure that is above its most. A figure that has none is above it.
    pub(crate) fn check(&self, rows: &[Row]) -> Result<(), Failure> {
        let rises: Vec<String> = rows.iter().flat_map(|row| self.rises(row)).collect();
        if rises.is_empty() {
            return Ok(());
        }
        let why = format!("an epoch costs more than before: {}", rises.join("; "));
        Err(Failure::new(Exit::Error, why).with_hint(
            "counts.json names the threads and their calls; vmm/bench/src/counts/maxima.toml holds what is allowed",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(workload: &str, figures: &[(&'static str, f64)]) -> Row {
        Row { key: vec!["backup".into(), workload.into()], figures: figures.iter().copied().collect() }
    }

    #[test]
    fn every_row_that_is_counted_has_maxima() {
        let Maxima(protections) = Maxima::checked_in();
        for protection in ["backup", "local"] {
            let workloads: Vec<&str> = protections[protection].keys().map(String::as_str).collect();
            let mut known = super::super::rows::names();
            known.sort_unstable();
            assert_eq!(workloads, known);
        }
        let figures = protections.values().flat_map(BTreeMap::values).flat_map(BTreeMap::keys);
        let unknown: Vec<_> = figures.filter(|figure| !FIGURES.contains(&figure.as_str())).collect();
        assert_eq!(unknown, Vec::<&String>::new());
    }

    #[test]
    fn rise_is_named_and_less_is_none() {
        let maxima: Maxima = toml::from_str("[backup.cpu]\nkvm_per_vcpu = 7.3\nbytes = 400").expect("maxima");
        assert!(maxima.check(&[row("cpu", &[("kvm_per_vcpu", 7.02), ("bytes", 400.0)])]).is_ok());
        let failure = maxima.check(&[row("cpu", &[("kvm_per_vcpu", 8.0), ("bytes", 12.0)])]).expect_err("a rise");
        let said = failure.to_string();
        assert!(said.contains("backup cpu kvm_per_vcpu 8.00 (at most 7.3)") && !said.contains("bytes"), "{said}");
    }

    #[test]
    fn figure_or_row_that_nothing_is_known_of_is_a_rise() {
        let maxima: Maxima = toml::from_str("[backup.cpu]\nbytes = 400").expect("maxima");
        assert!(maxima.check(&[row("cpu", &[("syncs", 0.0)])]).is_err());
        assert!(maxima.check(&[row("other", &[("bytes", 0.0)])]).is_err());
    }
}
