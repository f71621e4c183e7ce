//! For tests of other crates.

pub use crate::witness::etcd::server::{EtcdServer, Guards};
