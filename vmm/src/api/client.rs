//! A client of the control interface: one request per connection, with a time limit.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

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
    /// The VM says no.
    #[error("{message}")]
    Fault {
        /// What was tried, on what, why it failed.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// The exit code.
        exit: Exit,
    },
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
            ClientError::Fault { hint, .. } => hint.clone(),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            ClientError::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Exit::NotFound,
                _ => Exit::Error,
            },
            ClientError::Timeout { .. } => Exit::Timeout,
            ClientError::Broken { .. } | ClientError::NotHttp { .. } => Exit::Error,
            ClientError::Fault { exit, .. } => *exit,
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

    /// Asks for something; gives the body of a success.
    pub fn request(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Vec<u8>, ClientError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = self.exchange(request.as_bytes())?;
        let (status, body) = self.parse(&reply)?;
        if (200..300).contains(&status) { Ok(body.into()) } else { Err(fault(status, body)) }
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

/// Reads `{"fault_message", "code", "hint"}`; what is missing is made up from the status.
fn fault(status: u16, body: &[u8]) -> ClientError {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let exit = serde_json::from_value(value["code"].clone()).unwrap_or(match status {
        400..=403 | 405 => Exit::Usage,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        408 | 504 => Exit::Timeout,
        _ => Exit::Error,
    });
    let message = value["fault_message"].as_str().map_or_else(|| format!("HTTP status {status}"), String::from);
    ClientError::Fault { message, hint: value["hint"].as_str().map(String::from), exit }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Server;
    use super::super::route::tests::Fake;
    use super::*;
    use std::os::unix::net::UnixListener;

    const SOON: Duration = Duration::from_secs(10);

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("api.sock");
        (dir, path)
    }

    #[test]
    fn request_reaches_the_handler_and_back() {
        let (_dir, path) = socket();
        let fake = Fake::default();
        let _handle = Server::bind(&path).expect("bound").spawn(fake.clone()).expect("a thread");
        let client = Client::new(&path, SOON);
        client.request("PATCH", "/vm", Some(&json!({ "state": "Paused" }))).expect("done");
        assert_eq!(*fake.calls.lock().expect("not poisoned"), ["pause"]);
        assert_eq!(client.request("GET", "/metrics", None).expect("text"), b"outlast_epochs_total 3\n");
    }

    #[test]
    fn request_refused_carries_message_hint_and_code() {
        let (_dir, path) = socket();
        let fake = Fake { refuse: true, ..Fake::default() };
        let _handle = Server::bind(&path).expect("bound").spawn(fake).expect("a thread");
        let error = Client::new(&path, SOON).request("DELETE", "/ft", None).expect_err("refused");
        assert_eq!((error.to_string().as_str(), error.exit()), ("the VM is stopping", Exit::Conflict));
        assert_eq!(error.hint().as_deref(), Some("wait"));
    }

    #[test]
    fn request_without_a_server_is_not_found() {
        let (_dir, path) = socket();
        let error = Client::new(&path, SOON).request("GET", "/vm", None).expect_err("nobody");
        assert_eq!(error.exit(), Exit::NotFound);
    }

    #[test]
    fn request_silent_server_is_a_timeout() {
        let (_dir, path) = socket();
        let _silent = UnixListener::bind(&path).expect("bound");
        let error = Client::new(&path, Duration::from_millis(50)).request("GET", "/vm", None).expect_err("silent");
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
