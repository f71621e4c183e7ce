//! What is done with each event between a guest and others, so that a recovery stays consistent: the recovery protocol.
//!
//! ```text
//!   event ──TABLE──▶ class ──protocol in force──▶ measures: held, logged, kept for the boundary, worth a boundary
//! ```
//!
//! The rule that the classes serve (the commit invariant): before any visible event, every nondeterministic event that causally
//! precedes it is committed. On a machine whose instructions are not counted the nondeterministic event is the epoch itself; so
//! output waits for the commit of its epoch whatever the protocol. Protocols differ in when they ask for that commit.
//!
//! | protocol | a boundary is asked for | an epoch ends by itself |
//! |---|---|---|
//! | `epoch` | when a frame waits, as soon as the pacer finds that worth its cost; console output waits for the epoch's end | after the epoch length |
//! | `cpvs` (commit prior to visible or send) | when any output waits, at once | only to bound what a failure undoes |
//!
//! Board, egress and pacer decide none of this by themselves. A new protocol is a row of [`Protocol`] and its measures here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The classes of the theory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// Somebody who cannot roll back sees it.
    Visible,
    /// It could have been different in another run.
    Nondeterministic,
    /// It ends a transaction of the guest's state.
    Commit,
    /// A function of the state and nothing else, seen by the guest only.
    Internal,
}

/// What happens between a guest and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A byte left the UART.
    ConsoleOutput,
    /// A byte was given to the UART.
    ConsoleInput,
    /// The guest sent a frame.
    FrameOutput,
    /// A frame was given to the guest.
    FrameInput,
    /// A network card asked the guest to announce itself.
    Announcement,
    /// The guest read from its disk.
    DiskRead,
    /// The guest wrote to its disk.
    DiskWrite,
    /// The guest flushed its disk.
    DiskFlush,
    /// The guest asked for entropy.
    Entropy,
    /// The guest read the time of day.
    ClockRead,
    /// The guest set the time of day.
    ClockSet,
    /// An interrupt line of a device rose.
    Interrupt,
    /// The guest ended its machine: switched it off, reset it, crashed, or its watchdog ran out.
    End,
    /// The watchdog was told how long the guest could run.
    WatchdogTime,
    /// All state was sealed at an epoch's end.
    Checkpoint,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What happens.
    pub event: Event,
    /// What it is.
    pub class: EventClass,
    /// Why.
    pub because: &'static str,
}

const fn row(event: Event, class: EventClass, because: &'static str) -> Row {
    Row { event, class, because }
}

/// The table. Each event has exactly one row.
pub const TABLE: &[Row] = &[
    row(Event::ConsoleOutput, EventClass::Visible, "a person reads it"),
    row(Event::ConsoleInput, EventClass::Nondeterministic, "a person typed it"),
    row(Event::FrameOutput, EventClass::Visible, "its receiver cannot roll back, as far as we know"),
    row(Event::FrameInput, EventClass::Nondeterministic, "somebody sent it at that moment"),
    row(Event::Announcement, EventClass::Internal, "a takeover happened; part of the state that follows it"),
    row(Event::DiskRead, EventClass::Internal, "the disk is state: reading it gives what the epochs wrote"),
    row(Event::DiskWrite, EventClass::Internal, "state of the epoch: applied at commit, thrown away at rollback"),
    row(Event::DiskFlush, EventClass::Internal, "completes inside the epoch; the commit is what must be durable"),
    row(Event::Entropy, EventClass::Internal, "lands in guest memory, which the commit covers"),
    row(Event::ClockRead, EventClass::Internal, "what was read lands in registers, which the commit covers"),
    row(Event::ClockSet, EventClass::Internal, "only the difference to the given time is kept"),
    row(Event::Interrupt, EventClass::Nondeterministic, "its moment could differ"),
    row(Event::End, EventClass::Visible, "the machine ends before the eyes of its owner"),
    row(
        Event::WatchdogTime,
        EventClass::Internal,
        "what is left lands in the watchdog's state, which the commit covers",
    ),
    row(Event::Checkpoint, EventClass::Commit, "all devices saved together with memory and vCPUs"),
];

impl Event {
    /// Its class.
    pub fn class(self) -> EventClass {
        TABLE.iter().find(|row| row.event == self).expect("a test looks for a row of every event").class
    }
}

/// A recovery protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Epochs end after a time, or earlier on demand.
    #[default]
    Epoch,
    /// Commit prior to visible or send: an epoch ends when output waits.
    Cpvs,
}

/// Whether an event is worth a boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// No: it waits for the one that comes.
    #[default]
    No,
    /// As soon as the pacer finds it worth its cost.
    Soon,
    /// At once.
    Now,
}

/// What is done with an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// It is held until its epoch is committed.
    pub is_held: bool,
    /// It is logged with the epoch in which the guest gets it.
    pub is_logged: bool,
    /// The guest gets it at the next boundary.
    pub waits: bool,
    /// A boundary is asked for.
    pub demand: Demand,
}

/// How long an epoch lasts if nothing asks for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// As long as is configured or measured; a demand waits until that is worth its cost.
    Timed,
    /// No longer than this; a demand waits for nothing but the least time between two boundaries.
    OnDemand(Duration),
}

/// An epoch that nobody asks to end lasts so long with `cpvs`: a failure undoes no more than that of a guest that says nothing.
const UNASKED_MAX: Duration = Duration::from_secs(1);

