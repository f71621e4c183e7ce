//! What happens on the links: connections are made, pieces arrive, and strangers come.

use replication::primary::PeerId;
use replication::view::{Greeting, Nonce};
use replication::wire::{Hello, Link, Message, RefuseCode};
use replication::{EpochId, FrameDecoder, SessionId, Term, VmId};

use super::*;
use crate::fault::Stranger;
use crate::machines::incarnation;
use crate::plan::machine;

impl World {
    pub(super) fn connect(&mut self, id: HostId) {
        if !self.is_current(id) {
            return;
        }
        self.env.after(5 * MS, Event::Connect(id));
        for (peer, target) in self.peers_of(id.host) {
            self.connect_to(id, peer, target);
        }
    }

    /// Whom the primary on a host is to connect to: by number, and where.
    fn peers_of(&self, host: usize) -> Vec<(PeerId, usize)> {
        if !self.env.plan.has_several {
            return vec![(PeerId::FIRST, self.targets[host])];
        }
        let others = (0..HOSTS).filter(|other| *other != host);
        others.map(|other| (PeerId(other as u8), other)).collect()
    }

    fn connect_to(&mut self, id: HostId, number: PeerId, peer: usize) {
        let host = id.host;
        let Role::Primary(node) = &self.hosts[host].role else { return };
        let Role::Backup(other) = &self.hosts[peer].role else { return };
        let is_reached = self.env.net.passes(Some(host), Some(peer)) && self.env.net.passes(Some(peer), Some(host));
        if !node.core().wants_connection(number) || node.is_connected(number) || self.env.is_paused(peer) || !is_reached
        {
            return;
        }
        let is_busy = other.stream.is_some();
        let connection = self.env.net.open(Some(host), Some(peer));
        match is_busy {
            true => self.refuse(peer, connection),
            false => self.called(peer, connection),
        }
        let result = self.primary(id, |node, env| node.handle_connected(number, connection, env));
        self.settle(host, result);
    }

    /// A backup has one connection at a time.
    fn refuse(&mut self, host: usize, connection: u64) {
        let Role::Backup(node) = &self.hosts[host].role else { return };
        let refusal = node.core().refusal(RefuseCode::Busy, "another primary is connected");
        self.env.send(connection, host, refusal);
        self.env.close(connection, host);
    }

    fn called(&mut self, host: usize, connection: u64) {
        let id = HostId { host, life: self.hosts[host].life };
        let result = self.backup(id, |node, env| node.handle_connected(connection, env));
        self.settle(host, result);
    }

    /// A piece of a stream came to the end of its way. A cut keeps it there.
    pub(super) fn arrive(&mut self, connection: u64, side: usize, piece: Piece) {
        let Some(connected) = self.env.net.connection(connection) else { return };
        connected.pipes[side].stalled.push_back(piece);
        self.flush(connection, side);
    }

    pub(super) fn flush_all(&mut self) {
        for connection in self.env.net.ids() {
            self.flush(connection, 0);
            self.flush(connection, 1);
        }
    }

    fn flush(&mut self, connection: u64, side: usize) {
        loop {
            let Some(to) = self.env.net.receiver(connection, side) else { return };
            let from = self.env.net.receiver(connection, 1 - side).expect("it was there one line above");
            let is_paused = to.is_some_and(|host| self.env.is_paused(host));
            if !self.env.net.passes(from, to) || is_paused {
                return;
            }
            let now = self.env.now;
            let connected = self.env.net.connection(connection).expect("it was there two lines above");
            if connected.pipes[side].lags_until > now {
                return;
            }
            let Some(piece) = connected.pipes[side].stalled.pop_front() else { return };
            let Some(host) = to else { continue };
            let id = HostId { host, life: self.hosts[host].life };
            let result = self.take_piece(id, connection, &piece);
            self.settle(host, result);
        }
    }

