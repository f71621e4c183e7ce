//! When the next boundary is due: the rules of the pacer, without threads, locks or clocks.
//!
//! An epoch ends at the latest an epoch length after the last boundary; earlier on demand: output waits, or input and
//! interrupts that are delivered at boundaries. Epochs may also be counted in exits: then they end where the guest is, not
//! where the clock is.
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
//!
//! Of these, a guest that always has something to do, and that epochs take most of its processor from, gets longer ones
//! ([`Starvation`]): demands then wait until it had half of the time, and the epoch may be stretched for that too.

use std::time::{Duration, Instant};

use replication::EpochId;
use replication::protocol::{Cadence, Demand};

use super::starvation::Starvation;
use super::usage::Usage;

/// The length of an epoch: 1 ms to 10 s. Too short: the guest's time goes into pauses. Too long: output waits, epochs are big.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochTime(Duration);

/// A time that no epoch may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an epoch lasts from {:?} to {:?}, not {time:?}", EpochTime::MIN.0, EpochTime::MAX.0)]
pub struct NoEpochTime {
    /// What was asked for.
    pub time: Duration,
}

impl EpochTime {
    /// The shortest.
    pub const MIN: Self = Self(Duration::from_millis(1));
    /// The longest.
    pub const MAX: Self = Self(Duration::from_secs(10));
    /// What is used where nothing else is asked for.
    pub const DEFAULT: Self = Self(Duration::from_millis(20));

