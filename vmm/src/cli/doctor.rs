//! `outlast doctor`.

use clap::{Args, ValueEnum};

use super::answer::print;
use super::ctl::Output;
use crate::doctor::{Check, Guests, Report, State, examine};
use crate::exit::{Exit, Failure};

const AFTER_HELP: &str = "\
Each line begins with a verdict:
  ok    it is there
  note  guests run without it, slower or with fewer features
  bare  bare guests run without it, Linux guests do not
  MISS  no guest runs without it

Bare guests are the small test programs of guest-images/bare. Part 1 of docs/TUTORIAL.md
uses them.

Exit codes: 0 guests of that kind run here, 1 they do not. `doctor` changes nothing.";

/// The guests that a host is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum For {
    /// Bare guests: they run wherever any guest does
    Bare,
    /// Unmodified Linux
    Linux,
}

/// Check what this host can do, what is missing, and how to get it
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DoctorArgs {
    /// Format of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Which guests the exit code is about
    #[arg(long = "for", value_enum, value_name = "GUESTS", default_value = "bare")]
    wanted: For,
}

pub(super) fn execute(args: DoctorArgs) -> Result<Exit, Failure> {
    let report = examine();
    let text = match args.output {
        Output::Table => table(&report),
        Output::Json => format!("{:#}\n", serde_json::to_value(&report).expect("a report has string keys only")),
    };
    print(text.as_bytes())?;
    let wanted = match args.wanted {
        For::Bare => Guests::BareOnly,
        For::Linux => Guests::Linux,
    };
    Ok(if report.runs(wanted) { Exit::Ok } else { Exit::Error })
}

/// One line per check; below what is missing: what it is for and how to get it.
fn table(report: &Report) -> String {
    let width = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text: String = report.checks.iter().map(|check| lines(check, width)).collect();
    text.push_str(&format!("\nThis host {}.\n", report.verdict.text));
    text
}

fn lines(Check { name, state, found, why, remedy }: &Check, width: usize) -> String {
    let mark = match state {
        State::Ok => "ok  ",
        State::Note => "note",
        State::BareOnly => "bare",
        State::Missing => "MISS",
    };
    let mut text = format!("{mark}  {name:<width$}  {found}\n");
    for (label, line) in [("for", why), ("get", remedy)] {
        if let Some(line) = line {
            text.push_str(&format!("{:indent$}{label}: {line}\n", "", indent = 8 + width));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn table_aligns_and_explains_only_what_is_missing() {
        let check = |name: &str, state, why: Option<&str>, remedy: Option<&str>| Check {
            name: name.into(),
            state,
            found: "seen".into(),
            why: why.map(String::from),
            remedy: remedy.map(String::from),
        };
        let report = Report {
            checks: vec![check("a", State::Ok, None, None), check("bcd", State::Missing, Some("w"), Some("r"))],
            verdict: Verdict { guests: Guests::Linux, text: "runs Linux guests".into() },
        };
        let expected = "\
ok    a    seen
MISS  bcd  seen
           for: w
           get: r

This host runs Linux guests.
";
        assert_eq!(table(&report), expected);
    }
}
