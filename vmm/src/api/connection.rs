//! One client's connection as a state machine: bytes in, at most one request out, bytes of the answer out.
//!
//! ```text
//! Reading ──complete request──▶ Asking ──answer──▶ Writing ──all written──▶ Done
//!    └──────── nonsense, or the deadline ───────────▲          └── deadline ──▲
//! ```
//!
//! A connection lives until its deadline at most, whatever its client does; while the handler is asked it has none.

use std::time::{Duration, Instant};

use outlast_api::{Reply, Request};

use super::http::{BODY_BYTES_MAX, BadRequest, HEAD_BYTES_MAX, parse_request, to_bytes};

/// Longer than a client of ours needs for a request, short enough that dead ones do not pile up.
pub(super) const READ_TIME_MAX: Duration = Duration::from_secs(5);
/// The same for taking the answer.
pub(super) const WRITE_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum State {
    Reading(Vec<u8>),
    Asking,
    Writing { bytes: Vec<u8>, written: usize },
    Done,
}

/// One client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: State,
    deadline: Instant,
}

impl Connection {
    pub(super) fn new(now: Instant) -> Self {
        Connection { state: State::Reading(Vec::new()), deadline: now + READ_TIME_MAX }
    }

    /// When `handle_timeout` is due, if it will be.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.is_asking()).then_some(self.deadline)
    }

    /// The handler has its request, and not answered yet.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking)
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(self.state, State::Reading(_))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes bytes of the client. Gives the request when it is complete; then [`Connection::handle_reply`] is due.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Option<Request> {
        let State::Reading(seen) = &mut self.state else {
            return None;
        };
        seen.extend_from_slice(bytes);
        assert!(seen.len() <= HEAD_BYTES_MAX + BODY_BYTES_MAX + READ_BYTES_MAX, "the parser bounds what is kept");
        match parse_request(seen) {
            Ok(None) => None,
            Ok(Some(request)) => {
                self.state = State::Asking;
                Some(request)
            }
            Err(nonsense) => {
                self.handle_reply(&nonsense.into(), now);
                None
            }
        }
    }

    /// The client sends no more. Half a request is dropped without an answer.
    pub(super) fn handle_end(&mut self) {
        if self.is_reading() {
            self.state = State::Done;
        }
    }

    /// Takes the answer.
    pub(super) fn handle_reply(&mut self, reply: &Reply, now: Instant) {
        self.state = State::Writing { bytes: to_bytes(reply), written: 0 };
        self.deadline = now + WRITE_TIME_MAX;
    }

    /// The deadline has passed: a slow request gets an error, a slow reader is dropped.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Reading(_) => {
                let late = BadRequest {
                    status: 408,
                    message: "the request did not arrive in time",
                    hint: "send it within 5 s of connecting",
                };
                self.handle_reply(&late.into(), now);
            }
            State::Asking => {}
            State::Writing { .. } | State::Done => self.state = State::Done,
        }
    }

    /// What is to be written now.
    pub(super) fn poll_output(&self) -> &[u8] {
        match &self.state {
            State::Writing { bytes, written } => &bytes[*written..],
            State::Reading(_) | State::Asking | State::Done => &[],
        }
    }

    /// `count` bytes of the output are written.
    pub(super) fn handle_written(&mut self, count: usize) {
        if let State::Writing { bytes, written } = &mut self.state {
            *written += count;
            assert!(*written <= bytes.len(), "more was written than there was");
            if *written == bytes.len() {
                self.state = State::Done;
            }
        }
    }

    /// The connection is of no use any more.
    pub(super) fn close(&mut self) {
        self.state = State::Done;
    }
}

