//! Who is told that something happened, where nobody can wait for it.

use std::fmt;
use std::sync::Mutex;

type Told = Box<dyn Fn() + Send + Sync>;

/// A place for one who is told.
#[derive(Default)]
pub(crate) struct Watcher(Mutex<Option<Told>>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

impl Watcher {
    /// From now on `told` is called, and nobody else.
    pub(crate) fn set(&self, told: impl Fn() + Send + Sync + 'static) {
        *self.0.lock().expect("nobody who is told panics") = Some(Box::new(told));
    }

    pub(crate) fn tell(&self) {
        if let Some(told) = &*self.0.lock().expect("nobody who is told panics") {
            told();
        }
    }
}
