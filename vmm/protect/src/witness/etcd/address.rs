//! Where an etcd cluster is reached, as it is typed: `URL[,URL…][,credentials=DIR]`. No secret is part of it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::transport::is_loopback;

/// In front of the directory with certificates and password. It is the last part: a path may have commas.
const CREDENTIALS: &str = ",credentials=";

/// The client addresses of one cluster, and where the certificates and the password for it are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `http://HOST:PORT` or `https://HOST:PORT`; at least one.
    pub(super) addresses: Vec<String>,
    /// Of TLS addresses always there.
    pub(super) credentials: Option<PathBuf>,
}

/// Text that is no place of an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTarget {
    /// One of the addresses is none.
    #[error(
        "'{0}' is no client address of etcd: write http://HOST:PORT or https://HOST:PORT, and several with commas between them"
    )]
    Address(String),
    /// Some are encrypted, and some are not.
    #[error("some of the addresses are http and some https: give those of one kind")]
    Mixed,
    /// Nobody says whose certificates are good.
    #[error(
        "https needs {CREDENTIALS}DIR behind the addresses: a directory with ca-cert.pem, the certificate of who signed the members'"
    )]
    NoAuthority,
    /// The directory has no name.
    #[error("the directory behind {CREDENTIALS} has no name")]
    NoDirectory,
    /// A password would cross a network in clear text.
    #[error(
        "{0} is not on this host, and without https a password would cross the network in clear text: use https, or leave {CREDENTIALS}DIR out"
    )]
    Clear(String),
}

impl Target {
    pub(super) fn is_tls(&self) -> bool {
        self.addresses.iter().all(|address| address.starts_with("https:"))
    }

    fn check(self) -> Result<Self, NoTarget> {
        let is_mixed = !self.is_tls() && self.addresses.iter().any(|address| address.starts_with("https:"));
        let leaves = || self.addresses.iter().find(|address| !is_loopback(host_of(address)));
        match &self.credentials {
            _ if is_mixed => Err(NoTarget::Mixed),
            None if self.is_tls() => Err(NoTarget::NoAuthority),
            Some(dir) if dir.as_os_str().is_empty() => Err(NoTarget::NoDirectory),
            Some(_) if !self.is_tls() => leaves().map_or(Ok(()), |address| Err(NoTarget::Clear(address.clone()))),
            _ => Ok(()),
        }
        .map(|()| self)
    }
}

/// The host of an address that was checked, without brackets.
fn host_of(address: &str) -> &str {
    let (_, place) = address.split_once("://").expect("it was checked");
    let (host, _) = place.rsplit_once(':').expect("it was checked");
    host.trim_start_matches('[').trim_end_matches(']')
}

fn address(text: &str) -> Result<String, NoTarget> {
    let text = text.trim_end_matches('/');
    let place = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let port = place.and_then(|place| place.rsplit_once(':')).and_then(|(host, port)| {
        let is_host = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
        port.parse::<u16>().ok().filter(|port| is_host && *port != 0)
    });
    port.map(|_| text.to_owned()).ok_or_else(|| NoTarget::Address(text.to_owned()))
}

impl FromStr for Target {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let (addresses, credentials) =
            text.split_once(CREDENTIALS).map_or((text, None), |(addresses, dir)| (addresses, Some(dir.into())));
        let addresses = addresses.split(',').map(address).collect::<Result<_, _>>()?;
        Self { addresses, credentials }.check()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addresses.join(","))?;
        self.credentials.as_ref().map_or(Ok(()), |dir| write!(f, "{CREDENTIALS}{}", dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_read_and_written_again() {
        for text in [
            "http://127.0.0.1:2379",
            "http://a:1,http://[::1]:2",
            "https://a:1,https://b:1,credentials=/etc/outlast/etcd",
            "https://a:1,credentials=/x,y=z,credentials=w",
            "http://127.0.0.1:1,http://[::1]:2,http://localhost:3,credentials=rel",
        ] {
            assert_eq!(text.parse::<Target>().expect("well formed").to_string(), text);
        }
        let target: Target = "https://a:1,credentials=/x,y=z".parse().expect("well formed");
        assert_eq!(target.credentials, Some("/x,y=z".into()));
    }

    #[test]
    fn what_is_no_target_is_named_with_what_to_write() {
        for text in ["", "a:1", "http://a", "http://:1", "http://a:0", "http://a:1,", "http://a:1/v3", "http://u@a:1"] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(matches!(error, NoTarget::Address(_)), "{text}: {error}");
        }
        for (text, error) in [
            ("http://a:1,https://b:1,credentials=/d", NoTarget::Mixed),
            ("https://a:1", NoTarget::NoAuthority),
            ("https://a:1,credentials=", NoTarget::NoDirectory),
            ("http://127.0.0.1:1,http://a:1,credentials=/d", NoTarget::Clear("http://a:1".into())),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text}");
        }
    }
}
