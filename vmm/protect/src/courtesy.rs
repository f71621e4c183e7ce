//! Leaving others their share of the host's processors: for threads that do bulk work while guests run beside them.
//!
//! A kernel shares a processor out evenly, so one thread of bulk takes half of it from a vCPU, and together with its other end and
//! the network's work more. Whoever is polite looks, after a slice of work, at how long the kernel let it wait for a processor
//! (`/proc/thread-self/schedstat`): where nobody else wanted one it goes on, where somebody did it rests as long as it
//! worked. So bulk takes a third of a processor that one other thread wants, and all of one that nobody wants.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Work between two looks.
const SLICE: Duration = Duration::from_millis(2);
/// Waiting of less than a tenth of the work is nobody's.
const WAITED_PART: u32 = 10;
/// A rest at most: heartbeats are other threads', but what waits in a queue is looked at after it.
const REST_MAX: Duration = Duration::from_millis(20);

/// How much a thread ran, and how long it waited for a processor meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    ran: Duration,
    waited: Duration,
}

/// What one thread knows of its share.
#[derive(Debug)]
pub(crate) struct Courtesy {
    /// None: this kernel does not say. Then nobody rests.
    stat: Option<File>,
    looked_at: Instant,
    last: Times,
}

impl Courtesy {
    /// For the thread that calls, and no other.
    pub(crate) fn of_this_thread() -> Self {
        let stat = File::open("/proc/thread-self/schedstat").ok();
        let mut courtesy = Self { stat, looked_at: Instant::now(), last: Times::default() };
        courtesy.last = courtesy.times().unwrap_or_default();
        courtesy
    }

    /// Rests, if others want the processor and it is time.
    pub(crate) fn rest(&mut self) {
        if let Some(rest) = self.due() {
            std::thread::sleep(rest);
            self.looked_at = Instant::now();
        }
    }

    /// How long to rest now; none: not at all.
    pub(crate) fn due(&mut self) -> Option<Duration> {
        if self.looked_at.elapsed() < SLICE {
            return None;
        }
        let times = self.times()?;
        let rest = rest_after(self.last, times);
        (self.last, self.looked_at) = (times, Instant::now());
        rest
    }

    fn times(&self) -> Option<Times> {
        let mut text = [0; 64];
        let len = self.stat.as_ref()?.read_at(&mut text, 0).ok()?;
        times_in(str::from_utf8(&text[..len]).ok()?)
    }
}

fn times_in(text: &str) -> Option<Times> {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
    Some(Times { ran: words.next()??, waited: words.next()?? })
}

fn rest_after(before: Times, now: Times) -> Option<Duration> {
    let ran = now.ran.saturating_sub(before.ran);
    let waited = now.waited.saturating_sub(before.waited);
    (waited > ran / WAITED_PART && !ran.is_zero()).then(|| ran.min(REST_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_others_waited_beside_rests_as_long_as_it_worked_and_one_alone_does_not() {
        let ms = Duration::from_millis;
        let before = Times { ran: ms(100), waited: ms(50) };
        let after = |ran: u64, waited: u64| rest_after(before, Times { ran: ms(100 + ran), waited: ms(50 + waited) });
        assert_eq!(after(4, 0), None);
        assert_eq!(after(20, 1), None, "somebody woke up for a moment");
        assert_eq!(after(4, 4), Some(ms(4)));
        assert_eq!(after(500, 500), Some(REST_MAX), "not for ever");
        assert_eq!(after(0, 4), None, "it had nothing yet");
    }

    #[test]
    fn times_are_read_from_the_kernel_and_garbage_is_none() {
        assert_eq!(
            times_in("84556 611515 2\n"),
            Some(Times { ran: Duration::from_nanos(84556), waited: Duration::from_nanos(611515) })
        );
        assert_eq!(times_in("84556"), None);
        assert_eq!(times_in("a b c"), None);
        assert_eq!(times_in(""), None);
    }
}
