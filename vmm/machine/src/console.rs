//! The path to the console: a separate thread writes, so that a reader that stops holds up the guest and nothing else.
//!
//! A terminal that is held (Ctrl-S) or a pipe that nobody reads blocks its writer. Releases happen in the thread that
//! hears the backup's acks: blocked there, heartbeats and frames would stop too, and the backup take over.
//!
//! ```text
//!   emit ──▶ held for its epoch ──release──▶ buffer ──writer thread──▶ terminal, pipe, file
//!     │                                                    │
//!     └── backlog: produced and not written ◀──────────────┘   at CONSOLE_BACKLOG_BYTES the guest waits
//! ```
//!
//! Nothing is dropped, unless the sink itself refuses it; then [`Console::health`] says so. Bytes in the buffer of a
//! process that dies are lost: so they count as left only when they are written ([`Console::written`]), and until then
//! the side that continues the guest emits them again.

use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::stats::Stats;
use crate::thread::spawn;
use crate::watcher::Watcher;

/// Console bytes produced and not written yet at which the guest waits: held ones and buffered ones together. More only
/// by what one exit of each vCPU produces, and by what a takeover emits again.
pub const CONSOLE_BACKLOG_BYTES: usize = 64 << 10;
/// Bytes of one write: so much at a time is given up when the sink refuses.
const WRITE_BYTES: usize = 4096;
/// How long a release waits for the writer. Below any detection time, and waited once, not for each release.
const GRACE: Duration = Duration::from_millis(20);
/// Before a sink that is not ready is tried again.
const NOT_READY_WAIT: Duration = Duration::from_millis(5);

/// Where the console's bytes go.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backlog: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    /// Told when bytes were written.
    watcher: Watcher,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// Bytes handed over and not written: the buffer, and what the writer has in its hands.
    unwritten: usize,
    /// Bytes written since the beginning, or given up.
    written: u64,
    /// A wait for the writer was in vain, and it has not caught up since.
    stuck: bool,
    /// When the sink took something last, or had nothing to take.
    moved: Option<Instant>,
    /// Bytes that the sink refused since the beginning.
    lost_bytes: u64,
    /// Why it refused the last ones; none if it has taken some since.
    refusal: Option<String>,
    closed: bool,
}

/// How a console takes what is written to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// For how long it has taken nothing although something waits.
    pub stopped_for: Duration,
    /// Bytes that wait.
    pub waiting_bytes: usize,
    /// Bytes that it refused since the beginning: what it shows has gaps.
    pub lost_bytes: Option<NonZeroU64>,
    /// Why it refuses them now, if it does.
    pub refusal: Option<String>,
}

impl Console {
    /// Starts the thread that writes to `sink`.
    pub fn new(sink: Box<dyn Write + Send>, stats: Arc<Stats>) -> Self {
        let shared = Arc::new(Shared {
            backlog: AtomicUsize::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            watcher: Watcher::default(),
        });
        let writer = Arc::clone(&shared);
        spawn("console-out".into(), move || writer.write_all(sink, &stats));
        Self { shared }
    }

    /// Has `told` called from now on whenever bytes were written, or given up, by the thread that did it.
    pub fn watch(&self, told: impl Fn() + Send + Sync + 'static) {
        self.shared.watcher.set(told);
    }

