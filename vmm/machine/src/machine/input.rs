//! Input from the world: frames from taps, bytes from the console.
//!
//! A thread per source reads and hands over to the board, which keeps what the guest cannot take yet. When the board's
//! queue is full the source is not read, so that nothing accepted is dropped.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use devices::virtio::net::PACKET_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Machine;
use crate::net::Tap;
use crate::thread::spawn;

/// How long a source that is not read waits before it looks again.
const FULL_WAIT: Duration = Duration::from_millis(1);
/// How long a tap that is down is left alone.
const DOWN_WAIT: Duration = Duration::from_millis(50);
/// How long a reader sleeps at most before it looks whether the machine has ended.
const END_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Frames read from a tap before the guest gets them, at most. One lock of the board and one interrupt serve all of
/// them; more would only make the first one wait.
const BATCH_FRAMES_MAX: usize = 64;

/// Reads frames of virtio slot `slot` from its tap until the machine ends.
pub fn read_tap(machine: Arc<Machine>, slot: usize, tap: Arc<Tap>) {
    spawn(format!("tap{slot}"), move || {
        let mut frame = vec![0; PACKET_MAX];
        let mut batch = VecDeque::with_capacity(BATCH_FRAMES_MAX);
        while machine.ended().is_none() {
            if !readable(&*tap) {
                continue;
            }
            if read_batch(&tap, &mut frame, &mut batch).is_err() {
                // A tap that is down stays readable and gives only errors.
                std::thread::sleep(DOWN_WAIT);
            }
            hand_over_frames(&machine, slot, &mut batch);
        }
    });
}

/// Reads what the tap has now, as far as there is room in `batch`. Frames before an error count.
fn read_batch(tap: &Tap, frame: &mut [u8], batch: &mut VecDeque<Vec<u8>>) -> std::io::Result<()> {
    while batch.len() < BATCH_FRAMES_MAX {
        match tap.receive(frame)? {
            Some(len) => batch.push_back(frame[..len].to_vec()),
            None => break,
        }
    }
    Ok(())
}

fn hand_over_frames(machine: &Machine, slot: usize, batch: &mut VecDeque<Vec<u8>>) {
    while !batch.is_empty() && machine.ended().is_none() {
        let (before, news) = (batch.len(), machine.room().news());
        if let Err(error) = machine.input(|board| ((), board.handle_frames(slot, batch))) {
            machine.fail(error.to_string());
        }
        if batch.len() == before {
            machine.room().wait(news, FULL_WAIT);
        }
    }
}

/// News that there is room, from those who make it to those who have frames for it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Counts the news.
    news: Mutex<u64>,
    changed: Condvar,
}

impl Room {
    pub(super) fn announce(&self) {
        *self.lock() += 1;
        self.changed.notify_all();
    }

    /// How much news there was so far.
    pub(super) fn news(&self) -> u64 {
        *self.lock()
    }

    /// Until there is more news than `seen`, at most for `time`.
    pub(super) fn wait(&self, seen: u64, time: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), time, |news| *news == seen));
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.news.lock().expect("no holder of the room panics")
    }
}

/// Reads console input until the source or the machine ends.
pub fn read_console(machine: Arc<Machine>, mut source: impl Read + AsFd + Send + 'static) {
    spawn("console".into(), move || {
        let mut bytes = [0; 256];
        while machine.ended().is_none() {
            if !readable(&source) {
                continue;
            }
            match source.read(&mut bytes) {
                Ok(0) => return,
                Ok(len) => hand_over_bytes(&machine, &bytes[..len]),
                Err(_) => {}
            }
        }
    });
}

fn hand_over_bytes(machine: &Machine, mut bytes: &[u8]) {
    while !bytes.is_empty() && machine.ended().is_none() {
        let count = machine.input(|board| board.handle_console(bytes)).unwrap_or_else(|error| {
            machine.fail(error.to_string());
            0
        });
        bytes = &bytes[count..];
        if count == 0 {
            std::thread::sleep(FULL_WAIT);
        }
    }
}

fn readable(source: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(source, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&END_CHECK)), Ok(1..))
}
