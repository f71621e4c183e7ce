//! Work that a guest does, and how fast it does it.

pub(crate) mod agent;
mod echo;

use std::time::{Duration, Instant};

use crate::load::agent::AgentWork;
use crate::load::echo::Echo;
use crate::session::Session;
use vmm::exit::{Exit, Failure};

/// How long a guest may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// A stretch of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Work done, in units of the load's own.
    pub(crate) units: f64,
    /// Time that it took.
    pub(crate) seconds: f64,
    /// Part of it in which the vCPU's thread could have run and had no processor.
    pub(crate) waited: f64,
    /// Median and 99th percentile of a request's round trip, in µs, where there are requests.
    pub(crate) round_trip_us: Option<(f64, f64)>,
}

impl Sample {
    /// Units a second.
    pub(crate) fn rate(&self) -> f64 {
        self.units / self.seconds
    }

    /// Units a second of the time in which no other thread had the vCPU's processor.
    pub(crate) fn rate_unhindered(&self) -> f64 {
        self.units / (self.seconds - self.waited).max(self.seconds * 1e-3)
    }
}

/// Work of a running guest.
#[derive(Debug)]
pub(crate) enum Load {
    /// The guest works by itself and prints a line for every so much.
    Lines {
        /// Bytes of its line, the newline included.
        bytes: u64,
    },
    /// It answers requests over its network.
    Echo(Option<Echo>),
    /// Its agent works on request.
    Agent(AgentWork),
}

impl Load {
    /// Lets the guest work for about `time`.
    pub(crate) fn sample(&mut self, session: &Session, time: Duration) -> Result<Sample, Failure> {
        let before = vcpu_waited();
        let mut sample = self.sample_only(session, time)?;
        sample.waited = vcpu_waited() - before;
        Ok(sample)
    }

    fn sample_only(&mut self, session: &Session, time: Duration) -> Result<Sample, Failure> {
        match self {
            Self::Lines { bytes } => sample_lines(session, *bytes, time),
            Self::Echo(echo) => {
                if echo.is_none() {
                    *echo = Some(Echo::connect(session)?);
                }
                echo.as_mut().expect("it was just made").sample(session, time)
            }
            Self::Agent(work) => work.sample(session, time),
        }
    }

    /// Forgets its connections: the guest that they went to is gone.
    pub(crate) fn disconnect(&mut self) {
        match self {
            Self::Lines { .. } => {}
            Self::Echo(echo) => *echo = None,
            Self::Agent(work) => work.disconnect(),
        }
    }
}

/// How long the threads of this process's vCPUs have waited for a processor so far, in seconds; 0 where the kernel does
/// not tell.
pub(crate) fn vcpu_waited() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let waited = tasks.filter_map(|task| {
        let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos: u64 = stat.split(' ').nth(1)?.parse().ok()?;
        comm.starts_with("vcpu").then_some(nanos as f64 / 1e9)
    });
    waited.sum()
}

/// From the end of one line to the end of another: what the guest has written counts, not what has been let out.
fn sample_lines(session: &Session, line_bytes: u64, time: Duration) -> Result<Sample, Failure> {
    let (first, begun) = next_line(session, line_bytes)?;
    std::thread::sleep(time);
    let (last, ended) = next_line(session, line_bytes)?;
    Ok(Sample {
        units: (last - first) as f64,
        seconds: (ended - begun).as_secs_f64(),
        waited: 0.0,
        round_trip_us: None,
    })
}

/// Waits for the end of a line; gives how many there are, and when that was.
fn next_line(session: &Session, line_bytes: u64) -> Result<(u64, Instant), Failure> {
    let lines = || session.stats().counts().console_bytes / line_bytes;
    let (before, begun) = (lines(), Instant::now());
    loop {
        let now = lines();
        if now > before {
            return Ok((now, Instant::now()));
        }
        session.check()?;
        if begun.elapsed() > SILENCE_MAX {
            let why = format!("the guest did no work that shows for {} s", SILENCE_MAX.as_secs());
            return Err(Failure::new(Exit::Timeout, why));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
