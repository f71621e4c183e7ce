//! How a guest is protected, and what the pipeline is told of it: what was chosen, and the bounds that nobody chooses.

use std::time::Duration;

use replication::pipeline::primary::PipelineConfig;
use replication::view::Incarnation;
use replication::{Origin, PrimaryConfig, Term};

use super::filling;
use super::promise::{CommitDurability, OnDegraded};
use crate::epoch::IN_FLIGHT_EPOCHS_MAX;
use crate::error::Words;
use crate::room::ROOM_RETRY;
use crate::transport::{Credentials, Endpoint};
use crate::{preflight, upkeep};
use machine::Machine;

/// Disk writes of released epochs that the images lack, at most: beyond that the guest waits at its next boundary.
const IMAGE_LAG_BYTES_MAX: usize = 64 << 20;
/// Bytes of epochs that are sealed and not acked, at most, before compression.
pub(super) const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Between two claims while the witness does not answer.
const CLAIM_RETRY: Duration = Duration::from_millis(250);
/// A log that is slow to sync does not make a dead primary; one that is stuck for so many times `detect` does: the guest
/// has long been waiting, and the backup can go on with it. The other way round the same: a backup that acks nothing for
/// so long is lost, though its heartbeats come.
pub(super) const STALL_DETECTS: u32 = 10;
/// A filling that has done nothing for so many times `detect` is told of, and given up after so many: one step of it waits for
/// 32 MiB of chunks on their way into the backup's images, and for their sync. What was synced by then is not synced again.
pub(super) const FILL_NOTICE_DETECTS: u32 = 4;
const FILL_WAIT_DETECTS: u32 = 20;
/// A console that takes nothing for so long is not waited for: at most its backlog is lost if this process dies then.
pub(super) const CONSOLE_LAG_MAX: Duration = Duration::from_secs(1);

/// How a guest is protected.
#[derive(Debug, Clone)]
pub struct GuardianConfig {
    /// Name of the VM.
    pub vm_name: String,
    /// The backup to connect to, if there is to be one.
    pub target: Option<Endpoint>,
    /// What it shows to its backup, if the two speak TLS.
    pub credentials: Option<Credentials>,
    /// What a commit waits for.
    pub durability: CommitDurability,
    /// Silence until the peer counts as lost.
    pub detect: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// This primary's term, which is the branch of its epochs.
    pub term: Term,
    /// What its branch begins with, and with which epoch.
    pub origin: Origin,
    /// The guest was booted by this process.
    pub begins_afresh: bool,
    /// Which store its state directory is in the register, if epochs are committed to it.
    pub store: Incarnation,
    /// The last epoch of a guest that crashed stays in the state directory.
    pub keeps_crashed: bool,
    /// What becomes of the guest when its state directory takes no more epochs.
    pub on_degraded: OnDegraded,
    /// How its operator is told of what failed.
    pub words: Words,
}

pub(super) fn pipeline_config(
    config: &GuardianConfig,
    machine: &Machine,
    has_store: bool,
    is_witnessed: bool,
) -> PipelineConfig {
    let durable = config.durability == CommitDurability::Disk;
    let primary = PrimaryConfig {
        vm_name: config.vm_name.clone(),
        writer: format!("outlast {}", env!("CARGO_PKG_VERSION")),
        machine: preflight::describe(machine),
        term: config.term,
        origin: config.origin,
        heartbeat: config.heartbeat,
        detect: config.detect,
        ack_wait: config.detect * STALL_DETECTS,
        fill_notice: config.detect * FILL_NOTICE_DETECTS,
        fill_wait: config.detect * FILL_WAIT_DETECTS,
        rounds: filling::ROUNDS,
        fill_rest: filling::FILL_REST,
        fill_rest_max: filling::FILL_REST_MAX,
        claim_retry: CLAIM_RETRY,
        in_flight_epochs_max: IN_FLIGHT_EPOCHS_MAX,
        in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        log_counts: durable || has_store,
        has_store,
        backup_durable: durable,
        members: Vec::new(),
        begins_afresh: config.begins_afresh,
        is_witnessed,
    };
    PipelineConfig {
        primary,
        is_durable: durable,
        stops_degraded: config.on_degraded == OnDegraded::Stop,
        room_retry: ROOM_RETRY,
        console_wait: CONSOLE_LAG_MAX,
        image_lag_max: IMAGE_LAG_BYTES_MAX,
        upkeep: upkeep::PERIOD,
    }
}
