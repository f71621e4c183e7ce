//! The halves of a stream socket, of whichever family.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::{Connection, ReadHalf, ReadOutcome, WriteHalf};

/// Socket buffers: an epoch should fit, so that shipping it does not wait for the peer's reads.
const BUFFER_BYTES: usize = 4 << 20;

/// The end of a connection that both halves are on.
#[derive(Debug, Clone)]
pub struct Line(Arc<OwnedFd>);

impl Line {
    /// Ends the connection for all its users: reads and writes in other threads return.
    pub fn end(&self) {
        if let Err(error) = shutdown(&*self.0, Shutdown::Both) {
            tracing::debug!(%error, "the connection was closed already");
        }
    }
}

/// The halves of a connected socket.
pub(super) fn connection(socket: OwnedFd) -> Connection {
    // Smaller buffers than asked for only cost speed.
    if let Err(error) = sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES) {
        tracing::debug!(%error, "the send buffer keeps its size");
    }
    if let Err(error) = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer keeps its size");
    }
    let line = Line(Arc::new(socket));
    Connection {
        reader: Box::new(Reader { line: line.clone(), wait: None }),
        writer: Box::new(Writer { line: line.clone() }),
        line,
    }
}

#[derive(Debug)]
struct Reader {
    line: Line,
    /// The longest wait that the kernel was told of.
    wait: Option<Duration>,
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.0.as_fd()
    }
}

impl Reader {
    fn read(&self, bytes: &mut [u8], flags: RecvFlags) -> io::Result<ReadOutcome> {
        match recv(&*self.line.0, bytes, flags) {
            Ok((_, 0)) => Ok(ReadOutcome::End),
            Ok((_, count)) => Ok(ReadOutcome::Bytes(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(ReadOutcome::Nothing),
            Err(error) => Err(error.into()),
        }
    }
}

impl ReadHalf for Reader {
    fn read_within(&mut self, bytes: &mut [u8], wait: Duration) -> io::Result<ReadOutcome> {
        // Mostly it is the same as before, and every change is a system call.
        if self.wait != Some(wait) {
            sockopt::set_socket_timeout(&*self.line.0, Timeout::Recv, Some(wait))?;
            self.wait = Some(wait);
        }
        self.read(bytes, RecvFlags::empty())
    }

    fn read_now(&mut self, bytes: &mut [u8]) -> io::Result<ReadOutcome> {
        self.read(bytes, RecvFlags::DONTWAIT)
    }
}

#[derive(Debug)]
struct Writer {
    line: Line,
}

impl WriteHalf for Writer {
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&*self.line.0, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match send(&*self.line.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn set_patience(&mut self, time: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&*self.line.0, Timeout::Send, time)?)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(shutdown(&*self.line.0, Shutdown::Write)?)
    }
}
