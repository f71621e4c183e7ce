//! Warnings about the console: that nobody reads it, and that what it shows has gaps.

use std::num::NonZeroU64;
use std::time::Duration;

use outlast_api::{ConsoleStatus, Occurrence};

use machine::console::Health;
use protect::events::Events;

/// A console that takes nothing for so long has a reader that stopped.
const STOPPED_MIN: Duration = Duration::from_secs(2);

/// For `status`.
pub(super) fn status(health: Health) -> ConsoleStatus {
    let Health { stopped_for, waiting_bytes, lost_bytes, refusal } = health;
    ConsoleStatus {
        waiting_bytes: waiting_bytes as u64,
        stopped_ms: stopped_for.as_millis() as u64,
        lost_bytes: lost_bytes.map_or(0, NonZeroU64::get),
        refusal,
    }
}

/// What is wrong with it, in words.
pub(super) fn warnings(health: &Health) -> Vec<String> {
    let Health { stopped_for, waiting_bytes, lost_bytes, refusal } = health;
    let stopped = (*stopped_for >= STOPPED_MIN).then(|| {
        format!(
            "nobody has read the console for {} s: {waiting_bytes} bytes wait, and the guest waits when it prints more",
            stopped_for.as_secs()
        )
    });
    let lost = lost_bytes.map(|bytes| match refusal {
        Some(why) => format!("the console takes nothing ({why}): {bytes} bytes are lost, and the guest keeps running"),
        None => format!("{bytes} bytes of console output are lost: the console refused them for a while"),
    });
    stopped.into_iter().chain(lost).collect()
}

/// What was reported of a console.
#[derive(Debug, Default)]
pub(super) struct Told {
    lost_bytes: u64,
    is_refusing: bool,
}

impl Told {
    /// Tells when bytes are lost, and when none are any more.
    pub(super) fn look(&mut self, health: &Health, events: &Events) {
        let lost_bytes = health.lost_bytes.map_or(0, NonZeroU64::get);
        let has_lost = lost_bytes > self.lost_bytes;
        if has_lost && !self.is_refusing {
            let why = health.refusal.as_deref().unwrap_or("it takes bytes again");
            tracing::warn!(
                lost_bytes,
                why,
                "the console refuses the guest's output, which is lost; the guest keeps running"
            );
            events.note(Occurrence::ConsoleLost { lost_bytes, reason: why.into() });
            self.is_refusing = true;
        }
        if self.is_refusing && health.refusal.is_none() {
            tracing::warn!(lost_bytes, "the console takes the guest's output again, after a gap");
            events.note(Occurrence::ConsoleBack { lost_bytes });
            self.is_refusing = false;
        }
        self.lost_bytes = lost_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(lost: u64, refusal: Option<&str>) -> Health {
        Health { lost_bytes: NonZeroU64::new(lost), refusal: refusal.map(String::from), ..Health::default() }
    }

    fn names(events: &Events) -> Vec<String> {
        events.since(0).into_iter().map(|event| event.occurrence.name()).collect()
    }

    #[test]
    fn loss_is_told_once_and_so_is_its_end() {
        let (mut told, events) = (Told::default(), Events::new(None));
        told.look(&health(0, None), &events);
        assert_eq!(names(&events), [""; 0]);
        told.look(&health(5, Some("full")), &events);
        told.look(&health(9, Some("full")), &events);
        assert_eq!(names(&events), ["console-lost"]);
        told.look(&health(12, None), &events);
        told.look(&health(12, None), &events);
        assert_eq!(names(&events), ["console-lost", "console-back"]);
        // Between two looks it refused some and took others.
        told.look(&health(14, None), &events);
        assert_eq!(names(&events)[2..], ["console-lost", "console-back"]);
    }

    #[test]
    fn gap_is_warned_of_for_good_and_a_reader_that_stopped_while_it_stands() {
        assert_eq!(warnings(&Health::default()), [""; 0]);
        assert!(warnings(&health(7, Some("No space left on device")))[0].contains("No space left on device"));
        assert!(warnings(&health(7, None))[0].contains("7 bytes of console output are lost"));
        let stopped = Health { stopped_for: Duration::from_secs(12), waiting_bytes: 65536, ..Health::default() };
        assert!(warnings(&stopped)[0].contains("for 12 s: 65536 bytes wait"));
        assert_eq!(status(stopped.clone()).stopped_ms, 12_000);
        assert_eq!(warnings(&Health { stopped_for: Duration::from_millis(500), ..stopped }), [""; 0]);
    }
}
