//! Where a peer is reached.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Transport;
use super::tcp::Tcp;
use super::unix::Unix;

/// `sun_path` less its terminating zero.
const PATH_BYTES_MAX: usize = 107;

/// Where a peer is reached, and by which transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A host and a TCP port, written `tcp:HOST:PORT`; an IPv6 address stands in brackets.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// A unix socket of this host, written `unix:PATH`.
    Unix(PathBuf),
}

impl Endpoint {
    /// What connects to it, and listens there.
    pub(crate) fn transport(&self) -> Box<dyn Transport> {
        match self.clone() {
            Self::Tcp { host, port } => Box::new(Tcp { host, port }),
            Self::Unix(path) => Box::new(Unix { path }),
        }
    }
}

fn tcp_of(text: &str, rest: &str) -> Result<Endpoint, String> {
    let wrong = || format!("'{text}' is not tcp:HOST:PORT");
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let bracketed = bare.len() != host.len();
    if bare.is_empty() || (bare.contains(':') && !bracketed) {
        return Err(wrong());
    }
    let port = port.parse().map_err(|_| format!("'{port}' is not a port; use 0 to 65535"))?;
    Ok(Endpoint::Tcp { host: bare.into(), port })
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tcp", rest)) => tcp_of(text, rest),
            Some(("unix", path)) if (1..=PATH_BYTES_MAX).contains(&path.len()) && !path.contains('\0') => {
                Ok(Self::Unix(path.into()))
            }
            Some(("unix", _)) => Err(format!("'{text}' is not unix:PATH with a path of 1 to {PATH_BYTES_MAX} bytes")),
            _ => Err(format!("'{text}' is not tcp:HOST:PORT or unix:PATH")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(value: Endpoint) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_text_round_trips() {
        for text in ["tcp:b.example:7000", "tcp:10.0.0.2:1", "tcp:[fe80::1]:7000", "unix:/run/vm0.sock", "unix:a:b"] {
            assert_eq!(text.parse::<Endpoint>().expect("well formed").to_string(), text);
        }
    }

    #[test]
    fn endpoint_odd_shapes_are_refused() {
        for text in
            ["tcp:", "tcp::1", "tcp:host", "tcp:host:", "tcp:host:70000", "tcp:fe80::1:7000", "udp:h:1", "unix:", "x"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!(format!("unix:/{}", "x".repeat(106)).parse::<Endpoint>().is_ok());
        let error = format!("unix:/{}", "x".repeat(107)).parse::<Endpoint>().expect_err("no socket has that name");
        assert!(error.contains("1 to 107 bytes"), "{error}");
    }
}
