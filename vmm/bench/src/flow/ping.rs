//! ICMP echo requests, one after the other; a large one comes in many fragments, and its answer too.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with, sockopt,
};

use super::pattern::Pattern;
use super::{Client, Counted, corrupt, failed};
use crate::network::GUEST;
use crate::session::Session;
use vmm::exit::{Exit, Failure};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const HEADER: usize = 8;
/// Of all of ours; the namespace has no other that pings.
const IDENTIFIER: u16 = 0x6f6c;
/// Until a request or its answer counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const LOST_MAX: u32 = 12;

/// A client that pings.
pub(crate) struct Ping<'a> {
    session: &'a Session,
    socket: OwnedFd,
    bytes: usize,
    sequence: u16,
    times: Histogram<u64>,
    answers: u64,
    asked: u64,
    /// Answers and requests when the measurement began.
    begun: (u64, u64),
}

impl<'a> Ping<'a> {
    pub(crate) fn connect(session: &'a Session, bytes: usize) -> Result<Self, Failure> {
        let open = || {
            let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
            Ok(socket)
        };
        let socket = open().map_err(|error: rustix::io::Errno| failed(&error.into()))?;
        let times = Histogram::new(3).expect("three significant digits are valid");
        Ok(Self { session, socket, bytes, sequence: 0, times, answers: 0, asked: 0, begun: (0, 0) })
    }

    fn request(&self) -> Vec<u8> {
        let mut packet = vec![0; HEADER + self.bytes];
        packet[0] = ECHO_REQUEST;
        packet[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        Pattern::new(self.sequence.into()).fill(&mut packet[HEADER..]);
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// Asks and waits; whether the answer came.
    fn ask(&mut self) -> Result<bool, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        self.asked += 1;
        let to = SocketAddrV4::new(GUEST.parse::<Ipv4Addr>().expect("it is an address"), 0);
        let begun = Instant::now();
        sendto(&self.socket, &self.request(), SendFlags::empty(), &to).map_err(|error| failed(&error.into()))?;
        let mut data = vec![0; 1 << 16];
        while begun.elapsed() < ANSWER_MAX {
            match recv(&self.socket, data.as_mut_slice(), RecvFlags::empty()) {
                Ok((len, _)) if self.is_mine(&data[..len])? => {
                    let nanos = u64::try_from(begun.elapsed().as_nanos()).expect("shorter than the time limit");
                    self.times.record(nanos).expect("it grows to any value");
                    self.answers += 1;
                    return Ok(true);
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(failed(&error.into())),
            }
        }
        Ok(false)
    }

    /// Whether an IPv4 packet is the answer to the last request.
    fn is_mine(&self, packet: &[u8]) -> Result<bool, Failure> {
        let header = packet.first().map_or(0, |byte| usize::from(byte & 15) * 4);
        let Some(message) = packet.get(header..).filter(|message| message.len() >= HEADER) else { return Ok(false) };
        let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        if message[0] != ECHO_REPLY || number(4) != IDENTIFIER || number(6) != self.sequence {
            return Ok(false);
        }
        let data = &message[HEADER..];
        if data.len() != self.bytes || !Pattern::new(self.sequence.into()).fits(data) {
            return Err(corrupt("an echo of the guest", 0));
        }
        Ok(true)
    }
}

/// The Internet checksum.
fn checksum(data: &[u8]) -> u16 {
    let (words, rest) = data.as_chunks();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let sum = sum + rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

impl Client for Ping<'_> {
    /// Goes on until then, and until at least one answer came.
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        let before = self.answers;
        let mut lost = 0;
        while Instant::now() < until || self.answers == before {
            self.session.check()?;
            lost = if self.ask()? { 0 } else { lost + 1 };
            if lost > LOST_MAX {
                return Err(Failure::new(Exit::Timeout, format!("the guest answers no ping of {} bytes", self.bytes)));
            }
        }
        Ok(())
    }

    fn units(&mut self) -> Result<u64, Failure> {
        Ok(self.answers)
    }

    fn begin(&mut self) -> Result<u64, Failure> {
        self.times.reset();
        self.begun = (self.answers, self.asked);
        Ok(self.answers)
    }

    fn lost(&self) -> Option<f64> {
        let asked = self.asked - self.begun.1;
        (asked > 0).then(|| 1.0 - (self.answers - self.begun.0) as f64 / asked as f64)
    }

    fn round_trip_us(&self) -> Option<(f64, f64)> {
        let us = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        Some((us(0.5), us(0.99)))
    }

    fn end(self: Box<Self>) -> Result<Counted, Failure> {
        Ok(Counted::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_data_with_its_checksum_is_zero() {
        let mut data = [0x45, 0xff, 0, 0, 0x12, 0x34, 0xab];
        let sum = checksum(&data);
        data[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&data), 0);
    }
}
