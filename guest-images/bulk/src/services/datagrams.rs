//! Datagrams with numbers, and the totals for who asks. Every datagram begins with its kind and a token of the client's.

use alloc::vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket, UdpMetadata};
use smoltcp::time::{Duration, Instant};

use super::Totals;

const PORT: u16 = 7013;
const BUFFER: usize = 1 << 20;
const DATAGRAMS: usize = 1024;
const BYTES_MAX: u64 = 1472;
/// Datagrams put into the socket in one turn.
const BURST: usize = 64;

/// Kinds of datagrams.
mod kind {
    /// kind, token, bytes of each, how many, nanoseconds from one to the next: send so many.
    pub(super) const SEND: u64 = 1;
    /// kind, token, number, …: one of those.
    pub(super) const NUMBERED: u64 = 2;
    /// kind, token, number, …: one that is counted.
    pub(super) const COUNTED: u64 = 3;
    /// kind, token: what are the totals?
    pub(super) const ASK: u64 = 4;
    /// kind, token, and the totals.
    pub(super) const TOTALS: u64 = 5;
}

/// A train of datagrams that a client asked for.
struct Train {
    to: UdpMetadata,
    token: u64,
    bytes: usize,
    count: u64,
    sent: u64,
    gap_ns: u64,
    begun: Instant,
}

pub(crate) struct Datagrams {
    handle: SocketHandle,
    train: Option<Train>,
}

impl Datagrams {
    pub(crate) fn open(sockets: &mut SocketSet<'_>) -> Self {
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; DATAGRAMS], vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.bind(PORT).expect("the port is free");
        Self { handle: sockets.add(socket), train: None }
    }

    pub(crate) fn serve(&mut self, sockets: &mut SocketSet<'_>, now: Instant, totals: &mut Totals) {
        let socket = sockets.get_mut::<Socket<'_>>(self.handle);
        while let Ok((data, from)) = socket.recv() {
            let mut words = [0; 5];
            for (word, bytes) in words.iter_mut().zip(data.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
            }
            let to = UdpMetadata { local_address: None, meta: Default::default(), ..from };
            match words[0] {
                kind::COUNTED => totals.datagrams_received += 1,
                kind::ASK => answer(socket, to, words[1], totals),
                kind::SEND => {
                    let [_, token, bytes, count, gap_ns] = words;
                    // A question that came twice is one.
                    if count > 0 && self.train.as_ref().is_some_and(|train| train.token == token) {
                        continue;
                    }
                    let bytes = bytes.clamp(24, BYTES_MAX) as usize;
                    self.train = (count > 0).then_some(Train { to, token, bytes, count, sent: 0, gap_ns, begun: now });
                }
                _ => {}
            }
        }
        if let Some(train) = &mut self.train {
            train.send(socket, now, totals);
            if train.sent == train.count {
                self.train = None;
            }
        }
    }
}

impl Train {
    /// Sends those that are due.
    fn send(&mut self, socket: &mut Socket<'_>, now: Instant, totals: &mut Totals) {
        for _ in 0..BURST {
            let due = self.begun + Duration::from_micros(self.sent.saturating_mul(self.gap_ns) / 1000);
            if self.sent == self.count || now < due || !socket.can_send() {
                return;
            }
            let Ok(data) = socket.send(self.bytes, self.to) else { return };
            for (word, place) in [kind::NUMBERED, self.token, self.sent].iter().zip(data.chunks_exact_mut(8)) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            self.sent += 1;
            totals.datagrams_sent += 1;
        }
    }
}

/// Says the totals. Who gets no answer asks again.
fn answer(socket: &mut Socket<'_>, to: UdpMetadata, token: u64, totals: &Totals) {
    let Totals { sent, received, answered, datagrams_sent, datagrams_received } = *totals;
    let words = [kind::TOTALS, token, sent, received, answered, datagrams_sent, datagrams_received];
    if let Ok(data) = socket.send(words.len() * 8, to) {
        for (word, place) in words.iter().zip(data.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}
