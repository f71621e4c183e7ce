//! The gate: how all vCPUs are stopped together and let go together.
//!
//! Two users close it. A *boundary* is led by the last vCPU thread that arrives: it does the boundary's work itself, so
//! that a guest with one vCPU pays no thread switch. A *hold* belongs to another thread (snapshot, the base of a session):
//! vCPUs wait until its guard is dropped. A hold that is *kept* (pause) outlives its guard; others may hold the gate
//! meanwhile, one at a time, and when they are done the guest stays stopped.
//!
//! ```text
//!            request_boundary            all parked: last one leads
//!   Open ───────────────────► Boundary ───────────────────────────► Open
//!    │  hold                                                          ▲
//!    ├──────► Held ── all parked: guard given ── guard dropped ───────┤
//!    │                 ▲         │ keep                               │
//!    │            hold └── Held, kept ── let_go, and no guard ────────┘
//!    └─ keep_closed, before the start ──▲
//!   any ── end ──► Ended (arrivals return, vCPU threads finish)
//! ```
//!
//! Invariant: while a leader runs or a [`Held`] guard lives, no vCPU is in `KVM_RUN` and every exit is completed,
//! because a vCPU thread arrives only after that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::kick::Kicker;

/// Whoever waits for a vCPU to come out kicks it again this often.
const KICK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Boundary,
    Held,
    Ended,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// vCPU threads that have not finished.
    running: usize,
    parked: usize,
    /// A boundary was asked for while the gate could not close for it: it comes right after the opening.
    again: bool,
    /// Held: a guard lives.
    guarded: bool,
    /// Held, with or without a guard, until it is let go.
    kept: bool,
    /// When the first vCPU of this closing came out: the guest's pause begins there.
    first_out: Option<Instant>,
    /// Counts openings, so that a waiter knows that its closing is over.
    openings: u64,
    /// When it began to close, unless it is open.
    closed_at: Option<Instant>,
    /// Since when it is open, unless it is not.
    open_since: Option<Instant>,
    /// How long it was open before that, all in all.
    was_open: Duration,
}

/// What a vCPU thread does after it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Run the guest on.
    Go,
    /// The machine ends.
    Ended,
}

/// Why a guest is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHeld {
    /// The machine has ended.
    Ended,
    /// Its deadline passed.
    TooLate,
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|at| Instant::now() >= at)
}

/// Stops and starts all vCPUs of a machine.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    closing: AtomicBool,
    /// Threads that want to hold the gate and wait for it to open. No boundary closes it before they had their turn.
    holds_wanted: AtomicUsize,
    kicker: Kicker,
}

impl Gate {
    /// A gate for `vcpus` vCPU threads, open.
    pub fn new(vcpus: usize) -> Self {
        let state = State {
            mode: Mode::Open,
            running: vcpus,
            parked: 0,
            again: false,
            guarded: false,
            kept: false,
            first_out: None,
            openings: 0,
            closed_at: None,
            open_since: Some(Instant::now()),
            was_open: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
            holds_wanted: AtomicUsize::new(0),
            kicker: Kicker::new(vcpus),
        }
    }

    /// Where vCPU threads register to be kicked.
    pub fn kicker(&self) -> &Kicker {
        &self.kicker
    }

    /// Whether vCPUs should come out: checked before every entry into the guest.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// How long the gate was open since it was made: how long the guest could run, as far as boundaries, holds and pauses
    /// are concerned. Never less than before.
    pub fn time_open(&self) -> Duration {
        self.lock().time_open()
    }

    /// Since when it cannot close, if it is to be closed: a vCPU has not come out. Also how many have not.
    pub fn late(&self) -> Option<(Duration, usize)> {
        let state = self.lock();
        let missing = state.running.saturating_sub(state.parked);
        state.closed_at.filter(|_| state.mode != Mode::Ended && missing > 0).map(|at| (at.elapsed(), missing))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the gate panics while changing it")
    }

    fn close(&self, state: &mut State, mode: Mode) {
        state.close(mode);
        self.closing.store(true, Ordering::SeqCst);
        self.kicker.kick_all();
    }

