//! The control interface of a running VM: HTTP/1.1 with JSON on a unix socket.
//!
//! What can be asked, by whom it is served and what it says are types of [`outlast_api`]; here are bytes and sockets. Whatever
//! stands behind it is an [`outlast_api::Face`]. [`Server`] asks it on its own thread, request after request, and waits for no client:
//! connections are polled, bounded in number, size and time. What may take long, a pause or a snapshot, is asked on another
//! thread, so that status and stop never wait for it.
//!
//! ```text
//! socket → Connection (bytes, limits, deadline) → http → Request → outlast_api::face::answer → Reply → http → socket
//! ```
//!
//! One request per connection: every answer says `Connection: close`. Only [`server`] and [`client`] touch a socket.
//!
//! Not here: authentication. The socket belongs to the user who started the VM and has mode 0600.

pub mod client;
mod connection;
mod http;
mod server;

pub use server::{ApiSocketError, Server, ServerHandle};

/// Answers a request that arrived whole; its status.
#[cfg(feature = "fuzzing")]
pub(crate) fn answer_bytes(bytes: &[u8], face: &impl outlast_api::Face) -> Option<u16> {
    let request = match http::parse_request(bytes) {
        Ok(request) => request?,
        Err(http::BadRequest { status, .. }) => return Some(status),
    };
    Some(outlast_api::face::answer(&request, face).status)
}
