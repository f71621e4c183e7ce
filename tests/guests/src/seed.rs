//! Random moments that can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A generator (SplitMix64) whose seed is in the output of the test that uses it.
#[derive(Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seed in `GUESTS_SEED`, or a fresh one.
    pub fn new() -> Self {
        let typed = std::env::var("GUESTS_SEED").ok().map(|text| text.parse().expect("GUESTS_SEED is a number"));
        let seed = typed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set");
            u64::from(now.subsec_nanos())
        });
        println!("GUESTS_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Lets a random time below `longest` pass: the moment of a fault, not a wait for something.
    pub fn pass(&mut self, longest: Duration) {
        std::thread::sleep(Duration::from_micros(self.below(longest.as_micros() as u64)));
    }
}

impl Default for Seed {
    fn default() -> Self {
        Self::new()
    }
}
