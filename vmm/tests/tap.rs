//! A real tap, in a network namespace of its own: opening, contention, and frames in both directions.
//!
//! The test starts itself again under `unshare --net`, where it is root of an empty network.

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use vmm::config::MacAddr;
use vmm::exit::{Advice, Exit};
use vmm::net::{Tap, TapError, rarp};

const INSIDE: &str = "OUTLAST_TEST_NETNS";
/// Much longer than the kernel needs for an ARP request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Our own directory under /proc belongs to us.
fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc is there").uid() == 0
}

/// Says that the running test could not run, past the capture of the test runner, for whoever counts.
fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    std::io::stdout().write_all(format!("\nSKIPPED {test}: {why}\n").as_bytes()).expect("standard output takes a line");
}

/// Runs `test` inside a namespace. Where that cannot be, says so.
fn in_namespace(name: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if !is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        say_skipped("it takes root and /dev/net/tun to make a tap");
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("ip is there");
    assert!(status.success(), "ip {line}");
}

/// /sys shows the interfaces of the namespace that mounted it.
fn make_tap() {
    let mounted = Command::new("mount").args(["-t", "sysfs", "none", "/sys"]).status().expect("mount is there");
    assert!(mounted.success());
    ip("tuntap add tap0 mode tap");
}

#[test]
fn open_second_time_is_a_conflict_that_names_the_holder() {
    in_namespace("open_second_time_is_a_conflict_that_names_the_holder", || {
        make_tap();
        let tap = Tap::open("tap0").expect("free");
        let error = Tap::open("tap0").expect_err("taken");
        assert_eq!(error.exit(), Exit::Conflict);
        let TapError::Busy { holder: Some(holder), .. } = error else { panic!("{error:?}") };
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
        drop(tap);
        Tap::open("tap0").expect("free again");
    });
}

#[test]
fn send_reaches_the_interface_and_is_lost_while_it_is_down() {
    in_namespace("send_reaches_the_interface_and_is_lost_while_it_is_down", || {
        make_tap();
        let tap = Tap::open("tap0").expect("free");
        let frame = rarp(MacAddr::for_vm("vm0", 0));
        assert!(!tap.send(&frame).expect("no error"), "the tap is down");
        ip("link set tap0 up");
        assert!(tap.send(&frame).expect("no error"));
        let count = fs::read_to_string("/sys/class/net/tap0/statistics/rx_packets").expect("a counter");
        assert_eq!(count.trim(), "1");
    });
}

#[test]
fn receive_gives_the_hosts_frames_whole_and_never_blocks() {
    in_namespace("receive_gives_the_hosts_frames_whole_and_never_blocks", || {
        make_tap();
        let tap = Tap::open("tap0").expect("free");
        let mut frame = [0; 2048];
        assert_eq!(tap.receive(&mut frame).expect("no error"), None);
        ip("addr add 10.9.0.1/24 dev tap0");
        ip("link set tap0 up");
        let socket = UdpSocket::bind("10.9.0.1:0").expect("bound");
        socket.send_to(b"x", "10.9.0.2:9").expect("sent");
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no ARP request came");
            match tap.receive(&mut frame).expect("no error") {
                Some(length) if frame[12..14] == [0x08, 0x06] => break assert_eq!(length, 42),
                _ => std::thread::yield_now(),
            }
        }
    });
}
