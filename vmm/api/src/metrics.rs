//! The table of metrics: each row gives a field of the status, lines of Prometheus text, and columns of the benches.
//!
//! Three kinds of rows:
//!
//! | kind | its value is kept in | row |
//! |---|---|---|
//! | distribution | [`Distributions`](crate::figures::Distributions), recorded where it happens | `distributions!` |
//! | counter | [`Counters`](crate::figures::Counters), counted where it happens | `counters!` |
//! | reading | a field of the status | [`PRIMARY`], [`BACKUP`] |
//!
//! The text is made from a [`Status`] alone, so `outlast ctl status` and a scrape never disagree. Names begin with
//! `outlast_`; units are seconds and bytes; counters end in `_total`.

use std::fmt::Write as _;

use crate::figures::{Row, Summary};
use crate::{BackupStatus, PrimaryState, PrimaryStatus, Status};

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Up, and to 0 at a start.
    Counter,
    /// Up and down.
    Gauge,
}

/// A metric that is read from a status.
#[derive(Clone, Copy, Debug)]
pub struct Reading<S> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    of: fn(&S) -> f64,
}

const fn counter<S>(name: &'static str, help: &'static str, of: fn(&S) -> f64) -> Reading<S> {
    Reading { name, kind: Kind::Counter, help, of }
}

const fn gauge<S>(name: &'static str, help: &'static str, of: fn(&S) -> f64) -> Reading<S> {
    Reading { name, kind: Kind::Gauge, help, of }
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// What is read from the status of a primary.
pub const PRIMARY: &[Reading<PrimaryStatus>] = &[
    counter("gate_rekicks_total", "Repeated kicks of vCPUs that had not stopped.", |it| it.epochs.gate_rekicks as f64),
    gauge("held_bytes", "Output held.", |it| it.epochs.held_bytes as f64),
    gauge("protected", "1 while a complete backup follows.", |it| flag(it.protecting.state == PrimaryState::Protected)),
    gauge(
        "oldest_uncommitted_epoch_seconds",
        "Since the oldest epoch ended that is not committed; 0 if all are.",
        |it| it.protecting.uncommitted_ms.unwrap_or(0) as f64 / 1e3,
    ),
    gauge("incident_crashes", "Crashes of the guest in the last incident, in this process and earlier ones.", |it| {
        it.host.incident.as_ref().map_or(0, |incident| incident.crashes) as f64
    }),
    gauge("incident_rollbacks", "Rollbacks of the guest in the last incident.", |it| {
        it.host.incident.as_ref().map_or(0, |incident| incident.tried.len()) as f64
    }),
    gauge("earlier_epochs", "Epochs that the guest can be rolled back to.", |it| it.protecting.earlier.len() as f64),
    gauge("earlier_bytes", "Bytes of the epochs that the guest can be rolled back to.", |it| {
        it.protecting.earlier.iter().map(|kept| kept.bytes).sum::<u64>() as f64
    }),
    gauge("filling", "1 while a backup is filled; the figures below are of this filling, or of the last.", |it| {
        flag(it.protecting.state == PrimaryState::Syncing)
    }),
    gauge("filling_round", "The round of memory.", |it| f64::from(it.protecting.filling_figures.round)),
    gauge("filling_sent_bytes", "Bytes sent of memory and disks.", |it| {
        it.protecting.filling_figures.sent_bytes as f64
    }),
    gauge("filling_left_bytes", "Bytes to send in this round, or of disks to compare.", |it| {
        it.protecting.filling_figures.left_bytes as f64
    }),
    gauge("filling_bytes_per_second", "How fast they are sent.", |it| {
        it.protecting.filling_figures.bytes_per_s.unwrap_or(0) as f64
    }),
    gauge("filling_dirty_bytes_per_second", "How fast the guest wrote during the last round.", |it| {
        it.protecting.filling_figures.dirty_bytes_per_s.unwrap_or(0) as f64
    }),
    gauge("filling_estimate_seconds", "How long until the base; NaN: never, or not known.", |it| {
        it.protecting.filling_figures.estimate_s.unwrap_or(f64::NAN)
    }),
    gauge("filling_converges", "0 if rounds do not leave less and less.", |it| {
        flag(it.protecting.filling_figures.converges)
    }),
    gauge(
        "guest_share_ratio",
        "Processor time that the guest may use; less than 1 only while a backup is filled.",
        |it| f64::from(it.protecting.guest_percent) / 100.0,
    ),
];

/// What is read from the status of a backup.
pub const BACKUP: &[Reading<BackupStatus>] = &[
    counter("epochs_applied_total", "Epochs applied.", |it| it.following.epochs_applied as f64),
    gauge("waiting_bytes", "Bytes received and not applied.", |it| it.following.waiting_bytes as f64),
    counter("peer_errors_total", "Protocol errors of peers.", |it| it.following.peer_errors as f64),
];

/// Prometheus text in the making.
struct Text {
    vm: String,
    text: String,
}

impl Text {
    fn of(vm: &str) -> Self {
        let vm = vm.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Text { vm, text: String::new() }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        writeln!(self.text, "# HELP outlast_{name} {help}\n# TYPE outlast_{name} {kind}").expect("a String has room");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let (vm, comma) = (&self.vm, if labels.is_empty() { "" } else { "," });
        writeln!(self.text, "outlast_{name}{{vm=\"{vm}\"{comma}{labels}}} {value}").expect("a String has room");
    }

    fn sample(&mut self, name: &str, help: &str, kind: Kind, labels: &str, value: f64) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.head(name, help, kind);
        self.line(name, labels, value);
    }

    fn summary(&mut self, row: Row, summary: Summary) {
        let (Row { name, help, unit }, Summary { count, mean, p50, p90, p99, max }) = (row, summary);
        let per_base = unit.per_base();
        self.head(name, help, "summary");
        for (quantile, value) in [("0.5", p50), ("0.9", p90), ("0.99", p99), ("1", max)] {
            self.line(name, &format!("quantile=\"{quantile}\""), value as f64 / per_base);
        }
        self.line(&format!("{name}_sum"), "", mean * count as f64 / per_base);
        self.line(&format!("{name}_count"), "", count as f64);
    }

    fn readings<S>(&mut self, rows: &[Reading<S>], status: &S) {
        for Reading { name, kind, help, of } in rows {
            self.sample(name, help, *kind, "", of(status));
        }
    }
}

/// Prometheus' text format, version 0.0.4, of what a VM says of itself.
pub fn text(status: &Status) -> String {
    let mut text = Text::of(&status.host().name);
    let role = format!("role=\"{}\"", status.role());
    text.sample("role", "1 for the role of this process.", Kind::Gauge, &role, 1.0);
    match status {
        Status::Primary(primary) => {
            for (Row { name, help, .. }, count) in primary.epochs.counts.rows() {
                text.sample(name, help, Kind::Counter, "", count as f64);
            }
            text.readings(PRIMARY, primary);
            for (row, summary) in primary.epochs.distributions.rows() {
                text.summary(row, summary);
            }
        }
        Status::Backup(backup) => text.readings(BACKUP, backup),
    }
    text.text
}