    /// The guest produced `bytes` bytes, which are handed over now or when their epoch is released.
    pub fn note_produced(&self, bytes: usize) {
        self.shared.backlog.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Hands over bytes that were noted. Never waits.
    pub fn hand_over(&self, bytes: &[u8]) {
        let mut state = self.shared.lock();
        if state.unwritten == 0 {
            state.moved = Some(Instant::now());
        }
        state.buffer.extend_from_slice(bytes);
        state.unwritten += bytes.len();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Bytes handed over since the beginning.
    pub fn handed_over(&self) -> u64 {
        let state = self.shared.lock();
        state.written + state.unwritten as u64
    }

    /// How many of them are written, or were refused by the sink.
    pub fn written(&self) -> u64 {
        self.shared.lock().written
    }

    /// How the sink takes what is written to it.
    pub fn health(&self) -> Health {
        let state = self.shared.lock();
        let since = state.moved.filter(|_| state.unwritten > 0);
        Health {
            stopped_for: since.map_or(Duration::ZERO, |since| since.elapsed()),
            waiting_bytes: state.unwritten,
            lost_bytes: NonZeroU64::new(state.lost_bytes),
            refusal: state.refusal.clone(),
        }
    }

    /// Whether the guest must wait.
    pub fn is_full(&self) -> bool {
        self.shared.backlog.load(Ordering::Acquire) >= CONSOLE_BACKLOG_BYTES
    }

    /// Waits until the guest need not wait any more, at most for `time`.
    pub fn wait_for_room(&self, time: Duration) {
        self.shared.wait_until(time, |_| !self.is_full());
    }

    /// Waits a moment until everything handed over is written. Not at all while the sink is known to be stuck.
    pub fn settle(&self) {
        if !self.shared.wait_until(GRACE, |state| state.unwritten == 0 || state.stuck) {
            self.shared.lock().stuck = true;
            tracing::debug!("the console takes nothing; it is waited for only at the guest's end");
        }
    }

    /// Waits at most `time` until everything handed over is written; gives how many bytes are not.
    pub fn drain(&self, time: Duration) -> usize {
        self.shared.wait_until(time, |state| state.unwritten == 0);
        self.shared.lock().unwritten
    }
}

impl Drop for Console {
    /// The writer ends when it has written what was handed over.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the console's buffer panics")
    }

    /// Waits until `holds`, at most for `time`; false if it did not come to that.
    fn wait_until(&self, time: Duration, holds: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.lock();
        while !holds(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).expect("no holder of the console's buffer panics").0;
        }
        true
    }

