//! A witness that could not be opened, where an operator says that it is gone for good: it answers nothing.

use std::io;

use replication::view::evidence::Statement;
use replication::view::{Entry, Nonce, Record};

use super::Witness;

/// What stands in for it.
#[derive(Debug)]
pub(crate) struct GoneWitness;

fn gone<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::NotFound, "the witness could not be opened"))
}

impl Witness for GoneWitness {
    fn newest(&self, _: &str) -> io::Result<Option<Entry>> {
        gone()
    }

    fn from(&self, _: &str, _: u64) -> io::Result<Vec<Entry>> {
        gone()
    }

    fn append(&self, _: &str, _: &Record, _: u64) -> io::Result<Vec<Entry>> {
        gone()
    }

    fn leave(&self, _: &str) -> io::Result<Nonce> {
        gone()
    }

    fn finds(&self, _: &str, _: Nonce) -> io::Result<bool> {
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
