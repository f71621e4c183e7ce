//! A primary's connections to its backups.

use replication::SessionId;
use replication::primary::PeerId;
use replication::wire::{Frame, Kind};

use super::PrimaryNode;
use crate::env::{Crashed, Env};
use crate::net::Stream;
use crate::plan::Break;

impl PrimaryNode {
    /// The connection to a backup stands.
    pub fn handle_connected(&mut self, peer: PeerId, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&env.rng.u64().to_le_bytes());
        env.say(|| format!("host {} connects, session {}", self.id.host, SessionId(session)));
        let greeting = env.witness.greeting(self.id);
        match self.pipeline.handle_connected(env.time(), peer, SessionId(session), greeting) {
            Some(number) => drop(self.streams.insert(peer, (Stream::new(connection), number))),
            None => env.close(connection, self.id.host),
        }
        self.pump(env)
    }

    /// Whether it holds a connection to that backup.
    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.streams.contains_key(&peer)
    }

    /// The connections that it holds.
    pub fn connections(&self) -> impl Iterator<Item = u64> {
        self.streams.values().map(|(stream, _)| stream.connection)
    }

    /// To whom a connection is that it holds.
    fn peer_at(&self, connection: u64) -> Option<PeerId> {
        self.streams.iter().find(|(_, (stream, _))| stream.connection == connection).map(|(peer, _)| *peer)
    }

    /// A connection ended.
    pub fn handle_disconnected(&mut self, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        let Some(peer) = self.peer_at(connection) else { return Ok(()) };
        self.streams.remove(&peer);
        let now = env.time();
        self.pipeline.with(now, |core| core.handle_disconnected(now, peer));
        self.pump(env)
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, connection: u64, bytes: &[u8], env: &mut Env) -> Result<(), Crashed> {
        let Some(peer) = self.peer_at(connection) else { return Ok(()) };
        let now = env.time();
        self.pipeline.with(now, |core| core.handle_alive(now, peer));
        if let Some((stream, _)) = self.streams.get_mut(&peer) {
            stream.decoder.handle_bytes(bytes);
        }
        while let Some((stream, _)) = self.streams.get_mut(&peer) {
            match stream.decoder.poll_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    self.break_ack(&frame, env);
                    drop(self.pipeline.with(now, |core| core.handle_frame(now, peer, frame)));
                }
                Err(error) => {
                    env.say(|| format!("host {}: {error}", self.id.host));
                    self.pipeline.with(now, |core| core.handle_broken_stream(now, peer));
                    return self.pump(env);
                }
            }
            self.pump(env)?;
        }
        Ok(())
    }

    /// Broken: what one says to have every other one is taken to have.
    fn break_ack(&mut self, frame: &Frame, env: &mut Env) {
        if env.plan.broken != Some(Break::AckForAll) || frame.kind != Kind::Ack {
            return;
        }
        let (now, others) = (env.time(), self.streams.keys().copied().collect::<Vec<_>>());
        for other in others {
            let Some(link) = self.core().link(other).filter(|link| link.session != frame.link.session) else {
                continue;
            };
            let said = Frame { link, ..frame.clone() };
            drop(self.pipeline.with(now, |core| core.handle_frame(now, other, said)));
        }
    }

    pub(super) fn send(&mut self, connection: u64, frames: Vec<u8>, env: &mut Env) {
        if Kind::of_frame(&frames) == Some(Kind::Goodbye) && env.plan.broken == Some(Break::ShipOn) {
            return;
        }
        if let Some((stream, _)) = self.streams.values().find(|(_, number)| *number == connection) {
            env.send(stream.connection, self.id.host, frames);
        }
    }

    pub(super) fn close(&mut self, connection: u64, env: &mut Env) {
        let peer = self.streams.iter().find(|(_, (_, number))| *number == connection).map(|(peer, _)| *peer);
        if let Some((stream, _)) = peer.and_then(|peer| self.streams.remove(&peer)) {
            env.close(stream.connection, self.id.host);
        }
    }
}
