//! Where peers arrive who have to show a certificate first. Handshakes have threads of their own: who says nothing keeps nobody waiting.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use machine::random::id as random;
use machine::thread::try_spawn;
use rustix::event::epoll;

use super::{Credentials, answer};
use crate::mailbox::Mailbox;
use crate::transport::{Connection, Endpoint, Line, Listener};

/// Handshakes at a time; one more ends another. A peer that is one needs milliseconds.
const HANDSHAKES_MAX: usize = 32;

/// A TCP port, and handshakes of those who came there.
#[derive(Debug)]
pub(super) struct TlsPort {
    port: Box<dyn Listener>,
    credentials: Credentials,
    arrivals: Mailbox<io::Result<Connection>>,
    /// Those under way.
    handshakes: VecDeque<Weak<Line>>,
    /// Readable while one of the two is.
    either: OwnedFd,
}

impl TlsPort {
    pub(super) fn new(port: Box<dyn Listener>, credentials: Credentials) -> io::Result<Self> {
        let arrivals = Mailbox::new()?;
        let either = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, fd) in [port.as_fd(), arrivals.as_fd()].into_iter().enumerate() {
            epoll::add(&either, fd, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        }
        Ok(Self { port, credentials, arrivals, handshakes: VecDeque::new(), either })
    }

    fn begin(&mut self, arrived: Connection) {
        self.handshakes.retain(|handshake| handshake.strong_count() > 0);
        if self.handshakes.len() == HANDSHAKES_MAX {
            // Any of them, so that whoever comes often cannot time it.
            let [chosen, ..]: [u8; 16] = random();
            if let Some(chosen) = self.handshakes.remove(usize::from(chosen) % HANDSHAKES_MAX) {
                end(&chosen);
            }
        }
        let line = Arc::new(arrived.line.clone());
        self.handshakes.push_back(Arc::downgrade(&line));
        let (credentials, postbox) = (self.credentials.clone(), self.arrivals.postbox());
        let started = try_spawn("tls-handshake".into(), move || {
            let answered = answer(&credentials, arrived);
            // Whoever is through is not ended for others.
            drop(line);
            postbox.post(answered);
        });
        if let Err(error) = started {
            tracing::debug!(%error, "no thread for a handshake: a peer is sent away");
        }
    }
}

fn end(handshake: &Weak<Line>) {
    if let Some(line) = handshake.upgrade() {
        line.end();
    }
}

impl Drop for TlsPort {
    fn drop(&mut self) {
        self.handshakes.iter().for_each(end);
    }
}

impl AsFd for TlsPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}

impl Listener for TlsPort {
    fn accept(&mut self) -> io::Result<Connection> {
        // Whoever is through comes first: an error of the port must not keep it waiting.
        if let Some(arrived) = self.arrivals.take() {
            return arrived;
        }
        let came = self.port.accept()?;
        self.begin(came);
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn endpoint(&self) -> io::Result<Endpoint> {
        self.port.endpoint()
    }
}
