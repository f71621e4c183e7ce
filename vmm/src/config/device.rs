//! What is attached to a VM: disks, network interfaces, the console.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::group::{Group, GroupError};
use super::names::rooted;
use super::units::as_text;

/// A raw disk image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The image. Its size is the disk's, in whole sectors of 512 bytes. It is locked while the VM runs.
    pub path: PathBuf,
    /// The guest may only read it. Then several VMs may share it.
    #[serde(default)]
    pub readonly: bool,
}

impl DiskConfig {
    pub(super) fn rooted(self) -> Self {
        Self { path: rooted(self.path), ..self }
    }
}

impl FromStr for DiskConfig {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let group = Group::parse(text, &["path", "readonly"])?;
        Ok(DiskConfig { path: group.need("path")?.into(), readonly: group.switch("readonly")? })
    }
}

/// A network interface as typed; without a MAC address one is made from the VM's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetOption {
    /// The tap device on this host, 1 to 15 bytes.
    pub tap: String,
    /// The guest's address on it.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// The guest is offered offloads.
    #[serde(default = "on", skip_serializing_if = "is_on")]
    pub offload: bool,
}

fn on() -> bool {
    true
}

fn is_on(offload: &bool) -> bool {
    *offload
}

impl FromStr for NetOption {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let group = Group::parse(text, &["tap", "mac", "offload"])?;
        let mac = match group.get("mac") {
            None => None,
            Some(value) => Some(value.parse().map_err(|error: MacError| GroupError::BadValue {
                key: "mac",
                value: value.into(),
                reason: error.to_string(),
            })?),
        };
        let offload = group.get("offload").is_none() || group.switch("offload")?;
        Ok(NetOption { tap: group.need("tap")?.into(), mac, offload })
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// The tap device on this host, 1 to 15 bytes.
    pub tap: String,
    /// The guest's address. It moves to the backup with the guest.
    pub mac: MacAddr,
    /// The guest is offered checksum and segmentation offloads. What it was offered when it booted moves with it too.
    #[serde(default = "on", skip_serializing_if = "is_on")]
    pub offload: bool,
}

/// Where the guest's serial console goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Console {
    /// Standard input and output of this process.
    Stdio,
    /// Output is appended to a file; there is no input.
    File(PathBuf),
    /// Output is thrown away.
    Off,
}

impl Console {
    pub(super) fn rooted(self) -> Self {
        match self {
            Self::File(path) => Self::File(rooted(path)),
            Self::Stdio | Self::Off => self,
        }
    }
}

impl FromStr for Console {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdio" => Ok(Console::Stdio),
            "off" => Ok(Console::Off),
            _ => match text.strip_prefix("file=") {
                Some(path) if !path.is_empty() => Ok(Console::File(path.into())),
                _ => Err("use stdio, file=PATH or off".into()),
            },
        }
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Console::Stdio => f.write_str("stdio"),
            Console::File(path) => write!(f, "file={}", path.display()),
            Console::Off => f.write_str("off"),
        }
    }
}

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

as_text!(Console, MacAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_group_gives_path_and_readonly() {
        let disk: DiskConfig = "path=/srv/a.img,readonly=on".parse().expect("well formed");
        assert_eq!(disk, DiskConfig { path: "/srv/a.img".into(), readonly: true });
    }

    #[test]
    fn net_group_has_offloads_unless_they_are_off_and_older_files_do_not_know_them() {
        let net = |text: &str| text.parse::<NetOption>().map(|net| net.offload);
        assert_eq!(["tap=t", "tap=t,offload=on", "tap=t,offload=off"].map(net), [Ok(true), Ok(true), Ok(false)]);
        assert_eq!(net("tap=t,offload=no").expect_err("no such value").to_string(), "offload=no: use on or off");
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let old = r#"{"tap":"t","mac":"02:00:00:00:00:01"}"#;
        let config = NetConfig { tap: "t".into(), mac, offload: true };
        assert_eq!(serde_json::from_str::<NetConfig>(old).expect("a config"), config);
        assert_eq!(serde_json::to_string(&config).expect("a config"), old);
    }

    #[test]
    fn net_group_bad_mac_is_named() {
        let error = "tap=tap0,mac=01:00:00:00:00:00".parse::<NetOption>().expect_err("multicast");
        assert_eq!(error.to_string(), "mac=01:00:00:00:00:00: it is a multicast address; the first pair must be even");
    }

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

    #[test]
    fn console_text_round_trips() {
        for text in ["stdio", "off", "file=/tmp/c"] {
            assert_eq!(text.parse::<Console>().expect("known").to_string(), text);
        }
        assert!("file=".parse::<Console>().is_err());
        assert!("pty".parse::<Console>().is_err());
    }
}
