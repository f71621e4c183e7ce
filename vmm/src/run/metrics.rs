//! The machine's numbers for `status` (JSON) and `/metrics` (Prometheus text).

use std::fmt::Write as _;

use replication::primary::{FillFigures, PrimaryState};
use serde_json::{Value, json};

use super::incident::Incident;
use machine::stats::{Counts, Stats, Summary};
use protect::Guardian;
use protect::epoch::EpochMachine;

/// The distributions of a machine: name, help, unit divisor to base units, summary.
fn summaries(stats: &Stats) -> [(&'static str, &'static str, f64, Summary); 13] {
    const NS: f64 = 1e9;
    [
        ("epoch_length_seconds", "From one boundary to the next.", NS, stats.length.summary()),
        ("epoch_pause_seconds", "Guest stopped for a boundary.", NS, stats.pause.summary()),
        ("epoch_save_seconds", "Part of the pause for saving vCPUs and devices.", NS, stats.save.summary()),
        ("epoch_harvest_seconds", "Part of the pause for the dirty log.", NS, stats.harvest.summary()),
        ("epoch_copy_seconds", "Part of the pause for copying dirty pages.", NS, stats.copy.summary()),
        ("epoch_arm_seconds", "Part of the pause for protecting pages that are copied later.", NS, stats.arm.summary()),
        ("capture_fault_seconds", "Serving a write that came before its page's copy.", NS, stats.fault.summary()),
        ("epoch_commit_seconds", "From the seal of an epoch to its commit.", NS, stats.commit.summary()),
        ("output_hold_seconds", "From an epoch's first output to its release.", NS, stats.hold.summary()),
        ("guest_stall_seconds", "Guest stopped by back-pressure at a boundary.", NS, stats.stall.summary()),
        ("epoch_dirty_pages", "Pages written in an epoch.", 1.0, stats.dirty_pages.summary()),
        ("epoch_armed_pages", "Pages of an epoch copied after its pause.", 1.0, stats.armed_pages.summary()),
        ("epoch_bytes", "Bytes shipped for an epoch.", 1.0, stats.epoch_bytes.summary()),
    ]
}

/// The distributions as JSON, in nanoseconds, pages and bytes.
pub(super) fn epochs(machine: &EpochMachine) -> Value {
    let stats = machine.stats();
    let (running, capture) = {
        let epochs = machine.epochs();
        (epochs.running().0, epochs.capture_status())
    };
    json!({
        "running": running,
        "capture": capture,
        "length_ms": machine.pacer().length().as_secs_f64() * 1e3,
        "held_bytes": machine.egress().held_bytes(),
        "counts": stats.counts(),
        "length_ns": stats.length.summary(),
        "pause_ns": stats.pause.summary(),
        "save_ns": stats.save.summary(),
        "harvest_ns": stats.harvest.summary(),
        "copy_ns": stats.copy.summary(),
        "arm_ns": stats.arm.summary(),
        "fault_ns": stats.fault.summary(),
        "armed_pages": stats.armed_pages.summary(),
        "commit_ns": stats.commit.summary(),
        "hold_ns": stats.hold.summary(),
        "stall_ns": stats.stall.summary(),
        "dirty_pages": stats.dirty_pages.summary(),
        "epoch_bytes": stats.epoch_bytes.summary(),
    })
}

/// Prometheus text of a primary.
pub(super) fn primary(name: &str, machine: &EpochMachine, guardian: &Guardian, incident: Option<&Incident>) -> String {
    let mut text = String::new();
    let Counts {
        epochs,
        outputs,
        output_bytes,
        outputs_lost,
        shipped_bytes,
        exits,
        console_bytes,
        pages_copied_in_pause,
        pages_armed,
        capture_faults,
    } = machine.stats().counts();
    let counters = [
        ("epochs_total", "Epochs sealed.", epochs),
        ("outputs_total", "Outputs let out.", outputs),
        ("output_bytes_total", "Bytes of output released.", output_bytes),
        ("outputs_lost_total", "Outputs that the host's tap or console refused.", outputs_lost),
        ("replicated_bytes_total", "Bytes sent to a backup.", shipped_bytes),
        ("exits_total", "Exits of vCPUs to the VMM.", exits),
        ("console_bytes_total", "Bytes that the guest wrote to its console.", console_bytes),
        ("epoch_pages_copied_in_pause_total", "Dirty pages copied in the pause.", pages_copied_in_pause),
        ("epoch_pages_armed_total", "Dirty pages protected in the pause and copied later.", pages_armed),
        ("epoch_pages_faulted_total", "Writes that came before the copy of their page.", capture_faults),
        ("gate_rekicks_total", "Repeated kicks of vCPUs that had not stopped.", machine.gate().kicked_again()),
    ];
    for (metric, help, value) in counters {
        put(&mut text, name, metric, help, "counter", "", value as f64);
    }
    put(&mut text, name, "held_bytes", "Output held.", "gauge", "", machine.egress().held_bytes() as f64);
    let protected = guardian.state() == PrimaryState::Protected;
    put(
        &mut text,
        name,
        "protected",
        "1 while a complete backup follows.",
        "gauge",
        "",
        f64::from(u8::from(protected)),
    );
    put(&mut text, name, "role", "1 for the role of this process.", "gauge", "role=\"primary\"", 1.0);
    let (crashes, rollbacks) =
        incident.map_or((0, 0), |incident| (incident.crashes.get() as usize, incident.tried.len()));
    let (earlier, earlier_bytes) = guardian.earlier();
    let gauges = [
        ("incident_crashes", "Crashes of the guest in the last incident, in this process and earlier ones.", crashes),
        ("incident_rollbacks", "Rollbacks of the guest in the last incident.", rollbacks),
        ("earlier_epochs", "Epochs that the guest can be rolled back to.", earlier),
        ("earlier_bytes", "Bytes of the epochs that the guest can be rolled back to.", earlier_bytes),
    ];
    for (metric, help, value) in gauges {
        put(&mut text, name, metric, help, "gauge", "", value as f64);
    }
    put_filling(&mut text, name, guardian);
    for (metric, help, divisor, summary) in summaries(machine.stats()) {
        put_summary(&mut text, name, metric, help, divisor, summary);
    }
    text
}

