//! Where a peer is reached.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host and a TCP port, written `tcp:HOST:PORT`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// The pair that the standard library resolves and connects to.
    pub fn as_pair(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not tcp:HOST:PORT");
        let (host, port) = text.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        let bracketed = bare.len() != host.len();
        if bare.is_empty() || (bare.contains(':') && !bracketed) {
            return Err(wrong());
        }
        let port = port.parse().map_err(|_| format!("'{port}' is not a port; use 0 to 65535"))?;
        Ok(Endpoint { host: bare.into(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "tcp:[{}]:{}", self.host, self.port),
            false => write!(f, "tcp:{}:{}", self.host, self.port),
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
        for text in ["tcp:b.example:7000", "tcp:10.0.0.2:1", "tcp:[fe80::1]:7000"] {
            assert_eq!(text.parse::<Endpoint>().expect("well formed").to_string(), text);
        }
    }

    #[test]
    fn endpoint_odd_shapes_are_refused() {
        for text in ["tcp:", "tcp::1", "tcp:host", "tcp:host:", "tcp:host:70000", "tcp:fe80::1:7000", "udp:h:1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
