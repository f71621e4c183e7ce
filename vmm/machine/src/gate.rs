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

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::kick::Kicker;
use super::watcher::Watcher;

/// Whoever waits for a vCPU to come out kicks it again this often.
pub const KICK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Boundary,
    Held,
    Ended,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// vCPU threads that have not finished.
    running: usize,
    parked: usize,
    /// Threads that wait for a change: telling nobody costs a system call, in every pause.
    waiting: usize,
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
    /// Since when it is open, unless it is not.
    open_since: Option<Instant>,
    /// Since when it is closed, unless it is not.
    closed_since: Option<Instant>,
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
    /// Told when a hold is wanted.
    watcher: Watcher,
    kicker: Kicker,
    /// Kicks of vCPUs that had been kicked before and had not come out.
    kicked_again: AtomicU64,
}

/// vCPUs that do not come out although the gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// How many.
    pub vcpus: usize,
    /// For how long it is closed.
    pub time: Duration,
}

impl Gate {
    /// A gate for `vcpus` vCPU threads, open.
    pub fn new(vcpus: usize) -> Self {
        let state = State {
            phase: Phase::Open,
            running: vcpus,
            parked: 0,
            waiting: 0,
            again: false,
            guarded: false,
            kept: false,
            first_out: None,
            openings: 0,
            open_since: Some(Instant::now()),
            closed_since: None,
            was_open: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
            holds_wanted: AtomicUsize::new(0),
            watcher: Watcher::default(),
            kicker: Kicker::new(vcpus),
            kicked_again: AtomicU64::new(0),
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the gate panics while changing it")
    }

    /// Tells those who wait that something has changed.
    fn tell(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    fn close(&self, state: &mut State, phase: Phase) {
        state.close(phase);
        self.closing.store(true, Ordering::SeqCst);
        self.kicker.kick_all();
    }

    fn open(&self, state: &mut State) {
        if state.phase == Phase::Ended {
            return;
        }
        state.phase = Phase::Open;
        state.open_since = Some(Instant::now());
        state.closed_since = None;
        state.openings += 1;
        state.first_out = None;
        // Counted anew for each closing: a thread that has not woken from this one yet must arrive again for the next.
        state.parked = 0;
        self.closing.store(false, Ordering::SeqCst);
        self.tell(state);
        if !self.is_hold_wanted() && std::mem::take(&mut state.again) {
            self.close(state, Phase::Boundary);
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
        match state.phase {
            Phase::Open if self.is_hold_wanted() => state.again = true,
            Phase::Open if state.running > 0 => {
                state.close(Phase::Boundary);
                self.closing.store(true, Ordering::SeqCst);
                // Who comes out takes this lock first. A kick that comes after an opening only costs an entry.
                drop(state);
                self.kicker.kick_all();
            }
            Phase::Boundary | Phase::Held => state.again = true,
            Phase::Open | Phase::Ended => {}
        }
    }

    /// A vCPU thread has come out with its exit completed. Runs `lead` if it is the last one of a boundary; returns
    /// when the guest may go on. `lead` is told when the first vCPU came out. Whoever led runs `after` when the gate is
    /// open again: what need not be done while the guest is stopped.
    pub fn arrive(&self, lead: impl FnOnce(Instant), after: impl FnOnce()) -> Arrival {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open | Phase::Ended) {
            return if state.phase == Phase::Ended { Arrival::Ended } else { Arrival::Go };
        }
        state.parked += 1;
        let first_out = *state.first_out.get_or_insert_with(Instant::now);
        let opening = state.openings;
        if state.phase == Phase::Boundary && state.parked == state.running {
            state.again = false;
            drop(state);
            lead(first_out);
            state = self.lock();
            self.open(&mut state);
            drop(state);
            after();
            state = self.lock();
        } else {
            self.tell(&state);
            while state.openings == opening && state.phase != Phase::Ended {
                state.waiting += 1;
                state = self.changed.wait(state).expect("no holder of the gate panics while changing it");
                state.waiting -= 1;
            }
        }
        if state.phase == Phase::Ended { Arrival::Ended } else { Arrival::Go }
    }

    /// Has `told` called from now on whenever a hold is wanted, with the gate locked: who keeps the guest at a boundary lets go then.
    pub fn watch_holds(&self, told: impl Fn() + Send + Sync + 'static) {
        self.watcher.set(told);
    }

    /// Stops the guest for as long as the guard lives. `None` if the machine has ended.
    ///
    /// Does not wait for the end of a hold that is kept: an operator's pause may last, and whoever deals with the backup
    /// must go on meanwhile.
    pub fn hold(&self) -> Option<Held<'_>> {
        self.hold_unless(|| false)
    }

    /// The same, unless `give_up` says meanwhile that nobody needs it any more: it is asked again and again, with the gate
    /// locked. Then the guest runs as if nobody had asked.
    pub fn hold_unless(&self, give_up: impl Fn() -> bool) -> Option<Held<'_>> {
        self.hold_by(None, &give_up).ok()
    }

