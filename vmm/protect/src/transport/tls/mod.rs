//! TLS 1.3 over TCP, with certificates on both sides: what crosses the network between the hosts can be neither read nor altered there,
//! and only who has a certificate of the operator's own authority is a peer.
//!
//! ```text
//!   connect ─▶ TCP ─▶ handshake (3 s at most) ──────────────────────┐
//!   accept  ─▶ TCP ─▶ a thread: handshake ─▶ mailbox ─▶ next accept ┴─▶ Reader ─┬─ session, locked for the cryptography only
//!                                                                       Writer ─┘
//! ```
//!
//! The two halves share the session: its keys and counters. Its lock is held while records are encrypted or decrypted in memory, and
//! never while a socket is waited for; so a writer whose peer takes nothing does not keep its reader from hearing. The order of records
//! on the wire is the writer's: only it takes ciphertext out of the session. What the reader's half has to say (an answer to new keys)
//! goes out with the writer's next record; heartbeats see to it that there is one.
//!
//! A handshake reads record by record and nothing beyond its last one: what the peer says first stays in the socket, where `poll`
//! sees it.
//!
//! Source: RFC 8446.

mod credentials;
mod halves;
mod handshake;
mod port;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{Role, TestAuthority};

use std::io;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

use super::tcp::Tcp;
use super::{Connection, Listener, Transport};
pub use credentials::{Credentials, CredentialsError};
pub(crate) use handshake::words;
use port::TlsPort;

/// A handshake is two messages each way, and processor time of milliseconds.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(3);
/// Said in the handshake, so that a certificate for another service of the same authority opens no connection by mistake.
const APPLICATION: &[u8] = b"outlast";

/// A host and a port of it, and what this side shows there.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) tcp: Tcp,
    pub(super) credentials: Credentials,
}

impl Transport for Tls {
    /// The peer's certificate must be for the host that was named.
    fn connect(&self) -> io::Result<Connection> {
        let host = &self.tcp.host;
        let name = ServerName::try_from(host.clone()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no certificate can be for '{host}': use a name or an address"),
            )
        })?;
        let config = self.credentials.client().map_err(io::Error::other)?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let deadline = Instant::now() + HANDSHAKE_TIME_MAX;
        handshake::perform(tls.into(), self.tcp.connect()?, deadline)
    }

    fn listen(&self) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TlsPort::new(self.tcp.listen()?, self.credentials.clone())?))
    }
}

/// The answer to a peer that connected.
fn answer(credentials: &Credentials, arrived: Connection) -> io::Result<Connection> {
    let config = credentials.server().map_err(io::Error::other)?;
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    handshake::perform(tls.into(), arrived, Instant::now() + HANDSHAKE_TIME_MAX)
}
