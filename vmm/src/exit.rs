//! How a command ends: the documented exit codes, and errors that say what to do.
//!
//! An error of the world carries four things: what was tried, on what, why it failed (its `Display` and its source
//! chain) and what to do about it ([`Advice::hint`]). [`Failure`] is such an error on its way to the terminal; it is
//! built once, in the command that gives up, and printed once, in [`report`].
//!
//! Not here: bugs of ours, which panic, and guest or peer nonsense, which is counted and never ends a command.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use machine::causes::with_causes;
pub use outlast_api::Exit;
use outlast_api::Fault;

/// What an error adds to its message: what to do, and how the process ends.
///
/// Implement it for every error enum that may reach a command; `?` then turns it into a [`Failure`].
pub trait Advice: Error {
    /// What the reader can do about it, as a sentence or a command; `None` when there is nothing to say.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The exit code that this error ends the process with.
    fn exit(&self) -> Exit {
        Exit::Error
    }
}

/// An error on its way to the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// How the process ends.
    pub exit: Exit,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, exit }
    }

    /// What `error` and its causes say, and what it advises.
    pub fn of(error: &impl Advice) -> Self {
        Failure { message: with_causes(error), hint: error.hint(), exit: error.exit() }
    }

    /// The same failure, with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure, with what was being done when it came up, in front of its message.
    #[must_use]
    pub fn while_doing(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The refusal of something that is designed but not built.
    pub fn not_in_this_version(what: &str) -> Self {
        Failure::new(Exit::Usage, format!("{what} is not in this version"))
            .with_hint("docs/SPECIFICATION.md lists what is built and what is pending")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl<E: Advice> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::of(&error)
    }
}

impl From<Failure> for Fault {
    fn from(Failure { message, hint, exit }: Failure) -> Self {
        Fault { message, code: exit, hint }
    }
}

/// What is told of an error that ends no command: what failed, and what to do about it.
pub fn words<E: Advice>(error: &E) -> String {
    Failure::of(error).to_string()
}

/// Prints a failure to standard error and gives the code to end with.
pub fn report(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("outlast: {failure}");
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open kernel /boot/x")]
    struct NoKernel(#[source] std::io::Error);

    impl Advice for NoKernel {
        fn hint(&self) -> Option<String> {
            Some("give --kernel a file".into())
        }
        fn exit(&self) -> Exit {
            Exit::NotFound
        }
    }

    #[test]
    fn failure_from_advice_names_cause_hint_and_code() {
        let failure = Failure::from(NoKernel(std::io::Error::other("it is gone")));
        assert_eq!(failure.to_string(), "cannot open kernel /boot/x: it is gone\n  hint: give --kernel a file");
        assert_eq!(failure.exit, Exit::NotFound);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read it: {0}; try again")]
    struct Repeats(#[source] std::io::Error);

    impl Advice for Repeats {}

    #[test]
    fn failure_from_advice_does_not_repeat_a_cause() {
        let failure = Failure::from(Repeats(std::io::Error::other("it is gone")));
        assert_eq!(failure.to_string(), "cannot read it: it is gone; try again");
    }

    #[test]
    fn while_doing_puts_the_task_in_front() {
        let failure = Failure::new(Exit::Error, "no").while_doing("start vm0");
        assert_eq!(failure.to_string(), "start vm0: no");
    }
}
