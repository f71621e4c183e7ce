//! Files of a host as a crash finds them: images under a page cache, and the synced log of disk writes.
//!
//! A process that dies loses nothing that it wrote. A loss of power leaves of what was not synced any part, in any order.
//! Who writes here decides what is synced when; nothing here does.

pub mod files;
pub mod image;
pub mod log;

pub use files::{Done, Files, Op, Worker};
pub use image::Image;
pub use log::{Log, Record};
