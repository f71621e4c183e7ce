//! A real tap, in a network namespace of its own: opening, contention, and frames in both directions.
//!
//! The test starts itself again under `unshare --net`, where it is root of an empty network.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use vmm::config::MacAddr;
use vmm::exit::{Advice, Exit};
use vmm::net::{Tap, TapError, rarp};

const INSIDE: &str = "OUTLAST_TEST_NETNS";
/// Set for the process that only holds a tap, in a namespace that is not the test's.
const HOLDER: &str = "OUTLAST_TEST_HOLDS_TAP";
const HELD: &str = "held";
/// Much longer than the kernel needs for an ARP request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Our own directory under /proc belongs to us.
fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc is there").uid() == 0
}

fn can_make_taps() -> bool {
    is_root() && std::path::Path::new("/dev/net/tun").exists()
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
    if !can_make_taps() {
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

/// A process that holds a tap in a namespace of its own.
struct Elsewhere {
    child: Child,
    /// Kept open: the process prints its result at the end.
    _lines: io::Lines<BufReader<ChildStdout>>,
}

/// Starts this very test once more, to hold a tap of the same name in another namespace until its input ends.
fn hold_tap_in_another_namespace(test: &str) -> Elsewhere {
    let mut child = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(HOLDER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare is there");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line == HELD), "the holder ended before it had its tap");
    Elsewhere { child, _lines: lines }
}

/// The other side of `hold_tap_in_another_namespace`.
fn hold_tap() {
    make_tap();
    let _tap = Tap::open("tap0").expect("free");
    println!("\n{HELD}");
    io::copy(&mut io::stdin(), &mut io::sink()).expect("nothing comes");
}

#[test]
fn open_finds_taps_of_this_namespace_whatever_sys_shows() {
    // `unshare -n`, `nsenter -n`, a jailer: the /sys that is mounted shows the interfaces of another namespace.
    in_namespace("open_finds_taps_of_this_namespace_whatever_sys_shows", || {
        ip("tuntap add oltest0 mode tap");
        assert!(!std::path::Path::new("/sys/class/net/oltest0").exists(), "this is what the test is about");
        Tap::open("oltest0").expect("it is here");
        assert!(matches!(Tap::open("oltest1"), Err(TapError::NotThere(_))));
    });
}

#[test]
fn open_names_what_is_no_tap_and_what_has_several_queues() {
    in_namespace("open_names_what_is_no_tap_and_what_has_several_queues", || {
        ip("tuntap add tun0 mode tun");
        ip("tuntap add many0 mode tap multi_queue");
        for other in ["lo", "tun0"] {
            assert!(matches!(Tap::open(other), Err(TapError::NotATap(_))), "{other}");
        }
        let error = Tap::open("many0").expect_err("one queue is what a card has");
        assert!(matches!(error, TapError::MultiQueue(_)), "{error:?}");
        let remedy = error.hint().expect("a hint");
        let commands = remedy.split('`').nth(1).expect("a command in backquotes");
        let status = Command::new("sh").args(["-c", commands]).status().expect("a shell is there");
        assert!(status.success(), "{commands}");
        Tap::open("many0").expect("the hint was followed");
    });
}

#[test]
fn open_second_time_is_a_conflict_that_names_the_holder() {
    const NAME: &str = "open_second_time_is_a_conflict_that_names_the_holder";
    if std::env::var_os(HOLDER).is_some() {
        return hold_tap();
    }
    // From outside, so that it has the lower pid and is met first by whoever looks through all processes.
    let outside = std::env::var_os(INSIDE).is_none();
    let elsewhere = (outside && can_make_taps()).then(|| hold_tap_in_another_namespace(NAME));
    in_namespace(NAME, || {
        make_tap();
        let tap = Tap::open("tap0").expect("free");
        let error = Tap::open("tap0").expect_err("taken");
        assert_eq!(error.exit(), Exit::Conflict);
        let TapError::Busy { holder: Some(holder), .. } = error else { panic!("{error:?}") };
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
        drop(tap);
        Tap::open("tap0").expect("free again");
    });
    if let Some(mut holder) = elsewhere {
        drop(holder.child.stdin.take());
        assert!(holder.child.wait().expect("a child").success());
    }
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

fn has_carrier() -> bool {
    fs::read_to_string("/sys/class/net/tap0/carrier").expect("a link that is up tells").trim() == "1"
}

#[test]
fn cut_passes_nothing_any_more_and_who_opens_it_next_has_a_carrier() {
    in_namespace("cut_passes_nothing_any_more_and_who_opens_it_next_has_a_carrier", || {
        make_tap();
        ip("addr add 10.9.0.1/24 dev tap0");
        ip("link set tap0 up");
        let count =
            |what: &str| fs::read_to_string(format!("/sys/class/net/tap0/statistics/{what}")).expect("a counter");
        for _ in 0..2 {
            let tap = Tap::open("tap0").expect("free");
            assert!(has_carrier());
            let frame = rarp(MacAddr::for_vm("vm0", 0));
            assert!(tap.send(&frame).expect("no error"));
            // A frame that waits to be read: somebody asks for the guest.
            let socket = UdpSocket::bind("10.9.0.1:0").expect("bound");
            socket.send_to(b"x", "10.9.0.2:9").expect("sent");
            tap.cut();
            assert!(!has_carrier());
            let sent = count("rx_packets");
            assert!(!tap.send(&frame).expect("no error"), "a frame passed");
            assert_eq!(count("rx_packets"), sent);
            assert_eq!(tap.receive(&mut [0; 2048]).expect("no error"), None);
        }
    });
}
