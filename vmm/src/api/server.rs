//! The socket side of the control interface: one thread that polls, and one for requests whose answers may take long.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use outlast_api::{Face, Fault, Pace, Reply, Request, face};

use super::connection::{Connection, READ_BYTES_MAX};
use crate::exit::{Advice, Exit};

/// More clients wait in the socket's queue.
const CONNECTIONS_MAX: usize = 32;
/// Requests that take long and are not answered yet: far fewer, so that others always find a connection.
const SLOW_MAX: usize = 8;
/// Between two attempts to accept when the first failed.
const ACCEPT_REST: Duration = Duration::from_millis(10);
/// How long the end of the VM waits for answers that are on their way.
const FINISH_TIME_MAX: Duration = Duration::from_millis(500);

/// A control socket that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiSocketError {
    /// A VM answers on it.
    #[error("control socket {path} is in use by a running VM")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else went wrong.
    #[error("cannot make control socket {path}")]
    Make {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Advice for ApiSocketError {
    fn hint(&self) -> Option<String> {
        match self {
            ApiSocketError::InUse { path } => Some(format!(
                "`outlast ctl --api-socket {} info` shows which; give this VM another --name",
                path.display()
            )),
            ApiSocketError::Make { .. } => {
                Some("its directory must exist and be writable; --state-dir or --api-socket choose another".into())
            }
        }
    }

    fn exit(&self) -> Exit {
        match self {
            ApiSocketError::InUse { .. } => Exit::Conflict,
            ApiSocketError::Make { .. } => Exit::Error,
        }
    }
}

/// A bound control socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's name. It goes when nobody serves it any more.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _ = fs::remove_file(&self.0);
    }
}

/// A serving control socket. Dropping it ends the service: answers on their way are still written, for at most half a
/// second, and the socket file goes.
#[derive(Debug)]
pub struct ServerHandle {
    file: SocketFile,
    end: OwnedFd,
    ended: Receiver<()>,
}

impl Server {
    /// Makes the socket at `path`, mode 0600. What a dead VM left there is replaced; a live one is a conflict.
    pub fn bind(path: &Path) -> Result<Self, ApiSocketError> {
        let failed = |source: io::Error| ApiSocketError::Make { path: path.into(), source };
        let listener = match bind_private(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(path).is_ok() {
                    return Err(ApiSocketError::InUse { path: path.into() });
                }
                // Only a socket that nobody serves is a leftover of ours; any other file is somebody's.
                if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
                    return Err(failed(error));
                }
                fs::remove_file(path).map_err(failed)?;
                bind_private(path)
            }
            other => other,
        };
        let server = Server { listener: listener.map_err(failed)?, file: SocketFile(path.into()) };
        server.listener.set_nonblocking(true).map_err(failed)?;
        Ok(server)
    }

    /// Serves on its own thread.
    pub fn spawn<F: Face>(self, face: Arc<F>) -> Result<ServerHandle, ApiSocketError> {
        let Server { listener, file } = self;
        let failed = |source: io::Error| ApiSocketError::Make { path: file.0.clone(), source };
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let end_of_thread = end.try_clone().map_err(failed)?;
        let aside = Aside::spawn(&face).map_err(failed)?;
        let service = Service { listener, end: end_of_thread, clients: Vec::new(), accepted: 0, aside, ending: false };
        let (tell, ended) = channel();
        let serve = move || {
            service.serve(&*face);
            // Nobody listens if the handle gave up waiting.
            let _ = tell.send(());
        };
        thread::Builder::new().name("api".into()).spawn(serve).map_err(failed)?;
        Ok(ServerHandle { file, end, ended })
    }
}

impl ServerHandle {
    /// The socket.
    pub fn path(&self) -> &Path {
        &self.file.0
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        rustix::io::write(&self.end, &1_u64.to_ne_bytes()).expect("an eventfd takes its first 1");
        // A handler that is stuck must not keep the VM from ending; its thread ends with the process.
        let _ = self.ended.recv_timeout(FINISH_TIME_MAX);
    }
}

/// Binds with mode 0600 from the first instant on: the mode is the socket's before it has a name.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 16)?;
    Ok(UnixListener::from(socket))
}

