//! The guest's two clocks at one moment: KVM's paravirtual clock, and the time stamp counters.
//!
//! A Linux guest compares the two. If one of them is saved, or set, later than the other, the guest finds that they
//! have moved against each other by that much, and gives up its time stamp counter as unstable. So a saved state says
//! what all counters showed *when* the clock showed what it says; and when they are set, the counters follow the clock.
//!
//! ```text
//!   save:     all vCPUs stopped ─ state of each ─ chips ─ clock and counters read together
//!   restore:  clock set ─ clock and counters read together ─ counters moved by what they are off ─ the rest
//! ```
//!
//! The clock continues from its saved value: for a guest no time passes between its seal and its takeover.
//!
//! *Together* is one call where KVM gives its clock with the host's counter (`KVM_CLOCK_HOST_TSC`, Linux 5.16, on a
//! host whose own clock is the time stamp counter) and the guest's counter ticks at the host's rate. Elsewhere the
//! counter is read before and after the clock, again if the two are far apart, and was in their middle.

use kvm_bindings::{KVM_CLOCK_HOST_TSC, kvm_clock_data};
use kvm_ioctls::VmFd;

use super::VCPUS_MAX;
use super::vcpu::{Vcpu, VcpuState};
use super::vm::ChipState;
use super::{KvmError, call, tsc};

/// Readings at most until the clock and the counter are close enough.
const READINGS_MAX: u32 = 5;
/// Close enough: what half of it is off is far below what Linux finds (some 100 microseconds).
const APART_NS_MAX: u64 = 10_000;
const NS_PER_MS: i128 = 1_000_000;

/// What the guest's clocks showed at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// KVM's clock.
    clock_ns: u64,
    /// The counter of each vCPU.
    counters: PerVcpu,
}

/// A number for each vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PerVcpu {
    values: [u64; VCPUS_MAX as usize],
    count: usize,
}

impl std::ops::Deref for PerVcpu {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.values[..self.count]
    }
}

impl FromIterator<u64> for PerVcpu {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let (mut values, mut count) = ([0; VCPUS_MAX as usize], 0);
        for number in numbers {
            values[count] = number;
            count += 1;
        }
        Self { values, count }
    }
}

/// Ticks of a counter of `khz` in a time.
fn ticks(ns: i128, khz: u32) -> i128 {
    ns * i128::from(khz) / NS_PER_MS
}

/// The counter after `ticks`, which may be negative. Counters wrap.
fn moved(counter: u64, ticks: i128) -> u64 {
    counter.wrapping_add(ticks as u64)
}

impl Moment {
    /// What each counter must show when the clock shows `clock_ns`.
    fn counters_at(&self, clock_ns: u64, khz: u32) -> PerVcpu {
        let passed = ticks(i128::from(clock_ns) - i128::from(self.clock_ns), khz);
        self.counters.iter().map(|counter| moved(*counter, passed)).collect()
    }

    /// The offsets that make the counters of `now` what they must be. Counters that were equal get equal offsets,
    /// however exactly `now` was read: KVM takes them for synchronized then, and so does the guest.
    fn offsets(&self, now: &Moment, offset_of_first: u64, khz: u32) -> PerVcpu {
        let first = self.counters_at(now.clock_ns, khz)[0];
        let base = offset_of_first.wrapping_add(first.wrapping_sub(now.counters[0]));
        self.counters.iter().map(|counter| base.wrapping_add(counter.wrapping_sub(self.counters[0]))).collect()
    }
}

/// One reading of a counter before and after the clock.
#[derive(Debug, Clone, Copy)]
struct Reading {
    before: u64,
    clock: kvm_clock_data,
    after: u64,
}

impl Reading {
    fn apart(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }

    fn middle(&self) -> u64 {
        self.before.wrapping_add(self.apart() / 2)
    }
}

fn clock_of(vm: &VmFd) -> Result<kvm_clock_data, KvmError> {
    call("read the guest clock", vm.get_clock())
}

/// The closest of some readings.
fn read_around(vm: &VmFd, first: &Vcpu, khz: u32) -> Result<Reading, KvmError> {
    let apart_max = ticks(APART_NS_MAX.into(), khz) as u64;
    let mut best: Option<Reading> = None;
    for _ in 0..READINGS_MAX {
        let reading = Reading { before: first.counter()?, clock: clock_of(vm)?, after: first.counter()? };
        if best.is_none_or(|best| reading.apart() < best.apart()) {
            best = Some(reading);
        }
        if reading.apart() <= apart_max {
            break;
        }
    }
    Ok(best.expect("there was a reading"))
}

