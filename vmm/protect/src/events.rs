//! Events: what an operator cares about, in order, for `ctl events`, the event monitor's file and the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::sync::Mutex;
use std::time::Instant;

use outlast_api::{Event, Occurrence};

/// Events kept for readers that come later.
const KEPT: usize = 1024;

/// The events of this process.
#[derive(Debug)]
pub struct Events {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    kept: VecDeque<Event>,
    monitor: Option<File>,
    /// Events in a row that the monitor's reader left no room for.
    unread: u64,
}

impl Events {
    /// No event yet; each one is also appended to `monitor` as a line of JSON.
    pub fn new(monitor: Option<File>) -> Self {
        Self { started: Instant::now(), inner: Mutex::new(Inner { monitor, ..Inner::default() }) }
    }

    /// Notes what happened.
    pub fn note(&self, occurrence: Occurrence) {
        let said = serde_json::to_value(&occurrence).expect("an occurrence is plain data");
        tracing::info!(event = said["event"].as_str(), properties = %said["properties"]);
        let time_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut inner = self.inner.lock().expect("no holder of the events panics");
        let event = Event { seq: inner.next, time_us, occurrence };
        inner.next += 1;
        inner.write_line(&event);
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event);
    }

    /// Events numbered `seq` and later that are still kept.
    pub fn since(&self, seq: u64) -> Vec<Event> {
        let inner = self.inner.lock().expect("no holder of the events panics");
        inner.kept.iter().filter(|event| event.seq >= seq).cloned().collect()
    }
}

impl Inner {
    fn write_line(&mut self, event: &Event) {
        let Some(file) = &mut self.monitor else { return };
        let mut line = serde_json::to_string(event).expect("an event is plain data");
        line.push('\n');
        match file.write_all(line.as_bytes()) {
            Ok(()) if self.unread > 0 => {
                tracing::warn!(
                    lost = self.unread,
                    "the event monitor is read again; it has missed events, `outlast ctl events` shows the latest"
                );
                self.unread = 0;
            }
            Ok(()) => {}
            // A pipe that nobody reads. Whoever has something to tell must not wait for that.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.unread == 0 {
                    tracing::warn!(
                        "nobody reads the event monitor's pipe, and it is full: it misses events from here on"
                    );
                }
                self.unread += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "the event monitor's file cannot be written; it gets no more events");
                self.monitor = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(text: &str) -> Occurrence {
        Occurrence::DiskFull { path: text.into() }
    }

    #[test]
    fn events_are_numbered_without_gaps_and_old_ones_are_dropped() {
        let events = Events::new(None);
        for i in 0..KEPT + 10 {
            events.note(tick(&i.to_string()));
        }
        let kept = events.since(0);
        assert_eq!((kept.len(), kept[0].seq), (KEPT, 10));
        assert_eq!(events.since(KEPT as u64 + 9).len(), 1);
    }

    #[test]
    fn monitor_that_nobody_reads_keeps_nobody_waiting_and_is_written_again_when_it_is_read() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("a pipe of ours");
        let events = Events::new(Some(File::from(std::os::fd::OwnedFd::from(writer))));
        let text = "x".repeat(1000);
        for _ in 0..100 {
            events.note(tick(&text));
        }
        assert!(events.inner.lock().expect("free").unread > 0);
        let mut bytes = vec![0; 1 << 16];
        assert!(std::io::Read::read(&mut reader, &mut bytes).expect("it was full") > 30_000);
        events.note(Occurrence::Unpaused {});
        assert_eq!(events.inner.lock().expect("free").unread, 0);
        assert_eq!(events.since(0).len(), 101, "they are kept all the same");
    }
}
