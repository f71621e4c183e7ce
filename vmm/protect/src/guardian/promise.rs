//! What a commit promises, and what follows when a promise cannot be kept.

use replication::view::Durability;
use serde::{Deserialize, Serialize};

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitDurability {
    /// Both sides have the epoch's disk writes in a synced log.
    Disk,
    /// The backup has the epoch in RAM. A power cut of both hosts loses it, and may leave images that mix writes of
    /// several moments.
    Memory,
}

/// As the register has it.
impl From<CommitDurability> for Durability {
    fn from(durability: CommitDurability) -> Self {
        match durability {
            CommitDurability::Disk => Durability::Disk,
            CommitDurability::Memory => Durability::Memory,
        }
    }
}

/// What happens to the guest when the state directory takes no more epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDegraded {
    /// The guest keeps running without this protection; event `degraded`.
    #[default]
    Continue,
    /// This program ends before anything of the epoch leaves; `outlast resume` continues from the epoch before.
    Stop,
}
