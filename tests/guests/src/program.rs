//! Where the program under test is.

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

/// The `outlast` program: `OUTLAST_BIN`, or the release build, made now if it is not current.
pub fn outlast() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("OUTLAST_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "--release", "-p", "vmm", "--target-dir"])
        .arg(target())
        .current_dir(root())
        .status()
        .expect("cargo is there: set OUTLAST_BIN to test a program that is built already");
    assert!(status.success(), "the program under test does not build");
    target().join("release/outlast")
}
