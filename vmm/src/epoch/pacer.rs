//! The pacer: when the next boundary comes.
//!
//! At the latest an epoch length after the last one; earlier on demand: output waits, or input and interrupts that are
//! delivered at boundaries. It asks the gate; the vCPU threads do the work. Epochs may also be counted in exits: then they
//! end where the guest is, not where the clock is.
//!
//! Where the host is slow an epoch lasts longer, up to [`STRETCH_MAX`] times its length:
//! - while the one before is still being worked on (logged, committed, shipped): it would only wait behind that;
//! - until the guest had at least twice as much time as epochs cost lately, so that a host that has one processor for both
//!   does not spend all of it on them. With a demand, as much as one costs that ships little ([`Cost`]): what an epoch costs for
//!   the bytes that it ships is not saved by shipping them later.
//!
//! A demand is met at once when that time has passed and the guest says one thing at a time: an answer or an acknowledgement waits
//! for nothing else. A guest that says more ([`Flow`]) has twice that time, and is given longer, so that a burst is in few epochs:
//! until it has been silent for as long as a pause lasts, at most [`BURST_MAX`] times that, and never beyond the epoch length.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use replication::EpochId;

use crate::config::EpochLength;
use crate::machine::gate::{Gate, KICK_AGAIN};

/// How the epoch length is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Always this long.
    Fixed(Duration),
    /// From the measured pause: see [`AutoLength`].
    Auto,
    /// This many exits of all vCPUs together, at least one; never by time.
    Exits(u64),
}

impl From<EpochLength> for Length {
    fn from(length: EpochLength) -> Self {
        match length {
            EpochLength::Fixed(length) => Self::Fixed(length.get()),
            EpochLength::Auto => Self::Auto,
        }
    }
}

impl Length {
    fn exits(self) -> u64 {
        match self {
            Self::Exits(count) => count,
            Self::Fixed(_) | Self::Auto => 0,
        }
    }
}

/// Chooses a length such that the pause takes about a twentieth of it, between 2 and 200 ms.
///
/// A short epoch holds output for less time and costs more; the pause tells how much more. It is smoothed over eight
/// epochs, so that one large epoch does not make the next ones long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoLength {
    smoothed_pause: Duration,
}

const AUTO_MIN: Duration = Duration::from_millis(2);
const AUTO_MAX: Duration = Duration::from_millis(200);
const AUTO_RATIO: u32 = 20;
/// How many times its length an epoch lasts at most while the one before is being worked on, and how long that is at most.
const STRETCH_MAX: u32 = 8;
const STRETCHED_MAX: Duration = AUTO_MAX;
/// How many times its pause an epoch lasts at most to collect a burst: the guest then stands still for a ninth of all time.
const BURST_MAX: u32 = 8;
/// The length, as far as time is concerned, of epochs that are counted in exits.
const UNTIMED: Duration = Duration::from_secs(u32::MAX as u64);

impl AutoLength {
    fn new() -> Self {
        Self { smoothed_pause: Duration::from_micros(500) }
    }

    fn note_pause(&mut self, pause: Duration) {
        self.smoothed_pause = (self.smoothed_pause * 7 + pause) / 8;
    }

    fn length(&self) -> Duration {
        (self.smoothed_pause * AUTO_RATIO).clamp(AUTO_MIN, AUTO_MAX)
    }
}

/// What an epoch sends to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Frames.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// How much the guest says at a time: what an epoch sends to the network, of those that send some, smoothed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Flow {
    frames_per_epoch: f64,
    bytes_per_epoch: f64,
}

impl Flow {
    /// A frame's: what is said in less is an answer or an acknowledgement, and waits for no other.
    const SINGLE_BYTES: f64 = 1500.0;
    /// So many frames are more than one at a time: some epochs send two. A guest that serves many would send more, if it had
    /// the time.
    const SINGLE_FRAMES: f64 = 1.1;

    fn new() -> Self {
        Self { frames_per_epoch: 0.0, bytes_per_epoch: 0.0 }
    }

    fn note_epoch(&mut self, sent: Sent) {
        if sent.frames > 0 {
            self.bytes_per_epoch = (self.bytes_per_epoch * 3.0 + sent.bytes as f64) / 4.0;
            self.frames_per_epoch = (self.frames_per_epoch * 15.0 + sent.frames as f64) / 16.0;
        }
    }

