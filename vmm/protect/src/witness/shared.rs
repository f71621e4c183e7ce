//! A witness that others share and that may hang: each call in bounded time, whatever keeps the records.

use std::fmt::Debug;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use replication::view::evidence::Statement;
use replication::view::{Excerpt, Nonce, Record};

use super::bounded::Bounded;
use super::{Facts, Trial, Witness, random};

/// What keeps the registers of VMs. Every call may take long, or hang; an error is no answer.
pub(super) trait Store: Clone + Debug + Send + 'static {
    /// Fails if an append could not take place.
    fn probe(&self) -> io::Result<()>;

    /// Does what an append and a read do, on something that is removed again.
    fn trial(&self) -> io::Result<Trial>;

    /// What it is made of.
    fn facts(&self) -> io::Result<Facts>;

    /// The newest record of `vm`, if there is one.
    fn newest(&self, vm: &str) -> io::Result<Excerpt>;

    /// The records of `vm` from number `first` on.
    fn from(&self, vm: &str, first: u64) -> io::Result<Excerpt>;

    /// Appends `record` at the witness that it names, if nobody else has its number; gives the records from number `first` on that
    /// are there then.
    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Excerpt>;

    /// Leaves a value for the other side to find.
    fn leave(&self, vm: &str, nonce: Nonce) -> io::Result<()>;

    /// Whether the other side's value is there.
    fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool>;

    /// Takes a value away that was found, or will not be looked for.
    fn take_away(&self, vm: &str, nonce: Nonce) -> io::Result<()>;

    /// States something for others.
    fn state(&self, vm: &str, statement: Statement) -> io::Result<()>;

    /// Removes a statement that is about nothing any more.
    fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()>;

    /// Whether somebody stated it.
    fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool>;
}

/// A witness in such a store.
#[derive(Debug)]
pub(super) struct SharedWitness<S: Store> {
    store: S,
    bounded: Bounded,
    /// What this side left last for its peer.
    left: Mutex<Option<(String, Nonce)>>,
}

impl<S: Store> SharedWitness<S> {
    /// The witness in what `open` opens; it is not asked for anything yet. No call takes longer than `time_max`.
    pub(super) fn open(time_max: Duration, open: impl FnOnce() -> io::Result<S> + Send + 'static) -> io::Result<Self> {
        let bounded = Bounded::new(time_max);
        let store = bounded.call(open)?;
        Ok(Self { store, bounded, left: Mutex::default() })
    }

    /// Does `work` with what is kept of `vm`.
    fn call<T: Send + 'static>(
        &self,
        vm: &str,
        work: impl FnOnce(&S, &str) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (store, vm) = (self.store.clone(), vm.to_owned());
        self.bounded.call(move || work(&store, &vm))
    }
}

impl<S: Store + Sync> Witness for SharedWitness<S> {
    fn probe(&self) -> io::Result<()> {
        self.call("", |store, _| store.probe())
    }

    fn trial(&self) -> io::Result<Trial> {
        self.call("", |store, _| store.trial())
    }

    fn answer_time_max(&self) -> Duration {
        self.bounded.time_max()
    }

    fn facts(&self) -> io::Result<Facts> {
        self.call("", |store, _| store.facts())
    }

    fn newest(&self, vm: &str) -> io::Result<Excerpt> {
        self.call(vm, S::newest)
    }

    fn from(&self, vm: &str, first: u64) -> io::Result<Excerpt> {
        self.call(vm, move |store, vm| store.from(vm, first))
    }

    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Excerpt> {
        let record = record.clone();
        self.call(vm, move |store, vm| store.append(vm, &record, first))
    }

    fn leave(&self, vm: &str) -> io::Result<Nonce> {
        let nonce = Nonce(random());
        let before = self.left.lock().expect("no holder panics").replace((vm.to_owned(), nonce));
        self.call(vm, move |store, vm| {
            if let Some((vm, nonce)) = before {
                store.take_away(&vm, nonce)?;
            }
            store.leave(vm, nonce).map(|()| nonce)
        })
    }

    fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool> {
        self.call(vm, move |store, vm| store.finds(vm, nonce))
    }

    fn take_away(&self, vm: &str, nonce: Nonce) -> io::Result<()> {
        self.call(vm, move |store, vm| store.take_away(vm, nonce))
    }

    fn state(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.call(vm, move |store, vm| store.state(vm, statement))
    }

    fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.call(vm, move |store, vm| store.withdraw(vm, statement))
    }

    fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool> {
        self.call(vm, move |store, vm| store.is_stated(vm, statement))
    }
}

impl<S: Store> Drop for SharedWitness<S> {
    fn drop(&mut self) {
        if let Some((vm, nonce)) = self.left.lock().expect("no holder panics").take()
            && let Err(error) = self.call(&vm, move |store, vm| store.take_away(vm, nonce))
        {
            tracing::debug!(%error, "what was left at the witness stays there");
        }
    }
}
