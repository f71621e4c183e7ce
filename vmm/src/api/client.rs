//! A client of the control interface: one request per connection, with a time limit.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outlast_api::{Answer, Fault, Parameters, Verb};

use crate::exit::{Advice, Exit};

/// Longer answers are not ours.
const REPLY_BYTES_MAX: usize = 16 << 20;
const HEADERS_MAX: usize = 32;

/// What went wrong between a client and the VM.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("cannot reach a VM at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer did not come in time.
    #[error("no answer from the VM at {path} within {seconds} s", seconds = after.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection to the VM at {path} broke")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What answers is no VM of ours.
    #[error("what answers at {path} does not speak HTTP: {reason}")]
    NotHttp {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// What answers is a VM of another version, or none of ours.
    #[error("the VM at {path} gives another answer to {method} {target} than this version knows: {reason}")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// The verb.
        method: &'static str,
        /// Its path.
        target: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The VM says no.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Advice for ClientError {
    fn hint(&self) -> Option<String> {
        match self {
            ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the socket belongs to the user who started the VM".into())
            }
            ClientError::Connect { .. } => {
                Some("is the VM running? `outlast ctl list` shows those of this host".into())
            }
            ClientError::Timeout { .. } => Some("the guest is not affected; --timeout waits longer".into()),
            ClientError::Broken { .. } => Some("the VM may have ended; its log says why".into()),
            ClientError::NotHttp { .. } => Some("--api-socket must name the control socket of a VM".into()),
            ClientError::Foreign { .. } => Some("use the `outlast` that the VM was started with".into()),
            ClientError::Fault(fault) => fault.hint.clone(),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            ClientError::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Exit::NotFound,
                _ => Exit::Error,
            },
            ClientError::Timeout { .. } => Exit::Timeout,
            ClientError::Broken { .. } | ClientError::NotHttp { .. } | ClientError::Foreign { .. } => Exit::Error,
            ClientError::Fault(fault) => fault.code,
        }
    }
}

