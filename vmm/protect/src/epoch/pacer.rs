//! The pacer: asks for the next boundary when it is due ([`super::pace`] has the rules).
//!
//! It asks the gate; the vCPU threads do the work. Whoever needs a boundary demands one here: one that is due then is asked for by
//! that thread, others by the pacer's. That thread also looks now and then what the vCPUs have of their processors.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use replication::EpochId;
use replication::protocol::{Cadence, Demand};

use super::pace::{Length, Pace, Traffic};
use super::usage::{Meter, Usage};
use machine::gate::{Gate, KICK_AGAIN};
use machine::kvm::first_write_cost;
use machine::thread::try_spawn;

/// How often it looks, while demands end epochs, what the vCPUs have of their processors. The kernel's clocks for that are coarse.
const LOOK_AT_USAGE: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct State {
    on: bool,
    pace: Pace,
    /// When the pacer's thread looks at all this next; none: when it is told to.
    looks_at: Option<Instant>,
    /// A boundary is under way.
    is_boundary: bool,
    /// When the boundary that is under way was asked for, and how long it takes from there to its end, smoothed.
    asked_at: Option<Instant>,
    takes: Duration,
    /// When the pacer's thread looked last what the vCPUs have, if it has since epochs began; and whether a demand has ended an epoch
    /// since.
    looked_at: Option<Instant>,
    has_met_demand: bool,
    ended: bool,
}

/// Decides when boundaries come.
#[derive(Debug)]
pub struct Pacer {
    state: Mutex<State>,
    changed: Condvar,
    /// The strongest [`Demand`] that no boundary has met.
    demanded: AtomicU8,
    /// When the last demand came, in nanoseconds since `made`.
    demanded_at: AtomicU64,
    made: Instant,
    /// Exits of an epoch; zero if it is not counted in exits.
    exits_per_epoch: AtomicU64,
    exits: AtomicU64,
}

