//! A run that breaks a rule, made small: what is left of its plan is what the violation needs.
//!
//! A plan is changed as text is: faults are taken out, fields become as in the quiet plan, times and numbers come nearer to
//! that, and what may be left out is. A change is kept if the run still breaks the same rule. Fields that are added to a plan
//! are made small like the others, without a word here.

use toml::{Table, Value};

use crate::oracle::{Rule, Violation};
use crate::plan::{Case, MS, Plan, US, time_of_text, time_text};
use crate::world::{Outcome, run_plan};

/// Runs that a shrinking may take.
pub const RUNS_MAX: u32 = 3_000;
/// Seeds that are tried where a plan without one of its faults breaks nothing: chance takes another way then.
const OTHER_SEEDS: u64 = 12;
/// A number that is no further from its aim comes nearer one by one.
const STEPS_MAX: u64 = 16;
/// The keys of a plan that are not made smaller: which rule is broken, and what is counted otherwise.
const KEPT: [&str; 3] = ["broken", "seed", "faults"];

/// What is left.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest case that was found.
    pub case: Case,
    /// What it breaks.
    pub violation: Violation,
    /// Runs that it took.
    pub runs: u32,
}

/// What a case breaks, if it breaks something.
pub fn violation_of(case: &Case) -> Option<Violation> {
    match run_plan(case.seed, case.plan.clone()).outcome {
        Outcome::Healed | Outcome::Betrayed => None,
        Outcome::Violation(violation) => Some(violation),
    }
}

/// Makes a case small. `None`: it breaks nothing.
pub fn shrink(case: &Case) -> Option<Shrunk> {
    let violation = violation_of(case)?;
    let mut shrinker = Shrinker { best: case.clone(), violation, runs: 1 };
    while shrinker.round() && shrinker.runs < RUNS_MAX {}
    let Shrinker { best, violation, runs } = shrinker;
    Some(Shrunk { case: best, violation, runs })
}

/// A step into a table.
#[derive(Clone, Debug)]
enum Way {
    Key(String),
    Index(usize),
}

struct Shrinker {
    best: Case,
    violation: Violation,
    runs: u32,
}

impl Shrinker {
    /// Tries everything once. Whether something became smaller.
    fn round(&mut self) -> bool {
        let before = self.best.clone();
        self.fewer_faults();
        self.quieter_keys();
        self.smaller_leaves();
        self.best != before
    }

    fn fewer_faults(&mut self) {
        let mut size = self.best.plan.faults.len();
        while size > 0 {
            let mut from = 0;
            while from < self.best.plan.faults.len() {
                let mut case = self.best.clone();
                let end = (from + size).min(case.plan.faults.len());
                case.plan.faults.drain(from..end);
                let other = (0..OTHER_SEEDS).map(|seed| Case { seed, ..case.clone() });
                let is_smaller = std::iter::once(case.clone()).chain(other).any(|case| self.keep(case));
                from += if is_smaller { 0 } else { size };
            }
            size /= 2;
        }
    }

    fn quieter_keys(&mut self) {
        let keys: Vec<String> = self.best.table().keys().cloned().collect();
        for key in keys.into_iter().filter(|key| !KEPT.contains(&key.as_str())) {
            let mut table = self.best.table();
            table.remove(&key);
            self.keep_table(table);
        }
    }

    fn smaller_leaves(&mut self) {
        let mut ways = Vec::new();
        leaves(&Value::Table(self.best.table()), &mut Vec::new(), &mut ways);
        let quiet = Value::Table(Table::try_from(Plan::default()).expect("every field of a plan has a TOML value"));
        for way in ways {
            if matches!(&way[0], Way::Key(key) if KEPT[..2].contains(&key.as_str())) {
                continue;
            }
            self.without(&way);
            while self.smaller(&way, at(&quiet, &way)) {}
        }
    }

    /// Leaves out what may be left out inside a fault.
    fn without(&mut self, way: &[Way]) {
        let (Some(Way::Key(key)), 2..) = (way.last(), way.len()) else { return };
        let mut table = Value::Table(self.best.table());
        if let Some(Value::Table(inner)) = at_mut(&mut table, &way[..way.len() - 1])
            && inner.remove(key).is_some()
        {
            self.keep_value(table);
        }
    }

    fn smaller(&mut self, way: &[Way], quiet: Option<&Value>) -> bool {
        let table = Value::Table(self.best.table());
        let Some(value) = at(&table, way).cloned() else { return false };
        candidates(&value, quiet).into_iter().any(|candidate| {
            let mut table = table.clone();
            *at_mut(&mut table, way).expect("it was read one line above") = candidate;
            self.keep_value(table)
        })
    }

