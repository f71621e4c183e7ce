//! Errors in one line.

use std::error::Error;
use std::fmt::Write;

/// The message of `error` and of each cause below it, outermost first, on one line. A cause that the message already
/// repeats is left out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            write!(text, ": {said}").expect("writing to a String cannot fail");
        }
        cause = inner.source();
    }
    text
}
