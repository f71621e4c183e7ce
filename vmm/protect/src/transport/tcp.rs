//! TCP, with the options that replication wants.

use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{Connection, Endpoint, Listener, Transport, socket};

/// How long a connection attempt may take, for each address of the host.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// A host and a port of it.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Tcp {
    /// The pair that the standard library resolves.
    fn pair(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

fn connection(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    Ok(socket::connection(stream.into()))
}

impl Transport for Tcp {
    /// Tries each of the host's addresses.
    fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.pair().to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
                Ok(stream) => return connection(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn listen(&self) -> io::Result<Box<dyn Listener>> {
        let listener = TcpListener::bind(self.pair())?;
        // A peer may be gone again before it is accepted.
        listener.set_nonblocking(true)?;
        Ok(Box::new(Port { host: self.host.clone(), listener }))
    }
}

#[derive(Debug)]
struct Port {
    host: String,
    listener: TcpListener,
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Listener for Port {
    fn accept(&mut self) -> io::Result<Connection> {
        connection(self.listener.accept()?.0)
    }

    /// Of port 0 the host made a free one.
    fn endpoint(&self) -> io::Result<Endpoint> {
        let port = self.listener.local_addr()?.port();
        Ok(Endpoint::Tcp { host: self.host.clone(), port, is_clear: false })
    }
}
