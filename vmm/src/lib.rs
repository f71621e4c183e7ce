//! The virtual machine monitor: the only crate that knows KVM, sockets, taps, files of the host, threads and time.

pub mod allocations;
pub mod api;
pub mod bench;
pub mod boot;
pub mod cli;
pub mod config;
pub mod doctor;
mod durable;
pub mod epoch;
pub mod events;
pub mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod net;
pub mod protect;
mod random;
pub mod run;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod within;
pub mod witness;
