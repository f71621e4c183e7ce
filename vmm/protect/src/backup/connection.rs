//! The connection from the primary: bytes, and whole frames of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use replication::wire::WireError;
use replication::{Frame, FrameDecoder, VmId};

use crate::transport::{self, ReadOutcome};

/// Read from the primary at a time, at most.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    halves: transport::Connection,
    decoder: FrameDecoder,
    /// What was read last; one buffer for all reads.
    bytes: Vec<u8>,
}

impl Connection {
    pub(super) fn new(halves: transport::Connection, vm: VmId) -> Self {
        Self { halves, decoder: FrameDecoder::new(vm), bytes: vec![0; READ_BYTES] }
    }

    /// Reads once, if there is something.
    pub(super) fn read(&mut self) -> io::Result<ReadOutcome> {
        let arrived = self.halves.reader.read_now(&mut self.bytes)?;
        if let ReadOutcome::Bytes(count) = arrived {
            self.decoder.handle_bytes(&self.bytes[..count]);
        }
        Ok(arrived)
    }

    /// The next frame that is whole.
    pub(super) fn poll_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.decoder.poll_frame()
    }

    /// Whether the other end takes these bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        self.halves.writer.write_all(bytes).is_ok()
    }

    pub(super) fn close(self) {
        self.halves.line.end();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.halves.reader.as_fd()
    }
}
