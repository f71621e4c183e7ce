//! The way to the other host: where it is, and the connection to it.

mod endpoint;
pub(super) mod tcp;

pub use endpoint::Endpoint;