    /// The length that is nearest to `time`.
    pub fn nearest(time: Duration) -> Self {
        Self(time.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The time.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for EpochTime {
    type Error = NoEpochTime;

    fn try_from(time: Duration) -> Result<Self, NoEpochTime> {
        if (Self::MIN.0..=Self::MAX.0).contains(&time) { Ok(Self(time)) } else { Err(NoEpochTime { time }) }
    }
}

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

impl Length {
    pub(super) fn exits(self) -> u64 {
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
pub struct Traffic {
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

    fn note_epoch(&mut self, sent: Traffic) {
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

/// What the rules look at.
#[derive(Debug)]
pub(super) struct Pace {
    cadence: Cadence,
    length: Length,
    auto: AutoLength,
    min_epoch: Duration,
    /// The end of the last boundary.
    last: Instant,
    /// How long the guest was stopped then, and smoothed.
    pause: Duration,
    stopped: Duration,
    /// The last epoch sealed, and the last one that this host has nothing more to do for.
    sealed: EpochId,
    done: EpochId,
    cost: Cost,
    flow: Flow,
    starved: Starvation,
}

impl Pace {
    /// The guest runs from `now` on.
    pub(super) fn new(length: Length, min_epoch: Duration, cadence: Cadence, now: Instant) -> Self {
        Self {
            cadence,
            length,
            auto: AutoLength::new(),
            min_epoch,
            last: now,
            pause: Duration::ZERO,
            stopped: Duration::ZERO,
            sealed: EpochId(0),
            done: EpochId(0),
            cost: Cost::default(),
            flow: Flow::new(),
            starved: Starvation::default(),
        }
    }

    /// Epochs begin, or end.
    pub(super) fn handle_on(&mut self, now: Instant) {
        self.last = now;
        self.starved.begin_anew();
    }

    pub(super) fn set_length(&mut self, length: Length) {
        self.length = length;
    }

    pub(super) fn min_epoch(&self) -> Duration {
        self.min_epoch
    }

    /// The end of the last boundary.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// How long an epoch lasts at most that nothing asks to end, and that nothing stretches.
    pub(super) fn length(&self) -> Duration {
        match (self.length, self.cadence) {
            (Length::Exits(_), _) => UNTIMED,
            (_, Cadence::OnDemand(most)) => most,
            (Length::Fixed(length), Cadence::Timed) => length,
            (Length::Auto, Cadence::Timed) => self.auto.length(),
        }
    }

    /// Whether this host works on the epoch before.
    pub(super) fn is_working(&self) -> bool {
        self.sealed > self.done
    }

    /// When the next boundary is due; `demanded`: when the last demand for it came, if there was one, and whether it is worth one
    /// at once.
    pub(super) fn due(&self, demanded: Option<(Demand, Instant)>) -> Instant {
        let (length, longest) = (self.length(), self.longest());
        if matches!(demanded, Some((Demand::Now, _))) {
            return self.last + self.min_epoch;
        }
        let demanded = demanded.map(|(_, at)| at);
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
        let least = least.max((self.cost.fixed * 2).min(length)).max(self.starved.least().min(longest));
        let most = least.max(self.flow.window(self.stopped).min(length));
        (self.last + least).max((demanded + self.stopped).min(self.last + most))
    }

    /// How long an epoch lasts at most.
    fn longest(&self) -> Duration {
        let length = self.length();
        length.max((length * STRETCH_MAX).min(STRETCHED_MAX))
    }

    /// An epoch was sealed that sends so much to the network, and in which the guest paid for so many first writes: until
    /// [`Pace::handle_done`] this host works on it.
    pub(super) fn handle_sealed(&mut self, epoch: EpochId, sent: Traffic, first_writes: u32) {
        self.sealed = epoch;
        self.flow.note_epoch(sent);
        self.starved.note_first_writes(first_writes);
    }

    /// Whether it matters what a first write costs, and is not known.
    pub(super) fn wants_first_write_cost(&self) -> bool {
        self.starved.wants_first_write_cost()
    }

    /// What a guest pays on this host for the first write to a page.
    pub(super) fn set_first_write_cost(&mut self, cost: Duration) {
        self.starved.set_first_write_cost(cost);
    }

    /// This host has nothing more to do for `epoch` and those before it, which took `worked` of a processor's time, for
    /// `shipped` bytes before compression.
    pub(super) fn handle_done(&mut self, epoch: EpochId, worked: Duration, shipped: u64) {
        self.done = epoch;
        // The base of a new backup costs more than any epoch may be stretched for.
        let (pause, longest) = (self.pause, self.longest());
        self.cost.note_epoch(pause, worked, shipped, longest);
        self.starved.note_worked(worked);
    }

    /// A boundary is over at `now`; the guest was stopped for `pause`.
    pub(super) fn handle_boundary(&mut self, now: Instant, pause: Duration) {
        self.auto.note_pause(pause);
        (self.last, self.pause) = (now, pause);
        self.stopped = (self.stopped * 7 + pause) / 8;
        self.starved.note_boundary();
    }

    /// What the vCPUs did since the last call, or since epochs began.
    pub(super) fn handle_usage(&mut self, usage: Usage) {
        self.starved.note_usage(usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace_of(length: Duration) -> Pace {
        Pace::new(Length::Fixed(length), Duration::ZERO, Cadence::Timed, Instant::now())
    }

    fn frames(frames: usize, bytes: usize) -> Traffic {
        Traffic { frames, bytes }
    }

    fn lasts(pace: &Pace, is_demanded: bool) -> Duration {
        pace.due(is_demanded.then_some((Demand::Soon, pace.last))) - pace.last
    }

    #[test]
    fn epoch_lasts_twice_what_epochs_cost_and_with_a_demand_as_long_as_that() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(Length::Fixed(ms(1)), Duration::from_micros(500), Cadence::Timed, Instant::now());
        for epoch in 1..100 {
            pace.handle_sealed(EpochId(epoch), frames(1, 1), 0);
            pace.handle_boundary(pace.last, ms(1));
            pace.handle_done(EpochId(epoch), ms(2), 0);
        }
        let about = |time: Duration, wanted: Duration| time <= wanted && time > wanted * 9 / 10;
        assert!(about(lasts(&pace, false), ms(6)) && about(lasts(&pace, true), ms(3)), "{:?}", pace.cost);
        pace.set_length(Length::Fixed(ms(20)));
        assert_eq!(lasts(&pace, false), ms(20), "it costs little");
        pace.set_length(Length::Fixed(Duration::from_micros(500)));
        assert_eq!(lasts(&pace, false), ms(4), "not for ever");
    }

    #[test]
    fn single_answer_waits_for_nothing_and_a_burst_is_collected() {
        let us = Duration::from_micros;
        let mut pace = pace_of(us(20_000));
        let after = |pace: &mut Pace, bytes: usize, demanded_after: Duration| {
            for epoch in 1..100 {
                pace.handle_sealed(EpochId(epoch), frames(bytes.div_ceil(1500), bytes), 0);
                pace.handle_boundary(pace.last, us(100));
                pace.handle_done(EpochId(epoch), us(50), 0);
            }
            (pace.due(Some((Demand::Soon, pace.last + demanded_after))) - pace.last).as_micros()
        };
        let about = |micros: u128, wanted: u128| micros <= wanted && micros + 5 >= wanted;
        assert!(about(after(&mut pace, 60, us(0)), 150), "as long as an epoch costs");
        assert!(about(after(&mut pace, 1500, us(700)), 150), "it was due before");
        assert!(about(after(&mut pace, 4500, us(0)), 300), "twice what an epoch costs; silent since");
        assert!(about(after(&mut pace, 9000, us(250)), 350), "silent for as long as a pause lasts");
        assert!(about(after(&mut pace, 9000, us(5000)), 600), "six times a pause at most");
        assert!(about(after(&mut pace, 1_500_000, us(5000)), 800), "eight times that");
        pace.set_length(Length::Fixed(us(500)));
        assert!(about(after(&mut pace, 1_500_000, us(5000)), 500), "not beyond the epoch's length");
    }

    #[test]
    fn what_an_epoch_costs_for_many_bytes_does_not_make_the_next_wait() {
        let us = Duration::from_micros;
        let mut pace = pace_of(us(20_000));
        for epoch in 1..100 {
            pace.handle_sealed(EpochId(epoch), frames(1, 60), 0);
            pace.handle_boundary(pace.last, us(100));
            pace.handle_done(EpochId(epoch), us(8000), 16 * Cost::LITTLE_BYTES);
        }
        let lasts = lasts(&pace, true);
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
        (0..10).for_each(|_| flow.note_epoch(Traffic::default()));
        assert!(flow.is_burst(), "they say nothing about it");
        (0..100).for_each(|_| flow.note_epoch(frames(1, 100)));
        assert!(!flow.is_burst());
    }

    #[test]
    fn epoch_goes_on_while_the_one_before_is_worked_on_and_not_for_ever() {
        let second = Duration::from_secs(1);
        let due = |length, is_demanded| {
            let mut pace = Pace::new(length, Duration::ZERO, Cadence::Timed, Instant::now());
            pace.handle_sealed(EpochId(7), Traffic::default(), 0);
            let working = lasts(&pace, is_demanded);
            pace.handle_done(EpochId(7), Duration::ZERO, 0);
            (working, lasts(&pace, is_demanded))
        };
        let ms = Duration::from_millis;
        for (length, stretched) in [(ms(1), ms(8)), (ms(10), ms(80)), (ms(100), ms(200)), (second, second)] {
            assert_eq!(due(Length::Fixed(length), false), (stretched, length));
            assert_eq!(due(Length::Fixed(length), true), (stretched, Duration::ZERO), "what waits for it waits too");
        }
        assert_eq!(due(Length::Exits(3), false), (UNTIMED, UNTIMED), "they end where the guest is");
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

    /// After epochs of `sent` that each took so long, of whose time the vCPUs slept, waited and were in the kernel for so much, and the
    /// ship thread worked.
    fn least_of(sent: Traffic, epoch: Duration, slept: f64, waited: f64, in_kernel: f64, worked: f64) -> Duration {
        let mut pace = pace_of(Duration::from_millis(20));
        let passed = epoch * 50;
        let [slept, waited, in_kernel] = [slept, waited, in_kernel].map(|share| passed.mul_f64(share));
        for number in 1..=500 {
            pace.handle_sealed(EpochId(number), sent, 0);
            pace.handle_boundary(pace.last, Duration::ZERO);
            pace.handle_done(EpochId(number), epoch.mul_f64(worked), 0);
            if number % 50 == 0 {
                pace.handle_usage(Usage { passed, ran: passed - slept - waited, in_kernel, waited, vcpus: 1 });
            }
        }
        lasts(&pace, true)
    }

    #[test]
    fn guest_without_rest_gets_half_of_an_epochs_time_however_much_the_epoch_takes_from_it() {
        // In the lab 64 clients got 1.1 answers for each epoch: the ship thread had the only processor while the epoch's least time
        // passed, and the guest's first writes cost more than all that was counted.
        let ms = Duration::from_millis;
        let about = |time: Duration, wanted: Duration| time <= wanted && time > wanted * 9 / 10;
        let some = frames(3, 200);
        assert!(about(least_of(some, ms(5), 0.0, 0.5, 0.3, 0.25), ms(8)));
        assert!(about(least_of(some, ms(5), 0.0, 0.5, 0.3, 0.05), ms(4)), "not for epochs does it wait so long");
        assert!(about(least_of(some, ms(40), 0.0, 0.5, 0.5, 0.5), ms(80)), "for longer than the epoch's length");
        assert_eq!(least_of(some, ms(400), 0.0, 0.5, 0.5, 0.5), ms(160), "for its stretch at most");
    }

    #[test]
    fn guest_that_says_one_thing_at_a_time_or_sleeps_or_has_its_processor_is_not_starved() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        let costs = |time: Duration, epoch: Duration| time <= epoch;
        assert!(costs(least_of(frames(1, 60), ms(5), 0.0, 0.5, 0.3, 0.25), ms(5) / 4), "one answer waits for nothing");
        assert!(
            costs(least_of(frames(3, 200), ms(10), 0.25, 0.4, 0.2, 0.1), ms(2)),
            "it sleeps until it is asked again"
        );
        assert!(
            costs(least_of(frames(3, 200), us(800), 0.0, 0.1, 0.2, 0.15), us(480)),
            "it has more than half of its time"
        );
    }

    /// After epochs of 20 ms in which a guest of so many vCPUs, without rest or with as much, made so many first writes.
    fn least_of_first_writes(slept: f64, first_writes: u32, cost: Duration, vcpus: u32) -> Pace {
        let epoch = Duration::from_millis(20);
        let mut pace = pace_of(epoch);
        pace.set_first_write_cost(cost);
        for number in 1..=500 {
            pace.handle_sealed(EpochId(number), frames(3, 200), first_writes);
            pace.handle_boundary(pace.last, Duration::ZERO);
            pace.handle_done(EpochId(number), Duration::ZERO, 0);
            if number % 50 == 0 {
                let (passed, slept) = (epoch * 50, (epoch * 50).mul_f64(slept));
                let ran = passed - slept;
                pace.handle_usage(Usage { passed, ran, in_kernel: ran / 10, waited: Duration::ZERO, vcpus });
            }
        }
        pace
    }

    #[test]
    fn first_writes_take_time_from_a_guest_that_no_counter_of_the_kernel_has() {
        // PostgreSQL in the lab: 560 first writes in an epoch of 22 ms, 17 µs for each, of which the kernel counted 2 ms.
        let us = Duration::from_micros;
        let lasts_of = |slept, first_writes, cost, vcpus| {
            let time = lasts(&least_of_first_writes(slept, first_writes, cost, vcpus), true);
            (time.as_secs_f64() * 1000.0).round()
        };
        assert_eq!(lasts_of(0.0, 560, us(17), 1), 19.0);
        assert_eq!(lasts_of(0.0, 1100, us(17), 1), 37.0, "longer than the epoch's length");
        assert_eq!(lasts_of(0.0, 1100, us(17), 2), 19.0, "each vCPU paid for half of them");
        assert_eq!(lasts_of(0.0, 30_000, us(17), 1), 160.0, "not for ever");
        assert_eq!(lasts_of(0.0, 560, us(2), 1), 4.0, "the kernel counts more than that");
        assert_eq!(lasts_of(0.3, 560, us(17), 1), 0.0, "it sleeps until it is asked again");
    }

    #[test]
    fn cost_of_a_first_write_is_asked_for_where_it_matters() {
        let wants =
            |slept, first_writes, cost| least_of_first_writes(slept, first_writes, cost, 1).wants_first_write_cost();
        assert!(wants(0.0, 64, Duration::ZERO));
        assert!(!wants(0.0, 64, Duration::from_micros(17)), "it is known");
        assert!(!wants(0.0, 63, Duration::ZERO), "there are few");
        assert!(!wants(0.3, 64, Duration::ZERO), "the guest has rest");
        let mut pace = least_of_first_writes(0.0, 64, Duration::from_micros(17), 1);
        pace.handle_on(pace.last);
        let with_cost = {
            let mut starved = Starvation::default();
            starved.set_first_write_cost(Duration::from_micros(17));
            starved
        };
        assert_eq!(pace.starved, with_cost, "the host is the same in the next session");
    }

    #[test]
    fn what_was_before_the_epochs_is_not_taken_for_theirs() {
        // A filling of seconds was counted to the first epochs; answers waited for the epoch length for a second after it.
        let mut pace = pace_of(Duration::from_millis(20));
        pace.handle_boundary(pace.last, Duration::ZERO);
        pace.handle_done(EpochId(1), Duration::from_secs(1), 0);
        pace.handle_on(pace.last);
        let second = Duration::from_secs(1);
        pace.handle_usage(Usage {
            passed: second,
            ran: second,
            in_kernel: second / 2,
            waited: Duration::ZERO,
            vcpus: 1,
        });
        assert_eq!(pace.starved, Starvation::default());
    }

    #[test]
    fn demand_for_a_boundary_at_once_waits_for_the_least_time_only_and_a_guest_that_says_nothing_for_long() {
        let (ms, most) = (Duration::from_millis, Duration::from_secs(1));
        let mut pace = Pace::new(Length::Fixed(ms(20)), ms(2), Cadence::OnDemand(most), Instant::now());
        for epoch in 1..100 {
            pace.handle_sealed(EpochId(epoch), frames(40, 60_000), 0);
            pace.handle_boundary(pace.last, ms(1));
            pace.handle_done(EpochId(epoch), ms(8), 0);
        }
        let due = |demand| pace.due(Some((demand, pace.last))) - pace.last;
        assert_eq!(due(Demand::Now), ms(2));
        assert!(due(Demand::Soon) > ms(2), "what an epoch costs counts for that");
        assert_eq!(lasts(&pace, false), most);
    }
}
