//! The halves of a connection after its handshake. Each has the half in clear text that carries its records.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::handshake::broken;
use crate::transport::{Connection, READ_BYTES_MIN, ReadHalf, ReadOutcome, WriteHalf};

/// A record with its header, at most (RFC 8446, 5.2).
const RECORD_BYTES_MAX: usize = (1 << 14) + 256 + 5;
/// Encrypted in one go at most: the reader waits that long for the session.
const PIECE_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(READ_BYTES_MIN > RECORD_BYTES_MAX, "a read makes progress");

/// Keys and counters of both directions.
#[derive(Debug, Clone)]
struct Session(Arc<Mutex<rustls::Connection>>);

impl Session {
    fn lock(&self) -> MutexGuard<'_, rustls::Connection> {
        self.0.lock().expect("no half panics")
    }
}

pub(super) fn connection(mut tls: rustls::Connection, plain: Connection) -> Connection {
    // The writer bounds what it encrypts itself.
    tls.set_buffer_limit(None);
    let session = Session(Arc::new(Mutex::new(tls)));
    let Connection { reader, writer, line } = plain;
    Connection {
        reader: Box::new(Reader { records: reader, session: session.clone(), read: Vec::new(), is_ended: false }),
        writer: Box::new(Writer { records: writer, session, sealed: Vec::new(), sent: 0, is_ended: false }),
        line,
    }
}

#[derive(Debug)]
struct Reader {
    records: Box<dyn ReadHalf>,
    session: Session,
    /// What was read last; one buffer for all reads.
    read: Vec<u8>,
    /// The peer has said that nothing more comes.
    is_ended: bool,
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}

impl Reader {
    /// Room for what is read next: all that it decrypts to, with what the session has of a record already, fits into a buffer of
    /// `len` bytes. So nothing is left behind where `poll` does not see it.
    fn room(&mut self, len: usize) {
        assert!(len >= READ_BYTES_MIN, "the buffers of readers are large enough for a record and more");
        self.read.resize(len - RECORD_BYTES_MAX, 0);
    }

    /// Decrypts what was read.
    fn open(&mut self, came: ReadOutcome, bytes: &mut [u8]) -> io::Result<ReadOutcome> {
        let count = match came {
            ReadOutcome::Bytes(count) => count,
            ReadOutcome::Nothing => return Ok(ReadOutcome::Nothing),
            ReadOutcome::End => {
                let why = "the connection was cut: the peer did not end it";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
        };
        let (mut records, mut filled) = (&self.read[..count], 0);
        let mut session = self.session.lock();
        while !records.is_empty() && !self.is_ended {
            session.read_tls(&mut records)?;
            session.process_new_packets().map_err(|error| broken(&error))?;
            loop {
                match session.reader().read(&mut bytes[filled..]) {
                    Ok(0) => {
                        self.is_ended = true;
                        break;
                    }
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(match filled {
            0 if self.is_ended => ReadOutcome::End,
            0 => ReadOutcome::Nothing,
            filled => ReadOutcome::Bytes(filled),
        })
    }
}

impl ReadHalf for Reader {
    fn read_within(&mut self, bytes: &mut [u8], wait: Duration) -> io::Result<ReadOutcome> {
        if self.is_ended {
            return Ok(ReadOutcome::End);
        }
        self.room(bytes.len());
        let deadline = Instant::now() + wait;
        let mut left = wait;
        loop {
            let came = self.records.read_within(&mut self.read, left)?;
            let opened = self.open(came, bytes)?;
            left = deadline.saturating_duration_since(Instant::now());
            // A part of a record is nothing yet.
            if opened != ReadOutcome::Nothing || came == ReadOutcome::Nothing || left.is_zero() {
                return Ok(opened);
            }
        }
    }

    fn read_now(&mut self, bytes: &mut [u8]) -> io::Result<ReadOutcome> {
        if self.is_ended {
            return Ok(ReadOutcome::End);
        }
        self.room(bytes.len());
        let came = self.records.read_now(&mut self.read)?;
        self.open(came, bytes)
    }
}

#[derive(Debug)]
struct Writer {
    records: Box<dyn WriteHalf>,
    session: Session,
    /// Records on their way; `sent` bytes of them are gone. They go before anything else.
    sealed: Vec<u8>,
    sent: usize,
    is_ended: bool,
}

impl Writer {
    /// Encrypts `bytes`, which are a piece at most, behind what is on its way.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_ended {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "this half was ended"));
        }
        let mut session = self.session.lock();
        session.writer().write_all(bytes)?;
        while session.wants_write() {
            session.write_tls(&mut self.sealed)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.records.write_all(&self.sealed[self.sent..])?;
        self.forget();
        Ok(())
    }

    /// Whether all of it is gone.
    fn flush_now(&mut self) -> io::Result<bool> {
        while self.sent < self.sealed.len() {
            match self.records.write_now(&self.sealed[self.sent..])? {
                0 => return Ok(false),
                sent => self.sent += sent,
            }
        }
        self.forget();
        Ok(true)
    }

    fn forget(&mut self) {
        self.sealed.clear();
        self.sent = 0;
    }
}

impl WriteHalf for Writer {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flush()?;
        for piece in bytes.chunks(PIECE_BYTES_MAX) {
            self.seal(piece)?;
            self.flush()?;
        }
        Ok(())
    }

    /// What is encrypted counts as written: it keeps its place, and goes with the next write at the latest.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        for piece in bytes.chunks(PIECE_BYTES_MAX) {
            if !self.flush_now()? {
                return Ok(written);
            }
            self.seal(piece)?;
            written += piece.len();
        }
        self.flush_now()?;
        Ok(written)
    }

    fn set_patience(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.records.set_patience(time)
    }

    /// The peer is told that this is the end: without that, it takes the connection for cut.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        self.session.lock().send_close_notify();
        self.seal(&[])?;
        self.is_ended = true;
        self.flush()?;
        self.records.finish()
    }
}
