//! Ethernet addresses of a guest's interfaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::units::as_text;

/// An Ethernet address of one station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// Why a MAC address could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hex digits.
    #[error("a MAC address has six pairs of hex digits, as in 52:54:00:12:34:56")]
    Shape,
    /// A group address, which no station may have.
    #[error("it is a multicast address; the first pair must be even")]
    Multicast,
}

impl MacAddr {
    /// The address of interface `index` of the VM called `name`: locally administered, the same on every host, so that
    /// primary and backup agree without being told.
    pub fn for_vm(name: &str, index: usize) -> Self {
        let bytes = name.bytes().chain([0]).chain(index.to_le_bytes());
        // FNV-1a, 64 bits.
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let [a, b, c, d, e, ..] = (hash ^ (hash >> 40)).to_le_bytes();
        MacAddr([0x02, a, b, c, d, e])
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let pair = parts.next().filter(|pair| pair.len() == 2 && !pair.starts_with('+')).ok_or(MacError::Shape)?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| MacError::Shape)?;
        }
        match (parts.next(), octets[0] & 1) {
            (Some(_), _) => Err(MacError::Shape),
            (None, 1) => Err(MacError::Multicast),
            (None, _) => Ok(MacAddr(octets)),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

as_text!(MacAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trips_and_odd_shapes_are_refused() {
        let mac: MacAddr = "52:54:00:ab:cd:ef".parse().expect("well formed");
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for text in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "5254:00:ab:cd:ef", "52:54:00:ab:cd:+f"] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacError::Shape), "{text}");
        }
    }

    #[test]
    fn mac_for_vm_is_stable_local_unicast_and_differs() {
        let mac = MacAddr::for_vm("vm0", 0);
        assert_eq!(mac, MacAddr::for_vm("vm0", 0));
        assert_eq!(mac.0[0] & 0b11, 0b10);
        let mut all: Vec<[u8; 6]> =
            (0..100).flat_map(|vm| (0..4).map(move |nic| MacAddr::for_vm(&format!("vm{vm}"), nic).0)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 400);
    }
}
