//! Streams in bulk, over one or more connections, all served by one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use rustix::event::PollFlags;

use super::pattern::Pattern;
use super::{Client, Counted, SINK_PORT, SOURCE_PORT, connections, corrupt, failed, wait, words};
use crate::session::Session;
use vmm::exit::{Exit, Failure};

const BUFFER: usize = 256 << 10;

/// Streams from the guest.
pub(crate) struct From<'a> {
    session: &'a Session,
    streams: Vec<(TcpStream, Pattern)>,
    buffer: Vec<u8>,
}

/// Of connection `index`; no two are the same.
fn seed(index: usize) -> u64 {
    0x0123_4567_89ab_cdef ^ ((index as u64) << 32)
}

impl<'a> From<'a> {
    pub(crate) fn connect(session: &'a Session, count: usize) -> Result<Self, Failure> {
        let without_end = 0;
        let streams = connections(session, SOURCE_PORT, count, |index| words(&[seed(index), without_end]))?;
        let with_pattern = |(index, stream)| (stream, Pattern::new(!seed(index)));
        let streams = streams.into_iter().enumerate().map(with_pattern).collect();
        Ok(Self { session, streams, buffer: vec![0; BUFFER] })
    }

    fn total(&self) -> u64 {
        self.streams.iter().map(|(_, pattern)| pattern.at()).sum()
    }
}

impl Client for From<'_> {
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until {
            let sockets: Vec<_> = self.streams.iter().map(|(stream, _)| (stream, PollFlags::IN)).collect();
            let ready = wait(self.session, &sockets, until)?;
            for ((stream, pattern), _) in self.streams.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                match stream.read(&mut self.buffer) {
                    Ok(0) => return Err(Failure::new(Exit::Error, "the guest ended a stream that has no end")),
                    Ok(len) => {
                        let at = pattern.at();
                        if !pattern.fits(&self.buffer[..len]) {
                            return Err(corrupt("a stream from the guest", at));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(failed(&error)),
                }
            }
        }
        Ok(())
    }

    fn units(&mut self) -> Result<u64, Failure> {
        Ok(self.total())
    }

    fn end(self: Box<Self>) -> Result<Counted, Failure> {
        // The guest counts what it puts into its sockets, which may never have left.
        Ok(Counted { least: self.total(), most: u64::MAX })
    }
}

/// One stream to the guest, and what is made of it and not sent yet.
struct Outgoing {
    stream: TcpStream,
    pattern: Pattern,
    made: Vec<u8>,
    sent_of_made: usize,
}

impl Outgoing {
    fn written(&self) -> u64 {
        self.pattern.at() - (self.made.len() - self.sent_of_made) as u64
    }

    fn write(&mut self) -> Result<(), Failure> {
        if self.sent_of_made == self.made.len() {
            self.made.resize(BUFFER, 0);
            self.pattern.fill(&mut self.made);
            self.sent_of_made = 0;
        }
        match self.stream.write(&self.made[self.sent_of_made..]) {
            Ok(len) => self.sent_of_made += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(&error)),
        }
        Ok(())
    }
}

/// Streams to the guest. What counts is what its TCP has acknowledged.
pub(crate) struct To<'a> {
    session: &'a Session,
    streams: Vec<Outgoing>,
}

impl<'a> To<'a> {
    pub(crate) fn connect(session: &'a Session, count: usize) -> Result<Self, Failure> {
        let streams = connections(session, SINK_PORT, count, |index| words(&[seed(index)]))?;
        let outgoing = |(index, stream)| Outgoing {
            stream,
            pattern: Pattern::new(seed(index)),
            made: Vec::new(),
            sent_of_made: 0,
        };
        Ok(Self { session, streams: streams.into_iter().enumerate().map(outgoing).collect() })
    }

    fn written(&self) -> u64 {
        self.streams.iter().map(Outgoing::written).sum()
    }

    fn acknowledged(&self) -> Result<u64, Failure> {
        let table = std::fs::read_to_string("/proc/self/net/tcp").map_err(|error| failed(&error))?;
        let mut unacknowledged = 0;
        for outgoing in &self.streams {
            let port = outgoing.stream.local_addr().map_err(|error| failed(&error))?.port();
            let queue = unacknowledged_of(&table, port, SINK_PORT);
            unacknowledged +=
                queue.ok_or_else(|| Failure::new(Exit::Error, "the kernel does not list a connection of ours"))?;
        }
        // The header is part of the queue as long as it is not acknowledged, and no part of the stream.
        Ok(self.written().saturating_sub(unacknowledged))
    }
}

/// Bytes written and not acknowledged by the other end, of the connection with these ports: the queue that the kernel
/// shows in hexadecimal, as in `local:port remote:port state tx:rx`.
fn unacknowledged_of(table: &str, local: u16, remote: u16) -> Option<u64> {
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let ports = (port(fields.next()?)?, port(fields.next()?)?);
        let queues = fields.nth(1)?;
        (ports == (local, remote)).then(|| u64::from_str_radix(queues.split_once(':')?.0, 16).ok())?
    })
}

impl Client for To<'_> {
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until {
            let sockets: Vec<_> = self.streams.iter().map(|out| (&out.stream, PollFlags::OUT)).collect();
            let ready = wait(self.session, &sockets, until)?;
            for (outgoing, _) in self.streams.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                outgoing.write()?;
            }
        }
        Ok(())
    }

    fn units(&mut self) -> Result<u64, Failure> {
        self.acknowledged()
    }

    fn end(self: Box<Self>) -> Result<Counted, Failure> {
        Ok(Counted { least: self.acknowledged()?, most: self.written() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unacknowledged_bytes_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 01004D0A:ABCD 0A004D0A:1B63 01 00001000:00000007 01:00000014 00000000     0        0 1\n";
        assert_eq!(unacknowledged_of(table, 0xabcd, SINK_PORT), Some(0x1000));
        assert_eq!(unacknowledged_of(table, 0xabce, SINK_PORT), None);
    }
}
