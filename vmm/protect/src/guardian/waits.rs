//! Waits: for a move of the pipeline, for a step, for the time that it names. Nobody looks around: what a wait is for wakes it.
//!
//! Whoever waits for several things looks at [`Guardian::moves`] first, then at them, and then waits for another move: one between the
//! two is not slept through. What moves outside of the pipeline (the end of the machine, a hold that is wanted, the console) is
//! noted as a move too.

use std::sync::atomic::Ordering;
use std::sync::{Condvar, MutexGuard};

use replication::pipeline::primary::{Boundary, PrimaryPipeline, Step};
use replication::{EpochId, Time};

use super::{Guardian, Inner};

impl Guardian {
    /// The next step of the lane Ship, when there is one. None: other epochs than those up to `through` are through without one, or
    /// the guardian is finished.
    pub(super) fn next_step(&self, through: EpochId) -> Option<Step> {
        let mut inner = self.lock();
        loop {
            inner.ship_news = false;
            if let Some(step) = inner.pipeline.poll_step(self.clock.now()) {
                self.perform_all(inner);
                return Some(step);
            }
            // What was done for it without a step may have set something off.
            self.perform_all(inner);
            inner = self.lock();
            if inner.pipeline.through() != through || self.is_finished() {
                return None;
            }
            if !inner.ship_news {
                inner.ship_sleeps = true;
                let at = inner.pipeline.step_at();
                inner = self.sleep(&self.ship_work, inner, at);
                inner.ship_sleeps = false;
            }
        }
    }

    /// Sleeps until `sleeper` is woken, or `at`.
    pub(super) fn sleep<'a>(
        &self,
        sleeper: &Condvar,
        inner: MutexGuard<'a, Inner>,
        at: Option<Time>,
    ) -> MutexGuard<'a, Inner> {
        match at {
            None => sleeper.wait(inner).expect("no holder of the pipeline panics"),
            Some(at) => sleeper.wait_timeout(inner, self.clock.until(at)).expect("no holder of the pipeline panics").0,
        }
    }

    /// Has the pipeline do what is due.
    pub(super) fn tick(&self) {
        // Otherwise nothing moves, and nobody is to be told.
        let is_due = self.lock().pipeline.tick_at().is_some_and(|at| at <= self.clock.now());
        if is_due {
            self.with_pipeline(|pipeline, now| pipeline.handle_timeout(now));
        }
    }

    /// Keeps time until `is_so`, or `until`, or the guardian is finished.
    pub(super) fn keep_time_until(&self, until: Option<Time>, is_so: impl Fn(&mut Inner) -> bool) {
        loop {
            self.tick();
            let mut inner = self.lock();
            if self.is_finished() || is_so(&mut inner) || until.is_some_and(|at| at <= self.clock.now()) {
                return;
            }
            let tick_at = inner.pipeline.tick_at();
            let at = tick_at.into_iter().chain(until).min();
            // Nothing moves that it waits for while no backup is wanted: what every epoch does to the pipeline would wake it twice.
            let is_waiter = u32::from(inner.target.is_some());
            inner.waiters += is_waiter;
            inner.ticks_at = tick_at.unwrap_or(Time(u64::MAX));
            inner = self.sleep(&self.changed, inner, at);
            inner.ticks_at = Time(0);
            inner.waiters -= is_waiter;
        }
    }

    /// How often something has moved: before what a wait is for is looked at.
    pub(super) fn moves(&self) -> u64 {
        self.lock().moves
    }

    /// Waits until something has moved since it was `seen`, or `at`; the next to see.
    pub(super) fn wait_for_move(&self, seen: u64, at: Option<Time>) -> u64 {
        let mut inner = self.lock();
        inner.waiters += 1;
        while inner.moves == seen && !self.is_finished() && at.is_none_or(|at| self.clock.now() < at) {
            inner = self.sleep(&self.changed, inner, at);
        }
        inner.waiters -= 1;
        inner.moves
    }

    /// Waits until the pipeline answers what `poll` asks it, which it does at `until` at the latest.
    pub(super) fn wait_for_answer<R>(&self, until: Time, poll: impl Fn(&mut PrimaryPipeline, Time) -> Option<R>) -> R {
        if self.machine.ended().is_some() {
            self.note_machine();
        }
        loop {
            let mut inner = self.lock();
            let (now, seen) = (self.clock.now(), inner.moves);
            // A question moves nothing; two that are asked would wake each other for ever.
            if let Some(answer) = poll(&mut inner.pipeline, now) {
                return answer;
            }
            drop(inner);
            self.wait_for_move(seen, Some(until).filter(|until| now < *until));
        }
    }

    /// All threads come to their end.
    pub(super) fn finish_threads(&self) {
        // Whoever is about to sleep has looked before, or will see it.
        {
            let _inner = self.lock();
            self.finished.store(true, Ordering::Release);
        }
        for sleeper in [&self.changed, &self.ship_work, &self.disk_work, &self.questions] {
            sleeper.notify_all();
        }
    }

    /// Waits until the running epoch may be sealed. False if that will never be, or if `give_up` says so before, or at `until`.
    pub(super) fn wait_for_room_unless(&self, until: Option<Time>, give_up: impl Fn() -> bool) -> bool {
        let mut seen = self.moves();
        loop {
            let (gives_up, lag) = (give_up() || until.is_some_and(|at| self.clock.now() >= at), self.image_lag());
            match self.lock().pipeline.boundary(lag) {
                _ if self.is_finished() => return false,
                Boundary::Over => return false,
                Boundary::Seal => return true,
                Boundary::Wait if gives_up => return false,
                Boundary::Wait => {}
            }
            seen = self.wait_for_move(seen, until);
        }
    }

    /// Waits until `is_so`, until `deadline`; whether it came to that.
    pub(super) fn wait_until(&self, deadline: Time, is_so: impl Fn(&Inner) -> bool) -> bool {
        let mut seen = self.moves();
        loop {
            if is_so(&self.lock()) {
                return true;
            }
            if self.clock.now() >= deadline {
                return false;
            }
            seen = self.wait_for_move(seen, Some(deadline));
        }
    }
}
