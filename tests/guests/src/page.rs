//! The shell blocks of a Markdown page: what a reader types, and what the page says comes then.
//!
//! A block fenced as `console` holds commands behind `$ ` and, below each, what it prints. One fenced as `sh` holds commands only. A
//! comment in the line above the fence, which no reader sees, says what is different about a block:
//!
//! - `<!-- skip: REASON -->`: the test does not run it.
//! - `<!-- on: HOST -->`: it is typed on that host.

use std::fs;
use std::path::Path;

/// A fenced block of shell commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The heading of the second level that it stands under.
    pub part: String,
    /// The number of its first line.
    pub line: usize,
    /// Why it is not run.
    pub skip: Option<String>,
    /// Where it is typed, if the page tells hosts apart.
    pub host: Option<String>,
    /// Whether it shows what comes; otherwise it holds commands only.
    pub shows: bool,
    /// Its commands, in order.
    pub steps: Vec<Step>,
}

/// A command, and what the page shows below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The number of its line.
    pub line: usize,
    /// What is typed.
    pub command: String,
    /// What it prints, by the page.
    pub shown: Vec<String>,
}

/// The shell blocks of the page at `path`.
pub fn read(path: &Path) -> Vec<Block> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    blocks(&text)
}

fn blocks(text: &str) -> Vec<Block> {
    let mut lines = text.lines().zip(1..).peekable();
    let (mut blocks, mut part, mut above) = (Vec::new(), String::new(), "");
    while let Some((line, number)) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            part = heading.to_owned();
        }
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<(&str, usize)> = lines.by_ref().take_while(|(line, _)| *line != "```").collect();
            if matches!(language, "console" | "sh") {
                let shows = language == "console";
                let steps = steps(&inside, shows);
                let (skip, host) = (marked(above, "skip"), marked(above, "on"));
                blocks.push(Block { part: part.clone(), line: number + 1, skip, host, shows, steps });
            }
        }
        above = line;
    }
    blocks
}

fn marked(line: &str, key: &str) -> Option<String> {
    let inside = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    Some(inside.strip_prefix(key)?.strip_prefix(": ")?.to_owned())
}

fn steps(lines: &[(&str, usize)], has_prompts: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for &(line, number) in lines {
        let typed = if has_prompts { line.strip_prefix("$ ") } else { Some(line) };
        match (goes_on, typed, steps.last_mut()) {
            (true, _, Some(step)) => step.command = format!("{}\n{line}", step.command),
            (_, Some(command), _) if has_prompts || !(command.is_empty() || command.starts_with('#')) => {
                steps.push(Step { line: number, command: command.to_owned(), shown: Vec::new() });
            }
            (_, None, Some(step)) => step.shown.push(line.to_owned()),
            (_, None, None) => panic!("line {number}: output without the command that makes it: {line}"),
            (_, Some(_), _) => continue,
        }
        goes_on = steps.last().is_some_and(|step| step.shown.is_empty() && step.command.ends_with('\\'));
    }
    steps
}

/// Whether `came` is what the page shows. On the page a line `…` stands for any lines, and `…` in a line for any text.
pub fn agrees(shown: &[String], came: &[String]) -> bool {
    let (shown, came): (Vec<_>, Vec<_>) =
        (shown.iter().map(|l| words(l)).collect(), came.iter().map(|l| words(l)).collect());
    matches(&shown, &came, &|line| *line == ["…"], &|shown, came| {
        // A number alone is an exit code, or a count that the page promises.
        let varies = shown.len() > 1;
        matches(shown, came, &|word| *word == "…", &|shown, came| shown == came || (varies && is_alike(shown, came)))
    })
}

/// The words of a line and what parts them; a time of day is one word, white space of any width is one blank.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim_end();
    let (mut words, mut rest) = (Vec::new(), line);
    if let Some((first, behind)) = line.split_once(' ')
        && is_time(first)
    {
        (words, rest) = (vec!["TIME"], behind);
    }
    while let Some(first) = rest.chars().next() {
        let same = |c: char| match first {
            _ if first.is_whitespace() => c.is_whitespace(),
            _ => is_of_word(first) && is_of_word(c),
        };
        let end = rest.find(|c| !same(c)).unwrap_or(rest.len()).max(first.len_utf8());
        words.push(if first.is_whitespace() { " " } else { &rest[..end] });
        rest = &rest[end..];
    }
    words
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_')
}

