//! Frames of one session on their way to the socket.

use std::io;
use std::sync::Arc;

use replication::SessionId;

use super::Guardian;
use crate::transport::Sender;

/// Frames are given to the socket in pieces of about this size.
const FLUSH_BYTES: usize = 256 * 1024;

/// Why an outbox sends nothing more.
#[derive(Debug)]
pub(super) enum OutboxError {
    /// The session is over: nothing more of it goes out.
    SessionOver,
    /// The connection broke.
    Broken(io::Error),
}

/// Frames on their way to the socket, counted.
pub(super) struct Outbox {
    guardian: Arc<Guardian>,
    session: SessionId,
    stream: Sender,
    pub(super) buffer: Vec<u8>,
    pub(super) sent: u64,
}

impl Outbox {
    /// For `session`, if it has the connection; it collects in `buffer`, whatever that has.
    pub(super) fn of(guardian: &Arc<Guardian>, session: SessionId, mut buffer: Vec<u8>) -> Option<Self> {
        let stream = guardian.stream_of(session)?;
        buffer.clear();
        Some(Self { guardian: Arc::clone(guardian), session, stream, buffer, sent: 0 })
    }

    /// Sends when enough has collected.
    pub(super) fn flush_if_full(&mut self) -> Result<(), OutboxError> {
        if self.buffer.len() < FLUSH_BYTES { Ok(()) } else { self.flush() }
    }

    /// What was decided meanwhile stops what is under way.
    pub(super) fn flush(&mut self) -> Result<(), OutboxError> {
        if !self.guardian.is_current(self.session) {
            self.buffer.clear();
            return Err(OutboxError::SessionOver);
        }
        self.stream.send(&self.buffer).map_err(OutboxError::Broken)?;
        self.sent += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
