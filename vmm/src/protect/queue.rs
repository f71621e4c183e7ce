//! A channel that keeps its memory: std's allocates a block for every thirty-one items, and epochs go through this one.

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A channel for one receiver. It ends with the thread that receives; what is sent after that goes nowhere.
pub(super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State { items: VecDeque::new(), waits: false, has_ended: false }),
        came: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    came: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// The receiver sleeps: waking it costs a system call.
    waits: bool,
    /// The receiver is gone.
    has_ended: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of the queue panics")
    }
}

/// Where items go in.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Puts an item behind the others. Without a receiver it is dropped: who waits for an answer to it hears of that.
    pub(super) fn send(&self, item: T) {
        let mut state = self.0.lock();
        if state.has_ended {
            drop(state);
            return drop(item);
        }
        state.items.push_back(item);
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        if waits {
            self.0.came.notify_one();
        }
    }
}

/// Where they come out.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// The first item; waits for one for `time` at most.
    pub(super) fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        let deadline = Instant::now() + time;
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                state.waits = false;
                return Ok(item);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waits = false;
                return Err(RecvTimeoutError::Timeout);
            }
            state.waits = true;
            state = self.0.came.wait_timeout(state, left).expect("no holder of the queue panics").0;
        }
    }

    /// The items that are there.
    pub(super) fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.0.lock().items.pop_front())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_ended = true;
        let left = std::mem::take(&mut state.items);
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_their_order_also_for_a_receiver_that_waits() {
        let (sender, receiver) = channel();
        let sent = std::thread::spawn(move || (0..10_000).for_each(|number| sender.send(number)));
        for number in 0..10_000 {
            assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(number));
        }
        sent.join().expect("it sends and ends");
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn items_without_a_receiver_are_dropped_before_and_after_it_ends() {
        let (sender, receiver) = channel();
        let answers: Vec<_> = (0..2).map(|_| std::sync::mpsc::channel::<()>()).collect();
        let [(first, before), (second, after)] = <[_; 2]>::try_from(answers).expect("two");
        sender.send(first);
        drop(receiver);
        sender.send(second);
        assert!(before.recv().is_err() && after.recv().is_err(), "who waits for them waits no longer");
    }

    #[test]
    fn items_that_are_there_are_taken_at_once() {
        let (sender, receiver) = channel();
        (0..3).for_each(|number| sender.send(number));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(receiver.try_iter().next(), None);
    }
}
