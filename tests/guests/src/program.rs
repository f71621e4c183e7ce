//! Where the program under test is.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the package lies in tests/guests")
}

/// The build directory that this test was built into.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let profile = test.ancestors().find(|dir| dir.join(".cargo-lock").exists());
    profile.and_then(Path::parent).expect("a test lies in a profile's directory of the build directory").to_owned()
}

/// The `outlast` program, as people get it: `OUTLAST_BIN`, or the release build, made now if it is not current.
pub fn outlast() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("OUTLAST_BIN").map_or_else(|| build("outlast", &[]), PathBuf::from))
}

/// The same with the faults that a test asks for in its environment: `OUTLAST_FAULTS_BIN`, or the release build. Nothing else differs
/// ([decision 0032](../../../docs/decisions/0032-faults-are-another-program.md)).
pub fn outlast_faults() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let built = || build("outlast-faults", &["--features", "faults"]);
    PATH.get_or_init(|| std::env::var_os("OUTLAST_FAULTS_BIN").map_or_else(built, PathBuf::from))
}

/// The program that takes this environment: that with faults if one is asked for, otherwise the one that people get.
pub fn for_environment<'a>(mut names: impl Iterator<Item = &'a OsStr>) -> &'static Path {
    let is_fault =
        |name: &OsStr| ["OUTLAST_KILL_AT", "OUTLAST_FAIL_AT", "OUTLAST_SLOW_AT"].iter().any(|fault| name == *fault);
    if names.any(is_fault) { outlast_faults() } else { outlast() }
}

fn build(name: &str, options: &[&str]) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "--release", "-p", "vmm", "--bin", name])
        .args(options)
        .arg("--target-dir")
        .arg(target())
        .current_dir(root())
        .status()
        .expect("cargo is there: set OUTLAST_BIN to test a program that is built already");
    assert!(status.success(), "the program under test does not build");
    target().join("release").join(name)
}
