//! A backup's connection to its primary: what comes on it, and when it is read.

use replication::wire::{Ack, Kind, Message};
use replication::{ChainHash, EpochId, Frame};

use super::BackupNode;
use crate::env::{Crashed, Env, Piece};
use crate::net::Stream;
use crate::plan::Break;

impl BackupNode {
    /// A connection stands.
    pub fn handle_connected(&mut self, connection: u64, env: &mut Env) -> Result<(), Crashed> {
        self.stream = Some(Stream::new(connection));
        self.pipeline.handle_connected(env.time());
        self.pump(env)
    }

    /// The connection ended, and nobody says so.
    pub fn handle_disconnected(&mut self, env: &mut Env) -> Result<(), Crashed> {
        self.stream = None;
        self.unread.clear();
        self.pipeline.handle_disconnected(env.time());
        self.pump(env)
    }

    /// Something arrived.
    pub fn handle_piece(&mut self, piece: &Piece, env: &mut Env) -> Result<(), Crashed> {
        self.unread.push_back(piece.clone());
        self.read(env)
    }

    /// Gives the pipeline what arrived, while the loop is free and it is to be read. There is no loop any more where the guest is to run.
    pub(super) fn read(&mut self, env: &mut Env) -> Result<(), Crashed> {
        while self.applying.is_none() && self.inheritance.is_none() {
            let Some(stream) = &mut self.stream else {
                self.unread.clear();
                return Ok(());
            };
            match stream.decoder.poll_frame() {
                Ok(Some(frame)) => self.take_frame(frame, env),
                Ok(None) if !self.pipeline.wants_bytes(env.time()) => return Ok(()),
                Ok(None) => match self.unread.pop_front() {
                    Some(Piece::Bytes(bytes)) => {
                        stream.decoder.handle_bytes(&bytes);
                        self.pipeline.handle_alive(env.time());
                    }
                    Some(Piece::End) => {
                        self.stream = None;
                        self.pipeline.handle_disconnected(env.time());
                    }
                    None => return Ok(()),
                },
                Err(error) => {
                    env.say(|| format!("host {}: {error}", self.id.host));
                    self.pipeline.handle_broken_stream(env.time(), &error);
                }
            }
            self.pump(env)?;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: Frame, env: &mut Env) {
        if env.plan.broken == Some(Break::AckBeforeComplete)
            && let Ok(Message::EpochEnd(end)) = frame.clone().into_message()
        {
            let ack = Message::Ack(Ack { complete: frame.epoch, chain: end.chain });
            self.send(ack.to_frame(&frame.link, EpochId(0)), env);
        }
        self.pipeline.handle_frame(env.time(), frame);
    }

    pub(super) fn send(&mut self, mut bytes: Vec<u8>, env: &mut Env) {
        if Kind::of_frame(&bytes) == Some(Kind::Ack) {
            if std::mem::take(&mut env.mute[self.id.host]) {
                self.mute = self.core().session_id();
            }
            if self.mute.is_some() && self.mute == self.core().session_id() {
                return;
            }
            if env.plan.broken == Some(Break::AckOfOtherLine) {
                bytes = of_other_line(&bytes);
            }
        }
        if let Some(stream) = &self.stream {
            env.send(stream.connection, self.id.host, bytes);
        }
    }
}

/// An ack with another chain hash.
fn of_other_line(ack: &[u8]) -> Vec<u8> {
    let mut decoder = Stream::new(0).decoder;
    decoder.handle_bytes(ack);
    let frame = decoder.poll_frame().ok().flatten().expect("a frame of our own is one");
    let (link, Ok(Message::Ack(ack))) = (frame.link, frame.into_message()) else { unreachable!("it is an ack") };
    Message::Ack(Ack { chain: ChainHash::default(), ..ack }).to_frame(&link, EpochId(0))
}
