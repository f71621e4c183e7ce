//! What is attached to a VM: disks, network interfaces, the console.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::key_values::{KeyValueError, KeyValues};
use super::mac::{MacAddr, MacError};
use super::names::{out_of_range, rooted};
use super::options::group;
use super::units::as_text;

/// As many as the machine has virtio-mmio slots for, less rng.
const DEVICES_MAX: usize = 7;
/// IFNAMSIZ less its terminating zero.
const TAP_BYTES_MAX: usize = 15;

group! {
    /// What may be typed of devices.
    #[command(next_help_heading = "Devices")]
    pub struct DeviceOptions {
        /// Raw disk image, locked while the VM runs; repeatable: path=FILE[,readonly=on]. A backup takes a replica of each
        /// disk, in the primary's order and exactly as long; a read-only disk is not replicated: copy it there before
        #[arg(long, value_name = "path=FILE[,readonly=on]")]
        disk: Vec<DiskConfig>,
        /// Network interface on a tap of this host; repeatable: tap=NAME[,mac=..]. A backup takes a tap for each interface, in
        /// the primary's order. The default MAC address is derived from --name. With offload=off the guest makes all checksums
        /// and segments itself, which is slower, and a backup refuses a guest that was booted with offloads
        #[arg(long, value_name = "tap=NAME[,mac=MAC][,offload=off]")]
        net: Vec<NetOption>,
        /// Serial console: stdio, file=PATH (appended, output only) or off. A backup uses it after a takeover [default: stdio]
        #[arg(long, value_name = "stdio|file=PATH|off")]
        console: Option<Console>,
        /// Whether the guest gives memory back that it does not use: with reporting it tells which (virtio-balloon, free page
        /// reporting), and this host takes it. A backup says the same as the primary [default: off]
        #[arg(long, value_enum)]
        balloon: Option<Balloon>,
    }
}

/// The devices of a VM, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// At most 7 with the interfaces and the balloon. On a backup the replica of each, in the primary's order, exactly as long.
    pub disks: Vec<DiskConfig>,
    /// At most 7 with the disks. On a backup the tap of each, in the primary's order; the guest keeps its addresses.
    pub nets: Vec<NetConfig>,
    /// The serial console; of a backup after a takeover.
    pub console: Console,
    /// Whether the guest gives memory back. The same on a backup.
    #[serde(default, skip_serializing_if = "Balloon::is_off")]
    pub balloon: Balloon,
}

impl DeviceOptions {
    /// Of the VM called `name`.
    pub(super) fn fill(self, name: &str) -> DeviceConfig {
        let Self { disk, net, console, balloon } = self;
        let nets = net.into_iter().enumerate().map(|(index, NetOption { tap, mac, offload })| NetConfig {
            tap,
            mac: mac.unwrap_or_else(|| MacAddr::for_vm(name, index)),
            offload,
        });
        DeviceConfig {
            disks: disk.into_iter().map(DiskConfig::rooted).collect(),
            nets: nets.collect(),
            console: console.unwrap_or(Console::Stdio).rooted(),
            balloon: balloon.unwrap_or_default(),
        }
    }
}

impl DeviceConfig {
    /// The images that the guest may write, in their order.
    pub fn writable(&self) -> impl Iterator<Item = &Path> {
        self.disks.iter().filter(|disk| !disk.readonly).map(|disk| disk.path.as_path())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let Self { disks, nets, console: _, balloon } = self;
        if disks.len() + nets.len() + usize::from(!balloon.is_off()) > DEVICES_MAX {
            let more = if balloon.is_off() { "" } else { " and a balloon" };
            let count = format!("{} with {} of --disk{more}", nets.len(), disks.len());
            return Err(out_of_range("net", count, format!("at most {DEVICES_MAX} together")));
        }
        for (index, net) in nets.iter().enumerate() {
            if !(1..=TAP_BYTES_MAX).contains(&net.tap.len()) || net.tap.contains(['/', ' ', '%']) {
                return Err(out_of_range("net", format!("tap={}", net.tap), "an interface name of 1 to 15 bytes"));
            }
            if nets[..index].iter().any(|other| other.tap == net.tap || other.mac == net.mac) {
                let why = format!("tap {} and address {} must each be used once", net.tap, net.mac);
                return Err(ConfigError::Contradiction { first: "net", second: "net", why });
            }
        }
        Ok(())
    }
}

/// Whether a guest gives memory back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Balloon {
    /// It keeps what it ever touched
    #[default]
    Off,
    /// It reports what it does not use
    Reporting,
}

impl Balloon {
    /// Whether it keeps all.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

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
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<Self, KeyValueError> {
        let pairs = KeyValues::parse(text, &["path", "readonly"])?;
        Ok(DiskConfig { path: pairs.need("path")?.into(), readonly: pairs.switch("readonly")? })
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
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<Self, KeyValueError> {
        let pairs = KeyValues::parse(text, &["tap", "mac", "offload"])?;
        let mac = match pairs.get("mac") {
            None => None,
            Some(value) => Some(value.parse().map_err(|error: MacError| KeyValueError::BadValue {
                key: "mac",
                value: value.into(),
                reason: error.to_string(),
            })?),
        };
        let offload = pairs.get("offload").is_none() || pairs.switch("offload")?;
        Ok(NetOption { tap: pairs.need("tap")?.into(), mac, offload })
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

as_text!(Console);

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
    fn console_text_round_trips() {
        for text in ["stdio", "off", "file=/tmp/c"] {
            assert_eq!(text.parse::<Console>().expect("known").to_string(), text);
        }
        assert!("file=".parse::<Console>().is_err());
        assert!("pty".parse::<Console>().is_err());
    }

    #[test]
    fn net_without_an_address_gets_one_and_a_typed_one_stays() {
        let typed = MacAddr([2, 0, 0, 0, 0, 9]);
        let net = |tap: &str, mac| NetOption { tap: tap.into(), mac, offload: true };
        let nets = |net| DeviceOptions { net, ..DeviceOptions::default() }.fill("vm0");
        let devices = nets(vec![net("tap0", None), net("tap1", Some(typed))]);
        devices.check().expect("good names");
        assert_eq!((devices.nets[0].mac, devices.nets[1].mac), (MacAddr::for_vm("vm0", 0), typed));
        for tap in ["", "a/b", &"a".repeat(16)] {
            nets(vec![net(tap, None)]).check().expect_err("no name of an interface");
        }
    }
}
