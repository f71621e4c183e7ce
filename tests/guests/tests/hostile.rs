//! Guests that give their devices endless work: rings that feed themselves, gigabytes in one kick, floods, from all virtual
//! processors at once; alone, while a backup is filled, at every boundary and after a takeover. `outlast` answers all the time,
//! the guest can be paused and stopped, and memory stays bounded.
//!
//! One kick of a ring whose requests lengthen it was served for ever, with the lock of all devices held: no boundary came, `ctl`
//! was not answered, SIGTERM did nothing, and with a backup the guest took the fault along.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use guests::network::Network;
use guests::place::{disk, wait_progress};
use guests::{Guest, Launch, Place, Vm, needs, wait};
use outlast_api::RunState;

/// Within this `ctl status` answers, whatever the guest does.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Memory of the program beside the guest's: uncommitted writes of two disks (256 MiB each at most), held output (64 MiB), epochs on
/// their way (64 MiB), the shadow (256 MiB at most).
const BESIDE_BYTES_MAX: u64 = 896 << 20;
/// As much as one chain of the disk that feeds its ring: the reader's index is 16 bits long.
const FEEDING_SECTORS: u32 = 1 << 16;

/// All at once: the second disk takes 16 MiB writes, 64 in a kick.
const ALL: &str = "disk=1 disk2=3 rng=1 console=1";

/// A disk whose sectors lengthen the ring that reads them: the next available index, and the next sector to read.
fn make_feeding(path: &Path) {
    let mut image = Vec::new();
    for sector in 0..FEEDING_SECTORS {
        image.extend_from_slice(&(sector as u16).wrapping_add(2).to_le_bytes());
        image.extend_from_slice(&u64::from((sector + 1) % FEEDING_SECTORS).to_le_bytes());
        image.resize(image.len().next_multiple_of(512), 0);
    }
    fs::write(path, image).expect("room for 32 MiB");
}

/// `launch` with the two disks of `side`.
fn with_disks(place: &Place, side: &str, launch: Launch) -> Launch {
    let feeding = place.path(&format!("{side}-feeding.img"));
    make_feeding(&feeding);
    let other = place.image(&format!("{side}-other.img"), 32 << 20);
    launch.with("--disk", disk(&feeding)).with("--disk", disk(&other))
}

/// `vm` tells its status in time.
#[track_caller]
fn assert_answers(vm: &Vm) {
    let asked = Instant::now();
    let _ = vm.status();
    let took = asked.elapsed();
    assert!(took <= ANSWER_MAX, "`status` took {} ms: {}", took.as_millis(), vm.log());
}

/// All of `vms` do, for as long as `time`.
#[track_caller]
fn assert_answer_for(vms: &[&Vm], time: Duration) {
    let since = Instant::now();
    while since.elapsed() < time {
        vms.iter().for_each(|vm| assert_answers(vm));
    }
}

#[track_caller]
fn assert_bounded(vm: &Vm, guest: &Guest) {
    let peak = vm.resident_peak_bytes();
    println!("{} at most {} MiB", guest.cmdline, peak >> 20);
    assert!(peak <= (u64::from(guest.memory_mib) << 20) + BESIDE_BYTES_MAX, "{} MiB: {}", peak >> 20, vm.log());
}

