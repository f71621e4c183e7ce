//! What a machine is made of.

use std::borrow::Cow;

use devices::layout::VIRTIO_MMIO_MAX;
use devices::pc;
use devices::virtio::VirtioDevice;
use devices::virtio::block::Block;
use devices::virtio::net::Net;
use devices::virtio::rng::Rng;
use serde::{Deserialize, Deserializer, Serialize};
use snapshot::section::Section;

pub use crate::kvm::VCPUS_MAX;
use crate::memory::RamBytes;
use crate::slot::{KINDS, Kind};

/// Name of a device's section. That of a device that this program has is not copied: a shape is part of each epoch.
pub type Name = Cow<'static, str>;

/// What a machine is made of: the part of its configuration that its state depends on. Devices are listed by the names of their
/// sections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of RAM.
    pub memory_bytes: RamBytes,
    /// vCPUs.
    pub vcpus: u16,
    /// The chips on I/O ports.
    pub chips: Vec<Name>,
    /// The virtio devices, by slot.
    pub slots: Vec<Name>,
}

impl Section for Shape {
    const NAME: &'static str = "machine";
    const VERSION: u16 = 2;
}

/// Version 1 of [`Shape`]: numbers. Its chips were those of that time; its slots disks, then network cards, then a source of entropy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeV1 {
    /// Bytes of RAM.
    pub memory_bytes: RamBytes,
    /// vCPUs.
    pub vcpus: u16,
    /// Disks.
    pub disks: u16,
    /// Network cards.
    pub nets: u16,
}

impl Section for ShapeV1 {
    const NAME: &'static str = Shape::NAME;
    const VERSION: u16 = 1;
}

/// The chips that every machine had whose shape was numbers.
const CHIPS_V1: [&str; 5] = ["serial", "cmos", "i8042", "power", "pvpanic"];

impl ShapeV1 {
    /// The same as a list. A machine with more than it can have is refused.
    pub fn into_list(self) -> Result<Shape, String> {
        let Self { memory_bytes, vcpus, disks, nets } = self;
        if usize::from(disks) + usize::from(nets) >= VIRTIO_MMIO_MAX {
            return Err(format!("{disks} disks and {nets} network cards; at most {} together", VIRTIO_MMIO_MAX - 1));
        }
        let mut slots = vec![Name::Borrowed(Block::NAME); disks.into()];
        slots.extend(vec![Name::Borrowed(Net::NAME); nets.into()]);
        slots.push(Rng::NAME.into());
        Ok(Shape { memory_bytes, vcpus, chips: CHIPS_V1.map(Name::Borrowed).to_vec(), slots })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} vCPUs, {} MiB", self.vcpus, self.memory_bytes.get() >> 20)?;
        for kind in &KINDS {
            if let Some(plural) = kind.plural {
                write!(f, ", {} {plural}", self.count_of(kind.name))?;
            }
        }
        Ok(())
    }
}

impl Shape {
    /// A machine with every chip.
    pub fn new(memory_bytes: RamBytes, vcpus: u16, slots: Vec<Name>) -> Self {
        let chips = pc::chips().iter().map(|chip| chip.owner().name.into()).collect();
        Self { memory_bytes, vcpus, chips, slots }
    }

    /// Checks what a file or a peer says, beyond what the types do.
    pub fn validate(&self) -> Result<(), String> {
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(format!("{} vCPUs; from 1 to {VCPUS_MAX}", self.vcpus));
        }
        if self.slots.len() > VIRTIO_MMIO_MAX {
            return Err(format!("{} virtio devices; at most {VIRTIO_MMIO_MAX}", self.slots.len()));
        }
        let known = pc::chips();
        let unknown_chip = self.chips.iter().find(|name| known.iter().all(|chip| chip.owner().name != **name));
        let unknown = unknown_chip.or_else(|| self.slots.iter().find(|name| Kind::of_name(name).is_none()));
        match unknown {
            Some(name) => {
                Err(format!("a device {name:?}, which this version does not have; use the version that wrote it"))
            }
            None => Ok(()),
        }
    }

    /// Whether it has the chip `name`.
    pub fn has_chip(&self, name: &str) -> bool {
        self.chips.iter().any(|chip| chip == name)
    }

    /// How many of its slots have a device `name`.
    pub fn count_of(&self, name: &str) -> usize {
        self.slots.iter().filter(|slot| *slot == name).count()
    }

    /// How many network cards it has.
    pub fn nets(&self) -> usize {
        self.count_of(Net::NAME)
    }

    /// Whether it differs from `saved` in what its user decides. Chips do not count: one that the saved machine lacks, its guest was
    /// never told of, and it is as after power-on.
    pub fn differs(&self, saved: &Shape) -> bool {
        let decided = |shape: &Self| (shape.memory_bytes, shape.vcpus, shape.slots.clone());
        decided(self) != decided(saved)
    }
}

