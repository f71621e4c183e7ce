//! Whether a guest could run on this host: its machine, its processor, its disks, and at last its state.

use std::path::{Path, PathBuf};

use replication::wire::{DiskInfo, Hello, MachineInfo};
use snapshot::disk::CHUNK_BYTES;

use crate::preflight::{Misfit, Preflight};
use machine::MachineError;
use machine::kvm::Vm;
use machine::kvm::cpuid::compare;
use machine::memory::Ram;
use machine::shape::Shape;
use machine::state::MachineState;

/// What the loop must know of a disk.
#[derive(Debug, Clone)]
pub(super) struct DiskFacts {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) readonly: bool,
}

/// Whether the machine of `hello` can run here, but for its processor.
pub(super) fn check_machine(hello: &Hello, nets: usize, disks: &[DiskFacts]) -> Result<(), Misfit> {
    let theirs = Preflight::of(&hello.machine).map_err(Misfit::Machine)?.shape.nets();
    match theirs == nets {
        true => check_disks(&hello.machine.disks, disks),
        false => Err(Misfit::Nets { theirs, ours: nets }),
    }
}

fn check_disks(theirs: &[DiskInfo], ours: &[DiskFacts]) -> Result<(), Misfit> {
    if theirs.len() != ours.len() {
        return Err(Misfit::Disks { theirs: theirs.len(), ours: ours.len() });
    }
    for (info, DiskFacts { path, len, readonly }) in theirs.iter().zip(ours) {
        if info.len != *len {
            return Err(Misfit::Length { path: path.clone(), theirs: info.len, ours: *len });
        }
        if info.readonly != *readonly {
            return Err(Misfit::Readonly { path: path.clone() });
        }
    }
    Ok(())
}

/// Memory for the guest of `hello`, and its machine.
pub(super) fn make_memory(hello: &Hello) -> Result<(Ram, Shape), String> {
    let shape = Preflight::of(&hello.machine)?.shape;
    Ok((Ram::new(shape.memory_bytes.get()).map_err(|error| error.to_string())?, shape))
}

/// Whether this host's processor and KVM can keep what the guest was promised.
pub(super) fn check_cpu(machine: &MachineInfo) -> Result<(), String> {
    let Preflight { shape: _, cpuid, feature_msrs } = Preflight::of(machine)?;
    let vm = Vm::new().map_err(|error| error.to_string())?;
    let fresh = vm.create_vcpu(0, 1, &cpuid).map(|vcpu| vcpu.feature_msrs()).map_err(|error| error.to_string());
    // What KVM itself refuses is named only where the comparison finds nothing.
    let lacks = vm.host().lacks(&cpuid, &feature_msrs, fresh.as_deref().unwrap_or(&feature_msrs));
    for lack in &lacks {
        tracing::warn!(%lack, "this host cannot keep what the guest was promised");
    }
    compare::refusal(&lacks).map_or(fresh.map(drop), Err)
}

/// Loads a state into a VM that never runs: what cannot be read, and what this host's KVM refuses (another rate of the time
/// stamp counter, a register), is found before the base is acked, not when the primary is dead.
pub(super) fn rehearse(state: &[u8], ram: &Ram, machine: &Shape) -> Result<(), MachineError> {
    let MachineState { shape, cpuid, chips, vcpus, devices: _, paused: _ } = MachineState::decode(state)?;
    machine.check(&shape)?;
    let vm = Vm::new()?;
    ram.regions().iter().try_for_each(|region| vm.set_region(region, false))?;
    let count = u32::from(shape.vcpus);
    let made = (0..count).map(|id| vm.create_vcpu(id, count, &cpuid)).collect::<Result<Vec<_>, _>>()?;
    Ok(vm.restore(&made.iter().collect::<Vec<_>>(), &chips, &vcpus)?)
}

/// The remedy comes first: a long path may be cut on the way to the primary.
pub(super) fn readonly_differs(index: u16, path: &Path, chunk: u64) -> String {
    format!(
        "copy disk {index} from the primary: it is read-only, so it is not replicated, and here it differs in the MiB at {} ({})",
        chunk * CHUNK_BYTES,
        path.display()
    )
}