impl Protocol {
    /// All of them, in the order in which they are told.
    pub const ALL: [Protocol; 2] = [Protocol::Epoch, Protocol::Cpvs];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Epoch => "epoch",
            Protocol::Cpvs => "cpvs",
        }
    }

    /// When epochs end by themselves.
    pub const fn cadence(self) -> Cadence {
        match self {
            Protocol::Epoch => Cadence::Timed,
            Protocol::Cpvs => Cadence::OnDemand(UNASKED_MAX),
        }
    }

    /// Whether what is visible is worth a boundary.
    const fn demand(self, event: Event) -> Demand {
        match (self, event) {
            // A person reads slower than epochs end.
            (Protocol::Epoch, Event::ConsoleOutput) => Demand::No,
            (Protocol::Epoch, _) => Demand::Soon,
            (Protocol::Cpvs, _) => Demand::Now,
        }
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Protocol, UnknownProtocol> {
        let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name);
        found.ok_or_else(|| UnknownProtocol(name.to_owned()))
    }
}

/// A name that no protocol has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no recovery protocol is called {0:?}; there are {names}", names = Protocol::ALL.map(Protocol::name).join(", "))]
pub struct UnknownProtocol(String);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rules that are in force for a guest's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// The guest is not protected: everything passes.
    #[default]
    Unprotected,
    /// It is.
    Protected {
        /// By this protocol.
        protocol: Protocol,
        /// Input and interrupts of devices wait for the boundary.
        inputs_wait: bool,
    },
}

impl Rules {
    /// What is done with `event`.
    pub fn measures(self, event: Event) -> Measures {
        let Rules::Protected { protocol, inputs_wait } = self else { return Measures::default() };
        match event.class() {
            EventClass::Visible => Measures { is_held: true, demand: protocol.demand(event), ..Measures::default() },
            EventClass::Nondeterministic => Measures {
                is_logged: event != Event::Interrupt,
                waits: inputs_wait,
                demand: if inputs_wait { Demand::Soon } else { Demand::No },
                ..Measures::default()
            },
            EventClass::Commit | EventClass::Internal => Measures::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event in the order of its declaration. The match has no wildcard: a new event does not compile until it is
    /// listed here, and then needs a row.
    fn next(event: Option<Event>) -> Option<Event> {
        use Event::*;
        match event {
            None => Some(ConsoleOutput),
            Some(ConsoleOutput) => Some(ConsoleInput),
            Some(ConsoleInput) => Some(FrameOutput),
            Some(FrameOutput) => Some(FrameInput),
            Some(FrameInput) => Some(Announcement),
            Some(Announcement) => Some(DiskRead),
            Some(DiskRead) => Some(DiskWrite),
            Some(DiskWrite) => Some(DiskFlush),
            Some(DiskFlush) => Some(Entropy),
            Some(Entropy) => Some(ClockRead),
            Some(ClockRead) => Some(ClockSet),
            Some(ClockSet) => Some(Interrupt),
            Some(Interrupt) => Some(End),
            Some(End) => Some(WatchdogTime),
            Some(WatchdogTime) => Some(Checkpoint),
            Some(Checkpoint) => None,
        }
    }

    fn events() -> Vec<Event> {
        std::iter::successors(next(None), |event| next(Some(*event))).collect()
    }

    fn rules(protocol: Protocol, inputs_wait: bool) -> Rules {
        Rules::Protected { protocol, inputs_wait }
    }

    #[test]
    fn table_has_exactly_one_row_for_each_event() {
        for event in events() {
            assert_eq!(TABLE.iter().filter(|row| row.event == event).count(), 1, "{event:?}");
        }
        assert_eq!(TABLE.len(), events().len());
    }

    #[test]
    fn what_is_visible_is_held_and_nothing_else_by_every_protocol() {
        for protocol in Protocol::ALL {
            for event in events() {
                let is_held = rules(protocol, false).measures(event).is_held;
                assert_eq!(is_held, event.class() == EventClass::Visible, "{protocol}, {event:?}");
            }
        }
    }

    #[test]
    fn input_is_logged_and_waits_only_if_it_is_to() {
        for protocol in Protocol::ALL {
            for event in [Event::ConsoleInput, Event::FrameInput] {
                let now = rules(protocol, false).measures(event);
                assert_eq!((now.is_logged, now.waits, now.demand), (true, false, Demand::No));
                let later = rules(protocol, true).measures(event);
                assert_eq!((later.is_logged, later.waits, later.demand), (true, true, Demand::Soon));
            }
        }
    }

    #[test]
    fn cpvs_commits_before_any_output_and_epochs_collect_it() {
        let demand = |protocol, event| rules(protocol, false).measures(event).demand;
        let of = |protocol| [demand(protocol, Event::ConsoleOutput), demand(protocol, Event::FrameOutput)];
        assert_eq!(of(Protocol::Epoch), [Demand::No, Demand::Soon]);
        assert_eq!(of(Protocol::Cpvs), [Demand::Now, Demand::Now]);
    }

    #[test]
    fn names_are_read_back_and_others_are_told_which_there_are() {
        assert!(Protocol::ALL.iter().all(|protocol| protocol.to_string().parse() == Ok(*protocol)));
        let error = "cbndvs".parse::<Protocol>().expect_err("it is not there").to_string();
        assert!(error.contains("epoch, cpvs"), "{error}");
    }

    #[test]
    fn unprotected_guest_is_left_alone() {
        assert!(events().into_iter().all(|event| Rules::Unprotected.measures(event) == Measures::default()));
    }
}
