//! The clock of a host: it goes at its own rate, and may jump forward.

/// A host's clock, over the time of the run. All in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// How much faster it goes, in thousandths.
    fast: u64,
    /// What it showed ...
    shown: u64,
    /// ... at that time.
    at: u64,
}

impl Clock {
    /// A clock that begins with the run and goes faster by so many thousandths.
    pub fn new(fast: u64) -> Clock {
        Clock { fast, shown: 0, at: 0 }
    }

    /// What it shows at a time of the run.
    pub fn shows(&self, now: u64) -> u64 {
        let passed = now - self.at;
        self.shown + passed + passed * self.fast / 1000
    }

    /// The first time of the run at which it shows at least that.
    pub fn when(&self, shown: u64) -> u64 {
        let left = shown.saturating_sub(self.shown);
        let passed = (left * 1000).div_ceil(1000 + self.fast);
        let early = self.at + passed;
        if self.shows(early) < shown { early + 1 } else { early }
    }

    /// It jumps.
    pub fn jump(&mut self, now: u64, by: u64) {
        (self.shown, self.at) = (self.shows(now) + by, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_shows_what_is_waited_for_when_it_is_said_to() {
        for fast in [0, 1, 7, 20] {
            let mut clock = Clock::new(fast);
            clock.jump(1_234_567, 50_000_001);
            for shown in (60_000_000..61_000_000).step_by(997) {
                let at = clock.when(shown);
                assert!(clock.shows(at) >= shown && clock.shows(at - 1) < shown, "{fast}: {shown} at {at}");
            }
        }
    }

    #[test]
    fn what_was_shown_before_is_due_at_once() {
        let mut clock = Clock::new(3);
        clock.jump(100, 1_000);
        assert_eq!(clock.when(500), 100);
    }
}