/// The way to the threads that ask the handler what may take long.
struct Aside {
    slow: Lane,
    ending: Lane,
    answered: Answered,
}

/// What these threads answered, and whom.
struct Answered {
    replies: Receiver<(Pace, u64, Reply)>,
    /// Readable when there are some.
    wake: OwnedFd,
}

/// One such thread: it asks one request after the other.
struct Lane {
    requests: Sender<(u64, Request)>,
    waiting: usize,
}

impl Aside {
    fn spawn<F: Face>(face: &Arc<F>) -> io::Result<Self> {
        let (tell, replies) = channel();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let lane = |name: &str, pace: Pace| -> io::Result<Lane> {
            let (face, tell, wake) = (Arc::clone(face), tell.clone(), wake.try_clone()?);
            let (requests, asked) = channel::<(u64, Request)>();
            let serve = move || {
                for (client, request) in asked {
                    // When nobody listens, the service has ended.
                    if tell.send((pace, client, face::answer(&request, &*face))).is_err() {
                        return;
                    }
                    rustix::io::write(&wake, &1_u64.to_ne_bytes()).expect("an eventfd takes a few ones");
                }
            };
            thread::Builder::new().name(name.into()).spawn(serve)?;
            Ok(Lane { requests, waiting: 0 })
        };
        let (slow, ending) = (lane("api-slow", Pace::Slow)?, lane("api-ending", Pace::Ending)?);
        Ok(Self { slow, ending, answered: Answered { replies, wake } })
    }

    /// The thread for verbs of this pace, if they are not asked for at once.
    fn lane(&mut self, pace: Pace) -> Option<&mut Lane> {
        match pace {
            Pace::Prompt => None,
            Pace::Slow => Some(&mut self.slow),
            Pace::Ending => Some(&mut self.ending),
        }
    }

    /// The next answer, and whom it is for.
    fn poll_answer(&mut self) -> Option<(u64, Reply)> {
        let (pace, client, reply) = self.answered.replies.try_recv().ok()?;
        self.lane(pace).expect("it came through one").waiting -= 1;
        Some((client, reply))
    }
}

impl Lane {
    /// Hands over a request of `client`; an answer comes back at once if too many wait.
    fn ask(&mut self, client: u64, request: Request) -> Option<Reply> {
        if self.waiting == SLOW_MAX {
            let fault = Fault::conflict(format!("{SLOW_MAX} slow requests wait already"))
                .with_hint("try again when they are answered");
            return Some(Reply::fault(fault.http_status(), &fault));
        }
        self.requests.send((client, request)).expect("its thread ends after this");
        self.waiting += 1;
        None
    }
}

struct Client {
    number: u64,
    stream: UnixStream,
    connection: Connection,
}

/// The thread's state.
struct Service {
    listener: UnixListener,
    end: OwnedFd,
    clients: Vec<Client>,
    /// Connections so far, which numbers them.
    accepted: u64,
    aside: Aside,
    ending: bool,
}

impl Service {
    fn serve<F: Face>(mut self, face: &F) {
        while !(self.ending && self.clients.is_empty()) {
            self.wait();
            self.accept();
            self.take_answers();
            let now = Instant::now();
            for client in &mut self.clients {
                client.step(now, face, &mut self.aside);
            }
            self.clients.retain(|client| !client.connection.is_done());
        }
    }

    fn take_answers(&mut self) {
        // It counts; what it says is in the channel.
        let _ = rustix::io::read(&self.aside.answered.wake, &mut [0; 8]);
        while let Some((number, reply)) = self.aside.poll_answer() {
            if let Some(client) = self.clients.iter_mut().find(|client| client.number == number) {
                client.connection.handle_reply(&reply, Instant::now());
            }
        }
    }

