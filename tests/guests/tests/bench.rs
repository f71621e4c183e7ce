//! `outlast bench` starts a backup of its own, with the options that one needs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use guests::{Guest, Place, bare, needs, program};

/// Runs a bench with further arguments; gives the only row of its table.
fn only_row(arguments: &[&str], guests: &Path, out: &Path, table: &str) -> BTreeMap<String, f64> {
    let bench = Command::new(program::outlast())
        .arg("bench")
        .args(arguments)
        .args(["--quick", "--epoch", "20ms", "--repeat", "1", "--out"])
        .arg(out)
        .arg("--guests")
        .arg(guests)
        .output()
        .expect("the program under test starts");
    let said = String::from_utf8_lossy(&[bench.stdout, bench.stderr].concat()).into_owned();
    assert!(bench.status.success(), "{said}");
    let csv = std::fs::read_to_string(out.join(table)).expect("what was measured");
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let [names, values] = &lines[..] else { panic!("one point was asked for: {csv}") };
    assert_eq!(names.len(), values.len(), "{csv}");
    let numbers = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value.parse().ok()?)));
    numbers.collect()
}

#[test]
fn bench_measures_a_guest_beside_its_backup() {
    // It ended with "--witness is missing" when that option had to be named.
    needs!(Kvm);
    let place = Place::new();
    let kernel = Guest::counter().kernel();
    let guests = kernel.parent().expect("a guest lies in a directory");
    let row = only_row(&["epoch-sweep", "--workload", "cpu"], guests, &place.path("bench"), "epoch-sweep.csv");
    assert!(row["epochs"] > 1.0 && row["bytes_mean"] > 0.0, "nothing was shipped: {row:?}");
}

/// The bench itself fails if a byte is wrong, or if the guest counts what the clients did not see.
fn network_row(flow: &str) -> BTreeMap<String, f64> {
    let place = Place::new();
    let row = only_row(&["network", "--workload", flow], &bare::with_net_bulk(), &place.path("bench"), "network.csv");
    assert!(row["rate"] > 0.0 && row["base_rate"] > 0.0, "nothing flowed: {row:?}");
    assert!(row["epochs"] > 1.0 && row["bytes_mean"] > 0.0, "nothing was shipped: {row:?}");
    assert!((row["ratio"] - row["rate"] / row["base_rate"]).abs() < 0.01 * row["ratio"], "{row:?}");
    row
}

#[test]
fn bench_network_sends_what_the_guest_streams_after_the_commit() {
    needs!(Kvm, Root, Network);
    let row = network_row("tcp-from-1");
    // 1,460 bytes of a stream are a frame, and what was read here had left. Beside it is only what the tap's other end holds.
    let frames = row["frames_out_per_s"] * row["seconds"];
    let bytes = row["rate"] * row["seconds"];
    let on_the_way = 8.0 * f64::from(1 << 20);
    assert!(bytes <= frames * 1460.0 + on_the_way, "more was read than left: {row:?}");
    assert!(row["holds"] > 0.0, "what left was not held: {row:?}");
}

#[test]
fn bench_network_counts_an_answer_for_each_request() {
    needs!(Kvm, Root, Network);
    let row = network_row("ask-64-8");
    // One request is under way on each of eight connections: a frame of its own carries each answer, and there are no others
    // but acknowledgements without one.
    let (answers, frames) = (row["rate"] * row["seconds"], row["frames_out_per_s"] * row["seconds"]);
    assert!(answers <= frames + 8.0, "more answers than frames: {row:?}");
    assert!(row["holds"] > 0.0 && row["round_trip_p50_us"] <= row["round_trip_p99_us"], "{row:?}");
}

/// What `disk-load` writes lies in its memory when it is written, and goes to the backup as that; but for what it has written over
/// by the end of the epoch, which is the more the longer epochs are.
#[test]
fn bench_synced_writes_ships_once_what_the_guest_has_in_memory() {
    needs!(Kvm);
    let place = Place::new();
    let kernel = Guest::counter().kernel();
    let guests = kernel.parent().expect("a guest lies in a directory");
    let row = only_row(&["synced-writes", "--workload", "bulk-32"], guests, &place.path("bench"), "synced-writes.csv");
    assert!(row["epochs"] > 1.0 && row["mib"] >= 32.0, "nothing was written: {row:?}");
    // Pages and disk writes are two bytes for each byte, and what is still in memory is one.
    let (written, in_memory) = (row["mib"] * f64::from(1 << 20), row["dirty_mean"] * row["epochs"] * 4096.0);
    let shipped = row["shipped_per_byte"] * written;
    assert!(shipped > 0.0 && shipped < in_memory + 0.5 * written, "{row:?}");
}
