//! The way to the other side: a transport connects and listens, and what comes of it is a reader and a writer, each with one owner.
//!
//! ```text
//!   Endpoint ─▶ connect ──────────┐               ┌─ ReadHalf   who hears: the link thread, the backup's loop
//!   Endpoint ─▶ listen ─▶ accept ─┴─▶ Connection ─┼─ WriteHalf  who sends: one owner; threads share it as a Sender
//!                                                 └─ Line       whoever ends it, for both halves
//! ```
//!
//! What a transport gives is in three traits, and nothing in them is a property of a plain socket: [`tls`] keeps its state
//! beside the halves of a socket and gives the same. The rules that they all keep:
//! - a read takes a time that it may wait, or does not wait; bytes that were taken from the descriptor are given, so `poll` on it tells
//!   whether there is more;
//! - a write either waits for the peer, at most for the writer's patience where it has one, or takes what fits now: what keeps time uses
//!   that one;
//! - the end of a line ends every read and write in other threads.

mod endpoint;
mod sender;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod unix;

use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

pub(crate) use endpoint::is_loopback;
pub use endpoint::{ChannelError, Endpoint};
pub(crate) use sender::Sender;
pub use socket::Line;
pub(crate) use tls::words as tls_words;
pub use tls::{Credentials, CredentialsError};
#[cfg(test)]
pub(crate) use tls::{Role, TestAuthority};

/// Bytes of a buffer that is read into, at least: so much may come at once, and cannot be kept for the next read.
pub const READ_BYTES_MIN: usize = 32 << 10;

/// A kind of connection, and where it leads.
pub(crate) trait Transport: Debug + Send {
    /// Reaches the peer that listens there; waits a few seconds at most.
    fn connect(&self) -> io::Result<Connection>;

    /// Waits for peers there, from now on.
    fn listen(&self) -> io::Result<Box<dyn Listener>>;
}

/// A place where peers arrive. Its descriptor is readable while one waits.
pub trait Listener: AsFd + Debug + Send {
    /// The connection of a peer that has come. `WouldBlock`: there is none.
    fn accept(&mut self) -> io::Result<Connection>;

    /// Where it is: the place that was asked for, with what was left to the host.
    fn endpoint(&self) -> io::Result<Endpoint>;
}

/// A connection, in halves that different threads own.
#[derive(Debug)]
pub struct Connection {
    /// Who hears.
    pub reader: Box<dyn ReadHalf>,
    /// Who sends.
    pub writer: Box<dyn WriteHalf>,
    /// Who ends it.
    pub line: Line,
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Nothing came in the time that it had.
    Nothing,
    /// So many bytes.
    Bytes(usize),
    /// The peer has ended its half, and all of it was read.
    End,
}

/// The half that hears.
pub trait ReadHalf: AsFd + Debug + Send {
    /// Reads what there is into `bytes`, which are [`READ_BYTES_MIN`] at least; waits for it, for `wait` at most, which is not zero.
    fn read_within(&mut self, bytes: &mut [u8], wait: Duration) -> io::Result<ReadOutcome>;

    /// Reads what there is, and does not wait.
    fn read_now(&mut self, bytes: &mut [u8]) -> io::Result<ReadOutcome>;
}

/// The half that sends.
pub trait WriteHalf: Debug + Send {
    /// Writes all of it; waits until the host has taken it.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes what the host takes now, and says how much of it that is; does not wait.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// From now on a write fails that the peer takes nothing of for so long; `None`: it waits.
    fn set_patience(&mut self, time: Option<Duration>) -> io::Result<()>;

    /// Ends this half: the peer reads what was written, then the end.
    fn finish(&mut self) -> io::Result<()>;
}
