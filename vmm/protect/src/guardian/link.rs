//! The link thread: finds the backup, reads what it says, and keeps the core's time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outlast_api::Occurrence;
use replication::primary::{PeerId, PrimaryState};
use replication::view::Greeting;
use replication::{FrameDecoder, SessionId, VmId};

use super::{Guardian, Inner, STALL_DETECTS};
use crate::transport::{Connection, Endpoint, ReadHalf, ReadOutcome, Sender};
use crate::witness::random;
use machine::allocations;
use machine::stats::Work;
use machine::thread::try_spawn;

/// Between two attempts to reach a backup.
const CONNECT_RETRY: Duration = Duration::from_millis(500);
/// How long one read lasts. The pipeline's time may come sooner than it was when the read began, and only the socket ends a read: to wait
/// for another thread as well costs one more system call for each ack. Heartbeats are due as often.
const HEAR_TIME_MAX: Duration = Duration::from_millis(50);

/// How the attempt to reach a backup went, and what the witness gave to greet it with.
pub(super) type Arrival = io::Result<(Connection, io::Result<Option<Greeting>>)>;

impl Guardian {
    /// Connects, reads and keeps time until the machine is finished. The body of the link thread.
    pub(super) fn run_link(self: &Arc<Self>) {
        while !self.is_finished() {
            let wanted = self.wanted(&self.lock());
            match wanted {
                Some(target) => self.serve_target(&target),
                None => self.keep_time_until(None, |inner| self.wanted(inner).is_some()),
            }
        }
    }

    /// The backup to connect to now, if one is wanted.
    fn wanted(&self, inner: &Inner) -> Option<Endpoint> {
        let is_wanted = inner.pipeline.core().wants_connection(PeerId::FIRST) && self.machine.ended().is_none();
        inner.target.clone().filter(|_| is_wanted)
    }

    fn serve_target(self: &Arc<Self>, target: &Endpoint) {
        match self.connect(target) {
            Some(Ok((connection, greeting))) => self.serve(connection, greeting, target),
            Some(Err(error)) => {
                self.note_trouble(&error.to_string(), |target, error| Occurrence::BackupUnreachable { target, error });
            }
            None => return,
        }
        // Changes of the core do not make the next attempt come sooner.
        self.keep_time_until(Some(self.clock.now().after(CONNECT_RETRY)), |_| false);
    }

    /// Reaches the backup, and asks the witness what to greet it with, on a thread of its own: names, networks, peers and witnesses may
    /// take their time, and this one keeps time. None: the guardian is finished.
    fn connect(self: &Arc<Self>, target: &Endpoint) -> Option<Arrival> {
        let (guardian, target) = (Arc::clone(self), target.clone());
        let started = try_spawn("ft-connect".into(), move || {
            let connected = target.connect(guardian.config.credentials.as_ref());
            let arrival = connected.map(|connection| (connection, guardian.registrant.greeting()));
            guardian.heard_of_witness();
            guardian.lock().arrival = Some(arrival);
            guardian.changed.notify_all();
        });
        if let Err(error) = started {
            return Some(Err(error));
        }
        self.keep_time_until(None, |inner| inner.arrival.is_some());
        self.lock().arrival.take()
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

    fn serve(
        self: &Arc<Self>,
        Connection { reader, writer, line }: Connection,
        greeting: io::Result<Option<Greeting>>,
        target: &Endpoint,
    ) {
        let session = SessionId(random());
        let greeting = match greeting {
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
            let connection = inner.pipeline.handle_connected(now, PeerId::FIRST, session, greeting)?;
            inner.stream = Some((connection, Sender::new(writer, line)));
            Some(connection)
        });
        let Some(connection) = connection else { return };
        self.read_frames(reader);
        self.disconnect(connection);
        self.with_core(|core, now| core.handle_disconnected(now, PeerId::FIRST));
    }

    fn read_frames(&self, mut reader: Box<dyn ReadHalf>) {
        let mut decoder = FrameDecoder::new(VmId::of_name(&self.config.vm_name));
        let mut bytes = vec![0; 64 * 1024];
        let (mut parting, mut heard) = (None, Instant::now());
        while !self.is_finished() && !self.is_left_hanging(&mut parting, heard) {
            let at = self.lock().pipeline.tick_at();
            let wait = at.map_or(HEAR_TIME_MAX, |at| self.clock.until(at).min(HEAR_TIME_MAX));
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
                Ok(ReadOutcome::End) => return,
                // A peer that dies, or whose network does, is for the core; one that says what it cannot have said is told of.
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.note_trouble(&error.to_string(), peer_error);
                    }
                    return;
                }
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
        self.with_core(|core, now| core.handle_alive(now, PeerId::FIRST));
        loop {
            match decoder.poll_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.with_core(|core, now| core.handle_frame(now, PeerId::FIRST, frame)) {
                        self.note_trouble(&error.to_string(), peer_error);
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(error) => {
                    self.note_trouble(&error.to_string(), peer_error);
                    self.with_core(|core, now| core.handle_broken_stream(now, PeerId::FIRST));
                    return false;
                }
            }
        }
    }
}

fn peer_error(target: Option<String>, error: String) -> Occurrence {
    Occurrence::PeerError { target, error: Some(error), reason: None }
}
