//! The connection from the primary: bytes, and whole frames of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use replication::wire::WireError;
use replication::{Frame, FrameDecoder, VmId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::transport::tcp;

/// Read from the primary at a time, at most.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    decoder: FrameDecoder,
    /// What was read last; one buffer for all reads.
    bytes: Vec<u8>,
}

/// What a read gave.
pub(super) enum Arrived {
    Nothing,
    Bytes,
    End,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, vm: VmId) -> Self {
        Self { stream, decoder: FrameDecoder::new(vm), bytes: vec![0; READ_BYTES] }
    }

    /// Reads once, if there is something.
    pub(super) fn read(&mut self) -> Arrived {
        if !is_readable(&self.stream) {
            return Arrived::Nothing;
        }
        match self.stream.read(&mut self.bytes) {
            Ok(0) => Arrived::End,
            Ok(count) => {
                self.decoder.handle_bytes(&self.bytes[..count]);
                Arrived::Bytes
            }
            Err(error) if tcp::is_timeout(&error) => Arrived::Nothing,
            Err(_) => Arrived::End,
        }
    }

    /// The next frame that is whole.
    pub(super) fn poll_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.decoder.poll_frame()
    }

    /// Whether the other end takes these bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(super) fn close(self) {
        tcp::close(&self.stream);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether there is something to read, or to accept, without waiting.
pub(super) fn is_readable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
}