    /// Waits for a socket, the end, or the next deadline.
    fn wait(&mut self) {
        let accepting = self.clients.len() < CONNECTIONS_MAX && !self.ending;
        let listening = if accepting { PollFlags::IN } else { PollFlags::empty() };
        let ending = if self.ending { PollFlags::empty() } else { PollFlags::IN };
        let answered = PollFd::new(&self.aside.answered.wake, PollFlags::IN);
        let mut fds = vec![PollFd::new(&self.end, ending), PollFd::new(&self.listener, listening), answered];
        // Of one that waits for the handler nothing is wanted, not even that it has gone.
        fds.extend(self.clients.iter().filter(|client| !client.connection.is_asking()).map(Client::interest));
        let timeout = self.clients.iter().filter_map(|client| client.connection.deadline()).min().map(until);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll of our own descriptors failed: {error}"),
        }
        let ended = fds[0].revents().contains(PollFlags::IN);
        if ended {
            self.ending = true;
            // Half a request is no reason to wait.
            self.clients.retain(|client| !client.connection.is_reading());
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < CONNECTIONS_MAX && !self.ending {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.accepted += 1;
                        let (number, connection) = (self.accepted, Connection::new(Instant::now()));
                        self.clients.push(Client { number, stream, connection });
                    }
                }
                Err(error) if passes(&error) => return,
                // The client is gone again, or there are no descriptors left. The second keeps the listener readable:
                // a rest keeps this thread from spinning on it.
                Err(_) => return thread::sleep(ACCEPT_REST),
            }
        }
    }
}

impl Client {
    fn interest(&self) -> PollFd<'_> {
        let flags = if self.connection.is_reading() { PollFlags::IN } else { PollFlags::OUT };
        PollFd::from_borrowed_fd(self.stream.as_fd(), flags)
    }

    fn step<F: Face>(&mut self, now: Instant, face: &F, aside: &mut Aside) {
        if self.connection.deadline().is_some_and(|at| now >= at) {
            self.connection.handle_timeout(now);
        }
        if self.connection.is_reading()
            && let Some(request) = self.read(now)
        {
            let reply = match aside.lane(face::pace::<F>(&request)) {
                Some(lane) => lane.ask(self.number, request),
                None => Some(face::answer(&request, face)),
            };
            if let Some(reply) = reply {
                self.connection.handle_reply(&reply, Instant::now());
            }
        }
        self.write();
    }

    /// A request, if it is complete now.
    fn read(&mut self, now: Instant) -> Option<Request> {
        let mut bytes = [0; READ_BYTES_MAX];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.connection.handle_end(),
            Ok(count) => return self.connection.handle_bytes(&bytes[..count], now),
            Err(error) if passes(&error) => {}
            Err(_) => self.connection.close(),
        }
        None
    }

    fn write(&mut self) {
        let output = self.connection.poll_output();
        if output.is_empty() {
            return;
        }
        match self.stream.write(output) {
            Ok(count) => self.connection.handle_written(count),
            Err(error) if passes(&error) => {}
            Err(_) => self.connection.close(),
        }
    }
}

