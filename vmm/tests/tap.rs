//! A real tap, in a network namespace of its own: opening, contention, and frames in both directions.
//!
//! The test starts itself again under `unshare --net`, where it is root of an empty network.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use devices::virtio::net::{HEADER_BYTES, Offloads, PACKET_MAX, with_empty_header};
use machine::net::{Tap, TapError, rarp};
use vmm::exit::{Advice, Exit};

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
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
        let frame = with_empty_header(&rarp(MAC));
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
                Some(length) if frame[24..26] == [0x08, 0x06] => break assert_eq!(length, HEADER_BYTES + 42),
                _ => std::thread::yield_now(),
            }
        }
    });
}

/// Two taps on a bridge, up.
fn bridged() -> [Tap; 2] {
    ip("link add br0 type bridge");
    ip("link set br0 up");
    ["tap0", "tap1"].map(|name| {
        ip(&format!("tuntap add {name} mode tap"));
        // Room for whatever the namespace itself says on its new links.
        ip(&format!("link set {name} master br0 up txqueuelen 2000"));
        Tap::open(name).expect("free")
    })
}

/// The network has to let a port pass frames first.
fn wait_until_frames_pass([from, to]: &[Tap; 2]) {
    let deadline = Instant::now() + PATIENCE;
    let frame = with_empty_header(&rarp(MAC));
    while !received(to).iter().any(|packet| packet[HEADER_BYTES..] == frame[HEADER_BYTES..]) {
        assert!(Instant::now() < deadline, "no frame passes the bridge");
        from.send(&frame).expect("no error");
    }
    received(to);
}

/// All packets that wait at a tap.
fn received(tap: &Tap) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; PACKET_MAX];
    let mut next = || {
        let len = tap.receive(&mut buffer).expect("no error")?;
        Some(buffer[..len].to_vec())
    };
    std::iter::from_fn(&mut next).collect()
}

/// The sum of RFC 1071 over 16-bit words, not complemented.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// The pseudo header, TCP's header and what follows of a frame that `segments` made.
fn tcp_sum(frame: &[u8]) -> u16 {
    let tcp = &frame[34..];
    let pseudo = [&frame[26..34], &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
    sum(&[&pseudo, tcp].concat())
}

/// Hardware address of the packets that `segments` makes.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 8];

/// A packet of TCP over IPv4 with `len` bytes, to be cut into segments of 1448.
fn segments(len: usize) -> Vec<u8> {
    let total = 40 + len as u16;
    let mut frame = [&[2, 0, 0, 0, 0, 9][..], &SENDER, &[8, 0]].concat();
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 8, 10, 9, 0, 9]);
    let ip_sum = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&ip_sum.to_be_bytes());
    frame.extend([0x1f, 0x90, 0x1f, 0x91, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend((0..len).map(|at| (at % 251) as u8));
    // Of the checksum, who leaves it to the other side makes the pseudo header's part.
    let pseudo = [&frame[26..34], &[0, 6], &(20 + len as u16).to_be_bytes()].concat();
    let partial = sum(&pseudo);
    frame[50..52].copy_from_slice(&partial.to_be_bytes());
    [&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0][..], &frame].concat()
}

/// Those that `segments` made, of all that came: the bridge and the links send packets of their own, of IPv4 too.
fn of_sender(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let ethernet = |packet: &Vec<u8>| packet[HEADER_BYTES + 6..HEADER_BYTES + 14] == *[&SENDER[..], &[8, 0]].concat();
    packets.into_iter().filter(ethernet).collect()
}

#[test]
fn large_frame_comes_whole_to_who_agreed_to_it_and_else_in_segments_with_checksums() {
    in_namespace("large_frame_comes_whole_to_who_agreed_to_it_and_else_in_segments_with_checksums", || {
        let taps = bridged();
        wait_until_frames_pass(&taps);
        let [from, to] = &taps;
        let large = segments(3 * 1448 + 100);
        assert!(from.send(&large).expect("no error"));
        let cut = of_sender(received(to));
        assert_eq!(
            cut.iter().map(|packet| packet.len() - HEADER_BYTES - 54).collect::<Vec<_>>(),
            [1448, 1448, 1448, 100]
        );
        for packet in &cut {
            assert_eq!((packet[0] & 1, packet[1]), (0, 0), "nothing is left to do");
            assert_eq!(tcp_sum(&packet[HEADER_BYTES..]), 0xffff);
        }
        let data: Vec<u8> = cut.iter().flat_map(|packet| packet[HEADER_BYTES + 54..].to_vec()).collect();
        assert_eq!(data, large[HEADER_BYTES + 54..]);

        to.set_offloads(Offloads { checksum: true, tcp4: true, tcp6: true, ecn: true });
        assert!(from.send(&large).expect("no error"));
        let whole = of_sender(received(to));
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0][..2], [1, 1]);
        assert_eq!(whole[0][HEADER_BYTES..], large[HEADER_BYTES..]);
        assert_eq!(whole[0][4..10], large[4..10], "segments of the same length, the checksum where it was");

        to.set_offloads(Offloads::default());
        assert!(from.send(&segments(60_000)).expect("no error"));
        assert_eq!(of_sender(received(to)).len(), 60_000_usize.div_ceil(1448), "after a reset of the guest");
    });
}

#[test]
fn burst_of_a_thousand_frames_is_lost_nowhere_on_this_host() {
    // A commit releases an epoch's frames at once. The kernel takes a frame on the thread that writes it and passes it on there: no
    // queue lies between the tap and the other port's.
    in_namespace("burst_of_a_thousand_frames_is_lost_nowhere_on_this_host", || {
        let taps = bridged();
        wait_until_frames_pass(&taps);
        let [from, to] = &taps;
        to.set_offloads(Offloads { checksum: true, tcp4: true, tcp6: true, ecn: true });
        let mut small = segments(1000);
        small[..12].fill(0);
        for packet in [small, segments(60_000)] {
            let taken = (0..1000).filter(|_| from.send(&packet).expect("no error")).count();
            assert_eq!((taken, of_sender(received(to)).len()), (1000, 1000), "{} bytes each", packet.len());
        }
    });
}

#[test]
fn header_that_points_out_of_its_frame_is_refused_by_the_kernel_too() {
    in_namespace("header_that_points_out_of_its_frame_is_refused_by_the_kernel_too", || {
        let taps = bridged();
        let mut packet = segments(1000);
        packet[7] = 0xff;
        assert!(taps[0].send(&packet).is_err(), "what a hostile peer held for its guest is checked when it is emitted");
        assert!(taps[0].send(&[0; 11]).is_err());
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
            let frame = with_empty_header(&rarp(MAC));
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
