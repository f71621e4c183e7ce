//! The virtual machine monitor: epochs, protection, the command line and the API, over [`machine`].

pub mod api;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod epoch;
pub mod events;
pub mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod process;
pub mod protect;
pub mod run;
pub mod witness;