    fn is_burst(self) -> bool {
        self.bytes_per_epoch > Self::SINGLE_BYTES || self.frames_per_epoch > Self::SINGLE_FRAMES
    }

    /// How long an epoch of this flow may last to save pauses of that length.
    fn window(self, pause: Duration) -> Duration {
        pause.mul_f64((self.bytes_per_epoch / Self::SINGLE_BYTES).clamp(1.0, BURST_MAX.into()))
    }
}

/// What an epoch costs, smoothed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cost {
    /// The guest's pause, and processor time of this host for what comes after it.
    all: Duration,
    /// Of that, about what an epoch would cost that ships little.
    fixed: Duration,
}

impl Cost {
    /// An epoch that has no more to ship has little: 128 pages.
    const LITTLE_BYTES: u64 = 512 << 10;

    fn note_epoch(&mut self, pause: Duration, worked: Duration, shipped: u64, most: Duration) {
        let share = Self::LITTLE_BYTES as f64 / shipped.max(Self::LITTLE_BYTES) as f64;
        let smooth = |before: Duration, cost: Duration| (before * 7 + cost.min(most)) / 8;
        self.all = smooth(self.all, pause + worked);
        self.fixed = smooth(self.fixed, pause + worked.mul_f64(share));
    }
}

#[derive(Debug)]
struct State {
    on: bool,
    length: Length,
    auto: AutoLength,
    min_epoch: Duration,
    last: Instant,
    /// How long the guest was stopped then, and smoothed.
    pause: Duration,
    stopped: Duration,
    /// When the pacer's thread looks at all this next; none: when it is told to.
    looks_at: Option<Instant>,
    /// A boundary is under way.
    is_boundary: bool,
    /// When the boundary that is under way was asked for, and how long it takes from there to its end, smoothed.
    asked_at: Option<Instant>,
    takes: Duration,
    /// The last epoch sealed, and the last one that this host has nothing more to do for.
    sealed: EpochId,
    done: EpochId,
    cost: Cost,
    flow: Flow,
    ended: bool,
}

impl State {
    fn length(&self) -> Duration {
        match self.length {
            Length::Fixed(length) => length,
            Length::Auto => self.auto.length(),
            Length::Exits(_) => UNTIMED,
        }
    }

    /// Whether this host works on the epoch before.
    fn is_working(&self) -> bool {
        self.sealed > self.done
    }

    /// When the next boundary is due; `demanded`: when the last demand for it came, if there was one.
    fn due(&self, demanded: Option<Instant>) -> Instant {
        let (length, longest) = (self.length(), self.longest());
        if matches!(self.length, Length::Exits(_)) {
            return self.last + if demanded.is_some() { self.min_epoch } else { length };
        }
        if self.is_working() {
            return self.last + longest;
        }
        let Some(demanded) = demanded else { return self.last + length.max((self.cost.all * 2).min(longest)) };
        let least = self.min_epoch.max(self.cost.fixed.min(longest));
        if !self.flow.is_burst() {
            return self.last + least;
        }
        let least = least.max((self.cost.fixed * 2).min(length));
        let most = least.max(self.flow.window(self.stopped).min(length));
        (self.last + least).max((demanded + self.stopped).min(self.last + most))
    }

    /// How long an epoch lasts at most.
    fn longest(&self) -> Duration {
        let length = self.length();
        length.max((length * STRETCH_MAX).min(STRETCHED_MAX))
    }
}

/// Decides when boundaries come.
#[derive(Debug)]
pub struct Pacer {
    state: Mutex<State>,
    changed: Condvar,
    demanded: AtomicBool,
    /// When the last demand came, in nanoseconds since `made`.
    demanded_at: AtomicU64,
    made: Instant,
    /// Exits of an epoch; zero if it is not counted in exits.
    exits_per_epoch: AtomicU64,
    exits: AtomicU64,
}

