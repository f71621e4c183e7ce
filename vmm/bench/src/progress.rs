//! How far a measurement is: a bar on a terminal, a line for each point elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Counts points.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    /// Of `points`, `done` are there already.
    pub(crate) fn new(points: usize, done: usize) -> Self {
        let bar = ProgressBar::new(points as u64).with_position(done as u64);
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}  {eta} left");
        bar.set_style(style.expect("the template is well formed"));
        bar.reset_eta();
        Self { bar, lines: !std::io::stderr().is_terminal() }
    }

    /// A point is being measured.
    pub(crate) fn begin(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// It is done; `result` in a few words.
    pub(crate) fn done(&self, what: &str, result: &str) {
        self.bar.inc(1);
        if self.lines {
            let (at, of) = (self.bar.position(), self.bar.length().unwrap_or(0));
            eprintln!("{at}/{of} {what}: {result}");
        }
    }

    /// Something to tell that is no point.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