/// As the log writes it: `2026-11-21T09:55:56.416286Z`.
fn is_time(word: &str) -> bool {
    word.len() == 27
        && word.ends_with('Z')
        && word.bytes().all(|byte| byte.is_ascii_digit() || b"-T:.Z".contains(&byte))
}

/// What differs from run to run: measured figures and their units, counts that a guest has come to, and ids.
fn is_alike(shown: &str, came: &str) -> bool {
    let both = |is: fn(&str) -> bool| is(shown) && is(came);
    both(is_figure) || both(is_unit) || both(is_count) || both(is_id)
}

/// The width of a guest's count.
const COUNT_DIGITS: usize = 16;

fn is_figure(word: &str) -> bool {
    let is_decimal = word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_guests = word.len() == COUNT_DIGITS && !word.contains('.');
    is_decimal && !is_guests && word.parse::<f64>().is_ok()
}

fn is_unit(word: &str) -> bool {
    matches!(word, "ns" | "us" | "ms" | "s")
}

/// A guest's count up to here is one that the page waits for; a higher one depends on the moment.
const EXACT_MAX: u64 = 0xff;

fn is_count(word: &str) -> bool {
    word.len() == COUNT_DIGITS && u64::from_str_radix(word, 16).is_ok_and(|count| count > EXACT_MAX)
}

fn is_id(word: &str) -> bool {
    matches!(word.len(), 8 | 32) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `shown` fits `came`, where something for which `is_any` holds stands for any number of things.
fn matches<T>(shown: &[T], came: &[T], is_any: &dyn Fn(&T) -> bool, fits: &dyn Fn(&T, &T) -> bool) -> bool {
    match (shown.split_first(), came.split_first()) {
        (None, _) => came.is_empty(),
        (Some((first, rest)), _) if is_any(first) => {
            (0..=came.len()).any(|skipped| matches(rest, &came[skipped..], is_any, fits))
        }
        (Some((first, rest)), Some((head, tail))) => fits(first, head) && matches(rest, tail, is_any, fits),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(shown: &str, came: &str) -> bool {
        let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
        agrees(&lines(shown), &lines(came))
    }

    #[test]
    fn blocks_have_their_commands_what_is_shown_and_their_marks() {
        let page = "## 1. One\n```console\n$ a \\\n  b\nout\n$ c\n```\n```text\n$ no\n```\n<!-- skip: the lab -->\n```sh\n# note\nd\n```\n";
        let blocks = blocks(page);
        let steps = |index: usize| blocks[index].steps.iter().map(|step| step.command.as_str()).collect::<Vec<_>>();
        assert_eq!((blocks.len(), steps(0), steps(1)), (2, vec!["a \\\n  b", "c"], vec!["d"]));
        assert_eq!((blocks[0].steps[0].shown.as_slice(), blocks[0].line), (["out".to_owned()].as_slice(), 3));
        assert_eq!((blocks[0].skip.as_deref(), blocks[1].skip.as_deref()), (None, Some("the lab")));
        assert_eq!(blocks[1].part, "1. One");
    }

    #[test]
    fn only_what_varies_may_differ() {
        assert!(agree("2026-11-21T09:55:56.416286Z  INFO x=3", "2027-01-02T03:04:05.000001Z  INFO x=44"));
        assert!(agree("epochs.pause   p50 110.7 us, max 4.7 ms (n 146)", "epochs.pause  p50 1.2 ms, max 2.0 s (n 9)"));
        assert!(agree("{\"ms\":11.87}", "{\"ms\":12.107223000000001}"));
        assert!(agree("count=00000000000109df", "count=00000000000aaaaa"));
        assert!(agree("by process 3f9d2c41 on host …", "by process 00112233 on host a-b.c"));
        assert!(agree("a\n…\nz", "a\nb\nc\nz") && agree("a\n…", "a"));
        for (shown, came) in [
            ("6", "5"),
            ("state  Protected", "state  Solo"),
            ("count=0000000000000003", "count=0000000000000004"),
            ("2M to 8G", "2M to 9G"),
            ("tcp:127.0.0.1:7200", "tcp:127.0.0.2:7200"),
            ("a\n…\nz", "a\nb"),
            ("a", "a\nb"),
            ("a\nb", "a"),
        ] {
            assert!(!agree(shown, came), "{shown:?} {came:?}");
        }
    }
}
