//! `outlast demo`: hands over to the story's script in the source tree.
//!
//! The story needs hosts that can lose power, so the lab (`tests/lab`) tells it, which is not part of this program. The
//! script takes this process's place: its output, its exit code and its signals are the command's.

use std::convert::Infallible;
use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::DemoConfig;
use crate::exit::{Exit, Failure};

/// Names the source tree when this program does not lie in it.
const SOURCE_DIR: &str = "OUTLAST_SOURCE_DIR";
/// Where the script is in the source tree.
const SCRIPT: &str = "tests/lab/demo";

/// Runs the script. Returns only if that was not possible.
pub(super) fn demo(config: &DemoConfig) -> Result<Infallible, Failure> {
    let program = env::current_exe().map_err(|error| {
        Failure::new(Exit::Error, format!("cannot find this program's own file: {error}"))
            .with_hint("is /proc mounted?")
    })?;
    let script = script(env::var_os(SOURCE_DIR).map(PathBuf::from), &program)?;
    let error = command(config, &script, &program).exec();
    Err(Failure::new(Exit::Error, format!("cannot start {}: {error}", script.display()))
        .with_hint("it needs /usr/bin/python3; scripts/setup in the source tree installs it"))
}

fn command(config: &DemoConfig, script: &Path, program: &Path) -> Command {
    let mut command = Command::new(script);
    command.arg("--out").arg(&config.out).arg("--binary").arg(program);
    if let Some(seed) = config.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    if let Some(guest) = &config.guest {
        command.arg("--guest").arg(guest.to_string());
    }
    command
}

/// The script in the tree that the environment names, else in the one that `program` was built in. Not in the current
/// directory: the story runs as root, and what runs as root must not depend on where one stands.
fn script(named: Option<PathBuf>, program: &Path) -> Result<PathBuf, Failure> {
    let (found, looked) = match named {
        Some(tree) => {
            (Some(tree.join(SCRIPT)).filter(|path| path.is_file()), format!("{SOURCE_DIR}={}", tree.display()))
        }
        None => {
            let mut above = program.ancestors().skip(1).map(|tree| tree.join(SCRIPT));
            (above.find(|path| path.is_file()), format!("the directories above {}", program.display()))
        }
    };
    found.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("the demo needs the source tree, and {SCRIPT} is not in {looked}"))
            .with_hint(format!("run `make demo` in the source tree, or set {SOURCE_DIR} to it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree_with_script() -> tempfile::TempDir {
        let tree = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(tree.path().join("tests/lab")).expect("made");
        fs::write(tree.path().join(SCRIPT), "").expect("written");
        tree
    }

    #[test]
    fn script_above_the_program_is_found() {
        let tree = tree_with_script();
        let found = script(None, &tree.path().join("target/release/outlast")).expect("found");
        assert_eq!(found, tree.path().join(SCRIPT));
    }

    #[test]
    fn script_in_the_named_tree_is_found_wherever_the_program_is() {
        let tree = tree_with_script();
        let found = script(Some(tree.path().into()), Path::new("/usr/bin/outlast")).expect("found");
        assert_eq!(found, tree.path().join(SCRIPT));
    }

    #[test]
    fn script_of_a_wrong_named_tree_is_not_looked_for_elsewhere() {
        let tree = tree_with_script();
        let failure = script(Some("/nowhere".into()), &tree.path().join("outlast")).expect_err("refused");
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.message.contains("OUTLAST_SOURCE_DIR=/nowhere"), "{failure}");
    }

    #[test]
    fn command_passes_on_what_was_asked_for_and_nothing_else() {
        let config = DemoConfig { out: "o".into(), seed: Some(7), guest: None };
        let command = command(&config, Path::new("/s"), Path::new("/p"));
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args, ["--out", "o", "--binary", "/p", "--seed", "7"]);
    }
}