    fn open(&self, state: &mut State) {
        if state.mode == Mode::Ended {
            return;
        }
        state.mode = Mode::Open;
        state.open_since = Some(Instant::now());
        state.closed_at = None;
        state.openings += 1;
        state.first_out = None;
        // Counted anew for each closing: a thread that has not woken from this one yet must arrive again for the next.
        state.parked = 0;
        self.closing.store(false, Ordering::SeqCst);
        self.changed.notify_all();
        if !self.is_hold_wanted() && std::mem::take(&mut state.again) {
            self.close(state, Mode::Boundary);
        }
    }

    /// Whether a thread waits to hold the gate: whoever leads a boundary must not wait for anything that thread does.
    pub fn is_hold_wanted(&self) -> bool {
        self.holds_wanted.load(Ordering::SeqCst) > 0
    }

    /// Asks for a boundary: one begins after this call, however the gate stands now. One that is on its way but has
    /// not begun serves the request too.
    pub fn request_boundary(&self) {
        let mut state = self.lock();
        match state.mode {
            Mode::Open if self.is_hold_wanted() => state.again = true,
            Mode::Open if state.running > 0 => {
                state.close(Mode::Boundary);
                self.closing.store(true, Ordering::SeqCst);
                // Who comes out takes this lock first. A kick that comes after an opening only costs an entry.
                drop(state);
                self.kicker.kick_all();
            }
            Mode::Boundary | Mode::Held => state.again = true,
            Mode::Open | Mode::Ended => {}
        }
    }

    /// A vCPU thread has come out with its exit completed. Runs `lead` if it is the last one of a boundary; returns
    /// when the guest may go on. `lead` is told when the first vCPU came out. Whoever led runs `after` when the gate is
    /// open again: what need not be done while the guest is stopped.
    pub fn arrive(&self, lead: impl FnOnce(Instant), after: impl FnOnce()) -> Arrival {
        let mut state = self.lock();
        if matches!(state.mode, Mode::Open | Mode::Ended) {
            return if state.mode == Mode::Ended { Arrival::Ended } else { Arrival::Go };
        }
        state.parked += 1;
        let first_out = *state.first_out.get_or_insert_with(Instant::now);
        let opening = state.openings;
        if state.mode == Mode::Boundary && state.parked == state.running {
            state.again = false;
            drop(state);
            lead(first_out);
            state = self.lock();
            self.open(&mut state);
            drop(state);
            after();
            state = self.lock();
        } else {
            self.changed.notify_all();
            while state.openings == opening && state.mode != Mode::Ended {
                state = self.changed.wait(state).expect("no holder of the gate panics while changing it");
            }
        }
        if state.mode == Mode::Ended { Arrival::Ended } else { Arrival::Go }
    }

