//! `outlast bench` starts a backup of its own, with the options that one needs.

use std::process::Command;

use guests::{Guest, Place, needs, program};

#[test]
fn bench_measures_a_guest_beside_its_backup() {
    // It ended with "--witness is missing" when that option had to be named.
    needs!(Kvm);
    let place = Place::new();
    let out = place.path("bench");
    let kernel = Guest::counter().kernel();
    let guests = kernel.parent().expect("a guest lies in a directory");
    let bench = Command::new(program::outlast())
        .args(["bench", "epoch-sweep", "--quick", "--epoch", "20ms", "--workload", "cpu", "--repeat", "1", "--out"])
        .arg(&out)
        .arg("--guests")
        .arg(guests)
        .output()
        .expect("the program under test starts");
    let said = String::from_utf8_lossy(&[bench.stdout, bench.stderr].concat()).into_owned();
    assert!(bench.status.success(), "{said}");
    let csv = std::fs::read_to_string(out.join("epoch-sweep.csv")).expect("what was measured");
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let [names, values] = &lines[..] else { panic!("one point was asked for: {csv}") };
    let value = |name: &str| -> f64 {
        let at = names.iter().position(|found| *found == name).expect("a column of the table");
        values[at].parse().expect("a number")
    };
    assert!(value("epochs") > 1.0 && value("bytes_mean") > 0.0, "nothing was shipped: {csv}");
}
