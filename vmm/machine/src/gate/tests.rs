use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::thread;

/// Threads that behave like vCPUs: `inside` counts those that are "in the guest".
fn vcpus(
    gate: &Arc<Gate>,
    count: usize,
    inside: &Arc<AtomicUsize>,
    led: &Arc<AtomicUsize>,
) -> Vec<thread::JoinHandle<()>> {
    (0..count)
        .map(|_| {
            let (gate, inside, led) = (Arc::clone(gate), Arc::clone(inside), Arc::clone(led));
            thread::spawn(move || {
                loop {
                    if gate.is_closing() {
                        let lead = |_| {
                            assert_eq!(inside.load(Ordering::SeqCst), 0, "a vCPU runs during a boundary");
                            led.fetch_add(1, Ordering::SeqCst);
                        };
                        if gate.arrive(lead, || {}) == Arrival::Ended {
                            gate.leave();
                            return;
                        }
                    }
                    inside.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            })
        })
        .collect()
}

#[test]
fn boundaries_and_holds_exclude_running_vcpus() {
    let gate = Arc::new(Gate::new(3));
    let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads = vcpus(&gate, 3, &inside, &led);
    for _ in 0..200 {
        gate.request_boundary();
        let held = gate.hold().expect("the machine runs");
        assert_eq!(inside.load(Ordering::SeqCst), 0);
        drop(held);
    }
    gate.end();
    threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
    assert!(led.load(Ordering::SeqCst) > 0);
    assert!(gate.hold().is_none());
}

#[test]
fn request_during_a_boundary_brings_another_one() {
    // A request that came after the leader had looked at what waits, and before the gate opened, was lost: the
    // pacer had asked, was not asked to ask again, and a guest that slept never saw a boundary any more.
    let gate = Arc::new(Gate::new(1));
    let led = Arc::new(AtomicUsize::new(0));
    let vcpu = {
        let (gate, led) = (Arc::clone(&gate), Arc::clone(&led));
        thread::spawn(move || {
            while led.load(Ordering::SeqCst) < 2 {
                let lead = |_| {
                    if led.fetch_add(1, Ordering::SeqCst) == 0 {
                        gate.request_boundary();
                    }
                };
                if gate.is_closing() && gate.arrive(lead, || {}) == Arrival::Ended {
                    return;
                }
                thread::yield_now();
            }
        })
    };
    gate.request_boundary();
    vcpu.join().expect("the second boundary came");
    assert_eq!(led.load(Ordering::SeqCst), 2);
}

#[test]
fn leader_that_waits_sees_that_a_hold_is_wanted_and_the_hold_comes_before_the_next_boundary() {
    // A leader waited for room in flight, which only the ship thread makes; the ship thread waited to hold the gate,
    // to end the epochs of a guest whose backup was lost. Neither went on.
    let gate = Arc::new(Gate::new(1));
    let held = Arc::new(AtomicBool::new(false));
    let vcpu = {
        let (gate, held) = (Arc::clone(&gate), Arc::clone(&held));
        thread::spawn(move || {
            let mut led = 0;
            loop {
                let lead = |_| {
                    led += 1;
                    while led == 1 && !gate.is_hold_wanted() {
                        thread::yield_now();
                    }
                    assert!(led == 1 || held.load(Ordering::SeqCst), "a boundary went before the hold");
                    gate.request_boundary();
                };
                if gate.is_closing() && gate.arrive(lead, || ()) == Arrival::Ended {
                    return gate.leave();
                }
            }
        })
    };
    gate.request_boundary();
    let guard = gate.hold().expect("the machine runs");
    held.store(true, Ordering::SeqCst);
    drop(guard);
    gate.end();
    vcpu.join().expect("the vCPU thread did not panic");
}

#[test]
fn paused_guest_can_be_held_by_another_and_stays_paused() {
    // The thread that deals with the backup waited for the gate until the operator resumed the guest: no backup was
    // let go, none could join, and control frames stayed where they were.
    let gate = Arc::new(Gate::new(2));
    let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads = vcpus(&gate, 2, &inside, &led);
    gate.hold().expect("the machine runs").keep();
    for _ in 0..100 {
        let held = gate.hold().expect("a paused machine can be held");
        gate.request_boundary();
        drop(held);
        assert_eq!(inside.load(Ordering::SeqCst), 0, "the guest runs although it is paused");
    }
    let held = gate.hold().expect("a paused machine can be held");
    gate.let_go();
    thread::yield_now();
    assert_eq!(inside.load(Ordering::SeqCst), 0, "the guest runs although it is held");
    assert_eq!(led.load(Ordering::SeqCst), 0, "a boundary went during a pause");
    drop(held);
    while led.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    gate.end();
    threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
}

#[test]
fn time_open_stands_still_while_the_guest_does() {
    let gate = Arc::new(Gate::new(1));
    let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads = vcpus(&gate, 1, &inside, &led);
    let held = gate.hold().expect("the machine runs");
    let before = gate.time_open();
    thread::sleep(Duration::from_millis(5));
    assert_eq!(gate.time_open(), before, "it counts while the guest is held");
    held.keep();
    gate.request_boundary();
    thread::sleep(Duration::from_millis(5));
    assert_eq!(gate.time_open(), before, "it counts while the guest is paused");
    gate.let_go();
    let open = Instant::now();
    while gate.time_open() < before + Duration::from_millis(5) {
        assert!(open.elapsed() < Duration::from_secs(60), "it does not count although the guest runs");
        thread::yield_now();
    }
    gate.end();
    threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
    let after = gate.time_open();
    thread::sleep(Duration::from_millis(5));
    assert_eq!(gate.time_open(), after, "it counts after the end");
}

#[test]
fn gate_that_is_kept_closed_lets_nobody_in_until_it_is_let_go() {
    let gate = Arc::new(Gate::new(2));
    gate.keep_closed();
    let opened = gate.time_open();
    let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    gate.request_boundary();
    let threads = vcpus(&gate, 2, &inside, &led);
    drop(gate.hold().expect("a paused machine can be held"));
    assert_eq!((inside.load(Ordering::SeqCst), led.load(Ordering::SeqCst)), (0, 0), "the guest ran");
    assert_eq!(gate.time_open(), opened, "time passed for it");
    gate.let_go();
    while led.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    gate.end();
    threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
}

#[test]
fn hold_that_comes_too_late_leaves_the_gate_as_it_was() {
    // Nobody arrives: a vCPU is stuck.
    let gate = Gate::new(1);
    let soon = || Instant::now() + Duration::from_millis(2);
    assert_eq!(gate.hold_until(soon()).expect_err("nobody arrives"), NotHeld::TooLate);
    assert!(!gate.is_closing() && !gate.is_hold_wanted());
    // A boundary is under way and does not come to an end; the next one, asked for meanwhile, comes all the same.
    gate.request_boundary();
    let endless = |_| {
        gate.request_boundary();
        assert_eq!(gate.hold_until(soon()).expect_err("no end"), NotHeld::TooLate);
    };
    assert_eq!(gate.arrive(endless, || {}), Arrival::Go);
    assert!(gate.is_closing() && !gate.is_hold_wanted());
    let mut led = 0;
    assert_eq!(gate.arrive(|_| led += 1, || {}), Arrival::Go);
    assert!(led == 1 && !gate.is_closing());
    // Another holds it.
    thread::scope(|scope| {
        scope.spawn(|| {
            while gate.arrive(|_| {}, || {}) != Arrival::Ended {
                thread::yield_now();
            }
            gate.leave();
        });
        let held = gate.hold().expect("the machine runs");
        assert_eq!(gate.hold_until(soon()).expect_err("it is held"), NotHeld::TooLate);
        drop(held);
        gate.hold_until(Instant::now() + Duration::from_secs(60)).expect("in time").keep();
        gate.let_go();
        gate.end();
    });
    assert_eq!(gate.hold_until(soon()).expect_err("it ended"), NotHeld::Ended);
}

#[test]
fn end_while_held_releases_the_vcpus() {
    let gate = Arc::new(Gate::new(2));
    let (inside, led) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads = vcpus(&gate, 2, &inside, &led);
    let held = gate.hold().expect("the machine runs");
    gate.end();
    drop(held);
    threads.into_iter().for_each(|t| t.join().expect("no vCPU thread panicked"));
}

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A vCPU that comes out when it is kicked and not before, and whose registration comes after a kick: that one is lost.
fn deaf_vcpu(gate: &Gate, led: &AtomicUsize) {
    while !gate.is_closing() {
        thread::yield_now();
    }
    let immediate_exit = AtomicU8::new(0);
    let _registration = gate.kicker().register(0, immediate_exit.as_ptr());
    let begun = Instant::now();
    while immediate_exit.load(Ordering::SeqCst) == 0 && begun.elapsed() < PATIENCE {
        thread::yield_now();
    }
    let lead = |_| {
        led.fetch_add(1, Ordering::SeqCst);
    };
    while gate.arrive(lead, || {}) != Arrival::Ended {
        thread::yield_now();
    }
    gate.leave();
}

#[test]
fn hold_kicks_a_vcpu_again_that_a_boundary_waits_for() {
    // A kick was repeated only for who held the gate already. Who waited for a boundary to end, whose kick was lost, waited
    // for ever.
    let (gate, led) = (Gate::new(1), AtomicUsize::new(0));
    gate.request_boundary();
    thread::scope(|scope| {
        scope.spawn(|| deaf_vcpu(&gate, &led));
        let held = gate.hold_until(Instant::now() + PATIENCE / 2).is_ok();
        let seen = (held, led.load(Ordering::SeqCst), gate.kicked_again() > 0);
        gate.end();
        assert_eq!(seen, (true, 1, true));
    });
}

#[test]
fn hold_that_nobody_needs_any_more_ends_and_the_guest_runs() {
    // Nobody arrives: a vCPU is stuck. The thread that filled a backup waited for it for ever, also when that had gone.
    let gate = Gate::new(1);
    let asked = AtomicUsize::new(0);
    assert!(gate.hold_unless(|| asked.fetch_add(1, Ordering::SeqCst) > 3).is_none());
    assert!(!gate.is_closing() && !gate.is_hold_wanted());
    assert_eq!(gate.late(), None);
    gate.request_boundary();
    thread::sleep(Duration::from_millis(1));
    assert!(matches!(gate.late(), Some(Late { vcpus: 1, time }) if time >= Duration::from_millis(1)));
}

#[test]
fn late_is_a_gate_that_a_vcpu_keeps_from_closing_and_none_that_is_closed_or_open() {
    let gate = Gate::new(2);
    assert_eq!(gate.late(), None);
    gate.request_boundary();
    let Late { vcpus, time } = gate.late().expect("nobody came out");
    assert_eq!(vcpus, 2);
    assert!(gate.late().expect("nobody came out").time >= time);
    thread::scope(|scope| {
        scope.spawn(|| gate.arrive(|_| {}, || {}));
        while gate.late().is_some_and(|late| late.vcpus == 2) {
            thread::yield_now();
        }
        assert_eq!(gate.late().map(|late| late.vcpus), Some(1));
        gate.arrive(|_| assert_eq!(gate.late(), None, "all are out"), || {});
    });
    assert_eq!(gate.late(), None);
}
