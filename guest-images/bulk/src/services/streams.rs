//! Streams: one connection each, from its header to its end.

use smoltcp::socket::tcp::Socket;

use super::Totals;
use crate::pattern::Pattern;
use crate::runtime::fail;

/// A service on TCP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Sends a stream.
    Source,
    /// Takes a stream and compares it.
    Sink,
    /// Answers requests of a fixed size.
    Answer,
}

impl Service {
    /// Where it listens.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Source => 7010,
            Self::Sink => 7011,
            Self::Answer => 7012,
        }
    }

    /// 8-byte words that a client says first.
    fn header_words(self) -> usize {
        match self {
            Self::Source => 2,
            Self::Sink => 1,
            Self::Answer => 3,
        }
    }
}

/// Most bytes of a request or an answer.
const MESSAGE_MAX: u64 = 32 << 10;

/// What is known of a connection after its header.
#[derive(Clone, Copy)]
struct Begun {
    from_client: Pattern,
    to_client: Pattern,
    /// Bytes of the stream that the client asked for.
    count: u64,
    /// Bytes of a request and an answer.
    request: u64,
    answer: u64,
}

/// A connection.
#[derive(Default)]
pub(crate) struct Connection(Option<Begun>);

impl Connection {
    /// Does what can be done now.
    pub(crate) fn serve(&mut self, service: Service, socket: &mut Socket<'_>, totals: &mut Totals) {
        if self.0.is_none() {
            self.0 = begin(service, socket);
        }
        let Some(begun) = &mut self.0 else {
            close_if_over(socket);
            return;
        };
        match service {
            Service::Source => begun.send(socket, totals),
            Service::Sink => begun.receive(socket, totals),
            Service::Answer => begun.answer(socket, totals),
        }
        close_if_over(socket);
    }
}

/// The client has said all: so have we, once what was said is read.
fn close_if_over(socket: &mut Socket<'_>) {
    if !socket.may_recv() && !socket.can_recv() && socket.may_send() && socket.is_active() {
        socket.close();
    }
}

/// Reads the header, once all of it is there.
fn begin(service: Service, socket: &mut Socket<'_>) -> Option<Begun> {
    let mut bytes = [0; 24];
    let bytes = &mut bytes[..service.header_words() * 8];
    if socket.recv_queue() < bytes.len() || socket.recv_slice(bytes).is_err() {
        return None;
    }
    let word = |at: usize| {
        bytes.get(at * 8..at * 8 + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
    };
    let seed = word(0);
    let count = if word(1) == 0 { u64::MAX } else { word(1) };
    let (request, answer) = (word(1).clamp(1, MESSAGE_MAX), word(2).clamp(1, MESSAGE_MAX));
    Some(Begun { from_client: Pattern::new(seed), to_client: Pattern::new(!seed), count, request, answer })
}

impl Begun {
    /// Puts as much of the stream into the socket as it takes.
    fn send(&mut self, socket: &mut Socket<'_>, totals: &mut Totals) {
        // Twice: the free part of a ring may be in two pieces.
        for _ in 0..2 {
            let left = self.count - self.to_client.at();
            if !socket.can_send() || left == 0 {
                return;
            }
            let put = socket.send(|room| {
                let len = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.to_client.fill(&mut room[..len]);
                (len, len)
            });
            totals.sent += put.unwrap_or(0) as u64;
        }
    }

    /// Takes what came, and compares it.
    fn receive(&mut self, socket: &mut Socket<'_>, totals: &mut Totals) {
        while socket.can_recv() {
            let taken = socket.recv(|data| {
                compare(&mut self.from_client, data);
                (data.len(), data.len())
            });
            totals.received += taken.unwrap_or(0) as u64;
        }
    }

    /// Answers every request that is there as a whole and for whose answer there is room.
    fn answer(&mut self, socket: &mut Socket<'_>, totals: &mut Totals) {
        while socket.recv_queue() as u64 >= self.request
            && (socket.send_capacity() - socket.send_queue()) as u64 >= self.answer
        {
            self.take_request(socket);
            let mut left = self.answer as usize;
            while left > 0 {
                let put = socket.send(|room| {
                    let len = room.len().min(left);
                    self.to_client.fill(&mut room[..len]);
                    (len, len)
                });
                match put {
                    Ok(put) if put > 0 => left -= put,
                    _ => return,
                }
            }
            totals.answered += 1;
        }
    }

    fn take_request(&mut self, socket: &mut Socket<'_>) {
        let mut left = self.request as usize;
        while left > 0 {
            let taken = socket.recv(|data| {
                let len = data.len().min(left);
                compare(&mut self.from_client, &data[..len]);
                (len, len)
            });
            left -= taken.expect("the whole request is there");
        }
    }
}

fn compare(pattern: &mut Pattern, data: &[u8]) {
    let at = pattern.at();
    if !pattern.fits(data) {
        fail(c"CORRUPT stream at=", at);
    }
}
