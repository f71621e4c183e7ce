//! A witness that could not be opened, where an operator says that it is gone for good: it answers nothing.

use std::io;
use std::time::Duration;

use replication::view::evidence::Statement;
use replication::view::{Excerpt, Nonce, Record};

use super::{Facts, Trial, Witness};

/// What stands in for it.
#[derive(Debug)]
pub(crate) struct GoneWitness;

fn gone<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::NotFound, "the witness could not be opened"))
}

impl Witness for GoneWitness {
    fn probe(&self) -> io::Result<()> {
        gone()
    }

    fn trial(&self) -> io::Result<Trial> {
        gone()
    }

    fn answer_time_max(&self) -> Duration {
        Duration::ZERO
    }

    fn facts(&self) -> io::Result<Facts> {
        gone()
    }

    fn newest(&self, _: &str) -> io::Result<Excerpt> {
        gone()
    }

    fn from(&self, _: &str, _: u64) -> io::Result<Excerpt> {
        gone()
    }

    fn append(&self, _: &str, _: &Record, _: u64) -> io::Result<Excerpt> {
        gone()
    }

    fn leave(&self, _: &str) -> io::Result<Nonce> {
        gone()
    }

    fn finds(&self, _: &str, _: Nonce) -> io::Result<bool> {
        gone()
    }

    fn take_away(&self, _: &str, _: Nonce) -> io::Result<()> {
        gone()
    }

    fn state(&self, _: &str, _: Statement) -> io::Result<()> {
        gone()
    }

    fn withdraw(&self, _: &str, _: Statement) -> io::Result<()> {
        gone()
    }

    fn is_stated(&self, _: &str, _: Statement) -> io::Result<bool> {
        gone()
    }
}
