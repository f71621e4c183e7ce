//! Configuration: what was typed → checked, plain, printable → the machine.
//!
//! [`RunOptions`] and [`BackupOptions`] are what was typed, on the command line or in a TOML file; every field is
//! optional, a flag wins over the file. [`VmConfig`] and [`BackupConfig`] are what was meant: every field has a value,
//! every value is within its range, and `vm.json` in the state directory is a printed `VmConfig`.
//!
//! Not here: whether the files, taps and hosts named exist. Their users check that, right before use.

mod backup;
mod choice;
mod crash;
mod device;
mod error;
mod file;
mod ft;
mod group;
mod local;
mod names;
mod options;
mod task;
mod units;
mod vm;

pub use backup::BackupConfig;
pub use crash::{OnGuestPanic, Retain};
pub use device::{Console, DiskConfig, MacAddr, MacError, NetConfig, NetOption};
pub use error::ConfigError;
pub use file::read_options;
pub use ft::{EpochLength, Interrupts, OnBoundaryLate, Protect};
pub use group::GroupError;
pub use local::LocalConfig;
pub(crate) use names::STATE_ROOT;
pub use names::control_socket;
pub use options::{BackupOptions, EventMonitor, LogFormat, RunOptions};
pub use task::{DemoConfig, DemoGuest};
pub use units::{ByteSize, TimeSpan, UnitError, format_size, format_time, parse_size, parse_time};
pub use vm::{StartFrom, VmConfig};
