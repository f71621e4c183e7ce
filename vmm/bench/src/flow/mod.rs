//! Flows to and from a guest that serves them (`guest-images/bulk/README.md`): streams, requests with answers, datagrams.
//! Every byte is compared, and what the guest counts with what came here.

mod asks;
mod datagrams;
mod pattern;
mod ping;
mod streams;
mod transactions;

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::asks::{Asks, Talk};
use self::datagrams::{Arriving, Leaving, Totals};
use self::ping::Ping;
use self::streams::{From, To};
use self::transactions::Transactions;
use crate::load::agent;
use crate::load::vcpu_waited;
use crate::session::{Figures, Session};
use outlast_api::figures::Counters;
use protect::epoch::usage;
use protect::epoch::usage::Usage;
use vmm::exit::{Exit, Failure};

const SOURCE_PORT: u16 = 7010;
const SINK_PORT: u16 = 7011;
const ANSWER_PORT: u16 = 7012;
const DATAGRAM_PORT: u16 = 7013;
const REDIS_PORT: u16 = 6379;
const POSTGRES_PORT: u16 = 5432;
/// How the clients' TCP finds out how much may be under way.
const CONGESTION: &str = "cubic";
/// While nothing comes, the guest is looked after this often.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// How long nothing at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One question about the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Streams from the guest.
    From { connections: usize },
    /// Streams to the guest.
    To { connections: usize },
    /// Datagrams from the guest, as fast as it sends.
    DatagramsFrom,
    /// Datagrams to the guest: so many a second, or as many as can be.
    DatagramsTo { per_second: Option<u32> },
    /// Requests of so many bytes and answers of as many, one at a time on each connection.
    Ask { bytes: usize, connections: usize },
    /// SETs, acknowledged by the guest's redis, one at a time on each connection.
    Redis { connections: usize },
    /// Transactions as `pgbench` makes them, one at a time on each connection.
    Pgbench { connections: usize },
    /// An ICMP echo request with so many bytes, and its answer.
    Ping { bytes: usize },
}

impl Flow {
    /// Its name, for tables and the command line.
    pub(crate) fn name(self) -> String {
        match self {
            Self::From { connections } => format!("tcp-from-{connections}"),
            Self::To { connections } => format!("tcp-to-{connections}"),
            Self::DatagramsFrom => "udp-from".into(),
            Self::DatagramsTo { per_second: None } => "udp-to".into(),
            Self::DatagramsTo { per_second: Some(rate) } => format!("udp-to-{rate}"),
            Self::Ask { bytes, connections } => format!("ask-{bytes}-{connections}"),
            Self::Redis { connections } => format!("redis-{connections}"),
            Self::Pgbench { connections } => format!("pgbench-{connections}"),
            Self::Ping { bytes } => format!("ping-{bytes}"),
        }
    }

    fn connect(self, session: &Session) -> Result<Box<dyn Client + '_>, Failure> {
        Ok(match self {
            Self::From { connections } => Box::new(From::connect(session, connections)?),
            Self::To { connections } => Box::new(To::connect(session, connections)?),
            Self::DatagramsFrom => Box::new(Leaving::connect(session)?),
            Self::DatagramsTo { per_second } => Box::new(Arriving::connect(session, per_second)?),
            Self::Ask { bytes, connections } => Box::new(Asks::connect(session, Talk::Pattern(bytes), connections)?),
            Self::Redis { connections } => Box::new(Asks::connect(session, Talk::Redis, connections)?),
            Self::Pgbench { connections } => Box::new(Transactions::connect(session, connections)?),
            Self::Ping { bytes } => Box::new(Ping::connect(session, bytes)?),
        })
    }

    /// Whether the guest counts what it did for this flow.
    fn is_counted(self) -> bool {
        !matches!(self, Self::Redis { .. } | Self::Pgbench { .. } | Self::Ping { .. })
    }

    /// Lets it flow for a stretch.
    pub(crate) fn sample(self, session: &Session, stretch: Stretch<'_>) -> Result<Seen, Failure> {
        let totals = || (stretch.counts_exactly && self.is_counted()).then(|| Totals::ask(session)).transpose();
        let before = totals()?;
        let mut client = self.connect(session)?;
        client.work(Instant::now() + stretch.settle)?;
        let units = client.begin()?;
        let meter = Meter::begin(session, stretch.tap);
        client.work(Instant::now() + stretch.time)?;
        let units = client.units()? - units;
        let mut seen = meter.end(units);
        seen.lost = client.lost();
        seen.round_trip_us = client.round_trip_us();
        let counted = client.end()?;
        if let (Some(before), Some(after)) = (before, totals()?) {
            counted.compare(self, before, after)?;
        }
        Ok(seen)
    }
}