/// Clock and counters at one moment. `offsets` of all vCPUs, where KVM says them.
fn read(vm: &VmFd, vcpus: &[&Vcpu], offsets: Option<&[u64]>, khz: u32) -> Result<Moment, KvmError> {
    let first = vcpus[0];
    if let Some(offsets) = offsets
        && !first.is_scaled()
    {
        let clock = clock_of(vm)?;
        if clock.flags & KVM_CLOCK_HOST_TSC != 0 {
            let counters = offsets.iter().map(|offset| clock.host_tsc.wrapping_add(*offset)).collect();
            return Ok(Moment { clock_ns: clock.clock, counters });
        }
    }
    let reading = read_around(vm, first, khz)?;
    let counters = match offsets {
        Some(offsets) => offsets.iter().map(|o| reading.middle().wrapping_add(o.wrapping_sub(offsets[0]))).collect(),
        None => counters_now(&reading, vcpus)?,
    };
    Ok(Moment { clock_ns: reading.clock.clock, counters })
}

/// Without offsets: the other counters are read now, and were as much less as the first one was.
fn counters_now(reading: &Reading, vcpus: &[&Vcpu]) -> Result<PerVcpu, KvmError> {
    let others = vcpus[1..].iter().map(|other| {
        let (first, other) = (vcpus[0].counter()?, other.counter()?);
        Ok(other.wrapping_sub(first.wrapping_sub(reading.middle())))
    });
    std::iter::once(Ok(reading.middle())).chain(others).collect()
}

/// The offsets of all, or none.
fn offsets_of(vcpus: &[&Vcpu]) -> Option<PerVcpu> {
    vcpus.iter().map(|vcpu| tsc::offset(vcpu.descriptor())).collect()
}

/// Reads both clocks into what was saved of the stopped machine.
pub(super) fn save(
    vm: &VmFd,
    vcpus: &[&Vcpu],
    chips: &mut ChipState,
    states: &mut [VcpuState],
) -> Result<(), KvmError> {
    let khz = states[0].tsc_khz();
    let moment = read(vm, vcpus, offsets_of(vcpus).as_deref(), khz)?;
    chips.set_clock_ns(moment.clock_ns);
    states.iter_mut().zip(moment.counters.iter()).for_each(|(state, counter)| state.set_counter(*counter));
    Ok(())
}

/// Sets both clocks to what was saved, before anything that is counted by them. A state without counters has only a
/// clock.
pub(super) fn restore(vm: &VmFd, vcpus: &[&Vcpu], chips: &ChipState, states: &[VcpuState]) -> Result<(), KvmError> {
    vcpus.iter().zip(states).try_for_each(|(vcpu, state)| vcpu.set_tsc_rate(state.tsc_khz()))?;
    // Only the value: the other fields tie it to the clocks of the host where it was saved.
    let clock = kvm_clock_data { clock: chips.clock_ns(), ..Default::default() };
    call("write the guest clock", vm.set_clock(&clock))?;
    let Some(counters) = states.iter().map(VcpuState::counter).collect::<Option<PerVcpu>>() else { return Ok(()) };
    let saved = Moment { clock_ns: chips.clock_ns(), counters };
    let khz = states[0].tsc_khz();
    let Some(offsets) = offsets_of(vcpus) else { return write_counters(vm, vcpus, &saved, khz) };
    let now = read(vm, vcpus, Some(&offsets), khz)?;
    let wanted = saved.offsets(&now, offsets[0], khz);
    vcpus.iter().zip(wanted.iter()).try_for_each(|(vcpu, offset)| tsc::set_offset(vcpu.descriptor(), *offset))?;
    if offsets_of(vcpus) != Some(wanted) {
        // One without hardware virtualization under it (kvm_pvm) takes an offset, and does nothing with it.
        tracing::warn!("this host's KVM gives guests its own time stamp counter: a guest may find its own unstable");
    }
    Ok(())
}

/// Without offsets: each counter by its value, right after a look at the clock. KVM takes values that were written
/// shortly after each other for attempts to synchronize, and then gives the vCPUs the same offset.
fn write_counters(vm: &VmFd, vcpus: &[&Vcpu], saved: &Moment, khz: u32) -> Result<(), KvmError> {
    for (id, vcpu) in vcpus.iter().enumerate() {
        vcpu.set_counter(saved.counters_at(clock_of(vm)?.clock, khz)[id])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
