//! The rules of views, checked in every order of events within bounds.
//!
//! What the register decides, the product's own core decides: [`replication::view::Register`], its wishes, and its rules of evidence are
//! part of the model's state, unchanged. What surrounds it is made as small as the rules allow: three hosts, the witness as a chain that
//! is written by compare-and-set, epochs that are numbers, a backup that acks, a store that keeps.
//!
//! Each state is looked at from outside ([`world::Violation`]): what was released, who had it, and what later records make of it.
#![forbid(unsafe_code)]

pub mod action;
pub mod bounds;
pub mod broken;
pub mod check;
pub mod cores;
pub mod healing;
pub mod line;
pub mod name;
pub mod play;
pub mod shared;
pub mod story;
pub mod witness;
pub mod world;