/// A shape of a format that names its fields (JSON), as any version wrote it.
#[derive(Deserialize)]
#[serde(untagged)]
enum OfAnyVersion {
    List(Shape),
    Numbers(ShapeV1),
}

/// Reads such a shape.
pub fn deserialize_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
    match OfAnyVersion::deserialize(deserializer)? {
        OfAnyVersion::List(shape) => Ok(shape),
        OfAnyVersion::Numbers(numbers) => numbers.into_list().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> RamBytes {
        RamBytes::try_from(1 << 20).expect("whole pages")
    }

    fn shape(slots: &[&str]) -> Shape {
        Shape::new(bytes(), 2, slots.iter().map(|name| (*name).to_owned().into()).collect())
    }

    #[test]
    fn numbers_of_version_1_are_read_as_a_list_from_both_of_their_forms() {
        let list = shape(&["virtio-block", "virtio-block", "virtio-net", "virtio-rng"]);
        let numbers = ShapeV1 { memory_bytes: bytes(), vcpus: 2, disks: 2, nets: 1 };
        let json = serde_json::to_string(&numbers).expect("plain data");
        let read = deserialize_any(&mut serde_json::Deserializer::from_str(&json)).expect("version 1");
        assert_eq!(read, numbers.into_list().expect("it fits"));
        assert!(!list.differs(&read), "but for the watchdog, of which its state says more");
        let json = serde_json::to_string(&list).expect("plain data");
        assert_eq!(deserialize_any(&mut serde_json::Deserializer::from_str(&json)).expect("today's"), list);
        for (disks, nets) in [(8, 0), (4, 4), (u16::MAX, u16::MAX)] {
            let error = ShapeV1 { memory_bytes: bytes(), vcpus: 1, disks, nets }.into_list().expect_err("too many");
            assert!(error.contains("at most 7"), "{error}");
        }
    }

    #[test]
    fn machine_2_golden() {
        let golden = [
            &[0x80, 0x80, 0x40, 2][..],
            &[7, 6][..],
            b"serial",
            &[4],
            b"cmos",
            &[5],
            b"power",
            &[5],
            b"i8042",
            &[7],
            b"pvpanic",
            &[8],
            b"watchdog",
            &[10],
            b"generation",
            &[2, 12],
            b"virtio-block",
            &[10],
            b"virtio-rng",
        ]
        .concat();
        let mut writer = snapshot::section::StateWriter::new();
        writer.put(0, &shape(&["virtio-block", "virtio-rng"]));
        let bytes = writer.finish();
        assert_eq!(bytes[bytes.len() - golden.len()..], golden);
    }

    #[test]
    fn shape_with_a_device_that_nobody_knows_is_refused_by_its_name() {
        assert_eq!(shape(&["virtio-rng"]).validate(), Ok(()));
        let error = shape(&["virtio-rng", "virtio-vsock"]).validate().expect_err("unknown");
        assert!(error.contains("virtio-vsock"), "{error}");
        let mut later = shape(&[]);
        later.chips.push("tpm".into());
        let error = later.validate().expect_err("unknown");
        assert!(error.contains("\"tpm\""), "{error}");
        assert!(shape(&["virtio-rng"; 9]).validate().is_err());
        assert!(Shape { vcpus: 0, ..shape(&[]) }.validate().is_err());
    }

    #[test]
    fn shape_says_what_its_user_decides() {
        let text = shape(&["virtio-block", "virtio-net", "virtio-net", "virtio-rng"]).to_string();
        assert_eq!(text, "2 vCPUs, 1 MiB, 1 disks, 2 network cards");
        assert!(shape(&["virtio-block", "virtio-rng"]).differs(&shape(&["virtio-net", "virtio-rng"])));
        let mut earlier = shape(&["virtio-rng"]);
        earlier.chips.pop();
        assert!(!shape(&["virtio-rng"]).differs(&earlier), "a chip that was added since is at power-on");
    }
}
