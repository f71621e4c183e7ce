//! A primary's connection to its backup.

use replication::SessionId;
use replication::primary::PeerId;
use replication::wire::Kind;

use super::PrimaryNode;
use crate::env::{Crashed, Env};
use crate::net::Stream;
use crate::plan::Break;

impl PrimaryNode {
    /// The connection stands.
    pub fn handle_connected(&mut self, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&env.rng.u64().to_le_bytes());
        env.say(|| format!("host {} connects, session {}", self.id.host, SessionId(session)));
        let greeting = env.witness.greeting(self.id);
        match self.pipeline.handle_connected(env.time(), PeerId::FIRST, SessionId(session), greeting) {
            Some(number) => (self.stream, self.number) = (Some(Stream::new(connection)), number),
            None => env.close(connection, self.id.host),
        }
        self.pump(env)
    }

    /// The connection ended.
    pub fn handle_disconnected(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.stream = None;
        let now = env.time();
        self.pipeline.with(now, |core| core.handle_disconnected(now, PeerId::FIRST));
        self.pump(env)
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8], env: &mut Env) -> Result<(), Crashed> {
        let now = env.time();
        self.pipeline.with(now, |core| core.handle_alive(now, PeerId::FIRST));
        if let Some(stream) = &mut self.stream {
            stream.decoder.handle_bytes(bytes);
        }
        while let Some(stream) = &mut self.stream {
            match stream.decoder.poll_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => drop(self.pipeline.with(now, |core| core.handle_frame(now, PeerId::FIRST, frame))),
                Err(error) => {
                    env.say(|| format!("host {}: {error}", self.id.host));
                    self.pipeline.with(now, |core| core.handle_broken_stream(now, PeerId::FIRST));
                    return self.pump(env);
                }
            }
            self.pump(env)?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, connection: u64, frames: Vec<u8>, env: &mut Env) {
        if Kind::of_frame(&frames) == Some(Kind::Goodbye) && env.plan.broken == Some(Break::ShipOn) {
            return;
        }
        if let Some(stream) = self.stream.as_ref().filter(|_| self.number == connection) {
            env.send(stream.connection, self.id.host, frames);
        }
    }

    pub(super) fn close(&mut self, connection: u64, env: &mut Env) {
        if let Some(stream) = self.stream.take_if(|_| self.number == connection) {
            env.close(stream.connection, self.id.host);
        }
    }
}