/// It ends when it is told to.
#[track_caller]
fn assert_stops(mut vm: Vm) {
    let (code, said) = vm.ctl(&["stop"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(vm.wait(), 0, "{}", vm.log());
}

/// It is paused, and runs on.
#[track_caller]
fn assert_pauses(vm: &Vm) {
    for (verb, state) in [("pause", RunState::Paused), ("resume", RunState::Running)] {
        let (code, said) = vm.ctl(&[verb]);
        assert_eq!((code, vm.run_state()), (0, state), "{said}{}", vm.log());
    }
}

/// Alone, and with a vCPU that goes on: its lines come.
fn assert_alone(parameters: &str, cpus: u8) {
    let (place, guest) = (Place::in_memory(), Guest::hostile(parameters).on_cpus(cpus));
    let vm = with_disks(&place, "a", place.alone("a", &guest)).start();
    wait_progress(&vm, &guest, 1);
    assert_answer_for(&[&vm], Duration::from_millis(300));
    assert_pauses(&vm);
    wait_progress(&vm, &guest, 1);
    assert_answers(&vm);
    assert_bounded(&vm, &guest);
    assert_stops(vm);
}

#[test]
fn ring_that_feeds_itself_keeps_nobody_from_the_guest() {
    needs!(Kvm);
    assert_alone("disk=1", 1);
}

#[test]
fn gigabytes_in_a_kick_and_floods_keep_nobody_from_the_guest() {
    needs!(Kvm);
    for parameters in ["disk2=2", "disk2=3", "disk2=4", "rng=1", "console=1"] {
        assert_alone(parameters, 1);
    }
}

#[test]
fn all_devices_flooded_from_all_processors_at_once_keep_nobody_from_the_guest() {
    needs!(Kvm);
    for cpus in [1, 2, 4] {
        assert_alone(ALL, cpus);
    }
}

#[test]
fn term_ends_a_guest_whose_ring_feeds_itself() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::hostile("disk=1"));
    let mut vm = with_disks(&place, "a", place.alone("a", &guest)).start();
    wait_progress(&vm, &guest, 1);
    vm.send("TERM");
    assert_eq!(vm.wait(), 0, "{}", vm.log());
}

/// A primary and a backup of which the backup may not be whole.
fn filling(place: &Place, guest: &Guest) -> (Vm, Vm) {
    let backup = with_disks(place, "b", place.backup("b", guest)).start();
    let primary = with_disks(place, "a", place.primary("a", guest, backup.port())).start();
    (primary, backup)
}

#[test]
fn filling_of_a_hostile_guest_keeps_nobody_from_either_side_and_can_be_stopped() {
    needs!(Kvm);
    for parameters in ["disk=1 rng=1", ALL] {
        let (place, guest) = (Place::in_memory(), Guest::hostile(parameters).on_cpus(2));
        let (primary, backup) = filling(&place, &guest);
        primary.wait_event("resync-started");
        assert_answer_for(&[&primary, &backup], Duration::from_secs(1));
        for vm in [&primary, &backup] {
            assert_bounded(vm, &guest);
        }
        assert_stops(primary);
        let mut backup = backup;
        assert_eq!(backup.wait(), 0, "{}", backup.log());
    }
}

#[test]
fn hostile_guest_is_protected_taken_over_and_stopped_and_everybody_answers() {
    needs!(Kvm);
    for (parameters, cpus) in [("disk=1", 1), ("disk=1 disk2=2 rng=1 console=1", 2), ("disk2=4 rng=1", 2)] {
        let (place, guest) = (Place::in_memory(), Guest::hostile(parameters).on_cpus(cpus));
        let (mut primary, backup) = filling(&place, &guest);
        primary.wait_event("protected");
        backup.wait_event("protected");
        assert_answer_for(&[&primary, &backup], Duration::from_millis(500));
        wait_progress(&primary, &guest, 1);
        assert_pauses(&primary);
        assert_bounded(&primary, &guest);
        primary.kill();
        wait::until("the takeover", || {
            assert_answers(&backup);
            (backup.count("failover-finished") > 0).then_some(())
        });
        assert_answer_for(&[&backup], Duration::from_millis(300));
        wait_progress(&backup, &guest, 1);
        assert_bounded(&backup, &guest);
        assert_stops(backup);
    }
}

#[test]
fn flood_of_frames_keeps_nobody_from_the_guest() {
    needs!(Kvm, Root, Network);
    let (place, network) = (Place::in_memory(), Network::new(&["tap-a", "tap-b"]));
    let guest = Guest::hostile("net=1").on_cpus(2);
    let on = |launch: Launch, tap: &str| launch.with("--net", format!("tap={tap}")).within(network.name());
    let backup = on(place.backup("b", &guest), "tap-b").start();
    let primary = on(place.primary("a", &guest, backup.port()), "tap-a").start();
    primary.wait_event("resync-started");
    assert_answer_for(&[&primary, &backup], Duration::from_millis(500));
    primary.wait_event("protected");
    assert_answer_for(&[&primary, &backup], Duration::from_millis(500));
    assert_pauses(&primary);
    assert_bounded(&primary, &guest);
    assert_stops(primary);
}
