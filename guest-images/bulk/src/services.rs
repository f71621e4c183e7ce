//! What the guest serves; the protocol is in ../README.md.

mod datagrams;
mod streams;

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;

use datagrams::Datagrams;
use streams::Service;

/// Connections that wait to be accepted, of each service: so many may come at once.
const BACKLOG: usize = 8;
/// Connections of a service that have a large window; memory is not for all.
const LARGE: usize = 8;
/// Of the window that the large ones have, those of the others.
const SMALL_SHARE: usize = 8;
const ANSWER_BUFFER: usize = 64 << 10;
const SCANT: usize = 512;

/// What was done since the start, as it is told to who asks.
#[derive(Default, Clone, Copy)]
pub(crate) struct Totals {
    /// Bytes put into streams.
    pub(crate) sent: u64,
    /// Bytes taken out of streams, all as they must be.
    pub(crate) received: u64,
    /// Requests answered.
    pub(crate) answered: u64,
    /// Datagrams sent.
    pub(crate) datagrams_sent: u64,
    /// Datagrams received.
    pub(crate) datagrams_received: u64,
}

/// One TCP port and its connections.
struct Port {
    service: Service,
    connections: Vec<(SocketHandle, streams::Connection)>,
    window: usize,
}

/// All of it.
pub(crate) struct Services {
    ports: [Port; 3],
    datagrams: Datagrams,
    totals: Totals,
}

impl Services {
    /// Opens the ports; the first connections of a bulk service have windows of `window` bytes.
    pub(crate) fn open(sockets: &mut SocketSet<'_>, window: usize) -> Self {
        let ports = [Service::Source, Service::Sink, Service::Answer].map(|service| Port {
            service,
            connections: Vec::with_capacity(128),
            window,
        });
        let mut services = Self { ports, datagrams: Datagrams::open(sockets), totals: Totals::default() };
        services.ports.iter_mut().for_each(|port| port.keep_listening(sockets));
        services
    }

    /// Does what can be done now.
    pub(crate) fn serve(&mut self, sockets: &mut SocketSet<'_>, now: Instant) {
        for port in &mut self.ports {
            port.serve(sockets, &mut self.totals);
        }
        self.datagrams.serve(sockets, now, &mut self.totals);
    }
}

impl Port {
    fn serve(&mut self, sockets: &mut SocketSet<'_>, totals: &mut Totals) {
        let mut listening = 0;
        for (handle, connection) in &mut self.connections {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                // What was acknowledged before a reset counts.
                connection.serve(self.service, socket, totals);
                *connection = streams::Connection::default();
                socket.listen(self.service.port()).expect("it was closed");
            }
            match socket.is_listening() {
                true => listening += 1,
                false => connection.serve(self.service, socket, totals),
            }
        }
        if listening < BACKLOG {
            self.keep_listening(sockets);
        }
    }

    fn keep_listening(&mut self, sockets: &mut SocketSet<'_>) {
        let is_listening = |(handle, _): &&(SocketHandle, _)| sockets.get::<tcp::Socket<'_>>(*handle).is_listening();
        for _ in self.connections.iter().filter(is_listening).count()..BACKLOG {
            let mut socket = self.socket();
            socket.listen(self.service.port()).expect("it is new");
            self.connections.push((sockets.add(socket), streams::Connection::default()));
        }
    }

    fn socket(&self) -> tcp::Socket<'static> {
        let window = if self.connections.len() < LARGE { self.window } else { self.window / SMALL_SHARE };
        let (receive, send) = match self.service {
            Service::Source => (SCANT, window),
            Service::Sink => (window, SCANT),
            Service::Answer => (ANSWER_BUFFER, ANSWER_BUFFER),
        };
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
        socket.set_nagle_enabled(false);
        socket
    }
}
