//! Which VM it is, what its guest starts from and how large it is.

use std::path::PathBuf;

use clap::ValueHint;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::names::{check_name, out_of_range, rooted};
use super::options::group;
use super::units::{ByteSize, format_size};
use machine::memory::{RAM_BYTES_MAX, RamBytes};

/// Bare guests run in as little.
const MEMORY_BYTES_MIN: u64 = 2 << 20;
const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;
const CPUS_MAX: u8 = 8;
/// What the kernel takes on x86 (COMMAND_LINE_SIZE), less the terminating zero.
const CMDLINE_BYTES_MAX: usize = 2047;

group! {
    /// What may be typed of a VM's name.
    #[command(next_help_heading = "Guest")]
    pub struct NameOptions {
        /// Name of the VM: 1 to 63 letters, digits, '-', '_', '.'. The same for a VM and its backup
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    }
}

group! {
    /// What may be typed of a guest.
    #[command(next_help_heading = "Guest")]
    pub struct GuestOptions {
        /// Kernel: a bzImage (as in /boot) or an ELF with a PVH entry
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        kernel: Option<PathBuf>,
        /// Initial RAM file system
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        initramfs: Option<PathBuf>,
        /// Start from a snapshot (see `outlast ctl snapshot create`) instead of booting a kernel. CPUs and memory come from
        /// the snapshot; give the same disks and network interfaces as then
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        restore: Option<PathBuf>,
        /// Kernel command line, passed to the guest unchanged [default: console=ttyS0]
        #[arg(long, value_name = "TEXT")]
        cmdline: Option<String>,
        /// Virtual CPUs, 1 to 8. More than the host's makes every pause longer [default: 1]
        #[arg(long, value_name = "N")]
        cpus: Option<u8>,
        /// Guest memory, 2M to 8G, in whole pages. Linux needs 128M [default: 512M]
        #[arg(long, value_name = "SIZE")]
        memory: Option<ByteSize>,
    }
}

/// A guest, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// What the guest starts from.
    pub start: StartFrom,
    /// 1 to 8. Every vCPU must be out of the guest before an epoch can be sealed, so more of them than the host has
    /// CPUs makes each pause longer.
    pub cpus: u8,
    /// 2 MiB to 8 GiB, whole pages. Too small: the guest does not boot. Too large for the file system of the state
    /// directory: refused at start, because a later write to the mapping would kill the VMM.
    pub memory_bytes: u64,
}

/// What a guest starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFrom {
    /// Power-on.
    Kernel {
        /// A bzImage, or an ELF with a PVH entry.
        kernel: PathBuf,
        /// Initial RAM file system.
        initramfs: Option<PathBuf>,
        /// Kernel command line, at most 2047 bytes.
        cmdline: String,
    },
    /// A snapshot directory. CPUs and memory are the snapshot's.
    Snapshot(PathBuf),
}

impl NameOptions {
    pub(super) fn fill(self) -> Result<String, ConfigError> {
        let name = self.name.ok_or(ConfigError::Missing("name"))?;
        check_name(&name)?;
        Ok(name)
    }
}

impl GuestOptions {
    pub(super) fn fill(self) -> Result<GuestConfig, ConfigError> {
        let Self { kernel, initramfs, restore, cmdline, cpus, memory } = self;
        let start = match restore {
            None => StartFrom::Kernel {
                kernel: rooted(kernel.ok_or(ConfigError::Missing("kernel"))?),
                initramfs: initramfs.map(rooted),
                cmdline: cmdline.unwrap_or_else(|| "console=ttyS0".into()),
            },
            Some(dir) => StartFrom::Snapshot(rooted(dir)),
        };
        let memory_bytes = memory.map_or(MEMORY_BYTES_DEFAULT, |ByteSize(bytes)| bytes);
        Ok(GuestConfig { start, cpus: cpus.unwrap_or(1), memory_bytes })
    }
}

impl GuestConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let &Self { ref start, cpus, memory_bytes } = self;
        if let StartFrom::Kernel { cmdline, .. } = start {
            check_cmdline(cmdline)?;
        }
        check_memory(memory_bytes)?;
        match cpus {
            1..=CPUS_MAX => Ok(()),
            _ => Err(out_of_range("cpus", cpus, format!("1 to {CPUS_MAX}"))),
        }
    }
}

fn check_cmdline(cmdline: &str) -> Result<(), ConfigError> {
    match cmdline.len() <= CMDLINE_BYTES_MAX && !cmdline.contains('\0') {
        true => Ok(()),
        false => Err(out_of_range("cmdline", format!("of {} bytes", cmdline.len()), "at most 2047 bytes, without NUL")),
    }
}

fn check_memory(bytes: u64) -> Result<(), ConfigError> {
    if !(MEMORY_BYTES_MIN..=RAM_BYTES_MAX).contains(&bytes) {
        let range = format!("{} to {}", format_size(MEMORY_BYTES_MIN), format_size(RAM_BYTES_MAX));
        return Err(out_of_range("memory", format_size(bytes), range));
    }
    match RamBytes::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(out_of_range("memory", bytes, "a multiple of 4K")),
    }
}
