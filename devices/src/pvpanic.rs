//! pvpanic: a port through which a guest's kernel reports a panic.

use serde::{Deserialize, Serialize};

use crate::RestoreError;
use crate::counters::Counters;

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

/// What the guest's kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PanicEvent {
    /// It panicked and stands still.
    Panicked,
    /// It panicked and a crash kernel takes over.
    CrashLoaded,
}

/// Saved form of [`Pvpanic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvpanicState {
    /// What [`Pvpanic::poll_event`] would give.
    pub event: Option<PanicEvent>,
}

/// A pvpanic port.
#[derive(Debug, Default)]
pub struct Pvpanic {
    event: Option<PanicEvent>,
    counters: Counters,
}

impl Pvpanic {
    /// A port after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted since the device was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The guest reads which events the port knows.
    pub fn handle_read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (0, [byte]) => *byte = PANICKED | CRASH_LOADED,
            (_, data) => {
                data.fill(0xff);
                self.counters.bad_accesses += 1;
            }
        }
    }

    /// The guest writes what happened. If it says both, it stands still.
    pub fn handle_write(&mut self, offset: u64, data: &[u8]) {
        self.event = match (offset, data) {
            (0, &[value]) if value & PANICKED != 0 => Some(PanicEvent::Panicked),
            (0, &[value]) if value & CRASH_LOADED != 0 => Some(PanicEvent::CrashLoaded),
            _ => {
                self.counters.bad_accesses += 1;
                return;
            }
        };
    }

    /// What the guest said since the last call. The panic stays recorded: the side that continues its state finds it
    /// still.
    pub fn poll_event(&mut self) -> Option<PanicEvent> {
        self.event.take_if(|event| *event == PanicEvent::CrashLoaded).or(self.event)
    }

    /// What the guest said last, if it was not heard; it is not said any more.
    pub fn forget_event(&mut self) -> Option<PanicEvent> {
        self.event.take()
    }

    /// The whole state as plain data.
    #[must_use]
    pub fn save(&self) -> PvpanicState {
        let Self { event, counters: _ } = self;
        PvpanicState { event: *event }
    }

    /// A port from an untrusted state.
    pub fn restore(state: PvpanicState) -> Result<Self, RestoreError> {
        let PvpanicState { event } = state;
        Ok(Self { event, counters: Counters::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_tells_the_known_events() {
        let mut data = [0];
        Pvpanic::new().handle_read(0, &mut data);
        assert_eq!(data, [3]);
    }

    #[test]
    fn write_panicked_stays_said_and_crash_loaded_is_polled_once() {
        let mut port = Pvpanic::new();
        port.handle_write(0, &[CRASH_LOADED]);
        assert_eq!((port.poll_event(), port.poll_event()), (Some(PanicEvent::CrashLoaded), None));
        port.handle_write(0, &[PANICKED]);
        assert_eq!((port.poll_event(), port.poll_event()), (Some(PanicEvent::Panicked), Some(PanicEvent::Panicked)));
        let mut restored = Pvpanic::restore(port.save()).unwrap();
        assert_eq!(restored.poll_event(), Some(PanicEvent::Panicked));
        assert_eq!((restored.forget_event(), restored.poll_event()), (Some(PanicEvent::Panicked), None));
    }

    #[test]
    fn write_unknown_event_keeps_the_one_before_and_counts() {
        let mut port = Pvpanic::new();
        port.handle_write(0, &[CRASH_LOADED]);
        port.handle_write(0, &[0x80]);
        assert_eq!(port.poll_event(), Some(PanicEvent::CrashLoaded));
        assert_eq!(port.counters().bad_accesses, 1);
    }
}
