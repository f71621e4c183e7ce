//! `outlast bench`: hands over to `outlast-bench`, which lies beside this program or on the path.
//!
//! It takes this process's place: its output, its exit code and its signals are the command's.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::exit::{Exit, Failure};

/// The program that measures.
const PROGRAM: &str = "outlast-bench";

/// Measure what protection costs; writes CSV, SVG and an HTML page
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(super) struct BenchArgs {
    /// What to measure and how: see `outlast bench --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

pub(super) fn execute(args: BenchArgs) -> Result<Exit, Failure> {
    let this = std::env::current_exe().ok();
    let program = beside(this.as_deref()).unwrap_or_else(|| PROGRAM.into());
    let error = Command::new(&program).args(args.arguments).exec();
    let exit = if error.kind() == ErrorKind::NotFound { Exit::NotFound } else { Exit::Error };
    Err(Failure::new(exit, format!("cannot start {}: {error}", program.display()))
        .with_hint(format!("`make build` in the source tree makes {PROGRAM}; put it beside `outlast`")))
}

/// The program beside `this`, if it is there.
fn beside(this: Option<&Path>) -> Option<PathBuf> {
    Some(this?.parent()?.join(PROGRAM)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_beside_this_one_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let this = dir.path().join("outlast");
        assert_eq!(beside(Some(&this)), None);
        std::fs::write(dir.path().join(PROGRAM), "").expect("written");
        assert_eq!(beside(Some(&this)), Some(dir.path().join(PROGRAM)));
        assert_eq!(beside(None), None);
    }
}