    fn take_piece(&mut self, id: HostId, connection: u64, piece: &Piece) -> Result<(), Crashed> {
        let open: Vec<u64> = match &self.hosts[id.host].role {
            Role::Primary(node) => node.connections().collect(),
            Role::Backup(node) => node.stream.iter().map(|stream| stream.connection).collect(),
            Role::Starting(_) | Role::Down(_) => Vec::new(),
        };
        let (newest, is_open) = (open.iter().max().copied(), open.contains(&connection));
        let is_old = newest.is_some_and(|newest| newest > connection) && !is_open;
        match piece {
            Piece::Bytes(bytes) if is_old && self.env.plan.broken == Some(Break::OldBytes) => {
                let bytes = self.as_of_now(bytes);
                let newest = newest.expect("one is newer than this");
                self.primary(id, |node, env| node.handle_bytes(newest, &bytes, env))?;
                self.backup(id, |node, env| node.handle_piece(&Piece::Bytes(bytes), env))
            }
            _ if !is_open => Ok(()),
            Piece::Bytes(bytes) => {
                self.primary(id, |node, env| node.handle_bytes(connection, bytes, env))?;
                self.backup(id, |node, env| node.handle_piece(piece, env))
            }
            Piece::End => {
                self.primary(id, |node, env| node.handle_disconnected(connection, env))?;
                self.backup(id, |node, env| node.handle_piece(piece, env))
            }
        }
    }

    /// Broken: what was said on an earlier connection, as if it were said in the session of now.
    fn as_of_now(&self, bytes: &[u8]) -> Vec<u8> {
        let link = self.hosts.iter().find_map(|host| match &host.role {
            Role::Primary(node) => node.core().link(PeerId::FIRST),
            _ => None,
        });
        let Some(link) = link else { return Vec::new() };
        let mut decoder = FrameDecoder::new(VmId::of_name("toy"));
        decoder.handle_bytes(bytes);
        let mut said = Vec::new();
        while let Ok(Some(frame)) = decoder.poll_frame() {
            let epoch = frame.epoch;
            said.extend(frame.into_message().into_iter().flat_map(|message| message.to_frame(&link, epoch)));
        }
        said
    }

    /// The connections between hosts are reset; who is told.
    pub(super) fn reset(&mut self, told: impl Fn(usize) -> bool) {
        for connection in self.env.net.ids() {
            for side in 0..2 {
                let from = self.env.net.receiver(connection, 1 - side).flatten();
                let to = self.env.net.receiver(connection, side).flatten();
                if from.is_some() && to.is_some_and(&told) {
                    self.env.carry_end(connection, from);
                }
            }
        }
    }

    /// Somebody connects to a backup. One that is busy sends it away.
    pub(super) fn meet_stranger(&mut self, host: usize, who: Stranger) {
        let Role::Backup(node) = &self.hosts[host].role else { return };
        if self.env.is_paused(host) {
            return;
        }
        let is_busy = node.stream.is_some();
        let bytes = self.words_of(host, who);
        let connection = self.env.net.open(None, Some(host));
        if is_busy && self.env.plan.broken == Some(Break::StrangerWins) {
            let id = HostId { host, life: self.hosts[host].life };
            let result = self.backup(id, |node, env| node.handle_disconnected(env));
            self.settle(host, result);
            self.called(host, connection);
        } else if is_busy {
            return self.refuse(host, connection);
        } else {
            self.called(host, connection);
        }
        if !bytes.is_empty() {
            self.env.carry(connection, None, bytes);
        }
    }

    fn words_of(&mut self, host: usize, who: Stranger) -> Vec<u8> {
        let session = SessionId(u128::from(self.env.rng.u64()).to_le_bytes());
        let hello = |vm: VmId, vm_name: &str, term, register| {
            let hello = Hello {
                register,
                writer: "stranger".to_owned(),
                vm_name: vm_name.to_owned(),
                durable: true,
                machine: machine(),
            };
            Message::Hello(hello).to_frame(&Link { vm, session, term: Term(term) }, EpochId(0))
        };
        match who {
            Stranger::Silent => Vec::new(),
            Stranger::Garbage => (0..self.env.rng.range(1, 200)).map(|_| self.env.rng.u64() as u8).collect(),
            Stranger::OtherVm if self.env.rng.percent(50) => hello(VmId::of_name("other"), "other", 1, None),
            Stranger::OtherVm => hello(VmId::of_name("toy"), "other", 1, None),
            Stranger::Primary { term, is_met } => {
                let nonce = if is_met { self.env.witness.leave(host) } else { Nonce([0xee; 16]) };
                let known = self.env.witness.known();
                let primary = incarnation(HostId { host, life: u32::MAX });
                let greeting = known.map(|known| Greeting { known, primary, nonce });
                hello(VmId::of_name("toy"), "toy", term, greeting)
            }
            Stranger::Replay { back } => self.env.net.recorded(back),
        }
    }
}
