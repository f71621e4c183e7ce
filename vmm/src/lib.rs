//! The virtual machine monitor: the command line, the configuration, the API, and the programs that they start, over [`machine`] and
//! [`protect`].

pub mod api;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod process;
pub mod run;
