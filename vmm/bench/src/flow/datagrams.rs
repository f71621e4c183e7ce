//! Numbered datagrams, and the guest's totals.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::{Client, Counted, DATAGRAM_PORT, SILENCE_MAX, failed};
use crate::network::GUEST;
use crate::session::Session;
use vmm::exit::{Exit, Failure};

const SEND: u64 = 1;
const NUMBERED: u64 = 2;
const COUNTED: u64 = 3;
const ASK: u64 = 4;
const TOTALS: u64 = 5;
/// Of a datagram: an Ethernet frame's worth, without fragments.
const BYTES: usize = 1400;
const RECEIVE_BUFFER: usize = 32 << 20;
/// A question may be dropped with all else that comes too fast; asking twice does no harm.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// After so long without a datagram no more of a train will come.
const QUIET: Duration = Duration::from_millis(100);
const GUEST_BOOTS_MAX: Duration = Duration::from_secs(600);

fn socket() -> Result<UdpSocket, Failure> {
    let open = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((GUEST, DATAGRAM_PORT))?;
        // What the kernel drops here would count as lost on the way. Without the right to more, the limit of all holds.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        Ok(socket)
    };
    open().map_err(|error: std::io::Error| failed(&error))
}

/// Sends; a host that is not up yet, or a full queue, is like a datagram that is lost.
fn send(socket: &UdpSocket, words: &[u64], data: &mut [u8]) -> Result<(), Failure> {
    data.as_chunks_mut().0.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_le_bytes());
    match socket.send(data) {
        Ok(_) => Ok(()),
        Err(error) if is_passing(&error) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | Interrupted | TimedOut | WouldBlock)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// The words of the next datagram and its length; none if none came in time.
fn receive<const N: usize>(socket: &UdpSocket, time: Duration) -> Result<Option<([u64; N], usize)>, Failure> {
    let mut data = [0; 2048];
    socket.set_read_timeout(Some(time.max(Duration::from_micros(1)))).map_err(|error| failed(&error))?;
    match socket.recv(&mut data) {
        Ok(len) => {
            let mut words = [0; N];
            words
                .iter_mut()
                .zip(data[..len].as_chunks().0)
                .for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
            Ok(Some((words, len)))
        }
        Err(error) if is_passing(&error) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// A number that no datagram before had.
fn token() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the guest counted since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) answered: u64,
    pub(crate) datagrams_sent: u64,
    pub(crate) datagrams_received: u64,
}

impl Totals {
    /// Asks the guest, until it answers.
    pub(crate) fn ask(session: &Session) -> Result<Self, Failure> {
        let (socket, token, begun) = (socket()?, token(), Instant::now());
        loop {
            send(&socket, &[ASK, token], &mut [0; 16])?;
            if let Some(([TOTALS, of, sent, received, answered, datagrams_sent, datagrams_received], _)) =
                receive(&socket, ASK_AGAIN)?
                && of == token
            {
                return Ok(Self { sent, received, answered, datagrams_sent, datagrams_received });
            }
            session.check()?;
            if begun.elapsed() > GUEST_BOOTS_MAX {
                return Err(Failure::new(Exit::Timeout, format!("the guest at {GUEST} does not say its totals")));
            }
        }
    }
}

/// A train from the guest.
pub(crate) struct Leaving<'a> {
    session: &'a Session,
    socket: UdpSocket,
    token: u64,
    arrived: u64,
    last: Option<u64>,
    /// Arrived, and the last number, when the measurement began.
    begun: (u64, Option<u64>),
}

impl<'a> Leaving<'a> {
    pub(crate) fn connect(session: &'a Session) -> Result<Self, Failure> {
        let mut train = Self { session, socket: socket()?, token: token(), arrived: 0, last: None, begun: (0, None) };
        let begun = Instant::now();
        while train.last.is_none() {
            train.ask(u64::MAX)?;
            train.take(QUIET)?;
            session.check()?;
            if begun.elapsed() > SILENCE_MAX {
                return Err(Failure::new(Exit::Timeout, "the guest sends no datagrams"));
            }
        }
        Ok(train)
    }

    fn ask(&self, count: u64) -> Result<(), Failure> {
        send(&self.socket, &[SEND, self.token, BYTES as u64, count, 0], &mut [0; 40])
    }