    fn keep_value(&mut self, value: Value) -> bool {
        let Value::Table(table) = value else { unreachable!("a plan is a table") };
        self.keep_table(table)
    }

    fn keep_table(&mut self, table: Table) -> bool {
        Case::of_table(table).is_ok_and(|case| case != self.best && self.keep(case))
    }

    /// Whether the case breaks the same rule; then it is the best so far.
    fn keep(&mut self, case: Case) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let violation = violation_of(&case).filter(|violation| is_same(violation, &self.violation));
        let is_kept = violation.is_some();
        if let Some(violation) = violation {
            (self.best, self.violation) = (case, violation);
        }
        is_kept
    }
}

fn is_same(one: &Violation, other: &Violation) -> bool {
    let plain = |violation: &Violation| violation.text.replace(|letter: char| letter.is_ascii_digit(), "");
    one.rule == other.rule && (one.rule != Rule::NoPanic || plain(one) == plain(other))
}

fn leaves(value: &Value, here: &mut Vec<Way>, found: &mut Vec<Vec<Way>>) {
    let mut enter = |way: Way, value: &Value| {
        here.push(way);
        leaves(value, here, found);
        here.pop();
    };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| enter(Way::Key(key.clone()), value)),
        Value::Array(array) => array.iter().enumerate().for_each(|(index, value)| enter(Way::Index(index), value)),
        _ => found.push(here.clone()),
    }
}

fn at<'a>(value: &'a Value, way: &[Way]) -> Option<&'a Value> {
    way.iter().try_fold(value, |value, step| match step {
        Way::Key(key) => value.get(key),
        Way::Index(index) => value.get(index),
    })
}

fn at_mut<'a>(value: &'a mut Value, way: &[Way]) -> Option<&'a mut Value> {
    way.iter().try_fold(value, |value, step| match step {
        Way::Key(key) => value.get_mut(key),
        Way::Index(index) => value.get_mut(index),
    })
}

/// What is smaller than `value`, the smallest first; each is nearer to what it is in the quiet plan, or to nothing.
fn candidates(value: &Value, quiet: Option<&Value>) -> Vec<Value> {
    match (value, quiet) {
        (Value::Boolean(is), quiet) => {
            let quiet = quiet.and_then(Value::as_bool).unwrap_or(false);
            (*is != quiet).then_some(Value::Boolean(quiet)).into_iter().collect()
        }
        (Value::Integer(number), quiet) => {
            let quiet = quiet.and_then(Value::as_integer).unwrap_or(0);
            let next = if number.abs_diff(quiet) <= STEPS_MAX { number - (number - quiet).signum() } else { *number };
            let nearer = [quiet, quiet + (number - quiet) / 2, next];
            nearer
                .into_iter()
                .filter(|other| other.abs_diff(quiet) < number.abs_diff(quiet))
                .map(Value::Integer)
                .collect()
        }
        (Value::String(text), quiet) => {
            let Some(time) = time_of_text(text) else { return Vec::new() };
            let quiet = quiet.and_then(Value::as_str).and_then(time_of_text).unwrap_or(0);
            let half = quiet.midpoint(time);
            let nearer = [quiet, half / MS * MS, time / MS * MS, half / US * US, time / US * US];
            let nearer = nearer.into_iter().filter(|other| other.abs_diff(quiet) < time.abs_diff(quiet));
            nearer.map(|other| Value::String(time_text(other))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Break;

    #[test]
    fn smaller_time_is_nearer_and_rounder() {
        let of = |text: &str| candidates(&Value::String(text.to_owned()), None);
        let texts = |values: Vec<Value>| values.iter().map(Value::to_string).collect::<Vec<_>>();
        assert_eq!(texts(of("4500us")), ["\"0ms\"", "\"2ms\"", "\"4ms\"", "\"2250us\""]);
        assert!(of("0ms").is_empty());
        assert!(of("Reset").is_empty());
    }

    #[test]
    fn case_that_breaks_nothing_is_not_shrunk() {
        assert!(shrink(&Case { seed: 1, plan: Plan::default() }).is_none());
    }

    #[test]
    fn shrunk_case_breaks_the_same_rule_again_from_its_text() {
        let rule = Some(Break::ForgetHeld);
        let mut cases = (0..60).map(|seed| Case { seed, plan: Plan::of_seed(seed, rule) });
        let case = cases.find(|case| violation_of(case).is_some()).expect("the rule is caught");
        let shrunk = shrink(&case).expect("it breaks a rule");
        let replayed: Case = shrunk.case.to_string().parse().expect("the text of a case is one");
        assert_eq!(violation_of(&replayed), Some(shrunk.violation));
        assert!(shrunk.case.plan.faults.len() <= 2, "{}", shrunk.case);
    }
}
