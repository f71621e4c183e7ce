//! Configuration: what was typed → checked, plain, printable → the machine.
//!
//! [`RunOptions`] and [`BackupOptions`] are what was typed, on the command line or in a TOML file, group by group; every
//! field is optional, a flag wins over the file. [`VmConfig`] and [`BackupVmConfig`] are what was meant, in the same groups:
//! every field has a value, every value is within its range, and `vm.json` in the state directory is a printed `VmConfig`.
//!
//! A group lies in one file: its options with their help, its configuration, how the one fills the other with defaults
//! (`fill`), and which values it takes (`check`). Rules across options are in `rules`. So a new option is its group's file and
//! what acts on it.
//!
//! Not here: whether the files, taps and hosts named exist. Their users check that, right before use.

mod backup;
mod choice;
mod control;
mod crash;
mod detection;
mod devices;
mod epochs;
mod error;
mod guest;
mod key_values;
mod mac;
mod names;
mod options;
mod protection;
mod rules;
mod state;
mod task;
mod units;
mod vm;

pub use backup::{BackupOptions, BackupVmConfig, ListenOptions};
pub use control::{ControlConfig, ControlOptions, EventMonitor, LogFormat, LogLevel, control_socket};
pub use crash::{CrashConfig, CrashOptions, OnGuestPanic, Retain};
pub use detection::{DetectionConfig, DetectionOptions};
pub use devices::{Console, DeviceConfig, DeviceOptions, DiskConfig, NetConfig, NetOption};
pub use epochs::{EpochConfig, EpochLength, EpochOptions, Interrupts};
pub use error::ConfigError;
pub use guest::{GuestConfig, GuestOptions, NameOptions, StartFrom};
pub use key_values::KeyValueError;
pub use mac::{MacAddr, MacError};
pub(crate) use names::{STATE_ROOT, rooted_witness};
pub use options::{Options, Over, with_file};
pub use protection::{LocalConfig, OnBoundaryLate, Protect, ProtectionConfig, ProtectionOptions};
pub use state::{StateConfig, StateOptions};
pub use task::{DemoConfig, DemoGuest};
pub use units::{ByteSize, TimeSpan, UnitError, format_size, format_time, parse_size, parse_time};
pub use vm::{RunOptions, VmConfig};
