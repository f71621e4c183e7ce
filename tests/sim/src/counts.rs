//! What became of guests, in numbers.

use std::fmt;
use std::ops::AddAssign;

/// How often each of it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Takeovers.
    pub takeovers: u64,
    /// Of them, those of a kept copy: its operator named every listed place as dead.
    pub overrides: u64,
    /// Of them, those of a guest that its primary handed over.
    pub switchovers: u64,
    /// Guests resumed from a state directory.
    pub resumes: u64,
    /// Of them, those that crashed and went back to an earlier epoch.
    pub backs: u64,
    /// Guests that crashed and were stopped.
    pub stops: u64,
    /// Guests begun afresh: all who could continue them were gone, or they had been stopped.
    pub begun: u64,
    /// Of them, those that crashed and were booted anew.
    pub resets: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        let Counts { takeovers, overrides, switchovers, resumes, backs, stops, begun, resets } = other;
        self.takeovers += takeovers;
        self.overrides += overrides;
        self.switchovers += switchovers;
        self.resumes += resumes;
        self.backs += backs;
        self.stops += stops;
        self.begun += begun;
        self.resets += resets;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { takeovers, overrides, switchovers, resumes, backs, stops, begun, resets } = self;
        write!(
            f,
            "{takeovers} takeovers, {overrides} of them of a kept copy, {switchovers} handed over; {resumes} resumed, {backs} of them from an earlier epoch; \
             {stops} stopped after a crash; {begun} begun afresh, {resets} of them after a crash"
        )
    }
}
