//! Names and paths that several configurations check.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use protect::transport::Endpoint;
use protect::witness::WitnessName;

/// Where the state directories of VMs are kept when none is named.
pub(crate) const STATE_ROOT: &str = "/dev/shm/outlast";
/// A VM's name is part of file names and of the wire.
const NAME_BYTES_MAX: usize = 63;

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

pub(super) fn check_name(name: &str) -> Result<(), ConfigError> {
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_name_byte) {
        return Ok(());
    }
    Err(out_of_range("name", name, "1 to 63 letters, digits, '-', '_' or '.', the first a letter or digit"))
}

/// The path from the root: what is configured here means the same when it is read elsewhere. No name in it is followed.
pub(super) fn rooted(path: PathBuf) -> PathBuf {
    // It fails for an empty path and where there is no working directory; then opening it will say more.
    std::path::absolute(&path).unwrap_or(path)
}

/// The same of where a peer is reached.
pub(super) fn rooted_endpoint(endpoint: Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Unix(path) => Endpoint::Unix(rooted(path)),
        Endpoint::Tcp { .. } => endpoint,
    }
}

/// The same of a witness.
pub(crate) fn rooted_witness(witness: WitnessName) -> WitnessName {
    witness.with_paths(rooted)
}

pub(super) fn default_state_dir(name: &str) -> PathBuf {
    Path::new(STATE_ROOT).join(name)
}

pub(super) fn out_of_range(field: &'static str, value: impl Display, range: impl Into<String>) -> ConfigError {
    ConfigError::OutOfRange { field, value: value.to_string(), range: range.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_name_file_name_characters_only() {
        for good in ["vm0", "web-1.prod_a", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "../x", "a/b", "-a", "a b", "ä", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rooted_path_means_the_same_from_everywhere() {
        let here = std::env::current_dir().expect("a test has one");
        assert_eq!(rooted("a/b.img".into()), here.join("a/b.img"));
        assert_eq!(rooted("/a/./b.img".into()), Path::new("/a/b.img"));
        assert_eq!(rooted(PathBuf::new()), PathBuf::new());
    }
}