    /// Takes the next one; whether one came.
    fn take(&mut self, time: Duration) -> Result<bool, Failure> {
        let Some(([kind, token, number], len)) = receive(&self.socket, time)? else { return Ok(false) };
        if kind == NUMBERED && token == self.token && len == BYTES {
            // A question that was repeated begins the train anew: only a number above all others is new.
            let is_new = self.last.is_none_or(|last| number > last);
            self.arrived += u64::from(is_new);
            self.last = self.last.max(Some(number));
        }
        Ok(true)
    }
}

impl Client for Leaving<'_> {
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until {
            if !self.take(until.saturating_duration_since(Instant::now()))? {
                self.session.check()?;
            }
        }
        Ok(())
    }

    fn units(&mut self) -> Result<u64, Failure> {
        Ok(self.arrived)
    }

    fn begin(&mut self) -> Result<u64, Failure> {
        self.begun = (self.arrived, self.last);
        Ok(self.arrived)
    }

    fn lost(&self) -> Option<f64> {
        let sent = self.last?.checked_sub(self.begun.1?)?;
        let arrived = self.arrived - self.begun.0;
        (sent > 0).then(|| 1.0 - arrived as f64 / sent as f64)
    }

    fn end(mut self: Box<Self>) -> Result<Counted, Failure> {
        let begun = Instant::now();
        // The request to stop may be lost as any datagram.
        loop {
            self.ask(0)?;
            if !self.take(QUIET)? {
                return Ok(Counted { least: self.arrived, most: u64::MAX });
            }
            let asked = Instant::now();
            while asked.elapsed() < QUIET && self.take(QUIET)? {}
            if begun.elapsed() > SILENCE_MAX {
                return Err(Failure::new(Exit::Timeout, "the guest does not stop sending datagrams"));
            }
        }
    }
}

/// Datagrams to the guest; what it counted is what arrived.
pub(crate) struct Arriving<'a> {
    session: &'a Session,
    socket: UdpSocket,
    per_second: Option<u32>,
    token: u64,
    sent: u64,
    /// What the guest counted before us.
    before: u64,
    arrived: u64,
    /// Sent, and arrived, when the measurement began.
    begun: (u64, u64),
}

/// Sent between two looks at the clock.
const BURST_MAX: u64 = 32;

impl<'a> Arriving<'a> {
    pub(crate) fn connect(session: &'a Session, per_second: Option<u32>) -> Result<Self, Failure> {
        let before = Totals::ask(session)?.datagrams_received;
        let (socket, token) = (socket()?, token());
        Ok(Self { session, socket, per_second, token, sent: 0, before, arrived: 0, begun: (0, 0) })
    }

    fn send_some(&mut self, count: u64) -> Result<(), Failure> {
        let mut data = [0; BYTES];
        for _ in 0..count {
            send(&self.socket, &[COUNTED, self.token, self.sent], &mut data)?;
            self.sent += 1;
        }
        Ok(())
    }
}

impl Client for Arriving<'_> {
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        let (begun, sent_before) = (Instant::now(), self.sent);
        loop {
            let now = Instant::now();
            if now >= until {
                return self.session.check();
            }
            let due = match self.per_second {
                None => BURST_MAX,
                Some(rate) => {
                    let wanted = ((now - begun).as_secs_f64() * f64::from(rate)) as u64;
                    // What could not be sent in time is caught up with, in bursts that a queue holds.
                    (wanted - (self.sent - sent_before).min(wanted)).min(BURST_MAX)
                }
            };
            if due == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
            self.send_some(due)?;
        }
    }

    fn units(&mut self) -> Result<u64, Failure> {
        self.arrived = Totals::ask(self.session)?.datagrams_received - self.before;
        Ok(self.arrived)
    }

    fn begin(&mut self) -> Result<u64, Failure> {
        let arrived = self.units()?;
        self.begun = (self.sent, arrived);
        Ok(arrived)
    }

    fn lost(&self) -> Option<f64> {
        let sent = self.sent - self.begun.0;
        (sent > 0).then(|| 1.0 - (self.arrived - self.begun.1) as f64 / sent as f64)
    }

    fn end(self: Box<Self>) -> Result<Counted, Failure> {
        Ok(Counted { least: self.arrived, most: self.sent })
    }
}
