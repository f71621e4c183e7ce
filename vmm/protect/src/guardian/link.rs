//! The link thread: finds the backup, reads what it says, and keeps the core's time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_api::Occurrence;
use replication::primary::PrimaryState;
use replication::{FrameDecoder, SessionId, VmId};

use super::{Guardian, LOOK_AROUND, STALL_DETECTS};
use crate::transport::{Connection, Endpoint, ReadHalf, ReadOutcome, Sender};
use crate::witness::random;
use machine::allocations;
use machine::stats::Work;

/// Between two attempts to reach a backup.
const CONNECT_RETRY: Duration = Duration::from_millis(500);

impl Guardian {
    /// Connects, reads and keeps time until the machine is finished. The body of the link thread.
    pub(super) fn run_link(self: &Arc<Self>) {
        while !self.is_finished() {
            match self.target() {
                Some(target) => self.serve_target(&target),
                None => {
                    self.wait_for_target();
                    self.tick();
                }
            }
        }
    }

    /// The backup to connect to now, if one is wanted.
    fn target(&self) -> Option<Endpoint> {
        let inner = self.lock();
        if inner.pipeline.core().wants_connection() && self.machine.ended().is_none() {
            inner.target.clone()
        } else {
            None
        }
    }

    fn tick(&self) {
        self.note_left();
        self.note_machine();
        self.with_pipeline(|pipeline, now| {
            if pipeline.poll_timeout().is_some_and(|at| at <= now) {
                pipeline.handle_timeout(now);
            }
        });
    }

    fn serve_target(self: &Arc<Self>, target: &Endpoint) {
        match target.transport().connect() {
            Ok(connection) => self.serve(connection, target),
            Err(error) => {
                self.note_trouble(&error.to_string(), |target, error| Occurrence::BackupUnreachable { target, error })
            }
        }
        self.rest();
    }

    /// Between two attempts. Changes of the core wake it; they do not make the next attempt come sooner.
    fn rest(&self) {
        let until = Instant::now() + CONNECT_RETRY;
        while Instant::now() < until && !self.is_finished() {
            self.wait_for_change();
            self.tick();
        }
    }

    /// One event for each new reason, not one for each attempt.
    fn note_trouble(&self, error: &str, occurrence: fn(Option<String>, String) -> Occurrence) {
        let mut inner = self.lock();
        let target = inner.target.as_ref().map(ToString::to_string);
        if inner.connect_error.replace(error.to_owned()).as_deref() == Some(error) {
            return;
        }
        drop(inner);
        tracing::warn!(target, error, "no protection by this backup; trying again");
        self.note(occurrence(target, error.to_owned()));
    }

    fn serve(self: &Arc<Self>, Connection { reader, writer, line }: Connection, target: &Endpoint) {
        let session = SessionId(random());
        let greeting = match self.lease.greeting() {
            Ok(greeting) => greeting,
            Err(error) => {
                return self.note_trouble(&error.to_string(), |target, error| Occurrence::WitnessAway {
                    witness: None,
                    target,
                    error: Some(error),
                });
            }
        };
        let connection = self.with_inner(|inner, now| {
            // The operator may have said otherwise while the connection was being made.
            if inner.target.as_ref() != Some(target) {
                return None;
            }
            let connection = inner.pipeline.handle_connected(now, session, greeting)?;
            inner.stream = Some((connection, Sender::new(writer, line)));
            Some(connection)
        });
        let Some(connection) = connection else { return };
        self.read_frames(reader);
        self.disconnect(connection);
        self.with_core(|core, now| core.handle_disconnected(now));
    }

    fn read_frames(&self, mut reader: Box<dyn ReadHalf>) {
        let mut decoder = FrameDecoder::new(VmId::of_name(&self.config.vm_name));
        let mut bytes = vec![0; 64 * 1024];
        let (mut parting, mut heard) = (None, Instant::now());
        while !self.is_finished() && !self.is_left_hanging(&mut parting, heard) {
            let wait = self.clock.until(self.lock().pipeline.poll_timeout(), LOOK_AROUND);
            match reader.read_within(&mut bytes, wait) {
                Ok(ReadOutcome::Bytes(count)) => {
                    heard = Instant::now();
                    let allocations = allocations::so_far();
                    let goes_on = self.take_bytes(&mut decoder, &bytes[..count]);
                    self.machine.stats().count_work(Work::LinkAllocations, allocations::so_far() - allocations);
                    if !goes_on {
                        return;
                    }
                }
                Ok(ReadOutcome::Nothing) => {}
                Ok(ReadOutcome::End) | Err(_) => return,
            }
            self.tick();
        }
    }

    /// After the goodbye: whether the backup has had its time to close the connection. One that is heard is busy with what came
    /// before the goodbye; were the connection closed here, the host could throw away what it has not sent yet.
    fn is_left_hanging(&self, parting: &mut Option<Instant>, heard: Instant) -> bool {
        if !matches!(self.state(), PrimaryState::Solo | PrimaryState::Ended) {
            return false;
        }
        let (since, detect) = (*parting.get_or_insert_with(Instant::now), self.config.detect);
        heard.max(since).elapsed() > detect || since.elapsed() > detect * STALL_DETECTS
    }

    fn take_bytes(&self, decoder: &mut FrameDecoder, bytes: &[u8]) -> bool {
        decoder.handle_bytes(bytes);
        self.with_core(|core, now| core.handle_alive(now));
        loop {
            match decoder.poll_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.with_core(|core, now| core.handle_frame(now, frame)) {
                        self.note_trouble(&error.to_string(), peer_error);
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(error) => {
                    self.note_trouble(&error.to_string(), peer_error);
                    self.with_core(|core, now| core.handle_broken_stream(now));
                    return false;
                }
            }
        }
    }
}

fn peer_error(target: Option<String>, error: String) -> Occurrence {
    Occurrence::PeerError { target, error: Some(error), reason: None }
}