    /// Stops the guest for as long as the guard lives. `None` if the machine has ended.
    ///
    /// Does not wait for the end of a hold that is kept: an operator's pause may last, and whoever deals with the backup
    /// must go on meanwhile.
    pub fn hold(&self) -> Option<Held<'_>> {
        match self.hold_by(None) {
            Ok(held) => Some(held),
            Err(NotHeld::Ended) => None,
            Err(NotHeld::TooLate) => unreachable!("a hold without a deadline is never too late"),
        }
    }

    /// The same, for who cannot wait longer than `deadline`: a vCPU thread may be stuck in the storage of a disk. If it is
    /// too late, the guest runs as if nobody had asked.
    pub fn hold_until(&self, deadline: Instant) -> Result<Held<'_>, NotHeld> {
        self.hold_by(Some(deadline))
    }

    fn hold_by(&self, deadline: Option<Instant>) -> Result<Held<'_>, NotHeld> {
        let mut state = self.lock();
        self.holds_wanted.fetch_add(1, Ordering::SeqCst);
        while state.running > 0 && !state.can_be_held() && !is_past(deadline) {
            state = self.wait(state, deadline);
        }
        self.holds_wanted.fetch_sub(1, Ordering::SeqCst);
        if state.mode == Mode::Ended || state.running == 0 {
            return Err(NotHeld::Ended);
        }
        if !state.can_be_held() {
            return Err(NotHeld::TooLate);
        }
        if state.mode == Mode::Open {
            self.close(&mut state, Mode::Held);
        }
        state.guarded = true;
        self.wait_for_parked(state, deadline)
    }

    /// Waits until no vCPU is in the guest any more.
    fn wait_for_parked<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> Result<Held<'a>, NotHeld> {
        while state.mode != Mode::Ended && state.parked < state.running && !is_past(deadline) {
            let step = Instant::now() + KICK_AGAIN;
            state = self.wait(state, Some(deadline.map_or(step, |deadline| deadline.min(step))));
            if state.mode != Mode::Ended && state.parked < state.running {
                // The kernel may have no room for a signal.
                self.kicker.kick_all();
            }
        }
        if state.mode == Mode::Ended || state.running == 0 {
            return Err(NotHeld::Ended);
        }
        let is_parked = state.parked == state.running;
        drop(state);
        // Its end opens the gate, if it is not kept.
        let held = Held { gate: self };
        if is_parked { Ok(held) } else { Err(NotHeld::TooLate) }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Option<Instant>) -> MutexGuard<'a, State> {
        let no_panic = "no holder of the gate panics while changing it";
        match deadline {
            None => self.changed.wait(state).expect(no_panic),
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, left).expect(no_panic).0
            }
        }
    }

    /// Closes it from the beginning, before a vCPU has run: for a guest that is paused when it comes here. Until
    /// [`Gate::let_go`].
    pub fn keep_closed(&self) {
        let mut state = self.lock();
        assert!(
            state.mode == Mode::Open && state.parked == 0,
            "nobody uses the gate of a machine that was not started"
        );
        self.close(&mut state, Mode::Held);
        state.kept = true;
    }

    /// Ends a hold that was kept; the guest goes on when no other guard lives. The caller knows that there is one.
    pub fn let_go(&self) {
        let mut state = self.lock();
        assert!(state.kept || state.mode == Mode::Ended, "only a kept hold is let go");
        state.kept = false;
        if !state.guarded {
            self.open(&mut state);
        }
    }

    /// Ends the machine: every vCPU thread comes out and finishes.
    pub fn end(&self) {
        let mut state = self.lock();
        self.close(&mut state, Mode::Ended);
        self.changed.notify_all();
    }

    /// A vCPU thread finishes and will not arrive again.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.running -= 1;
        self.changed.notify_all();
    }
}

/// All vCPUs are stopped while this lives.
#[derive(Debug)]
pub struct Held<'a> {
    gate: &'a Gate,
}

impl Held<'_> {
    /// Keeps the guest stopped beyond this guard, until [`Gate::let_go`].
    pub fn keep(self) {
        self.gate.lock().kept = true;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.guarded = false;
        if state.kept {
            self.gate.changed.notify_all();
        } else {
            self.gate.open(&mut state);
        }
    }
}

impl State {
    /// Leaves the mode in which the guest runs, if it is in it.
    fn close(&mut self, mode: Mode) {
        self.was_open = self.time_open();
        self.open_since = None;
        self.closed_at = Some(Instant::now());
        self.mode = mode;
    }