/// Bytes read from a socket at once.
pub(super) const READ_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use outlast_api::Answer;

    use super::*;

    const GET: &[u8] = b"GET /vm HTTP/1.1\r\n\r\n";

    #[test]
    fn handle_bytes_one_by_one_gives_one_request() {
        let now = Instant::now();
        let mut connection = Connection::new(now);
        let requests: Vec<Request> = GET.iter().filter_map(|byte| connection.handle_bytes(&[*byte], now)).collect();
        assert_eq!(requests.len(), 1);
        assert!(connection.handle_bytes(GET, now).is_none(), "a second request is not read");
    }

    #[test]
    fn handle_written_in_parts_ends_after_the_last_byte() {
        let now = Instant::now();
        let mut connection = Connection::new(now);
        connection.handle_bytes(GET, now).expect("a request");
        connection.handle_reply(&().encode(), now);
        let expected = to_bytes(&().encode());
        let mut seen = Vec::new();
        while !connection.is_done() {
            seen.push(connection.poll_output()[0]);
            connection.handle_written(1);
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn handle_timeout_while_reading_answers_408_then_drops() {
        let now = Instant::now();
        let mut connection = Connection::new(now);
        connection.handle_bytes(b"GET /vm HT", now);
        connection.handle_timeout(now + READ_TIME_MAX);
        assert!(connection.poll_output().starts_with(b"HTTP/1.1 408"));
        let deadline = connection.deadline().expect("an answer is to be taken in time");
        assert!(deadline > now + READ_TIME_MAX);
        connection.handle_timeout(deadline);
        assert!(connection.is_done());
    }

    #[test]
    fn handle_timeout_while_the_handler_is_asked_changes_nothing() {
        let now = Instant::now();
        let mut connection = Connection::new(now);
        connection.handle_bytes(GET, now).expect("a request");
        assert_eq!(connection.deadline(), None);
        connection.handle_timeout(now + 9 * READ_TIME_MAX);
        assert!(connection.is_asking());
        connection.handle_reply(&().encode(), now + 9 * READ_TIME_MAX);
        assert_eq!(connection.deadline(), Some(now + 9 * READ_TIME_MAX + WRITE_TIME_MAX));
    }

    #[test]
    fn handle_end_in_the_middle_of_a_request_is_done() {
        let now = Instant::now();
        let mut connection = Connection::new(now);
        connection.handle_bytes(b"GET", now);
        connection.handle_end();
        assert!(connection.is_done());
    }

    #[test]
    fn handle_bytes_largest_request_with_a_tail_is_read() {
        let now = Instant::now();
        let start = format!("PUT /ft HTTP/1.1\r\nContent-Length: {BODY_BYTES_MAX}\r\nX: ");
        let padding = HEAD_BYTES_MAX - start.len() - 4;
        let mut bytes = format!("{start}{}\r\n\r\n", "x".repeat(padding)).into_bytes();
        assert_eq!(bytes.len(), HEAD_BYTES_MAX);
        bytes.resize(HEAD_BYTES_MAX + BODY_BYTES_MAX + READ_BYTES_MAX, b'x');
        for first in [1, READ_BYTES_MAX - 1, READ_BYTES_MAX] {
            let mut connection = Connection::new(now);
            let (head, tail) = bytes.split_at(first);
            let mut parts = std::iter::once(head).chain(tail.chunks(READ_BYTES_MAX));
            let request = parts.find_map(|part| connection.handle_bytes(part, now)).expect("a request");
            assert_eq!(request.body.len(), BODY_BYTES_MAX, "first part of {first}");
        }
    }

    /// Requests with bytes changed, lost and doubled, in parts of any length: each ends as a request, an answer, or a
    /// wait for more. The seed is in the message.
    #[test]
    fn handle_bytes_mangled_requests_never_panic() {
        let now = Instant::now();
        let whole = b"PUT /ft?since=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{\"a\":\"bcde\"}".repeat(3);
        for seed in 1..20_000_u64 {
            let mut dice = seed;
            let mut roll = |below: usize| {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                (dice % below as u64) as usize
            };
            let mut bytes = whole.clone();
            for _ in 0..roll(6) {
                let at = roll(bytes.len());
                match roll(3) {
                    0 => bytes[at] = roll(256) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            let mut connection = Connection::new(now);
            while !bytes.is_empty() && connection.is_reading() {
                let rest = bytes.split_off(1 + roll(bytes.len()));
                let asked = connection.handle_bytes(&bytes, now).is_some();
                assert!(asked || connection.is_reading() || !connection.poll_output().is_empty(), "seed {seed}");
                bytes = rest;
            }
        }
    }

    #[test]
    fn handle_bytes_garbage_is_answered_400() {
        let now = Instant::now();
        let mut connection = Connection::new(now);
        assert!(connection.handle_bytes(&[0; READ_BYTES_MAX], now).is_none());
        assert!(connection.poll_output().starts_with(b"HTTP/1.1 400"));
    }
}
