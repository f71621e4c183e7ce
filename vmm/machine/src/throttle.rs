//! The throttle: vCPUs get a share of their time only, because the guest writes faster than a backup can be filled.
//!
//! What counts is processor time that a vCPU used, not time that passed: a guest that mostly sleeps is not slowed, and one that
//! has to wait for a processor of the host is not slowed twice. A thread of its own has the vCPUs come out again and again; each
//! that used its slice rests until that was its share. Whoever closes the gate does not wait for a rest.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How often vCPUs come out to be looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
/// Less processor time than this is not answered by a rest.
const SLICE_MIN: Duration = Duration::from_millis(1);
/// A rest at most: who talks to the guest waits for its end.
const REST_MAX: Duration = Duration::from_millis(100);
/// A rest is slept in pieces of this: between two of them the gate is looked at.
const PIECE: Duration = Duration::from_millis(1);
/// The whole of a vCPU's time, in percent.
const ALL: u8 = 100;

/// The share that vCPUs get.
#[derive(Debug)]
pub struct Throttle {
    percent: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_ended: bool,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { percent: AtomicU8::new(ALL), state: Mutex::default(), changed: Condvar::new() }
    }
}

impl Throttle {
    /// Gives vCPUs `percent` of their time, 1 to 100, from now on.
    pub fn set(&self, percent: u8) {
        let _state = self.state.lock().expect("no holder of the throttle panics");
        self.percent.store(percent.clamp(1, ALL), Ordering::Release);
        self.changed.notify_all();
    }

    /// What they get, in percent.
    pub fn percent(&self) -> u8 {
        self.percent.load(Ordering::Acquire)
    }

    /// The machine has ended.
    pub(super) fn end(&self) {
        self.state.lock().expect("no holder of the throttle panics").has_ended = true;
        self.changed.notify_all();
    }

    /// Waits until vCPUs are to be looked at. False when the machine has ended.
    pub(crate) fn wait(&self) -> bool {
        let idle = |state: &mut State| !state.has_ended && self.percent() == ALL;
        let state = self.state.lock().expect("no holder of the throttle panics");
        let state = self.changed.wait_while(state, idle).expect("no holder of the throttle panics");
        !state.has_ended
    }
}

/// What one vCPU thread knows of its share.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Its processor time at the end of its last rest; none: it is not throttled.
    used: Option<Duration>,
    /// It rests until then.
    until: Option<Instant>,
}

/// What a vCPU does before it enters the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It enters.
    Enter,
    /// The same, after a rest.
    EnterRested,
    /// It sleeps so long, looks at the gate, and asks again.
    Rest(Duration),
}

impl Share {
    /// What is to be done now by a vCPU thread that gets `percent` of its time and has `used` so much until now.
    pub(super) fn next(&mut self, percent: u8, now: Instant, used: impl FnOnce() -> Duration) -> Next {
        if percent >= ALL {
            *self = Self::default();
            return Next::Enter;
        }
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(now);
            if !left.is_zero() {
                return Next::Rest(left.min(PIECE));
            }
            *self = Self { used: Some(used()), until: None };
            return Next::EnterRested;
        }
        let used = used();
        let ran = used.saturating_sub(*self.used.get_or_insert(used));
        if ran < SLICE_MIN {
            return Next::Enter;
        }
        let rest = (ran * u32::from(ALL - percent) / u32::from(percent)).min(REST_MAX);
        self.until = Some(now + rest);
        Next::Rest(rest.min(PIECE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs a vCPU that always wants to run for `time`; gives how much it did, and its longest rest.
    fn share_of(percent: u8, slice: Duration, time: Duration) -> (Duration, Duration) {
        let (begun, mut share) = (Instant::now(), Share::default());
        let (mut now, mut used, mut rested, mut longest) = (begun, Duration::ZERO, Duration::ZERO, Duration::ZERO);
        while now < begun + time {
            match share.next(percent, now, || used) {
                Next::Rest(rest) => {
                    now += rest;
                    rested += rest;
                }
                Next::Enter | Next::EnterRested => {
                    longest = longest.max(std::mem::take(&mut rested));
                    now += slice;
                    used += slice;
                }
            }
        }
        (used, longest)
    }

    #[test]
    fn vcpu_gets_its_share_in_small_pieces() {
        for percent in [2, 5, 10, 25, 50, 80] {
            let (used, longest) = share_of(percent, 2 * MS, Duration::from_secs(10));
            let wanted = Duration::from_secs(10) * u32::from(percent) / 100;
            assert!(used.abs_diff(wanted) < wanted / 10, "{percent} %: {used:?}");
            assert!(longest <= REST_MAX, "{longest:?}");
        }
    }

    #[test]
    fn vcpu_with_all_its_time_never_rests_and_one_that_sleeps_is_not_slowed() {
        assert_eq!(share_of(100, 2 * MS, Duration::from_secs(1)).0, Duration::from_secs(1));
        let (mut share, begun) = (Share::default(), Instant::now());
        for step in 0..1000 {
            // In and out of the guest, without using its processor.
            assert_eq!(share.next(5, begun + step * MS, || Duration::ZERO), Next::Enter);
        }
    }

    #[test]
    fn throttle_that_is_lifted_ends_a_rest() {
        let (mut share, begun) = (Share::default(), Instant::now());
        assert_eq!(share.next(5, begun, || Duration::ZERO), Next::Enter);
        assert!(matches!(share.next(5, begun, || 2 * MS), Next::Rest(_)));
        assert_eq!(share.next(100, begun, || 2 * MS), Next::Enter);
    }

    #[test]
    fn thread_of_the_throttle_sleeps_until_it_is_set_and_ends_with_the_machine() {
        let throttle = Throttle::default();
        throttle.set(0);
        assert_eq!(throttle.percent(), 1);
        assert!(throttle.wait());
        throttle.set(100);
        throttle.end();
        assert!(!throttle.wait());
    }
}
