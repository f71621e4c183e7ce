//! Work that the agent of a Linux guest does on request, timed by the guest's own clock; and requests to it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::load::Sample;
use crate::network::GUEST;
use crate::session::Session;
use vmm::exit::{Exit, Failure};

const WORK_PORT: u16 = 7004;
const STREAM_PORT: u16 = 7001;
const REDIS_PORT: u16 = 6379;
/// Until an answer counts as missing: far longer than any amount of work that is asked for.
const ANSWER_MAX: Duration = Duration::from_secs(300);
/// While an answer is waited for, the guest is looked after this often.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// Until a guest that boots must answer.
const BOOT_MAX: Duration = Duration::from_secs(600);
/// A sample's work is asked for in so many portions, so that one that became slow does not last for ever.
const PORTIONS: u64 = 32;
const CONNECT_AGAIN: Duration = Duration::from_millis(200);

/// What the agent is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A workload: its name, and its second parameter.
    Work(&'static str, u64),
    /// A line, answered by its count and checksum.
    Stream,
    /// A SET, acknowledged by the guest's redis.
    Redis,
}

impl Ask {
    fn port(self) -> u16 {
        match self {
            Self::Work(..) => WORK_PORT,
            Self::Stream => STREAM_PORT,
            Self::Redis => REDIS_PORT,
        }
    }
}

/// One kind of work, and the connection to ask for it.
#[derive(Debug)]
pub(crate) struct AgentWork {
    ask: Ask,
    /// Units that take about as long as a sample, once that is known.
    amount: Option<(Duration, u64)>,
    connection: Option<BufReader<TcpStream>>,
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Error, format!("{what} the agent (or redis) of the guest at {GUEST}: {error}"))
        .with_hint("guest-images/busybox/build makes a guest with an agent")
}

impl AgentWork {
    pub(crate) fn new(ask: Ask) -> Self {
        Self { ask, amount: None, connection: None }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    fn request(&mut self, session: &Session, line: &str) -> Result<String, Failure> {
        if self.connection.is_none() {
            self.connection = Some(BufReader::new(connect(session, self.ask.port())?));
        }
        let connection = self.connection.as_mut().expect("it was just made");
        let asked = connection.get_mut().write_all(format!("{line}\n").as_bytes());
        asked.map_err(|error| failed("cannot ask", &error))?;
        let answer = read_answer(connection, session)?;
        if answer.ends_with('\n') && !answer.contains("FAILED") && !answer.contains("ERR") {
            return Ok(answer);
        }
        let why = format!("the guest was asked '{line}' and answered '{}'", answer.trim());
        Err(Failure::new(Exit::Error, why))
    }

    /// Works for about `time`.
    pub(crate) fn sample(&mut self, session: &Session, time: Duration) -> Result<Sample, Failure> {
        match self.ask {
            Ask::Stream => self.sample_requests(session, time, "a line of a client"),
            Ask::Redis => self.sample_requests(session, time, "SET outlast 0123456789abcdef"),
            Ask::Work(name, parameter) => {
                let units = (self.amount(session, name, parameter, time)? / PORTIONS).max(1);
                let (mut done, mut seconds) = (0, 0.0);
                while seconds < time.as_secs_f64() {
                    seconds += self.work(session, name, units, parameter)?;
                    done += units;
                }
                Ok(Sample { units: done as f64, seconds, waited: 0.0, round_trip_us: None })
            }
        }
    }

    /// Has `units` of a workload done, and waits for the answer.
    pub(crate) fn once(&mut self, session: &Session, name: &str, units: u64, parameter: u64) -> Result<(), Failure> {
        self.work(session, name, units, parameter).map(drop)
    }

    /// Units that take an unprotected guest about `time`: found out once, so that all portions are the same.
    fn amount(&mut self, session: &Session, name: &str, parameter: u64, time: Duration) -> Result<u64, Failure> {
        match self.amount {
            Some((known, units)) => Ok(scaled(units, known, time)),
            None => {
                let mut units = 1;
                let mut seconds = self.work(session, name, units, parameter)?;
                while seconds < time.as_secs_f64() / 4.0 {
                    units *= 4;
                    seconds = self.work(session, name, units, parameter)?;
                }
                self.amount = Some((Duration::from_secs_f64(seconds), units));
                Ok(scaled(units, Duration::from_secs_f64(seconds), time))
            }
        }
    }

    fn work(&mut self, session: &Session, name: &str, units: u64, parameter: u64) -> Result<f64, Failure> {
        let answer = self.request(session, &format!("{name} {units} {parameter}"))?;
        let nanos = answer.split(' ').find_map(|word| word.strip_prefix("ns=")?.parse::<u64>().ok());
        match nanos {
            Some(nanos) if nanos > 0 => Ok(nanos as f64 / 1e9),
            _ => Err(Failure::new(Exit::Error, format!("the guest's answer names no time: '{}'", answer.trim()))),
        }
    }

    fn sample_requests(&mut self, session: &Session, time: Duration, line: &str) -> Result<Sample, Failure> {
        let mut times = Histogram::<u64>::new(3).expect("three significant digits are valid");
        let begun = Instant::now();
        while begun.elapsed() < time || times.is_empty() {
            let asked = Instant::now();
            self.request(session, line)?;
            let nanos = u64::try_from(asked.elapsed().as_nanos()).expect("shorter than the time limit");
            times.record(nanos).expect("it grows to any value");
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

/// Reads a line, for as long as the guest lives.
fn read_answer(connection: &mut BufReader<TcpStream>, session: &Session) -> Result<String, Failure> {
    let mut answer = String::new();
    let begun = Instant::now();
    loop {
        match connection.read_line(&mut answer) {
            Ok(_) => return Ok(answer),
            Err(error) if is_timeout(&error) && begun.elapsed() < ANSWER_MAX => session.check()?,
            Err(error) => return Err(failed("no answer from", &error)),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn scaled(units: u64, took: Duration, wanted: Duration) -> u64 {
    ((units as f64 * wanted.as_secs_f64() / took.as_secs_f64()) as u64).max(1)
}

/// Connects to the agent, once the guest has booted.
pub(crate) fn connect(session: &Session, port: u16) -> Result<TcpStream, Failure> {
    let address: SocketAddr = format!("{GUEST}:{port}").parse().expect("an address and a port");
    let begun = Instant::now();
    loop {
        session.check()?;
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(stream) => {
                stream
                    .set_read_timeout(Some(LOOK_AROUND))
                    .and_then(|()| stream.set_nodelay(true))
                    .map_err(|error| failed("cannot connect to", &error))?;
                return Ok(stream);
            }
            Err(error) if begun.elapsed() > BOOT_MAX => return Err(failed("cannot connect to", &error)),
            Err(_) => std::thread::sleep(CONNECT_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_amount_is_proportional_and_never_nothing() {
        assert_eq!(scaled(100, Duration::from_secs(2), Duration::from_secs(1)), 50);
        assert_eq!(scaled(1, Duration::from_secs(10), Duration::from_secs(1)), 1);
    }
}
