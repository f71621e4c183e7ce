//! The connection between two hosts: TCP with the options that replication wants.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{SendFlags, sockopt};

use super::Endpoint;

/// How long a connection attempt may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Socket buffers: an epoch should fit, so that shipping it does not wait for the peer's reads.
const BUFFER_BYTES: usize = 4 << 20;

/// Connects to `endpoint`, trying each of its addresses.
pub(crate) fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in endpoint.as_pair().to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => return prepare(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sets the options of a fresh connection.
pub(crate) fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    // Smaller buffers than asked for only cost speed.
    if let Err(error) = sockopt::set_socket_send_buffer_size(&stream, BUFFER_BYTES) {
        tracing::debug!(%error, "the send buffer keeps its size");
    }
    if let Err(error) = sockopt::set_socket_recv_buffer_size(&stream, BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer keeps its size");
    }
    Ok(stream)
}

/// The sending half of a connection. Threads share it by clones: what one of them sends goes out whole before what
/// another sends.
#[derive(Debug, Clone)]
pub(crate) struct SendHalf {
    stream: Arc<TcpStream>,
    /// What [`SendHalf::send_now`] could not get rid of; it goes before everything else.
    rest: Arc<Mutex<Vec<u8>>>,
}

impl SendHalf {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), rest: Arc::default() }
    }

    /// Sends whole frames; waits until the host has taken them.
    pub(crate) fn send(&self, frames: &[u8]) -> io::Result<()> {
        let mut rest = self.rest.lock().expect("no sender panics");
        (&*self.stream).write_all(&rest)?;
        rest.clear();
        (&*self.stream).write_all(frames)
    }

    /// Sends a frame without waiting. Nothing is sent while other bytes are on their way: they say as well that this
    /// side lives. What is wrong with the connection is found by its reader.
    pub(crate) fn send_now(&self, frame: &[u8]) {
        let Ok(mut rest) = self.rest.try_lock() else { return };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if !rest.is_empty() {
            // Nobody else may have anything to send for long.
            let sent = rustix::net::send(&*self.stream, &rest, flags).unwrap_or(0);
            rest.drain(..sent);
        }
        if !rest.is_empty() {
            return;
        }
        match rustix::net::send(&*self.stream, frame, flags) {
            Ok(sent) => rest.extend_from_slice(&frame[sent..]),
            Err(error) => tracing::debug!(%error, "a heartbeat was not sent"),
        }
    }

    /// See [`close`].
    pub(crate) fn close(&self) {
        close(&self.stream);
    }

    /// Ends our half of the connection: the peer reads what was written, then the end.
    pub(crate) fn close_write(&self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            tracing::debug!(%error, "the connection was closed already");
        }
    }
}

/// Ends a connection for all its users: reads and writes in other threads return.
pub(crate) fn close(stream: &TcpStream) {
    if let Err(error) = stream.shutdown(Shutdown::Both) {
        tracing::debug!(%error, "the connection was closed already");
    }
}

/// Whether a failed read only means that nothing came in time.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        (ours, listener.accept().expect("one waits").0)
    }

    #[test]
    fn send_now_goes_on_with_what_it_could_not_get_rid_of() {
        // It waited for another sender, which may have had nothing to say: a primary that lived fell silent.
        let (ours, mut theirs) = pair();
        let sender = SendHalf::new(ours);
        // Far more than the host takes while nobody reads.
        let (large, small) = (vec![1; 64 << 20], [2; 100]);
        sender.send_now(&large);
        theirs.set_read_timeout(Some(std::time::Duration::from_millis(10))).expect("a time");
        let begun = std::time::Instant::now();
        let (mut all, mut bytes) = (Vec::new(), vec![0; 1 << 20]);
        while all.len() < large.len() + small.len() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{} bytes came", all.len());
            sender.send_now(&small);
            all.extend_from_slice(theirs.read(&mut bytes).map_or(&[][..], |count| &bytes[..count]));
        }
        assert!(
            all.iter().take(large.len()).all(|byte| *byte == 1) && all[large.len()..].iter().all(|byte| *byte == 2)
        );
    }

    #[test]
    fn send_now_never_waits_and_never_cuts_a_frame() {
        // Heartbeats waited behind a log that was slow to sync, and the backup took over from a primary that was well.
        let (ours, mut theirs) = pair();
        let sender = SendHalf::new(ours);
        let frame: Vec<u8> = (0..100).collect();
        // Far more than the host takes while nobody reads.
        (0..200_000).for_each(|_| sender.send_now(&frame));
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).expect("our half is ended");
            all
        });
        sender.send(&frame).expect("somebody reads now");
        sender.close_write();
        let all = reader.join().expect("the reader does not panic");
        assert!(all.len() < 200_000 * frame.len(), "it was full");
        assert!(all.chunks(frame.len()).all(|chunk| chunk == frame));
    }
}
