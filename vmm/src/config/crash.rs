//! What happens to a guest that crashed.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::names::out_of_range;
use super::options::group;
use super::units::{ByteSize, format_size};
use protect::local::{RETAIN_MAX, RetainCount};

const RETAIN_BYTES_MIN: u64 = 1 << 20;
/// Reaches back about half a minute: as far as a guest's own watchdog needs to notice that it stands still.
const RETAIN_DEFAULT: u8 = 6;
/// A small guest's disk writes need room too.
const RETAIN_BYTES_DEFAULT_MIN: u64 = 64 << 20;

group! {
    /// What may be typed of crashes.
    #[command(next_help_heading = "Protection")]
    pub struct CrashOptions {
        /// What to do when the guest crashes: it reports a panic through pvpanic, a vCPU shuts down after a triple fault,
        /// or the watchdog that the guest started runs out. With a backup, reset and rollback need --witness: the backup
        /// discards its copy and is filled again [default: stop]
        #[arg(long, value_enum)]
        on_guest_panic: Option<OnGuestPanic>,
        /// Earlier epochs to keep for --on-guest-panic rollback, 1 to 16: the youngest about 1 s old, each older one about
        /// twice as old. A guest that crashes again goes back to an older one each time; then it is stopped [default: 6]
        #[arg(long, value_name = "N")]
        retain: Option<u8>,
        /// Room for earlier epochs in the state directory, at least 1M. If they need more, the oldest are dropped [default:
        /// as much as the guest's memory, at least 64M]
        #[arg(long, value_name = "SIZE")]
        retain_bytes: Option<ByteSize>,
    }
}

/// What is done about crashes of a guest, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashConfig {
    /// What is done with a guest that crashed.
    #[serde(default)]
    pub on_guest_panic: OnGuestPanic,
    /// Earlier epochs that are kept to roll it back; `None` where it is not.
    #[serde(default)]
    pub retain: Option<Retain>,
}

/// What is done with a guest that crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnGuestPanic {
    /// The guest is stopped with exit code 164, and its state is kept. Nothing that it acknowledged is undone.
    #[default]
    Stop,
    /// The guest is rebooted, with the disks as it left them.
    Reset,
    /// The guest goes back to an earlier epoch (with --protect local). What it acknowledged since is LOST.
    Rollback,
}

/// Earlier epochs that are kept to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retain {
    /// 1 to 16. Few: a crash that takes long to come is not undone. Many: they take room.
    pub epochs: RetainCount,
    /// At least 1 MiB. Too few: the oldest are given up early.
    pub bytes: u64,
}

impl CrashOptions {
    /// For a guest with this much memory.
    pub(super) fn fill(self, memory_bytes: u64) -> Result<CrashConfig, ConfigError> {
        let Self { on_guest_panic, retain, retain_bytes } = self;
        let on_guest_panic = on_guest_panic.unwrap_or_default();
        let keeps = on_guest_panic == OnGuestPanic::Rollback || retain.is_some() || retain_bytes.is_some();
        let epochs = retain.unwrap_or(RETAIN_DEFAULT);
        let epochs = RetainCount::try_from(u64::from(epochs))
            .map_err(|_| out_of_range("retain", epochs, format!("1 to {RETAIN_MAX}")))?;
        let bytes = retain_bytes.map_or(memory_bytes.max(RETAIN_BYTES_DEFAULT_MIN), |ByteSize(bytes)| bytes);
        Ok(CrashConfig { on_guest_panic, retain: keeps.then_some(Retain { epochs, bytes }) })
    }
}

impl CrashConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.retain {
            Some(Retain { epochs: _, bytes }) if bytes < RETAIN_BYTES_MIN => {
                let range = format!("at least {}", format_size(RETAIN_BYTES_MIN));
                Err(out_of_range("retain-bytes", format_size(bytes), range))
            }
            _ => Ok(()),
        }
    }
}
