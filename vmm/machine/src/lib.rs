//! A KVM machine: memory, vCPUs, board, network and disks, and the threads that run them.
//!
//! ```text
//!  vCPU threads ──exit──▶ board ──output──▶ egress ──released──▶ tap, console
//!       ▲                   ▲                                      │
//!      gate ◀── leader      └──────────── input ◀──────────────────┘
//! ```
//!
//! What it is not: it does not know what is done at its boundaries ([`leader::BoundaryLeader`]), who asked it to stop, what a user
//! typed, nor how a program ends.

pub mod allocations;
pub mod board;
pub mod boot;
pub mod causes;
pub mod console;
pub mod crash;
pub mod disk;
pub mod egress;
pub mod gate;
pub mod ingress;
pub mod kick;
pub mod kvm;
mod machine;
pub mod memory;
pub mod net;
pub mod random;
pub mod shape;
pub mod slot;
pub mod state;
pub mod stats;
pub mod step;
pub mod stops;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod thread;
pub mod throttle;
pub mod trouble;
pub mod turns;
mod watcher;

pub use machine::{Card, End, KernelSource, Leading, Machine, MachineError, Parts, Threads, checkpoint, input, leader};
pub use thread::spawn;
