//! Requests to the bare guest `net-echo`, one at a time, each answer checked.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::load::Sample;
use crate::network::GUEST;
use crate::session::Session;
use vmm::exit::{Exit, Failure};

const PORT: u16 = 7000;
/// Until a request counts as lost and is sent again: on a network frames may be lost.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Until a guest that never answered is given up.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(60);

/// A client.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: UdpSocket,
    sequence: u64,
    /// How many requests the guest says it has answered.
    answered: u64,
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Error, format!("the guest at {GUEST} cannot be asked: {error}"))
}

impl Echo {
    /// A client of the guest of `session`, once that answers.
    pub(crate) fn connect(session: &Session) -> Result<Self, Failure> {
        let connect = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((GUEST, PORT))?;
            socket.set_read_timeout(Some(ANSWER_MAX))?;
            Ok(socket)
        };
        let socket = connect().map_err(|error| failed(&error))?;
        let mut echo = Self { socket, sequence: 0, answered: 0 };
        let begun = Instant::now();
        while echo.ask()?.is_none() {
            session.check()?;
            if begun.elapsed() > FIRST_ANSWER_MAX {
                return Err(Failure::new(Exit::Timeout, format!("the guest at {GUEST} does not answer")));
            }
        }
        Ok(echo)
    }

    /// One request. `None` if its answer did not come in time.
    fn ask(&mut self) -> Result<Option<Duration>, Failure> {
        self.sequence += 1;
        let begun = Instant::now();
        match self.socket.send(&self.sequence.to_le_bytes()) {
            // What an earlier frame was told by a host that was not up yet.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => drop(other.map_err(|error| failed(&error))?),
        }
        loop {
            let mut answer = [0; 24];
            match self.socket.recv(&mut answer) {
                Ok(24) if self.is_mine(&answer)? => return Ok(Some(begun.elapsed())),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    /// Whether an answer is to the last request: an older one may come twice. A count that was given before is a fault.
    fn is_mine(&mut self, answer: &[u8; 24]) -> Result<bool, Failure> {
        let word = |i: usize| u64::from_le_bytes(answer[i * 8..][..8].try_into().expect("eight bytes"));
        if word(0) != self.sequence {
            return Ok(false);
        }
        if word(1) <= self.answered {
            let why = format!("the guest counted {} after {}: output was wrong", word(1), self.answered);
            return Err(Failure::new(Exit::Error, why));
        }
        self.answered = word(1);
        Ok(true)
    }

    /// Asks for `time`, one request after the other.
    pub(crate) fn sample(&mut self, session: &Session, time: Duration) -> Result<Sample, Failure> {
        let mut times = Histogram::<u64>::new(3).expect("three significant digits are valid");
        let begun = Instant::now();
        while begun.elapsed() < time || times.is_empty() {
            session.check()?;
            if let Some(round_trip) = self.ask()? {
                let nanos = u64::try_from(round_trip.as_nanos()).expect("shorter than the time limit");
                times.record(nanos).expect("it grows to any value");
            }
        }
        let us = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Sample {
            units: times.len() as f64,
            seconds: begun.elapsed().as_secs_f64(),
            waited: 0.0,
            round_trip_us: Some((us(0.5), us(0.99))),
        })
    }
}
