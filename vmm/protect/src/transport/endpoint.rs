//! Where a peer is reached.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::tcp::Tcp;
use super::tls::{Credentials, Tls};
use super::unix::Unix;
use super::{Connection, Listener, Transport};

/// Behind the port of an endpoint to which clear text may go.
const CLEAR: &str = ",clear";
/// `sun_path` less its terminating zero.
const PATH_BYTES_MAX: usize = 107;

/// Where a peer is reached, and by which transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A host and a TCP port, written `tcp:HOST:PORT`, or `tcp:HOST:PORT,clear`; an IPv6 address stands in brackets.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The TCP port.
        port: u16,
        /// What goes there is not encrypted, although it leaves this host.
        is_clear: bool,
    },
    /// A unix socket of this host, written `unix:PATH`.
    Unix(PathBuf),
}

/// Why nothing is sent to an endpoint, or heard there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Nobody said that clear text may leave this host.
    #[error(
        "{endpoint} is not on this host, and without a TLS directory nothing encrypts the guest's memory on its way"
    )]
    Open {
        /// Where.
        endpoint: Endpoint,
    },
    /// Clear text was asked for, and TLS.
    #[error("{endpoint} asks for clear text, and a TLS directory was given")]
    Contradiction {
        /// Where.
        endpoint: Endpoint,
    },
}

impl Endpoint {
    /// Whether the guest may go there: encrypted, or not beyond this host, or in clear text because the operator wrote so.
    pub fn check(&self, has_credentials: bool) -> Result<(), ChannelError> {
        match self {
            Self::Tcp { is_clear: true, .. } if has_credentials => {
                Err(ChannelError::Contradiction { endpoint: self.clone() })
            }
            Self::Tcp { host, is_clear: false, .. } if !has_credentials && !is_loopback(host) => {
                Err(ChannelError::Open { endpoint: self.clone() })
            }
            Self::Tcp { .. } | Self::Unix(_) => Ok(()),
        }
    }

    /// What connects to it, and listens there. With `credentials` every TCP connection is TLS.
    pub(super) fn transport(&self, credentials: Option<&Credentials>) -> Result<Box<dyn Transport>, ChannelError> {
        self.check(credentials.is_some())?;
        Ok(match (self.clone(), credentials.cloned()) {
            (Self::Tcp { host, port, .. }, None) => Box::new(Tcp { host, port }),
            (Self::Tcp { host, port, .. }, Some(credentials)) => Box::new(Tls { tcp: Tcp { host, port }, credentials }),
            (Self::Unix(path), _) => Box::new(Unix { path }),
        })
    }

    /// Reaches the peer that listens there; waits a few seconds at most.
    pub fn connect(&self, credentials: Option<&Credentials>) -> io::Result<Connection> {
        self.transport(credentials).map_err(refused)?.connect()
    }

    /// Waits for peers there, from now on; and where that is, with what was left to the host.
    pub fn listen(&self, credentials: Option<&Credentials>) -> io::Result<(Box<dyn Listener>, Self)> {
        let listener = self.transport(credentials).map_err(refused)?.listen()?;
        let here = match (listener.endpoint()?, self) {
            (Self::Tcp { host, port, .. }, Self::Tcp { is_clear, .. }) => Self::Tcp { host, port, is_clear: *is_clear },
            (here, _) => here,
        };
        Ok((listener, here))
    }
}

fn refused(error: ChannelError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Whether `host`, without brackets, is this host.
pub(crate) fn is_loopback(host: &str) -> bool {
    // RFC 6761, 6.3: the name has no other address.
    host.parse::<IpAddr>().map_or(host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

fn tcp_of(text: &str, rest: &str) -> Result<Endpoint, String> {
    let wrong = || format!("'{text}' is not tcp:HOST:PORT");
    let (rest, is_clear) = rest.strip_suffix(CLEAR).map_or((rest, false), |rest| (rest, true));
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let bracketed = bare.len() != host.len();
    if bare.is_empty() || (bare.contains(':') && !bracketed) {
        return Err(wrong());
    }
    let port = port.parse().map_err(|_| format!("'{port}' is not a port; use 0 to 65535"))?;
    Ok(Endpoint::Tcp { host: bare.into(), port, is_clear })
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
            Self::Tcp { host, port, is_clear } => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "tcp:{open}{host}{close}:{port}{}", if *is_clear { CLEAR } else { "" })
            }
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
        for text in [
            "tcp:b.example:7000",
            "tcp:10.0.0.2:1",
            "tcp:[fe80::1]:7000",
            "tcp:[fe80::1]:7000,clear",
            "tcp:b:1,clear",
            "unix:/run/vm0.sock",
            "unix:a:b",
        ] {
            assert_eq!(text.parse::<Endpoint>().expect("well formed").to_string(), text);
        }
    }

    #[test]
    fn clear_text_leaves_this_host_only_where_it_is_named_and_never_beside_tls() {
        let check = |text: &str, tls: bool| text.parse::<Endpoint>().expect("well formed").check(tls);
        for here in ["tcp:127.0.0.1:1", "tcp:127.9.9.9:1", "tcp:[::1]:1", "tcp:localhost:1", "unix:/a"] {
            check(here, false).expect("it stays here");
            check(here, true).expect("it stays here");
        }
        for away in ["tcp:10.0.0.2:1", "tcp:b:1", "tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:localhost.example:1"] {
            assert!(matches!(check(away, false), Err(ChannelError::Open { .. })), "{away}");
            check(away, true).expect("it is encrypted");
            check(&format!("{away},clear"), false).expect("it is named");
            assert!(matches!(check(&format!("{away},clear"), true), Err(ChannelError::Contradiction { .. })), "{away}");
        }
    }

    #[test]
    fn endpoint_odd_shapes_are_refused() {
        for text in [
            "tcp:",
            "tcp::1",
            "tcp:h:1,",
            "tcp:h:1,tls",
            "tcp:h,clear",
            "tcp:host",
            "tcp:host:",
            "tcp:host:70000",
            "tcp:fe80::1:7000",
            "udp:h:1",
            "unix:",
            "x",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!(format!("unix:/{}", "x".repeat(106)).parse::<Endpoint>().is_ok());
        let error = format!("unix:/{}", "x".repeat(107)).parse::<Endpoint>().expect_err("no socket has that name");
        assert!(error.contains("1 to 107 bytes"), "{error}");
    }
}
