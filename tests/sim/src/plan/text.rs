//! A plan as text: what differs from the plan in which the least happens, one thing on a line, and the seed of its chance.
//!
//! ```text
//! seed = 17
//! broken = "ForgetHeld"
//! epoch = "1ms"
//! faults = [
//!     { when = { At = "35ms" }, what = { Crash = { host = 0, power = true } } },
//! ]
//! ```
//!
//! It is TOML. Text and run are one: [`crate::run_plan`] depends on nothing else.

use std::fmt;
use std::str::FromStr;

use toml::{Table, Value};

use super::{MS, Plan, US};

/// A run, decided: a plan, and the seed of all that the plan leaves to chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// The plan.
    pub plan: Plan,
}

impl Case {
    /// All that differs from the quiet plan.
    pub fn table(&self) -> Table {
        let quiet = table_of(&Plan::default());
        let mut table = table_of(&self.plan);
        table.retain(|key, value| quiet.get(key) != Some(value));
        table.insert("seed".to_owned(), Value::Integer(self.seed.cast_signed()));
        table
    }

    /// Out of such a table.
    pub fn of_table(mut table: Table) -> Result<Case, String> {
        let seed = match table.remove("seed") {
            Some(Value::Integer(seed)) => seed.cast_unsigned(),
            Some(other) => return Err(format!("seed is {other}, which is no number")),
            None => 0,
        };
        let plan: Plan = table.try_into().map_err(|error: toml::de::Error| error.to_string())?;
        plan.check()?;
        Ok(Case { seed, plan })
    }
}

fn table_of(plan: &Plan) -> Table {
    Table::try_from(plan).expect("every field of a plan has a TOML value")
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = self.table();
        let faults = table.remove("faults");
        writeln!(f, "seed = {}", table.remove("seed").expect("a case has a seed"))?;
        for (key, value) in &table {
            writeln!(f, "{key} = {value}")?;
        }
        if let Some(Value::Array(faults)) = faults {
            writeln!(f, "faults = [")?;
            faults.iter().try_for_each(|fault| writeln!(f, "    {fault},"))?;
            writeln!(f, "]")?;
        }
        Ok(())
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        Case::of_table(table)
    }
}

/// A time in nanoseconds, as text in its largest whole unit.
pub(crate) fn time_text(nanos: u64) -> String {
    match nanos {
        0 => "0ms".to_owned(),
        _ if nanos.is_multiple_of(MS) => format!("{}ms", nanos / MS),
        _ if nanos.is_multiple_of(US) => format!("{}us", nanos / US),
        _ => format!("{nanos}ns"),
    }
}

/// Nanoseconds out of such a text; `None` if it is none.
pub(crate) fn time_of_text(text: &str) -> Option<u64> {
    let units = [("ms", MS), ("us", US), ("ns", 1)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

/// Fields that are times.
pub mod nanos {
    use serde::{Deserialize, Deserializer, Serializer};

    /// As text.
    pub fn serialize<S: Serializer>(nanos: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::time_text(*nanos))
    }

    /// Out of text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::time_of_text(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no time in ms, us or ns")))
    }
}

/// Fields that are a time or none.
pub mod nanos_or_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Nanos(#[serde(with = "super::nanos")] u64);

    /// As text.
    pub fn serialize<S: Serializer>(nanos: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        nanos.map(Nanos).serialize(serializer)
    }

    /// Out of text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<Nanos>::deserialize(deserializer)?.map(|Nanos(nanos)| nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Break;

    #[test]
    fn text_of_every_seeds_plan_gives_that_plan() {
        for seed in 0..300 {
            let broken = Break::ALL.get(seed as usize).copied();
            let case = Case { seed, plan: Plan::of_seed(seed, broken) };
            assert_eq!(case.to_string().parse(), Ok(case.clone()), "{case}");
        }
    }

    #[test]
    fn quiet_plan_says_nothing_but_its_seed() {
        let case = Case { seed: 3, plan: Plan::default() };
        assert_eq!(case.to_string(), "seed = 3\n");
        assert_eq!("".parse(), Ok(Case { seed: 0, plan: Plan::default() }));
    }

    #[test]
    fn text_that_no_plan_has_is_refused() {
        for text in ["epoch = 3", "epoch = \"3 weeks\"", "epochs = \"3ms\"", "seed = \"x\"", "in_flight_epochs_max = 0"]
        {
            assert!(text.parse::<Case>().is_err(), "{text}");
        }
    }
}
