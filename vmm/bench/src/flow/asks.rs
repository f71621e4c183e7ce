//! Requests and answers, one at a time on each connection, all served by one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::event::PollFlags;

use super::pattern::Pattern;
use super::{ANSWER_PORT, Client, Counted, REDIS_PORT, SILENCE_MAX, connections, corrupt, failed, wait, words};
use crate::session::Session;
use vmm::exit::{Exit, Failure};

const SET: &[u8] = b"SET outlast 0123456789abcdef\r\n";
const DONE: &[u8] = b"+OK\r\n";

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    /// So many bytes, answered by as many.
    Pattern(usize),
    /// A SET of redis.
    Redis,
}

impl Talk {
    fn request_bytes(self) -> usize {
        match self {
            Self::Pattern(bytes) => bytes,
            Self::Redis => SET.len(),
        }
    }

    fn answer_bytes(self) -> usize {
        match self {
            Self::Pattern(bytes) => bytes,
            Self::Redis => DONE.len(),
        }
    }
}

/// A connection and the request that waits for its answer.
struct Asking {
    stream: TcpStream,
    to_guest: Pattern,
    from_guest: Pattern,
    request: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    read: usize,
    begun: Instant,
}

impl Asking {
    fn new(stream: TcpStream, seed: u64, talk: Talk) -> Self {
        let (request, answer) = (vec![0; talk.request_bytes()], vec![0; talk.answer_bytes()]);
        let (to_guest, from_guest) = (Pattern::new(seed), Pattern::new(!seed));
        Self { stream, to_guest, from_guest, request, written: 0, answer, read: 0, begun: Instant::now() }
    }

    fn ask(&mut self, talk: Talk) -> Result<(), Failure> {
        match talk {
            Talk::Pattern(_) => self.to_guest.fill(&mut self.request),
            Talk::Redis => self.request.copy_from_slice(SET),
        }
        (self.written, self.read, self.begun) = (0, 0, Instant::now());
        self.write()
    }

    fn write(&mut self) -> Result<(), Failure> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(())
    }

    /// Reads what came; whether the answer is whole.
    fn read(&mut self, talk: Talk) -> Result<bool, Failure> {
        match self.stream.read(&mut self.answer[self.read..]) {
            Ok(0) => return Err(Failure::new(Exit::Error, "the guest ended a connection that had a request")),
            Ok(len) => self.read += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(&error)),
        }
        if self.read < self.answer.len() {
            return Ok(false);
        }
        let is_right = match talk {
            Talk::Pattern(_) => self.from_guest.fits(&self.answer),
            Talk::Redis => self.answer == DONE,
        };
        if is_right { Ok(true) } else { Err(corrupt("an answer of the guest", self.from_guest.at())) }
    }

    fn waits_for(&self) -> PollFlags {
        if self.written < self.request.len() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }
}

/// Clients that ask.
pub(crate) struct Asks<'a> {
    session: &'a Session,
    talk: Talk,
    asking: Vec<Asking>,
    times: Histogram<u64>,
    answers: u64,
    last_answer: Instant,
}

impl<'a> Asks<'a> {
    pub(crate) fn connect(session: &'a Session, talk: Talk, count: usize) -> Result<Self, Failure> {
        let seed = |index: usize| 0x5eed_0000_0000 + index as u64;
        let streams = match talk {
            Talk::Pattern(bytes) => {
                connections(session, ANSWER_PORT, count, |index| words(&[seed(index), bytes as u64, bytes as u64]))?
            }
            Talk::Redis => connections(session, REDIS_PORT, count, |_| Vec::new())?,
        };
        let asking = streams.into_iter().enumerate().map(|(index, stream)| Asking::new(stream, seed(index), talk));
        let times = Histogram::new(3).expect("three significant digits are valid");
        let mut asks = Self { session, talk, asking: asking.collect(), times, answers: 0, last_answer: Instant::now() };
        asks.asking.iter_mut().try_for_each(|asking| asking.ask(talk))?;
        Ok(asks)
    }

    fn serve(&mut self, index: usize) -> Result<(), Failure> {
        let asking = &mut self.asking[index];
        asking.write()?;
        if asking.read(self.talk)? {
            let nanos = u64::try_from(asking.begun.elapsed().as_nanos()).expect("shorter than the time limit");
            self.times.record(nanos).expect("it grows to any value");
            self.answers += 1;
            self.last_answer = Instant::now();
            asking.ask(self.talk)?;
        }
        Ok(())
    }
}

impl Client for Asks<'_> {
    /// Goes on until then, and until at least one answer came.
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        self.last_answer = Instant::now();
        let before = self.answers;
        while Instant::now() < until || self.answers == before {
            let sockets: Vec<_> = self.asking.iter().map(|asking| (&asking.stream, asking.waits_for())).collect();
            let ready = wait(self.session, &sockets, Instant::now() + super::LOOK_AROUND)?;
            for (index, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
                self.serve(index)?;
            }
            if self.last_answer.elapsed() > SILENCE_MAX {
                return Err(Failure::new(Exit::Timeout, format!("no answer for {} s", SILENCE_MAX.as_secs())));
            }
        }
        Ok(())
    }

    fn units(&mut self) -> Result<u64, Failure> {
        Ok(self.answers)
    }

    fn begin(&mut self) -> Result<u64, Failure> {
        self.times.reset();
        Ok(self.answers)
    }

    fn round_trip_us(&self) -> Option<(f64, f64)> {
        let us = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        Some((us(0.5), us(0.99)))
    }

    fn end(self: Box<Self>) -> Result<Counted, Failure> {
        Ok(Counted { least: self.answers, most: self.answers + self.asking.len() as u64 })
    }
}
