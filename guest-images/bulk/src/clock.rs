//! Time since the start, by the time stamp counter. Its rate is measured against the local APIC's timer, which counts
//! nanoseconds.

use core::arch::x86_64::_rdtsc;

use smoltcp::time::Instant;

const LAPIC: usize = 0xfee0_0000;
const SPURIOUS: usize = LAPIC + 0x0f0;
const TIMER: usize = LAPIC + 0x320;
const INITIAL_COUNT: usize = LAPIC + 0x380;
const CURRENT_COUNT: usize = LAPIC + 0x390;
const DIVIDE: usize = LAPIC + 0x3e0;
const ENABLED: u32 = 0x1ff;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0xb;
const COUNT: u32 = u32::MAX;
/// How long the rate is measured, in nanoseconds.
const MEASURED_NS: u32 = 10_000_000;
/// A longer step is not time that passed here: the counter of another host.
const STEP_US_MAX: u64 = 5_000_000;

/// A clock that never goes backwards.
pub(crate) struct Clock {
    ticks_per_us: u64,
    khz: u64,
    last: u64,
    us: u64,
}

fn read_counter() -> u64 {
    // SAFETY: reading the counter has no effect on memory, and every processor that runs this has one.
    unsafe { _rdtsc() }
}

fn write(register: usize, value: u32) {
    // SAFETY: the local APIC's registers are mapped there one to one, and no interrupt is ever taken.
    unsafe { (register as *mut u32).write_volatile(value) }
}

fn read(register: usize) -> u32 {
    // SAFETY: as for `write`; reading them has no effect.
    unsafe { (register as *const u32).read_volatile() }
}

impl Clock {
    /// Measures the rate, for [`MEASURED_NS`].
    pub(crate) fn start() -> Self {
        write(SPURIOUS, ENABLED);
        write(TIMER, MASKED);
        write(DIVIDE, DIVIDE_BY_1);
        write(INITIAL_COUNT, COUNT);
        let begun = read_counter();
        let mut passed = 0;
        while passed < MEASURED_NS {
            passed = COUNT - read(CURRENT_COUNT);
        }
        let last = read_counter();
        write(INITIAL_COUNT, 0);
        let khz = ((last - begun) * 1_000_000 / u64::from(passed)).max(1000);
        Self { ticks_per_us: khz / 1000, khz, last, us: 0 }
    }

    /// Rate of the counter.
    pub(crate) fn khz(&self) -> u64 {
        self.khz
    }

    /// The time.
    pub(crate) fn now(&mut self) -> Instant {
        let counter = read_counter();
        if counter < self.last {
            self.last = counter;
        }
        let ticks = counter - self.last;
        let us = ticks / self.ticks_per_us;
        self.us += us.min(STEP_US_MAX);
        self.last += us * self.ticks_per_us;
        Instant::from_micros(self.us as i64)
    }
}