impl Pacer {
    /// A pacer that asks for nothing until [`Pacer::set_on`].
    pub fn new(length: Length, min_epoch: Duration) -> Self {
        let state = State {
            on: false,
            length,
            auto: AutoLength::new(),
            min_epoch,
            last: Instant::now(),
            pause: Duration::ZERO,
            stopped: Duration::ZERO,
            looks_at: None,
            is_boundary: false,
            asked_at: None,
            takes: Duration::ZERO,
            sealed: EpochId(0),
            done: EpochId(0),
            cost: Cost::default(),
            flow: Flow::new(),
            ended: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            demanded: AtomicBool::new(false),
            demanded_at: AtomicU64::new(0),
            made: Instant::now(),
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
        state.last = Instant::now();
        self.changed.notify_all();
    }

    /// Whether boundaries are asked for.
    pub fn is_on(&self) -> bool {
        self.lock().on
    }

    /// Changes the epoch length.
    pub fn set_length(&self, length: Length) {
        self.lock().length = length;
        self.exits_per_epoch.store(length.exits(), Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The shortest epoch.
    pub fn min_epoch(&self) -> Duration {
        self.lock().min_epoch
    }

    /// The epoch length in force.
    pub fn length(&self) -> Duration {
        self.lock().length()
    }

    /// Something waits for a boundary. True if one may come at once; otherwise it comes as soon as it may.
    pub fn demand(&self) -> bool {
        self.demanded_at.store(self.made.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if self.demanded.swap(true, Ordering::AcqRel) {
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
        let due = state.due(self.demanded());
        if Instant::now() >= due {
            return true;
        }
        self.look_by(&state, due);
        false
    }

    /// When the last demand came that no boundary has met.
    fn demanded(&self) -> Option<Instant> {
        let at = || self.made + Duration::from_nanos(self.demanded_at.load(Ordering::Relaxed));
        self.demanded.load(Ordering::Acquire).then(at)
    }

    /// Wakes the pacer's thread if it would look later than at `due`.
    fn look_by(&self, state: &State, due: Instant) {
        if state.looks_at.is_none_or(|at| at > due) {
            self.changed.notify_all();
        }
    }

    /// An epoch was sealed that sends so much to the network: until [`Pacer::note_done`] this host works on it.
    pub fn note_sealed(&self, epoch: EpochId, sent: Sent) {
        let mut state = self.lock();
        state.sealed = epoch;
        state.flow.note_epoch(sent);
    }

    /// This host has nothing more to do for `epoch` and those before it, which took `worked` of a processor's time, for
    /// `shipped` bytes before compression.
    pub fn note_done(&self, epoch: EpochId, worked: Duration, shipped: u64) {
        let mut state = self.lock();
        state.done = epoch;
        // The base of a new backup costs more than any epoch may be stretched for.
        let (pause, longest) = (state.pause, state.longest());
        state.cost.note_epoch(pause, worked, shipped, longest);
        if state.on && !state.is_working() {
            let due = state.due(self.demanded());
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
        self.demanded.store(false, Ordering::Release);
        let mut state = self.lock();
        state.is_boundary = true;
        state.last.elapsed()
    }

    /// A boundary is over; the guest was stopped for `pause`.
    pub fn end_boundary(&self, pause: Duration) {
        let mut state = self.lock();
        state.auto.note_pause(pause);
        let now = Instant::now();
        (state.last, state.pause, state.is_boundary) = (now, pause, false);
        state.stopped = (state.stopped * 7 + pause) / 8;
        if let Some(asked_at) = state.asked_at.take() {
            state.takes = (state.takes * 7 + now.duration_since(asked_at)) / 8;
        }
        // A thread that will look in time anyway is not woken for this.
        let due = self.demanded().map_or(now + state.length(), |at| state.due(Some(at)));
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
        let mut state = self.lock();
        while !state.ended {
            let due = state.due(self.demanded());
            let now = Instant::now();
            // Once asked, the boundary is under way: it ends by moving `last`. Most likely it ends in time for the next
            // one, and then this thread need not be woken in between.
            let under_way = asked_after == Some(state.last);
            // A boundary that once took long must not make the next epochs long.
            let takes = state.takes.min(state.length() / 8);
            let next = state.asked_at.map(|at| at + takes + state.length()).filter(|next| *next > now);
            if !state.on {
                state = self.sleep(state, None);
            } else if under_way && next.is_none() {
                state = self.sleep(state, Some(now + KICK_AGAIN));
                if asked_after == Some(state.last) && now.elapsed() >= KICK_AGAIN {
                    drop(state);
                    gate.kick_again();
                    state = self.lock();
                }
            } else if under_way {
                state = self.sleep(state, next);
            } else if now < due {
                state = self.sleep(state, Some(due));
            } else {
                asked_after = Some(state.last);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpu_whose_kick_was_lost_is_kicked_again() {
        // A boundary was asked for once, and then waited for without an end: the guest ran on unprotected in one endless epoch.
        use std::sync::atomic::AtomicU8;
        use std::thread;
        let gate = Gate::new(1);
        let pacer = Pacer::new(Length::Fixed(Duration::from_millis(1)), Duration::ZERO);
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
        let pacer = Pacer::new(Length::Fixed(Duration::from_secs(3600)), Duration::from_secs(3600));
        pacer.set_on(true);
        assert!(!pacer.demand());
        let _ = pacer.begin_boundary();
        let eager = Pacer::new(Length::Fixed(Duration::from_secs(3600)), Duration::ZERO);
        eager.set_on(true);
        assert!(eager.demand());
        assert!(!eager.demand(), "one demand is enough");
    }

    fn frames(frames: usize, bytes: usize) -> Sent {
        Sent { frames, bytes }
    }

    fn lasts(pacer: &Pacer, is_demanded: bool) -> Duration {
        let state = pacer.lock();
        state.due(is_demanded.then_some(state.last)) - state.last
    }

    #[test]
    fn epoch_lasts_twice_what_epochs_cost_and_with_a_demand_as_long_as_that() {
        let ms = Duration::from_millis;
        let pacer = Pacer::new(Length::Fixed(ms(1)), Duration::from_micros(500));
        for epoch in 1..100 {
            pacer.note_sealed(EpochId(epoch), frames(1, 1));
            let _ = pacer.begin_boundary();
            pacer.end_boundary(ms(1));
            pacer.note_done(EpochId(epoch), ms(2), 0);
        }
        let about = |time: Duration, wanted: Duration| time <= wanted && time > wanted * 9 / 10;
        assert!(about(lasts(&pacer, false), ms(6)) && about(lasts(&pacer, true), ms(3)), "{:?}", pacer.lock().cost);
        pacer.set_length(Length::Fixed(ms(20)));
        assert_eq!(lasts(&pacer, false), ms(20), "it costs little");
        pacer.set_length(Length::Fixed(Duration::from_micros(500)));
        assert_eq!(lasts(&pacer, false), ms(4), "not for ever");
    }

    #[test]
    fn single_answer_waits_for_nothing_and_a_burst_is_collected() {
        let us = Duration::from_micros;
        let pacer = Pacer::new(Length::Fixed(us(20_000)), Duration::ZERO);
        let after = |bytes: usize, demanded_after: Duration| {
            for epoch in 1..100 {
                pacer.note_sealed(EpochId(epoch), frames(bytes.div_ceil(1500), bytes));
                pacer.end_boundary(us(100));
                pacer.note_done(EpochId(epoch), us(50), 0);
            }
            let state = pacer.lock();
            (state.due(Some(state.last + demanded_after)) - state.last).as_micros()
        };
        let about = |micros: u128, wanted: u128| micros <= wanted && micros + 5 >= wanted;
        assert!(about(after(60, us(0)), 150), "as long as an epoch costs");
        assert!(about(after(1500, us(700)), 150), "it was due before");
        assert!(about(after(4500, us(0)), 300), "twice what an epoch costs; silent since");
        assert!(about(after(9000, us(250)), 350), "silent for as long as a pause lasts");
        assert!(about(after(9000, us(5000)), 600), "six times a pause at most");
        assert!(about(after(1_500_000, us(5000)), 800), "eight times that");
        pacer.set_length(Length::Fixed(us(500)));
        assert!(about(after(1_500_000, us(5000)), 500), "not beyond the epoch's length");
    }

    #[test]
    fn what_an_epoch_costs_for_many_bytes_does_not_make_the_next_wait() {
        let us = Duration::from_micros;
        let pacer = Pacer::new(Length::Fixed(us(20_000)), Duration::ZERO);
        for epoch in 1..100 {
            pacer.note_sealed(EpochId(epoch), frames(1, 60));
            pacer.end_boundary(us(100));
            pacer.note_done(EpochId(epoch), us(8000), 16 * Cost::LITTLE_BYTES);
        }
        let lasts = lasts(&pacer, true);
        assert!(lasts > us(590) && lasts <= us(600), "{lasts:?}");
    }

    #[test]
    fn guest_that_sends_two_frames_now_and_then_serves_many() {
        let mut flow = Flow::new();
        (0..100).for_each(|n| flow.note_epoch(frames(1 + usize::from(n % 5 == 0), 100)));
        assert!(flow.is_burst(), "{flow:?}");
        (0..100).for_each(|_| flow.note_epoch(frames(1, 100)));
        assert!(!flow.is_burst(), "{flow:?}");
    }

    #[test]
    fn epochs_without_output_do_not_make_a_burst_of_the_next_answer() {
        let mut flow = Flow::new();
        (0..10).for_each(|_| flow.note_epoch(frames(40, 60_000)));
        assert!(flow.is_burst());
        (0..10).for_each(|_| flow.note_epoch(Sent::default()));
        assert!(flow.is_burst(), "they say nothing about it");
        (0..100).for_each(|_| flow.note_epoch(frames(1, 100)));
        assert!(!flow.is_burst());
    }

    #[test]
    fn epoch_goes_on_while_the_one_before_is_worked_on_and_not_for_ever() {
        let second = Duration::from_secs(1);
        let due = |length, is_demanded| {
            let pacer = Pacer::new(length, Duration::ZERO);
            pacer.note_sealed(EpochId(7), Sent::default());
            let working = lasts(&pacer, is_demanded);
            pacer.note_done(EpochId(7), Duration::ZERO, 0);
            (working, lasts(&pacer, is_demanded))
        };
        let ms = Duration::from_millis;
        for (length, stretched) in [(ms(1), ms(8)), (ms(10), ms(80)), (ms(100), ms(200)), (second, second)] {
            assert_eq!(due(Length::Fixed(length), false), (stretched, length));
            assert_eq!(due(Length::Fixed(length), true), (stretched, Duration::ZERO), "what waits for it waits too");
        }
        assert_eq!(due(Length::Exits(3), false), (UNTIMED, UNTIMED), "they end where the guest is");
    }

    #[test]
    fn demand_during_a_boundary_is_met_by_the_next_and_not_at_once() {
        let long = Duration::from_secs(3600);
        let pacer = Pacer::new(Length::Fixed(long), Duration::from_millis(1));
        pacer.set_on(true);
        std::thread::sleep(Duration::from_millis(2));
        let _ = pacer.begin_boundary();
        assert!(!pacer.demand());
        pacer.end_boundary(Duration::ZERO);
        assert!(pacer.demanded.load(Ordering::Acquire), "it is not forgotten");
    }

    #[test]
    fn demand_while_the_epoch_before_is_worked_on_waits_for_the_end_of_that() {
        let pacer = Pacer::new(Length::Fixed(Duration::from_secs(3600)), Duration::ZERO);
        pacer.set_on(true);
        pacer.note_sealed(EpochId(1), Sent::default());
        pacer.note_sealed(EpochId(2), Sent::default());
        assert!(!pacer.demand());
        pacer.note_done(EpochId(1), Duration::ZERO, 0);
        assert!(pacer.lock().is_working());
        pacer.note_done(EpochId(2), Duration::ZERO, 0);
        assert!(Instant::now() >= pacer.lock().due(pacer.demanded()));
    }

    #[test]
    fn counted_exits_end_an_epoch_and_are_not_counted_otherwise() {
        let pacer = Pacer::new(Length::Exits(3), Duration::ZERO);
        let ends: Vec<bool> = (0..7).map(|_| pacer.count_exit()).collect();
        assert_eq!(ends, [false, false, true, false, false, true, false]);
        pacer.set_length(Length::Auto);
        assert!((0..7).all(|_| !pacer.count_exit()));
    }

    #[test]
    fn auto_length_grows_with_the_pause_within_its_bounds() {
        let mut auto = AutoLength::new();
        (0..100).for_each(|_| auto.note_pause(Duration::from_micros(10)));
        assert_eq!(auto.length(), AUTO_MIN);
        (0..100).for_each(|_| auto.note_pause(Duration::from_millis(1)));
        assert!(auto.length() > Duration::from_millis(15) && auto.length() <= Duration::from_millis(20));
        (0..100).for_each(|_| auto.note_pause(Duration::from_secs(1)));
        assert_eq!(auto.length(), AUTO_MAX);
    }
}