    /// Waits for bytes; `None` when no more will come.
    fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        while state.buffer.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).expect("no holder of the console's buffer panics");
        }
        Some(std::mem::take(&mut state.buffer))
    }

    /// The body of the writer thread.
    fn write_all(&self, mut sink: Box<dyn Write + Send>, stats: &Stats) {
        while let Some(bytes) = self.take() {
            for piece in bytes.chunks(WRITE_BYTES) {
                let mut left = piece;
                let result = self.write_piece(&mut *sink, &mut left);
                if result.is_err() {
                    stats.output_lost();
                }
                self.written(piece.len(), left.len(), result.err().map(|error| error.to_string()));
            }
        }
    }

    /// Writes `left`, which is what could not be written after an error.
    fn write_piece(&self, sink: &mut dyn Write, left: &mut &[u8]) -> io::Result<()> {
        while !left.is_empty() {
            match sink.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => *left = &left[count..],
                Err(error) => self.wait_if_not_ready(error)?,
            }
        }
        loop {
            match sink.flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.wait_if_not_ready(error)?,
            }
        }
    }

    /// A terminal that another program made non-blocking says so instead of making us wait.
    fn wait_if_not_ready(&self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock if !self.lock().closed => {
                std::thread::sleep(NOT_READY_WAIT);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// `bytes` are not in the writer's hands any more; the last `lost` of them were refused.
    fn written(&self, bytes: usize, lost: usize, refusal: Option<String>) {
        let mut state = self.lock();
        state.moved = Some(Instant::now());
        state.lost_bytes += lost as u64;
        state.refusal = refusal;
        state.unwritten -= bytes;
        state.written += bytes as u64;
        if state.unwritten == 0 {
            state.stuck = false;
        }
        drop(state);
        self.backlog.fetch_sub(bytes, Ordering::AcqRel);
        self.changed.notify_all();
        self.watcher.tell();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Far longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn piped() -> (Console, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (Console::new(Box::new(writer), Arc::default()), reader)
    }

    fn put(console: &Console, bytes: &[u8]) {
        console.note_produced(bytes.len());
        console.hand_over(bytes);
    }

    #[test]
    fn reader_that_stopped_fills_the_backlog_and_gets_every_byte_when_it_goes_on() {
        let (console, mut reader) = piped();
        let bytes: Vec<u8> = (0..2 * CONSOLE_BACKLOG_BYTES).map(|n| (n / 7) as u8).collect();
        // More than the pipe holds by the whole backlog: it is full whatever the writer has got rid of.
        for piece in bytes.chunks(1000) {
            put(&console, piece);
        }
        assert!(console.is_full());
        console.settle();
        let started = Instant::now();
        (0..1000).for_each(|_| console.settle());
        assert!(started.elapsed() < 100 * GRACE, "a console that is stuck was waited for again and again");
        assert!(console.drain(Duration::ZERO) >= CONSOLE_BACKLOG_BYTES);
        let health = console.health();
        assert!(health.waiting_bytes >= CONSOLE_BACKLOG_BYTES && health.stopped_for > Duration::ZERO, "{health:?}");
        let mut got = vec![0; bytes.len()];
        reader.read_exact(&mut got).expect("the writer goes on");
        assert!(got == bytes, "bytes were lost or mixed up");
        assert_eq!(console.drain(PATIENCE), 0);
        console.wait_for_room(PATIENCE);
        assert!(!console.is_full());
        assert_eq!(console.health(), Health::default());
    }

    #[test]
    fn settle_leaves_nothing_in_the_buffer_of_a_console_that_is_read() {
        let (console, mut reader) = piped();
        put(&console, b"count=1\n");
        assert_eq!(console.drain(PATIENCE), 0);
        let mut got = [0; 8];
        reader.read_exact(&mut got).expect("it was written");
        assert_eq!(&got, b"count=1\n");
    }

    #[test]
    fn reader_that_is_gone_does_not_stop_the_guest() {
        let stats = Arc::new(Stats::default());
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let console = Console::new(Box::new(writer), Arc::clone(&stats));
        for _ in 0..4 {
            put(&console, &[b'x'; CONSOLE_BACKLOG_BYTES]);
        }
        assert_eq!(console.drain(PATIENCE), 0);
        console.wait_for_room(PATIENCE);
        assert!(!console.is_full());
        assert!(stats.counts().outputs_lost > 0);
        let Health { lost_bytes, refusal, waiting_bytes, .. } = console.health();
        assert_eq!((lost_bytes.map(NonZeroU64::get), waiting_bytes), (Some(4 * CONSOLE_BACKLOG_BYTES as u64), 0));
        assert!(refusal.expect("it refuses").contains("pipe"));
    }

    #[test]
    fn bytes_that_a_disk_refused_are_counted_also_when_it_takes_some_again() {
        /// Takes three bytes, refuses with this error until it is told to take more.
        struct Full(usize, std::sync::mpsc::Receiver<()>, i32);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.1.try_recv().is_ok() {
                    self.0 = usize::MAX;
                }
                let count = bytes.len().min(self.0);
                self.0 -= count;
                if count == 0 { Err(io::Error::from_raw_os_error(self.2)) } else { Ok(count) }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for errno in [libc::ENOSPC, libc::EIO] {
            let (room, waits) = std::sync::mpsc::channel();
            let console = Console::new(Box::new(Full(3, waits, errno)), Arc::default());
            put(&console, b"count=1\n");
            assert_eq!(console.drain(PATIENCE), 0);
            let health = console.health();
            assert_eq!((health.lost_bytes.map(NonZeroU64::get), health.refusal.is_some()), (Some(5), true));
            room.send(()).expect("the writer lives");
            put(&console, b"count=2\n");
            assert_eq!(console.drain(PATIENCE), 0);
            let health = console.health();
            assert_eq!((health.lost_bytes.map(NonZeroU64::get), health.refusal), (Some(5), None));
        }
    }

    #[test]
    fn sink_that_is_not_ready_is_tried_again() {
        struct Moody(Vec<u8>, u32, std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Moody {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 += 1;
                if self.1 % 2 == 1 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                let count = bytes.len().min(3);
                self.0.extend_from_slice(&bytes[..count]);
                Ok(count)
            }

            fn flush(&mut self) -> io::Result<()> {
                self.2.send(std::mem::take(&mut self.0)).map_err(io::Error::other)
            }
        }
        let (said, hears) = std::sync::mpsc::channel();
        let console = Console::new(Box::new(Moody(Vec::new(), 0, said)), Arc::default());
        put(&console, b"0123456789");
        assert_eq!(hears.recv_timeout(PATIENCE).expect("it was written"), b"0123456789");
    }
}