    /// The same, for who cannot wait longer than `deadline`: a vCPU thread may be stuck in the storage of a disk. If it is
    /// too late, the guest runs as if nobody had asked.
    pub fn hold_until(&self, deadline: Instant) -> Result<Held<'_>, NotHeld> {
        self.hold_by(Some(deadline), &|| false)
    }

    fn hold_by(&self, deadline: Option<Instant>, gives_up: &dyn Fn() -> bool) -> Result<Held<'_>, NotHeld> {
        let is_over = || is_past(deadline) || gives_up();
        let mut state = self.lock();
        self.holds_wanted.fetch_add(1, Ordering::SeqCst);
        self.watcher.tell();
        while state.running > 0 && !state.can_be_held() && !is_over() {
            state = self.wait_for_vcpus(state, deadline);
        }
        self.holds_wanted.fetch_sub(1, Ordering::SeqCst);
        if state.phase == Phase::Ended || state.running == 0 {
            return Err(NotHeld::Ended);
        }
        if !state.can_be_held() {
            return Err(NotHeld::TooLate);
        }
        if state.phase == Phase::Open {
            self.close(&mut state, Phase::Held);
        }
        state.guarded = true;
        while state.are_awaited() && !is_over() {
            state = self.wait_for_vcpus(state, deadline);
        }
        if state.phase == Phase::Ended || state.running == 0 {
            return Err(NotHeld::Ended);
        }
        let is_parked = state.parked == state.running;
        drop(state);
        // Its end opens the gate, if it is not kept.
        let held = Held { gate: self };
        if is_parked { Ok(held) } else { Err(NotHeld::TooLate) }
    }

    /// Waits for a change, and kicks vCPUs again that do not come out.
    fn wait_for_vcpus<'a>(&self, mut state: MutexGuard<'a, State>, deadline: Option<Instant>) -> MutexGuard<'a, State> {
        let step = Instant::now() + KICK_AGAIN;
        let left = deadline.map_or(step, |deadline| deadline.min(step)).saturating_duration_since(Instant::now());
        let no_panic = "no holder of the gate panics while changing it";
        state.waiting += 1;
        let mut state = self.changed.wait_timeout(state, left).expect(no_panic).0;
        state.waiting -= 1;
        if Instant::now() >= step {
            self.kick_late(&state);
        }
        state
    }

    /// Kicks vCPUs again that were kicked and have not come out: the kernel may have had no room for a signal. For who sees
    /// that a boundary it asked for takes longer than [`KICK_AGAIN`].
    pub fn kick_again(&self) {
        self.kick_late(&self.lock());
    }

    fn kick_late(&self, state: &State) {
        let is_late = state.closed_since.is_some_and(|since| since.elapsed() >= KICK_AGAIN);
        if is_late && state.are_awaited() {
            self.kicked_again.fetch_add(1, Ordering::Relaxed);
            self.kicker.kick_all();
        }
    }

    /// How often vCPUs were kicked again.
    pub fn kicked_again(&self) -> u64 {
        self.kicked_again.load(Ordering::Relaxed)
    }

    /// vCPUs that are waited for, if there are some. Not those that wait for something themselves, once they are out.
    pub fn late(&self) -> Option<Late> {
        let state = self.lock();
        let since = state.closed_since.filter(|_| state.are_awaited())?;
        Some(Late { vcpus: state.running - state.parked, time: since.elapsed() })
    }

    /// Closes it from the beginning, before a vCPU has run: for a guest that is paused when it comes here. Until
    /// [`Gate::let_go`].
    pub fn keep_closed(&self) {
        let mut state = self.lock();
        assert!(
            state.phase == Phase::Open && state.parked == 0,
            "nobody uses the gate of a machine that was not started"
        );
        self.close(&mut state, Phase::Held);
        state.kept = true;
    }

    /// Ends a hold that was kept; the guest goes on when no other guard lives. The caller knows that there is one.
    pub fn let_go(&self) {
        let mut state = self.lock();
        assert!(state.kept || state.phase == Phase::Ended, "only a kept hold is let go");
        state.kept = false;
        if !state.guarded {
            self.open(&mut state);
        }
    }

    /// Ends the machine: every vCPU thread comes out and finishes.
    pub fn end(&self) {
        let mut state = self.lock();
        self.close(&mut state, Phase::Ended);
        self.tell(&state);
    }

    /// A vCPU thread finishes and will not arrive again.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.running -= 1;
        self.tell(&state);
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
            self.gate.tell(&state);
        } else {
            self.gate.open(&mut state);
        }
    }
}

impl State {
    /// Leaves the phase in which the guest runs, if it is in it.
    fn close(&mut self, phase: Phase) {
        self.was_open = self.time_open();
        self.open_since = None;
        self.closed_since.get_or_insert_with(Instant::now);
        self.phase = phase;
    }

    fn time_open(&self) -> Duration {
        self.was_open + self.open_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether vCPUs are to come out that have not.
    fn are_awaited(&self) -> bool {
        matches!(self.phase, Phase::Boundary | Phase::Held) && self.parked < self.running
    }

    /// Whether a hold may begin, or never will.
    fn can_be_held(&self) -> bool {
        match self.phase {
            Phase::Open | Phase::Ended => true,
            Phase::Held => self.kept && !self.guarded,
            Phase::Boundary => false,
        }
    }
}

#[cfg(test)]
mod tests;
