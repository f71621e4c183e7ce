//! Which device event belongs to which event class of the theory: the one table.
//!
//! The rule that the classes serve: before any visible event, every nondeterministic event that causally precedes it is
//! committed. So output of class [`EventClass::Visible`] is held until its epoch commits, input of class
//! [`EventClass::Nondeterministic`] is logged before the guest consumes it, and what is [`EventClass::Internal`] needs
//! neither: it changes only state that the commit covers.

/// The classes of the theory, and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// Someone who cannot roll back sees it: held until the epoch commits.
    Visible,
    /// It goes to another protected party that could roll back with us. Today no event is of this class: nothing tells
    /// us that a peer is protected, so everything that leaves is taken as visible.
    Send,
    /// It could have been different in another run: logged, or made part of the committed state.
    Nondeterministic,
    /// It ends a transaction of the guest's state.
    Commit,
    /// A function of the state and nothing else, seen by the guest only.
    Internal,
}

/// Everything that happens between a device and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A byte left the UART.
    SerialOutput,
    /// A byte was given to the UART.
    SerialInput,
    /// The guest sent a frame.
    NetTransmit,
    /// A frame was given to the guest.
    NetReceive,
    /// A network card asked the guest to announce itself.
    NetAnnounce,
    /// The guest read from its disk.
    BlockRead,
    /// The guest wrote to its disk.
    BlockWrite,
    /// The guest flushed its disk.
    BlockFlush,
    /// The guest asked for entropy.
    Entropy,
    /// The guest read the time of day.
    ClockRead,
    /// The guest set the time of day.
    ClockSet,
    /// An interrupt line rose and the interrupt was delivered.
    Interrupt,
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// The guest's kernel panicked.
    Panic,
    /// The watchdog was told how long the guest could run.
    WatchdogTime,
    /// The watchdog ran out.
    WatchdogExpiry,
    /// A checkpoint of all devices was taken at an epoch's end.
    Checkpoint,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What happens.
    pub event: DeviceEvent,
    /// What it is.
    pub class: EventClass,
    /// Why, and what is done about it.
    pub because: &'static str,
}

const fn row(event: DeviceEvent, class: EventClass, because: &'static str) -> Row {
    Row { event, class, because }
}

/// The table. Each event has exactly one row.
pub const TABLE: &[Row] = &[
    row(DeviceEvent::SerialOutput, EventClass::Visible, "a person reads it; held, released in order at commit"),
    row(DeviceEvent::SerialInput, EventClass::Nondeterministic, "a person typed it; logged before it is consumed"),
    row(DeviceEvent::NetTransmit, EventClass::Visible, "the receiver cannot roll back; held until commit"),
    row(
        DeviceEvent::NetReceive,
        EventClass::Nondeterministic,
        "logged before it is consumed, given again after takeover",
    ),
    row(
        DeviceEvent::NetAnnounce,
        EventClass::Nondeterministic,
        "a takeover happened; part of the state that follows it",
    ),
    row(DeviceEvent::BlockRead, EventClass::Internal, "the disk is state: reading it gives what the epochs wrote"),
    row(
        DeviceEvent::BlockWrite,
        EventClass::Internal,
        "state of the epoch: applied at commit, thrown away at rollback",
    ),
    row(
        DeviceEvent::BlockFlush,
        EventClass::Internal,
        "completes inside the epoch; the commit is what must be durable",
    ),
    row(DeviceEvent::Entropy, EventClass::Nondeterministic, "lands in guest memory, which the commit covers"),
    row(
        DeviceEvent::ClockRead,
        EventClass::Nondeterministic,
        "what was read lands in registers, which the commit covers",
    ),
    row(DeviceEvent::ClockSet, EventClass::Internal, "only the difference to the given time is kept"),
    row(
        DeviceEvent::Interrupt,
        EventClass::Nondeterministic,
        "its moment could differ; delivered at a boundary and logged",
    ),
    row(DeviceEvent::PowerOff, EventClass::Visible, "the machine ends before the eyes of its owner; after commit"),
    row(DeviceEvent::Reset, EventClass::Visible, "the machine ends or starts anew; after commit"),
    row(DeviceEvent::Panic, EventClass::Visible, "reported to the owner; after commit"),
    row(
        DeviceEvent::WatchdogTime,
        EventClass::Nondeterministic,
        "what is left lands in the watchdog's state, which the commit covers",
    ),
    row(
        DeviceEvent::WatchdogExpiry,
        EventClass::Visible,
        "the machine ends before the eyes of its owner; after commit",
    ),
    row(DeviceEvent::Checkpoint, EventClass::Commit, "all devices saved together with memory and vCPUs"),
];

/// The class of an event.
#[must_use]
pub fn class(event: DeviceEvent) -> EventClass {
    let row = TABLE.iter().find(|row| row.event == event);
    row.expect("every event has a row; a test enumerates them").class
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event in the order of its declaration. The match has no wildcard: a new event does not compile until it is
    /// listed here, and then needs a row.
    fn next(event: Option<DeviceEvent>) -> Option<DeviceEvent> {
        use DeviceEvent::*;
        match event {
            None => Some(SerialOutput),
            Some(SerialOutput) => Some(SerialInput),
            Some(SerialInput) => Some(NetTransmit),
            Some(NetTransmit) => Some(NetReceive),
            Some(NetReceive) => Some(NetAnnounce),
            Some(NetAnnounce) => Some(BlockRead),
            Some(BlockRead) => Some(BlockWrite),
            Some(BlockWrite) => Some(BlockFlush),
            Some(BlockFlush) => Some(Entropy),
            Some(Entropy) => Some(ClockRead),
            Some(ClockRead) => Some(ClockSet),
            Some(ClockSet) => Some(Interrupt),
            Some(Interrupt) => Some(PowerOff),
            Some(PowerOff) => Some(Reset),
            Some(Reset) => Some(Panic),
            Some(Panic) => Some(WatchdogTime),
            Some(WatchdogTime) => Some(WatchdogExpiry),
            Some(WatchdogExpiry) => Some(Checkpoint),
            Some(Checkpoint) => None,
        }
    }

    #[test]
    fn table_has_exactly_one_row_for_each_event() {
        let events: Vec<_> = std::iter::successors(next(None), |event| next(Some(*event))).collect();
        for event in &events {
            assert_eq!(TABLE.iter().filter(|row| row.event == *event).count(), 1, "{event:?}");
        }
        assert_eq!(TABLE.len(), events.len());
    }

    #[test]
    fn class_output_is_visible_and_disk_writes_are_state() {
        assert_eq!(class(DeviceEvent::NetTransmit), EventClass::Visible);
        assert_eq!(class(DeviceEvent::SerialOutput), EventClass::Visible);
        assert_eq!(class(DeviceEvent::BlockWrite), EventClass::Internal);
        assert_eq!(class(DeviceEvent::NetReceive), EventClass::Nondeterministic);
    }
}