/// Not now, but later.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn until(deadline: Instant) -> Timespec {
    // One millisecond more, so that a wake-up never comes just before the deadline and spins.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    Timespec::try_from(left).expect("deadlines are seconds away")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;

    use super::*;
    use outlast_api::testing::Fake;

    fn serve(fake: Fake) -> (tempfile::TempDir, ServerHandle) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let server = Server::bind(&dir.path().join("api.sock")).expect("bound");
        (dir, server.spawn(Arc::new(fake)).expect("a thread"))
    }

    fn ask(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("connected");
        stream.write_all(request).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn server_answers_and_has_mode_0600() {
        let (_dir, handle) = serve(Fake::default());
        let mode = fs::metadata(handle.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let answer = ask(handle.path(), b"GET /vm HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"vm0\""), "{answer}");
    }

    #[test]
    fn server_silent_clients_do_not_delay_the_next_one() {
        let (_dir, handle) = serve(Fake::default());
        let silent: Vec<UnixStream> =
            (0..CONNECTIONS_MAX - 1).map(|_| UnixStream::connect(handle.path()).expect("connected")).collect();
        (&silent[0]).write_all(b"PUT /ft HTTP/1.1\r\nContent-Le").expect("half a request");
        let start = Instant::now();
        assert!(ask(handle.path(), b"GET /ft HTTP/1.1\r\n\r\n").contains("Waiting"));
        assert!(start.elapsed() < super::super::connection::READ_TIME_MAX / 2, "{:?}", start.elapsed());
    }

    const PAUSE: &[u8] = b"PATCH /vm HTTP/1.1\r\nContent-Length: 18\r\n\r\n{\"state\":\"Paused\"}";

    const STOP: &[u8] = b"PUT /actions HTTP/1.1\r\nContent-Length: 22\r\n\r\n{\"action_type\":\"Stop\"}";

    /// Sends `request` and does not wait for the answer.
    fn send(path: &Path, request: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(path).expect("connected");
        stream.write_all(request).expect("sent");
        stream
    }

    fn answer_on(mut stream: UnixStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// A pause waited for a commit, and meanwhile the VM told nobody how it was and could not be stopped.
    #[test]
    fn server_pause_that_waits_delays_neither_status_nor_stop() {
        let barrier = Arc::new(Barrier::new(2));
        let (_dir, handle) = serve(Fake::meeting_at(Pace::Slow, Arc::clone(&barrier)));
        let pause = send(handle.path(), PAUSE);
        assert!(ask(handle.path(), b"GET /ft HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        assert!(ask(handle.path(), STOP).starts_with("HTTP/1.1 204"));
        barrier.wait();
        assert!(answer_on(pause).starts_with("HTTP/1.1 204"));
    }

    /// A stop is answered at the end of the VM, and meanwhile the VM tells how it is.
    #[test]
    fn server_stop_that_waits_delays_neither_status_nor_pause() {
        let barrier = Arc::new(Barrier::new(2));
        let (_dir, handle) = serve(Fake::meeting_at(Pace::Ending, Arc::clone(&barrier)));
        let stop = send(handle.path(), STOP);
        assert!(ask(handle.path(), b"GET /ft HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        assert!(ask(handle.path(), PAUSE).starts_with("HTTP/1.1 204"));
        barrier.wait();
        assert!(answer_on(stop).starts_with("HTTP/1.1 204"));
    }

    #[test]
    fn server_takes_a_bounded_number_of_requests_that_wait_and_forgets_clients_that_went() {
        let barrier = Arc::new(Barrier::new(2));
        let fake = Fake::meeting_at(Pace::Slow, Arc::clone(&barrier));
        let (_dir, handle) = serve(fake.clone());
        drop(send(handle.path(), PAUSE));
        let waiting: Vec<UnixStream> = (1..SLOW_MAX).map(|_| send(handle.path(), PAUSE)).collect();
        let refused = ask(handle.path(), PAUSE);
        assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("wait already"), "{refused}");
        for _ in 0..SLOW_MAX {
            barrier.wait();
        }
        for stream in waiting {
            assert!(answer_on(stream).starts_with("HTTP/1.1 204"));
        }
        assert_eq!(fake.calls().iter().filter(|call| call.starts_with("PATCH")).count(), SLOW_MAX);
    }

    #[test]
    fn server_garbage_is_answered_and_the_next_client_too() {
        let (_dir, handle) = serve(Fake::default());
        assert!(ask(handle.path(), &[0xff; 100]).starts_with("HTTP/1.1 400"));
        assert!(ask(handle.path(), b"GET /ft HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn bind_live_socket_is_a_conflict_and_a_dead_one_is_replaced() {
        let (dir, handle) = serve(Fake::default());
        let error = Server::bind(handle.path()).expect_err("in use");
        assert_eq!(error.exit(), Exit::Conflict);
        let dead = dir.path().join("dead.sock");
        drop(bind_private(&dead).expect("bound"));
        assert!(dead.exists(), "a closed socket leaves its file");
        Server::bind(&dead).expect("replaced");
    }

    #[test]
    fn bind_over_a_plain_file_is_refused_and_keeps_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notes");
        fs::write(&path, "mine").expect("written");
        let error = Server::bind(&path).expect_err("not a socket");
        assert!(matches!(error, ApiSocketError::Make { .. }), "{error:?}");
        assert_eq!(fs::read_to_string(&path).expect("still there"), "mine");
    }

    #[test]
    fn drop_before_serving_removes_the_socket() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("api.sock");
        drop(Server::bind(&path).expect("bound"));
        assert!(!path.exists());
    }

    #[test]
    fn drop_removes_the_socket_and_refuses_later_clients() {
        let (_dir, handle) = serve(Fake::default());
        let path = handle.path().to_path_buf();
        let _silent = UnixStream::connect(&path).expect("connected");
        drop(handle);
        assert!(!path.exists());
        assert!(UnixStream::connect(&path).is_err());
    }
}