/// The filling that is under way, or the last one.
fn put_filling(text: &mut String, name: &str, guardian: &Guardian) {
    let FillFigures { round, sent_bytes, left_bytes, rate, dirty_rate, estimate, converges, share: _, end: _ } =
        guardian.fill_figures();
    let is_filling = guardian.state() == PrimaryState::Syncing;
    let gauge = |text: &mut String, metric: &str, help: &str, value: f64| {
        put(text, name, metric, help, "gauge", "", value);
    };
    gauge(
        text,
        "filling",
        "1 while a backup is filled; the figures below are of this filling, or of the last.",
        f64::from(u8::from(is_filling)),
    );
    gauge(text, "filling_round", "The round of memory.", f64::from(round));
    gauge(text, "filling_sent_bytes", "Bytes sent of memory and disks.", sent_bytes as f64);
    gauge(text, "filling_left_bytes", "Bytes to send in this round, or of disks to compare.", left_bytes as f64);
    gauge(text, "filling_bytes_per_second", "How fast they are sent.", rate.unwrap_or(0) as f64);
    gauge(
        text,
        "filling_dirty_bytes_per_second",
        "How fast the guest wrote during the last round.",
        dirty_rate.unwrap_or(0) as f64,
    );
    gauge(
        text,
        "filling_estimate_seconds",
        "How long until the base; NaN: never, or not known.",
        estimate.map_or(f64::NAN, |time| time.as_secs_f64()),
    );
    gauge(text, "filling_converges", "0 if rounds do not leave less and less.", f64::from(u8::from(converges)));
    gauge(
        text,
        "guest_share_ratio",
        "Processor time that the guest may use; less than 1 only while a backup is filled.",
        f64::from(guardian.guest_percent()) / 100.0,
    );
}

/// Prometheus text of a backup.
pub(super) fn backup(name: &str, status: &Value) -> String {
    let mut text = String::new();
    let number = |key: &str| status[key].as_f64().unwrap_or(0.0);
    put(&mut text, name, "role", "1 for the role of this process.", "gauge", "role=\"backup\"", 1.0);
    put(&mut text, name, "epochs_applied_total", "Epochs applied.", "counter", "", number("epochs_applied"));
    put(&mut text, name, "waiting_bytes", "Bytes received and not applied.", "gauge", "", number("waiting_bytes"));
    put(&mut text, name, "peer_errors_total", "Protocol errors of peers.", "counter", "", number("peer_errors"));
    text
}

fn put(text: &mut String, vm: &str, metric: &str, help: &str, kind: &str, labels: &str, value: f64) {
    let comma = if labels.is_empty() { "" } else { "," };
    let line = format!("outlast_{metric}{{vm=\"{vm}\"{comma}{labels}}} {value}");
    writeln!(text, "# HELP outlast_{metric} {help}\n# TYPE outlast_{metric} {kind}\n{line}")
        .expect("writing to a String cannot fail");
}

fn put_summary(text: &mut String, vm: &str, metric: &str, help: &str, divisor: f64, summary: Summary) {
    let Summary { count, mean, p50, p90, p99, max } = summary;
    let mut lines = format!("# HELP outlast_{metric} {help}\n# TYPE outlast_{metric} summary\n");
    for (quantile, value) in [("0.5", p50), ("0.9", p90), ("0.99", p99), ("1", max)] {
        let value = value as f64 / divisor;
        writeln!(lines, "outlast_{metric}{{vm=\"{vm}\",quantile=\"{quantile}\"}} {value}")
            .expect("writing to a String cannot fail");
    }
    let sum = mean * count as f64 / divisor;
    writeln!(lines, "outlast_{metric}_sum{{vm=\"{vm}\"}} {sum}\noutlast_{metric}_count{{vm=\"{vm}\"}} {count}")
        .expect("writing to a String cannot fail");
    text.push_str(&lines);
}
