//! Turns: what devices owe the guest is served between two entries into the guest, a turn at a time.
//!
//! A kick is served by the vCPU thread that kicked, with the board's lock in its hands, so it is served for one turn
//! ([`devices::virtio::turn`]). What is left waits until the guest, the API and other vCPUs had theirs. Then a separate
//! thread has the vCPUs come out again, and the first that does serves the next turn. Until then kicks are only noted:
//! others have the board for as long as the turn had it. While the gate is closed nothing is served.
//!
//! ```text
//!  kick ──▶ turn ──▶ guest runs for as long ──kicked out──▶ turn ──▶ …   until nothing is owed
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use devices::virtio::turn::Others;

use super::gate::Gate;

/// How long a turn lasts at most, but for what it moves at once: a frame, or a piece of a disk's request.
const TURN_MAX: Duration = Duration::from_millis(2);
/// How long the guest runs between two turns: as long as the turn lasted, within these bounds. A turn takes longer than
/// [`TURN_MAX`] if storage does.
const REST_MIN: Duration = Duration::from_micros(500);
const REST_MAX: Duration = Duration::from_millis(20);
/// So many requests are served although the gate closes: an ordinary kick is served in the epoch in which it came.
const REQUESTS_AT_CLOSING: u32 = 16;

/// Whether turns are owed.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    /// Kicks are only noted: what is owed is served when the guest has run.
    rests: AtomicBool,
    /// The guest has run: the next vCPU thread that looks serves a turn.
    is_due: AtomicBool,
    /// How long the last turn lasted, in nanoseconds.
    lasted_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    is_owed: bool,
    has_ended: bool,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the turns panics")
    }

    /// A device owes work.
    pub(super) fn note_owed(&self) {
        self.rests.store(true, Ordering::SeqCst);
        self.lock().is_owed = true;
        self.changed.notify_all();
    }

    /// Whether a turn is to be served now; asking takes it.
    pub(super) fn take_due(&self) -> bool {
        let is_due = self.is_due.load(Ordering::SeqCst) && self.is_due.swap(false, Ordering::SeqCst);
        if is_due {
            self.rests.store(false, Ordering::SeqCst);
        }
        is_due
    }

    pub(crate) fn rest(&self) -> Duration {
        Duration::from_nanos(self.lasted_ns.load(Ordering::SeqCst)).clamp(REST_MIN, REST_MAX)
    }

    /// The machine has ended.
    pub(super) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// Waits until a turn is owed. False when the machine has ended.
    pub(crate) fn wait(&self) -> bool {
        let idle = |state: &mut State| !state.is_owed && !state.has_ended;
        let mut state = self.changed.wait_while(self.lock(), idle).expect("no holder of the turns panics");
        state.is_owed = false;
        !state.has_ended
    }

    /// The next vCPU that comes out serves what is owed.
    pub(crate) fn note_due(&self) {
        self.is_due.store(true, Ordering::SeqCst);
    }
}

/// The waiters while a vCPU thread serves a turn: a thread that closes the gate, at once; everybody else after
/// [`TURN_MAX`], and, of a kick, from the beginning while a turn is owed.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    gate: &'a Gate,
    turns: &'a Turns,
    is_kick: bool,
    since: Option<Instant>,
}

impl<'a> Waiting<'a> {
    /// While a turn is served that was owed.
    pub(super) fn at_turn(gate: &'a Gate, turns: &'a Turns) -> Self {
        Self { gate, turns, is_kick: false, since: None }
    }

    /// While a kick is served.
    pub(super) fn at_kick(gate: &'a Gate, turns: &'a Turns) -> Self {
        Self { is_kick: true, ..Self::at_turn(gate, turns) }
    }
}

impl Others for Waiting<'_> {
    fn want_it(&mut self, requests: u32) -> bool {
        if self.is_kick && self.turns.rests.load(Ordering::SeqCst) {
            return true;
        }
        let lasted = self.since.get_or_insert_with(Instant::now).elapsed();
        lasted >= TURN_MAX || (requests >= REQUESTS_AT_CLOSING && self.gate.is_closing())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            self.turns.lasted_ns.store(since.elapsed().as_nanos() as u64, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_ends_when_the_gate_closes_but_not_before_an_ordinary_kick_is_served() {
        let (gate, turns) = (Gate::new(1), Turns::default());
        let mut waiting = Waiting::at_turn(&gate, &turns);
        waiting.since = Some(Instant::now() + TURN_MAX);
        assert!(!waiting.want_it(REQUESTS_AT_CLOSING));
        gate.request_boundary();
        assert!(!waiting.want_it(0));
        assert!(waiting.want_it(REQUESTS_AT_CLOSING));
    }

    #[test]
    fn turn_ends_after_its_time_although_nobody_closes_the_gate() {
        let (gate, turns) = (Gate::new(1), Turns::default());
        let mut waiting = Waiting::at_turn(&gate, &turns);
        waiting.since = Instant::now().checked_sub(TURN_MAX);
        assert!(waiting.want_it(1));
        drop(waiting);
        assert!(turns.rest() >= TURN_MAX, "others have the board for as long");
    }

    #[test]
    fn kicks_are_only_noted_while_a_turn_is_owed() {
        let (gate, turns) = (Gate::new(1), Turns::default());
        turns.note_owed();
        assert!(Waiting::at_kick(&gate, &turns).want_it(0));
        assert!(!Waiting::at_turn(&gate, &turns).want_it(0), "another may be owed already");
        turns.is_due.store(true, Ordering::SeqCst);
        assert!(turns.take_due());
        assert!(!Waiting::at_kick(&gate, &turns).want_it(0));
    }

    #[test]
    fn what_is_owed_twice_is_waited_for_once_and_the_end_ends_the_wait() {
        let turns = Turns::default();
        turns.note_owed();
        turns.note_owed();
        assert!(turns.wait());
        assert!(!turns.take_due(), "it is due when the guest has run");
        turns.end();
        assert!(!turns.wait());
    }
}
