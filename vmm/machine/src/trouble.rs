//! What the guest's own disk requests find wrong with the host's storage, on its way to who tells the operator.
//!
//! A request that finds no room waits in the guest's ring, and is retried until there is some. An I/O error would make
//! the guest's file system read-only for want of a few bytes. A vCPU thread retries it between two entries into the
//! guest, so nothing is written to an image while the guest is held, paused or at a boundary.
//!
//! A request that fails while a backup could continue the guest waits too, unanswered. If the guest saw the error of
//! this host's disk, it would take it along to the other host, whose disk is sound.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Something an operator cares about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// There is no room for this image; a request waits.
    Full(PathBuf),
    /// The request is done.
    HasRoom(PathBuf),
    /// The guest was given an I/O error.
    Failed(String),
    /// A request failed, and the guest did not see the error: a backup could continue it.
    Withheld(String),
}

#[derive(Debug, Default)]
struct State {
    news: VecDeque<News>,
    /// The image that a request waits for.
    full: Option<PathBuf>,
    /// A request waits, for room or for a commit.
    waits: bool,
    /// An error was told. One for each disk request would be too many.
    has_failed: bool,
    /// Why a request failed that waits because a backup could continue.
    withheld: Option<String>,
    ended: bool,
}

/// The troubles of all disks of a machine.
#[derive(Debug, Default)]
pub struct Troubles {
    state: Mutex<State>,
    changed: Condvar,
    /// There is something to take back when a request succeeds.
    is_waiting: AtomicBool,
    /// It is time to try again.
    retries: AtomicBool,
    /// A backup could continue the guest.
    is_followed: AtomicBool,
    /// A flush began to wait for its sync.
    flushes: AtomicBool,
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the troubles panics")
    }

    /// A request waits; for room in the image at `full`, or for a commit.
    pub(super) fn note_waiting(&self, full: Option<PathBuf>) {
        let mut state = self.lock();
        if let Some(path) = full
            && state.full.as_ref() != Some(&path)
        {
            state.full = Some(path.clone());
            state.news.push_back(News::Full(path));
        }
        state.waits = true;
        self.is_waiting.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// A write to `path` succeeded.
    pub(super) fn note_written(&self, path: &std::path::Path) {
        if !self.is_waiting.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.lock();
        if state.full.take_if(|full| full == path).is_some() {
            state.news.push_back(News::HasRoom(path.to_owned()));
            self.changed.notify_all();
        }
        self.is_waiting.store(state.full.is_some() || state.waits, Ordering::Release);
    }

    /// A backup could continue the guest, or none could any more.
    pub fn set_followed(&self, is_followed: bool) {
        self.is_followed.store(is_followed, Ordering::Release);
    }

    /// Whether the guest is not to be told what this host's storage does.
    pub(super) fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Acquire)
    }

    /// A request failed, and waits until it is decided who continues the guest.
    pub(super) fn note_withheld(&self, why: &str) {
        let mut state = self.lock();
        state.withheld = Some(why.to_owned());
        state.waits = true;
        self.is_waiting.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// The guest was given an I/O error.
    pub(super) fn note_failed(&self, why: &str) {
        let mut state = self.lock();
        // It may have been withheld before.
        self.is_waiting.store(state.full.is_some() || state.waits, Ordering::Release);
        if !std::mem::replace(&mut state.has_failed, true) {
            state.news.push_back(News::Failed(why.to_owned()));
            self.changed.notify_all();
        }
    }

    /// The machine has ended.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Whether a request waits: the guest stands still as far as that disk goes.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }

    /// Waits until there is something to take; false when the machine has ended.
    pub fn wait(&self) -> bool {
        let state = self.lock();
        let idle = |state: &mut State| state.news.is_empty() && !state.waits && !state.ended;
        !self.changed.wait_while(state, idle).expect("no holder of the troubles panics").ended
    }

    /// Takes the news, and whether a request waits that is to be tried again soon. A machine that has ended may have some left.
    pub fn take(&self) -> (Vec<News>, bool) {
        let mut state = self.lock();
        let withheld = state.withheld.take().map(News::Withheld);
        let news = state.news.drain(..).chain(withheld).collect();
        (news, std::mem::take(&mut state.waits))
    }

    /// From now on the next vCPU thread that looks tries again.
    pub(super) fn ask_retry(&self) {
        self.retries.store(true, Ordering::SeqCst);
    }

    /// A flush waits for its sync.
    pub(super) fn note_flush(&self) {
        self.flushes.store(true, Ordering::SeqCst);
    }

    /// Whether a flush began to wait since the last call.
    pub(super) fn take_flush(&self) -> bool {
        self.flushes.load(Ordering::SeqCst) && self.flushes.swap(false, Ordering::SeqCst)
    }

    /// Whether it is time to try again; asking takes it.
    pub(super) fn take_retry(&self) -> bool {
        self.retries.load(Ordering::SeqCst) && self.retries.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn troubles_are_told_once_and_taken_back_when_a_write_succeeds() {
        let troubles = Troubles::default();
        let image = PathBuf::from("a.img");
        troubles.note_written(&image);
        troubles.note_waiting(Some(image.clone()));
        troubles.note_waiting(Some(image.clone()));
        assert_eq!((troubles.wait(), troubles.take()), (true, (vec![News::Full(image.clone())], true)));
        troubles.note_waiting(Some(image.clone()));
        assert_eq!(troubles.take(), (vec![], true), "it is old news that it still waits");
        troubles.note_written(Path::new("b.img"));
        assert!(troubles.is_waiting(), "another disk's write says nothing of this one");
        troubles.note_written(&image);
        assert!(!troubles.is_waiting());
        troubles.note_failed("EIO");
        troubles.note_failed("EIO again");
        assert_eq!(troubles.take(), (vec![News::HasRoom(image), News::Failed("EIO".into())], false));
    }

    #[test]
    fn what_came_before_the_end_of_the_machine_is_not_lost_with_it() {
        let troubles = Troubles::default();
        troubles.note_failed("EIO");
        troubles.end();
        assert!(!troubles.wait(), "nobody waits for more");
        assert_eq!(troubles.take(), (vec![News::Failed("EIO".into())], false));
    }

    #[test]
    fn failure_that_is_withheld_is_told_at_each_try_until_the_guest_is_given_it() {
        let troubles = Troubles::default();
        for _ in 0..2 {
            troubles.note_withheld("EIO");
            assert_eq!(troubles.take(), (vec![News::Withheld("EIO".into())], true));
            assert!(troubles.is_waiting(), "the guest's watchdog does not count meanwhile");
        }
        troubles.note_failed("EIO");
        assert!(!troubles.is_waiting());
        assert_eq!(troubles.take(), (vec![News::Failed("EIO".into())], false));
    }

    #[test]
    fn retry_is_asked_for_once() {
        let troubles = Troubles::default();
        assert!(!troubles.take_retry());
        troubles.ask_retry();
        assert_eq!((troubles.take_retry(), troubles.take_retry()), (true, false));
    }
}