    fn time_open(&self) -> Duration {
        self.was_open + self.open_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether a hold may begin, or never will.
    fn can_be_held(&self) -> bool {
        match self.mode {
            Mode::Open | Mode::Ended => true,
            Mode::Held => self.kept && !self.guarded,
            Mode::Boundary => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Threads that behave like vCPUs: `inside` counts those that are "in the guest".
    fn vcpus(
        gate: &Arc<Gate>,
        count: usize,
        inside: &Arc<AtomicUsize>,
        led: &Arc<AtomicUsize>,
    ) -> Vec<thread::JoinHandle<()>> {
        (0..count)
            .map(|_| {
                let (gate, inside, led) = (Arc::clone(gate), Arc::clone(inside), Arc::clone(led));
                thread::spawn(move || {
                    loop {
                        if gate.is_closing() {
                            let lead = |_| {
                                assert_eq!(inside.load(Ordering::SeqCst), 0, "a vCPU runs during a boundary");
                                led.fetch_add(1, Ordering::SeqCst);
                            };
                            if gate.arrive(lead, || {}) == Arrival::Ended {
                                gate.leave();
                                return;
                            }
                        }
                        inside.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect()
    }

    #[test]
    fn late_is_a_gate_that_a_vcpu_keeps_from_closing_and_none_that_is_closed_or_open() {
        let gate = Gate::new(2);
        assert_eq!(gate.late(), None);
        gate.request_boundary();
        let (first, missing) = gate.late().expect("nobody came out");
        assert_eq!(missing, 2);
        assert!(gate.late().expect("nobody came out").0 >= first);
        thread::scope(|scope| {
            scope.spawn(|| gate.arrive(|_| {}, || {}));
            while gate.late().is_some_and(|(_, missing)| missing == 2) {
                thread::yield_now();
            }
            assert_eq!(gate.late().map(|(_, missing)| missing), Some(1));
            gate.arrive(|_| assert_eq!(gate.late(), None, "all are out"), || {});
        });
        assert_eq!(gate.late(), None);
    }

    #[test]
    fn boundaries_and_holds_exclude_running_vcpus() {
        let gate = Arc::new(Gate::new(3));
        let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads = vcpus(&gate, 3, &inside, &led);
        for _ in 0..200 {
            gate.request_boundary();
            let held = gate.hold().expect("the machine runs");
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            drop(held);
        }
        gate.end();
        threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
        assert!(led.load(Ordering::SeqCst) > 0);
        assert!(gate.hold().is_none());
    }

    #[test]
    fn request_during_a_boundary_brings_another_one() {
        // A request that came after the leader had looked at what waits, and before the gate opened, was lost: the
        // pacer had asked, was not asked to ask again, and a guest that slept never saw a boundary any more.
        let gate = Arc::new(Gate::new(1));
        let led = Arc::new(AtomicUsize::new(0));
        let vcpu = {
            let (gate, led) = (Arc::clone(&gate), Arc::clone(&led));
            thread::spawn(move || {
                while led.load(Ordering::SeqCst) < 2 {
                    let lead = |_| {
                        if led.fetch_add(1, Ordering::SeqCst) == 0 {
                            gate.request_boundary();
                        }
                    };
                    if gate.is_closing() && gate.arrive(lead, || {}) == Arrival::Ended {
                        return;
                    }
                    thread::yield_now();
                }
            })
        };
        gate.request_boundary();
        vcpu.join().expect("the second boundary came");
        assert_eq!(led.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn leader_that_waits_sees_that_a_hold_is_wanted_and_the_hold_comes_before_the_next_boundary() {
        // A leader waited for room in flight, which only the ship thread makes; the ship thread waited to hold the gate,
        // to end the epochs of a guest whose backup was lost. Neither went on.
        let gate = Arc::new(Gate::new(1));
        let held = Arc::new(AtomicBool::new(false));
        let vcpu = {
            let (gate, held) = (Arc::clone(&gate), Arc::clone(&held));
            thread::spawn(move || {
                let mut led = 0;
                loop {
                    let lead = |_| {
                        led += 1;
                        while led == 1 && !gate.is_hold_wanted() {
                            thread::yield_now();
                        }
                        assert!(led == 1 || held.load(Ordering::SeqCst), "a boundary went before the hold");
                        gate.request_boundary();
                    };
                    if gate.is_closing() && gate.arrive(lead, || ()) == Arrival::Ended {
                        return gate.leave();
                    }
                }
            })
        };
        gate.request_boundary();
        let guard = gate.hold().expect("the machine runs");
        held.store(true, Ordering::SeqCst);
        drop(guard);
        gate.end();
        vcpu.join().expect("the vCPU thread did not panic");
    }

    #[test]
    fn paused_guest_can_be_held_by_another_and_stays_paused() {
        // The thread that deals with the backup waited for the gate until the operator resumed the guest: no backup was
        // let go, none could join, and control frames stayed where they were.
        let gate = Arc::new(Gate::new(2));
        let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads = vcpus(&gate, 2, &inside, &led);
        gate.hold().expect("the machine runs").keep();
        for _ in 0..100 {
            let held = gate.hold().expect("a paused machine can be held");
            gate.request_boundary();
            drop(held);
            assert_eq!(inside.load(Ordering::SeqCst), 0, "the guest runs although it is paused");
        }
        let held = gate.hold().expect("a paused machine can be held");
        gate.let_go();
        thread::yield_now();
        assert_eq!(inside.load(Ordering::SeqCst), 0, "the guest runs although it is held");
        assert_eq!(led.load(Ordering::SeqCst), 0, "a boundary went during a pause");
        drop(held);
        while led.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        gate.end();
        threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
    }

    #[test]
    fn time_open_stands_still_while_the_guest_does() {
        let gate = Arc::new(Gate::new(1));
        let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads = vcpus(&gate, 1, &inside, &led);
        let held = gate.hold().expect("the machine runs");
        let before = gate.time_open();
        thread::sleep(Duration::from_millis(5));
        assert_eq!(gate.time_open(), before, "it counts while the guest is held");
        held.keep();
        gate.request_boundary();
        thread::sleep(Duration::from_millis(5));
        assert_eq!(gate.time_open(), before, "it counts while the guest is paused");
        gate.let_go();
        let open = Instant::now();
        while gate.time_open() < before + Duration::from_millis(5) {
            assert!(open.elapsed() < Duration::from_secs(60), "it does not count although the guest runs");
            thread::yield_now();
        }
        gate.end();
        threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
        let after = gate.time_open();
        thread::sleep(Duration::from_millis(5));
        assert_eq!(gate.time_open(), after, "it counts after the end");
    }

    #[test]
    fn gate_that_is_kept_closed_lets_nobody_in_until_it_is_let_go() {
        let gate = Arc::new(Gate::new(2));
        gate.keep_closed();
        let opened = gate.time_open();
        let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        gate.request_boundary();
        let threads = vcpus(&gate, 2, &inside, &led);
        drop(gate.hold().expect("a paused machine can be held"));
        assert_eq!((inside.load(Ordering::SeqCst), led.load(Ordering::SeqCst)), (0, 0), "the guest ran");
        assert_eq!(gate.time_open(), opened, "time passed for it");
        gate.let_go();
        while led.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        gate.end();
        threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
    }

    #[test]
    fn hold_that_comes_too_late_leaves_the_gate_as_it_was() {
        // Nobody arrives: a vCPU is stuck.
        let gate = Gate::new(1);
        let soon = || Instant::now() + Duration::from_millis(2);
        assert_eq!(gate.hold_until(soon()).expect_err("nobody arrives"), NotHeld::TooLate);
        assert!(!gate.is_closing() && !gate.is_hold_wanted());
        // A boundary is under way and does not come to an end; the next one, asked for meanwhile, comes all the same.
        gate.request_boundary();
        let endless = |_| {
            gate.request_boundary();
            assert_eq!(gate.hold_until(soon()).expect_err("no end"), NotHeld::TooLate);
        };
        assert_eq!(gate.arrive(endless, || {}), Arrival::Go);
        assert!(gate.is_closing() && !gate.is_hold_wanted());
        let mut led = 0;
        assert_eq!(gate.arrive(|_| led += 1, || {}), Arrival::Go);
        assert!(led == 1 && !gate.is_closing());
        // Another holds it.
        thread::scope(|scope| {
            scope.spawn(|| {
                while gate.arrive(|_| {}, || {}) != Arrival::Ended {
                    thread::yield_now();
                }
                gate.leave();
            });
            let held = gate.hold().expect("the machine runs");
            assert_eq!(gate.hold_until(soon()).expect_err("it is held"), NotHeld::TooLate);
            drop(held);
            gate.hold_until(Instant::now() + Duration::from_secs(60)).expect("in time").keep();
            gate.let_go();
            gate.end();
        });
        assert_eq!(gate.hold_until(soon()).expect_err("it ended"), NotHeld::Ended);
    }

    #[test]
    fn end_while_held_releases_the_vcpus() {
        let gate = Arc::new(Gate::new(2));
        let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads = vcpus(&gate, 2, &inside, &led);
        let held = gate.hold().expect("the machine runs");
        gate.end();
        drop(held);
        threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
    }
}
