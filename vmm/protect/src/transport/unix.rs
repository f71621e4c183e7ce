//! Unix sockets: two sides on one host, without its network. The socket's file is its owner's only, and goes with the listener.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::{Connection, Endpoint, Listener, Transport, socket};

/// Peers that wait to be accepted: one is served, and others are sent away at once.
const BACKLOG: i32 = 16;

/// The path of a socket.
#[derive(Debug)]
pub(super) struct Unix {
    pub(super) path: PathBuf,
}

impl Unix {
    fn connected(&self) -> io::Result<OwnedFd> {
        // A peer that accepts nothing would be waited for, for ever.
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match net::connect(&socket, &SocketAddrUnix::new(&*self.path)?) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer accepts nobody")),
            Err(error) => return Err(error.into()),
        }
        rustix::io::ioctl_fionbio(&socket, false)?;
        Ok(socket)
    }

    fn bound(&self) -> io::Result<UnixListener> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        net::bind(&socket, &SocketAddrUnix::new(&*self.path)?)?;
        net::listen(&socket, BACKLOG)?;
        Ok(UnixListener::from(socket))
    }

    /// Only a socket that nobody serves is a leftover; any other file is somebody's.
    fn is_leftover(&self) -> io::Result<bool> {
        let is_served = !matches!(self.connected(), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        Ok(!is_served && fs::symlink_metadata(&self.path)?.file_type().is_socket())
    }
}

impl Transport for Unix {
    fn connect(&self) -> io::Result<Connection> {
        self.connected().map(socket::connection)
    }

    fn listen(&self) -> io::Result<Box<dyn Listener>> {
        let listener = match self.bound() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && self.is_leftover()? => {
                fs::remove_file(&self.path)?;
                self.bound()?
            }
            bound => bound?,
        };
        Ok(Box::new(Socket { listener, file: SocketFile(self.path.clone()) }))
    }
}

#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Its file, which goes with it.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl SocketFile {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "the socket's file was gone already");
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Listener for Socket {
    fn accept(&mut self) -> io::Result<Connection> {
        let (stream, _) = self.listener.accept()?;
        Ok(socket::connection(stream.into()))
    }

    fn endpoint(&self) -> io::Result<Endpoint> {
        Ok(Endpoint::Unix(self.file.path().to_owned()))
    }
}
