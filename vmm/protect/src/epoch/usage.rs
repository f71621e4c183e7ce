//! What the vCPU threads have of this host's processors, as the kernel counts it.
//!
//! `/proc/self/task/TID/schedstat` has the time that a thread ran and the time that it waited for a processor; `stat` how much of
//! that was in the kernel, in ticks. Where one of them is missing nothing is known, and nothing is guessed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use machine::kick::Kicker;

/// What the vCPUs did for a stretch of time, and what kept them from their guest: the mean of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The time that passed.
    pub passed: Duration,
    /// Processor time, and the part of it in which this host's kernel worked for them: faults on pages that are
    /// written first in an epoch, boundaries, exits.
    pub ran: Duration,
    /// See above.
    pub in_kernel: Duration,
    /// They wanted a processor and had none.
    pub waited: Duration,
    /// How many they are.
    pub vcpus: u32,
}

/// Longer than either file.
const LINE_MAX: usize = 1024;
/// Places in `stat`, behind the thread's name.
const USER_TICKS: usize = 11;
const KERNEL_TICKS: usize = 12;

/// The files of one thread.
#[derive(Debug)]
struct Thread {
    schedstat: File,
    stat: File,
}

/// Sums since the threads began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    ran: Duration,
    waited: Duration,
    user_ticks: u64,
    kernel_ticks: u64,
}

/// Reads what vCPUs used between one look and the next.
#[derive(Debug, Default)]
pub struct Meter {
    threads: Vec<Thread>,
    before: Option<(Instant, Sums)>,
}

impl Meter {
    /// What the vCPUs of `kicker` did since the last call; nothing at the first one, or where the kernel does not say.
    pub fn read(&mut self, kicker: &Kicker) -> Usage {
        if self.threads.is_empty() {
            self.threads = kicker.thread_numbers().into_iter().filter_map(|number| Thread::open(number).ok()).collect();
        }
        let read = self.threads.iter().map(Thread::read).sum::<Option<Sums>>();
        let Some(sums) = read.filter(|_| !self.threads.is_empty()) else {
            // A vCPU's thread has ended, or the kernel was built without these counts.
            *self = Self::default();
            return Usage::default();
        };
        let now = (Instant::now(), sums);
        let vcpus = self.threads.len() as u32;
        self.before.replace(now).map_or_else(Usage::default, |before| usage(before, now, vcpus))
    }
}

fn usage(before: (Instant, Sums), now: (Instant, Sums), vcpus: u32) -> Usage {
    let ran = now.1.ran.saturating_sub(before.1.ran);
    let ticks = |sums: Sums| (sums.user_ticks, sums.kernel_ticks);
    let ((user_before, kernel_before), (user, kernel)) = (ticks(before.1), ticks(now.1));
    let (user, kernel) = (user.saturating_sub(user_before), kernel.saturating_sub(kernel_before));
    let in_kernel = ran.mul_f64(kernel as f64 / (user + kernel).max(1) as f64);
    Usage {
        passed: now.0 - before.0,
        ran: ran / vcpus,
        in_kernel: in_kernel / vcpus,
        waited: now.1.waited.saturating_sub(before.1.waited) / vcpus,
        vcpus,
    }
}

impl Thread {
    fn open(number: i32) -> std::io::Result<Self> {
        let open = |file| File::open(format!("/proc/self/task/{number}/{file}"));
        Ok(Self { schedstat: open("schedstat")?, stat: open("stat")? })
    }

    fn read(&self) -> Option<Sums> {
        let mut line = [0; LINE_MAX];
        let (ran, waited) = parse_schedstat(read_line(&self.schedstat, &mut line)?)?;
        let (user_ticks, kernel_ticks) = parse_stat(read_line(&self.stat, &mut line)?)?;
        Some(Sums { ran, waited, user_ticks, kernel_ticks })
    }
}

fn read_line<'a>(file: &File, line: &'a mut [u8]) -> Option<&'a str> {
    let len = file.read_at(line, 0).ok()?;
    std::str::from_utf8(&line[..len]).ok()
}

fn parse_schedstat(line: &str) -> Option<(Duration, Duration)> {
    let mut nanos = line.split_ascii_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
    Some((nanos.next()??, nanos.next()??))
}

/// A thread's name may have spaces and brackets.
fn parse_stat(line: &str) -> Option<(u64, u64)> {
    let (_, behind_name) = line.rsplit_once(')')?;
    let word = |place| behind_name.split_ascii_whitespace().nth(place)?.parse().ok();
    Some((word(USER_TICKS)?, word(KERNEL_TICKS)?))
}

impl std::iter::Sum for Sums {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |all, one| Self {
            ran: all.ran + one.ran,
            waited: all.waited + one.waited,
            user_ticks: all.user_ticks + one.user_ticks,
            kernel_ticks: all.kernel_ticks + one.kernel_ticks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read_whatever_a_thread_is_called() {
        let stat = "22 (a) b (c) S 1 2 3 4 -1 6 7 8 9 10 345 67 13 14 20 0 1";
        assert_eq!(parse_stat(stat), Some((345, 67)));
        assert_eq!(parse_schedstat("123 456 7\n"), Some((Duration::from_nanos(123), Duration::from_nanos(456))));
        assert_eq!((parse_stat("22 (vcpu0) S 1"), parse_schedstat("")), (None, None));
    }

    #[test]
    fn own_threads_time_is_read_from_this_kernel() {
        let thread = Thread::open(rustix::thread::gettid().as_raw_nonzero().get()).expect("this thread has files");
        let before = thread.read().expect("this kernel counts");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        let after = thread.read().expect("this kernel counts");
        let (ran, waited) = (after.ran - before.ran, after.waited - before.waited);
        assert!(ran + waited >= Duration::from_millis(25), "{ran:?} {waited:?}");
    }

    #[test]
    fn usage_is_the_mean_of_the_vcpus() {
        let ms = Duration::from_millis;
        let sums =
            |ran, waited, user_ticks, kernel_ticks| Sums { ran: ms(ran), waited: ms(waited), user_ticks, kernel_ticks };
        let begun = Instant::now();
        let before = (begun, sums(1000, 500, 50, 50));
        let now = (begun + ms(200), sums(1200, 600, 65, 55));
        let expected = Usage { passed: ms(200), ran: ms(100), in_kernel: ms(25), waited: ms(50), vcpus: 2 };
        assert_eq!(usage(before, now, 2), expected);
    }
}
