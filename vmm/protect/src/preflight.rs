//! What two hosts compare before protection starts: a guest that could not continue on the other host is not protected.

use std::path::PathBuf;

use replication::Gfn;
use replication::wire::{DiskInfo, MachineInfo, RamRange};
use serde::{Deserialize, Serialize};

use machine::Machine;
use machine::kvm::CpuidTable;
use machine::kvm::cpuid::compare::FeatureMsr;
use machine::memory::{self, RamBytes};
use machine::shape::{Shape, deserialize_any};

/// What the drivers say to each other in the Hello, beyond what the protocol knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Preflight {
    /// What the machine is made of. An earlier version says it in numbers.
    #[serde(deserialize_with = "deserialize_any")]
    pub(crate) shape: Shape,
    /// The CPUID of its guest.
    pub(crate) cpuid: CpuidTable,
    /// In which registers its guest reads what its processor can do. An earlier version does not say.
    #[serde(default)]
    pub(crate) feature_msrs: Vec<FeatureMsr>,
}

/// Describes `machine` for a Hello.
pub(crate) fn describe(machine: &Machine) -> MachineInfo {
    let shape = machine.shape().clone();
    let disks = machine.disks().iter().map(|disk| {
        let disk = disk.lock();
        DiskInfo { len: disk.len_bytes(), readonly: disk.is_readonly() }
    });
    let (cpuid, feature_msrs) = (machine.cpuid().clone(), machine.feature_msrs().to_vec());
    let preflight = Preflight { shape: shape.clone(), cpuid, feature_msrs };
    MachineInfo {
        ram: ram_ranges(shape.memory_bytes),
        vcpus: shape.vcpus,
        disks: disks.collect(),
        nets: shape.nets() as u16,
        config: serde_json::to_vec(&preflight).expect("the shape and CPUID are plain data"),
    }
}

/// The guest's memory as page ranges.
pub(crate) fn ram_ranges(bytes: RamBytes) -> Vec<RamRange> {
    let pages = |n: u64| n / memory::PAGE_SIZE as u64;
    bytes.layout().into_iter().map(|(base, len)| RamRange { first: Gfn(pages(base)), pages: pages(len) }).collect()
}

impl Preflight {
    /// Reads what a peer said.
    pub(crate) fn of(info: &MachineInfo) -> Result<Self, String> {
        let preflight: Self = serde_json::from_slice(&info.config).map_err(|e| {
            format!("the primary's description is unreadable ({e}); use the same version on both hosts")
        })?;
        preflight.shape.validate()?;
        if info.ram != ram_ranges(preflight.shape.memory_bytes) {
            return Err("the primary lays out guest memory differently; use the same version on both hosts".into());
        }
        preflight.cpuid.validate()?;
        Ok(preflight)
    }
}

/// Why a guest of this shape could not run with what the backup has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// What the primary says of its machine does not mean anything here.
    #[error("{0}")]
    Machine(String),
    /// Another number of network cards.
    #[error("the guest has {theirs} network cards and the backup {ours}")]
    Nets {
        /// The guest's.
        theirs: usize,
        /// The backup's.
        ours: usize,
    },
    /// Another number of disks.
    #[error("the guest has {theirs} disks and the backup {ours}")]
    Disks {
        /// The guest's.
        theirs: usize,
        /// The backup's.
        ours: usize,
    },
    /// A replica that is shorter or longer than its disk.
    #[error("{} has {ours} bytes and the guest's disk {theirs}", path.display())]
    Length {
        /// The replica.
        path: PathBuf,
        /// Bytes of the guest's disk.
        theirs: u64,
        /// Bytes of the replica.
        ours: u64,
    },
    /// A replica that the guest may write and its disk not, or the reverse.
    #[error("{} must be read-only on both hosts or on neither", path.display())]
    Readonly {
        /// The replica.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(memory_bytes: u64) -> MachineInfo {
        let shape = Shape::new(RamBytes::try_from(1 << 20).expect("whole pages"), 1, vec!["virtio-rng".into()]);
        let cpuid: CpuidTable = serde_json::from_value(serde_json::json!({
            "entries": [{ "function": 1, "index": 0, "flags": 0, "registers": [0, 0, 0, 0] }]
        }))
        .expect("a table of one entry");
        let mut config = serde_json::to_value(Preflight { shape, cpuid, feature_msrs: vec![] }).expect("plain data");
        config["shape"]["memory_bytes"] = memory_bytes.into();
        // Rounded down, as a primary would that believes in parts of pages.
        let ram = vec![RamRange { first: Gfn(0), pages: memory_bytes / memory::PAGE_SIZE as u64 }];
        MachineInfo { ram, vcpus: 1, disks: vec![], nets: 0, config: config.to_string().into_bytes() }
    }

    #[test]
    fn hello_with_a_size_of_memory_that_no_guest_has_is_refused() {
        // Rounded down, the ranges agreed; then the assertion of the allocation ended the backup.
        assert!(Preflight::of(&info(1 << 20)).is_ok());
        for bytes in [0, (1 << 20) + 1, memory::RAM_BYTES_MAX + 4096, 1 << 60, u64::MAX] {
            assert!(Preflight::of(&info(bytes)).is_err(), "{bytes}");
        }
    }

    #[test]
    fn hello_of_a_version_whose_shape_was_numbers_is_read() {
        let mut old = info(1 << 20);
        let mut config: serde_json::Value = serde_json::from_slice(&old.config).expect("JSON");
        config["shape"] = serde_json::json!({ "memory_bytes": 1 << 20, "vcpus": 1, "disks": 2, "nets": 1 });
        old.config = config.to_string().into_bytes();
        let shape = Preflight::of(&old).expect("version 1").shape;
        assert_eq!(shape.slots, ["virtio-block", "virtio-block", "virtio-net", "virtio-rng"]);
        config["shape"]["disks"] = 9.into();
        old.config = config.to_string().into_bytes();
        let error = Preflight::of(&old).expect_err("too many");
        assert!(error.contains("at most 7"), "{error}");
    }
}
