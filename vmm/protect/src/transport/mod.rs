//! The way to the other host: where it is, and the connection to it.

mod endpoint;
pub(crate) mod tcp;

pub use endpoint::Endpoint;
