use std::time::Duration;

use super::*;
use crate::kvm::{Vm, vm_for_tests};

const KHZ: u32 = 2_500_000;
const SECOND: u64 = 1_000_000_000;

fn moment(clock_ns: u64, counters: &[u64]) -> Moment {
    Moment { clock_ns, counters: counters.iter().copied().collect() }
}

#[test]
fn counters_follow_the_clock_forwards_and_back() {
    let saved = moment(10 * SECOND, &[1000, u64::MAX]);
    assert_eq!(saved.counters_at(10 * SECOND + 4_000, KHZ)[..], [1000 + 10_000, 9_999]);
    assert_eq!(saved.counters_at(10 * SECOND - 400, KHZ)[..], [0, u64::MAX - 1000]);
    // Hours at a high rate are not rounded away, and do not overflow.
    let hours = 1_000_000 * SECOND;
    assert_eq!(moment(0, &[0]).counters_at(hours, 5_000_000)[..], [5_000_000 * 1_000_000_000]);
    assert_eq!(moment(0, &[0]).counters_at(u64::MAX, 1).len(), 1);
}

#[test]
fn counter_that_lags_the_clock_is_moved_by_what_it_lags() {
    // Set 3.4 ms after the clock, as when both were set one after the other.
    let saved = moment(10 * SECOND, &[7_000_000]);
    let lagging = moment(10 * SECOND + 3_400_000, &[7_000_000]);
    assert_eq!(saved.offsets(&lagging, 500, KHZ)[..], [500 + 8_500_000]);
    let leading = moment(10 * SECOND, &[7_000_100]);
    assert_eq!(saved.offsets(&leading, 50, KHZ)[..], [50u64.wrapping_sub(100)]);
}

#[test]
fn counters_that_were_equal_get_equal_offsets_and_others_keep_their_difference() {
    let saved = moment(SECOND, &[5_000, 5_000, 4_000]);
    // Read one after the other, and so apart.
    let now = moment(SECOND + 400, &[90, 340, 1_020]);
    assert_eq!(saved.offsets(&now, 0, KHZ)[..], [5_910, 5_910, 4_910]);
}

#[test]
fn reading_was_in_the_middle_of_what_is_around_it() {
    let reading = Reading { before: u64::MAX - 4, clock: kvm_clock_data::default(), after: 5 };
    assert_eq!((reading.apart(), reading.middle()), (10, 0));
}

/// What the counters show when the clock shows nothing, of a machine that stands still; in nanoseconds.
fn relations(vm: &Vm, vcpus: &[&Vcpu], khz: u32) -> Vec<i128> {
    let offsets = offsets_of(vcpus);
    let moment = read(vm.descriptor(), vcpus, offsets.as_deref(), khz).expect("clocks can be read");
    let of = |counter| i128::from(counter) * NS_PER_MS / i128::from(khz) - i128::from(moment.clock_ns);
    moment.counters.iter().map(|counter| of(*counter)).collect()
}

fn two_vcpus(vm: &Vm) -> [Vcpu; 2] {
    [0, 1].map(|id| vm.create_vcpu(id, 2, &vm.host().cpuid_for_guests()).expect("a vCPU can be made"))
}

#[test]
fn counters_and_clock_keep_their_relation_over_save_and_restore() {
    let (Some(old), Some(new)) = (vm_for_tests(), vm_for_tests()) else { return };
    let (first, second) = (two_vcpus(&old), two_vcpus(&new));
    let (first, second) = (first.iter().collect::<Vec<_>>(), second.iter().collect::<Vec<_>>());
    let khz = first[0].save().expect("a vCPU can be saved").tsc_khz();
    // A clock and a counter that began at different times.
    let counter = 123_456_789_000;
    first.iter().try_for_each(|vcpu| vcpu.set_counter(counter)).expect("a counter can be set");
    if first[0].counter().expect("a counter can be read").wrapping_sub(counter) > u64::from(khz) * 10_000 {
        return crate::testing::say_skipped("this KVM gives guests the host's time stamp counter: none can be set");
    }
    let before = relations(&old, &first, khz);
    let mut states = Vec::new();
    let chips = old.save(&first, &mut states).expect("it can be saved");
    std::thread::sleep(Duration::from_millis(20));
    new.restore(&second, &chips, &states).expect("it can be restored");
    let after = relations(&new, &second, khz);
    for (before, after) in before.iter().zip(&after) {
        let skew = after - before;
        println!("skew {skew} ns");
        // Half of what two readings may be apart, each; and a machine under load.
        assert!(skew.abs() < 100_000, "the counter has moved by {skew} ns against the clock");
    }
    assert_eq!(offsets_of(&second).map(|o| o[0] == o[1]), offsets_of(&first).map(|o| o[0] == o[1]));
}
