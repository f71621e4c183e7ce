//! A writer that threads share: what one of them sends goes out whole before what another sends.

use std::io;
use std::sync::{Arc, Mutex};

use super::{Line, WriteHalf};

/// The sending side of a connection, for several threads. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    outgoing: Arc<Mutex<Outgoing>>,
    line: Line,
}

#[derive(Debug)]
struct Outgoing {
    writer: Box<dyn WriteHalf>,
    /// What [`Sender::send_now`] could not get rid of; it goes before everything else.
    rest: Vec<u8>,
}

impl Sender {
    pub(crate) fn new(writer: Box<dyn WriteHalf>, line: Line) -> Self {
        Self { outgoing: Arc::new(Mutex::new(Outgoing { writer, rest: Vec::new() })), line }
    }

    /// Sends whole frames; waits until the host has taken them.
    pub(crate) fn send(&self, frames: &[u8]) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().expect("no sender panics");
        let Outgoing { writer, rest } = &mut *outgoing;
        writer.write_all(rest)?;
        rest.clear();
        writer.write_all(frames)
    }

    /// Sends a frame without waiting. Nothing is sent while other bytes are on their way: they say as well that this
    /// side lives. What is wrong with the connection is found by its reader.
    pub(crate) fn send_now(&self, frame: &[u8]) {
        let Ok(mut outgoing) = self.outgoing.try_lock() else { return };
        let Outgoing { writer, rest } = &mut *outgoing;
        if !rest.is_empty() {
            // Nobody else may have anything to send for long.
            let sent = writer.write_now(rest).unwrap_or(0);
            rest.drain(..sent);
        }
        if !rest.is_empty() {
            return;
        }
        match writer.write_now(frame) {
            Ok(0) => {}
            Ok(sent) => rest.extend_from_slice(&frame[sent..]),
            Err(error) => tracing::debug!(%error, "a heartbeat was not sent"),
        }
    }

    /// Ends the connection, for both halves: see [`Line::end`].
    pub(crate) fn close(&self) {
        self.line.end();
    }

    /// Ends our half of the connection: the peer reads what was written, then the end.
    pub(crate) fn finish(&self) {
        if let Err(error) = self.outgoing.lock().expect("no sender panics").writer.finish() {
            tracing::debug!(%error, "the connection was closed already");
        }
    }
}
