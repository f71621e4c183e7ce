//! For this crate's own tests.

use std::io::Write;

/// Reports that the running test could not run, past the capture of the test runner, so that it is counted.
pub fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("\nSKIPPED {test}: {why}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("standard output takes a line");
}

/// A userfaultfd; says that the running test is skipped where the host refuses one.
pub fn uffd() -> Option<crate::memory::uffd::Uffd> {
    let made = crate::memory::uffd::Uffd::open();
    if let Err(error) = &made {
        say_skipped(&format!("no userfaultfd: {error}"));
    }
    made.ok()
}

/// A generator of numbers from a seed, which must not be 0 (xorshift).
pub struct Random(pub u64);

impl Random {
    /// A number less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
