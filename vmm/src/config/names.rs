//! Names and ranges that several configurations check.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::device::{MacAddr, NetConfig, NetOption};
use super::error::ConfigError;
use protect::transport::Endpoint;
use protect::witness::WitnessName;

/// Where the state directories of VMs are kept when none is named.
pub(crate) const STATE_ROOT: &str = "/dev/shm/outlast";
/// A VM's name is part of file names and of the wire.
const NAME_BYTES_MAX: usize = 63;
/// IFNAMSIZ less its terminating zero.
const TAP_BYTES_MAX: usize = 15;
/// `sun_path` less its terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

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
pub(super) fn rooted_witness(witness: WitnessName) -> WitnessName {
    witness.with_paths(rooted)
}

pub(super) fn default_state_dir(name: &str) -> PathBuf {
    Path::new(STATE_ROOT).join(name)
}

/// The control socket of the VM called `name` when nothing else was typed for it.
pub fn control_socket(name: &str) -> Result<PathBuf, ConfigError> {
    check_name(name)?;
    api_socket(None, &default_state_dir(name))
}

/// The socket that was typed, or `api.sock` in the state directory.
pub(super) fn api_socket(typed: Option<PathBuf>, state_dir: &Path) -> Result<PathBuf, ConfigError> {
    let typed = typed.unwrap_or_else(|| state_dir.join("api.sock"));
    // From a deep directory a short path may be possible where the whole one is not.
    let path =
        Some(rooted(typed.clone())).filter(|path| path.as_os_str().len() < SOCKET_PATH_BYTES_MAX).unwrap_or(typed);
    match path.as_os_str().len() {
        0 | SOCKET_PATH_BYTES_MAX.. => {
            Err(out_of_range("api-socket", path.display(), "a path of 1 to 106 bytes (a limit of unix sockets)"))
        }
        _ => Ok(path),
    }
}

/// Checks tap names and gives every interface an address.
pub(super) fn resolve_nets(name: &str, nets: Vec<NetOption>) -> Result<Vec<NetConfig>, ConfigError> {
    nets.into_iter()
        .enumerate()
        .map(|(index, NetOption { tap, mac, offload })| {
            let fits = (1..=TAP_BYTES_MAX).contains(&tap.len()) && !tap.contains(['/', ' ', '%']);
            match fits {
                true => Ok(NetConfig { tap, mac: mac.unwrap_or_else(|| MacAddr::for_vm(name, index)), offload }),
                false => Err(out_of_range("net", format!("tap={tap}"), "an interface name of 1 to 15 bytes")),
            }
        })
        .collect()
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

    #[test]
    fn api_socket_beyond_sun_path_is_refused() {
        let long = PathBuf::from(format!("/{}", "x".repeat(107)));
        assert!(api_socket(Some(long), Path::new("/s")).is_err());
        assert_eq!(api_socket(None, Path::new("/s")).expect("short"), Path::new("/s/api.sock"));
    }

    #[test]
    fn resolve_nets_fills_missing_mac_and_keeps_typed_one() {
        let typed = MacAddr([2, 0, 0, 0, 0, 9]);
        let net = |tap: &str, mac| NetOption { tap: tap.into(), mac, offload: true };
        let nets = vec![net("tap0", None), net("tap1", Some(typed))];
        let resolved = resolve_nets("vm0", nets).expect("good names");
        assert_eq!(resolved[0].mac, MacAddr::for_vm("vm0", 0));
        assert_eq!(resolved[1].mac, typed);
        assert!(resolve_nets("vm0", vec![net(&"a".repeat(16), None)]).is_err());
    }
}
