//! Recoverable memory: memory that outlasts the process, changed by transactions that happen wholly or not at all.
//!
//! | | for | commit | log |
//! |---|---|---|---|
//! | [`Vista`] | memory that survives by itself: tmpfs (a process's death), persistent memory (a loss of power) | one store of eight bytes | undo |
//! | [`Rvm`] | ordinary disks | one write and one sync, shared by those who commit together | redo |
//!
//! [`RecoverableMemory`] is what both have in common; [`Heap`] allocates in either. [`PersistentRegion`] is a mapped file that
//! knows what it survives and never promises more. [`Step`] names every point at which the tests kill a process.
//!
//! What it is not: it has no isolation between threads (one thread at a time has the memory), and it keeps the bytes as
//! they are; what they mean, and in which byte order, is the user's. x86-64 Linux.
//!
//! Sources: Satyanarayanan et al., "Lightweight recoverable virtual memory", SOSP 1993 (RVM); Chen et al., "The Rio file
//! cache", ASPLOS 1996; Lowell, Chen, "Free transactions with Rio Vista", SOSP 1997.
//!
//! The tutorial is `docs/RECOVERABLE.md`.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("the order in which stores reach memory is argued for x86-64 Linux only");

mod container;
mod error;
mod head;
mod heap;
pub mod lost;
mod mapping;
mod medium;
mod memory;
mod persist;
mod region;
mod region_id;
mod rvm;
mod step;
#[cfg(test)]
mod tests_random;
mod vista;
mod word;

pub use error::Error;
pub use heap::{Heap, Pointer};
pub use medium::{Medium, Survives};
pub use memory::{Declare, RecoverableMemory};
pub use region::PersistentRegion;
pub use region_id::RegionId;
pub use rvm::{CommitMode, Flusher, RestoreMode, Rvm, RvmOptions, RvmQuery, RvmTransaction};
pub use step::{Step, set_hook};
pub use vista::{Transaction, Vista, VistaOptions};
