//! A run as a story: who did what, when, in words.
//!
//! Epochs after a takeover, which are numbered in millions, and the random numbers of sessions and lives are shortened: `2M+17`
//! is the 17th of the second million, `#3` the third session that the story names, `life 1.4` the fourth life of host 1.

pub mod words;

use std::collections::HashMap;

use crate::oracle::Violation;
use crate::plan::{Case, time_text};
use crate::world::{Outcome, Summary};

/// So many lines that matter are told again at the end of a story that ends badly.
const LAST: usize = 20;

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A host.
    Host(usize),
    /// A fault, its end, an operator.
    World,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, in nanoseconds.
    pub at: u64,
    /// Who did it.
    pub who: Who,
    /// What that was at the time.
    pub role: &'static str,
    /// It is worth telling where not everything is told.
    pub matters: bool,
    /// What.
    pub text: String,
}

impl Line {
    /// A line out of a text that may begin with the host whose it is: "host 1 ..." or "host 1: ...".
    pub fn of(at: u64, matters: bool, roles: &[&'static str], text: String) -> Line {
        let of_host = text.strip_prefix("host ").and_then(|rest| {
            let (number, rest) = rest.split_at_checked(1)?;
            let rest = rest.strip_prefix(": ").or(rest.strip_prefix(' '))?;
            Some((number.parse::<usize>().ok()?, rest.to_owned()))
        });
        match of_host {
            Some((host, text)) => {
                Line { at, who: Who::Host(host), role: roles.get(host).copied().unwrap_or(""), matters, text }
            }
            None => Line { at, who: Who::World, role: "", matters, text },
        }
    }
}

/// The whole story, as lines of text. `verbose`: also what does not matter much.
pub fn tell(case: &Case, lines: &[Line], summary: &Summary, verbose: bool) -> Vec<String> {
    let mut names = Names::default();
    let mut told = head(case);
    let lines: Vec<(bool, String)> = lines.iter().map(|line| (line.matters, names.line(line))).collect();
    let is_told = |(matters, _): &&(bool, String)| verbose || *matters;
    let mut told_of: Vec<String> = lines.iter().filter(is_told).map(|(_, text)| text.clone()).collect();
    let Outcome::Violation(violation) = &summary.outcome else {
        told.append(&mut told_of);
        told.extend([String::new(), well(summary)]);
        return told;
    };
    let matter: Vec<&String> = lines.iter().filter(|(matters, _)| *matters).map(|(_, text)| text).collect();
    let last = &matter[matter.len().saturating_sub(LAST)..];
    if !verbose {
        // They are the end of what is told.
        told_of.truncate(told_of.len() - last.len());
    }
    told.append(&mut told_of);
    told.push(format!("the last {} lines that matter:", last.len()));
    told.extend(last.iter().map(|text| (*text).clone()));
    told.push(String::new());
    told.extend(end(violation, &mut names));
    told
}

fn head(case: &Case) -> Vec<String> {
    let Case { seed, plan } = case;
    let rule = plan.broken.map(|rule| format!(", {rule:?} broken on purpose")).unwrap_or_default();
    let mut told = vec![format!("seed {seed}{rule}; faults stop at {}", time_text(plan.heal_at))];
    told.push(match plan.faults.len() {
        0 => "no faults are planned".to_owned(),
        1 => "one fault is planned:".to_owned(),
        count => format!("{count} faults are planned:"),
    });
    let rows = plan.faults.iter().map(|fault| (words::when(&fault.when), words::what(&fault.what)));
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(when, _)| when.len()).max().unwrap_or(0);
    told.extend(rows.into_iter().map(|(when, what)| format!("    {when:<width$}   {what}")));
    told.push(String::new());
    told
}

fn well(summary: &Summary) -> String {
    let Summary { counts, outputs, answers, outcome } = summary;
    if *outcome == Outcome::Betrayed {
        return "the witness was restored and believed by a host that could not know: no rule can hold from here on"
            .to_owned();
    }
    format!("it healed: {answers} requests answered, {outputs} outputs seen, {counts}")
}

fn end(violation: &Violation, names: &mut Names) -> Vec<String> {
    let Violation { rule, by, text } = violation;
    let by = by.map_or("nobody alone".to_owned(), |host| format!("host {host}"));
    let how = names.shorten(text);
    vec![format!("BROKEN: {}", rule.words()), format!("by:     {by}"), format!("how:    {how}")]
}

/// Names for random numbers, in the order in which they come.
#[derive(Default)]
struct Names {
    sessions: HashMap<String, usize>,
}

impl Names {
    fn line(&mut self, line: &Line) -> String {
        let who = match line.who {
            Who::Host(host) => format!("host {host}"),
            Who::World => "-".to_owned(),
        };
        format!("{:>10.3} ms  {who:<6}  {:<8}  {}", line.at as f64 / 1e6, line.role, self.shorten(&line.text))
    }

    fn shorten(&mut self, text: &str) -> String {
        let mut short = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(|letter: char| letter.is_ascii_alphanumeric()) {
            let end =
                rest[start..].find(|letter: char| !letter.is_ascii_alphanumeric()).map_or(rest.len(), |at| start + at);
            short += &rest[..start];
            short += &self.word(&rest[start..end]);
            rest = &rest[end..];
        }
        short + rest
    }

    fn word(&mut self, word: &str) -> String {
        if word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return life(word).unwrap_or_else(|| {
                let next = self.sessions.len() + 1;
                format!("#{}", self.sessions.entry(word.to_owned()).or_insert(next))
            });
        }
        word.to_owned()
    }
}

/// The life of a process or of a state directory, if that is what this number of 32 digits is.
fn life(word: &str) -> Option<String> {
    let byte = |at: usize| u8::from_str_radix(&word[2 * at..2 * at + 2], 16).ok();
    let bytes: Vec<u8> = (0..16).filter_map(byte).collect();
    let host = usize::from(*bytes.first()?).checked_sub(1).filter(|host| *host < crate::fault::HOSTS)?;
    let is_life = bytes[1..4] == [0; 3] && bytes[8..15] == [0; 7] && bytes[15] <= 1;
    let number = u32::from_le_bytes(*bytes[4..].first_chunk()?);
    let store = if bytes[15] == 1 { "store " } else { "life " };
    is_life.then(|| format!("{store}{host}.{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::HostId;
    use crate::machines::{incarnation, store_of};

    #[test]
    fn line_knows_its_host() {
        let of = |text: &str| Line::of(0, true, &["primary", "backup"], text.to_owned());
        let line = of("host 1: keeps epoch 3");
        assert_eq!((line.who, line.role, line.text.as_str()), (Who::Host(1), "backup", "keeps epoch 3"));
        assert_eq!(of("host 0 ships").text, "ships");
        assert_eq!(of("the hosts are cut off").who, Who::World);
    }

    #[test]
    fn long_numbers_become_short_ones() {
        let mut names = Names::default();
        let (one, two) = ("31b477a1c2c677cb0000000000000000", "41b477a1c2c677cb0000000000000000");
        let text = format!("session {one}, then {two}, {one}: epoch 3/17");
        assert_eq!(names.shorten(&text), "session #1, then #2, #1: epoch 3/17");
        let id = HostId { host: 1, life: 4 };
        assert_eq!(names.shorten(&incarnation(id).to_string()), "life 1.4");
        assert_eq!(names.shorten(&store_of(id).to_string()), "store 1.4");
    }
}