/// How long a flow is watched, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch<'a> {
    /// Before it is measured.
    pub(crate) settle: Duration,
    /// While it is measured.
    pub(crate) time: Duration,
    /// The guest's tap.
    pub(crate) tap: &'a str,
    /// The guest counts all that it has acknowledged, and nothing after a reset. The kernel of a Linux guest acknowledges
    /// what its server has not read yet: that may never be read, or be read and counted while the next flow runs.
    pub(crate) counts_exactly: bool,
}

/// The other end of a flow.
trait Client {
    /// Goes on until then.
    fn work(&mut self, until: Instant) -> Result<(), Failure>;
    /// What flowed so far: bytes, answers or datagrams that are there.
    fn units(&mut self) -> Result<u64, Failure>;
    /// The measurement begins; gives the units so far.
    fn begin(&mut self) -> Result<u64, Failure> {
        self.units()
    }
    /// Share of what was sent since the beginning that never came.
    fn lost(&self) -> Option<f64> {
        None
    }
    /// Median and 99th percentile since the beginning.
    fn round_trip_us(&self) -> Option<(f64, f64)> {
        None
    }
    /// Ends it at once, and says what it saw since it connected.
    fn end(self: Box<Self>) -> Result<Counted, Failure>;
}

/// What a client saw: what the guest counted in the same time lies between both.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    least: u64,
    most: u64,
}

impl Counted {
    fn compare(self, flow: Flow, before: Totals, after: Totals) -> Result<(), Failure> {
        let of = |totals: Totals| match flow {
            Flow::From { .. } => totals.sent,
            Flow::To { .. } => totals.received,
            Flow::DatagramsFrom => totals.datagrams_sent,
            Flow::DatagramsTo { .. } => totals.datagrams_received,
            Flow::Ask { .. } => totals.answered,
            Flow::Redis { .. } | Flow::Pgbench { .. } | Flow::Ping { .. } => 0,
        };
        let counted = of(after).checked_sub(of(before));
        if counted.is_some_and(|counted| (self.least..=self.most).contains(&counted)) {
            return Ok(());
        }
        let (before, after) = (of(before), of(after));
        let belongs = match self.most {
            u64::MAX => format!("at least {}", self.least),
            most => format!("between {} and {most}", self.least),
        };
        let why = format!("the guest counted {before} before and {after} after; {belongs} belong there");
        Err(Failure::new(Exit::Error, why))
    }
}

/// What was seen of a flow.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Bytes, answers or datagrams.
    pub(crate) units: u64,
    pub(crate) seconds: f64,
    /// Time in which the vCPU wanted a processor and had none, in seconds.
    pub(crate) waited: f64,
    /// What the vCPUs had of their processors; all zero where the kernel does not say.
    pub(crate) usage: Usage,
    /// Share of the datagrams that did not come.
    pub(crate) lost: Option<f64>,
    /// Median and 99th percentile of a round trip.
    pub(crate) round_trip_us: Option<(f64, f64)>,
    /// What the epochs were like.
    pub(crate) figures: Figures,
}

impl Seen {
    /// Units a second.
    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }
}

/// Reads a machine's numbers at both ends of a stretch.
struct Meter<'a> {
    session: &'a Session,
    tap: &'a str,
    counts: Counters<u64>,
    frames_in: (f64, f64),
    waited: f64,
    usage: usage::Meter,
    begun: Instant,
}

/// Frames that the host gave to the tap, and those of them that it dropped because nobody took them.
fn frames_in(tap: &str) -> (f64, f64) {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/class/net/{tap}/statistics/{name}"));
    let number = |name: &str| read(name).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(f64::NAN);
    (number("tx_packets"), number("tx_dropped"))
}

