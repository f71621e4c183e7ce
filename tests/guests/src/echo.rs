//! A client of the guest `net-echo`: asks, repeats what is not answered, and checks that no answer contradicts another.
//!
//! Each reply carries a count that the guest keeps in memory. A guest that was put back behind a reply that had left
//! gives the same count to another request: that is what output commit forbids, and what [`Client::ask`] looks for.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::wait::PATIENCE;

/// Where the guest answers.
const GUEST: &str = "10.77.0.10:7000";
/// After this long a request is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
const WORD: usize = 8;
/// Requests that are open at a time: some are always on their way in, some replies always held.
const AT_ONCE: u64 = 8;

/// A client that remembers every answer.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    next: u64,
    sent: u64,
    /// The request that got each count.
    counts: HashMap<u64, u64>,
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

impl Client {
    /// A client that talks through `socket`.
    pub fn new(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(REPEAT_AFTER)).expect("a time-out that is not zero");
        Self { socket, next: 1, sent: 0, counts: HashMap::new() }
    }

    /// Asks `times` eight requests at once; gives the longest silence.
    #[track_caller]
    pub fn ask_again(&mut self, times: u64) -> Duration {
        let mut longest = Duration::ZERO;
        for _ in 0..times {
            longest = longest.max(self.ask(AT_ONCE));
        }
        longest
    }

    /// Asks `count` requests at once and repeats them until all are answered; gives the longest silence.
    ///
    /// # Panics
    /// If an answer is not what the guest may say, or none comes for long.
    #[track_caller]
    pub fn ask(&mut self, count: u64) -> Duration {
        let mut open: Vec<u64> = (self.next..self.next + count).collect();
        self.next += count;
        let (started, mut heard, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        self.send(&open);
        while !open.is_empty() {
            assert!(started.elapsed() < PATIENCE, "requests {open:?} are not answered");
            match self.receive() {
                Some(request) => {
                    longest = longest.max(heard.elapsed());
                    heard = Instant::now();
                    open.retain(|asked| *asked != request);
                }
                None => self.send(&open),
            }
        }
        longest
    }

    fn send(&mut self, requests: &[u64]) {
        for request in requests {
            // While nobody has the guest's address, the client's own stack may refuse; the request is repeated.
            if self.socket.send_to(&request.to_le_bytes(), GUEST).is_ok() {
                self.sent += 1;
            }
        }
    }

    /// The request that the next answer is for.
    fn receive(&mut self) -> Option<u64> {
        let mut reply = [0; 64];
        let len = self.socket.recv(&mut reply).ok()?;
        assert_eq!(len, 3 * WORD, "a reply has three words");
        let word = |n: usize| u64::from_le_bytes(reply[n * WORD..(n + 1) * WORD].try_into().expect("eight bytes"));
        let (request, count, sum) = (word(0), word(1), word(2));
        assert_eq!(sum, fnv(&reply[..2 * WORD]), "the reply to {request} is damaged");
        assert!((1..self.next).contains(&request), "nobody asked {request}");
        assert!((1..=self.sent).contains(&count), "{count} requests answered of {} sent", self.sent);
        let first = *self.counts.entry(count).or_insert(request);
        assert_eq!(first, request, "the count {count} was given to two requests");
        Some(request)
    }

    /// How many counts were given out.
    pub fn answers(&self) -> usize {
        self.counts.len()
    }
}
