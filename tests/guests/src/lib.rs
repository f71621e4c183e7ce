//! Harness for tests that run the `outlast` program with bare guests on this machine's `/dev/kvm`.
//!
//! A test makes a [`Place`], starts programs in it, waits for what they say (events, console lines) and never for time
//! to pass, and compares the guests' own lines with what a guest that nothing happened to would have said. Every
//! program that was started ends with its [`Vm`].
//!
//! What it is not: a lab. Both sides run on one kernel; what a dead host does is tested elsewhere.

pub mod bare;
pub mod console;
pub mod echo;
pub mod journal;
pub mod network;
pub mod page;
pub mod place;
pub mod program;
pub mod seed;
pub mod shell;
pub mod skip;
pub mod tls;
pub mod trace;
pub mod vm;
pub mod wait;
pub mod wire;

pub use bare::Guest;
pub use place::{Pair, Place};
pub use seed::Seed;
pub use vm::{Launch, Vm};

/// Waits for an event and gives a property of it: `said!(vm, "solo", Solo { reason })`.
#[macro_export]
macro_rules! said {
    ($vm:expr, $event:literal, $variant:ident { $property:ident }) => {
        match $vm.wait_event($event) {
            ::outlast_api::Occurrence::$variant { $property, .. } => $property,
            other => panic!("{} is {other:?}", $event),
        }
    };
}
