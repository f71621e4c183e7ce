//! Simulation of the replication protocol: two hosts and a spare one, a witness, a client; one seed, one exact run.
//!
//! The cores under test are those of the `replication` crate, unchanged, driven through their real bytes. Everything
//! around them is made up here: time, links, disks, crashes, a toy guest whose every output depends on its whole history
//! and on chance, so that an execution that is rolled back and repeated can be told from the first by anybody who saw both.
//!
//! The oracle ([`oracle`]) stands outside: it sees what the guests really did and what the world really got, and decides
//! after every step whether that is one failure-free run with repetitions. It shares no code with what it judges.
//!
//! A run has a safety phase, in which faults strike, and a healing phase, in which they have stopped and the system must
//! get well: the guest runs, the client is answered, and where two hosts are alive the guest is protected again.
#![forbid(unsafe_code)]

pub mod backup_node;
pub mod clock;
pub mod counts;
pub mod disk;
pub mod env;
pub mod fault;
pub mod guest;
pub mod machine;
pub mod machines;
pub mod net;
pub mod oracle;
mod panics;
pub mod plan;
pub mod primary_node;
pub mod rng;
pub mod shipping;
pub mod shrink;
pub mod state_dir;
pub mod storage;
pub mod story;
pub mod witness;
pub mod world;

pub use oracle::{Rule, Violation};
pub use plan::{Break, Case, Plan};
pub use world::{Outcome, Summary, run_plan, run_seed, trace_plan, trace_seed};