/// Where a VM is reached, and how long an answer may take.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the VM that serves the socket at `path`.
    pub fn new(path: &Path, timeout: Duration) -> Self {
        Client { path: path.into(), timeout }
    }

    /// Asks for something; gives the answer.
    pub fn call<V: Verb>(&self, request: &V::Request) -> Result<V::Answer, ClientError> {
        V::Answer::decode(&self.ask::<V>(request)?).map_err(|error| ClientError::Foreign {
            path: self.path.clone(),
            method: V::METHOD.as_str(),
            target: V::PATH,
            reason: error.to_string(),
        })
    }

    /// Asks for something; gives the answer as the VM says it, which may be more than this version knows.
    pub fn ask<V: Verb>(&self, request: &V::Request) -> Result<Vec<u8>, ClientError> {
        let (query, body) = request.encode();
        let mark = if query.is_empty() { "" } else { "?" };
        self.send(V::METHOD.as_str(), &format!("{}{mark}{query}", V::PATH), &body)
    }

    /// Sends a request, whether a VM knows it or not; gives the body of a success.
    pub fn send(&self, method: &str, target: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let reply = self.exchange(&request)?;
        let (status, body) = self.parse(&reply)?;
        if (200..300).contains(&status) { Ok(body.into()) } else { Err(Fault::decode(status, body).into()) }
    }

    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut stream = UnixStream::connect(&self.path)
            .map_err(|source| ClientError::Connect { path: self.path.clone(), source })?;
        let deadline = Instant::now() + self.timeout;
        stream.set_write_timeout(Some(self.timeout)).map_err(|error| self.broken(error))?;
        stream.write_all(request).map_err(|error| self.broken(error))?;
        let mut reply = Vec::new();
        let mut part = [0; 16 << 10];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Timeout { path: self.path.clone(), after: self.timeout });
            }
            stream.set_read_timeout(Some(left)).map_err(|error| self.broken(error))?;
            match stream.read(&mut part) {
                Ok(0) => return Ok(reply),
                Ok(count) if reply.len() + count <= REPLY_BYTES_MAX => reply.extend_from_slice(&part[..count]),
                Ok(_) => return Err(self.not_http("the answer does not end")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// Status and body of a reply that has arrived whole.
    fn parse<'a>(&self, reply: &'a [u8]) -> Result<(u16, &'a [u8]), ClientError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let head_bytes = match head.parse(reply) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Err(self.not_http("the answer is cut off")),
            Err(error) => return Err(self.not_http(error)),
        };
        let body = &reply[head_bytes..];
        let announced = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = announced.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
        match (head.code, length) {
            (Some(_), Some(length)) if body.len() < length => Err(self.not_http("the answer is cut off")),
            (Some(status), _) => Ok((status, body)),
            (None, _) => Err(self.not_http("there is no status")),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout { path, after: self.timeout },
            _ => ClientError::Broken { path, source },
        }
    }

    fn not_http(&self, reason: impl ToString) -> ClientError {
        ClientError::NotHttp { path: self.path.clone(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    use outlast_api::testing::Fake;
    use outlast_api::{GoalState, PrometheusText, Since, VmState, verbs};

    use super::super::Server;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("api.sock");
        (dir, path)
    }

    #[test]
    fn call_reaches_the_face_and_back() {
        let (_dir, path) = socket();
        let fake = Arc::new(Fake::default());
        let _handle = Server::bind(&path).expect("bound").spawn(Arc::clone(&fake)).expect("a thread");
        let client = Client::new(&path, SOON);
        client.call::<verbs::PatchVm>(&VmState { state: GoalState::Paused }).expect("done");
        assert_eq!(fake.calls(), [r#"PATCH /vm {"state":"Paused"}"#]);
        let PrometheusText(text) = client.call::<verbs::GetMetrics>(&()).expect("text");
        assert!(text.contains("outlast_role"), "{text}");
        let events = client.call::<verbs::GetEvents>(&Since { since: 2 }).expect("events");
        assert_eq!((events.len(), fake.calls().last().map(String::as_str)), (3, Some("GET /events since=2")));
    }

    #[test]
    fn send_gives_what_is_said_and_refuses_what_nobody_knows() {
        let (_dir, path) = socket();
        let fake = Arc::new(Fake::default());
        let _handle = Server::bind(&path).expect("bound").spawn(fake).expect("a thread");
        let client = Client::new(&path, SOON);
        assert!(client.send("GET", "/vm", b"").expect("an answer").starts_with(b"{"));
        let error = client.send("GET", "/nowhere", b"").expect_err("no such path");
        assert_eq!((error.exit(), error.to_string().as_str()), (Exit::Usage, "there is no /nowhere"));
    }

    #[test]
    fn call_refused_carries_message_hint_and_code() {
        let (_dir, path) = socket();
        let fake = Arc::new(Fake::refusing());
        let _handle = Server::bind(&path).expect("bound").spawn(fake).expect("a thread");
        let error = Client::new(&path, SOON).call::<verbs::DeleteFt>(&()).expect_err("refused");
        assert_eq!((error.to_string().as_str(), error.exit()), ("the VM is stopping", Exit::Conflict));
        assert_eq!(error.hint().as_deref(), Some("wait"));
    }

    #[test]
    fn call_without_a_server_is_not_found() {
        let (_dir, path) = socket();
        let error = Client::new(&path, SOON).call::<verbs::GetVm>(&()).expect_err("nobody");
        assert_eq!(error.exit(), Exit::NotFound);
    }

    #[test]
    fn call_of_a_silent_server_is_a_timeout() {
        let (_dir, path) = socket();
        let _silent = UnixListener::bind(&path).expect("bound");
        let error = Client::new(&path, Duration::from_millis(50)).call::<verbs::GetVm>(&()).expect_err("silent");
        assert_eq!(error.exit(), Exit::Timeout);
    }

    #[test]
    fn parse_cut_or_foreign_answers_are_not_http() {
        let client = Client::new(Path::new("/s"), SOON);
        for reply in [b"".as_slice(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"SSH-2.0-OpenSSH\r\n"] {
            assert!(matches!(client.parse(reply), Err(ClientError::NotHttp { .. })));
        }
    }
}