impl Pacer {
    /// A pacer that asks for nothing until [`Pacer::set_on`].
    pub fn new(length: Length, min_epoch: Duration, cadence: Cadence) -> Self {
        let now = Instant::now();
        let state = State {
            on: false,
            pace: Pace::new(length, min_epoch, cadence, now),
            looks_at: None,
            is_boundary: false,
            asked_at: None,
            takes: Duration::ZERO,
            looked_at: None,
            has_met_demand: false,
            ended: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            demanded: AtomicU8::new(Demand::No as u8),
            demanded_at: AtomicU64::new(0),
            made: now,
            exits_per_epoch: AtomicU64::new(length.exits()),
            exits: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the pacer panics")
    }

    /// Starts or stops asking for boundaries.
    pub fn set_on(&self, on: bool) {
        let mut state = self.lock();
        state.on = on;
        state.pace.handle_on(Instant::now());
        state.looked_at = None;
        self.changed.notify_all();
    }

    /// Whether boundaries are asked for.
    pub fn is_on(&self) -> bool {
        self.lock().on
    }

    /// Changes the epoch length.
    pub fn set_length(&self, length: Length) {
        self.lock().pace.set_length(length);
        self.exits_per_epoch.store(length.exits(), Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The shortest epoch.
    pub fn min_epoch(&self) -> Duration {
        self.lock().pace.min_epoch()
    }

    /// The epoch length in force.
    pub fn length(&self) -> Duration {
        self.lock().pace.length()
    }

    /// Something waits for a boundary. True if one may come at once; otherwise it comes as soon as it may.
    pub fn demand(&self, demand: Demand) -> bool {
        self.demanded_at.store(self.made.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if self.demanded.fetch_max(demand as u8, Ordering::AcqRel) >= demand as u8 {
            return false;
        }
        let state = self.lock();
        if !state.on {
            return false;
        }
        if state.is_boundary {
            // What waits came too late for it, or just in time; the epoch that begins then has its least length either way.
            return false;
        }
        let due = state.pace.due(self.demanded());
        if Instant::now() >= due {
            return true;
        }
        self.look_by(&state, due);
        false
    }

    /// When the last demand came that no boundary has met.
    fn demanded(&self) -> Option<(Demand, Instant)> {
        let demand = match self.demanded.load(Ordering::Acquire) {
            level if level == Demand::No as u8 => return None,
            level if level == Demand::Soon as u8 => Demand::Soon,
            _ => Demand::Now,
        };
        Some((demand, self.made + Duration::from_nanos(self.demanded_at.load(Ordering::Relaxed))))
    }

    /// Wakes the pacer's thread if it would look later than at `due`.
    fn look_by(&self, state: &State, due: Instant) {
        if state.looks_at.is_none_or(|at| at > due) {
            self.changed.notify_all();
        }
    }

    /// An epoch was sealed that sends so much to the network, and in which the guest paid for so many first writes: until
    /// [`Pacer::note_done`] this host works on it.
    pub fn note_sealed(&self, epoch: EpochId, sent: Traffic, first_writes: u32) {
        self.lock().pace.handle_sealed(epoch, sent, first_writes);
    }

    /// This host has nothing more to do for `epoch` and those before it, which took `worked` of a processor's time, for
    /// `shipped` bytes before compression.
    pub fn note_done(&self, epoch: EpochId, worked: Duration, shipped: u64) {
        let mut state = self.lock();
        state.pace.handle_done(epoch, worked, shipped);
        if state.on && !state.pace.is_working() {
            let due = state.pace.due(self.demanded());
            self.look_by(&state, due);
        }
    }

    /// A vCPU served an exit. True if an epoch that is counted in exits ends with it.
    pub fn count_exit(&self) -> bool {
        let per_epoch = self.exits_per_epoch.load(Ordering::Relaxed);
        per_epoch > 0 && (self.exits.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(per_epoch)
    }

    /// A boundary begins: what was demanded before is served by it. Gives how long the epoch was.
    pub fn begin_boundary(&self) -> Duration {
        let was_demanded = self.demanded.swap(Demand::No as u8, Ordering::AcqRel) != Demand::No as u8;
        let mut state = self.lock();
        state.is_boundary = true;
        state.has_met_demand |= was_demanded;
        state.pace.last().elapsed()
    }

    /// A boundary is over; the guest was stopped for `pause`.
    pub fn end_boundary(&self, pause: Duration) {
        let mut state = self.lock();
        let now = Instant::now();
        state.pace.handle_boundary(now, pause);
        state.is_boundary = false;
        if let Some(asked_at) = state.asked_at.take() {
            state.takes = (state.takes * 7 + now.duration_since(asked_at)) / 8;
        }
        // A thread that will look in time anyway is not woken for this.
        let due = self.demanded().map_or(now + state.pace.length(), |demand| state.pace.due(Some(demand)));
        self.look_by(&state, due);
    }

    /// Ends [`Pacer::run`].
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Asks `gate` for boundaries until [`Pacer::end`]. The body of the pacer's thread.
    pub fn run(&self, gate: &Gate) {
        let mut asked_after = None;
        let mut meter = Meter::default();
        let mut first_write = None;
        let mut state = self.lock();
        while !state.ended {
            let is_first = state.looked_at.is_none();
            if state.on && state.has_met_demand && state.looked_at.is_none_or(|at| at.elapsed() >= LOOK_AT_USAGE) {
                (state.has_met_demand, state.looked_at) = (false, Some(Instant::now()));
                drop(state);
                let usage = meter.read(gate.kicker());
                state = self.lock();
                // What was before the epochs began is not theirs.
                state.pace.handle_usage(if is_first { Usage::default() } else { usage });
                if state.pace.wants_first_write_cost() {
                    let cost = *first_write.get_or_insert_with(measure_first_write).get().unwrap_or(&Duration::ZERO);
                    state.pace.set_first_write_cost(cost);
                }
            }
            let due = state.pace.due(self.demanded());
            let now = Instant::now();
            // Once asked, the boundary is under way: it ends by moving `last`. Most likely it ends in time for the next
            // one, and then this thread need not be woken in between.
            let under_way = asked_after == Some(state.pace.last());
            // A boundary that once took long must not make the next epochs long.
            let takes = state.takes.min(state.pace.length() / 8);
            let next = state.asked_at.map(|at| at + takes + state.pace.length()).filter(|next| *next > now);
            if !state.on {
                state = self.sleep(state, None);
            } else if under_way && next.is_none() {
                state = self.sleep(state, Some(now + KICK_AGAIN));
                if asked_after == Some(state.pace.last()) && now.elapsed() >= KICK_AGAIN {
                    drop(state);
                    gate.kick_again();
                    state = self.lock();
                }
            } else if under_way {
                state = self.sleep(state, next);
            } else if now < due {
                state = self.sleep(state, Some(due));
            } else {
                asked_after = Some(state.pace.last());
                state.asked_at = Some(now);
                drop(state);
                gate.request_boundary();
                state = self.lock();
            }
        }
    }

    /// Until `at`, or until told to look.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, at: Option<Instant>) -> MutexGuard<'a, State> {
        state.looks_at = at;
        let mut state = match at {
            None => self.changed.wait(state).expect("no holder of the pacer panics"),
            Some(at) => {
                let time = at.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, time).expect("no holder of the pacer panics").0
            }
        };
        // Awake: whatever changes now is seen before the next sleep.
        state.looks_at = Some(Instant::now());
        state
    }
}

/// Measures on a thread of its own, which nobody waits for: this host's KVM may be slow. Where it cannot be measured, a first write
/// costs nothing that is known.
fn measure_first_write() -> Arc<OnceLock<Duration>> {
    let cost = Arc::new(OnceLock::new());
    let measured = Arc::clone(&cost);
    let started = try_spawn("first-write".into(), move || match first_write_cost() {
        Ok(cost) => {
            tracing::debug!(?cost, "measured what a guest pays for the first write to a page");
            let _ = measured.set(cost);
        }
        Err(error) => tracing::debug!(%error, "cannot measure what a guest pays for the first write to a page"),
    });
    if let Err(error) = started {
        tracing::debug!(%error, "no thread to measure what a guest pays for the first write to a page");
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpu_whose_kick_was_lost_is_kicked_again() {
        // A boundary was asked for once, and then waited for without an end: the guest ran on unprotected in one endless epoch.
        use std::sync::atomic::AtomicU8;
        use std::thread;
        let gate = Gate::new(1);
        let pacer = Pacer::new(Length::Fixed(Duration::from_millis(1)), Duration::ZERO, Cadence::Timed);
        pacer.set_on(true);
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| pacer.run(&gate));
            while !gate.is_closing() {
                thread::yield_now();
            }
            // The kick went to nobody.
            let immediate_exit = AtomicU8::new(0);
            let registration = gate.kicker().register(0, immediate_exit.as_ptr());
            while immediate_exit.load(Ordering::SeqCst) == 0 && begun.elapsed() < Duration::from_secs(10) {
                thread::yield_now();
            }
            drop(registration);
            pacer.end();
            gate.end();
        });
        assert!(gate.kicked_again() > 0);
    }

    #[test]
    fn demand_before_the_minimum_waits_and_after_it_does_not() {
        let pacer = Pacer::new(Length::Fixed(Duration::from_secs(3600)), Duration::from_secs(3600), Cadence::Timed);
        pacer.set_on(true);
        assert!(!pacer.demand(Demand::Soon));
        let _ = pacer.begin_boundary();
        let eager = Pacer::new(Length::Fixed(Duration::from_secs(3600)), Duration::ZERO, Cadence::Timed);
        eager.set_on(true);
        assert!(eager.demand(Demand::Soon));
        assert!(!eager.demand(Demand::Soon), "one demand is enough");
    }

    #[test]
    fn demand_during_a_boundary_is_met_by_the_next_and_not_at_once() {
        let long = Duration::from_secs(3600);
        let pacer = Pacer::new(Length::Fixed(long), Duration::from_millis(1), Cadence::Timed);
        pacer.set_on(true);
        std::thread::sleep(Duration::from_millis(2));
        let _ = pacer.begin_boundary();
        assert!(!pacer.demand(Demand::Soon));
        pacer.end_boundary(Duration::ZERO);
        assert!(pacer.demanded().is_some(), "it is not forgotten");
    }

    #[test]
    fn demand_while_the_epoch_before_is_worked_on_waits_for_the_end_of_that() {
        let pacer = Pacer::new(Length::Fixed(Duration::from_secs(3600)), Duration::ZERO, Cadence::Timed);
        pacer.set_on(true);
        pacer.note_sealed(EpochId(1), Traffic::default(), 0);
        pacer.note_sealed(EpochId(2), Traffic::default(), 0);
        assert!(!pacer.demand(Demand::Soon));
        pacer.note_done(EpochId(1), Duration::ZERO, 0);
        assert!(pacer.lock().pace.is_working());
        pacer.note_done(EpochId(2), Duration::ZERO, 0);
        assert!(Instant::now() >= pacer.lock().pace.due(pacer.demanded()));
    }

    #[test]
    fn counted_exits_end_an_epoch_and_are_not_counted_otherwise() {
        let pacer = Pacer::new(Length::Exits(3), Duration::ZERO, Cadence::Timed);
        let ends: Vec<bool> = (0..7).map(|_| pacer.count_exit()).collect();
        assert_eq!(ends, [false, false, true, false, false, true, false]);
        pacer.set_length(Length::Auto);
        assert!((0..7).all(|_| !pacer.count_exit()));
    }
}