impl<'a> Meter<'a> {
    fn begin(session: &'a Session, tap: &'a str) -> Self {
        session.stats().reset_distributions();
        let counts = session.stats().counts();
        let mut usage = usage::Meter::default();
        usage.read(session.kicker());
        Self { session, tap, counts, frames_in: frames_in(tap), waited: vcpu_waited(), usage, begun: Instant::now() }
    }

    fn end(mut self, units: u64) -> Seen {
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut figures = self.session.figures();
        let now = self.session.stats().counts();
        let (given, dropped) = frames_in(self.tap);
        let epochs = figures.get("epochs").copied().unwrap_or(0.0);
        let per_epoch = |count: f64| if epochs > 0.0 { count / epochs } else { f64::NAN };
        let frames_out = (now.outputs - self.counts.outputs) as f64;
        let exits = (now.exits - self.counts.exits) as f64;
        figures.entry("stopped_share").and_modify(|nanos| *nanos /= seconds * 1e9);
        figures.extend([
            ("epochs_per_s", epochs / seconds),
            ("frames_out_per_s", frames_out / seconds),
            ("frames_in_per_s", (given - self.frames_in.0) / seconds),
            ("frames_out_per_epoch", per_epoch(frames_out)),
            ("frames_in_per_epoch", per_epoch(given - self.frames_in.0)),
            ("exits_per_epoch", per_epoch(exits)),
            ("tap_dropped", dropped - self.frames_in.1),
        ]);
        let waited = vcpu_waited() - self.waited;
        let usage = self.usage.read(self.session.kicker());
        Seen { units, seconds, waited, usage, lost: None, round_trip_us: None, figures }
    }
}

/// What [`Meter`] adds to the figures of the epochs.
pub(crate) const FRAME_FIGURES: [&str; 7] = [
    "epochs_per_s",
    "frames_out_per_s",
    "frames_in_per_s",
    "frames_out_per_epoch",
    "frames_in_per_epoch",
    "exits_per_epoch",
    "tap_dropped",
];

/// So many connections to a port of the guest, without delay and not blocking, after `header`.
///
/// They use the congestion control of most clients, whatever this host prefers: BBR, for one, limits what is under way to twice what
/// fits into the shortest round trip that it saw, and that of a protected guest grows with what it has to do.
fn connections(
    session: &Session,
    port: u16,
    count: usize,
    header: impl Fn(usize) -> Vec<u8>,
) -> Result<Vec<TcpStream>, Failure> {
    let one = |index| {
        let stream = agent::connect(session, port)?;
        rustix::net::sockopt::set_tcp_congestion(&stream, CONGESTION).map_err(|error| {
            Failure::new(Exit::Error, format!("a client's TCP cannot use {CONGESTION}: {error}"))
                .with_hint(format!("`modprobe tcp_{CONGESTION}` gives this host that congestion control"))
        })?;
        let mut said = &stream;
        std::io::Write::write_all(&mut said, &header(index))
            .and_then(|()| stream.set_nonblocking(true))
            // Its end is a reset: what waits to be sent must not run on beside what is measured next.
            .and_then(|()| Ok(rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?))
            .map_err(|error| failed(&error))?;
        Ok(stream)
    };
    (0..count).map(one).collect()
}

/// Waits until something can be done on one of `sockets`, for as long as the guest lives; says where.
fn wait<S: AsFd>(session: &Session, sockets: &[(&S, PollFlags)], until: Instant) -> Result<Vec<bool>, Failure> {
    let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|(socket, flags)| PollFd::new(*socket, *flags)).collect();
    let time = until.saturating_duration_since(Instant::now()).min(LOOK_AROUND);
    let timeout = Timespec::try_from(time).expect("it is short");
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => session.check()?,
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(failed(&error.into())),
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// A failure of the network.
fn failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Error, format!("the flow to the guest at {} broke: {error}", super::network::GUEST))
}

/// A stream that is not what it must be.
fn corrupt(what: &str, at: u64) -> Failure {
    Failure::new(Exit::Error, format!("{what}: wrong bytes at {at} and after: output was wrong"))
}

/// The words, little-endian.
fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
